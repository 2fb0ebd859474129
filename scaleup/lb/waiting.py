"""The queue for a slot: connections that wait because every server is at its maxconn.

First come, first served: only the first of the queue asks for a slot, and when it leaves, however it
leaves, the next one asks. So one wake-up is enough for any number of slots, and nobody who comes later
takes a slot from those who wait.

A slot may be freed by this worker or by another one. So each worker has an eventfd, all workers hold all
of them, and whoever frees a slot wakes the queue of one worker, in turn, among those whose row of the
counters says that somebody waits there. The first of a queue asks once more after it has said so, because
the last slot may have been freed in between; what still slips through waits RECHECK_SECONDS.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from scaleup.lb.counters import Counters, Frontend

T = TypeVar("T")

RECHECK_SECONDS = 0.5


class WaitingRoom:
    """At most `limit` waiters, each for at most `timeout` seconds. It owns `wakers`, the eventfds."""

    def __init__(
        self, counters: Counters, row: int, wakers: Sequence[int], limit: int, timeout: float
    ) -> None:
        self._counters, self._row, self._wakers = counters, row, tuple(wakers)
        self._limit, self._timeout = limit, timeout
        self._queue: deque[asyncio.Event] = deque()
        self._last_woken = row
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._wakers[row], self._woken)

    async def slot(self, ask: Callable[[], T | None]) -> T | None:
        """What `ask()` gives, at once or after waiting. None when the queue is full or the time is up."""
        if not self._queue and (answer := ask()) is not None:
            return answer
        if len(self._queue) >= self._limit:
            return None
        turn = asyncio.Event()
        self._queue.append(turn)
        self._counters.add(self._row, Frontend.WAITING)
        try:
            async with asyncio.timeout(self._timeout):
                while self._queue[0] is not turn or (answer := ask()) is None:
                    await self._sleep(turn)
            return answer
        except TimeoutError:
            return None
        finally:
            self._queue.remove(turn)
            self._counters.add(self._row, Frontend.WAITING, -1)
            self.wake()

    def wake(self) -> None:
        """There may be a slot: the first of this worker's queue asks."""
        if self._queue:
            self._queue[0].set()

    def slot_freed(self) -> None:
        """A session of this worker has ended: the queue of one worker, each in turn, may ask."""
        rows = len(self._wakers)
        for step in range(1, rows + 1):
            row = (self._last_woken + step) % rows
            if self._counters.get(row, Frontend.WAITING):
                self._last_woken = row
                os.eventfd_write(self._wakers[row], 1)
                return

    def close(self) -> None:
        self._loop.remove_reader(self._wakers[self._row])
        for waker in self._wakers:
            os.close(waker)

    async def _sleep(self, turn: asyncio.Event) -> None:
        recheck = self._loop.call_later(RECHECK_SECONDS, turn.set)
        try:
            await turn.wait()
        finally:
            recheck.cancel()
        turn.clear()

    def _woken(self) -> None:
        os.eventfd_read(self._wakers[self._row])
        self.wake()
