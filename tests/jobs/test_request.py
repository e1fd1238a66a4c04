"""`wm submit` without a cluster: the command, the name, the package, and mistakes."""

import os
import re
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from cluster import follow as follow_module
from cluster import package as package_module
from cluster import submit as submit_module
from cluster.client import _auth_headers, resolve_address, token_error
from cluster.errors import ClusterError
from cluster.package import package
from cluster.request import SubmitRequest, entrypoint, job_name
from cluster.submit import submit
from datasets.runtime.errors import UserError
from wm import cli as wm_cli


@pytest.fixture
def request_(tmp_path):
    config = tmp_path / "configs" / "small run.yaml"
    config.parent.mkdir()
    config.write_text("model: {d_model: 384}\nseed: 1\n")
    return SubmitRequest(config=config, working_dir=tmp_path)


def test_the_command_is_wm_train_with_the_config_relative_to_the_working_dir_and_quoted_overrides(request_):
    request = replace(request_, overrides=("--trainer.max-hours", "8", "--note", "a b"))
    assert entrypoint(request) == "wm train 'configs/small run.yaml' --trainer.max-hours 8 --note 'a b'"
    assert entrypoint(replace(request_, command=("sweep",))) == "wm sweep 'configs/small run.yaml'"


def test_an_encode_has_no_config_and_its_name_depends_on_its_arguments(tmp_path):
    request = SubmitRequest(command=("encode",), overrides=("s3://b/a b", "--out", "/m/c"), working_dir=tmp_path)
    assert entrypoint(request) == "wm encode 's3://b/a b' --out /m/c"
    assert re.fullmatch(r"encode-[0-9a-f]{8}", job_name(request))
    assert job_name(replace(request, name="dump")).startswith("encode-dump-")
    assert job_name(replace(request, overrides=("s3://b/x", "--out", "/m/c"))) != job_name(request)


@pytest.mark.parametrize(
    ("arguments", "entrypoint_"),
    [
        (["s3://b/r", "--", "--out", "/m/c", "--keep-paths"], "wm encode s3://b/r --out /m/c --keep-paths"),
        (["--", "/m/r", "gs://b/r", "--out", "s3://b/c"], "wm encode /m/r gs://b/r --out s3://b/c"),
    ],
)
def test_the_command_line_submits_an_encode_with_its_flags(arguments, entrypoint_, tmp_path, monkeypatch):
    submitted = []
    monkeypatch.setattr(submit_module, "submit_and_follow", lambda request: submitted.append(request) or 0)
    assert wm_cli.submit(["encode", *arguments]) == 0
    assert entrypoint(replace(submitted[0], working_dir=tmp_path)) == entrypoint_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my/replays", "--", "--out", "/m/c"], r"source my/replays is a path on this machine; expected an absolute"),
        (["s3://b/r", "--", "--out", "corpora/c"], r"--out corpora/c is a path on this machine"),
        (["--", "--out", "/m/c"], r"no source given"),
        (["s3://b/r", "--", "--out", "/m/c", "--memory", "much"], r"memory is 'much'"),
    ],
)
def test_a_mistake_in_an_encode_is_found_before_it_is_submitted(arguments, message):
    with pytest.raises(UserError, match=message):
        wm_cli.submit(["encode", *arguments])


@pytest.mark.parametrize(
    ("arguments", "entrypoint_"),
    [
        (["{run}"], "wm train run.yaml"),
        (["train", "{run}", "--", "--seed", "1"], "wm train run.yaml --seed 1"),
        (["sweep", "{sweep}", "--", "--out", "/shared/x", "--retry-failed"],
         "wm sweep sweep.yaml --out /shared/x --retry-failed"),
    ],
)  # fmt: skip
def test_the_command_line_submits_runs_and_sweeps(arguments, entrypoint_, tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    (tmp_path / "sweep.yaml").write_text("axes: {seed: [1, 2]}\n")
    submitted = []
    monkeypatch.setattr(submit_module, "submit_and_follow", lambda request: submitted.append(request) or 0)
    names = {"run": tmp_path / "run.yaml", "sweep": tmp_path / "sweep.yaml"}
    assert wm_cli.submit([a.format(**names) for a in arguments] + ([] if "--" in arguments else ["--"])) == 0
    assert entrypoint(replace(submitted[0], working_dir=tmp_path)) == entrypoint_


@pytest.mark.parametrize(
    ("content", "message"),
    [("axes: {sed: [1, 2]}\n", "axes.sed: a run has no such field"), ("model: {}\n", "unknown key model")],
)
def test_a_mistake_in_a_sweep_is_found_before_anything_is_uploaded(content, message, tmp_path):
    (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        wm_cli.submit(["sweep", str(tmp_path / "sweep.yaml"), "--address", "http://127.0.0.1:1"])


def test_a_name_is_readable_and_changes_only_with_verb_config_values_and_overrides(request_):
    name = job_name(request_)
    assert name.startswith("train-small-run-")
    request_.config.write_text("# the same values\nseed: 1\nmodel:\n  d_model: 384\n")
    assert job_name(request_) == name
    others = [replace(request_, overrides=("--seed", "2")), replace(request_, command=("sweep",))]
    assert len({name, *map(job_name, others)}) == 3
    request_.config.write_text("model: {d_model: 512}\nseed: 1\n")
    assert job_name(request_) != name
    assert job_name(replace(request_, name="tonight/1")).startswith("train-tonight-1-")


def test_the_package_holds_code_and_configs_and_the_same_code_gives_the_same_bytes(request_, tmp_path):
    for path in (".venv/a.py", ".git/a.py", "runs/a.json", "shared/a.md", "x.egg-info/a.txt", "wm/a.py",
                 ".env.yaml", "a.slp", "a.parquet", "report/a.html", "wm/runs/a.py"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    config = request_.config.relative_to(tmp_path)
    first = package(tmp_path, config, tmp_path / "first.zip")
    assert zipfile.ZipFile(first).namelist() == ["configs/small run.yaml", "report/a.html", "wm/a.py", "wm/runs/a.py"]
    (tmp_path / "wm/a.py").touch()
    assert package(tmp_path, config, tmp_path / "second.zip").read_bytes() == first.read_bytes()


def test_a_config_in_a_skipped_folder_is_uploaded(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/again.yaml").write_text("seed: 1")
    archive = package(tmp_path, Path("runs/again.yaml"), tmp_path / "out.zip")
    assert zipfile.ZipFile(archive).namelist() == ["runs/again.yaml"]


def test_a_shipped_config_is_named_and_not_uploaded(request_, tmp_path_factory):
    shipped = tmp_path_factory.mktemp("site-packages") / "demo.yaml"
    shipped.write_text("seed: 1")
    assert entrypoint(replace(request_, config=shipped, is_shipped=True)) == "wm train demo"
    assert job_name(replace(request_, config=shipped, is_shipped=True)).startswith("train-demo-")


def test_a_file_name_that_is_not_utf8_is_refused_by_its_name(request_, tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    with pytest.raises(ClusterError, match=r"the file name 'caf\\udce9\.txt' in .* is not valid UTF-8"):
        submit(replace(request_, address="http://127.0.0.1:1"))


def test_a_checkout_with_data_under_a_code_suffix_is_refused_by_the_name_of_the_file(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(package_module, "MAX_PACKAGE_BYTES", 1000)
    (tmp_path / "dump.json").write_text("0" * 1001)
    with pytest.raises(ClusterError, match=r"the largest file is dump\.json; expected at most"):
        submit(request_)


def test_mistakes_about_the_config_are_one_line_and_need_no_cluster(request_, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("elsewhere") / "a.yaml"
    outside.write_text("seed: 1")
    broken, listed = tmp_path / "broken.yaml", tmp_path / "list.yaml"
    broken.write_text("a: [1,\nb: 2")
    listed.write_text("- 1")
    for config, message in [
        (outside, "is outside the working dir"),
        (tmp_path / "none.yaml", "is not a file"),
        (broken, "is not YAML"),
        (listed, "contains a list; expected a YAML mapping"),
    ]:
        with pytest.raises(ClusterError, match=message) as refused:
            submit(replace(request_, config=config, address="http://127.0.0.1:1"))
        assert "\n" not in str(refused.value)


def test_an_address_without_an_answer_or_that_is_no_url_is_one_line_with_a_remedy(request_, monkeypatch):
    with pytest.raises(ClusterError, match=r"nothing answers .* start one \(`ray up cluster.yaml`\)"):
        submit(replace(request_, address="http://127.0.0.1:1"))
    for address in ("auto", "10.0.0.1:6379", "ray://10.0.0.1:10001", "http://", "http://host:port"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=r"RAY_ADDRESS is .*; expected the URL of the Jobs API"):
            resolve_address(None)
    assert resolve_address("http://127.0.0.1:8265/") == "http://127.0.0.1:8265"
    monkeypatch.delenv("RAY_ADDRESS")
    assert resolve_address(None) == "http://127.0.0.1:8265"


@contextmanager
def _serving(answer):
    """A web server on loopback that answers one request; None is a 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, format, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join()


@pytest.mark.parametrize("answer", [b"hello", b"{}", b"[1]", None])
def test_a_server_that_is_not_ray_is_reported_as_such(request_, answer):
    with _serving(answer) as url, pytest.raises(ClusterError, match="is not Ray's Jobs API"):
        submit(replace(request_, address=url))


def test_token_mode_without_a_token_is_one_line_even_if_the_cluster_needs_none(request_):
    with _serving(b'{"ray_version": "2.60.0"}') as url:
        code = f"from cluster.client import connect; connect({url!r})"
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/such/token"}
        environment.pop("RAY_AUTH_TOKEN", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert "ClusterError: RAY_AUTH_MODE is token, but there is none (/no/such/token: No such file" in done.stderr


def test_a_token_is_read_from_where_ray_reads_it_and_never_shown(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _auth_headers() == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of-home\n")
    assert _auth_headers() == {"Authorization": "Bearer of-home"}
    (tmp_path / "other").write_text("of-path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert _auth_headers() == {"Authorization": "Bearer of-path"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert _auth_headers() == {"Authorization": "Bearer of-variable"}
    assert "of-variable" not in str(token_error("http://h:1"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert _auth_headers() == {}


def test_importing_the_package_imports_no_ray():
    code = "import cluster.submit, sys; sys.exit('ray' in sys.modules or 'aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FlakyClient:
    """A Jobs API whose connection breaks in the middle of the log; each tail starts at the beginning."""

    def __init__(self, tails, status):
        self.tails, self.status = iter(tails), status

    def get_job_info(self, job_id):
        return SimpleNamespace(status=self.status, driver_exit_code=127)

    async def tail_job_logs(self, job_id):
        for piece in next(self.tails):
            if piece is None:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield piece


@pytest.fixture
def follow_flaky(monkeypatch):
    def run(tails, status):
        monkeypatch.setattr(follow_module, "connect", lambda address: FlakyClient(tails, status))
        monkeypatch.setattr(follow_module, "RETRY_WAIT_S", 0.0)
        written = []
        return follow_module.follow("job", "http://h:1", written.append), "".join(written)

    return run


def test_a_broken_connection_is_reopened_and_no_line_is_written_twice(follow_flaky):
    tails = [["one\n", None], [None], ["one\ntw", "o\nthr", None], ["o", "ne\ntwo\n", "three\n"]]
    assert follow_flaky(tails, JobStatus.SUCCEEDED) == (0, "one\ntwo\nthree\n")


def test_the_error_for_a_lost_connection_says_that_the_job_may_still_run(follow_flaky):
    with pytest.raises(ClusterError, match="may still be running"):
        follow_flaky([[None]] * 20, JobStatus.RUNNING)


def test_a_head_node_without_wm_is_explained(follow_flaky, capsys):
    assert follow_flaky([["wm: not found\n"]], JobStatus.FAILED)[0] == 1
    assert "`wm` is not on the PATH of the head node" in capsys.readouterr().out


def test_a_job_is_submitted_again_until_the_head_nodes_agent_has_registered(request_, monkeypatch):
    answers = iter([RuntimeError(f"Request failed with status code 500: {submit_module.NO_AGENT}."), "job-1"])

    def submit_job(**_):
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    client = SimpleNamespace(submit_job=submit_job, list_jobs=list)
    monkeypatch.setattr(submit_module, "connect", lambda address: client)
    monkeypatch.setattr(submit_module, "RETRY_WAIT_S", 0.0)
    assert submit(request_) == "job-1"
    answers = iter([RuntimeError("Request failed with status code 500: no space left")])
    with pytest.raises(ClusterError, match=r"refused the request: .* no space left"):
        submit(request_)
