"""The run card: strict reading, limits and deadlines."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from cluster.card.limit_options import LimitOptions, limits_of
from cluster.card.limits import KillRule, Limits, parse_deadline
from cluster.card.run_card import GitState, RunCard, parse_card, read_card
from cluster.plan.machines import hourly_prices
from datasets.runtime.errors import UserError

CREATED = datetime(2030, 1, 31, 22, 0, tzinfo=UTC)
CARD = RunCard(
    job="train-demo-1f0c9a3e",
    verb="train",
    config="demo",
    arguments=("--out", "s3://b/runs/demo", "--seed", "1"),
    out="s3://b/runs/demo",
    why="is K = 60 better?",
    created=CREATED,
    git=GitState(revision="0" * 40, clean=False, diff_sha256="1" * 64),
    data={"train": {"corpus": "s3://b/corpus", "manifest": None}},
    estimate={"hours": 7.5, "usd": 30.0, "targets": 10_000, "machines": {"p4d.24xlarge": 1}},
    limits=Limits(
        deadline=CREATED + timedelta(hours=9),
        budget_usd=60.0,
        kill=(KillRule(metric="change_acc", context=10, at_targets=1_000, below=0.3),),
        webhook="https://hooks.example/x",
        prices={"p4d.24xlarge": 32.77},
    ),
)


def test_a_card_is_read_as_it_was_written(tmp_path):
    (tmp_path / "card.json").write_bytes(CARD.to_json())
    assert read_card(tmp_path / "card.json") == CARD
    assert CARD.command("--num-workers", "1") == [
        "wm", "train", "demo", "--out", "s3://b/runs/demo", "--seed", "1", "--num-workers", "1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("card_version", 2, r"c: .*card_version 2; expected 1"),
        ("whi", "x", "unknown key whi; did you mean why"),
        ("verb", "rm", "verb: found 'rm', expected"),
        ("job", "../x", "expected a name without slashes"),
        ("created", "yesterday", "created: found 'yesterday'"),
        ("limits.retries", -1, r"limits.retries: found -1, expected a number greater than or equal to 0"),
        ("limits.budget_usd", 0, "limits.budget_usd: found 0, expected a number greater than 0"),
        ("limits.deadline", "2030-01-31T07:00:00", "has no zone"),
        ("limits.webhook", "file:///etc/passwd", "limits.webhook: found 'file:///etc/passwd'"),
        ("limits.kill", [{"metric": "change_acc", "context": 10, "at_targets": 5}], "expected one of them"),
        ("limits.kill", [{"metric": "change_acc", "context": 10, "at_targets": 5, "bellow": 1}], "bellow"),
        ("limits.prices", {"GPU": -1}, "limits.prices.GPU: found -1"),
    ],
)
def test_a_mistake_in_a_card_is_one_line_with_its_path(path, value, message):
    plain = json.loads(CARD.to_json())
    *folders, name = path.split(".")
    section = plain
    for folder in folders:
        section = section[folder]
    section[name] = value
    with pytest.raises(UserError, match=message.removeprefix("c: ")) as refused:
        parse_card(json.dumps(plain).encode(), "c")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("c")


def test_what_is_no_card_is_refused(tmp_path):
    for content, message in [(b"{", "is not JSON"), (b"[]", "holds a list"), (b"{}", "card_version None")]:
        with pytest.raises(UserError, match=message):
            parse_card(content, "c")
    with pytest.raises(UserError, match="No such file"):
        read_card(tmp_path / "none.json")


def test_a_deadline_is_the_next_such_time_in_the_users_zone():
    now = datetime(2030, 1, 31, 22, 30, tzinfo=timezone(timedelta(hours=2)))
    assert parse_deadline("07:00", now).isoformat() == "2030-02-01T07:00:00+02:00"
    assert parse_deadline("23:00", now).isoformat() == "2030-01-31T23:00:00+02:00"
    assert parse_deadline("2030-02-03 07:00", now).isoformat() == "2030-02-03T07:00:00+02:00"
    assert parse_deadline("2030-02-03T07:00:00Z", now) == datetime(2030, 2, 3, 7, tzinfo=UTC)
    for text, message in [("7 am", "expected a time such as 07:00"), ("2030-01-01", "has passed")]:
        with pytest.raises(UserError, match=message):
            parse_deadline(text, now)


def test_options_of_the_command_line_take_precedence_over_a_file_of_limits(tmp_path):
    now = datetime(2030, 1, 31, 22, 30, tzinfo=UTC)
    assert limits_of(LimitOptions(), now) == Limits(prices=hourly_prices())
    file = tmp_path / "limits.yaml"
    file.write_text("retries: 5\nbudget_usd: 10\nprices: {GPU: 2}\n")
    options = LimitOptions(
        limits=file,
        price=("CPU=0.5",),
        budget=60.0,
        deadline="07:00",
        fallback="--num-workers 1",
        kill=("change_acc@10 < 0.3 at 2_000",),
    )
    found = limits_of(options, now)
    assert (found.retries, found.budget_usd, found.prices, found.fallback) == (
        5,
        60,
        hourly_prices() | {"GPU": 2, "CPU": 0.5},
        ("--num-workers", "1"),
    )
    assert found.deadline == datetime(2030, 2, 1, 7, tzinfo=UTC)
    assert found.kill == (KillRule(metric="change_acc", context=10, at_targets=2_000, below=0.3),)


@pytest.mark.parametrize(
    ("kill", "message"),
    [("change_acc < 1", "expected METRIC@CONTEXT"), ("acc@10 > 1 at 5", r"kill.0.metric: found 'acc'")],
)
def test_a_mistake_in_a_kill_rule_is_one_line(kill, message):
    with pytest.raises(UserError, match=message):
        limits_of(LimitOptions(kill=(kill,)), datetime(2030, 1, 31, tzinfo=UTC))


@pytest.mark.parametrize("price", ["1.5", "=2", "GPU=much", "GPU=-1"])
def test_a_price_that_is_none_is_refused(price):
    with pytest.raises(UserError, match="price"):
        limits_of(LimitOptions(price=(price,)), datetime(2030, 1, 31, tzinfo=UTC))
