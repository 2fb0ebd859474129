"""Accepting: when connections are taken from listening sockets, and what happens without descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from socket import SocketType
from typing import Any

import pytest

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, stop_listening
from scaleup.processes.accept import Acceptor, Listener, affordable

HOST = "127.0.65.1"
PATIENCE_SECONDS = 20.0


class Door:
    """An acceptor with two sockets, the first on a virtual address, for `room` clients at a time."""

    def __init__(self, room: int = 100) -> None:
        self.sockets = [self._bound(), self._bound()]
        self.room = room
        self.inside: list[SocketType] = []
        self.elected: list[bool] = []
        duplicates = [socket.socket(fileno=os.dup(sock.fileno())) for sock in self.sockets]
        listeners = [Listener(sock, elected) for sock, elected in zip(duplicates, (True, False), strict=True)]
        self.acceptor = Acceptor(listeners, lambda: len(self.inside) < self.room, self._enter)

    @staticmethod
    def _bound() -> socket.socket:
        with bound(Endpoint(HOST, 0), "--listen") as finder:
            where = Endpoint(*finder.getsockname())
        return bound(where, "--listen")

    def _enter(self, sock: SocketType, address: str, port: int, elected: bool) -> None:
        assert address.startswith("127.")
        assert not sock.getblocking()
        self.inside.append(sock)
        self.elected.append(elected)

    def leave(self) -> None:
        self.inside.pop(0).close()
        self.acceptor.resume()

    def accepting(self) -> list[bool]:
        return [listener.accepting for listener in self.acceptor._listeners]

    async def until_inside(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.inside) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert len(self.inside) == count

    def close(self) -> None:
        self.acceptor.close()
        for sock in [*self.sockets, *self.inside]:
            sock.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    with contextlib.closing(Door()) as door:
        yield door


@pytest.fixture
def knock() -> Iterator[Any]:
    """Connect to a socket that listens; the kernel alone answers."""
    with contextlib.ExitStack() as stack:

        def connect(sock: socket.socket) -> socket.socket:
            client = stack.enter_context(socket.socket())
            client.settimeout(PATIENCE_SECONDS)
            client.connect(sock.getsockname())
            return client

        yield connect


async def settled() -> None:
    """A round of the loop in which sockets were looked at."""
    for _ in range(3):
        await asyncio.sleep(0.001)


async def test_each_client_comes_with_the_kind_of_its_address(door: Door, knock: Any) -> None:
    for sock in door.sockets:
        sock.listen()
    door.acceptor.start(elected=False)
    knock(door.sockets[0])
    knock(door.sockets[1])
    await door.until_inside(1)
    assert door.elected == [False], "nobody has said that the virtual address is ours"
    door.acceptor.start(elected=True)
    await door.until_inside(2)
    assert door.elected == [False, True]


async def test_more_than_a_batch_is_accepted(door: Door, knock: Any) -> None:
    door.sockets[1].listen(100)
    for _ in range(30):
        knock(door.sockets[1])
    door.acceptor.start(elected=False)
    await door.until_inside(30)


async def test_without_room_clients_wait_outside_until_somebody_leaves(door: Door, knock: Any) -> None:
    door.room = 2
    door.sockets[1].listen(100)
    door.acceptor.start(elected=False)
    for _ in range(5):
        knock(door.sockets[1])
    await door.until_inside(2)
    await settled()
    assert len(door.inside) == 2
    for _ in range(3):
        door.leave()
        await door.until_inside(2)
    door.leave()
    knock(door.sockets[1])
    await door.until_inside(2)


async def test_what_starts_while_there_is_no_room_waits_too(door: Door, knock: Any) -> None:
    door.room = 1
    for sock in door.sockets:
        sock.listen()
    door.acceptor.start(elected=False)
    knock(door.sockets[1])
    await door.until_inside(1)
    knock(door.sockets[0])
    door.acceptor.start(elected=True)
    await settled()
    assert door.elected == [False]
    door.leave()
    await door.until_inside(1)
    assert door.elected == [False, True]


async def test_an_address_that_comes_and_goes(door: Door, knock: Any) -> None:
    for count in range(10):
        door.sockets[0].listen()
        door.acceptor.start(elected=True)
        knock(door.sockets[0])
        await door.until_inside(count + 1)
        stop_listening(door.sockets[0])
        if count % 2:
            door.acceptor.stop(elected=True)
        else:  # the kernel says it before the node does
            await settled()
        assert door.accepting() == [False, False]


async def test_to_finish_is_to_accept_what_waits_and_refuse_the_rest(door: Door, knock: Any) -> None:
    for sock in door.sockets:
        sock.listen(100)
    door.acceptor.start(elected=False)
    for _ in range(20):
        knock(door.sockets[1])
    door.acceptor.finish()
    assert len(door.inside) == 20
    with pytest.raises(ConnectionRefusedError):
        knock(door.sockets[1])
    knock(door.sockets[0])  # was not ours to stop
    door.leave()
    await settled()
    assert len(door.inside) == 19


async def test_to_finish_without_room_refuses_and_resets(door: Door, knock: Any) -> None:
    door.room = 1
    door.sockets[1].listen(100)
    door.acceptor.start(elected=False)
    first = knock(door.sockets[1])
    await door.until_inside(1)
    second = knock(door.sockets[1])
    door.acceptor.finish()
    with pytest.raises(ConnectionResetError):
        second.recv(1)
    first.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.recv(1)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process cannot open anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_accepting_rests_and_comes_back(
    door: Door, knock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    door.sockets[1].listen()
    door.acceptor.start(elected=False)
    for _ in range(3):
        knock(door.sockets[1])
    with no_descriptors():
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(0.3)  # three tries
        assert (time.process_time() - cpu) / (time.monotonic() - began) < 0.2
    assert caplog.messages == ["cannot accept: Too many open files; see ulimit -n and --maxconn"]
    assert door.inside == []
    await door.until_inside(3)


# ----- the limit ----------------------------------------------------------------------------------


@pytest.fixture
def limit() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_on_descriptors_is_raised_as_far_as_needed(limit: tuple[int, int]) -> None:
    _, hard = limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    assert affordable(1000, 10) == 1000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 2010 < soft < 2500
    assert affordable(10, 10) == 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard), "never lowered"


def test_where_it_may_not_be_raised_fewer_are_taken() -> None:
    program = """
import logging, resource
from scaleup.processes.accept import affordable
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 300))
print(affordable(4000, 10), affordable(4000, 10_000), resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == "120 1 (300, 300)\n"
    assert "--maxconn 4000 needs 8060 descriptors" in done.stderr
    assert "(ulimit -Hn): taking 120 connections at a time" in done.stderr
