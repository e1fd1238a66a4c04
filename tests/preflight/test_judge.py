"""What is green, amber and red, from facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from cluster.card.limits import Limits
from cluster.card.run_card import RunCard
from cluster.files.checks import Check
from cluster.preflight import judge
from cluster.preflight.needs import needs_of_run
from cluster.preflight.node_facts import Disk, NodeFacts, parse_gpus
from cluster.preflight.quotas import Quota, aws_quotas, family_of
from cluster.preflight.storage_probe import StorageFacts
from cluster.preflight.table import line_of, summary_of
from wm.config.run_config import RunConfig

GB = 10**9
NOW = datetime(2026, 11, 28, 22, 0, tzinfo=UTC)
FACTS = NodeFacts(
    host="head",
    versions={"python": "3.11.7", "ray": "2.60.0", "code": "abc"},
    settings={},
    max_files=65_536,
    disks={"/tmp": Disk(free_bytes=100 * GB, total_bytes=200 * GB)},
    gpus=(),
    gpu_problem=None,
)
A100 = "NVIDIA A100-SXM4-40GB, 40960, 4, 0, 550.127.05"


def states(checks) -> list[str]:
    return [check.state for check in checks]


def test_a_node_with_another_version_is_red_and_names_it_alone():
    other = replace(FACTS, versions=FACTS.versions | {"ray": "2.59.0"})
    (check,) = judge.check_versions(FACTS, {"10.0.0.2": other})
    assert (check.state, check.found, check.expected) == ("red", "ray 2.59.0", "ray 2.60.0")


@pytest.mark.parametrize(
    ("offset_s", "error_s", "state"),
    [(0.5, 0.1, "green"), (-3.0, 0.1, "amber"), (3.0, 2.5, "green"), (120.0, 1.0, "red"), (-120.0, 1.0, "red")],
)
def test_a_clock_is_judged_by_what_is_certain(offset_s, error_s, state):
    assert judge.check_clock("node", offset_s, error_s).state == state


@pytest.mark.parametrize(
    ("lines", "number", "kind", "state"),
    [
        ([A100] * 8, 8, "A100", "green"),
        ([A100] * 7, 8, None, "red"),
        ([A100] * 8, 8, "H100", "red"),
        ([A100, A100.replace(" 0,", " 2,")], 2, None, "red"),
        ([A100, A100.replace(" 4,", " 30000,")], 2, None, "amber"),
        ([A100, A100.replace(" 0,", " [N/A],")], 2, None, "green"),
        ([], 8, None, "red"),
    ],
    ids=["sound", "one is missing", "another kind", "memory errors", "in use", "counts no errors", "none"],
)
def test_gpus_as_the_driver_shows_them(lines, number, kind, state):
    facts = replace(FACTS, gpus=parse_gpus("\n".join(lines)))
    assert states(judge.check_gpus({"node": facts}, {"node": number}, kind)) == [state]


def test_nodes_with_gpus_of_different_kinds_are_amber():
    by_node = {
        "a": replace(FACTS, gpus=parse_gpus(A100)),
        "b": replace(FACTS, gpus=parse_gpus(A100.replace("A100", "H100"))),
        "c": FACTS,
    }
    assert states(judge.check_gpus(by_node, {"a": 1, "b": 1, "c": 0}, None)) == ["amber", "amber"]


def test_the_cache_needs_room_for_two_shards_and_better_for_the_corpus():
    def state(corpus_bytes: int, largest: int, limit: int | None = None) -> str:
        return judge.check_cache_disk("node", FACTS, "/tmp", corpus_bytes, largest, limit).state

    assert state(40 * GB, GB) == "green"
    assert state(60 * GB, GB) == "amber"
    assert state(40 * GB, GB, 10 * GB) == "amber"
    assert state(60 * GB, 30 * GB) == "red"


def test_settings_that_end_or_slow_a_night_are_amber():
    slow = replace(FACTS, settings={"NCCL_P2P_DISABLE": "1"}, max_files=1024)
    assert states(judge.check_settings(FACTS, {"node": FACTS}, RunConfig())) == ["green", "green"]
    assert states(judge.check_settings(FACTS, {"node": slow}, RunConfig())) == ["amber", "green"]
    hasty = replace(FACTS, settings={judge.START_TIMEOUT: "5"})
    assert states(judge.check_settings(hasty, {}, RunConfig())) == ["amber"]
    assert states(judge.check_settings(FACTS, {}, RunConfig(max_failures=0))) == ["amber"]
    assert states(judge.check_settings(FACTS, {}, RunConfig(max_seconds=60.0))) == ["amber"]


def test_storage_that_refuses_is_red_and_a_slow_one_amber():
    sound = StorageFacts(location="s3://b/run", write_mb_per_s=200, read_mb_per_s=300, num_bytes=16 * 10**6)
    assert judge.check_storage("storage", "node", sound).state == "green"
    assert judge.check_storage("storage", "node", replace(sound, write_mb_per_s=1.0)).state == "amber"
    assert judge.check_storage("storage", "node", replace(sound, problem="access denied")).state == "red"


def card(limits: Limits, hours: float | None, usd: float = 10.0) -> RunCard:
    estimate = None if hours is None else {"hours": hours, "usd": usd, "targets": 1, "machines": {}}
    return RunCard(job="job", verb="train", created=NOW, limits=limits, estimate=estimate)


def test_a_plan_beyond_a_limit_is_red_and_an_unknown_one_amber():
    limits = Limits(deadline=NOW + timedelta(hours=9), budget_usd=60.0)
    assert states(judge.check_limits(card(limits, 8.0), NOW)) == ["green", "green"]
    assert states(judge.check_limits(card(limits, 9.5, 61.0), NOW)) == ["red", "red"]
    assert states(judge.check_limits(card(limits, None), NOW)) == ["amber"]
    assert not list(judge.check_limits(card(Limits(), 100.0), NOW))


def test_quotas_by_family_and_why_they_cannot_be_asked(tmp_path):
    assert [family_of(name) for name in ("p4d.24xlarge", "p5.48xlarge", "g6e.xlarge", "m7i.2xlarge")] == [
        "p", "p5", "g", "standard",
    ]  # fmt: skip
    quota = Quota(node_type="a100", market="spot", of_one=96, of_all=192, limit=96)
    assert judge.check_quota(quota).state == "amber"
    assert judge.check_quota(replace(quota, limit=0)).state == "red"
    assert judge.check_quota(replace(quota, limit=192)).state == "green"
    file = tmp_path / "ray_bootstrap_config.yaml"
    assert aws_quotas(file) is None
    file.write_text(yaml.safe_dump({"provider": {"type": "local"}}))
    assert aws_quotas(file) is None
    file.write_text("provider: [")
    assert isinstance(aws_quotas(file), str)


def test_a_run_needs_its_least_number_of_workers(tmp_path):
    elastic = RunConfig(num_workers=(2, 8), use_gpu=True, out=tmp_path)
    needs = needs_of_run(elastic)
    assert needs.bundles == ({"GPU": 1.0},) * 2 and needs.num_gpus == 2
    assert needs_of_run(RunConfig(out=tmp_path), {"CPU": 4.0}).bundles == ({"CPU": 4.0},)


def test_the_table_says_what_to_do_about_what_is_not_green():
    red = Check(name="clock", node="n", state="red", found="off", expected="right", advice="set it")
    assert line_of(red).endswith("expected right; set it")
    assert summary_of([red, replace(red, state="green")]) == "1 green, 0 amber, 1 red: not ready"
