"""When one node took over from another, out of what a third host heard. Pure.

A take-over begins with the last advertisement of the old Active, which may be the one of priority 0. It is
complete when the new one has advertised and announced its hardware address: neighbours then know where to send.
Which of the two is first differs (keepalived advertises first, ours announces first), so the later one counts,
for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.wire import Advertisement, Announcement

Heard = Advertisement | Announcement


@dataclass(frozen=True)
class TakeOver:
    """`last`: of the old one's advertisements; `complete`: the take-over. Wall clock, nanoseconds."""

    last: int
    complete: int


def take_over(heard: Sequence[Heard], old: str, new: str, address: str) -> TakeOver | None:
    """From `old` to `new`, which are hardware addresses; None: it is not complete (yet)."""
    first = next((one.ns for one in heard if isinstance(one, Advertisement) and one.sender == new), None)
    announced = next(
        (
            one.ns
            for one in heard
            if isinstance(one, Announcement) and one.sender == new and one.address == address
        ),
        None,
    )
    if first is None or announced is None:
        return None
    complete = max(first, announced)
    last = max(
        (
            one.ns
            for one in heard
            if isinstance(one, Advertisement) and one.sender == old and one.ns < complete
        ),
        default=None,
    )
    return None if last is None else TakeOver(last, complete)


def skew(interval: float, priority: int) -> float:
    """Skew_Time, seconds (RFC 9568 §6.1)."""
    return interval * (256 - priority) / 256


def down(interval: float, priority: int) -> float:
    """Active_Down_Interval, seconds."""
    return 3 * interval + skew(interval, priority)
