"""A training run: one object that knows its folder and everything in it.

run.json          the config fields that identify the run; a folder without it belongs to something else
config.yaml       the config of the newest command, with every field; `wm train` accepts it
data.json         the corpora: digests of manifest and games, numbers of games and frames, for `train` and `judged`
environment.json  start times of commands and of workers; code, versions and machine of the newest start
profile.json      throughput, for planning; replaced at each progress line
log.jsonl         a row per event, see below
tensorboard/      progress lines and validations, for TensorBoard
checkpoints/      see `wm.checkpoints`; `checkpoint.storage_path` in the config names another folder or a URI
ray/              Ray Train's files
attempts.jsonl, crash.txt   see `wm.runs.crash_history`
ending.txt        while a command runs: why its run is over, so that Ray does not restart it
run.lock, worker.lock       locks of the driver and of rank 0

Rows of log.jsonl, each with `kind` and `targets_seen`:

start       num_parameters, workers, device, batch_size, compiles, train_games, train_frames, judged_games
train       a progress line: loss, action_acc, change_acc, targets_per_s, learning_rate, wait_share, data, peak_gb
eval        one evaluated context: context, num_targets and its metrics
checkpoint  seconds_held: time that training was blocked
rollback    to_targets, reason, rate_factor
problem     message: a warning about something that did not end the run

A resumed run removes the rows after its checkpoint; rollbacks and problems stay, with their time (`at`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import yaml

from datasets.loading.frames import GameIndex
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError, first_difference
from datasets.runtime.file_lock import exclusive_lock
from wm.checkpoints.reader import open_store
from wm.checkpoints.store import RUN_SUBFOLDER, CheckpointStore
from wm.config.run_config import RunConfig, identity
from wm.config.typed_yaml import to_plain, translate_keys
from wm.data.training_data import TrainingData
from wm.runs.environment import command_line, environment
from wm.runs.problem_report import report_once
from wm.runs.stop_request import StopRequest

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
ENVIRONMENT_FILE = "environment.json"
PROFILE_FILE = "profile.json"
ENDING_FILE = "ending.txt"
DRIVER_LOCK, WORKER_LOCK = "run.lock", "worker.lock"
PROFILE_VERSION = 1
"""1: first."""
ORPHAN_TIMEOUT_S = 120.0
"""How long rank 0 waits for the workers of an earlier command to end: they outlive their driver by two seconds on one
machine, and by the lease of their lock if a machine with a network file system was lost."""
ORPHAN_POLL_S = 0.2


class Run:
    """A run's folder, locks, stop request and checkpoints. Creating the object touches no file."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.folder = config, config.out
        self.stop_request = StopRequest(self.folder)

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """Where the run's checkpoints are.

        Raises:
            UserError: the URI's scheme is unknown, or its server cannot be reached.
        """
        return open_store(self.config.checkpoint.storage_path or self.folder / RUN_SUBFOLDER)

    def claim(self) -> None:
        """Create the run's folder, or check that it already belongs to this run.

        Raises:
            UserError: the folder contains something else, or a run with another config.
        """
        marker, mine = self.folder / RUN_FILE, identity(self.config)
        if marker.exists():
            try:
                existing = translate_keys(json.loads(marker.read_text()), RunConfig)
            except ValueError as error:
                raise UserError(f"{marker} is damaged; name another folder with --out") from error
            if existing != mine:
                raise UserError(
                    f"{self.folder} contains a run with other options ({first_difference(existing, mine)}); "
                    "use those to resume it, or another --out"
                )
            return
        if self.folder.exists() and not self._is_unused():
            raise UserError(f"{self.folder} exists and is not a run; name an empty or new folder with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json_atomically(marker, mine)

    def lock(self) -> IO[bytes]:
        """Keep other drivers out of the folder until the returned file is closed.

        Raises:
            UserError: another process trains in the folder.
        """
        refusal = f"another process is training in {self.folder}; wait for it, or name another --out"
        return exclusive_lock(self.folder / DRIVER_LOCK, refusal)

    def lock_as_rank_0(self) -> IO[bytes]:
        """Keep other workers out of the folder. Workers of a killed driver, which live a little longer, are awaited.

        Raises:
            UserError: they still train after ORPHAN_TIMEOUT_S.
        """
        deadline = time.monotonic() + ORPHAN_TIMEOUT_S
        refusal = f"workers of an earlier command still train in {self.folder}; end them, and run the command again"
        while True:
            try:
                return exclusive_lock(self.folder / WORKER_LOCK, refusal)
            except UserError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(ORPHAN_POLL_S)

    def describe(self, data: TrainingData, command: Sequence[str]) -> None:
        """Write what is known before the workers start: config, data, and the command.

        Args:
            command: as `sys.argv`.
        """
        header = "# Written by the newest command; `wm train` with this file resumes the run.\n"
        text = header + yaml.safe_dump(to_plain(self.config), sort_keys=False, allow_unicode=True)
        _replace(self.folder / CONFIG_FILE, text)
        facts = {"train": _corpus_facts(data.train), "judged": _corpus_facts(data.evaluation)}
        write_json_atomically(self.folder / DATA_FILE, facts)
        self._add_to_environment("commands", {"command": command_line(command)}, {})

    def record_environment(self, **facts: Any) -> None:
        """Record that rank 0 starts, and on which machine; a full disk is reported, not raised.

        Args:
            facts: about the attempt: `resumed_at`, `workers`.
        """
        try:
            self._add_to_environment("attempts", facts, environment())
        except OSError as error:
            report_once(f"{ENVIRONMENT_FILE} cannot be written", error, set())

    def write_profile(self, numbers: dict[str, Any]) -> None:
        """Replace the throughput profile. Disk errors are ignored: the log, written at the same time, reports them.

        Args:
            numbers: device, workers, precision, core, batch_size, targets_per_s (steady median), wait_share,
                checkpoint_held_s, peak_gb, device_peak_gb, as far as they are known.
        """
        with contextlib.suppress(OSError):
            text = json.dumps({"profile_version": PROFILE_VERSION, **numbers}, indent=1)
            _replace(self.folder / PROFILE_FILE, text)

    def end(self, reason: str) -> None:
        """Record why the run is over: Ray must not restart its workers."""
        with contextlib.suppress(OSError):
            (self.folder / ENDING_FILE).write_text(reason)

    def end_reason(self) -> str | None:
        """Why the run is over; None if it is not."""
        ending = self.folder / ENDING_FILE
        return ending.read_text() if ending.exists() else None

    def clear_end(self) -> None:
        """Forget the ending of an earlier command."""
        (self.folder / ENDING_FILE).unlink(missing_ok=True)

    def is_complete(self, meta: dict[str, Any] | None) -> bool:
        """Whether a checkpoint's meta.json is that of a trained and evaluated run; not after a stop request."""
        if meta is None or not meta["finished"]:
            return False
        limit = self.config.max_seconds
        is_out_of_time = limit is not None and meta["seconds"] >= limit
        return is_out_of_time or meta["targets_seen"] >= self.config.optimizer.total_targets

    def _is_unused(self) -> bool:
        """Whether the folder holds nothing but temporary files of a claim that a kill or a full disk cut off."""
        return self.folder.is_dir() and all(path.name.startswith(f".{RUN_FILE}.") for path in self.folder.iterdir())

    def _add_to_environment(self, group: str, entry: dict[str, Any], facts: dict[str, Any]) -> None:
        """Append a dated entry to a list in environment.json, and replace its other facts."""
        path = self.folder / ENVIRONMENT_FILE
        try:
            existing = json.loads(path.read_text())
            past = existing.get(group, [])
        except (OSError, ValueError, AttributeError):  # missing or damaged
            existing, past = {}, []
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json_atomically(path, existing | facts | {group: [*past, {"started": started, **entry}]})


def _corpus_facts(index: GameIndex) -> dict[str, Any]:
    """What identifies a corpus and the games used from it."""
    manifest = json.dumps(index.corpus.manifest, sort_keys=True).encode()
    return {
        "corpus": str(index.corpus.root),
        "manifest": hashlib.blake2b(manifest, digest_size=16).hexdigest(),
        "game_ids": hashlib.blake2b("\n".join(index.game_ids).encode(), digest_size=16).hexdigest(),
        "num_games": len(index),
        "num_frames": int(index.num_frames.sum()),
    }


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically for readers, without the fsync that a power loss would need."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
