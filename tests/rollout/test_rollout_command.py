"""`wm rollout` from the outside: what it writes, and one line for each mistake."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import checkpoints, run, tiny_run

from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import UserError
from wm import cli
from wm.checkpoints.files import CHECKSUM
from wm.checkpoints.reader import load_model
from wm.checkpoints.store import Checkpoint
from wm.launch.rollout_checkpoint import parse_temperatures, rollout_checkpoint
from wm.model.world_model import WorldModel


@pytest.fixture(scope="module")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    config = tiny_run(tiny_corpus, tmp_path_factory.mktemp("rollout") / "run")
    run(replace(config, optimizer=replace(config.optimizer, total_targets=config.optimizer.total_targets // 2)))
    return config.out


def test_many_dreams_are_judged_and_kept_as_json(trained, tiny_corpus, tmp_path, capsys):
    out = tmp_path / "new" / "coherence.json"
    rollout_checkpoint(trained, tiny_corpus, num_starts=20, json=out)
    kept = json.loads(out.read_text())
    assert kept["num_starts"] == 20
    assert kept["coherence_20"] > 0
    assert kept["baselines"].keys() == {"stand still", "keep velocity", "nearest situation"}
    assert sum(kept["by_game"]["num_dreams"]) == 20
    assert "nearest situation" in capsys.readouterr().out


def test_without_the_training_games_a_line_says_what_is_left_out(tiny_corpus, tmp_path, capsys):
    away = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, away)
    config = tiny_run(away, tmp_path / "run")
    run(replace(config, optimizer=replace(config.optimizer, total_targets=config.optimizer.total_targets // 10)))
    shutil.rmtree(away)
    found = rollout_checkpoint(config.out, tiny_corpus, num_starts=5)
    assert found["baselines"].keys() == {"stand still", "keep velocity"}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "nearest situation" in line]
    assert line.startswith("without the baseline of the nearest situation") and str(away) in line


def test_one_dream_is_kept_as_a_replay_and_as_json(trained, tiny_corpus, tmp_path):
    slp, out = tmp_path / "dream.slp", tmp_path / "dream.json"
    result = rollout_checkpoint(trained, tiny_corpus, game="0", start=50, num_frames=40, slp=slp, json=out)
    assert json.loads(out.read_text()) == result
    assert result["first_frame"] == 50
    assert b"U\x08playedOnSU\x0awm rollout" in slp.read_bytes()
    parsed = parse_replay(slp.read_bytes())
    assert len(parsed.players[0]["x"]) == 123 + 50 + 40
    imagined = [frame[0] for frame in result["imagined"]["x"]]
    assert parsed.players[0]["x"][-40:].tolist() == pytest.approx(imagined, abs=1e-3)


def test_a_dream_may_be_sampled_with_a_seed(trained, tiny_corpus):
    def actions(temperature: str, seed: int) -> list[list[float]]:
        found = rollout_checkpoint(trained, tiny_corpus, game="0", num_frames=20, temperature=[temperature], seed=seed)
        return found["imagined"]["action"]

    assert actions("action=1", 1) == actions("action=1", 1) != actions("action=1", 2)
    assert actions("action=0", 1) == actions("action=0", 2) == actions("action=1e-38", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "zzz"}, "0 games of this split have an id that begins so"),
        ({"game": "0", "start": -120}, "the model needs 60 frames before it"),
        ({"game": "0", "start": 2**30}, "end beyond game"),
        ({"num_frames": 10**6}, "the longest of .* games has"),
        ({"split": "test"}, "the test split of .* holds none of its"),
        ({"temperature": ["1"]}, "several dreams are made of the most probable values"),
        ({"game": "0", "rule": "theirs"}, "only coherence is measured by it"),
        ({"window": 10, "compiled": True}, "--compile is for a carried state"),
        ({"window": 10, "num_context": 60}, "with --window the network sees 10 frames alone"),
        ({"start": 100}, "is the place of one dream"),
        ({"game": "0", "num_starts": 5}, "are for one dream"),
        ({"json": Path()}, "--json .: a folder"),
        ({"game": "0", "slp": Path("/")}, "--slp /: a folder"),
    ],
)
def test_a_mistake_is_one_line(trained, tiny_corpus, options, message):
    with pytest.raises(UserError, match=message) as raised:
        rollout_checkpoint(trained, tiny_corpus, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num-frames", str(2**63)], "--num-frames: found 9223372036854775808"),
        (["--num-starts", "0"], "--num-starts: found 0"),
        (["--seed", str(2**63)], "--seed: found 9223372036854775808"),
        (["--game", ""], "--game '': 0 games"),
        (["--disk-cache-size", "foo"], "--disk-cache-size 'foo'"),
        (["--temperature", "invulnerable=1", "--game", "0"], "--temperature invulnerable=1"),
        (["--rule", "theirs", "--html", "page.html"], "--rule theirs"),
        (["--game", "0", "--slp", "/dev/null/dream.slp"], "--slp /dev/null/dream.slp: /dev/null is no folder"),
        (["--json", "/dev/null/dream.json"], "--json /dev/null/dream.json: /dev/null is no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_answers_a_mistake_with_one_line_and_exit_code_2(
    trained, tiny_corpus, options, words, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["wm", "rollout", str(trained), str(tiny_corpus), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_a_network_that_has_diverged_is_named_also_if_its_dream_is_sampled(trained, tiny_corpus, monkeypatch):
    def diverged(opened: Checkpoint) -> WorldModel:
        model = load_model(opened)
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
        return model

    monkeypatch.setattr("wm.launch.rollout_checkpoint.load_model", diverged)
    for temperature in ([], ["1"]):
        with pytest.raises(UserError, match="weights have diverged"):
            rollout_checkpoint(trained, tiny_corpus, game="0", num_frames=5, temperature=temperature)


@pytest.mark.parametrize("text", ["hot", "-1", "nan", "percent=1", "action="])
def test_a_temperature_that_is_none_is_a_mistake(text):
    with pytest.raises(UserError, match="expected a number of 0 or more"):
        parse_temperatures([text])


def test_temperatures_are_for_all_fields_or_one():
    found = parse_temperatures(["0.5", "action=1"])
    assert found["action"] == 1.0
    assert found["jumps"] == 0.5


def test_a_checkpoint_of_another_encoding_is_a_mistake(trained, tiny_corpus, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkpoints(tiny_run(tiny_corpus, trained))[-1], other)
    meta = json.loads((other / "meta.json").read_text())
    del meta[CHECKSUM]
    (other / "meta.json").write_text(json.dumps(meta | {"encoding_version": 9}))
    with pytest.raises(UserError, match="encoding 9"):
        rollout_checkpoint(other, tiny_corpus)
