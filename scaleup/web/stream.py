"""A connection, to a client or to an application: bytes in and out, waited for by coroutines, never without end.

asyncio's own streams cost three times as much and have no time-outs. Here each wait has a deadline and no timer
of its own: the one timer of a direction is left armed when the wait ends, and looks again when it fires.

What fits in SOON_BYTES is not sent at once but at the end of the loop's turn, so that what many connections have to
say in it goes out in one go. A peer that waits is woken by the first send, which costs more than the send itself,
and is awake for the others; else it would be asleep again while Python makes the next message
(docs/decisions/0013).

Bounds: reading pauses at READ_AHEAD_BYTES (the transport may add one read of its own, 256 KiB); writing, by
`drain`, at WRITE_AHEAD_BYTES, and SOON_BYTES or, by `send`, PIECE_BYTES.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Protocol

from scaleup.net.sockets import outstanding

READ_AHEAD_BYTES = 64 * 1024
WRITE_AHEAD_BYTES = 64 * 1024
SOON_BYTES = 64 * 1024
"""More than that goes out at once."""
PIECE_BYTES = 64 * 1024
"""Of what is at hand, no more waits for a peer at a time, and it has its time for so much, not for all of it."""
SENDFILE_BYTES = 2 * 1024 * 1024
"""At once, as nginx does: a download on a fast network must not keep all others from their turns."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Wait:
    """What one coroutine at a time waits for."""

    __slots__ = ("_deadline", "_future", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def until(self, deadline: float) -> None:
        """Until `wake`. Raises TimeoutError at the deadline (of the loop's clock)."""
        future = self._future = self._loop.create_future()
        self._deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look)
        try:
            await future
        finally:
            if self._future is future:  # else somebody waits already while this one is being cancelled
                self._future = None
            del (
                future
            )  # it has the exception, which has this frame: files would stay open until they are collected

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._future is None or self._future.done():
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
        else:
            self._future.set_exception(TimeoutError())


class Stream(asyncio.Protocol):
    """Made by a protocol factory. `loop.time() + seconds` is a deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport
        self.socket: socket.socket | None = None
        """Below the transport, where it is ours and speaks no TLS: what uvloop gives out in its place is slow."""
        self.received = b""
        """What has arrived and nobody took."""
        self.is_at_end = False
        """The peer has said that it sends no more."""
        self.stays_open = False
        """When the peer has ended: it may still be listening."""
        self.is_lost = False
        """For whatever reason: it may be we who closed it."""
        self.written = 0
        """Bytes, in all; what of them has reached the peer nobody knows."""
        self.is_plain = True
        """Without TLS."""
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._reads, self._may_write = True, True
        self._readable, self._writable = Wait(loop), Wait(loop)

    # ----- reading --------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The first `count` bytes of what was received."""
        data = self.received
        if count >= len(data):
            self.received = b""
            return data
        self.received = data[count:]
        return data[:count]

    async def more(self, deadline: float) -> bool:
        """Wait until more has arrived; False: the peer has ended. Raises TimeoutError, ConnectionError.

        Its end counts although the connection may be lost since then; a connection that was lost without it broke
        off, and nobody may take what came for all.
        """
        if self.is_at_end:
            return False
        self._refuse_lost()
        self.read_on()
        before = len(self.received)
        await self._readable.until(deadline)
        if len(self.received) > before:
            return True
        if not self.is_at_end:
            raise ConnectionResetError("the connection was lost")
        return False

    def read_on(self) -> None:
        """If reading has paused: else the peer's end, or what it sends unasked, would not be seen."""
        if not self._reads:
            self._reads = True
            self.transport.resume_reading()

    # ----- writing --------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Raises ConnectionError. To be followed by `drain` where there may be much."""
        self._refuse_lost()
        self.written += len(data)
        if not self._unsent:
            self.loop.call_soon(self._send_unsent)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > SOON_BYTES:
            self._send_unsent()

    def _send_unsent(self) -> None:
        data = self._unsent
        if data:
            self._unsent, self._unsent_bytes = [], 0
            if not self.is_lost:
                # Not joined: a file in memory need not be copied for each client.
                self.transport.writelines(data)

    def take_back(self, written: int) -> bool:
        """Make `written` what it was, as if nothing had been said since; False when some of it has gone."""
        kept = self._unsent_bytes - (self.written - written)
        if kept < 0:
            return False
        self._unsent = [b"".join(self._unsent)[:kept]] if kept else []
        self._unsent_bytes, self.written = kept, written
        return True

    def write_eof(self) -> None:
        """There will be no more; where TLS is spoken only `close` can say so."""
        self._send_unsent()
        if not self.is_lost and self.transport.can_write_eof():
            self.transport.write_eof()

    async def send(self, data: bytes, seconds: float) -> None:
        """Much, at the peer's pace. `seconds`: for each PIECE_BYTES. Raises TimeoutError, ConnectionError."""
        for at in range(0, len(data), PIECE_BYTES):
            self.write(data[at : at + PIECE_BYTES])
            await self.drain(self.loop.time() + seconds)

    async def drain(self, deadline: float) -> None:
        """Until the transport takes more. Raises TimeoutError, ConnectionError."""
        while not self._may_write and not self.is_lost:
            await self._writable.until(deadline)
        self._refuse_lost()

    @property
    def has_unsent(self) -> bool:
        """Whether anything that was written has not gone to the kernel."""
        return not self.is_lost and bool(self._unsent or self.transport.get_write_buffer_size())

    @property
    def has_untaken(self) -> bool:
        """Whether the peer's kernel has not acknowledged all that went to ours. Without TLS."""
        sock = self.transport.get_extra_info("socket")
        return sock is not None and outstanding(sock.fileno()) > 0

    async def flush(self, deadline: float) -> None:
        """Until all has gone to the kernel. Raises TimeoutError, ConnectionError."""
        self._send_unsent()
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(0)
            await self.drain(deadline)
            self.transport.set_write_buffer_limits(WRITE_AHEAD_BYTES)

    async def send_file(self, file: HasFileno, start: int, count: int, seconds: float) -> int:
        """From the page cache to `socket`; uvloop has no sendfile. Returns how much was there.

        `seconds`: for each step. Raises TimeoutError, ConnectionError.
        """
        sock, source, sent = self.socket, file.fileno(), 0
        assert sock is not None
        if self._unsent and not self.transport.get_write_buffer_size():
            self._send_ahead(sock)
        if self.has_unsent:
            await self.flush(self.loop.time() + seconds)
        while sent < count:
            wanted = min(count - sent, SENDFILE_BYTES)
            try:
                done = os.sendfile(sock.fileno(), source, start + sent, wanted)
                if not done:
                    break
            except BlockingIOError:
                done = 0
            sent += done
            self.written += done
            if done < wanted:
                await self._until_writable(sock.fileno(), self.loop.time() + seconds)
            elif sent < count:
                await asyncio.sleep(0)
                self._refuse_lost()
        return sent

    def _send_ahead(self, sock: socket.socket) -> None:
        """What was written, a head, leaves with what follows: each send wakes the peer."""
        data = b"".join(self._unsent)
        self._unsent, self._unsent_bytes = [], 0
        try:
            sent = sock.send(data, socket.MSG_MORE)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.transport.write(data[sent:])

    async def _until_writable(self, descriptor: int, deadline: float) -> None:
        """The transport has its own interest in the descriptor, and two parts of a loop may not share one."""
        duplicate = os.dup(descriptor)
        self.loop.add_writer(duplicate, self._writable.wake)
        try:
            await self._writable.until(deadline)
        finally:
            self.loop.remove_writer(duplicate)
            os.close(duplicate)
        self._refuse_lost()

    def _refuse_lost(self) -> None:
        if self.is_lost:
            raise ConnectionResetError("the connection was lost")

    # ----- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """When what was written has gone."""
        self._send_unsent()
        self.transport.close()

    def abort(self) -> None:
        """Now, whatever is still to be written."""
        self._unsent, self._unsent_bytes = [], 0
        self.transport.abort()

    def reset(self) -> None:
        """End a message that cannot be finished, so that nobody can take what came for all of it.

        It has to be a reset: a plain close is how a body without a length ends (RFC 9112 §6.3), and it is what
        `transport.abort()` alone would do.
        """
        if self.is_lost:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None:  # else, in TLS, it is lost, and we are told of it next
            with contextlib.suppress(OSError):  # closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()

    # ----- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_AHEAD_BYTES)  # of TLS they would be eight times that

    def data_received(self, data: bytes) -> None:
        self.received = self.received + data if self.received else data
        if self._reads and len(self.received) > READ_AHEAD_BYTES:
            self._reads = False
            self.transport.pause_reading()
        self._readable.wake()

    def eof_received(self) -> bool:
        self.is_at_end = True
        self._readable.wake()
        return self.stays_open

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._writable.wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.is_lost = True
        self._readable.wake()
        self._writable.wake()
        self._readable.end()
        self._writable.end()
