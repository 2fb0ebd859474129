"""What all relays of a worker share: the loop, one buffer, and the alarm.

The buffer. All relays read into the same memory. That is safe because each use is one synchronous step of
one thread, recv_into – send – copy what was not taken, and no callback finds anything in it.

The alarm is an epoll that reports nothing but errors, at once, whatever a socket is waiting for; its own
descriptor is watched by the loop. It is there because a socket that is not read has no watcher, and because
uvloop runs the callback of a socket with an error once and then drops its watcher in silence.
"""

from __future__ import annotations

import select
from asyncio import AbstractEventLoop
from collections.abc import Callable

BUFFER_BYTES = 256 * 1024  # of the prototypes' sizes the fastest in bulk


class Engine:
    """One for each worker. close() it after the last relay has ended."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self._alarm = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._alarm.fileno(), self._ring)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """`call` when `fd` gets an error; until forget(), after which the fd must be closed."""
        self._calls[fd] = call
        self._alarm.register(fd, select.EPOLLET)  # no event is named: EPOLLERR is always reported

    def forget(self, fd: int) -> None:
        self._calls.pop(fd, None)

    def close(self) -> None:
        self.loop.remove_reader(self._alarm.fileno())
        self._alarm.close()

    def _ring(self) -> None:
        # All are looked up first: the first call may close another fd, which is then reused.
        calls = [self._calls.get(fd) for fd, events in self._alarm.poll(0) if events & select.EPOLLERR]
        for call in filter(None, calls):
            call()
