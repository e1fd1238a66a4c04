"""The evaluations of a run, game by game: a Parquet file each (`wm.evaluation.game_sums`); and of its last one the
coherence of dreams, a JSON file (`wm.rollout.judge`)."""

from __future__ import annotations

import json
import re
from typing import Any

from datasets.runtime.durable_files import replace_file
from wm.config.run_config import Context
from wm.evaluation.game_sums import GameSums, deserialize, serialize
from wm.runs.run_files import RunFiles

FOLDER = "evaluations"
_NAME = re.compile(r"targets-(\d{12,})\.parquet")
_DREAMS_NAME = re.compile(r"dreams-(\d{12,})\.json")


class Evaluations:
    """The files of a run's evaluations: `evaluations/targets-N.parquet` and `dreams-N.json` after N targets.

    A file is replaced as a whole, so it is complete or absent at every moment.
    """

    def __init__(self, files: RunFiles) -> None:
        self._files = files

    def write(self, targets_seen: int, by_context: dict[Context, GameSums]) -> None:
        """Store an evaluation; only rank 0 may, see `RunFiles.folder`.

        Raises:
            OSError: it cannot be written.
        """
        path = self._files.folder / _name(targets_seen)
        path.parent.mkdir(exist_ok=True)
        content = serialize(by_context, {"targets_seen": targets_seen})
        replace_file(path, content, survives_power_loss=False)  # the log does not survive one either

    def targets_seen(self) -> list[int]:
        """When there was an evaluation, in ascending order.

        Raises:
            OSError: they cannot be listed.
        """
        return self._numbers(_NAME)

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        names = map(pattern.fullmatch, self._files.names(FOLDER))
        return sorted(int(match[1]) for match in names if match)

    def read(self, targets_seen: int) -> dict[Context, GameSums] | None:
        """An evaluation by context; None if there is none, or it is damaged."""
        try:
            return deserialize(self._files.read(_name(targets_seen)))[0]
        except (OSError, ValueError):
            return None

    def write_dreams(self, targets_seen: int, coherence: dict[str, Any]) -> None:
        """Store the coherence of dreams; only rank 0 may, see `RunFiles.folder`.

        Args:
            coherence: the JSON data of `wm.rollout.judge.judge`.
        Raises:
            OSError: it cannot be written.
        """
        path = self._files.folder / _dreams_name(targets_seen)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, json.dumps(coherence).encode(), survives_power_loss=False)

    def read_dreams(self, targets_seen: int) -> dict[str, Any] | None:
        """The coherence of dreams; None if it was not measured, or the file is damaged."""
        try:
            found = json.loads(self._files.read(_dreams_name(targets_seen)))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def drop_after(self, targets_seen: int) -> None:
        """Delete later evaluations; only rank 0 may.

        Raises:
            OSError: they cannot be deleted.
        """
        for pattern, name_of in ((_NAME, _name), (_DREAMS_NAME, _dreams_name)):
            for later in self._numbers(pattern):
                if later > targets_seen:
                    (self._files.folder / name_of(later)).unlink(missing_ok=True)
                    self._files.delete(name_of(later))


def _name(targets_seen: int) -> str:
    return f"{FOLDER}/targets-{targets_seen:012d}.parquet"


def _dreams_name(targets_seen: int) -> str:
    return f"{FOLDER}/dreams-{targets_seen:012d}.json"
