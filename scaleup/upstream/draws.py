"""random ●: two servers drawn by weight, the less loaded of them wins.

Why, when there is leastconn: choosers that do not see each other's choices (workers between two reads,
nodes) all send to the same least loaded server at once. Two draws avoid that, and are almost as even
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

A draw is a search among the running sums of the weights: O(log n). One that hits a full server is drawn
again; that is the same as drawing among those that are free, and as long as many are, it is quicker than
finding out which.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Sequence
from itertools import accumulate

from scaleup.upstream.algorithm import Algorithm, Load, is_free
from scaleup.upstream.server import Server

TRIES = 8
"""Draws until it is found out who is free: then few are."""


class Random(Algorithm):
    """Two different servers drawn by weight; of them the one with fewer sessions for its weight."""

    def servers_changed(self, servers: Sequence[Server]) -> None:
        super().servers_changed(servers)
        self._sums = list(accumulate(server.share for server in servers))

    def pick(self, load: Load, key: bytes | None, exclude: Container[str]) -> Server | None:
        first = self._draw(None, load, exclude)
        if first is None:
            return None
        second = self._draw(first, load, exclude)
        if second is None:
            return self.servers[first]
        one, other = self.servers[first], self.servers[second]
        # As fractions, multiplied out.
        return other if load(other) * one.share < load(one) * other.share else one

    def _draw(self, other_than: int | None, load: Load, exclude: Container[str]) -> int | None:
        """The index of one that is free."""
        servers, sums = self.servers, self._sums
        if len(servers) == (other_than is not None):
            return None
        below, skipped = 0, 0
        if other_than is not None:
            skipped = servers[other_than].share
            below = sums[other_than] - skipped
        for _ in range(TRIES):
            mark = self.randrange(sums[-1] - skipped)
            if other_than is not None and mark >= below:
                mark += skipped
            index = bisect_right(sums, mark)
            if is_free(servers[index], load, exclude):
                return index
        free = [n for n, server in enumerate(servers) if n != other_than and is_free(server, load, exclude)]
        if not free:
            return None
        shares = list(accumulate(servers[n].share for n in free))
        return free[bisect_right(shares, self.randrange(shares[-1]))]
