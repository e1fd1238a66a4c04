"""What a run writes while it trains: log, throughput profile and checkpoints. Rank 0 writes; other ranks do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wm.checkpoints.staging import Snapshot
from wm.checkpoints.store import reason_of
from wm.checkpoints.writer import CheckpointWriter
from wm.runs.run import Run
from wm.runs.run_log import RunLog
from wm.training import distributed
from wm.training.validation import Evaluation, Sums


class Recorder:
    """Writes the files of a run on rank 0, and does nothing on other ranks.

    Attributes:
        blocked_s: seconds that the last checkpoint blocked training.
    """

    def __init__(self, run: Run, resumed_at: int, evaluated_at: int, *, scan_backend: str) -> None:
        """Remove what was recorded after the checkpoint that the run resumes from.

        Args:
            resumed_at: targets seen by that checkpoint; 0 for a new run.
            evaluated_at: targets seen by the last evaluation that it contains.
            scan_backend: the scan that runs.
        Raises:
            UserError: checkpoints cannot be written to their store, or the run's storage cannot be read.
        """
        self._run = run
        self._log: RunLog | None = None
        self._writer: CheckpointWriter | None = None
        self.blocked_s = 0.0
        self._reported: set[str] = set()
        if distributed.rank() == 0:
            run.open_folder()
            self._writer = CheckpointWriter(
                run.checkpoints, run.config.checkpoint.keep_last, self.warn, before_commit=run.files.upload
            )
            self._log = RunLog(run.files.folder, resumed_at, evaluated_at)
            # One at the same number of targets is of the same weights: `evaluation` returns it.
            self._try(lambda: run.evaluations.drop_after(resumed_at), "later evaluations cannot be deleted")
            run.record_environment(resumed_at=resumed_at, workers=distributed.world_size(), scan_backend=scan_backend)

    def log(self, kind: str, **values: Any) -> None:
        """Append a row to the log."""
        if self._log is not None:
            self._log.write({"kind": kind, **values})

    def warn(self, message: str) -> None:
        """Append a warning to the log; any thread may call."""
        self.log("problem", message=message)

    def log_evaluation(self, evaluation: Evaluation, targets_seen: int) -> None:
        """Store an evaluation's sums by game, then append its rows to the log."""
        if self._log is not None:
            write = self._run.evaluations.write
            self._try(lambda: write(targets_seen, evaluation.sums), "sums by game cannot be written")
        for row in evaluation.rows:
            self.log(**row)

    def log_dreams(self, targets_seen: int, coherence: dict[str, Any], row: dict[str, Any]) -> None:
        """Store the coherence of dreams, then append a row to the log."""
        if self._log is not None:
            write = self._run.evaluations.write_dreams
            self._try(lambda: write(targets_seen, coherence), "the coherence of dreams cannot be written")
        self.log("dreams", targets_seen=targets_seen, **row)

    def has_dreams(self, targets_seen: int) -> bool:
        """Whether their coherence is stored; only rank 0 knows."""
        return self._log is not None and self._run.evaluations.read_dreams(targets_seen) is not None

    def evaluation(self, targets_seen: int) -> Sums | None:
        """A stored evaluation, the same on every rank; every rank must call."""
        return distributed.broadcast_object(None if self._log is None else self._run.evaluations.read(targets_seen))

    def num_rollbacks(self) -> int:
        """Rollbacks in the log, the same on every rank; every rank must call."""
        return distributed.broadcast_object(0 if self._log is None else self._log.count("rollback"))

    def write_profile(self, **numbers: Any) -> None:
        """Replace the throughput profile."""
        if self._log is not None:
            self._run.write_profile(numbers)

    def save(self, snapshot: Callable[[], Snapshot], *, wait: bool) -> bool:
        """Copy a snapshot and have a thread write it.

        Returns:
            Whether it was taken: not if the previous one is still being written and `wait` is not set.
        """
        if self._writer is None:
            return True
        taken = snapshot()
        if not self._writer.save(taken, wait=wait):
            return False
        self.blocked_s = self._writer.blocked_s
        self.log("checkpoint", targets_seen=taken.meta["targets_seen"], seconds_held=self.blocked_s)
        return True

    @property
    def checkpoint_bytes(self) -> int | None:
        """Size of the last checkpoint that this process has written, on rank 0."""
        return None if self._writer is None else self._writer.written_bytes

    def wait(self) -> None:
        """Wait for the checkpoint that is being written."""
        if self._writer is not None:
            self._writer.wait()

    def drop_checkpoints_after(self, targets_seen: int) -> None:
        """Delete checkpoints of more targets."""
        if self._writer is not None:
            self._writer.drop_after(targets_seen)

    def _try(self, write: Callable[[], None], problem: str) -> None:
        """Report disk errors once: they do not end a run."""
        try:
            write()
        except OSError as error:
            if problem not in self._reported:
                self._reported.add(problem)
                self.warn(f"{problem} ({reason_of(error)})")

    def close(self) -> None:
        """Finish the checkpoint that is being written and close all files."""
        if self._writer is not None:
            self._writer.close()
        if self._log is not None:
            self._log.close()
