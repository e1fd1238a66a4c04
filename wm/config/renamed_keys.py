"""Changes of the config that stored configs need: an old key is an error in a user's YAML file, but is translated in a
stored config, and a field that is newer than a stored config gets the value that describes what was done before.

To rename a key, rename the field and add a line here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

RENAMED_KEYS: dict[str, dict[str, str]] = {
    "RunConfig": {"optimiser": "optimizer"},
    "ModelConfig": {"hidden": "hidden_sizes", "core": "scan_backend"},
    "ObjectiveConfig": {"windows": "num_windows"},
    "OptimizerConfig": {
        "final_share": "min_lr_ratio", "clip_norm": "max_grad_norm", "micro_batch": "micro_batch_size",
    },
    "EvalConfig": {"progress_targets": "validation_targets"},
    "DataConfig": {"resident": "device_cache", "resident_share": "device_cache_fraction"},
    "CheckpointConfig": {"to": "storage_path"},
    "DivergenceConfig": {"rate_factor": "lr_factor", "explosion": "spike_ratio"},
    "AshaConfig": {"grace_targets": "grace"},
    "SplitConfig": {"test_share": "test_fraction", "validation_share": "validation_fraction"},
}  # fmt: skip
"""Name of the dataclass -> old key -> new key."""
RENAMED_VALUES: dict[str, dict[str, dict[str, str]]] = {"ModelConfig": {"scan_backend": {"kernels": "triton"}}}
"""Name of the dataclass -> new key -> old value -> new value."""

VALUES_BEFORE: dict[str, dict[str, Any]] = {"ModelConfig": {"encoding": 2, "physics": False}}
"""Name of the dataclass -> field -> its value in configs stored before the field existed, if it is not the default."""


def is_stored_config(path: Path) -> bool:
    """Whether a run wrote this YAML file: it is the config.yaml of a run folder."""
    return path.name == "config.yaml" and (path.parent / "run.json").exists()
