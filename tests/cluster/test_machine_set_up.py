"""`cluster/setup/machine.sh` as it runs on a machine, with stand-ins for what needs a cloud's machine or root."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("zstd"), reason="archives are compressed by zstd")
ROOT = Path(__file__).parents[2]
STAND_INS = {
    # make gpu: builds an environment
    "make": 'echo "make $*" >>"$LOG"; [ -z "$MAKE_FAILS" ] || exit 2; mkdir -p .venv/bin; echo built >.venv/bin/wm',
    # AWS's command line, with buckets that are folders
    "aws": "a=${@: -2:1} b=${@: -1} a=${a/#s3:\\//$BUCKETS} b=${b/#s3:\\//$BUCKETS}; "
    'mkdir -p "$(dirname "$b")"; cp "$a" "$b"',
    "sudo": 'echo "$*" >>"$LOG"; case $1 in install) shift 4; mkdir -p "$DISK/$(basename "$1")" ;; esac',
    "lsblk": 'case $1 in -dnpo) printf "$DISKS" ;; *) echo "$MOUNTED" ;; esac',
}


class Machine:
    """A machine with the files of a checkout, before its set-up."""

    def __init__(self, folder: Path, name: str) -> None:
        self.home = folder / name
        self.project = self.home / "melee-world-model"
        self.log = self.home / "log"
        tools = self.home / "bin"
        (self.project / "cluster" / "setup").mkdir(parents=True)
        (self.home / ".ray").mkdir()
        (self.home / ".ray" / "auth_token").write_text("0" * 64)
        tools.mkdir()
        for file in ("pyproject.toml", "constraints.txt", "Makefile", "cluster/setup/machine.sh"):
            shutil.copy(ROOT / file, self.project / file)
        for tool, script in STAND_INS.items():
            (tools / tool).write_text(f"#!/usr/bin/env bash\n{script}\n")
            (tools / tool).chmod(0o755)
        self.environ = {
            "HOME": str(self.home), "LOG": str(self.log), "BUCKETS": str(folder / "buckets"), "DISK": str(self.home),
            "DISKS": "", "MOUNTED": "", "MAKE_FAILS": "", "WM_STORAGE": "s3://bucket/melee",
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def set_up(self, **environ: str) -> subprocess.CompletedProcess[str]:
        script = self.project / "cluster" / "setup" / "machine.sh"
        return subprocess.run(
            ["bash", str(script)], env=os.environ | self.environ | environ, text=True, capture_output=True, check=False
        )

    def done(self, what: str) -> int:
        """How often a command that begins so was run."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.startswith(what) for line in lines)


@pytest.fixture
def first(tmp_path) -> Machine:
    return Machine(tmp_path, "first")


def test_the_environment_is_built_once_and_unpacked_by_every_later_machine(first, tmp_path):
    assert first.set_up().returncode == 0
    second = Machine(tmp_path, "second")
    assert second.set_up().returncode == 0
    assert (first.done("make"), second.done("make")) == (1, 0)
    assert (second.project / ".venv" / "bin" / "wm").read_text() == "built\n"
    assert not list(second.project.glob(".unpacked*"))


def test_a_second_set_up_of_a_machine_changes_nothing(first):
    first.set_up()
    made = (first.project / ".venv").stat().st_ino
    assert first.set_up().returncode == 0
    assert first.done("make") == 1
    assert (first.project / ".venv").stat().st_ino == made
    assert (first.home / ".bashrc").read_text().count("wm_environment") == 1


def test_new_dependencies_are_built_again(first):
    first.set_up()
    with (first.project / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert first.set_up().returncode == 0
    assert first.done("make") == 2


def test_a_build_that_fails_ends_the_set_up_and_is_not_stored(first, tmp_path):
    assert first.set_up(MAKE_FAILS="1").returncode == 2
    assert not list(tmp_path.glob("buckets/**/*.zst"))


def test_a_storage_that_cannot_be_written_does_not_end_the_set_up(first, tmp_path):
    (tmp_path / "buckets").write_text("no folder")
    done = first.set_up()
    assert done.returncode == 0
    assert "could not be stored" in done.stderr


def test_a_shared_folder_serves_as_storage(first, tmp_path):
    first.set_up(WM_STORAGE=str(tmp_path / "shared"))
    second = Machine(tmp_path, "second")
    second.set_up(WM_STORAGE=str(tmp_path / "shared"))
    assert second.done("make") == 0


def test_ray_and_its_jobs_inherit_the_storage_and_the_tokens_mode(first):
    first.set_up()
    shown = subprocess.run(
        ["bash", "-c", '. ~/.wm_environment && echo "$WM_STORAGE $RAY_AUTH_MODE ${PATH%%:*}"'],
        env=first.environ, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert shown.stdout.split() == ["s3://bucket/melee", "token", str(first.project / ".venv" / "bin")]
    assert stat.S_IMODE((first.home / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_a_machine_without_storage_is_not_set_up(first):
    done = first.set_up(WM_STORAGE="")
    assert done.returncode != 0
    assert "WM_STORAGE" in done.stderr


DISKS = "/dev/nvme0n1 Amazon Elastic Block Store\\n/dev/nvme1n1 Amazon EC2 NVMe Instance Storage\\n"


def test_the_instance_disks_become_one_and_hold_the_cache(first):
    first.set_up(DISKS=DISKS + "/dev/nvme2n1 Amazon EC2 NVMe Instance Storage\\n")
    assert first.done("mdadm --create /dev/md0 --run --level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1") == 1
    assert first.done("mkfs.ext4 -q -F -E nodiscard /dev/md0") == 1
    assert first.done("mount -o noatime,discard /dev/md0 /fast") == 1
    assert os.readlink(first.home / ".cache" / "melee-world-model") == "/fast/melee-world-model"


def test_disks_that_the_image_has_mounted_are_used_and_not_formatted(first):
    mounted = first.home / "nvme"
    first.set_up(DISKS=DISKS, MOUNTED=str(mounted))
    assert first.done("mkfs") == 0
    assert os.readlink(first.home / ".cache" / "melee-world-model") == str(mounted / "melee-world-model")


def test_a_machine_without_such_disks_keeps_its_cache_on_the_root_disk(first):
    first.set_up()
    assert not (first.home / ".cache" / "melee-world-model").is_symlink()
