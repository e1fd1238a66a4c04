"""`wm plan` as it is called, its JSON and its page; and hostile profiles, prices and numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest
from object_stores import s3_server

from cluster.plan.card_estimate import estimate_for_card
from cluster.plan.command.verbs import plan_command, profile_command
from cluster.plan.other_costs import expected_share
from cluster.plan.profile import read_profile
from datasets.runtime.errors import UserError
from tune.config import AshaConfig
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import to_plain

NUMBER, TEXT = {"type": "number", "minimum": 0}, {"type": "string"}
MAYBE = {"type": ["number", "null"]}
PROPOSAL = {
    "type": "object",
    "required": [
        "name", "hours", "usd", "targets", "estimate", "estimate_reasons", "machines", "feasible", "ends", "reason",
    ],
    "properties": {
        "name": TEXT, "hours": NUMBER, "usd": NUMBER, "targets": MAYBE, "estimate": {"type": "boolean"},
        "estimate_reasons": {"type": "array", "items": TEXT}, "feasible": {"type": "boolean"}, "ends": TEXT,
        "limited_by": TEXT, "gpu_memory_gb": MAYBE, "host_memory_gb": MAYBE, "disk_gb": NUMBER,
        "seconds": {"type": "object", "additionalProperties": NUMBER},
        "val_loss": {"type": ["object", "null"]}, "change_acc": {"type": ["object", "null"]},
    },
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "required": ["plan_version", "verb", "proposals", "options", "profiles", "planned_at", "deadline", "budget_usd"],
    "properties": {
        "plan_version": {"const": 1},
        "proposals": {"type": "array", "minItems": 1, "items": PROPOSAL},
        "options": {"type": "array", "items": {"type": "object", "required": ["hours", "usd", "targets", "estimate"]}},
    },
}


def a_profile(path: Path, **content: object) -> Path:
    """A profile of mamba2-medium on one A100."""
    config = RunConfig()
    plain = {
        "profile_version": 2, "device": "cuda", "device_name": "NVIDIA A100-SXM4-40GB", "workers": 1,
        "batch_size": 512, "targets_per_s": 400_000.0, "model": to_plain(config.model),
        "objective": to_plain(config.objective), "start_s": 40.0, "device_peak_gb": 6.0, "peak_gb": 3.0,
    }  # fmt: skip
    path.write_text(json.dumps({key: value for key, value in (plain | content).items() if value is not None}))
    return path


def plan(tmp_path: Path, *words: str, profile: Path | None = None) -> dict:
    path = profile or a_profile(tmp_path / "p.json")
    plan_command(["mamba2-medium", "--profile", str(path), "--json", str(tmp_path / "plan.json"), *words])
    found = json.loads((tmp_path / "plan.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def test_a_night_on_p4d_is_planned_as_text_json_and_page(tmp_path, capsys):
    words = ["--machines", "p4d.24xlarge", "--games", "20000", "--epochs", "1", "3", "--sizes", "medium", "large"]
    words += ["--deadline", "07:00", "--budget", "60", "--html", str(tmp_path / "plan.html")]
    found = plan(tmp_path, *words)
    assert [one["name"] for one in found["proposals"]] == ["conservative", "moderate", "bold"]
    moderate = found["proposals"][1]
    assert moderate["targets"] == 230_000_000 and moderate["workers"] == 8 and moderate["estimate"]
    assert moderate["usd"] == pytest.approx(moderate["hours"] * 21.957642)
    assert len(found["options"]) == 4
    large = [one for one in found["options"] if one["size"] == "large"]
    assert all("scaled by FLOPs" in one["estimate_reasons"][0] for one in large)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100 + len(str(tmp_path))
    assert "Limits:" in text and "budget 60.00 USD" in text and "nothing can be said" in text
    page = (tmp_path / "plan.html").read_text()
    assert "Proposals" in page and "p4d.24xlarge" in page and "://" not in page.split("</style>")[0]


def test_the_machine_of_the_profile_is_the_default_and_costs_what_it_is_said_to(tmp_path):
    free, priced = plan(tmp_path), plan(tmp_path, "--price", "local=2")
    assert free["proposals"][1]["usd"] == 0
    assert priced["proposals"][1]["usd"] == pytest.approx(2 * priced["proposals"][1]["hours"])
    assert (
        plan(tmp_path, "--machines", "p4d.24xlarge:spot", "--price", "p4d.24xlarge=8")["options"][0]["usd_per_hour"]
        == 8
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--price", "p4d.24xlarge=-3"], "expected dollars an hour, a positive number"),
        (["--price", "p4d.24xlarge=nan"], "expected dollars an hour, a positive number"),
        (["--price", "p9=3"], "expected TYPE=USD"),
        (["--machines", "p9.huge"], "no machine p9.huge"),
        (["--machines", "0xp4d.24xlarge"], "expected"),
        (["--machines", "p4de.24xlarge:spot"], "no spot price"),
        (["--machines", "m7i.4xlarge"], "run `wm profile` with this config on a machine without GPUs"),
        (["--games", "0", "--epochs", "1"], "games"),
        (["--epochs", "1"], "name the number of training games"),
        (["--games", "5", "--epochs", "nan"], "found nan, expected a finite number"),
        (["--budget", "0"], "budget"),
        (["--deadline", "25:00"], "expected a time of day"),
        (["--sizes", "huge"], "expected some of small, medium, large, xl"),
        (["--", "--model.encoding", "2"], "is of encoding 4, the config has 2"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, words, message):
    path = a_profile(tmp_path / "p.json")
    with pytest.raises(UserError, match=message) as caught:
        plan_command(["mamba2-medium", "--profile", str(path), *words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"targets_per_s": math.nan}, "targets_per_s"),
        ({"targets_per_s": -5}, "targets_per_s"),
        ({"targets_per_s": 0}, "has no speed"),
        ({"workers": 0}, "workers"),
        ({"device": "tpu"}, "device"),
        ({"profile_version": 99}, "has version 99, this tool reads up to 2"),
        ({"profile_version": None}, "profile_version"),
        ({"model": {"kind": "transformer"}}, "kind"),
        ({"model": None}, "does not tell its network; keep it beside its run's config.yaml"),
    ],
)
def test_hostile_profiles_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_profile(a_profile(tmp_path / "p.json", **content))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": NaN}', "\x00\xff"])
def test_files_that_are_no_profiles_are_refused(tmp_path, text):
    (tmp_path / "p.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="measure again"):
        read_profile(tmp_path / "p.json")


def test_a_profile_of_version_1_is_read_beside_its_runs_config(tmp_path):
    old = {
        "profile_version": 1,
        "device": "cpu",
        "workers": 1,
        "batch_size": 8,
        "targets_per_s": 5_000.0,
        "wait_share": 0.0,
    }
    (tmp_path / "profile.json").write_text(json.dumps(old))
    (tmp_path / "config.yaml").write_text((SHIPPED_CONFIGS / "mamba2-medium.yaml").read_text())
    found = read_profile(tmp_path)
    assert found.network.kind == "mamba2" and found.network.num_parameters > 1_500_000
    assert found.targets_per_s == 5_000


def test_profiles_in_a_bucket_are_found_and_read_by_their_uri(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = a_profile(tmp_path / "p.json").read_bytes()
    with s3_server() as server:
        monkeypatch.setenv("WM_STORAGE", server.uri("wm"))
        run, words = server.uri("runs/a"), ["--", "--out", server.uri("runs/a")]
        with pytest.raises(UserError, match=r"profile s3://bucket/runs/a/profile.json does not exist"):
            plan_command(["mamba2-medium", "--profile", run])
        with pytest.raises(UserError, match="no throughput profile is known"):
            plan_command(["mamba2-medium", *words])
        server.client.put_object(Bucket="bucket", Key="runs/a/profile.json", Body=content)
        server.client.put_object(Bucket="bucket", Key="wm/profiles/b.json", Body=content)
        for location in (run, server.uri("wm/profiles/b.json")):
            plan_command(["mamba2-medium", "--profile", location])
        capsys.readouterr()
        plan_command(["mamba2-medium", *words])
    printed = capsys.readouterr().out
    assert "s3://bucket/runs/a/profile.json" in printed and "s3://bucket/wm/profiles/b.json" in printed
    assert "hidden" not in printed


def test_without_a_profile_wm_profile_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WM_STORAGE", raising=False)
    with pytest.raises(UserError, match=r"run `wm profile CONFIG` on the machine that is to train"):
        plan_command(["mamba2-medium"])
    config = SHIPPED_CONFIGS / "mamba2-medium.yaml"
    none = estimate_for_card("train", config)
    assert none.content is None and "no throughput profile is known" in none.line
    (tmp_path / "profiles").mkdir()
    a_profile(tmp_path / "profiles" / "a100.json")
    found = estimate_for_card("train", config, machines=["p4d.24xlarge"])
    assert found.content is not None and found.content["machines"] == "1 x p4d.24xlarge"
    assert found.content["usd"] == pytest.approx(21.957642 * found.content["hours"])
    assert found.line == found.content["line"] and "1 M targets" in found.line
    assert estimate_for_card("encode", config).content is None


def test_a_sweep_is_planned_with_and_without_stopping(tmp_path):
    path = a_profile(tmp_path / "p.json")
    words = ["sweep", "size", "--profile", str(path), "--json", str(tmp_path / "s.json"), "--machines", "p4d.24xlarge"]
    plan_command(words)
    found = json.loads((tmp_path / "s.json").read_text())
    jsonschema.validate(found, SCHEMA)
    expected, upper = found["proposals"]
    assert expected["name"] == "expected" and upper["name"] == "upper bound"
    assert 0 < expected["hours"] <= upper["hours"] and expected["targets"] <= upper["targets"]


def test_ashas_share_follows_from_its_rungs():
    asha = AshaConfig(grace=1_000, reduction_factor=2.0)
    assert expected_share(asha, 4_000) == pytest.approx((1_000 + 1_000 / 2 + 2_000 / 4) / 4_000)
    assert expected_share(AshaConfig(enabled=False), 4_000) == 1.0
    assert expected_share(asha, 500) == 1.0


def test_an_encode_is_planned_by_its_rate(tmp_path):
    words = ["encode", "--games", "287504", "--frames-per-s", "186000", "--json", str(tmp_path / "e.json")]
    plan_command(words)
    found = json.loads((tmp_path / "e.json").read_text())
    jsonschema.validate(found, SCHEMA)
    only = found["proposals"][0]
    assert only["hours"] == pytest.approx((287_504 * 11_500 / (16 * 186_000) + 60) / 3_600)
    assert only["usd"] == pytest.approx(0.8064 * only["hours"])


def test_wm_profile_without_a_corpus_measures_the_step_on_synthetic_frames(tmp_path, capsys):
    words = ["mamba2-medium", "--seconds", "0.2", "--profile", str(tmp_path / "p.json"), "--model.d-model", "32"]
    words += ["--model.headdim", "16", "--model.num-layers", "1", "--train-corpus", str(tmp_path / "none")]
    profile_command([*words, "--optimizer.batch-size", "2", "--objective.sequence-frames", "8", "--num-threads", "1"])
    found = read_profile(tmp_path / "p.json")
    assert found.profile.data == "synthetic" and found.targets_per_s > 0 and found.profile.batch_size == 2
    assert (
        found.profile.checkpoint_bytes is not None
        and found.profile.checkpoint_bytes > 10 * found.network.num_parameters
    )
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["flops_per_s"] == pytest.approx(content["flops_per_target"] * found.targets_per_s)
    assert "measuring the training step on synthetic frames" in capsys.readouterr().out
    with pytest.raises(UserError, match="--seconds: found '-1'"):
        profile_command([*words[:1], "--seconds", "-1"])
