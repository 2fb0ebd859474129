"""Ports for processes that have to be told theirs."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from bench.ports import free_port


def test_no_port_is_given_twice_in_a_row_nor_one_that_the_kernel_could_give_a_client() -> None:
    ports = [free_port() for _ in range(50)]
    clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 50
    assert all(10_000 <= port < clients for port in ports)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_passed_over(kind: socket.SocketKind) -> None:
    """The next port that it would give is taken, on the same address or on all."""
    for host in ("127.0.0.1", "0.0.0.0"):
        taken = free_port(kind=kind) + 1
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind((host, taken))
            assert free_port(kind=kind) != taken


def test_an_address_of_another_host() -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {errno.EADDRNOTAVAIL}\]"):
        free_port("192.0.2.1")
