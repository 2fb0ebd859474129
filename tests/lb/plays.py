"""Plays: tests of the relay that read like a story.

    @play(client=0.05)
    async def test_idle_client(stage: Stage) -> None:
        await stage.client.send(b"hello")
        await stage.server.expect(b"hello")
        ...
        assert (await stage.end()).state == "cD"

A play has two actors with real loopback sockets, the client and the server; the relay stands between them. It
is played on each event loop, and on each path that bytes can take. When the curtain falls, nothing may be left:
no byte that an actor did not expect, no task, no error in the loop (and no descriptor: tests/conftest.py); and
the relay has said once how it ended.

To wait for a peer is to wait for an event; every play as a whole is bounded by `PLAY_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import socket
import struct
import termios
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from scaleup.lb import carrier
from scaleup.lb.engine import Engine
from scaleup.lb.pipes import Pipes
from scaleup.lb.relay import Outcome, Relay, Timeouts

PLAY_SECONDS = 40
BLOCKED_LOOKS, LOOK_SECONDS = 5, 0.01  # a sender that gets nothing away in so many is taken to be blocked
CHUNK_BYTES = 256 * 1024

uvloop.new_event_loop().close()  # the first one opens a pipe that libuv keeps for the life of the process
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SETTINGS = [("asyncio", "copied"), ("uvloop", "copied"), ("uvloop", "spliced")]
FIN, RST = "FIN", "RST"


def connected(small: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection: the one that dialled, the one that was accepted.

    `small`: kernel buffers of a few KB, so that little is enough to fill them.
    """
    with socket.socket() as listener:
        dialled = socket.socket()
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            dialled.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        dialled.connect(listener.getsockname())
        accepted, _ = listener.accept()
    for end in (dialled, accepted):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return dialled, accepted


class Actor:
    """A client or a server of the play."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock

    @property
    def address(self) -> str:
        """Its own, HOST:PORT."""
        return "{}:{}".format(*self._sock.getsockname())

    # What an actor does.

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send_some(rest) :]
            if rest:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    def send_some(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes now."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def send_urgent(self, data: bytes) -> None:
        assert self._sock.send(data, socket.MSG_OOB) == len(data)

    async def send_until_blocked(self, data: bytes) -> int:
        """Send `data` again and again; return how many bytes went before nothing went any more.

        A process that is held up spends one look on it, however long that lasts, and the relay has its turn before
        the next one.
        """
        sent = looks = 0
        stream = memoryview(data)
        while looks < BLOCKED_LOOKS:
            count = self.send_some(stream[sent % len(data) :])
            sent += count
            looks = 0 if count else looks + 1
            if not count:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._ready(self._loop.add_writer, self._loop.remove_writer)
        return sent

    async def send_until_reset(self, data: bytes) -> None:
        """Send `data` again and again until the kernel says that nobody takes it."""
        try:
            while True:
                await self.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def fin(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def rst(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        """FIN if it has read everything that came; else its kernel sends RST."""
        self._sock.close()

    # What an actor observes.

    async def expect(self, data: bytes) -> None:
        """Exactly these bytes come next."""
        got = bytearray()
        while len(got) < len(data):
            piece = await self.receive(len(data) - len(got))
            assert piece, f"FIN after {bytes(got)!r}"
            got += piece
        assert got == data

    async def expect_fin(self) -> None:
        assert await self.receive(1) == b""

    async def expect_rst(self) -> None:
        with pytest.raises(ConnectionResetError):
            await self.receive(1)

    async def expect_rst_after_fin(self) -> None:
        while not self.was_reset():  # noqa: ASYNC110 - recv has nothing to say any more
            await asyncio.sleep(0.001)

    async def receive(self, size: int = CHUNK_BYTES) -> bytes:
        """What there is, at least one byte; empty for FIN; ConnectionResetError for RST."""
        while True:
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def receive_all(self) -> tuple[bytes, str]:
        """All bytes until the end, and which end it was."""
        got = bytearray()
        try:
            while piece := await self.receive():
                got += piece
        except ConnectionResetError:
            return bytes(got), RST
        return bytes(got), FIN

    def receive_some(self) -> bytes:
        """What there is now; empty when there is nothing, or nothing more."""
        try:
            return self._sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            return b""

    def was_reset(self) -> bool:
        """A RST came; the only way to see one that follows a FIN."""
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def unread_bytes(self) -> int:
        """What has come and was not received (SIOCINQ)."""
        (size,) = struct.unpack("i", fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4)))
        return int(size)

    def queue_bytes(self) -> int:
        """The most that this socket's kernel buffers hold."""
        return sum(self._sock.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_RCVBUF, socket.SO_SNDBUF))

    def unexpected(self) -> bytes:
        """What came and nobody expected."""
        try:
            return self.receive_some() if self._sock.fileno() >= 0 else b""
        except ConnectionResetError:
            return b""

    async def _ready(self, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        happened = asyncio.Event()
        fd = self._sock.fileno()
        add(fd, happened.set)
        try:
            await happened.wait()
        finally:
            remove(fd)


class Stage:
    """One relay with its two actors."""

    def __init__(self, timeouts: Timeouts, *, small: str) -> None:
        self.engine = Engine(asyncio.get_running_loop(), Pipes(2))
        client, relays_client = connected(small in ("client", "both"))
        relays_server, server = connected(small in ("server", "both"))
        self.client, self.server = Actor(client), Actor(server)
        self.sockets = relays_client, relays_server
        self.descriptors = [sock.fileno() for sock in self.sockets]
        self.outcomes: list[Outcome] = []
        self._ended = asyncio.Event()
        self.relay = Relay(self.engine, relays_client, relays_server, timeouts, self._on_end)

    def _on_end(self, outcome: Outcome) -> None:
        assert all(s.fileno() == -1 for s in self.sockets), "on_end comes after the sockets were closed"
        self.outcomes.append(outcome)
        self._ended.set()

    async def end(self) -> Outcome:
        await self._ended.wait()
        return self.outcomes[0]

    def queue_bytes(self) -> int:
        """The most that all the kernel's buffers of the play hold, in one direction or the other."""
        actors = self.client, self.server, *map(Actor, self.sockets)
        return sum(actor.queue_bytes() for actor in actors)

    def under_way_to_client(self) -> int:
        """Bytes that the relay sent and the client's kernel has not acknowledged, having no room (SIOCOUTQ)."""
        (size,) = struct.unpack("i", fcntl.ioctl(self.sockets[0], termios.TIOCOUTQ, bytes(4)))
        return int(size)

    async def curtain(self) -> None:
        for name, actor in (("client", self.client), ("server", self.server)):
            unexpected = actor.unexpected()
            actor.close()
            assert not unexpected, f"nobody expected that the {name} gets {unexpected!r}"
        await self.end()
        self.relay.abort()
        assert len(self.outcomes) == 1, "the relay ends once"


Script = Callable[..., Awaitable[None]]
TRIES = 4
STALL_TICK_SECONDS = 0.002


@contextlib.contextmanager
def path(name: str) -> Iterator[None]:
    """ "spliced": a direction is, from its second read on, however slow."""
    before = carrier.FAST_BYTES, carrier.FAST_READS
    if name == "spliced":
        carrier.FAST_BYTES = carrier.FAST_READS = 1
    try:
        yield
    finally:
        carrier.FAST_BYTES, carrier.FAST_READS = before


class Stalls:
    """For how long this process did not get its turn, at worst: its host may be busy with something else."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._enough = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def _look(self) -> None:
        due = time.monotonic() + STALL_TICK_SECONDS
        while not self._enough.wait(STALL_TICK_SECONDS):
            now = time.monotonic()
            self.worst, due = max(self.worst, now - due), now + STALL_TICK_SECONDS

    def __enter__(self) -> Stalls:
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        self._watch.join()


def perform(
    script: Script, loop: str, way: str = "copied", *, small: str = "", started: bool = True, **seconds: float
) -> None:
    """Play `script(stage)` on the event loop and the path named, then look for what it left behind.

    A play with time-outs says nothing when the play itself was held up for a good part of one: then it is
    played again.
    """
    for left in reversed(range(TRIES)):
        with Stalls() as stalls:
            try:
                _perform(script, loop, way, small=small, started=started, **seconds)
                return
            except (AssertionError, OSError):  # also of an actor whose connection has ended before its time
                if not left or not seconds or stalls.worst < min(seconds.values()) / 8:
                    raise


def _perform(script: Script, loop: str, way: str, *, small: str, started: bool, **seconds: float) -> None:
    timeouts = Timeouts(**{"client": 10.0, "server": 10.0, "client_fin": 10.0, "server_fin": 10.0, **seconds})
    errors: list[dict[str, Any]] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        stage = Stage(timeouts, small=small)
        try:
            async with asyncio.timeout(PLAY_SECONDS):
                if started:
                    stage.relay.start()
                await script(stage)
                await stage.curtain()
        finally:
            stage.client.close()
            stage.server.close()
            stage.relay.abort()
            stage.engine.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with path(way), asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scene())
    assert not errors


def play(
    *, small: str = "", started: bool = True, **seconds: float
) -> Callable[[Script], Callable[[str, str], None]]:
    """Make a test of a script: it is played on each event loop and each path.

    `small`: the side whose kernel buffers are small, or "both". `started=False`: the script calls
    `stage.relay.start()`. `seconds`: time-outs.
    """

    def decorate(script: Script) -> Callable[[str, str], None]:
        @pytest.mark.parametrize(("loop", "way"), SETTINGS)
        def test(loop: str, way: str) -> None:
            perform(script, loop, way, small=small, started=started, **seconds)

        functools.update_wrapper(test, script)
        del test.__wrapped__  # pytest would look at the script's signature
        return test

    return decorate
