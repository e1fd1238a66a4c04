"""Which failures of workers Ray Train retries: decided by its own failure policy, after `FailurePolicy` has looked."""

from __future__ import annotations

import itertools
import pickle

import pytest
from ray.train import ControllerError, FailureConfig, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

from datasets.runtime.errors import UserError
from wm.launch.failure_policy import FailurePolicy
from wm.launch.train_worker import PreemptedError
from wm.training.divergence import DivergedError

CRASH = ZeroDivisionError("a bug")
PREEMPTED = PreemptedError("saved")


def failure_of(worker_exceptions: dict[int, Exception]) -> TrainingFailedError:
    """The failure that Ray's controller makes of the workers' exceptions, as in its control loop."""
    try:
        FailurePolicy().after_exception(None, worker_exceptions)
    except TrainingFailedError as error:
        return error
    except Exception as error:
        return ControllerError(error)
    return WorkerGroupError("a message", worker_exceptions)


@pytest.mark.parametrize(
    ("events", "max_failures", "num_starts"),
    [("PPPPP", 0, 6), ("PC", 1, 3), ("CPC", 1, 3), ("CPPCPC", 2, 6), ("PC", 0, 2), ("CCC", 2, 3), ("CU", 9, 2)],
)
def test_preemptions_are_unlimited_crashes_are_counted_and_a_users_error_ends_the_run(events, max_failures, num_starts):
    """P: preempted, C: crashed, U: a user's error."""
    errors = {"P": PREEMPTED, "C": CRASH, "U": UserError("no such corpus")}
    policy = DefaultFailurePolicy(FailureConfig(max_failures=max_failures))
    decisions = [policy.make_decision(failure_of({0: errors[event]})) for event in events]
    retried = list(itertools.takewhile(lambda decision: decision == FailureDecision.RETRY, decisions))
    assert 1 + len(retried) == num_starts


def test_the_error_that_ends_a_run_is_that_of_the_rank_that_made_it():
    collateral = RuntimeError("Connection closed by peer")
    failure = failure_of({0: collateral, 1: UserError("no such corpus"), 2: PREEMPTED})
    assert isinstance(failure, ControllerError)
    assert str(failure.controller_failure) == "no such corpus"


def test_a_crash_of_one_rank_beside_a_preempted_one_counts_as_a_preemption():
    assert isinstance(failure_of({0: CRASH, 1: PREEMPTED}), PreemptionError)


@pytest.mark.parametrize("error", [UserError("a"), DivergedError("b"), PREEMPTED])
def test_errors_reach_the_controller_and_the_driver_as_they_are(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error)
