"""Ray's own check of a cluster file."""

import contextlib
import io
import logging
from copy import deepcopy
from typing import Any


def schema_error(config: dict[str, Any]) -> str | None:
    """What `ray up` would refuse before it calls the cloud, on one line; None if nothing."""
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    logger = logging.getLogger("ray.autoscaler._private.util")
    level = logger.level
    logger.setLevel(logging.ERROR)  # prepare_config warns of fields that it has just added itself
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepared = prepare_config(deepcopy(config))
            if config["provider"]["type"] in ("aws", "external", "gcp"):
                for node_type in prepared["available_node_types"].values():
                    node_type.setdefault("resources", {})  # filled in by the cloud's list of machines
            validate_config(prepared)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the file"
        return f"{where}: {error.message.splitlines()[0]}"
    except (AssertionError, ValueError, KeyError, RuntimeError, click.ClickException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        logger.setLevel(level)
    return None
