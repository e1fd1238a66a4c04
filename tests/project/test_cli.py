"""The `wm` command as a person meets it: fast help, and one line for a mistake instead of a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from snapshots import save_checkpoint

from datasets.corpus.state import CORPUS_FILE
from wm import cli
from wm.config.model_config import ModelConfig
from wm.config.run_config import RunConfig
from wm.model.world_model import build_model

ROOT = Path(__file__).parent.parent
VERBS = (
    "demo", "synth", "encode", "corpus", "train", "eval", "rollout", "sweep", "choose-k", "choose-size", "profile",
    "plan", "preflight", "submit", "jobs", "logs", "stop", "watch", "report", "cluster",
)  # fmt: skip
WM = Path(sys.executable).with_name("wm")


def installed_wm(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as installed, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [WM, *map(str, args)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def wm(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command's entry point in this process, which has torch and Ray loaded already."""

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        arguments = ["wm", *map(str, args)]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, caught.value.code or 0, said.out, said.err)

    return run


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on stderr, with these words."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def write_config(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained network, in a run's folder."""
    config = RunConfig(model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="torch"))
    return save_run(tmp_path_factory.mktemp("cli") / "run", config)


def save_run(run: Path, config: RunConfig) -> Path:
    save_checkpoint(
        run / "checkpoints",
        model=build_model(config.model, 10),
        config=config,
        meta={"targets_seen": 5, "step": 1, "seconds": 0.1},
        resume={"optimizer": {}, "cursors": [{"epoch": 0, "pool": 0, "batch": 1}]},
        keep=1,
    )
    return run


def test_help_names_every_verb():
    done = installed_wm("--help")
    assert done.returncode == 0
    assert not done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [words[1] for words in lines if words[:1] == ["wm"] and len(words) > 2] == list(VERBS)


def test_help_imports_no_slow_module():
    script = (
        "import sys\nsys.argv = ['wm', '--help']\nfrom wm.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*{name.split('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    slow = {"torch", "ray", "pyarrow", "numpy", "pydantic", "yaml", "tyro", "rich", "plotly", "jinja2", "py7zr"}
    assert not slow & set(done.stdout.splitlines()[-1].split())


def test_help_into_a_pipe_whose_reader_is_gone_ends_without_a_word():
    for args in (("--help",), ("train", "--help"), ("synth", "--help")):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([WM, *args], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_help_without_a_standard_output_is_no_error():
    done = subprocess.run([f"{WM} --help >&-"], shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_verb_help_is_shown_and_the_exit_code_is_2(wm):
    done = wm()
    assert done.returncode == 2
    assert "wm demo" in done.stdout


def test_an_unknown_verb_is_named_beside_the_known_ones():
    assert_one_line(installed_wm("trian"), "unknown verb trian", *VERBS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: {learnin_rate: 1e-3}", ("run.yaml", "unknown key optimizer.learnin_rate", "did you mean")),
        ("optimizer: {batch_size: many}", ("run.yaml", "optimizer.batch_size", "'many'")),
        ("model: {kind: mlp}", ("run.yaml", "set objective.kind: window")),
    ],
    ids=["unknown key", "wrong type", "impossible combination"],
)
def test_a_mistake_in_a_config_is_one_line(wm, tmp_path, text, words):
    assert_one_line(wm("train", write_config(tmp_path, text)), "wm train:", *words)


def test_a_mistake_in_a_config_is_one_line_of_the_installed_command_too(tmp_path):
    done = installed_wm("train", write_config(tmp_path, "optimizer: {learnin_rate: 1e-3}"))
    assert_one_line(done, "wm train:", "run.yaml", "unknown key optimizer.learnin_rate")


def test_an_override_that_cannot_be_is_refused_without_a_traceback(wm, tmp_path):
    for override in (("--objective.context-frames", "500"), ("--optimizer.learning-rate", "fast")):
        done = wm("train", write_config(tmp_path, "seed: 1"), *override)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert override[1] in done.stderr


def test_a_number_out_of_range_is_refused_without_a_traceback(wm, tmp_path, checkpoint):
    for number in ("0", "-5"):
        assert_one_line(
            wm("eval", checkpoint, tmp_path, "--num-targets", number), f"--num-targets: found {number}, expected"
        )
    for option, value in (("--min-damage-percent", "nan"), ("--min-damage-percent", "inf"), ("--num-stocks", "-1")):
        done = wm("encode", tmp_path, "--out", tmp_path / "corpus", option, value)
        assert_one_line(done, "wm encode:", "expected")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("rollout RUN CORPUS --start x", "--start: found 'x', expected a whole number"),
        ("rollout RUN CORPUS --start=x", "--start: found 'x', expected a whole number"),
        ("rollout RUN CORPUS --num_frames 1.5", "--num-frames: found '1.5', expected a whole number"),
        ("rollout RUN CORPUS --rule mine", "--rule: found 'mine', expected ours or theirs"),
        ("rollout RUN CORPUS --num-frame 3", "unknown option --num-frame; did you mean --num-frames?"),
        ("rollout RUN CORPUS --nope 3", "unknown option --nope; see"),
        ("rollout RUN CORPUS MORE", "found 'MORE' beyond the arguments of wm rollout"),
        ("rollout RUN CORPUS --start 3 --start x", "--start: found 'x', expected a whole number"),
        ("rollout RUN CORPUS --start= --num-frames 5", "--start: found '', expected a whole number"),
        ("rollout RUN CORPUS --rule", "--rule: found no value, expected ours or theirs"),
        ("encode REPLAYS --output C", "unknown option --output; did you mean --out?"),
        ("encode REPLAYS --outt C", "unknown option --outt; did you mean --out?"),
        ("plan demo --games 100 --epochs 1 x", "--epochs: found '1' 'x', expected numbers"),
        ("choose-k S --metric foo", "--metric: found 'foo', expected change_acc or action_acc"),
        ("submit encode S --out C", "unknown option --out; arguments of the command that it runs go after --"),
        ("submit demo --fallback -x", "--fallback: a value that begins with - needs --fallback='-x'"),
        ("synth --out S --num-games -1", "num_games"),
        ("synth --out S --version 3.5", "3.5"),
        ("rollout RUN", "CORPUS is missing (corpus with the games to begin in"),
        ("encode REPLAYS", "--out is missing (folder or s3://, gs:// URI of the corpus"),
        ("encode REPLAYS --out", "--out: found no value, expected one"),
        ("encode REPLAYS --out C --min-damage-percent x", "--min-damage-percent: found 'x', expected a number"),
        ("watch RUN --stall x", "--stall: found 'x', expected a number"),
        ("corpus inf C", "ACTION: found 'inf', expected info or verify"),
        ("demo --replays", "--replays: found no value, expected a path"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line_that_says_what_to_do(wm, arguments, words):
    verb, *rest = arguments.split()
    assert_one_line(wm(verb, *rest), f"wm {verb}: ", words, f"see wm {verb}", "--help")


def test_a_shipped_config_is_found_by_its_name(wm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(wm("train", "demo", "--train-corpus", tmp_path), "wm train:", "holds no corpus.json")
    assert_one_line(wm("train", "demi"), "config demi does not exist", "demo", "mamba2-medium")
    assert_one_line(wm("sweep", "demi"), "config demi does not exist", "sweeps/context")
    assert_one_line(wm("submit", "demi"), "config demi does not exist", "demo")


@pytest.mark.parametrize("verb", ["train", "encode"])
def test_a_path_that_is_not_utf8_is_no_traceback(tmp_path, tiny_corpus, verb):
    out = os.fsencode(tmp_path) + b"/caf\xe9"
    args = ["train", "demo", "--train-corpus", tiny_corpus, "--out", out]
    if verb == "encode":
        args = ["encode", tmp_path / "none", "--out", out]
    done = subprocess.run([WM, *args], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("verb", ["synth", "encode"])
def test_sigterm_is_answered_with_one_line_and_exit_code_143(tmp_path, synthetic_replays, verb):
    args = ["synth", "--out", tmp_path / "out", "--num-games", "5000"]
    if verb == "encode":
        args = ["encode", synthetic_replays, "--out", tmp_path / "out"]
    process = subprocess.Popen([WM, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    resume = "; run the same command again to resume" if verb == "encode" else ""
    assert (process.returncode, errors) == (143, f"wm {verb}: stopped by SIGTERM{resume}\n")


def test_a_missing_config_is_one_line(wm, tmp_path):
    assert_one_line(wm("train", tmp_path / "none.yaml"), "none.yaml does not exist", "shipped configs")
    assert_one_line(wm("train"), "no config given", "wm train demo")


def test_training_on_what_is_no_corpus_is_one_line_and_leaves_no_folder(wm, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    config = write_config(tmp_path, "seed: 1")
    done = wm("train", config, "--train-corpus", tmp_path / "empty", "--out", out)
    assert_one_line(done, "holds no corpus.json", "wm encode")
    assert not out.exists()


def test_a_context_longer_than_any_game_is_one_line(wm, tmp_path, tiny_corpus):
    text = f"train_corpus: {tiny_corpus}\nout: {tmp_path / 'run'}\nobjective: {{sequence_frames: 90_000}}\n"
    text += "split: {validation_fraction: 0.4}\n"
    assert_one_line(wm("train", write_config(tmp_path, text)), "an example needs 90001", "sequence_frames")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_somebody_elses_is_left_alone(wm, tmp_path, tiny_corpus):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    text = f"train_corpus: {tiny_corpus}\nsplit: {{validation_fraction: 0.4}}\n"
    done = wm("train", write_config(tmp_path, text), "--out", tmp_path / "thesis")
    assert_one_line(done, "is not a run", "--out")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_a_split_without_games_is_one_line(wm, tmp_path, tiny_corpus):
    text = f"train_corpus: {tiny_corpus}\nsplit: {{test_fraction: 0.0, validation_fraction: 0.0}}\n"
    done = wm("train", write_config(tmp_path, text), "--out", tmp_path / "run")
    assert_one_line(done, "the validation split of", "holds none of its 12 games")


@pytest.fixture
def corpus_copy(tiny_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))


def test_a_half_written_corpus_is_one_line(wm, corpus_copy):
    (corpus_copy / CORPUS_FILE).rename(corpus_copy / "encoding.json")
    assert_one_line(wm("corpus", "info", corpus_copy), "half-written corpus", "wm encode")


def test_a_corpus_of_another_version_is_one_line(wm, corpus_copy):
    manifest = json.loads((corpus_copy / CORPUS_FILE).read_text())
    (corpus_copy / CORPUS_FILE).write_text(json.dumps(manifest | {"format_version": 99}))
    assert_one_line(wm("corpus", "info", corpus_copy), "corpus format 99", "encode the replays again")


def test_a_folder_that_is_no_corpus_is_one_line(wm, tmp_path, checkpoint):
    assert_one_line(wm("corpus", "info", tmp_path), "holds no corpus.json")
    assert_one_line(wm("eval", checkpoint, tmp_path), "wm eval:", "holds no corpus.json")


def test_a_checkpoint_that_is_missing_damaged_or_of_another_encoding_is_one_line(wm, tmp_path, tiny_corpus, checkpoint):
    assert_one_line(wm("eval", tmp_path, tiny_corpus), "is not a checkpoint")
    (path,) = (Path(shutil.copytree(checkpoint, tmp_path / "run")) / "checkpoints").iterdir()
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(
        json.dumps({name: value for name, value in meta.items() if name != "blake2b"} | {"encoding_version": 99})
    )
    assert_one_line(wm("eval", tmp_path / "run", tiny_corpus), "encoding 99", "and 2 or 3")
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "model.safetensors").write_bytes(b"no tensors")
    assert_one_line(wm("eval", tmp_path / "run", tiny_corpus), "does not hold this model's weights")


def test_judging_a_run_prints_a_table_and_writes_what_it_prints(wm, tmp_path, tiny_corpus, checkpoint):
    out = tmp_path / "new" / "eval.json"
    options = ("--split", "all", "--num-targets", "50", "--num-dreams", "8", "--context", "2", "--out", out)
    done = wm("eval", checkpoint, tiny_corpus, *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["num_targets"] == 50
    assert [row["predictor"] for row in result["results"]] == [
        "model",
        "repeat last frame",
        "last displacement",
        "last velocities",
    ]
    for row in result["results"]:
        assert f"{row['metrics']['pos_mae']['value']:.3f}" in done.stdout


def test_a_network_that_was_trained_with_the_kernels_of_a_gpu_is_judged_and_dreams_on_a_cpu(wm, tmp_path, tiny_corpus):
    model = ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="triton")
    run = save_run(tmp_path / "run", RunConfig(model=model))
    few = ("--split", "all", "--context", "2")
    assert wm("eval", run, tiny_corpus, *few, "--num-targets", "50", "--num-dreams", "0").returncode == 0
    assert wm("rollout", run, tiny_corpus, "--split", "all", "--game", "0", "--num-frames", "5").returncode == 0


def test_a_context_that_is_no_number_is_one_line(wm, tiny_corpus, checkpoint):
    done = wm("eval", checkpoint, tiny_corpus, "--split", "all", "--context", "ten")
    assert_one_line(done, "context 'ten'", "stream")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test wants missing")
def test_a_gpu_that_is_not_there_is_one_line(wm, tiny_corpus, checkpoint):
    assert_one_line(wm("eval", checkpoint, tiny_corpus, "--use-gpu"), "--use-gpu", "no CUDA device")
