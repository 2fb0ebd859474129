"""How much one source takes of a frontend, and when that is too much: HAProxy's src_conn_cur and src_conn_rate. ●

A source is an IPv4 address, or the /64 of an IPv6 one, which is what one host can choose its addresses from. It
may have `maxconn` connections at a time, and make `rate` of them in `period`. Those that are refused count for the
rate as well, as in HAProxy: who goes on hammering stays out.

The rate is a sliding window without a list of times (HAProxy's freq_ctr): what came in the present period, and
of what came in the one before the share that a window as long as a period still covers.

    period       │ 40 connections │ 12 so far      a quarter of the present period has passed:
    window          ├──────────────────┤           12 + 40 × ¾ = 42

Memory is bounded: a source that has a connection is bounded by the frontend's maxconn, and of each period at most
MAX_SOURCES are remembered. Sources beyond them are let in and not counted, so nobody who is counted can
wash himself out of the table by a flood of others.
"""

from __future__ import annotations

from collections import Counter

from scaleup.upstream.balance import client_key

MAX_SOURCES = 65536
"""Of each period; about 10 MB for both in the worst case."""

NETWORK_BYTES = 8  # of an IPv6 address: /64


class Sources:
    """`maxconn`, `rate`: 0 for no limit. `period`: seconds > 0. Times are those of any one clock."""

    def __init__(self, maxconn: int, rate: int, period: float) -> None:
        self._maxconn, self._rate, self._period = maxconn, rate, period
        self._current = Counter[bytes]()
        self._number = 0  # of the present period
        self._now: dict[bytes, int] = {}
        self._before: dict[bytes, int] = {}

    def enter(self, source: bytes, now: float) -> str:
        """One more connection. Returns "", or why it is refused; if it is not, `leave` follows at its end."""
        if self._rate and self._count(source, now) > self._rate:
            return f"more than {self._rate} connections in {self._period:g} s (--source-rate)"
        if self._maxconn and self._current[source] >= self._maxconn:
            return f"it has {self._maxconn} connections (--source-maxconn)"
        self._current[source] += 1
        return ""

    def leave(self, source: bytes) -> None:
        self._current[source] -= 1
        if not self._current[source]:
            del self._current[source]

    def _count(self, source: bytes, now: float) -> float:
        """In the last `period`, this one included."""
        number, passed = divmod(now, self._period)
        if number != self._number:
            self._before = self._now if number == self._number + 1 else {}
            self._now, self._number = {}, int(number)
        counted = self._now.get(source, 0)
        if counted or len(self._now) < MAX_SOURCES:
            self._now[source] = counted = counted + 1
        return counted + self._before.get(source, 0) * (1 - passed / self._period)


def source_of(host: str) -> bytes:
    """Of a client's IP address. Raises ValueError when it is not one."""
    key = client_key(host)
    return key if len(key) == 4 else key[:NETWORK_BYTES]
