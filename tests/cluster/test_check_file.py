"""What `wm preflight --local` says about cluster files."""

import shutil
from pathlib import Path

import pytest

from cluster.files.check_file import check_cluster_file
from cluster.files.checks import Check, worst
from cluster.files.cost import most_expensive_hour
from cluster.files.read import load_cluster_file
from datasets.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"


@pytest.fixture
def laptop(tmp_path, monkeypatch) -> Path:
    """A laptop with the checkout, credentials, tools and a token; returns its home folder."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("ssh", "rsync"):
        (tools / tool).symlink_to(shutil.which("true") or "/bin/true")
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.chdir(ROOT)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o600)
    return tmp_path


def edited(laptop: Path, *changes: tuple[str, str]) -> Path:
    """The project's cluster.yaml, filled in, with changes of its text."""
    text = FILE.read_text().replace("CHANGE_ME", "my-bucket")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = laptop / "cluster.yaml"
    path.write_text(text)
    return path


def named(checks: list[Check], name: str) -> Check:
    (found,) = (check for check in checks if check.name == name)
    return found


def test_the_shipped_file_is_red_for_its_bucket_alone(laptop):
    red = [check for check in check_cluster_file(FILE) if check.state == "red"]
    number = next(n for n, line in enumerate(FILE.read_text().splitlines(), 1) if "WM_STORAGE=s3://CHANGE_ME" in line)
    assert [check.name for check in red] == ["fields to change"]
    assert red[0].found.startswith(f"line {number}: ")


def test_a_filled_in_file_has_only_prices_open_and_with_them_the_bound_of_an_hour(laptop):
    path = edited(laptop)
    assert [check.name for check in check_cluster_file(path) if check.state != "green"] == ["an hour at most"]
    prices = {"p4d.24xlarge": 30.0, "m7i.8xlarge": 2.0, "m7i.xlarge": 0.5}
    found = named(check_cluster_file(path, prices), "an hour at most").found
    assert found == "4 workers and the head node; no price of p4de.24xlarge"
    prices["p4de.24xlarge"] = 40.0
    checks = check_cluster_file(path, prices)
    assert worst(checks) == "green"
    assert named(checks, "an hour at most").found == "160.50 USD: 4 x p4de.24xlarge, 1 x m7i.xlarge"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Ray's schema", ("max_workers: 4\n\n#", "max_worker: 4\n\n#")),
        ("Ray's schema", ("head_node_type: head", "head_node_type: no-such-type")),
        ("file_mounts", ("~/melee-world-model/wm: wm", "~/melee-world-model/wm: no-such-folder")),
        ("token", ("  ~/.ray/auth_token: ~/.ray/auth_token", "")),
        ("commands", ("ulimit -Sn 65536 ||", "ulimit -Sn 65536 || (")),
        ("dashboard", ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")),
        ("storage", ("WM_STORAGE=s3://my-bucket/melee timeout", "timeout")),
        ("storage", ("WM_STORAGE=s3://", "WM_STORAGE=runs/")),
        ("bucket", ("my-bucket", "My_Bucket")),
        ("region", ("us-west-2 ", "us-wets-2 ")),
        ("instance profiles", ("IamInstanceProfile: *worker_profile", "EbsOptimized: true")),
        ("shutdown", ("InstanceInitiatedShutdownBehavior: terminate", "EbsOptimized: true")),
        ("SSH", ("  type: external", "  type: aws\n  x_module: none\n  #")),
    ],
)
def test_what_would_cost_money_or_leak_is_red(laptop, name, change):
    changes = [change]
    if name == "SSH":
        changes.append(("  module: cluster.aws.provider.BoundedAWSNodeProvider", ""))
    check = named(check_cluster_file(edited(laptop, *changes)), name)
    assert check.state == "red"
    assert check.expected


def test_a_token_that_is_missing_short_or_readable_by_others_is_red(laptop):
    path, token = edited(laptop), laptop / ".ray" / "auth_token"
    token.chmod(0o644)
    assert named(check_cluster_file(path), "token").advice == "chmod 600 ~/.ray/auth_token"
    token.write_text("secret")
    assert "shorter" in named(check_cluster_file(path), "token").found
    token.unlink()
    assert "wm cluster prepare" in named(check_cluster_file(path), "token").advice


def test_a_machine_without_ssh_is_red(laptop, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(shutil.which("bash") or "").parent / "nowhere"))
    path = edited(laptop)
    monkeypatch.setattr("cluster.files.check_file.commands", lambda config: iter(()))
    assert "no ssh, no rsync" in named(check_cluster_file(path), "tools of this machine").found


def test_the_dearest_hour_keeps_to_the_limits_of_the_file_and_of_each_type():
    config = load_cluster_file(FILE)
    prices = {"p4d.24xlarge": 50.0, "p4de.24xlarge": 40.0, "m7i.8xlarge": 2.0, "m7i.xlarge": 0.5}
    assert most_expensive_hour(config, prices).machines == "4 x p4d.24xlarge, 1 x m7i.xlarge"
    assert most_expensive_hour(config | {"max_workers": 1}, prices).usd == 50.5
    assert most_expensive_hour(config | {"max_workers": 40}, prices).usd == 4 * 50 + 4 * 40 + 4 * 2 + 0.5


def test_a_file_that_is_none_is_one_line(tmp_path):
    broken = tmp_path / "cluster.yaml"
    broken.write_text("{ a: [")
    with pytest.raises(UserError, match="no YAML"):
        check_cluster_file(broken)
    with pytest.raises(UserError, match="No such file"):
        check_cluster_file(tmp_path / "missing.yaml")


def test_at_most_three_fields_of_each_shipped_file_have_to_be_changed():
    for path in (FILE, *sorted((ROOT / "cluster").glob("*.yaml"))):
        values = [
            line.partition(" #")[0] for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        assert sum("CHANGE_ME" in value for value in values) <= 3, path
