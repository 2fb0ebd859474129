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

How often, as in HAProxy: every `inter` seconds while UP and sure of it, `fastinter` while results speak against
what is known, `downinter` while DOWN and sure of it.

Real connections are observed, too, because a server can fail between two checks. `error_limit` of them that failed
to reach it in a row, with none between that did, have a consequence, `on_error`:

    fastinter      the next check comes within `fastinter`
    fail-check     and they count as one failed check
    sudden-death   and one more failed check brings the server DOWN
    mark-down      the server is DOWN

Slowness has none: a server is never taken out because others are quicker.

How to drive it: wait until `deadline`, check, then call exactly one of `check_passed`, `check_failed`
and `check_not_made`, which set the next `deadline`. Call `connection_failed` and `connection_made` whenever that
happens; the first may bring `deadline` forward. A returned `Change` is to be acted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

OnError = Literal["fastinter", "fail-check", "sudden-death", "mark-down"]

JITTER = 0.1
"""By which fraction of `inter` an interval may differ, either way."""


@dataclass(frozen=True, slots=True)
class Change:
    """The server went up or down. `reason`: the rule that decided and what the last check said."""

    up: bool
    reason: str


class Health:
    """The health of one server.

    `inter`: seconds from the start of a check to the next; `fastinter`, `downinter`: the same, by default
    `inter`. `rise`, `fall`: checks in a row, ≥ 1. `error_limit`: connections in a row, ≥ 1; 0: they are not
    observed. `known`: whether it was up when it was last watched; None: it never was. `now`: seconds on a clock
    that never jumps. `random()`: 0 ≤ it < 1.
    """

    def __init__(
        self,
        *,
        inter: float,
        rise: int,
        fall: int,
        now: float,
        random: Callable[[], float],
        fastinter: float | None = None,
        downinter: float | None = None,
        error_limit: int = 0,
        on_error: OnError = "fail-check",
        known: bool | None = None,
    ) -> None:
        self._inter, self._rise, self._fall, self._random = inter, rise, fall, random
        self._fastinter = inter if fastinter is None else fastinter
        self._downinter = inter if downinter is None else downinter
        self._error_limit, self._on_error = error_limit, on_error
        self._errors = 0  # connections in a row that failed
        self._proven = known is not None  # has ever passed a check
        self._run = 0  # checks in a row that speak against `up`
        self.up = known is not False
        self.deadline = now + inter * random()

    @property
    def level(self) -> int:
        """As HAProxy counts: 0 … rise + fall - 1, up from `rise` on: `level - rise + 1` failures bring it down."""
        if not self.up:
            return self._run
        return self._rise + (self._fall - 1 - self._run if self._proven else 0)

    def check_passed(self, now: float, reason: str) -> Change | None:
        """The check that was due at `deadline` is done: the server is fine. `reason`: what it showed."""
        change = self._passed(reason)
        self._plan_next(now)
        return change

    def check_failed(self, now: float, reason: str) -> Change | None:
        """The check that was due at `deadline` is done: the server is not fine. `reason`: why."""
        change = self._failed(reason)
        self._plan_next(now)
        return change

    def check_not_made(self, now: float) -> None:
        """The check could not be made for a reason of our own: that says nothing about the server."""
        self._plan_next(now)

    def connection_made(self) -> None:
        """A client's connection reached the server."""
        self._errors = 0

    def connection_failed(self, now: float, reason: str) -> Change | None:
        """A client's connection did not reach the server, and that was no fault of ours. `reason`: why."""
        if not self._error_limit or not self.up:
            return None
        self._errors += 1
        if self._errors < self._error_limit:
            return None
        counted = f"{_many(self._errors, 'connection')} failed: {reason}"
        self._errors = 0
        change = None
        match self._on_error:
            case "fail-check":
                change = self._failed(counted)
            case "sudden-death" if self._run < self._fall - 1:
                self._run = self._fall - 1
            case "mark-down":
                change = self._become(False, counted)
        self.deadline = min(self.deadline, now + self._fastinter)
        return change

    def _passed(self, reason: str) -> Change | None:
        first, self._proven = not self._proven, True
        if self.up:
            self._run = 0
            return None
        self._run += 1
        if first:
            return self._become(True, f"first check passed: {reason}")
        if self._run >= self._rise:
            return self._become(True, f"{_many(self._run, 'check')} passed: {reason}")
        return None

    def _failed(self, reason: str) -> Change | None:
        if not self.up:
            self._run = 0
            return None
        self._run += 1
        if not self._proven:
            return self._become(False, f"first check failed: {reason}")
        if self._run >= self._fall:
            return self._become(False, f"{_many(self._run, 'check')} failed: {reason}")
        return None

    def _become(self, up: bool, reason: str) -> Change:
        self.up = up
        self._run = self._errors = 0
        return Change(up, reason)

    def _plan_next(self, now: float) -> None:
        """An interval after this check was due, so that slow checks do not make rarer ones.

        When that is already past (a slow check, a paused process) the next is due now, once: intervals
        missed are not made up for.
        """
        between = self._fastinter if self._run else self._inter if self.up else self._downinter
        interval = between * (1 + JITTER * (2 * self._random() - 1))
        self.deadline = max(now, self.deadline + interval)


def _many(count: int, things: str) -> str:
    return f"1 {things}" if count == 1 else f"{count} {things}s"
