"""`wm submit` without a cluster: the command, the name, the package, and mistakes."""

import os
import re
import shlex
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
from checkouts import track
from ray.job_submission import JobStatus

from cluster import cli as cluster_cli
from cluster.card.run_card import parse_card
from cluster.jobs import follow as follow_module
from cluster.jobs import package as package_module
from cluster.jobs import submit as submit_module
from cluster.jobs.client import _auth_headers, connect, resolve_address, token_error
from cluster.jobs.package import package, tracked_upload, with_files
from cluster.jobs.request import SubmitRequest, entrypoint, job_name, upload_of
from cluster.jobs.submit import submit
from datasets.runtime.errors import UserError


@pytest.fixture
def request_(tmp_path):
    config = tmp_path / "configs" / "small run.yaml"
    config.parent.mkdir()
    config.write_text("model: {d_model: 384}\nseed: 1\n")
    track(tmp_path)
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


def dry_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of the `ray job submit` line for a command."""
    assert cluster_cli.submit([*arguments[:1], "--dry-run", "--address", "http://127.0.0.1:1", *arguments[1:]]) == 0
    return shlex.split(capsys.readouterr().out.splitlines()[-1])


def in_zip(line: list[str], name: str) -> bytes:
    """A file of the zip that a `ray job submit` line names."""
    return zipfile.ZipFile(line[line.index("--working-dir") + 1]).read(name)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["encode", "s3://b/r", "--", "--out", "/m/c", "--keep-paths"], "wm encode s3://b/r --out /m/c --keep-paths"),
        (["encode", "--", "/m/r", "gs://b/r", "--out", "s3://b/c"], "wm encode /m/r gs://b/r --out s3://b/c"),
        (["run.yaml"], "wm train run.yaml"),
        (["train", "run.yaml", "--", "--seed", "1"], "wm train run.yaml --seed 1"),
        (["train", "demo", "--", "--train-corpus", "s3://b/c", "--out", "/m/r"],
         "wm train demo --train-corpus s3://b/c --out /m/r"),
        (["sweep", "sweep.yaml", "--", "--out", "/m/x", "--retry-failed"],
         "wm sweep sweep.yaml --out /m/x --retry-failed"),
        (["sweep", "sweep.yaml", "--", "--out", "s3://b/sweeps/x"], "wm sweep sweep.yaml --out s3://b/sweeps/x"),
        (["eval", "/m/runs/1", "s3://b/c", "--", "--all"], "wm eval /m/runs/1 s3://b/c --all"),
    ],
)  # fmt: skip
def test_the_command_line_submits_every_verb(arguments, command, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text("train_corpus: /m/c\nout: /m/r\n")
    (tmp_path / "sweep.yaml").write_text("base: {train_corpus: /m/c}\naxes: {seed: [1, 2]}\n")
    track(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--retries", "5", "--budget", "60", "--why", "a check"]
    line = dry_run([*arguments[:1], *options, *arguments[1:]], capsys)
    card = parse_card(in_zip(line, "card.json"), "card.json")
    assert card.command_line() == command
    assert (card.limits.retries, card.limits.budget_usd, card.why) == (5, 60, "a check")
    assert line[line.index("--submission-id") + 1] == card.job


@pytest.mark.parametrize(
    "arguments",
    [["--why", "a check", "sweep", "sweep.yaml"], ["--why=a check", "sweep", "sweep.yaml"],
     ["sweep", "--why", "a check", "sweep.yaml"], ["sweep", "sweep.yaml", "--why", "a check"],
     ["--why", "a check", "sweep", "--profile", "/m/p", "--profile", "/m/q", "--upload-anyway", "x", "sweep.yaml"]],
)  # fmt: skip
def test_options_may_stand_before_the_verb_between_it_and_its_config_or_after_them(
    arguments, tmp_path, monkeypatch, capsys
):
    (tmp_path / "sweep.yaml").write_text("base: {train_corpus: /m/c}\naxes: {seed: [1, 2]}\nout: /m/x\n")
    track(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cluster_cli.submit(["--dry-run", "--address", "http://127.0.0.1:1", *arguments]) == 0
    card = parse_card(in_zip(shlex.split(capsys.readouterr().out.splitlines()[-1]), "card.json"), "card.json")
    assert (card.command_line(), card.why) == ("wm sweep sweep.yaml", "a check")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["encode", "my/replays", "--", "--out", "/m/c"],
            r"source my/replays is a path on this machine; expected an abs",
        ),
        (["encode", "s3://b/r", "--", "--out", "corpora/c"], r"--out corpora/c is a path on this machine"),
        (["encode", "--", "--out", "/m/c"], r"no source given"),
        (["encode", "s3://b/r", "--", "--out", "/m/c", "--memory", "much"], r"--memory 'much'"),
        (["train", "run.yaml"], r"out runs/run is a path on this machine; .* such as --out s3://b/wm/runs/run$"),
        (["run.yaml", "--", "--out", "s3://b/r", "--train-corpus", "c"], r"train_corpus c is a path on this machine"),
        (["run.yaml", "--", "--out", "/r", "--data.disk-cache", "c"], r"disk_cache c .* on each node's own disk"),
        (["sweep", "sweep.yaml"], r"out runs/sweep is a path on this machine; .* --out s3://b/wm/runs/sweep$"),
        (["sweep", "sweep.yaml", "--", "--out", "/x", "--base.train-corpus", "c"], r"base.train_corpus c is a path"),
        (["eval", "runs/1", "/m/c"], "checkpoint runs/1 is a path on this machine"),
        (["eval", "s3://b/r", "s3://b/c"], "no --out given; expected an absolute path"),
        (["eval", "s3://b/r", "s3://b/c", "--", "--out", "e.json"], "out e.json is a path on this machine"),
        (["run.yaml", "--", "--out", "s3://KEY:HIDDEN@b/r"], r"the command has a key and secret in a URI \(s3://"),
        (["run.yaml", "sweep.yaml"], "found 2 configs; expected one"),
        (["run.yaml", "--retries", "-1"], "retries: found -1, expected a number greater than or equal to 0"),
    ],
)
def test_a_mistake_in_a_command_is_found_before_it_is_submitted(arguments, message, tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text("train_corpus: /m/c\n")
    (tmp_path / "sweep.yaml").write_text("base: {train_corpus: /m/c}\naxes: {seed: [1, 2]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WM_STORAGE", "s3://b/wm")
    with pytest.raises(UserError, match=message) as refused:
        cluster_cli.submit(arguments)
    assert "\n" not in str(refused.value) and "HIDDEN" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("axes: {sed: [1, 2]}\n", "axes.sed: a run has no such field"), ("model: {}\n", "unknown key model")],
)
def test_a_mistake_in_a_sweep_is_found_before_anything_is_uploaded(content, message, tmp_path):
    (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        cluster_cli.submit(["sweep", str(tmp_path / "sweep.yaml"), "--address", "http://127.0.0.1:1"])


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


def names_in(archive: Path) -> list[str]:
    return zipfile.ZipFile(archive).namelist()


def packed(checkout: Path, **options) -> list[str]:
    return names_in(package(tracked_upload(checkout), checkout / "out.zip", **options))


def test_the_package_holds_exactly_what_git_tracks_and_the_same_code_gives_the_same_bytes(request_, tmp_path):
    for path in ("wm/a.py", "wm/runs/a.py", "data.bin", "run.sh", "gone.py", "staged only.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "run.sh").chmod(0o755)
    track(tmp_path)
    (tmp_path / "gone.py").unlink()
    (tmp_path / "wm/a.py").write_text("changed")
    (tmp_path / "notes.txt").write_text("not tracked")
    (tmp_path / "new.py").write_text("not tracked")
    upload = upload_of(request_)
    first = package(upload, tmp_path / "first.zip")
    expected = ["configs/small run.yaml", "data.bin", "run.sh", "staged only.py", "wm/a.py", "wm/runs/a.py"]
    assert names_in(first) == expected
    assert zipfile.ZipFile(first).read("wm/a.py") == b"changed"
    assert zipfile.ZipFile(first).getinfo("run.sh").external_attr >> 16 == 0o755
    assert upload.left_out == ("git does not track new.py: not uploaded",)
    (tmp_path / "wm/a.py").touch()
    assert package(upload_of(request_), tmp_path / "second.zip").read_bytes() == first.read_bytes()


SECRETS = (".env", "gcp-key.json", "id_rsa", ".aws/credentials", "prod.env", "tls/server.pem")


def test_a_zip_is_extended_by_a_card_and_keeps_what_was_packed_although_the_files_have_changed(request_, tmp_path):
    code = package(upload_of(request_), tmp_path / "code.zip")
    packed = {name: zipfile.ZipFile(code).read(name) for name in zipfile.ZipFile(code).namelist()}
    request_.config.write_text("seed: 2\n")
    extended = zipfile.ZipFile(with_files(code, tmp_path / "job.zip", {"card.json": b"{}"}))
    assert {name: extended.read(name) for name in extended.namelist()} == packed | {"card.json": b"{}"}
    assert zipfile.ZipFile(code).namelist() == list(packed), "the first zip stays as it is"
    with pytest.raises(UserError, match="the checkout has a file card"):
        with_files(tmp_path / "job.zip", tmp_path / "again.zip", {"card.json": b"{}"})


def test_secrets_that_git_does_not_track_are_not_uploaded(request_, tmp_path):
    for name in SECRETS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("SECRET")
    archive = package(upload_of(request_), tmp_path / "out.zip")
    assert names_in(archive) == ["configs/small run.yaml"]
    assert b"SECRET" not in archive.read_bytes()


PEM_HEADER = "-----BEGIN RSA " + "PRIVATE KEY-----"
AWS_KEY = "AKIA" + "Q3EGR5XYZ2TWAB7C"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        *((name, "x", "its (name|folder)") for name in SECRETS),
        (".aws/config", "x", "its folder"),
        ("service-account-2.json", "{}", "its name"),
        ("wm/keys.py", f'KEY = """{PEM_HEADER}"""', "it holds a private key"),
        ("notes.md", f"use {AWS_KEY}.", "it holds an AWS access key"),
        ("ci.yaml", "token: ghp_" + "a1B2" * 9, "it holds a token of GitHub"),
    ],
)
def test_a_tracked_file_that_looks_like_a_secret_is_refused_by_its_name(name, content, why, request_, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    track(tmp_path, "-f", name)
    with pytest.raises(UserError, match=rf"^{re.escape(name)} is tracked .* \({why}\); expected none") as refused:
        submit(replace(request_, address="http://127.0.0.1:1"))
    assert AWS_KEY not in str(refused.value)
    assert name in packed(tmp_path, anyway=[name])


def test_what_only_resembles_a_secret_is_uploaded(tmp_path):
    contents = {
        ".env.example": "TOKEN=", "keyboard.json": "{}", "environment.py": "x", "docs.md": "AKIAIOSFODNN7EXAMPLE",
        "public.txt": "-----BEGIN PUBLIC KEY-----", "wm/aws.py": "AKIA", ".gitignore": ".env",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    track(tmp_path)
    assert packed(tmp_path) == sorted(contents)


def test_links_stand_for_copies_of_tracked_files_and_others_are_left_out(tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("SECRET")
    (tmp_path / "wm").mkdir()
    (tmp_path / "wm/a.py").write_text("x")
    (tmp_path / ".env").write_text("SECRET")
    for link, target in {"b.py": "wm/a.py", "package": "wm", "c": ".env", "d": outside, "e": "nothing"}.items():
        (tmp_path / link).symlink_to(target)
    track(tmp_path, "wm", "b.py", "package", "c", "d", "e")
    upload = tracked_upload(tmp_path)
    assert names_in(package(upload, tmp_path / "out.zip")) == ["b.py", "package/a.py", "wm/a.py"]
    assert [line.split()[0] for line in upload.left_out] == ["c", "d", "e"]


def test_a_submodule_is_uploaded_and_one_that_is_not_checked_out_is_named(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for folder in (inner, outer):
        folder.mkdir()
        (folder / f"{folder.name}.py").write_text("x")
        track(folder)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    subprocess.run([*git, "-C", str(inner), "commit", "-qm", "first"], check=True)
    subprocess.run([*git, "-C", str(outer), "submodule", "--quiet", "add", str(inner), "sub"], check=True)
    assert packed(outer) == [".gitmodules", "outer.py", "sub/inner.py"]
    subprocess.run([*git, "-C", str(outer), "submodule", "--quiet", "deinit", "-f", "sub"], check=True)
    upload = tracked_upload(outer)
    assert sorted(upload.files) == [".gitmodules", "outer.py"]
    assert upload.left_out == ("the submodule sub is not checked out here, and not uploaded",)


def test_a_config_that_git_does_not_track_is_uploaded(request_, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/again.yaml").write_text("seed: 1")
    archive = package(upload_of(replace(request_, config=tmp_path / "runs/again.yaml")), tmp_path / "out.zip")
    assert names_in(archive) == ["configs/small run.yaml", "runs/again.yaml"]


def test_without_a_checkout_only_the_config_is_uploaded_and_code_without_git_is_refused(tmp_path, monkeypatch):
    config = tmp_path / "tonight.yaml"
    config.write_text("seed: 1")
    (tmp_path / ".env").write_text("SECRET")
    monkeypatch.chdir(tmp_path)
    request = SubmitRequest(config=config, address="http://127.0.0.1:1")
    upload = upload_of(request)
    assert list(upload.files) == ["tonight.yaml"]
    assert "is no git checkout: only the config is uploaded, and the cluster's own wm runs" in upload.left_out[0]
    assert entrypoint(request) == "wm train tonight.yaml"
    with pytest.raises(UserError, match=r"not a git repository.*expected a git checkout.*`git init && git add \.`"):
        submit(replace(request, working_dir=tmp_path))
    (tmp_path / "wm").mkdir()
    (tmp_path / "wm/__init__.py").touch()
    with pytest.raises(UserError, match="expected a git checkout"):
        submit(request)
    track(tmp_path, "wm", "tonight.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"git is not installed.*expected a git checkout"):
        submit(request)


def test_a_shipped_config_is_named_and_not_uploaded(request_, tmp_path_factory):
    shipped = tmp_path_factory.mktemp("site-packages") / "demo.yaml"
    shipped.write_text("seed: 1")
    assert entrypoint(replace(request_, config=shipped, is_shipped=True)) == "wm train demo"
    assert job_name(replace(request_, config=shipped, is_shipped=True)).startswith("train-demo-")


def test_a_file_name_that_is_not_utf8_is_refused_by_its_name(request_, tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    track(tmp_path)
    with pytest.raises(UserError, match=r"the file name 'caf\\udce9\.txt' is not valid UTF-8"):
        submit(replace(request_, address="http://127.0.0.1:1"))


def test_a_checkout_with_data_in_git_is_refused_by_the_name_of_the_file(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(package_module, "MAX_PACKAGE_BYTES", 1000)
    (tmp_path / "dump.json").write_text("0" * 1001)
    track(tmp_path)
    with pytest.raises(UserError, match=r"the largest file is dump\.json; expected at most"):
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
        with pytest.raises(UserError, match=message) as refused:
            submit(replace(request_, config=config, address="http://127.0.0.1:1"))
        assert "\n" not in str(refused.value)


def test_an_address_without_an_answer_or_that_is_no_url_is_one_line_with_a_remedy(request_, monkeypatch):
    with pytest.raises(UserError, match=r"nothing answers .* start one \(`ray up cluster.yaml`\)"):
        submit(replace(request_, address="http://127.0.0.1:1"))
    for address in ("auto", "10.0.0.1:6379", "ray://10.0.0.1:10001", "http://", "http://host:port"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=r"RAY_ADDRESS is .*; expected the URL of the Jobs API"):
            resolve_address(None)
    assert resolve_address("http://127.0.0.1:8265/") == "http://127.0.0.1:8265"
    monkeypatch.delenv("RAY_ADDRESS")
    assert resolve_address(None) == "http://127.0.0.1:8265"


@contextmanager
def _serving(answer, location=None):
    """A web server on loopback that answers one request; None is a 404, a location a redirect."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if location else 404 if answer is None else 200)
            if location:
                self.send_header("Location", location)
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
    with _serving(answer) as url, pytest.raises(UserError, match="is not Ray's Jobs API"):
        submit(replace(request_, address=url))


def test_token_mode_without_a_token_is_one_line_even_if_the_cluster_needs_none(request_):
    with _serving(b'{"ray_version": "2.60.0"}') as url:
        code = f"from cluster.jobs.client import connect; connect({url!r})"
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/such/token"}
        environment.pop("RAY_AUTH_TOKEN", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert "UserError: RAY_AUTH_MODE is token, but there is none (/no/such/token: No such file" in done.stderr


def test_a_token_is_read_from_where_ray_reads_it_and_never_shown(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _auth_headers(LOOPBACK) == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of-home\n")
    assert _auth_headers(LOOPBACK) == {"Authorization": "Bearer of-home"}
    (tmp_path / "other").write_text("of-path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert _auth_headers(LOOPBACK) == {"Authorization": "Bearer of-path"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert _auth_headers(LOOPBACK) == {"Authorization": "Bearer of-variable"}
    assert "of-variable" not in str(token_error("http://h:1"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert _auth_headers(LOOPBACK) == {}


LOOPBACK = "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8265", "http://head.example:80", "http://0.0.0.0:1", "http://[fe80::1]:1"]
)
def test_a_token_never_travels_over_plain_http_to_another_machine(url, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        UserError, match=r"is plain http.*expected https, or a forwarded port: `ray dashboard"
    ) as refused:
        connect(url)
    assert "hidden" not in str(refused.value)
    for safe in ("https://head.example", "http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1"):
        assert _auth_headers(safe) == {"Authorization": "Bearer hidden"}


def test_a_token_goes_neither_to_a_proxy_nor_along_a_redirect(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    with _serving(b"other", location="http://127.0.0.1:1/elsewhere") as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1:1 "):
            connect("http://127.0.0.1:1")
        with pytest.raises(UserError, match=r"is not Ray's Jobs API \(it returned HTTP 302\)"):
            connect(proxy)


def test_importing_the_package_imports_no_ray():
    code = "import cluster.jobs.submit, sys; sys.exit('ray' in sys.modules or 'aiohttp' in sys.modules)"
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
    with pytest.raises(UserError, match="may still be running"):
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
    with pytest.raises(UserError, match=r"refused the request: .* no space left"):
        submit(request_)
