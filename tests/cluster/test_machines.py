"""The machines of these tests: separate from each other, and gone at the end, however a test ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from forwarding import Forward
from machines import Network, namespaces, network

SUPPORT = Path(__file__).resolve().parents[1] / "support/cluster"
TALK = "import socket, sys; print(socket.create_connection((sys.argv[1], 9000), 2).recv(9).decode(), end='')"
SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 9000))
print("listening", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""
UNTIL_KILLED = f"""
import sys; sys.path.insert(0, {str(SUPPORT)!r})
from machines import network
with network() as opened:
    machine = opened.add("doomed")
    machine.start(["sleep", "1000"])
    while not machine.processes("sleep 1000"):
        pass
    print(opened.prefix, *machine.processes(), flush=True)
    input()
"""
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.usefixtures("machines")]


def serve(opened: Network, name: str):
    """A machine that says hello on port 9000."""
    machine = opened.add(name)
    process = machine.start([sys.executable, "-c", SERVE], subprocess.PIPE)
    assert process.stdout.readline() == "listening\n"
    return machine


def test_machines_reach_each_other_by_address_until_the_cable_is_pulled():
    with network() as opened:
        server, client = serve(opened, "server"), opened.add("client")
        assert client.run(sys.executable, "-c", TALK, server.address) == "hello"
        server.set_link(up=False)
        with pytest.raises(subprocess.CalledProcessError):
            client.run(sys.executable, "-c", TALK, server.address)
        server.set_link(up=True)
        assert client.run(sys.executable, "-c", TALK, server.address) == "hello"


def test_a_machine_sees_its_own_processes_files_and_name_only():
    with network() as opened:
        one, two = opened.add("one"), opened.add("two")
        one.path("/tmp/mine").write_text("secret")
        assert "mine" in one.run("ls", "/tmp") and "mine" not in two.run("ls", "/tmp")
        assert two.run("hostname") == "two\n"
        assert two.run("ps", "-A", "-o", "comm=").split()[-1] == "ps"
        assert len(two.run("ps", "-A", "-o", "pid=").split()) == 2, "its first process and ps"
        resolve = "import socket; print(socket.gethostbyname(socket.gethostname()))"
        assert two.run(sys.executable, "-c", resolve) == f"{two.address}\n"


def test_a_forwarded_port_leads_to_the_machine_also_after_it_was_replaced():
    def answer(port: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", TALK.replace("9000", str(port)), "127.0.0.1"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip

    with network() as opened:
        server = serve(opened, "server")
        with Forward(server, 9000) as forward:
            assert answer(forward.port) == "hello"
            server.lose_power()
            assert answer(forward.port) == ""
            serve(opened, "server")
            assert answer(forward.port) == "hello"


def test_nothing_is_left_of_machines_after_a_failure():
    interfaces = set(os.listdir("/sys/class/net"))
    with pytest.raises(ZeroDivisionError), network() as opened:
        machine = opened.add("one")
        # what a daemon does to survive
        machine.run("setsid", "sh", "-c", "sleep 1000 > /dev/null 2>&1 &")
        (pid,) = machine.processes("sleep 1000")
        raise ZeroDivisionError
    assert not psutil.pid_exists(pid)
    assert not namespaces(opened.prefix)
    assert set(os.listdir("/sys/class/net")) == interfaces


def test_nothing_is_left_of_machines_whose_test_was_killed():
    process = subprocess.Popen(
        [sys.executable, "-c", UNTIL_KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    prefix, *pids = process.stdout.readline().split()
    pids = [int(pid) for pid in pids]
    assert pids
    with network():
        assert len(namespaces(prefix)) == 2, "the machine and its switch, whose test still runs"
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    with network():
        assert not namespaces(prefix), (
            "the next network of this computer, perhaps that of another run, has removed them"
        )


def test_a_machine_with_a_stopped_process_ends_too():
    with network() as opened:
        machine = opened.add("one")
        process = machine.start(["sleep", "1000"])
        while not machine.kill("sleep 1000", signal.SIGSTOP):
            time.sleep(0.01)
    assert process.wait(timeout=60)
