"""Whose clock is wrong, where advertisements are authenticated by time. ●

Two nodes whose clocks differ by more than the window of `auth` believe nothing of each other, and both would
become Active. One of them has to leave the election, and both must agree which, without being able to talk.

The rule: who hears authentic packets *from the future* leaves. Its clock is the one behind, which is how
clocks are wrong in practice (a flat battery, a machine resumed from a snapshot). And nobody else can make a
node leave by that rule: what an attacker replays is from the past. The other node, whose peer is behind,
stays. So exactly one serves, even if it should be the one whose clock is wrong.

The node comes back with the first packet that it believes (the clock was corrected), or when none from the
future came for an Active_Down_Interval (the other has died, and a wrong clock serves better than nobody).

The limit of it: when a clock ran ahead and was corrected, what was recorded then can be replayed as from the
future until that time has come.
"""

from __future__ import annotations

FUTURE_PACKETS = 2
"""As many without a believed one between them, of the three that a Backup waits for: one may be an accident."""


class ClockWatch:
    """What the packets say of our clock. `patience`: seconds without one from the future that restore it."""

    def __init__(self) -> None:
        self._heard = 0
        self.deadline: float | None = None
        """When `believed` is to be called, unless a packet is before it; None while our clock is not doubted."""

    def from_future(self, now: float, patience: float) -> None:
        """An authentic packet was ahead of our clock by more than the window."""
        self._heard += 1
        if self._heard >= FUTURE_PACKETS:
            self.deadline = now + patience

    def believed(self) -> None:
        """An authentic packet was fresh, or the deadline has come."""
        self._heard, self.deadline = 0, None
