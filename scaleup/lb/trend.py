"""How fast sessions come, and the most that there were at a time ●: what counters alone do not tell.

The workers count; the node looks every SAMPLE_SECONDS and remembers. So a maximum is that of the samples, and a
shorter peak can be missed; a rate is that of the last second, as HAProxy's. Time is passed in.
"""

from __future__ import annotations

from collections import deque

SAMPLE_SECONDS = 0.2
"""A thousand servers are read within 5 ms, so looking costs 2.5 % of a core there, and nothing with ten."""
RATE_SECONDS = 1.0


class Trend:
    """Of one frontend, server or backend."""

    __slots__ = ("_samples", "began", "max_queue", "max_rate", "max_sessions", "rate")

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()  # of the last second, and one that is older
        self.rate = self.max_rate = self.max_sessions = self.max_queue = 0
        self.began: float | None = None
        """When the newest session began, as far as the samples tell."""

    def see(self, now: float, total: int, current: int, waiting: int = 0) -> None:
        """`total`: sessions so far; `current` ones; `waiting`: connections in the queue."""
        self.max_sessions = max(self.max_sessions, current)
        self.max_queue = max(self.max_queue, waiting)
        samples = self._samples
        if samples and total < samples[-1][1]:
            samples.clear()  # the counters were cleared
        elif samples and total > samples[-1][1]:
            self.began = now
        samples.append((now, total))
        while len(samples) > 1 and samples[1][0] <= now - RATE_SECONDS:
            samples.popleft()
        since, before = samples[0]
        self.rate = round((total - before) / max(now - since, RATE_SECONDS))
        self.max_rate = max(self.max_rate, self.rate)

    def clear(self) -> None:
        """The maxima."""
        self.max_rate = self.max_sessions = self.max_queue = 0
