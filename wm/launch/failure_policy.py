"""Which failures of a run's workers Ray Train retries, and which budget they count against.

Ray retries every exception of a worker, up to `FailureConfig.max_failures`. Two kinds must be told apart:

- A user's mistake, a diverged loss or a repeated crash ends the run: another attempt would end the same way.
- A worker that got SIGTERM, or notice that its node will be preempted, has saved; that is no failure.

Ray Train calls a `UserCallback` in its controller before it decides. In Ray 2.60 an exception that the callback raises
takes the place of the workers' errors in that decision (`TrainController._run_control_loop_iteration`): a
`ray.train.PreemptionError` counts against `max_preemption_failures`, and any other exception ends the run as failed,
with a `ControllerError` that holds it.
"""

from __future__ import annotations

from typing import Any

from ray.train import PreemptionError, PreemptionInfo, UserCallback

from datasets.runtime.errors import UserError
from wm.launch.train_worker import PreemptedError


class FailurePolicy(UserCallback):
    """Ends the run on a user's error, and restarts preempted workers without counting a failure."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray's controller after workers raised.

        Args:
            worker_exceptions: by rank.
        Raises:
            UserError: the error of a worker that ends the run.
            PreemptionError: some worker stopped and saved before a preemption.
        """
        errors = [worker_exceptions[rank] for rank in sorted(worker_exceptions)]
        for error in errors:
            if isinstance(error, UserError):
                raise error
        if any(isinstance(error, PreemptedError) for error in errors):
            raise PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={}))
