"""Carrying bytes on real sockets: when a stream is fast, what is held, and where pipes go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from plays import connected

from scaleup.lb.carrier import FAST_BYTES, FAST_READS, SLOW_READS, Carrier, TargetLost
from scaleup.lb.engine import BUFFER_BYTES, Engine
from scaleup.lb.pipes import AGAIN_SECONDS, PIPE_BYTES, Pipe, Pipes
from scaleup.net.sockets import close_with_reset

PATIENCE_SECONDS = 20.0


def unread_bytes(sock: socket.socket) -> int:
    """What has come and was not received (SIOCINQ)."""
    (size,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    return int(size)


def heard(sock: socket.socket) -> None:
    """Wait until an end, or a reset, has come to it."""
    assert select.select([sock], [], [], PATIENCE_SECONDS)[0]


@dataclass
class Street:
    """sender ─▶ source ─(carrier)─▶ target ─▶ receiver"""

    engine: Engine
    carrier: Carrier
    sender: socket.socket
    source: socket.socket
    target: socket.socket
    receiver: socket.socket

    def carry(self) -> int:
        return self.carrier.carry(self.source, self.target)

    def send(self, data: bytes) -> None:
        """And wait until the kernel has brought all of it to the source, which it may do later."""
        wanted = unread_bytes(self.source) + len(data)
        self.sender.sendall(data)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while unread_bytes(self.source) < wanted:
            assert time.monotonic() < deadline

    def pass_on(self, data: bytes) -> None:
        """In one read."""
        self.send(data)
        assert self.carry() == len(data)
        assert self.received(len(data)) == data

    def received(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            got += self.receiver.recv(size - len(got))
        return bytes(got)


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    engine = Engine(asyncio.get_running_loop(), Pipes(1))
    sender, source = connected()
    target, receiver = connected()
    for actor in (sender, receiver):
        actor.setblocking(True)
    for sock in (sender, source, target, receiver):
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 * 1024 * 1024)
    with sender, source, target, receiver:
        carrier = Carrier(engine)
        yield Street(engine, carrier, sender, source, target, receiver)
        carrier.drop()
        engine.close()


BULK = bytes(range(256)) * (FAST_BYTES // 256)


def test_messages_are_copied(street: Street) -> None:
    for number in range(20):
        street.pass_on(b"message %d" % number)
        assert not street.carrier.more
    assert street.carrier.passed == sum(len(b"message %d" % number) for number in range(20))


def make_fast(street: Street) -> None:
    for _ in range(FAST_READS):
        street.pass_on(BULK)


def spliced(street: Street, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that were spliced from now on."""
    sizes: list[int] = []
    take = Pipe.take

    def noted(self: Pipe, fd: int) -> int:
        sizes.append(take(self, fd))
        return sizes[-1]

    monkeypatch.setattr(Pipe, "take", noted)
    return sizes


def test_a_stream_that_proves_fast_is_spliced_until_it_is_slow(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = spliced(street, monkeypatch)
    make_fast(street)
    assert sizes == []
    street.pass_on(BULK)
    assert sizes == [len(BULK)]
    assert street.carrier.more, "only EAGAIN says that a stream of pages is empty"
    for _ in range(SLOW_READS):
        street.pass_on(b"slow")
    assert len(sizes) == 1 + SLOW_READS
    street.pass_on(BULK)
    assert len(sizes) == 1 + SLOW_READS
    assert not street.carrier.more


def test_one_large_message_is_no_fast_stream(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = spliced(street, monkeypatch)
    for _ in range(10):
        for _ in range(FAST_READS - 1):
            street.pass_on(BULK)
        street.pass_on(b"end")
    assert sizes == []


def test_a_full_buffer_may_have_left_something(street: Street) -> None:
    data = os.urandom(BUFFER_BYTES + 5)
    street.send(data)
    assert street.carry() == BUFFER_BYTES
    assert street.carrier.more
    assert street.carry() == 5
    assert not street.carrier.more
    assert street.received(len(data)) == data


@pytest.mark.parametrize("fast", [False, True])
def test_the_end_and_emptiness(street: Street, fast: bool) -> None:
    if fast:
        make_fast(street)
    with pytest.raises(BlockingIOError):
        street.carry()
    street.sender.shutdown(socket.SHUT_WR)
    heard(street.source)
    assert street.carry() == 0
    assert street.carrier.held == 0
    street.engine.pipes.give_back(borrowed(street.engine.pipes))


def borrowed(pipes: Pipes) -> Pipe:
    """There is one to be had: none is kept by somebody who does not need it."""
    pipe = pipes.borrow()
    assert pipe is not None
    return pipe


def fill(street: Street) -> int:
    """Send on until the target takes no more; how much is held then."""
    street.target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    street.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    street.sender.setblocking(False)
    while not street.carrier.held:
        with contextlib.suppress(BlockingIOError):
            street.sender.send(BULK)
        try:
            street.carry()
        except BlockingIOError:
            continue
    return street.carrier.held


@pytest.mark.parametrize("fast", [False, True])
def test_what_the_target_does_not_take_is_held_and_flushed_in_order(street: Street, fast: bool) -> None:
    if fast:
        make_fast(street)
    before = street.carrier.passed
    held = fill(street)
    assert 0 < held <= PIPE_BYTES
    if fast:
        assert street.engine.pipes.borrow() is None, "it is lent while it holds bytes"
    expected = street.carrier.passed - before + held
    street.engine.buffer[:] = bytes(BUFFER_BYTES)  # others use it meanwhile
    street.receiver.setblocking(False)
    got = bytearray()
    while len(got) < expected:
        try:
            got += street.receiver.recv(BUFFER_BYTES)
        except BlockingIOError:
            street.carrier.flush(street.target)
    assert got == (BULK * (expected // len(BULK) + 1))[:expected]
    assert street.carrier.held == 0
    assert street.carrier.passed - before == expected


def test_without_a_pipe_to_be_had_a_fast_stream_is_copied(street: Street) -> None:
    taken = borrowed(street.engine.pipes)
    make_fast(street)
    street.pass_on(BULK)
    street.pass_on(BULK)
    street.engine.pipes.give_back(taken)


@pytest.mark.parametrize("fast", [False, True])
def test_a_target_that_was_reset_is_told_from_a_source_that_was(street: Street, fast: bool) -> None:
    if fast:
        make_fast(street)
    close_with_reset(street.receiver)
    heard(street.target)
    street.send(b"for nobody")
    with pytest.raises(TargetLost) as lost:
        street.carry()
    assert lost.value.errno in (errno.ECONNRESET, errno.EPIPE)
    street.carrier.drop()
    close_with_reset(street.sender)
    heard(street.source)
    with pytest.raises(ConnectionResetError):
        street.carry()
    street.engine.pipes.give_back(borrowed(street.engine.pipes))


# ----- pipes ----------------------------------------------------------------------------------------


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes(2)
    yield pipes
    pipes.close()


def test_no_more_than_the_limit_are_lent(pipes: Pipes) -> None:
    one, two = borrowed(pipes), borrowed(pipes)
    assert pipes.borrow() is None
    pipes.give_back(one)
    assert pipes.borrow() is one
    pipes.give_back(one)
    pipes.give_back(two)


def test_a_pipe_with_bytes_in_it_is_never_lent_again(pipes: Pipes, street: Street) -> None:
    street.send(b"left over")
    one = borrowed(pipes)
    assert one.take(street.source.fileno()) == 9
    pipes.give_back(one)
    another = borrowed(pipes)
    assert another is not one
    another.held = 9
    with pytest.raises(BlockingIOError):
        another.give(street.target.fileno())
    another.held = 0
    pipes.give_back(another)


def test_when_the_kernel_grants_no_more_it_is_asked_again_after_a_pause() -> None:
    asked, now = 0, 1000.0

    def only_one() -> Pipe:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise PermissionError(errno.EPERM, "pipe-user-pages-soft")
        return Pipe()

    pipes = Pipes(3, only_one, lambda: now)
    one = borrowed(pipes)
    assert [pipes.borrow(), pipes.borrow()] == [None, None]
    assert asked == 2
    now += AGAIN_SECONDS
    pipes.give_back(borrowed(pipes))
    assert asked == 3
    pipes.give_back(one)
    assert pipes.borrow() is one
    pipes.give_back(one)
    pipes.close()
