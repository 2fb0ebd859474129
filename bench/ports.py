"""Ports for processes that have to be told theirs before they bind it."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_000
_counter = itertools.count(os.getpid() * 14_071)  # 0.618 of the usual range: near numbers begin far apart


def free_port(host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that is free on the host, TCP unless `kind` is SOCK_DGRAM.

    Not one from the kernel's range for clients: between our look and the bind, a connection of anybody or the
    next call could be given it. Each call goes one further, so it is a long time until a port comes again.

    Raises:
        OSError: None is free, or the address is not this host's.
    """
    clients = int(_RANGE.read_text().split()[0])
    last = clients if clients > _FIRST else _FIRST + 20_000  # a host that gives its clients all ports
    for number in itertools.islice(_counter, last - _FIRST):
        port = _FIRST + number % (last - _FIRST)
        with socket.socket(socket.AF_INET, kind) as sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME-WAIT does not hold it
            try:
                sock.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return port
    raise OSError(f"no free port between {_FIRST} and {last} on {host}")
