"""Ports for processes that have to be told theirs before they bind it."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import socket
from functools import cache
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_000
_counter = itertools.count(os.getpid() * 14_071)  # 0.618 of the usual range: near numbers begin far apart


def free_port(host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that is free on the host, TCP unless `kind` is SOCK_DGRAM.

    Not one from the kernel's range for clients: between our look and the bind, a connection of anybody or the
    next call could be given it. Each call goes one further, so it is a long time until a port comes again; and
    never one that another process has got from here and may not have bound yet.

    Raises:
        OSError: None is free, or the address is not this host's.
    """
    return free_ports(1, host, kind)[0]


def free_ports(
    count: int, host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM
) -> list[int]:
    """So many in a row, for who is told the first and takes the next ones as well. Otherwise as `free_port`."""
    clients = int(_RANGE.read_text().split()[0])
    last = clients if clients > _FIRST else _FIRST + 20_000  # a host that gives its clients all ports
    found: list[int] = []
    for number in itertools.islice(_counter, last - _FIRST):
        port = _FIRST + number % (last - _FIRST)
        if found and port != found[-1] + 1:  # it has begun anew
            found = []
        if not _is_free(host, port, kind) or not _reserve(port):
            found = []
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports in a row between {_FIRST} and {last} on {host}")


def _is_free(host: str, port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME-WAIT does not hold it
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _reserve(port: int) -> bool:
    """Whether no other process has it: they lock a byte for each of theirs, which the kernel frees at their end."""
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    return True


@cache
def _locks() -> int:
    """Never closed: with any descriptor of the file, all locks of the process on it would go."""
    path = f"/tmp/scaleup-ports-{os.geteuid()}"  # not in TMPDIR: others may have another
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
