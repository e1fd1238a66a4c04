"""The decisions of the night watch with a fake clock: each limit just before and just after its boundary."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cluster.card.limits import KillRule, Limits
from cluster.watch.night import PAUSES_S, Totals, Watch
from cluster.watch.observation import Action, DumpStacks, Finish, Kill, Node, Observation, Report, Start, Terminate
from cluster.watch.progress import ORPHANS_S

SAVE_S = 120.0
BEGIN_S = datetime(2026, 1, 1, 22, tzinfo=UTC).timestamp()


class Night:
    """A watch, its clock, and what it sees."""

    def __init__(self, totals: Totals | None = None, **limits: Any) -> None:
        self.watch = Watch(Limits(**limits), totals, save_s=SAVE_S)
        self.now_s = BEGIN_S
        self.seen = Observation(targets=0, total_targets=1_000_000, nodes=())
        self.reports: list[Report] = []
        assert kinds(self.after(0)) == [Start]

    def after(self, seconds: float, **seen: Any) -> list[Action]:
        """Let time pass with what was seen, then see something: the actions without reports."""
        self.now_s += seconds
        self.seen = replace(self.seen, **seen)
        actions = self.watch.step(self.now_s, self.seen)
        self.reports += [one for one in actions if isinstance(one, Report)]
        return [one for one in actions if not isinstance(one, Report)]

    def events(self, event: str) -> list[str]:
        return [report.message for report in self.reports if report.kind == event]

    def dies(self, exit_code: int = -9) -> list[Action]:
        """The command ends, and its successor is started if there is one."""
        found = self.after(1, exit_code=exit_code)
        return found or self.after(max(PAUSES_S), exit_code=exit_code)

    def runs(self) -> None:
        self.seen = replace(self.seen, exit_code=None)


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


def ended(actions: list[Action]) -> Finish:
    assert isinstance(actions[-1], Finish)
    return actions[-1]


def test_a_command_that_ends_well_finishes_the_job():
    night = Night()
    assert ended(night.after(60, exit_code=0)) == Finish(
        status="finished", reason="the command has finished", exit_code=0
    )
    assert night.after(60) == []


def test_a_users_mistake_is_not_tried_again():
    finish = ended(Night(retries=3).after(1, exit_code=2))
    assert (finish.status, finish.exit_code) == ("failed", 2)


@pytest.mark.parametrize("exit_code", [143, 130])
def test_a_command_that_someone_else_stopped_is_not_started_again(exit_code):
    assert ended(Night(retries=3).after(1, exit_code=exit_code)).status == "stopped"


def test_a_command_that_dies_is_started_again_as_often_as_retries_allow_with_longer_and_longer_pauses():
    night = Night(retries=2)
    for number in (1, 2):
        assert night.after(1, targets=number * 1_000, exit_code=-9) == []
        assert night.after(PAUSES_S[number - 1] - 1) == []
        (start,) = night.after(1)
        assert start == Start(attempt=number + 1)
        night.runs()
    finish = ended(night.after(1, targets=3_000, exit_code=1))
    assert finish.status == "failed" and finish.reason == "the command died 3 times, the last time: exit code 1"


def test_two_deaths_without_progress_between_them_end_the_job_though_retries_are_left():
    night = Night(retries=5)
    night.after(1, targets=5_000)
    assert kinds(night.dies()) == [Start]
    night.runs()
    night.after(1, targets=4_000)  # resumed from a checkpoint, and not as far as before
    finish = ended(night.dies())
    assert finish.status == "failed" and "died twice without progress, at 5,000 targets" in finish.reason


def test_a_death_after_progress_is_not_taken_for_the_one_before():
    night = Night(retries=5)
    for targets in (5_000, 6_000, 7_000):
        night.after(1, targets=targets)
        assert kinds(night.dies()) == [Start]
        night.runs()


def test_a_verb_without_progress_has_its_retries_only():
    night = Night(retries=2)
    night.seen = replace(night.seen, targets=None)
    for _ in range(2):
        assert kinds(night.dies()) == [Start]
        night.runs()
    assert ended(night.dies()).reason.startswith("the command died 3 times")


def test_a_stall_dumps_the_stacks_and_restarts_the_command():
    night = Night(stall_minutes=10)
    night.after(599, targets=1_000)
    assert night.after(599) == []
    assert kinds(night.after(1)) == [DumpStacks, Terminate]
    assert night.events("stall") == [
        "stall 1, of which 3 lead to a restart: no new targets for 10.0 minutes, at 1,000 targets"
    ]
    assert night.after(5, exit_code=143) == []
    assert night.after(PAUSES_S[0]) == [Start(attempt=2)]


def test_a_command_that_does_not_end_after_a_stall_is_killed():
    night = Night(stall_minutes=10)
    night.after(ORPHANS_S, targets=1)
    night.after(600)
    assert night.after(SAVE_S - 1) == []
    assert kinds(night.after(1)) == [Kill]
    assert night.after(SAVE_S - 1) == [] and kinds(night.after(1)) == [Kill]
    assert night.after(1, exit_code=-9) == []
    assert night.after(PAUSES_S[0]) == [Start(attempt=2)]


def test_too_many_stalls_end_the_job_with_a_reason():
    night = Night(stall_minutes=10, max_stalls=1)
    night.after(ORPHANS_S, targets=1)
    night.after(600)
    night.after(1, exit_code=143)
    night.after(PAUSES_S[0])
    night.runs()
    night.after(ORPHANS_S, targets=2)
    assert kinds(night.after(600)) == [DumpStacks, Terminate]
    finish = ended(night.after(1, exit_code=143))
    assert finish.status == "failed" and finish.reason.startswith("stalled 2 times, the last time: no new targets for")


def test_the_stall_of_a_new_attempt_is_counted_from_its_start():
    night = Night(stall_minutes=10, retries=1)
    night.after(590, targets=0)
    night.dies()
    night.runs()
    assert night.after(2_399) == [] and kinds(night.after(1)) == [DumpStacks, Terminate]


def test_rows_of_workers_that_outlive_their_driver_are_not_taken_for_the_start_of_the_next():
    night = Night(stall_minutes=10, retries=1)
    night.after(100, targets=1_000)
    assert kinds(night.dies()) == [Start]
    night.runs()
    night.after(2, targets=1_100)
    assert night.after(2_399) == [] and kinds(night.after(1)) == [DumpStacks, Terminate]


@pytest.mark.parametrize(("targets", "limit_s"), [(1_000, 2_400), (1_100, 600)], ids=["none yet", "one row"])
def test_rows_that_follow_the_start_of_an_attempt_are_its_own(targets, limit_s):
    night = Night(stall_minutes=10, retries=1)
    night.after(100, targets=1_000, signs_of_life=5, starts=1)
    night.dies()
    night.runs()
    night.after(2, signs_of_life=6, starts=2)
    night.after(0, targets=targets)
    assert night.after(limit_s - 1) == [] and kinds(night.after(1)) == [DumpStacks, Terminate]


def test_a_start_and_further_rows_may_be_seen_at_once():
    night = Night(stall_minutes=10, retries=1)
    night.after(100, targets=1_000, signs_of_life=5, starts=1, has_moved=True)
    night.dies()
    night.runs()
    night.after(2, targets=1_100, signs_of_life=8, starts=2, has_moved=True)
    assert night.after(599) == [] and kinds(night.after(1)) == [DumpStacks, Terminate]


def test_a_start_may_take_longer_than_a_stall():
    night = Night(stall_minutes=10)
    assert night.after(2_399) == [] and kinds(night.after(1)) == [DumpStacks, Terminate]


def test_going_back_to_a_checkpoint_and_rows_of_the_log_are_signs_of_life():
    night = Night(stall_minutes=10)
    night.after(599, targets=5_000)
    night.after(599, targets=3_000)
    night.after(599, signs_of_life=7)
    assert night.after(599) == [] and kinds(night.after(1)) == [DumpStacks, Terminate]


def test_waiting_for_machines_and_storage_that_cannot_be_read_are_no_stalls():
    night = Night(stall_minutes=10)
    assert night.after(3_600, missing="0 of 8 GPUs") == []
    assert night.after(1, missing=None, targets=None) == [] and night.after(3_600) == []
    assert night.after(1, targets=0) == []


def test_the_final_evaluation_may_take_longer_than_a_stall():
    night = Night(stall_minutes=10)
    night.after(1, targets=1_000_000)
    assert night.after(2_399) == []
    assert kinds(night.after(1)) == [DumpStacks, Terminate]


def test_the_deadline_is_met_with_the_time_that_a_save_takes():
    night = Night(deadline=datetime(2026, 1, 2, 7, tzinfo=UTC))
    assert night.after(9 * 3600 - SAVE_S - 1) == []
    assert kinds(night.after(1)) == [Terminate]
    finish = ended(night.after(10, exit_code=143))
    assert (finish.status, finish.exit_code) == ("deadline", 1)
    assert finish.reason == "the deadline 2026-01-02 07:00 UTC is reached"


def test_a_run_that_finishes_while_it_is_being_ended_has_finished():
    night = Night(deadline=datetime(2026, 1, 2, 7, tzinfo=UTC))
    night.after(9 * 3600)
    assert ended(night.after(10, exit_code=0)).status == "finished"


def test_the_budget_counts_the_machines_that_are_there_and_leaves_what_the_save_costs():
    a, b = (Node(node_id=name, name=name, usd_per_hour=6.0) for name in "ab")
    night = Night(budget_usd=13.0)
    night.after(0, nodes=(a,))
    night.after(3_600, nodes=(a, b))
    night.after(1_000, nodes=None)  # cannot be seen: charged on
    assert night.watch.totals.spending.usd == pytest.approx(6.0 + 12.0 * 1_000 / 3600)
    used_up_s = 7.0 * 3600 / 12.0 - SAVE_S - 1_000
    assert night.after(used_up_s - 1) == [] or pytest.fail("too early")
    assert kinds(night.after(1)) == [Terminate]
    assert ended(night.after(1, exit_code=143)).status == "budget"


def test_a_budget_says_once_which_machines_it_cannot_count():
    nodes = (Node(node_id="a", name="a", usd_per_hour=6.0), Node(node_id="b", name="b", usd_per_hour=None))
    night = Night(budget_usd=13.0)
    night.after(0, nodes=nodes)
    night.after(600, nodes=nodes)
    (message,) = night.events("price unknown")
    assert message.startswith("no price of b is known")
    assert night.watch.totals.spending.usd == pytest.approx(1.0)
    free = Night()
    free.after(0, nodes=nodes)
    assert not free.events("price unknown")


def test_spending_goes_on_where_an_earlier_watch_has_ended():
    node = Node(node_id="a", name="a", usd_per_hour=36.0)
    first = Night(budget_usd=100.0)
    first.after(0, nodes=(node,))
    first.after(1_000)
    second = Watch(Limits(budget_usd=100.0), first.watch.totals, save_s=SAVE_S)
    second.step(first.now_s + 500, replace(first.seen, exit_code=None))
    assert second.totals.spending.usd == pytest.approx(15.0)
    third = Watch(Limits(budget_usd=100.0), second.totals, save_s=SAVE_S)
    third.step(first.now_s + 500 + 100_000, first.seen)  # nobody knows what was there
    assert third.totals.spending.usd == pytest.approx(15.0 + 36.0 * 900 / 3600)


def row(targets_seen: int, context: int | str = 10, **metrics: float) -> dict[str, Any]:
    return {"kind": "eval", "targets_seen": targets_seen, "context": context, **metrics}


RULE = KillRule(metric="change_acc", context=10, at_targets=2_000, below=0.5)


@pytest.mark.parametrize(
    ("evaluation", "is_killed"),
    [
        (row(2_000, change_acc=0.49), True),
        (row(2_000, change_acc=0.5), False),
        (row(1_999, change_acc=0.1), False),
        (row(2_000, context=60, change_acc=0.1), False),
        (row(2_000, change_acc=float("nan")), True),
        (row(2_000, val_loss=1.0), False),
    ],
)
def test_a_metric_below_its_threshold_at_the_named_targets_ends_the_run(evaluation, is_killed):
    night = Night(kill=(RULE,))
    actions = night.after(10, targets=2_000, evaluations=(evaluation,))
    assert kinds(actions) == ([Terminate] if is_killed else [])
    if is_killed:
        finish = ended(night.after(1, exit_code=143))
        assert finish.status == "killed" and "its limit at 2,000 targets" in finish.reason


def test_only_the_first_evaluation_from_the_named_targets_on_is_judged():
    night = Night(kill=(RULE,))
    assert night.after(10, evaluations=(row(2_000, change_acc=0.6), row(3_000, change_acc=0.1))) == []


def test_a_metric_above_its_threshold_ends_the_run():
    night = Night(kill=(KillRule(metric="val_loss", context="stream", at_targets=1, above=2.0),))
    assert night.after(1, evaluations=(row(5, "stream", val_loss=2.0),)) == []
    assert kinds(night.after(1, evaluations=(row(5, "stream", val_loss=2.1),))) == [Terminate]


def test_machines_that_do_not_come_are_reported_once_and_awaited():
    night = Night(machines_minutes=15)
    night.after(0, missing="0 of 8 GPUs")
    night.after(899)
    assert night.events("machines missing") == []
    assert night.after(1) == [] and night.after(3_600) == []
    assert night.events("machines missing") == ["machines did not come within 15 minutes: 0 of 8 GPUs"]


def test_machines_that_do_not_come_are_replaced_by_the_fallback_once():
    night = Night(machines_minutes=15, fallback=("--num-workers", "1"))
    night.after(0, missing="1 of 2 GPUs")
    assert kinds(night.after(900)) == [Terminate]
    night.after(1, exit_code=143)
    assert night.after(PAUSES_S[0]) == [Start(attempt=2, arguments=("--num-workers", "1"))]
    night.runs()
    assert night.after(3_600) == []
    assert night.watch.totals.uses_fallback


def test_a_stop_is_passed_on_and_ends_the_job_as_stopped():
    night = Night(retries=3)
    assert kinds(night.after(1, stop="save")) == [Terminate]
    finish = ended(night.after(1, exit_code=143))
    assert (finish.status, finish.exit_code) == ("stopped", 143)


def test_a_stop_between_two_attempts_starts_nothing():
    night = Night(retries=3)
    night.after(1, exit_code=-9)
    assert ended(night.after(1, stop="save")).status == "stopped"


def test_a_head_node_that_is_shut_down_interrupts_the_job_and_does_not_end_it():
    night = Night(retries=3)
    assert kinds(night.after(1, stop="save", is_interrupted=True)) == [Terminate]
    finish = ended(night.after(1, exit_code=143))
    assert (finish.status, finish.exit_code) == ("interrupted", 143)
    between = Night(retries=3)
    between.after(1, exit_code=-9)
    assert ended(between.after(1, stop="save", is_interrupted=True)).status == "interrupted"


def test_a_stop_while_a_stalled_command_is_being_ended_ends_the_job():
    night = Night(stall_minutes=10)
    night.after(ORPHANS_S, targets=1)
    night.after(600)
    night.after(1, stop="save")
    assert ended(night.after(1, exit_code=143)).status == "stopped"


def test_a_stop_at_once_kills_the_command():
    night = Night()
    assert kinds(night.after(1, stop="now")) == [Terminate]
    assert kinds(night.after(1)) == [Kill] and night.after(1) == []
    assert ended(night.after(1, exit_code=-9)).status == "stopped"


def test_nodes_that_join_leave_or_will_leave_are_events():
    night = Night()
    a, b = (Node(node_id=name, name=name) for name in "ab")
    night.after(1, nodes=(a, b))
    night.after(1, draining=frozenset({"a"}))
    night.after(1)
    night.after(1, nodes=(b,))
    assert sorted(night.events("node joined")) == ["a joined, 2 nodes", "b joined, 2 nodes"]
    assert night.events("notice") == ["a will be taken away; the run saves"]
    assert night.events("node lost") == ["a is gone, 1 nodes"]


def test_progress_is_told_every_so_many_targets():
    night = Night(webhook_every_targets=1_000)
    for targets in (999, 1_000, 1_500, 2_999, 3_001):
        night.after(1, targets=targets)
    told = ["1,000 of 1,000,000 targets", "2,999 of 1,000,000 targets", "3,001 of 1,000,000 targets"]
    assert night.events("progress") == told
