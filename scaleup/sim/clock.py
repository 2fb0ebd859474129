"""Virtual time: it jumps from one event to the next, and stands still while an event happens."""

from __future__ import annotations

import heapq
from collections.abc import Callable

MAX_EVENTS = 1_000_000  # in one run: more is two nodes answering each other without end


class VirtualClock:
    """`now`: seconds since the start of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0  # also tells apart what happens at the same time: first come, first served

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have `action` called when it is `when`, which must not be past."""
        assert when >= self.now, f"{when} is past, it is {self.now}"
        self._scheduled += 1
        heapq.heappush(self._events, (when, self._scheduled, action))

    def run_until(self, end: float) -> None:
        """Let everything happen that is due by `end`, and go there."""
        for _ in range(MAX_EVENTS):
            if not self._events or self._events[0][0] > end:
                self.now = max(self.now, end)
                return
            self.now, _, action = heapq.heappop(self._events)
            action()
        raise RuntimeError(f"more than {MAX_EVENTS} events until {self.now} s: a storm?")
