"""Machines for tests of a cluster, each a set of Linux namespaces of this machine, and the switch between them.

A machine has an own network interface and address, process ids, host name, /tmp, /dev/shm and home folder; it shares
nothing with the others but the read-only use of this machine's files (the checkout and the Python environment). It can
be cut from the network and lose its power. Needs root.

Network namespaces are named wm-TOKEN-NAME, so `ip netns exec wm-1f3a9c02-head bash` looks into a running test. Each
network holds a lock while it is open. A lock that nobody holds is that of a killed test, whose namespaces the next
network removes. Process ids would not tell: another run on this computer may have a process table of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parents[3]
INIT = Path(__file__).with_name("machine_init.py")
VENV_BIN = Path(sys.executable).parent
NETNS = Path("/run/netns")
LOCKS = Path("/run/wm-networks")
"""One file per network that is open, or whose test was killed."""
SHUTDOWN = "kill -USR2 1"
"""Shell command that ends the machine on which it runs."""
HOME = "/tmp/home"
"""Home folder of every machine, on its own /tmp."""


class Machine:
    """A host with an address, its own processes and its own /tmp.

    Attributes:
        name: also its host name.
        address: of its only interface besides loopback.
        environment: variables of all commands that run on it.
    """

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.name, self.address, self._network = name, address, network
        self.namespace = f"{network.prefix}-{name}"
        self.environment: dict[str, str] = {
            "PATH": f"{VENV_BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": HOME,
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._outside: list[subprocess.Popen[str]] = []
        self._connect()
        unshare = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        visible = [str(ROOT), sys.prefix, sys.base_prefix]
        self._outer = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *unshare, sys.executable, INIT, name, address, *visible],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._outer.stdout is not None
        if (printed := self._outer.stdout.readline()) != "ready\n":
            raise OSError(f"machine {name} did not start: {printed}{self._outer.communicate()[0]}")
        self._init = psutil.Process(self._outer.pid).children()[0].pid
        self._pid_namespace = os.readlink(f"/proc/{self._init}/ns/pid")

    def _connect(self) -> None:
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        link = ["link", "add", "eth0", "type", "veth", "peer", "name", self.name, "netns", self._network.switch]
        run("ip", "-n", self.namespace, *link)
        run("ip", "-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self.namespace, "link", "set", "eth0", "up")
        run("ip", "-n", self._network.switch, "link", "set", self.name, "master", "bridge", "up")

    def start(
        self, command: Sequence[str | Path], log: IO[str] | int | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command on the machine. Signals to the returned process do not reach it; see `processes`."""
        # nsenter waits outside, and stops itself when its child is stopped.
        enter = ["nsenter", f"--target={self._init}", "--mount", "--uts", "--ipc", "--net", "--pid", f"--wdns={HOME}"]
        process = subprocess.Popen(
            [*enter, "--", *command],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._outside = [one for one in self._outside if one.poll() is None] + [process]
        return process

    def run(self, *command: str | Path, **environment: str) -> str:
        """Run a command on the machine; returns what it printed.

        Raises:
            CalledProcessError: its exit code was not 0.
        """
        process = self.start(command, subprocess.PIPE, **environment)
        printed = process.communicate()[0]
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, printed)
        return printed

    def path(self, path: str) -> Path:
        """A file of the machine, as a path outside of it. Links to absolute paths lead elsewhere."""
        return Path(f"/proc/{self._init}/root", path.lstrip("/"))

    def processes(self, pattern: str = "") -> dict[int, str]:
        """Process id outside of the machine -> command line, of its processes whose command line has the pattern."""
        found = {}
        for process in psutil.process_iter(["pid"]):
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == self._pid_namespace and process.pid != self._init:
                    line = " ".join(process.cmdline())
                    if line and re.search(pattern, line):
                        found[process.pid] = line
        return found

    def kill(self, pattern: str, number: signal.Signals = signal.SIGKILL) -> list[int]:
        """Send a signal to the machine's processes whose command line has the pattern; returns their ids."""
        pids = list(self.processes(pattern))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def is_on(self) -> bool:
        """Whether the machine runs."""
        return self._outer.poll() is None

    def set_link(self, *, up: bool) -> None:
        """Plug the network cable in, or pull it."""
        run("ip", "-n", self._network.switch, "link", "set", self.name, "up" if up else "down")

    def lose_power(self) -> None:
        """End the machine at once: nobody gets a packet from it, and its disk is gone."""
        self.set_link(up=False)
        self.remove()

    def remove(self) -> None:
        """End all of its processes and remove its namespace."""
        self._network.machines.pop(self.name, None)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        while self._outer.poll() is None:
            for process in self._outside:  # the namespace ends when they have reaped their children
                process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        assert self._outer.stdin is not None and self._outer.stdout is not None
        self._outer.stdin.close()
        self._outer.stdout.close()
        while self.processes():  # the kernel ends them, which takes a moment
            time.sleep(0.01)
        # The namespace itself ends later, when the kernel has dropped its last connection.
        run("ip", "-n", self._network.switch, "link", "delete", self.name)
        run("ip", "netns", "delete", self.namespace)


class Network:
    """A switch and the machines that are connected to it. Nothing leads out of it; see `forwarding`."""

    def __init__(self) -> None:
        self.prefix = f"wm-{secrets.token_hex(4)}"
        with _changing_locks():
            _remove_networks_of_the_dead()
            self._lock = (LOCKS / self.prefix).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.switch = f"{self.prefix}-switch"
        self.machines: dict[str, Machine] = {}
        self._num_addresses = 0
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "bridge", "up")

    def add(self, name: str, address: str | None = None) -> Machine:
        """Start a machine, on a new address unless one is given. Names have up to 15 characters."""
        self._num_addresses += 1
        machine = Machine(self, name, address or f"10.77.0.{self._num_addresses}")
        self.machines[name] = machine
        return machine

    def close(self) -> None:
        """Remove everything."""
        for machine in list(self.machines.values()):
            machine.remove()
        with _changing_locks():
            _remove_namespaces(self.prefix)
            self._lock.close()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network that is removed at the end, also when a machine could not be started."""
    opened = Network()
    try:
        yield opened
    finally:
        opened.close()


def run(*command: str) -> str:
    """Run a command of this machine; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def namespaces(prefix: str) -> list[str]:
    """Names of the network namespaces of the network with a prefix."""
    return sorted(path.name for path in NETNS.glob(f"{prefix}-*"))


@contextlib.contextmanager
def _changing_locks() -> Iterator[None]:
    """While no other process adds or removes a lock."""
    LOCKS.mkdir(exist_ok=True)
    with LOCKS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_namespaces(prefix: str) -> None:
    """Remove a network's namespaces and its lock."""
    for name in namespaces(prefix):
        run("ip", "netns", "delete", name)
    (LOCKS / prefix).unlink()


def _remove_networks_of_the_dead() -> None:
    """Remove the namespaces that killed tests left; their processes ended with them."""
    for path in LOCKS.iterdir():
        # Its network is open, or Linux does not let its namespaces go: then the next network tries again.
        with path.open() as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_namespaces(path.name)


def reason_for_no_machines() -> str | None:
    """Why this computer cannot run machines; None if it can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces; run it as root"
    if missing := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"needs the commands {' and '.join(missing)} (Debian, Ubuntu: iproute2, util-linux)"
    try:
        with network() as opened:
            opened.add("probe")
    except OSError as error:
        return f"cannot make network namespaces here: {error}"
    return None
