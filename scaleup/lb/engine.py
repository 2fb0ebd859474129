"""What all connections of a worker share: one epoll, one buffer, one timer, the pipes.

The epoll. Each socket is registered once, for everything, edge-triggered, and leaves it by being closed: to
read or not to read costs no system call. The epoll's own descriptor is watched by the loop, so a batch of
events costs the loop one callback.

Edge-triggered means that each change is told once. So whoever is told of bytes reads until there are no more
(a read that did not fill the buffer, or EAGAIN), or comes back by itself; whoever writes until a socket is full
(send took a part, or EAGAIN) is told when it takes more; and a reset is told at once, whatever is being done
with the socket.

The buffer. All connections read into the same memory. That is safe because each use is one synchronous step of
one thread, recv_into – send – copy what was not taken, and no callback finds anything in it.
"""

from __future__ import annotations

import math
import select
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from scaleup.lb.pipes import Pipes
from scaleup.lb.wheel import Due, Wheel

BUFFER_BYTES = 256 * 1024  # of the prototypes' sizes the fastest in bulk
EVENTS_AT_ONCE = 128  # then the loop's other callbacks get their turn

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
ERROR = select.EPOLLERR  # a reset; reported without being asked for
URGENT = select.EPOLLPRI
LAST = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
"""An end, or urgent data: a read may stop short of it, so that only EAGAIN says that there is no more."""

EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET

Told = Callable[[int], None]


class Watch:
    """Who is `told` of the events of a socket."""

    __slots__ = ("told",)

    def __init__(self, told: Told) -> None:
        self.told = told


class Engine:
    """One for each worker. close() it after the last connection has ended.

    `pipes`: for streams that are spliced; none are by default.
    """

    def __init__(self, loop: AbstractEventLoop, pipes: Pipes | None = None) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.pipes = pipes or Pipes(0)
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self._wheel = Wheel()
        self._timer: TimerHandle | None = None
        self._timer_at = math.inf
        loop.add_reader(self._epoll.fileno(), self._turn)

    def watch(self, fd: int, told: Told) -> None:
        """From now on `told(events)`, instead of whoever was. What had happened before the first call is told."""
        if watch := self._watches.get(fd):
            watch.told = told
        else:
            self._epoll.register(fd, EVERYTHING)  # may raise; then there is no watch
            self._watches[fd] = Watch(told)

    def forget(self, fd: int) -> None:
        """Nobody is told any more. The socket must be closed next: that is how it leaves the epoll."""
        if watch := self._watches.pop(fd, None):
            watch.told = _nobody

    def expect(self, due: Due, when: float) -> None:
        """Call `due.time_up()` at `when`, a tick late at most, and at no other time; infinite: never."""
        self._wheel.set(due, when)
        if self._wheel.next < self._timer_at:
            self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self.pipes.close()

    def _turn(self) -> None:
        # All are looked up first: one may close the socket of another, whose number may then be reused.
        happened = [(self._watches.get(fd), events) for fd, events in self._epoll.poll(0, EVENTS_AT_ONCE)]
        for watch, events in happened:
            if watch is not None:
                try:
                    watch.told(events)
                except Exception as error:  # noqa: BLE001 - the events of the others must not be lost with it
                    self._failed(error)

    def _time_up(self) -> None:
        for due in self._wheel.pop(self.loop.time()):
            try:
                due.time_up()
            except Exception as error:  # noqa: BLE001 - nor the deadlines
                self._failed(error)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._wheel.next
        self._timer = None
        if self._timer_at < math.inf:
            self._timer = self.loop.call_at(self._timer_at, self._time_up)

    def _failed(self, error: Exception) -> None:
        context = {"message": "a connection's callback failed", "exception": error}
        self.loop.call_exception_handler(context)


def _nobody(_: int) -> None:
    """Told of a socket that was closed by an event of the same batch."""
