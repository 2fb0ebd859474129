"""Whether one server is up: what its checks say, and when the next one is due.

    UP    ── `fall` failed checks in a row ──▶  DOWN
    DOWN  ── `rise` passed checks in a row ──▶  UP

Runs in a row, so that neither one lost packet nor one lucky answer decides anything. That protects what
is known of a server. Before anything is known there is nothing to protect, so:

- A server starts UP. Starting DOWN would refuse all clients until the first checks are done; a dead server
  that is tried costs one redispatch.
- The first check that fails brings it DOWN at once, as in HAProxy.
- Until a check has passed for the first time, one is enough to bring it UP. (HAProxy asks for `rise`
  here too.) When all tiers start at once, the first check often comes before the server listens; this
  ends that within one interval.

The first check is due at a random time within the first interval, and each interval differs by up to a
tenth, so that the checks of many servers, and from many nodes, neither begin nor drift together.

How to drive it: wait until `deadline`, check, then call exactly one of `check_passed`, `check_failed`
and `check_not_made`, which set the next `deadline`. A returned `Change` is to be acted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

JITTER = 0.1
"""By which fraction of `inter` an interval may differ, either way."""


@dataclass(frozen=True, slots=True)
class Change:
    """The server went up or down. `reason`: the rule that decided and what the last check said."""

    up: bool
    reason: str


class Health:
    """The health of one server.

    `inter`: seconds from the start of a check to the next. `rise`, `fall`: checks in a row, ≥ 1.
    `now`: seconds on a clock that never jumps. `random()`: 0 ≤ it < 1.
    """

    def __init__(
        self, *, inter: float, rise: int, fall: int, now: float, random: Callable[[], float]
    ) -> None:
        self._inter, self._rise, self._fall, self._random = inter, rise, fall, random
        self._proven = False  # has ever passed a check
        self._run = 0  # checks in a row that speak against `up`
        self.up = True
        self.deadline = now + inter * random()

    def check_passed(self, now: float, reason: str) -> Change | None:
        """The check that was due at `deadline` is done: the server is fine. `reason`: what it showed."""
        self._plan_next(now)
        first, self._proven = not self._proven, True
        if self.up:
            self._run = 0
            return None
        self._run += 1
        if first:
            return self._become(True, f"first check passed: {reason}")
        if self._run >= self._rise:
            return self._become(True, f"{_checks(self._run)} passed: {reason}")
        return None

    def check_failed(self, now: float, reason: str) -> Change | None:
        """The check that was due at `deadline` is done: the server is not fine. `reason`: why."""
        self._plan_next(now)
        if not self.up:
            self._run = 0
            return None
        self._run += 1
        if not self._proven:
            return self._become(False, f"first check failed: {reason}")
        if self._run >= self._fall:
            return self._become(False, f"{_checks(self._run)} failed: {reason}")
        return None

    def check_not_made(self, now: float) -> None:
        """The check could not be made for a reason of our own: that says nothing about the server."""
        self._plan_next(now)

    def _become(self, up: bool, reason: str) -> Change:
        self.up = up
        self._run = 0
        return Change(up, reason)

    def _plan_next(self, now: float) -> None:
        """An interval after this check was due, so that slow checks do not make rarer ones.

        When that is already past (a slow check, a paused process) the next is due now, once: intervals
        missed are not made up for.
        """
        interval = self._inter * (1 + JITTER * (2 * self._random() - 1))
        self.deadline = max(now, self.deadline + interval)


def _checks(count: int) -> str:
    return "1 check" if count == 1 else f"{count} checks"
