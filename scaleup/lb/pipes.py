"""The pipes through which streams are spliced: opened once, lent, given back empty.

splice(2) moves pages from a socket into a pipe and from there into another socket, without copying them into
this process. The kernel lets an unprivileged user have 64 MiB of pipe buffers in all (pipe(7),
pipe-user-pages-soft), whichever of his processes has them; where a pipe cannot be made large there is none to lend,
and streams go on being copied.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

PIPE_BYTES = 1024 * 1024  # the most that pipe-max-size lets an unprivileged process ask for
AGAIN_SECONDS = 1.0
"""Until one is asked for again, after there was none: to ask for each read would cost more than splicing saves."""
FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """`held`: bytes in it."""

    __slots__ = ("_read", "_write", "held")

    def __init__(self) -> None:
        """Raises OSError when no descriptor, or no buffer of that size, is to be had."""
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.held = 0
        try:
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            self.close()
            raise

    def take(self, fd: int) -> int:
        """Move what `fd` has into the empty pipe; its size, 0 at the end. BlockingIOError: it has nothing."""
        self.held = os.splice(fd, self._write, PIPE_BYTES, flags=FLAGS)
        return self.held

    def give(self, fd: int) -> int:
        """Move to `fd` what it takes. BlockingIOError: nothing now."""
        sent = os.splice(self._read, fd, self.held, flags=FLAGS)
        self.held -= sent
        return sent

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Pipes:
    """Lends at most `limit` pipes at a time. `open_pipe` raises OSError when there is none to be had.

    `now()`: seconds on a clock that never jumps.
    """

    def __init__(
        self, limit: int, open_pipe: Callable[[], Pipe] = Pipe, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._left, self._open_pipe, self._now = limit, open_pipe, now
        self._again = 0.0  # not before then
        self._idle: list[Pipe] = []

    def borrow(self) -> Pipe | None:
        if self._idle:
            return self._idle.pop()
        if self._left and self._now() >= self._again:
            try:
                pipe = self._open_pipe()
            except OSError:
                self._again = self._now() + AGAIN_SECONDS
                return None
            self._left -= 1
            return pipe
        return None

    def give_back(self, pipe: Pipe) -> None:
        """One with bytes in it is closed: they must not turn up in another stream."""
        if pipe.held:
            pipe.close()
            self._left += 1
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Those that are not lent."""
        while self._idle:
            self._idle.pop().close()
