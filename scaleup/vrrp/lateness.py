"""How late the timer's turn came: a histogram, small enough to go over a channel every second. ●"""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""From what a quiet machine shows (0.1 ms) to what costs the role at an interval of 0.3 s."""


class Lateness:
    """`counts`: of observations up to each bound, and beyond the last. `total`: seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.total += seconds
