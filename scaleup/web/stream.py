"""A connection, to a client or to an application: bytes in and out, waited for by coroutines, never without end.

asyncio's own streams cost three times as much and have no time-outs. Here each wait has a deadline and no timer
of its own: the one timer of a direction is left armed when the wait ends, and looks again when it fires.

Bounds: reading pauses at READ_AHEAD_BYTES (the transport may add one read of its own, 256 KiB); writing, by
`drain`, at the transport's high-water mark, 64 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Protocol

READ_AHEAD_BYTES = 64 * 1024
SENDFILE_BYTES = 1024 * 1024
"""At once: a download on a fast network must not keep all others from their turns."""

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
        self._future = self._loop.create_future()
        self._deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look)
        try:
            await self._future
        finally:
            self._future = None

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
        self.received = b""
        """What has arrived and nobody took."""
        self.is_at_end = False
        """The peer sends no more."""
        self.is_lost = False
        self.was_reset = False
        self._reads, self._may_write = True, True
        self._readable, self._writable = Wait(loop), Wait(loop)

    @property
    def is_plain(self) -> bool:
        """Without TLS."""
        return self.transport.get_extra_info("sslcontext") is None

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
        """Wait until more has arrived; False: there will be no more. Raises TimeoutError, ConnectionError."""
        self._refuse_lost()
        if self.is_at_end:
            return False
        if not self._reads:
            self._reads = True
            self.transport.resume_reading()
        before = len(self.received)
        await self._readable.until(deadline)
        if len(self.received) > before:
            return True
        if self.was_reset:
            raise ConnectionResetError("the connection was reset")
        return False

    # ----- writing --------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Raises ConnectionError. To be followed by `drain` where there may be much."""
        self._refuse_lost()
        self.transport.write(data)

    async def drain(self, deadline: float) -> None:
        """Until the transport takes more. Raises TimeoutError, ConnectionError."""
        while not self._may_write and not self.is_lost:
            await self._writable.until(deadline)
        self._refuse_lost()

    async def flush(self, deadline: float) -> None:
        """Until all has gone to the kernel. Raises TimeoutError, ConnectionError."""
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(0)
            await self.drain(deadline)
            self.transport.set_write_buffer_limits()

    async def send_file(self, file: HasFileno, start: int, count: int, seconds: float) -> int:
        """From the page cache to the socket; uvloop has no sendfile. Returns how much was there.

        `seconds`: for each step. Raises TimeoutError, ConnectionError.
        """
        await self.flush(self.loop.time() + seconds)
        sent, source = 0, file.fileno()
        while sent < count:
            # Asked for each time: a connection that was lost has no descriptor any more, or somebody else has it.
            out = self.transport.get_extra_info("socket").fileno()
            try:
                done = os.sendfile(out, source, start + sent, min(count - sent, SENDFILE_BYTES))
            except BlockingIOError:
                await self._until_writable(out, self.loop.time() + seconds)
                continue
            if not done:
                break
            sent += done
            if sent < count:
                await asyncio.sleep(0)
                self._refuse_lost()
        return sent

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
        self.transport.close()

    def abort(self) -> None:
        """Now, whatever is still to be written."""
        self.transport.abort()

    def reset(self) -> None:
        """End a message that cannot be finished, so that nobody can take what came for all of it.

        It has to be a reset: a plain close is how a body without a length ends (RFC 9112 §6.3), and it is what
        `transport.abort()` alone would do.
        """
        if self.is_lost:
            return
        with contextlib.suppress(OSError):  # closed already
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # ----- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.received = self.received + data if self.received else data
        if self._reads and len(self.received) > READ_AHEAD_BYTES:
            self._reads = False
            self.transport.pause_reading()
        self._readable.wake()

    def eof_received(self) -> bool:
        self.is_at_end = True
        self._readable.wake()
        return False

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._writable.wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.is_lost, self.was_reset = True, exc is not None
        self.is_at_end = True
        self._readable.wake()
        self._writable.wake()
        self._readable.end()
        self._writable.end()
