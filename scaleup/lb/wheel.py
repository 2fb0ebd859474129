"""The deadlines of many connections: a timing wheel, pure.

Time is cut into slots of TICK_SECONDS; a slot holds what is due in it. To set, move or remove a deadline is a
set operation, whatever the number of connections; a heap says which slot is next. So there is one timer for
all of them, and a deadline is met at most a tick late. An empty slot stays until its time, so deadlines should
not be far off: whoever waits long looks again in between (Varghese and Lauck, "Hashed and Hierarchical Timing
Wheels", 1987).
"""

from __future__ import annotations

import heapq
import math
from typing import Protocol

TICK_SECONDS = 0.01
ROUNDING = 0.001  # ticks: a clock of whole milliseconds must not miss a slot by the last bit of a float


class Due(Protocol):
    """`slot`: the wheel's own note, None at first."""

    slot: int | None

    def time_up(self) -> None: ...


class Wheel:
    """Times are seconds of one monotonic clock, as everywhere passed in."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Due]] = {}
        self._order: list[int] = []  # heap of the slots' numbers
        self.next = math.inf
        """When to call `pop`; infinite while nothing is due, ever. May turn out to be too early."""

    def set(self, due: Due, when: float) -> None:
        """`due` at `when`, and no other time; infinite: never."""
        if when == math.inf:
            self.remove(due)
            return
        number = int(when / TICK_SECONDS) + 1
        if due.slot == number:
            return
        self.remove(due)
        due.slot = number
        slot = self._slots.get(number)
        if slot is not None:
            slot.add(due)
            return
        self._slots[number] = {due}
        heapq.heappush(self._order, number)
        self.next = self._order[0] * TICK_SECONDS

    def remove(self, due: Due) -> None:
        """Never; may be repeated."""
        if due.slot is not None:
            self._slots[due.slot].discard(due)
            due.slot = None

    def pop(self, now: float) -> list[Due]:
        """What is due, which is then set no more."""
        expired: list[Due] = []
        ticks = int(now / TICK_SECONDS + ROUNDING)
        while self._order and self._order[0] <= ticks:
            slot = self._slots.pop(heapq.heappop(self._order))
            for due in slot:
                due.slot = None
            expired.extend(slot)
        self.next = self._order[0] * TICK_SECONDS if self._order else math.inf
        return expired
