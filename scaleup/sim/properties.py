"""What must hold in a cluster, whatever happens to it.

**Never none for long.** As long as a node has been running, no time without an Active one is longer than its
Active_Down_Interval, plus the time that the last advertisement may have been under way when its sender died.
This needs no connected network: a node that hears nothing becomes Active by itself. A cut network has an
Active node in each part, and that is what two-node VRRP can do: it cannot prevent a split, it heals it.

**One in the end.** After the last fault, once the settling bound has passed, exactly one node is Active, none
that preempts has a higher priority, and nothing changes any more. The bound, from the last fault on:

    what is still under way arrives                                     slowest
  + refused for a clock that was wrong before the fault (see vrrp.auth)  window, with authentication
  + the last Backup that has to preempt, or hears nobody, fires          Active_Down_Interval
  + the strongest Active advertises, and the others give way             Advertisement_Interval
  + an advertisement, the answer to it, and one to learn from            3 × latency

with the longest interval of any node. Why that is enough: among the Backups the Active_Down_Timers run side
by side, not after one another, and only a priority that is at least as high restarts one that preempts. So
the highest priority that is Active can only rise; when all timers have fired or been restarted, it is final.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from scaleup.vrrp.router import Router

TOLERANCE_SECONDS = 1e-6  # rounding of sums of floats

GREATEST_SKEW = 255 / 256  # of an interval, at priority 1


class Violation(AssertionError):
    """A property did not hold. Its notes tell the scenario and what happened."""


class Watched(Protocol):
    """What the properties are about; `node.Node` is one."""

    router: Router
    up_since: float

    @property
    def active(self) -> bool: ...


def longest_down_interval(interval: float) -> float:
    """Active_Down_Interval at the lowest priority. All in seconds."""
    return (3 + GREATEST_SKEW) * interval


def settling_bound(interval: float, latency: float, slowest: float, window: float) -> float:
    """Seconds from the last fault until exactly one node is Active. `window`: 0 without authentication."""
    return slowest + window + longest_down_interval(interval) + interval + 3 * latency


def check_settled(running: Collection[Watched]) -> None:
    """The second property, when its time has come. Raises Violation."""
    actives = [node for node in running if node.active]
    if len(actives) != 1:
        raise Violation(f"in the end {len(actives)} nodes are Active")
    priority = actives[0].router.priority
    stronger = [node for node in running if node.router.preempts and node.router.priority > priority]
    if stronger:
        raise Violation(
            f"in the end the Active node has priority {priority}, and a stronger one would preempt"
        )


class NeverNone:
    """Watches the first property; `observe` is told at each change who runs. `interval`: the longest, seconds."""

    def __init__(self, interval: float) -> None:
        self._down_interval = longest_down_interval(interval)
        self._since: float | None = None  # since when a node runs and none is Active; None: not so now
        self.longest = 0.0
        """The longest time without an Active node, seconds."""

    def observe(self, now: float, running: Collection[Watched], slowest: float) -> None:
        """Raises Violation. `slowest`: the longest time that a packet can have been under way, seconds."""
        if self._since is not None:
            none_for = now - self._since
            self.longest = max(self.longest, none_for)
            bound = self._down_interval + slowest
            if none_for > bound + TOLERANCE_SECONDS:
                raise Violation(f"no node was Active for {none_for:.4f} s, more than {bound:.4f} s")
        if not running or any(node.active for node in running):
            self._since = None
        else:
            since = now if self._since is None else self._since
            self._since = max(since, min(node.up_since for node in running))
