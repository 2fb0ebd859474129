"""Ports for processes that have to be told theirs."""

from __future__ import annotations

import errno
import itertools
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench import ports
from bench.ports import free_port, free_ports

ROOT = Path(__file__).parents[2]


def test_no_port_is_given_twice_in_a_row_nor_one_that_the_kernel_could_give_a_client() -> None:
    found = [free_port() for _ in range(50)]
    clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(found)) == 50
    assert all(10_000 <= port < clients for port in found)


def begin_with(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next port that is looked at."""
    monkeypatch.setattr(ports, "_counter", itertools.count(port - ports._FIRST))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_passed_over(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next port that it would give is taken, on the same address or on all."""
    for host in ("127.0.0.1", "0.0.0.0"):
        taken = free_port(kind=kind)
        begin_with(taken, monkeypatch)
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind((host, taken))
            assert free_port(kind=kind) != taken


def test_several_in_a_row_are_all_free_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, third = free_ports(3)
    begin_with(first, monkeypatch)
    with socket.create_server(("127.0.0.1", third)):
        found = free_ports(4)
    assert found == list(range(found[0], found[0] + 4))
    assert found[0] > third
    assert free_port() not in found


def test_another_process_does_not_give_what_we_have_got_and_not_bound_yet() -> None:
    """It begins its count where ours was."""
    ours = [free_port(), *free_ports(20)]
    program = (
        "import itertools; from bench import ports\n"
        f"ports._counter = itertools.count({ours[0]} - ports._FIRST); print(ports.free_port())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) not in ours


def test_an_address_of_another_host() -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {errno.EADDRNOTAVAIL}\]"):
        free_port("192.0.2.1")
