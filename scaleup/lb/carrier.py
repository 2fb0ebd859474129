"""How the bytes of one direction get from one socket to the other: copied, or spliced once the stream is fast.

Copying (recv_into the engine's buffer, send) is best for messages: two system calls, and the bytes are in the
cache. Splicing is best for bulk, where copying is what costs; docs/benchmarks.md says how much.

    copying ── FAST_READS reads in a row brought at least FAST_BYTES each ──▶ splicing
            ◀── SLOW_READS reads in a row brought less ──────────────────────

The rule is HAProxy's. A pipe is lent only while there are bytes in it, so a stream that is idle has none, and
a few serve many streams; when none is to be had, the stream is copied. So is one with urgent data, for good: a
splice stops at them with EAGAIN, as if nothing were behind, and only recv steps over them.
"""

from __future__ import annotations

import errno
from socket import SocketType

from scaleup.lb.engine import BUFFER_BYTES, Engine
from scaleup.lb.pipes import Pipe

FAST_BYTES = 64 * 1024
FAST_READS = 3
SLOW_READS = 2

NOTHING = memoryview(b"")


class TargetLost(Exception):
    """The target was reset: nobody takes what was read. `errno`: what send(2) said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.errno = code


class Carrier:
    """One for each direction."""

    __slots__ = (
        "_buffer",
        "_copies",
        "_fast",
        "_pending",
        "_pipe",
        "_pipes",
        "_streak",
        "held",
        "more",
        "passed",
    )

    def __init__(self, engine: Engine) -> None:
        self._buffer, self._pipes = engine.buffer, engine.pipes
        self._pending = NOTHING  # held, by copying
        self._pipe: Pipe | None = None  # held, by splicing
        self._copies = False  # for good
        self._fast = False
        self._streak = 0  # reads in a row that speak for the other way
        self.held = 0
        """Bytes that were read, and that the target has not taken."""
        self.passed = 0
        """Bytes that it has taken."""
        self.more = False
        """Whether the last read may have left something behind."""

    def carry(self, source: SocketType, target: SocketType) -> int:
        """Read once, and send that at once, as far as the target takes it; nothing is held before.

        Returns how much was read, 0 at the end. Raises TargetLost, or of the source what recv(2) does;
        BlockingIOError: there is nothing to read now.
        """
        if self._fast and not self._copies and (pipe := self._pipes.borrow()):
            size = self._splice(pipe, source, target)
        else:
            size = source.recv_into(self._buffer)
            self.more = size == BUFFER_BYTES
            if size:
                self._send(self._buffer[:size], target)
                if self.held:  # out of the shared buffer
                    self._pending = memoryview(bytes(self._buffer[size - self.held : size]))
        if (size >= FAST_BYTES) is self._fast:
            self._streak = 0
        else:
            self._streak += 1
            if self._streak == (SLOW_READS if self._fast else FAST_READS):
                self._fast, self._streak = not self._fast, 0
        return size

    def flush(self, target: SocketType) -> int:
        """Send what is held, as far as the target takes it, and return how much that was. Raises TargetLost."""
        before = self.held
        if self._pipe is not None:
            self._empty(self._pipe, target)
        else:
            self._send(self._pending, target)
            self._pending = self._pending[before - self.held :]
        return before - self.held

    def copy(self) -> None:
        """Never splice: there are urgent data."""
        self._copies = True

    def drop(self) -> None:
        """Nobody takes what is held."""
        self._pending, self.held = NOTHING, 0
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None

    def _send(self, data: memoryview, target: SocketType) -> None:
        try:
            sent = target.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise TargetLost(error.errno or 0) from None
        self.passed += sent
        self.held = len(data) - sent

    def _splice(self, pipe: Pipe, source: SocketType, target: SocketType) -> int:
        self.more = (
            True  # a pipe has only so many pages, however small: only EAGAIN says that nothing is left
        )
        try:
            size = pipe.take(source.fileno())
        finally:
            if not pipe.held:
                self._pipes.give_back(pipe)
        if size:
            self._pipe = pipe
            self._empty(pipe, target)
        return size

    def _empty(self, pipe: Pipe, target: SocketType) -> None:
        """Until EAGAIN: a splice may also end early for a signal, and then nobody would tell of more room.

        Or for a reset, which it then has used up: what the next one says would be taken for a FIN before it.
        """
        moved = False
        while pipe.held:
            try:
                self.passed += pipe.give(target.fileno())
            except BlockingIOError:
                break
            except OSError as error:
                raise TargetLost(errno.ECONNRESET if moved else error.errno or 0) from None
            moved = True
        self.held = pipe.held
        if not self.held:
            self._pipes.give_back(pipe)
            self._pipe = None
