"""Machines of the tests with an SSH server, for cluster files that connect to them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from machines import HOME, ROOT, VENV_BIN, Machine

SSHD = "/usr/sbin/sshd"
START_TIMEOUT_S = 60
CONFIG = """
HostKey {home}/host_key
PidFile none
AuthorizedKeysFile {home}/.ssh/authorized_keys
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv {variables}
"""


def reason_for_no_ssh() -> str | None:
    """Why this computer cannot run SSH servers; None if it can."""
    missing = [name for name in (SSHD, "/usr/bin/ssh", "/usr/bin/rsync") if not Path(name).exists()]
    return f"needs {' and '.join(missing)} (Debian, Ubuntu: openssh-server, openssh-client, rsync)" if missing else None


def make_key(path: Path) -> str:
    """Create a key pair; returns the public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


def serve_ssh(machine: Machine, public_key: str) -> None:
    """Start an SSH server on a machine, whose sessions have the machine's variables."""
    home = machine.path(HOME)
    make_key(home / "host_key")
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh/authorized_keys").write_text(public_key)
    (home / ".ssh/authorized_keys").chmod(0o600)
    machine.path("/run/sshd").mkdir(mode=0o755)
    variables = " ".join(f'{name}="{value}"' for name, value in machine.environment.items() if name != "HOME")
    (home / "sshd_config").write_text(CONFIG.format(home=HOME, variables=variables))
    with (home / "sshd.log").open("w") as log:
        server = machine.start([SSHD, "-D", "-e", "-f", f"{HOME}/sshd_config"], log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while "listening" not in (printed := (home / "sshd.log").read_text()):
        if server.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"no SSH server on {machine.name}: {printed}")
        time.sleep(0.05)


def prepare_box(machine: Machine) -> None:
    """What `cluster/setup/machine.sh` finds on a machine where it has installed the environment before."""
    home = machine.path(HOME)
    (home / "bin").mkdir()
    (home / "bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')  # the boxes' user is root
    (home / "bin/sudo").chmod(0o755)
    (home / ".bashrc").write_text(f"export PATH={HOME}/bin:$PATH\n")
    environment = home / "melee-world-model/.venv"
    environment.mkdir(parents=True)
    (environment / "bin").symlink_to(VENV_BIN)
    hashed = (
        "{ cat pyproject.toml constraints.txt Makefile && python3 --version && uname -m; } | sha256sum | cut -c1-16"
    )
    (environment / ".key").write_text(machine.run("bash", "-lc", f"cd {ROOT} && {hashed}"))
