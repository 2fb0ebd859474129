"""leastconn and first ●: the server that ranks lowest, without looking at each of them.

    leastconn   by sessions for its weight; of those that are equal, the one whose turn it is, by weight
    first       by the order of the configuration, and full ones last: the first is filled up to its maxconn
                before the second gets any, so that those at the end can be switched off

A heap holds the servers by rank, as it was when the load of each was last read. Loads change in other
processes, which do not tell. So a rank is read again

- before it counts: the lowest is read once more, and goes back when it has risen;
- after a session began or ended here;
- of SWEEP more servers with every choice, each in its turn: this is how a server that has become free
  elsewhere is seen, after n / SWEEP choices at the latest, and at once when there are no more than SWEEP servers.

So what is chosen is below its maxconn as exactly as the counts are (see lb.counters), and the least but for
servers that lost sessions elsewhere a few choices ago. That is the price of O(log n) without locks: reading
a thousand loads takes longer than all the rest of a connection.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Container, Sequence
from heapq import heappop, heappush

from scaleup.upstream.algorithm import Algorithm, Load
from scaleup.upstream.server import Server

SWEEP = 2
"""Reads per choice, half a microsecond each: ten servers are seen within 5 choices, a thousand within 500."""

FULL = math.inf

_Entry = tuple[float, float, int]


class Ranking(Algorithm):
    """Chooses the lowest of `rank`, equal ones in the order of the configuration."""

    def __init__(self, randrange: Callable[[int], int]) -> None:
        super().__init__(randrange)
        self._index: dict[Server, int] = {}
        self._entries: list[_Entry] = []  # the one that counts, of each server
        self._heap: list[_Entry] = []  # those, and older ones
        self._unread: set[int] = set()
        self._swept = 0

    @abstractmethod
    def rank(self, index: int, sessions: int) -> tuple[float, float]:
        """Of `self.servers[index]`; the first number is FULL when it can take no more."""

    def chosen(self, index: int) -> None:
        """`self.servers[index]` was."""

    def servers_changed(self, servers: Sequence[Server]) -> None:
        super().servers_changed(servers)
        self._index = {server: index for index, server in enumerate(servers)}
        self._entries = [(math.nan, 0.0, index) for index in range(len(servers))]  # equal to no rank
        self._heap = []
        self._unread = set(range(len(servers)))
        self._swept = 0

    def load_changed(self, server: Server) -> None:
        if (index := self._index.get(server)) is not None:
            self._unread.add(index)

    def pick(self, load: Load, key: bytes | None, exclude: Container[str]) -> Server | None:
        self._read_some(load)
        heap, entries = self._heap, self._entries
        excluded: list[_Entry] = []
        chosen = None
        while heap:
            entry = heap[0]
            if entry is not entries[entry[2]]:
                heappop(heap)  # an older one
            elif self._read(entry[2], load) is not entry:
                continue  # it changed just now
            elif entry[0] == FULL:
                break
            elif exclude and self.servers[entry[2]].name in exclude:
                excluded.append(heappop(heap))
            else:
                chosen = self.servers[entry[2]]
                self.chosen(entry[2])
                break
        for entry in excluded:
            heappush(heap, entry)
        return chosen

    def _read_some(self, load: Load) -> None:
        unread, count = self._unread, len(self.servers)
        for _ in range(min(SWEEP, count)):
            self._swept = (self._swept + 1) % count
            unread.add(self._swept)
        for index in unread:
            self._read(index, load)
        unread.clear()

    def _read(self, index: int, load: Load) -> _Entry:
        entry = self._entries[index]
        first, second = self.rank(index, load(self.servers[index]))
        if entry[0] != first or entry[1] != second:
            entry = self._entries[index] = (first, second, index)
            heappush(self._heap, entry)
            if len(self._heap) > 4 * len(self.servers) + 64:  # mostly older ones
                self._heap[:] = sorted(self._entries)  # that one: `pick` is looking at it
        return entry


class LeastConn(Ranking):
    """The fewest sessions for its weight; those that are equal take turns by weight."""

    def __init__(self, randrange: Callable[[int], int]) -> None:
        super().__init__(randrange)
        self._shares: list[int] = []
        self._turns: list[float] = []  # of each server the virtual time of its next turn (as in `turns`)
        self._now = 0.0

    def servers_changed(self, servers: Sequence[Server]) -> None:
        before = dict(zip(self.servers, self._turns, strict=True))
        super().servers_changed(servers)
        self._shares = [server.share for server in servers]
        self._turns = [before.get(server, self._now + 1 / server.share) for server in servers]

    def rank(self, index: int, sessions: int) -> tuple[float, float]:
        maxconn = self.servers[index].maxconn
        if maxconn and sessions >= maxconn:
            return FULL, 0.0
        # Equal fractions divide to equal floats: the quotient is rounded from the exact value.
        return sessions / self._shares[index], self._turns[index]

    def chosen(self, index: int) -> None:
        self._now = max(self._now, self._turns[index])
        self._turns[index] = self._now + 1 / self._shares[index]
        self._unread.add(index)


class First(Ranking):
    """The first in the order of the configuration that is not full."""

    def rank(self, index: int, sessions: int) -> tuple[float, float]:
        maxconn = self.servers[index].maxconn
        return (FULL if maxconn and sessions >= maxconn else 0.0), 0.0
