"""What must hold in a cluster, whatever happens to it.

Both properties hold in each election by itself, and are about the nodes that take part in it: those that run
and that their policy does not keep out of it (a fault, a startup_delay).

**Never none for long.** As long as a node has been taking part, no time without an Active one is longer than
its Active_Down_Interval, plus the time that the last advertisement may have been under way when its sender
died. This needs no connected network: a node that hears nothing becomes Active by itself. A cut network has
an Active node in each part, and that is what two-node VRRP can do: it cannot prevent a split, it heals it. A
preempt_delay adds nothing: it holds back who would preempt the living, not who follows the dead.

**One in the end.** After the last fault, once the settling bound has passed, exactly one node is Active, none
that preempts has a higher priority, whoever is fit takes part, and nothing changes any more. The bound, from
the last fault on:

    what is still under way arrives                                     slowest
  + refused for a clock that was wrong before the fault (see vrrp.auth)  window, with authentication
  + the last startup_delay ends, and the last check decides              to_know
  + one election:
      the last Backup that has to preempt, or hears nobody, fires        Active_Down_Interval
      the strongest Active advertises, and the others give way           Advertisement_Interval
      an advertisement, the answer to it, and one to learn from          3 × latency
  + with a preempt_delay, which begins when a lower-priority Active is
    first heard: the delay, and another election                         hold + as above

with the longest interval of any node. Why one election is enough: among the Backups the Active_Down_Timers
run side by side, not after one another, and only a priority that is at least as high restarts one that
preempts. So the highest priority that is Active can only rise; when all timers have fired or been restarted,
it is final.
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
    """What the properties are about; `node.Seat` is one."""

    @property
    def router(self) -> Router: ...
    @property
    def up_since(self) -> float: ...
    @property
    def active(self) -> bool: ...
    @property
    def preempts(self) -> bool: ...


def longest_down_interval(interval: float) -> float:
    """Active_Down_Interval at the lowest priority. All in seconds."""
    return (3 + GREATEST_SKEW) * interval


def settling_bound(
    interval: float, latency: float, slowest: float, window: float, *, to_know: float = 0.0, hold: float = 0.0
) -> float:
    """Seconds from the last fault until exactly one node is Active. `window`: 0 without authentication.

    `to_know`: until the last policy knows what there is to know. `hold`: the longest preempt_delay.
    """
    one_election = longest_down_interval(interval) + interval + 3 * latency
    return slowest + window + to_know + one_election + (hold + one_election if hold else 0.0)


def check_settled(taking_part: Collection[Watched]) -> None:
    """The second property, when its time has come. Raises Violation."""
    if not taking_part:
        return
    actives = [node for node in taking_part if node.active]
    if len(actives) != 1:
        raise Violation(f"in the end {len(actives)} nodes are Active")
    priority = actives[0].router.priority
    stronger = [node for node in taking_part if node.preempts and node.router.priority > priority]
    if stronger:
        raise Violation(
            f"in the end the Active node has priority {priority}, and a stronger one would preempt"
        )


class NeverNone:
    """Watches the first property; `observe` is told at each change who takes part.

    `interval`: the longest of any node, seconds.
    """

    def __init__(self, interval: float) -> None:
        self._down_interval = longest_down_interval(interval)
        self._since: float | None = None  # since when some take part and none is Active; None: not so now
        self.longest = 0.0
        """The longest time without an Active node, seconds."""

    def observe(self, now: float, taking_part: Collection[Watched], slowest: float) -> None:
        """Raises Violation. `slowest`: the longest time that a packet can have been under way, seconds."""
        if self._since is not None:
            none_for = now - self._since
            self.longest = max(self.longest, none_for)
            bound = self._down_interval + slowest
            if none_for > bound + TOLERANCE_SECONDS:
                raise Violation(f"no node was Active for {none_for:.4f} s, more than {bound:.4f} s")
        if not taking_part or any(node.active for node in taking_part):
            self._since = None
        else:
            since = now if self._since is None else self._since
            self._since = max(since, min(node.up_since for node in taking_part))
