"""A run's folder: whose it is, its log, and what is in it.

run.json        what makes the run this run; a folder without it is not ours
log.jsonl       a row for each start ("start"), progress line ("train") and judged context ("eval")
tensorboard/    the same for TensorBoard
checkpoints/    see `wm.checkpoint`
ray/            Ray Train's own notes
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from tensorboardX import SummaryWriter

from datasets.corpus import write_json_atomically
from datasets.errors import UserError, first_difference
from datasets.lock import exclusive
from wm.config import RunConfig, identity

RUN_FILE = "run.json"
LOG_FILE = "log.jsonl"
CHECKPOINTS = "checkpoints"
LOCK_FILE = "run.lock"


def claim(config: RunConfig) -> None:
    """Make the folder this run's, or find that it is already.

    Raises:
        UserError: the folder holds something else, or a run with another config.
    """
    mark = config.out / RUN_FILE
    mine = identity(config)
    if mark.exists():
        try:
            there = json.loads(mark.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{mark} is damaged; name another folder with --out") from error
        if there != mine:
            raise UserError(
                f"{config.out} holds a run with other options ({first_difference(there, mine)}); "
                "use those to resume it, or another --out"
            )
        return
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} exists and is no run; name an empty or new folder with --out")
    config.out.mkdir(parents=True, exist_ok=True)
    write_json_atomically(mark, mine)


def checkpoints_of(out: Path) -> Path:
    """Folder of a run's checkpoints."""
    return out / CHECKPOINTS


def read_log(out: Path) -> list[dict[str, Any]]:
    """Rows of a run's log; a line that was cut off by a kill is left out."""
    path = out / LOG_FILE
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def held(out: Path) -> IO[bytes]:
    """Keep other processes out of a run's folder until the returned file is closed.

    Raises:
        UserError: another process trains in it.
    """
    return exclusive(out / LOCK_FILE, f"another process is training in {out}; wait for it, or name another --out")


class RunLog:
    """Appends rows to log.jsonl and TensorBoard. On resume what came after the checkpoint is forgotten."""

    def __init__(self, out: Path, resumed_at: int) -> None:
        kept = [row for row in read_log(out) if row["targets_seen"] <= resumed_at]
        path = out / LOG_FILE
        aside = path.with_suffix(".aside")
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept))
        aside.replace(path)
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=resumed_at or None)

    def write(self, row: dict[str, Any]) -> None:
        """One row; numbers go to TensorBoard under `train/` or `eval_K/`, over targets seen."""
        self._file.write(json.dumps(row) + "\n")
        group = f"eval_{row['context']}" if row["kind"] == "eval" else row["kind"]
        for name, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{group}/{name}", value, row["targets_seen"])

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self._board.close()
