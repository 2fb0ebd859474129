"""Where lines leave the process, which never waits for whoever reads them.

Theory of operation. A line is written at once, if that is possible without waiting. So the last words of a process
that is killed are there, lines stay in order, and no thread contends for the interpreter or, beside a thread with
real-time priority, lacks it. When the reader stalls, lines wait here, BUFFER_BYTES of them; further ones are
dropped and counted, and when the lines flow again, one says how many are missing.

      put, gather ──▶ waiting lines ──▶ sink: write what it takes now
           │                 ▲            │ BlockingIOError: it takes nothing now; tried again after a pause
           │ no room         │            │ OSError: the disk is full, the reader is gone
           ▼                 │            ▼
        dropped ─────▶ "N lines were dropped" ◀──── dropped

Lines that come by the thousand are *gathered* and written together (see `logs.Gathered`). They get half of the
room, so that a flood of them does not cost the line that says why it came.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

from scaleup.processes.sinks import LogFile, Sink

BUFFER_BYTES = 1024 * 1024
"""Some 8,000 lines; of gathered ones half."""

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 1.0
"""Until a sink that took nothing is tried again; doubled each time."""

CLOSE_SECONDS = 0.5
"""For a stalled reader to take the last lines: less than what a parent grants beyond the drain."""


class Outlet:
    """Lines for one sink, which it owns. `notice(n)` makes the line which says that n are missing."""

    def __init__(self, sink: Sink, notice: Callable[[int], bytes]) -> None:
        self.sink = sink
        self.dropped = 0
        """In all."""
        self._notice = notice
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._missing = 0  # dropped, and nobody was told yet
        self._begun = False  # a part of the first line was written
        self._torn = False  # and its rest is lost
        self._pause = SHORTEST_PAUSE_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the timer
        self._lock = threading.RLock()  # again by the same thread: a destructor may log, wherever it runs

    def put(self, line: bytes) -> None:
        """Write a line, which ends with a newline, now if possible."""
        with self._lock:
            self._keep(line, BUFFER_BYTES)
            self.flush()

    def gather(self, line: bytes) -> None:
        """Keep a line until `flush`, or until another one is put."""
        with self._lock:
            if self._missing and self._lines:
                self._drop()  # until those that wait are gone: one hole, not many
            else:
                self._keep(line, BUFFER_BYTES // 2)

    def flush(self) -> None:
        """Write what was gathered, if possible."""
        with self._lock:
            if self._pause == SHORTEST_PAUSE_SECONDS or not self._flush_in(self._pause):
                self._flush()

    def reopen(self) -> None:
        """Of a sink that is a file: what waits goes to the new one. Raises OSError; then the old one stays."""
        assert isinstance(self.sink, LogFile)
        with self._lock:
            self.sink.reopen()
            self._flush()

    def close(self) -> None:
        """Write what is left, within CLOSE_SECONDS. May be called again, and lines may still come."""
        deadline = time.monotonic() + CLOSE_SECONDS
        with self._lock:
            self._flush()
            while self._lines and (left := deadline - time.monotonic()) > 0:
                self.sink.wait(left)
                self._flush()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self.sink.close()

    def _keep(self, line: bytes, room: int) -> None:
        if self._size + len(line) > room:
            self._drop()
        else:
            self._lines.append(line)
            self._size += len(line)

    def _drop(self, count: int = 1) -> None:
        self.dropped += count
        self._missing += count

    def _flush(self) -> None:
        """Write until there is nothing left, or the sink takes no more."""
        while self._lines:
            count, chunk = self._chunk()
            try:
                taken = self.sink.write(chunk)
            except BlockingIOError:
                self._flush_in(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
                return
            except OSError:
                self._pause = SHORTEST_PAUSE_SECONDS
                self._forget(count)
                self._drop(count)
                self._torn, self._begun = self._torn or self._begun, False
                continue
            self._pause = SHORTEST_PAUSE_SECONDS
            self._forget(count)
            self._torn = self._begun = False
            if taken < len(chunk):
                self._take_back(chunk[taken:])
                self._begun = chunk[taken - 1 : taken] != b"\n"
            elif self._missing and not self._lines:
                missing, self._missing = self._missing, 0
                self._keep(self._notice(missing), BUFFER_BYTES)

    def _chunk(self) -> tuple[int, bytes]:
        """Whole lines, as many as the sink likes and at least one, and how many they are."""
        lines: list[bytes] = []
        size = 0
        for line in self._lines:
            size += len(line)
            if lines and size > self.sink.chunk_bytes:
                break
            lines.append(line)
        chunk = b"".join(lines)
        return len(lines), b"\n" + chunk if self._torn else chunk

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._size -= len(self._lines.popleft())

    def _take_back(self, rest: bytes) -> None:
        """The sink took a part: what is left comes first, line by line."""
        for line in reversed(rest.splitlines(keepends=True)):
            self._lines.appendleft(line)
            self._size += len(line)

    def _flush_in(self, seconds: float) -> bool:
        """False where no loop runs: then the next line does it, or the end."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._timer is None or self._loop is not loop:
            self._timer, self._loop = loop.call_later(seconds, self._time_up), loop
        return True

    def _time_up(self) -> None:
        with self._lock:
            self._timer = None
            self._flush()
