"""A training run: one object that knows everything that is kept of it, in a folder or in object storage.

run.json          the config fields that identify the run, and the checkpoint that `init_from` named when it was new; a
                  folder without it belongs to something else
config.yaml       the config of the newest command, with every field; `wm train` accepts it
data.json         the corpora: digests of manifest and games, numbers of games and frames, for `train` and `judged`
environment.json  start times of commands and of workers; code, versions and machine of the newest start
profile.json      throughput, for planning; replaced at each progress line
log.jsonl         a row per event, see below
evaluations/      a Parquet file per evaluation: sums by game and context, see `wm.evaluation.game_sums`; of the final
                  one also the coherence of dreams as JSON, see `wm.rollout.judge`
tensorboard/      progress lines and validations, for TensorBoard
checkpoints/      see `wm.checkpoints`; `checkpoint.storage_path` in the config names another folder or a URI
ray/              Ray Train's files, a folder for each command
attempts.jsonl, crash.txt   see `wm.runs.crash_history`
run.lock, worker.lock       locks of the driver and of rank 0
stop              whether the run is asked to stop, see `wm.runs.stop_request`

Rows of log.jsonl, each with `kind` and `targets_seen`:

start       num_parameters, workers, device, batch_size, learning_rate (its peak), warmup_targets, compiles,
            train_games, train_frames, judged_games; changed: options that differ from the checkpoint's;
            initial_weights: checkpoint and targets_seen of `init_from`
train       a progress line: loss, action_acc, change_acc, targets_per_s, learning_rate, wait_share, data, peak_gb
eval        one evaluated context: context, num_targets and its metrics
dreams      after the final evaluation, see `wm.training.validation`: coherence_5, coherence_10, coherence_20, ...
checkpoint  seconds_held: time that training was blocked
rollback    to_targets, reason, rate_factor
problem     message: a warning about something that did not end the run

In object storage all of this is below the run's URI. The locks are leases
(`datasets.runtime.storage.lease`); attempts.jsonl and crash.txt are folders with an object for each entry; what grows
is uploaded every few seconds (`wm.runs.mirror`).

A resumed run removes the rows and evaluations after its checkpoint; rollbacks and problems stay, with their time
(`at`).

A run has three marks, and a kill between two of them loses nothing:

trained     a checkpoint whose meta.json says `trained`: the schedule or the time limit is over. It is written before
            the final evaluation.
evaluated   the file of the final evaluation in evaluations/. A command that finds it evaluates no frame again.
finished    a checkpoint whose meta.json says `finished`: it holds the rows of the final evaluation (`metrics`) and
            which frames and contexts that took (`evaluated`). If the config asks for others, the run is evaluated
            again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from datasets.loading.frames import GameIndex
from datasets.runtime.durable_files import replace_file
from datasets.runtime.errors import UserError
from datasets.runtime.uris import child_location
from wm.checkpoints.initial import InitialWeights, find_initial_weights
from wm.checkpoints.reader import open_store
from wm.checkpoints.store import RUN_SUBFOLDER, CheckpointStore, reason_of
from wm.config.run_config import RunConfig
from wm.config.run_identity import check_same_run, identity, to_stored
from wm.data.training_data import TrainingData
from wm.runs.environment import command_line, environment
from wm.runs.evaluations import Evaluations
from wm.runs.problem_report import report_once
from wm.runs.run_files import Lock, open_run_files
from wm.runs.run_log import LOG_FILE
from wm.runs.stop_request import STOP_FILE, StopRequest

RUN_FILE = "run.json"
INITIAL_WEIGHTS = "initial_weights"
"""Key in run.json."""
CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
ENVIRONMENT_FILE = "environment.json"
PROFILE_FILE = "profile.json"
CONTINUED_FILES = (LOG_FILE,)
"""Files that grow, and that a resumed run continues; new files in folders, like the curves, need no entry."""
DRIVER_LOCK, WORKER_LOCK = "run.lock", "worker.lock"
PROFILE_VERSION = 2
"""1: device, workers, precision, core, batch_size, targets_per_s, wait_share, checkpoint_held_s, memory.
2: and what predicts other runs: device_name, threads, num_parameters, model, objective, seconds of every part."""
ORPHAN_TIMEOUT_S = 120.0
"""How long rank 0 waits for the workers of an earlier command to end: they outlive their driver by two seconds on one
machine, and by the lease of their lock if a machine with a network file system was lost."""
ORPHAN_POLL_S = 0.2


class Run:
    """A run's files, locks, stop request and checkpoints. Creating the object touches no file.

    Attributes:
        files: the run's files, by their names.
        location: the run's folder or URI as messages show it, without credentials.
        name: the last part of it, by which Ray shows the run.
        stops_with, retry_s: see `__init__`.
    """

    def __init__(
        self,
        config: RunConfig,
        stops_with: Path | str | None = None,
        started_at: float | None = None,
        retry_s: float = 0.0,
    ) -> None:
        """
        Args:
            stops_with: folder or URI of the sweep that the run belongs to; its stop request stops the run too.
            started_at: when the command began, as `time.time()`, for the throughput profile.
            retry_s: how long a request to object storage that cannot be reached is tried again.
        """
        self.config, self.stops_with, self.started_at, self.retry_s = config, stops_with, started_at, retry_s
        self.files = open_run_files(config.out, retry_s)
        self.location = self.files.location
        self.name = self.location.rstrip("/").rpartition("/")[2] or "run"
        self.stop_request = StopRequest(self.files, None if stops_with is None else open_run_files(stops_with))

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """Where the run's checkpoints are.

        Raises:
            UserError: the URI's scheme is unknown, or its server cannot be reached.
        """
        place = self.config.checkpoint.storage_path or child_location(self.config.out, RUN_SUBFOLDER)
        return open_store(place, self.retry_s)

    @cached_property
    def evaluations(self) -> Evaluations:
        """The evaluations of the run, game by game."""
        return Evaluations(self.files)

    def claim(self) -> None:
        """Create the run's folder, or check that it already belongs to this run.

        Raises:
            UserError: the folder contains something else, or a run with another config, or cannot be read or written;
                or `init_from` names no checkpoint whose weights fit.
        """
        with self._reporting_errors():
            self.files.check()
            try:
                marker = self.files.read(RUN_FILE)
            except (FileNotFoundError, NotADirectoryError) as error:
                if isinstance(error, NotADirectoryError) or not self._is_unused():
                    raise UserError(
                        f"{self.location} exists and is not a run; name an empty or new folder with --out"
                    ) from None
                initial = find_initial_weights(self.config)
                self.files.create()
                facts = {} if initial is None else {INITIAL_WEIGHTS: asdict(initial)}
                self.files.write_json(RUN_FILE, identity(self.config) | facts)
                return
        try:
            stored = json.loads(marker)
            stored.pop(INITIAL_WEIGHTS, None)
        except (ValueError, AttributeError) as error:
            raise UserError(f"{self.files.path_of(RUN_FILE)} is damaged; name another folder with --out") from error
        check_same_run(stored, self.config, self.location)

    def initial_weights(self) -> InitialWeights | None:
        """The checkpoint that `init_from` named when the run was new; None without `init_from`.

        Raises:
            UserError: run.json cannot be read.
        """
        if self.config.init_from is None:
            return None
        facts = self.files.read_json(RUN_FILE).get(INITIAL_WEIGHTS)
        if facts is None:
            raise UserError(
                f"{self.files.path_of(RUN_FILE)} names no initial weights; restore it, or name another --out"
            )
        return InitialWeights(**facts)

    def lock(self, timeout_s: float = 0.0, owner: str | None = None) -> Lock:
        """Keep other drivers out of the folder until the returned lock is closed.

        Args:
            timeout_s: how long another driver, or storage that is away, is awaited.
            owner: in object storage, takes over the lock of an earlier driver of the same owner, which has ended.
        Raises:
            UserError: another process trains in the folder, or the lock cannot be written.
        """
        refusal = f"another process is training in {self.location}; wait for it, or name another --out"
        return self._lock_within(timeout_s, DRIVER_LOCK, owner or uuid.uuid4().hex, refusal)

    def lock_as_rank_0(self, command: str) -> Lock:
        """Keep other workers out of the folder. Workers of a killed driver, which live a little longer, are awaited.

        Args:
            command: identifies one call of the driver; Ray ends its workers before it starts others.
        Raises:
            UserError: they still train after ORPHAN_TIMEOUT_S, or the storage has been away for so long.
        """
        refusal = f"workers of an earlier command still train in {self.location}; end them, and run the command again"
        return self._lock_within(ORPHAN_TIMEOUT_S, WORKER_LOCK, command, refusal)

    def _lock_within(self, timeout_s: float, name: str, owner: str, refusal: str) -> Lock:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with self._reporting_errors():
                    return self.files.lock(name, owner, refusal)
            except UserError:  # also if the storage is away when Ray restarts the workers
                if time.monotonic() > deadline:
                    raise
            time.sleep(ORPHAN_POLL_S)

    def open_folder(self) -> None:
        """Make `files.folder` ready, in which rank 0 writes the files that grow.

        Raises:
            UserError: those of earlier processes cannot be read.
        """
        with self._reporting_errors():
            self.files.open_folder(CONTINUED_FILES)

    def describe(self, data: TrainingData, command: Sequence[str]) -> None:
        """Write what is known before the workers start: config, data, and the command.

        Args:
            command: as `sys.argv`.
        Raises:
            UserError: nothing can be written.
        """
        header = "# Written by the newest command; `wm train` with this file resumes the run.\n"
        text = header + yaml.safe_dump(to_stored(self.config), sort_keys=False, allow_unicode=True)
        facts = {"train": _corpus_facts(data.train), "judged": _corpus_facts(data.evaluation)}
        with self._reporting_errors():
            self.files.write(CONFIG_FILE, text.encode())
            self.files.write_json(DATA_FILE, facts)
            self._add_to_environment("commands", {"command": command_line(command)}, {})

    def record_environment(self, **facts: Any) -> None:
        """Record that rank 0 starts, and on which machine; a full disk is reported, not raised.

        Args:
            facts: about the attempt: `resumed_at`, `workers`, `scan_backend`.
        """
        try:
            self._add_to_environment("attempts", facts, environment())
        except OSError as error:
            report_once(f"{ENVIRONMENT_FILE} cannot be written", error, set())

    def write_profile(self, numbers: dict[str, Any]) -> None:
        """Replace the throughput profile. Disk errors are ignored: the log, written at the same time, reports them.

        Args:
            numbers: as far as they are known: device, device_name, workers, threads (CPU threads of each worker),
                precision, core, compiled, cuda_graph, batch_size (over all workers), resident; num_parameters, model,
                objective; train_games, train_frames; targets_seen, train_s; targets_per_s (median of the log's
                intervals, without the first), wait_share (of the last interval), the keys of `Throughput.steady` and of
                `PartTimes.plain`; checkpoint_held_s, checkpoint_bytes; peak_gb, device_peak_gb.
        """
        with contextlib.suppress(OSError):
            text = json.dumps({"profile_version": PROFILE_VERSION, **numbers}, indent=1)
            replace_file(self.files.folder / PROFILE_FILE, text.encode(), survives_power_loss=False)

    def is_complete(self, meta: dict[str, Any] | None) -> bool:
        """Whether a checkpoint's meta.json is that of a finished run: trained, and evaluated as the config says."""
        if meta is None or not meta["finished"]:
            return False
        if meta.get("evaluated", self.config.final_evaluation) != self.config.final_evaluation:  # 0.2 did not store it
            return False
        limit = self.config.max_seconds
        is_out_of_time = limit is not None and meta["seconds"] >= limit
        return is_out_of_time or meta["targets_seen"] >= self.config.optimizer.total_targets

    def _is_unused(self) -> bool:
        """Whether the folder holds nothing but what a sweep, or a claim cut off by a kill or a full disk, has left."""
        return all(name == STOP_FILE or name.startswith(f".{RUN_FILE}.") for name in self.files.names())

    def _add_to_environment(self, group: str, entry: dict[str, Any], facts: dict[str, Any]) -> None:
        """Append a dated entry to a list in environment.json, and replace its other facts."""
        existing = self.files.read_json(ENVIRONMENT_FILE)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entries = [*existing.get(group, []), {"started": started, **entry}]
        self.files.write_json(ENVIRONMENT_FILE, existing | facts | {group: entries})

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Turn an OSError into a user's error: the run's storage cannot be used."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.location} cannot be used as a run's folder ({reason_of(error)}); check that it exists, that it "
                "can be reached, and your permissions there"
            ) from error


def _corpus_facts(index: GameIndex) -> dict[str, Any]:
    """What identifies a corpus and the games used from it."""
    return {
        "corpus": index.corpus.location,
        "manifest": index.corpus.digest,
        "game_ids": hashlib.blake2b("\n".join(index.game_ids).encode(), digest_size=16).hexdigest(),
        "num_games": len(index),
        "num_frames": int(index.num_frames.sum()),
    }
