"""The queue for a slot: connections that wait because every server is at its maxconn.

First come, first served: only the first of the queue tries to take a slot, and when it leaves, however it
leaves, the next one does. So one wake-up is enough for any number of slots. Nobody who comes later takes a slot
from those who wait, in whichever worker: while any of them waits, a newcomer does, too, and does not even try.
Among the queues of several workers, each has its turn.

A slot may be freed by this worker or by another one. So each worker has an eventfd, all workers hold all
of them, and whoever frees a slot wakes the queues of one worker, in turn, among those whose row of the
counters says that somebody waits there; a worker whose queue has become empty passes that on, for there may be more
slots. Who waits alone tries once more after it has said so, because the last slot may have been freed in between;
what still slips through waits RECHECK_SECONDS.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

RECHECK_SECONDS = 0.5


class Ticket:
    """A place in the queue."""

    __slots__ = ("give_up", "take", "timer")

    def __init__(self, take: Callable[[], bool], give_up: Callable[[], None]) -> None:
        self.take, self.give_up = take, give_up
        self.timer: asyncio.TimerHandle | None = None


class Wakers:
    """The eventfds of all workers, which it owns. `woken()` is called when this worker's, `row`, is rung."""

    def __init__(self, descriptors: Sequence[int], row: int, woken: Callable[[], None]) -> None:
        self._descriptors, self.row, self._woken = tuple(descriptors), row, woken
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptors[row], self._rung)

    def ring(self, row: int) -> None:
        os.eventfd_write(self._descriptors[row], 1)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptors[self.row])
        for descriptor in self._descriptors:
            os.close(descriptor)

    def _rung(self) -> None:
        os.eventfd_read(self._descriptors[self.row])
        self._woken()


class WaitingRoom:
    """Of one backend, in one worker: at most `limit` waiters, each for at most `timeout` seconds.

    `everywhere`: in each worker's row, how many wait for this backend.
    """

    def __init__(self, everywhere: memoryview, wakers: Wakers, limit: int, timeout: float) -> None:
        self._everywhere, self._row, self._wakers = everywhere, wakers.row, wakers
        self._limit, self._timeout = limit, timeout
        self._queue: dict[Ticket, None] = {}  # in the order of coming; any may leave
        self._serving = False
        self._recheck: asyncio.TimerHandle | None = None
        self._last_woken = wakers.row
        self._loop = asyncio.get_running_loop()

    @property
    def empty(self) -> bool:
        """Nobody waits, in no worker: who comes may take a slot at once."""
        return not any(self._everywhere)

    def enter(self, take: Callable[[], bool], give_up: Callable[[], None]) -> Ticket | None:
        """Wait. `take()` is called when there may be a slot: True when it took one, which ends the wait.

        `give_up()` is called when the time is up. Neither is called from within. None: the queue is full.
        """
        if len(self._queue) >= self._limit:
            return None
        ticket = Ticket(take, give_up)
        ticket.timer = self._loop.call_later(self._timeout, self._expired, ticket)
        self._queue[ticket] = None
        if not any(self._everywhere):
            self._loop.call_soon(self.wake)
        self._everywhere[self._row] += 1
        if self._recheck is None:
            self._recheck = self._loop.call_later(RECHECK_SECONDS, self._check_again)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """It waits no longer; nothing is called from within, so that many can leave before the next one tries."""
        self._remove(ticket)
        self._loop.call_soon(self.wake)

    def wake(self) -> None:
        """There may be a slot: the first of this worker's queue tries, then the next, while they get one."""
        if self._serving:  # one that took a slot gave it back at once: the loop below sees it
            return
        self._serving = True
        try:
            while (ticket := next(iter(self._queue), None)) and ticket.take():
                self._remove(ticket)
        finally:
            self._serving = False
        if not self._queue:
            self.slot_freed()  # as far as we know

    def slot_freed(self) -> None:
        """There may be one, as a session has ended: the queue of one worker, each in turn, may try."""
        if not any(self._everywhere):  # as nearly always
            return
        rows = len(self._everywhere)
        for step in range(1, rows + 1):
            row = (self._last_woken + step) % rows
            if self._everywhere[row]:
                self._last_woken = row
                self._wakers.ring(row)
                return

    def close(self) -> None:
        for ticket in list(self._queue):
            self._remove(ticket)
        if self._recheck is not None:
            self._recheck.cancel()

    def _remove(self, ticket: Ticket) -> None:
        if ticket in self._queue:
            del self._queue[ticket]
            self._everywhere[self._row] -= 1
            assert ticket.timer is not None
            ticket.timer.cancel()

    def _expired(self, ticket: Ticket) -> None:
        self._remove(ticket)
        ticket.give_up()
        self.wake()

    def _check_again(self) -> None:
        self._recheck = self._loop.call_later(RECHECK_SECONDS, self._check_again) if self._queue else None
        self.wake()
