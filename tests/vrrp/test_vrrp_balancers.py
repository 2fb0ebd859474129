"""Two load balancers on hosts of their own: the one that has the address listens, and its death is announced."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from lan import DEVICE, Host, Lan, needs_lan, until

VIP, PORT = "10.77.0.100", 8080
INTERVAL = 1.0
PREFERRED, OTHER = 254, 240
SKEW = INTERVAL * (256 - OTHER) / 256
SLACK_SECONDS = 2.5
"""For a busy machine; less than the three intervals after which b would serve anyway."""

SERVER = """
import contextlib, socket
listener = socket.create_server(("0.0.0.0", 9000))
while True:
    connection, (peer, _) = listener.accept()
    with contextlib.suppress(OSError), connection:  # a health check hangs up at once
        connection.sendall(peer.encode())
"""
"""Tells each client which load balancer it came through."""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b", "client") as lan:
        lan.host("client").python("-c", SERVER)
        yield lan


def start(host: Host, server: Host, priority: int, log: Path) -> None:
    host.python(
        *("-m", "scaleup.lb", "--listen", f"{VIP}:{PORT}", "--server", f"{server.ipv4}:9000"),
        *("--vip", f"{VIP}/24", "--interface", DEVICE, "--priority", str(priority)),
        *("--interval", str(INTERVAL), "--drain", "0"),
        log=log,
    )


def served_by(client: Host) -> str | None:
    """The address of the load balancer that answers at the virtual one; None: nobody."""
    with client.entered():
        sock = socket.socket()
    with sock:
        sock.settimeout(0.5)  # in the gap nobody answers, and TCP itself would ask again after a second
        try:
            sock.connect((VIP, PORT))
            return sock.recv(100).decode() or None
        except OSError:
            return None


@needs_lan()
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_when_a_load_balancer_dies_the_other_serves_within_a_skew(
    lan: Lan, number: signal.Signals, tmp_path: Path
) -> None:
    a, b, client = map(lan.host, ("a", "b", "client"))
    logs = tmp_path / "a.log", tmp_path / "b.log"
    start(a, client, PREFERRED, logs[0])
    try:
        until(lambda: served_by(client) == a.ipv4, "a serves")
        start(b, client, OTHER, logs[1])
        until(lambda: "initialize → backup" in logs[1].read_text(), "b takes part")
        node = a.processes[-1]
        node.send_signal(number)  # the node alone: its vrrp process has to see it and to say so
        took = until(lambda: served_by(client) == b.ipv4, "b serves", SKEW + SLACK_SECONDS)
        print(f"{number.name}: b serves after {took * 1000:.0f} ms; the skew is {SKEW * 1000:.0f} ms")
        assert not a.has(VIP)
        assert client.neighbour(VIP) == b.mac
    finally:
        for log in logs:
            print(log.read_text() if log.exists() else "")


@needs_lan()
def test_it_serves_again_when_its_interface_was_made_anew(lan: Lan, tmp_path: Path) -> None:
    a, b, client = map(lan.host, ("a", "b", "client"))
    logs = tmp_path / "a.log", tmp_path / "b.log"
    start(a, client, PREFERRED, logs[0])
    until(lambda: served_by(client) == a.ipv4, "a serves")
    start(b, client, OTHER, logs[1])
    until(lambda: "initialize → backup" in logs[1].read_text(), "b takes part")
    lan.disconnect(a)
    until(lambda: served_by(client) == b.ipv4, "b serves")
    lan.connect(a)
    until(lambda: served_by(client) == a.ipv4, "a serves again")
    until(lambda: not b.has(VIP), "b has given way")
    assert not [
        line for line in logs[0].read_text().splitlines() if "Traceback" in line or " vrrp ERROR" in line
    ]
