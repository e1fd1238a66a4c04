"""`wm submit` against a real head node on loopback, with the Jobs API and a token."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from checkouts import copy_of_the_code, track
from head_node import VENV_BIN, head_node
from lossy_proxy import lossy_proxy
from sweep_kills import running_trials
from tiny_sweeps import ENDLESS, seen_by, tiny_sweep
from waiting import wait_until

from cluster import cli as cluster_cli
from cluster.jobs.client import connect
from cluster.jobs.follow import SIGNAL_POLL_S, follow
from cluster.jobs.submit import SubmitRequest, submit, submit_and_follow
from datasets.corpus.reader import open_corpus
from datasets.runtime.errors import UserError
from tune.results.sweep_folder import open_sweep
from tune.search.trials import trials_of
from wm.config.typed_yaml import to_plain

ROOT = Path(__file__).resolve().parents[2]

FAKE_WM = """
import json, sys, time
from pathlib import Path

def main():
    print("ran", json.dumps({"argv": sys.argv[1:], "file": __file__}))
    files = [path.as_posix() for path in Path().rglob("*") if path.is_file() and path.suffix != ".pyc"]
    print("files", json.dumps(sorted(files)), flush=True)
    config = json.loads(Path("card.json").read_text())["config"] if sys.argv[1] == "watch" else sys.argv[2]
    first_line = Path(config).read_text().splitlines()[0]
    if first_line == "# silent":
        time.sleep(300)
    if first_line == "# steady":
        for number in range(3000):
            print("line", number, flush=True)
            time.sleep(0.1)
    return 3 * ("--fail" in sys.argv)
"""
"""A `wm` in the uploaded folder that prints how it was called; it must take precedence over the installed one.

The first line of the config says what it does then."""

WAIT_S = 300.0
"""For something that ends as soon as it can; longer than it takes on a busy machine."""


@pytest.fixture(scope="module")
def head():
    with head_node() as head:
        yield head


@pytest.fixture
def with_token(head, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token_path))


@pytest.fixture
def request_(head, with_token, tmp_path):
    """A small checkout with files that must not be uploaded, and a request to run its config on the head node."""
    checkout = tmp_path / "checkout"
    for path in (".venv/lib/x.py", ".git/config.yaml", "runs/1/r.json", "corpora/a/corpus.json",
                 "shared/x.md", "wm/__pycache__/c.py", "replay.slp", "frames.parquet", ".env", "key.pem",
                 "wm/__init__.py", "pyproject.toml"):  # fmt: skip
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).touch()
    (checkout / "wm/cli.py").write_text(FAKE_WM)
    config = checkout / "configs" / "tiny.yaml"
    config.parent.mkdir()
    config.write_text(f"# short\nout: {tmp_path / 'run'}\ntrain_corpus: {tmp_path}\n")
    track(checkout, "wm/__init__.py", "wm/cli.py", "pyproject.toml")
    return SubmitRequest(config=config, working_dir=checkout, address=head.url)


def _printed(output: str, word: str):
    return json.loads(re.search(rf"^{word} (.*)$", output, re.MULTILINE)[1])


def test_a_job_runs_wm_train_with_config_and_overrides_from_the_uploaded_code_and_its_log_comes_back(request_, capsys):
    request = replace(request_, overrides=("--trainer.lr", "1e-3", "--note", "two words; $HOME"))
    assert submit_and_follow(request) == 0
    output = capsys.readouterr().out
    ran = _printed(output, "ran")
    assert ran["argv"] == ["train", "configs/tiny.yaml", "--trainer.lr", "1e-3", "--note", "two words; $HOME"]
    assert str(request.working_dir) not in ran["file"], "the upload must run, not the folder it was made of"
    assert "runtime_resources/working_dir_files" in ran["file"]
    assert output.count("\nran ") == 1
    assert _printed(output, "files") == ["configs/tiny.yaml", "pyproject.toml", "wm/__init__.py", "wm/cli.py"]
    assert re.search(r"submitted train-tiny-[0-9a-f]{8};", output)


def test_a_job_that_fails_gives_exit_code_1_and_can_be_tried_again_under_a_new_name(request_, capsys):
    request = replace(request_, overrides=("--fail",))
    assert submit_and_follow(request) == 1
    assert "FAILED" in capsys.readouterr().out
    assert re.fullmatch(r"train-tiny-[0-9a-f]{8}-2", submit(request))


def test_a_request_whose_answer_is_lost_is_made_again_and_starts_one_job(request_, head):
    listing, start = ("GET", "/api/jobs/"), ("POST", "/api/jobs/")
    with lossy_proxy(head.url) as proxy:
        proxy.to_lose = {listing: 1, start: 1}
        request = replace(request_, address=proxy.url)
        job_id = submit(request)
        assert proxy.lost == [listing, start]
        assert follow(job_id, head.url) == 0
    ids = [job.submission_id for job in connect(head.url).list_jobs() if job.submission_id.startswith(job_id)]
    assert ids == [job_id]


def test_a_connection_that_stays_lost_is_one_line(request_, head, monkeypatch):
    waited = []  # by a clock that goes on during the waits between requests alone
    clock = SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append)
    monkeypatch.setattr("cluster.jobs.submit.time", clock)
    with lossy_proxy(head.url) as proxy:
        proxy.to_lose = {("GET", "/api/jobs/"): math.inf}
        with pytest.raises(UserError, match=rf"lost the connection to {proxy.url} .* within 20 s") as lost:
            submit(replace(request_, address=proxy.url))
        assert len(proxy.lost) == 1 + len(waited) > 20
    _is_one_line(lost)


@pytest.fixture(params=["silent", "steady"])
def long_request(request, request_):
    """A request for a job that prints its first lines and then nothing for five minutes, or ten lines a second."""
    request_.config.write_text(f"# {request.param}\n{request_.config.read_text()}")
    return request_


@pytest.fixture
def running_job(long_request):
    """The id of such a job, which has printed its first lines."""
    client = connect(long_request.address)
    job_id = submit(long_request)
    try:
        wait_until(lambda: "files" in (client.get_job_logs(job_id) or ""), "the job's first lines", WAIT_S)
        yield job_id
        assert client.get_job_status(job_id) == "RUNNING"
    finally:
        client.stop_job(job_id)


@pytest.mark.parametrize("long_request", ["silent"], indirect=True)
def test_a_second_submission_of_a_running_job_is_refused(long_request, running_job):
    with pytest.raises(UserError, match=rf"already RUNNING as {running_job}") as refused:
        submit(long_request)
    _is_one_line(refused)


def test_ctrl_c_ends_following_at_once_even_if_it_interrupts_no_system_call(running_job, head, capsys):
    """The signal goes to another thread, so that it never wakes up the main thread; the job runs for minutes."""
    assert SIGNAL_POLL_S < 1
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    try:
        for _ in range(3):
            followed = threading.Event()

            def send(followed=followed):
                followed.wait(WAIT_S)
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # in any case: following must end

            threading.Thread(target=send).start()
            assert follow(running_job, head.url, lambda _text, followed=followed: followed.set()) == 130
            assert followed.is_set()
            assert f"{running_job} keeps running" in capsys.readouterr().out
    finally:
        signal.signal(signal.SIGINT, inherited)


@pytest.mark.parametrize(
    ("long_request", "number", "exit_code", "message"),
    [
        ("steady", signal.SIGINT, 130, ""),
        ("steady", signal.SIGTERM, 143, "wm submit: stopped by SIGTERM\n"),
        ("silent", signal.SIGTERM, 143, "wm submit: stopped by SIGTERM\n"),
    ],
    ids=["Ctrl-C, steady", "SIGTERM, steady", "SIGTERM, silent"],
    indirect=["long_request"],
)
def test_a_signal_ends_wm_submit_and_leaves_the_job_running(long_request, number, exit_code, message):
    options = ["--working-dir", long_request.working_dir, "--address", long_request.address]
    command = [sys.executable, "-m", "wm.cli", "submit", long_request.config, "--no-preflight", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    job_id = None
    try:
        for line in process.stdout:
            if match := re.match("submitted ([^;]+);", line):
                job_id = match[1]
            if line.startswith("files"):
                break
        process.send_signal(number)
        printed, errors = process.communicate(timeout=WAIT_S)
        assert (process.returncode, errors) == (exit_code, message)
        assert f"{job_id} keeps running; log: wm logs" in printed
        assert connect(long_request.address).get_job_status(job_id) == "RUNNING"
    finally:
        process.kill()
        connect(long_request.address).stop_job(job_id)


def test_plain_ray_job_submit_runs_the_same_command(request_, head):
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_path)}
    command = [
        VENV_BIN / "ray",
        "job",
        "submit",
        "--address",
        head.url,
        "--working-dir",
        request_.working_dir,
    ]
    done = subprocess.run(
        [*command, "--", "wm", "train", "configs/tiny.yaml"],
        env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _printed(done.stdout, "ran")["argv"] == ["train", "configs/tiny.yaml"]


@pytest.mark.parametrize("token", [None, "wr0ng"])
def test_without_the_right_token_a_submission_is_refused_in_one_line(request_, tmp_path, monkeypatch, token):
    token_path = tmp_path / "other_token"
    if token:
        token_path.write_text(token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token_path))
    with pytest.raises(UserError, match="requires the cluster's token") as refused:
        submit(request_)
    _is_one_line(refused)
    assert ("no token was sent" in str(refused.value)) == (token is None)
    assert "wr0ng" not in str(refused.value), "a message must not show a token"


def test_following_an_unknown_job_is_one_line(head, with_token):
    with pytest.raises(UserError, match="has no job train-nothing") as refused:
        follow("train-nothing-00000000", head.url)
    _is_one_line(refused)


def test_an_address_in_the_request_wins_over_ray_address(request_, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    connect(request_.address).list_jobs()
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1:1 "):
        submit(replace(request_, address=None))


def test_wm_train_runs_as_a_job(head, with_token, tiny_corpus, tmp_path, capfd):
    """The real `wm train` on a real corpus, from a copy of this checkout's code."""
    checkout, out = copy_of_the_code(tmp_path), tmp_path / "runs" / "tiny"
    config = checkout / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_train_config(tiny_corpus, out)))
    request = SubmitRequest(config=config, working_dir=checkout, address=head.url)
    assert submit_and_follow(request) == 0, capfd.readouterr().out
    meta = json.loads(max(out.glob("checkpoints/*/meta.json")).read_text())
    assert meta["finished"] and meta["targets_seen"] >= 2_000


@pytest.mark.slow
def test_wm_encode_runs_as_a_job_on_all_cpus_of_the_cluster(head, with_token, synthetic_replays, tmp_path, capfd):
    out = tmp_path / "corpus"
    arguments = ["encode", str(synthetic_replays), "--no-preflight", "--address", head.url]
    arguments += ["--working-dir", str(copy_of_the_code(tmp_path)), "--", "--out", str(out), "--keep-paths"]
    assert cluster_cli.submit(arguments) == 0, capfd.readouterr().out
    printed = capfd.readouterr().out
    assert "encoding on 1 node with 8 CPUs" in printed
    assert "starts its own Ray" not in printed
    corpus = open_corpus(out)
    assert corpus.games.num_rows > 0
    assert all(corpus.games["path"].to_pylist())


@pytest.mark.slow
def test_ray_job_stop_saves_the_trials_of_a_sweep(head, with_token, tiny_corpus, tmp_path):
    checkout, out = copy_of_the_code(tmp_path), tmp_path / "sweep"
    config = checkout / "sweep.yaml"
    sweep = tiny_sweep(tiny_corpus, out, ENDLESS)
    config.write_text(yaml.safe_dump(to_plain(sweep)))
    request = SubmitRequest(config=config, command=("sweep",), working_dir=checkout, address=head.url)
    client, job_id = connect(head.url), submit(request)
    trials = [Path(trial.config.out) for trial in trials_of(sweep)]
    wait_until(lambda: all(seen_by(trial) > 128 for trial in trials))
    client.stop_job(job_id)
    wait_until(lambda: client.get_job_status(job_id) == "STOPPED")
    wait_until(lambda: not running_trials(out))
    manifest = open_sweep(out)
    assert [manifest.status(name).state for name in manifest.trials] == ["interrupted", "interrupted"]
    for trial in trials:
        meta = json.loads(max(trial.glob("checkpoints/*/meta.json")).read_text())
        assert meta["targets_seen"] > 128 and not meta["finished"]


def tiny_train_config(corpus: Path, out: Path) -> dict:
    """The smallest run of `wm train` on one CPU worker."""
    return {
        "train_corpus": str(corpus),
        "out": str(out),
        "model": {"kind": "mamba2", "d_model": 32, "num_layers": 1, "d_state": 16},
        "objective": {"sequence_frames": 16},
        "optimizer": {"total_targets": 2_000, "warmup_targets": 500, "batch_size": 16},
        "eval": {"contexts": [5], "num_targets": 100, "validation_targets": 50, "every_targets": 1_000},
    }


def _is_one_line(error: pytest.ExceptionInfo) -> None:
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)
