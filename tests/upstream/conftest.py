"""Listeners in the states that a check can meet."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from scaleup.net.addresses import Endpoint


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    """Refuses connections; after `listen()` the kernel accepts them, after `shutdown()` it refuses again.

    Bound to a port by number: one that the kernel chose would be given up at `shutdown()`.
    """
    with socket.socket() as finder, socket.socket() as listener:
        for sock in (finder, listener):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        finder.bind(("127.0.0.1", 0))
        listener.bind(finder.getsockname())
        finder.close()
        listener.setblocking(False)
        yield listener


@pytest.fixture
def refusing(bound: socket.socket) -> Endpoint:
    """Where `bound` is."""
    return Endpoint(*bound.getsockname())


@pytest.fixture
def silent() -> Iterator[Endpoint]:
    """Its backlog is full, so the kernel drops every further SYN."""
    with socket.socket() as listener, contextlib.ExitStack() as queued:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            client = queued.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield Endpoint(*listener.getsockname())
