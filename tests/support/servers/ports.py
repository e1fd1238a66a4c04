"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_000)
"""Below the range from which Linux takes the local ports of connections (net.ipv4.ip_local_port_range, from 32768): a
server may bind its port many seconds after it was chosen, when a connection of another test could have it."""


def free_ports(num_ports: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports of a host on which nothing listens."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == num_ports:
            return found
    raise OSError(f"{host} has no {num_ports} free ports between {PORTS.start} and {PORTS.stop}")


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
