"""roundrobin ●: in turn, by weight, smoothly.

Earliest eligible virtual deadline first (Stoica and Abdel-Wahab, 1995; Linux schedules processes so since
6.6). Virtual time V goes from 0 to 1 while as many turns are taken as the weights sum up to. A server of
weight w is due w times in that time: its k-th turn (from 0) may begin at k/w, and should be taken by
(k+1)/w. Of those whose turn may begin, the one with the earliest deadline takes it:

    weights 5, 1, 1:   A B A A C A A

So over any period each is chosen exactly `weight` times, and never a whole turn more or less than its share
on the way. nginx's smooth weighting gives the same, and looks at each server every time; here two heaps do,
one of those that wait for their turn to begin and one of those that are ready for it: O(log n).

For a server that is full or excluded when it would be its turn, time stands still meanwhile: it does not catch
up in a burst later, and the others share what it would have got.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from heapq import heapify, heappop, heappush

from scaleup.upstream.algorithm import Algorithm, Load, is_free
from scaleup.upstream.server import Server


class _Turns:
    """Those of one server. `since`: the virtual time from which `taken` counts."""

    __slots__ = ("order", "server", "share", "since", "taken")

    def __init__(self, server: Server, order: int, ahead: float) -> None:
        self.server, self.order, self.share = server, order, server.share
        self.since, self.taken = ahead / self.share, 0

    @property
    def begins(self) -> float:
        # Never a sum of fractions: equal ratios divide to equal floats, but do not add up to them.
        return self.since + self.taken / self.share

    @property
    def deadline(self) -> float:
        return self.since + (self.taken + 1) / self.share

    def take(self) -> None:
        self.taken += 1
        if self.taken == self.share:
            self.since, self.taken = self.since + 1, 0


class RoundRobin(Algorithm):
    """In turn, by weight. A server that comes back goes on where it was: it neither catches up nor waits."""

    def __init__(self, randrange: Callable[[int], int]) -> None:
        super().__init__(randrange)
        self._waiting: list[tuple[float, int, _Turns]] = []  # (begins, order, …)
        self._ready: list[tuple[float, int, _Turns]] = []  # (deadline, order, …)
        self._since, self._turn, self._total = 0.0, 0, 1  # V = since + turn / total
        self._ahead: dict[str, float] = {}  # of its share, in turns × 100; of every server that was ever here

    def servers_changed(self, servers: Sequence[Server]) -> None:
        super().servers_changed(servers)
        now = self._since + self._turn / self._total
        for _, _, turns in self._waiting + self._ready:
            ahead = (turns.begins - now) * turns.share
            self._ahead[turns.server.name] = min(max(ahead, -1.0), 1.0)
        self._since, self._turn, self._total = 0.0, 0, sum(server.share for server in servers) or 1
        each = [
            _Turns(server, order, self._ahead.get(server.name, 0.0)) for order, server in enumerate(servers)
        ]
        self._waiting, self._ready = [(turns.begins, turns.order, turns) for turns in each], []
        heapify(self._waiting)

    def pick(self, load: Load, key: bytes | None, exclude: Container[str]) -> Server | None:
        before = self._since, self._turn
        passed_over = self._take_out(exclude) if exclude else []
        while (turns := self._next()) and not is_free(turns.server, load, exclude):
            passed_over.append(turns)
        if passed_over:
            self._pass_over(passed_over, before, found=turns is not None)
        elif turns is not None:
            self._turn += 1
            if self._turn == self._total:
                self._since, self._turn = self._since + 1, 0
        if turns is None:
            return None
        turns.take()
        heappush(self._waiting, (turns.begins, turns.order, turns))
        return turns.server

    def _next(self) -> _Turns | None:
        """The server whose turn it is, taken out of its heap."""
        waiting, ready = self._waiting, self._ready
        if not ready and waiting and waiting[0][0] > self._since + self._turn / self._total:
            self._since, self._turn = waiting[0][0], 0  # everybody is ahead: time passes
        now = self._since + self._turn / self._total
        while waiting and waiting[0][0] <= now:
            _, order, turns = heappop(waiting)
            heappush(ready, (turns.deadline, order, turns))
        return heappop(ready)[2] if ready else None

    def _take_out(self, exclude: Container[str]) -> list[_Turns]:
        """Those that are excluded, whoever's turn it is: a look at each, which a failed connection is worth."""
        out: list[_Turns] = []
        for heap in (self._waiting, self._ready):
            out += [turns for _, _, turns in heap if turns.server.name in exclude]
            heap[:] = [entry for entry in heap if entry[2].server.name not in exclude]
            heapify(heap)
        return out

    def _pass_over(self, passed_over: list[_Turns], before: tuple[float, int], found: bool) -> None:
        """Let time pass for the others only; when there is none (not `found`), for nobody."""
        since, turn = before
        if found:
            shared = self._total - sum([turns.share for turns in passed_over])
            after = self._since + self._turn / self._total + 1 / shared
            stood_still = after - (since + turn / self._total)
            for turns in passed_over:
                turns.since += stood_still
            self._since, self._turn = after, 0
        else:
            self._since, self._turn = since, turn
        for turns in passed_over:
            heappush(self._waiting, (turns.begins, turns.order, turns))
