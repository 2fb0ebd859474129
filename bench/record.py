"""What was measured. Pure: no clock, no processes; JSON in and out.

A Record is a run of one script. It has cases ("1-byte body, 64 connections"); a case has, for each peer, a
round's figures as often as there were rounds. Nothing is averaged before it is stored: medians and ratios are
taken when a table or a picture is made, so that another way of looking at a result needs no new run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "scaleup"
AGAIN = " again"
"""Ends the name of the control: a second instance of the first peer, measured like any other. Its ratio to the
first is the noise floor (A/A)."""

Figures = dict[str, float]
"""One round of one peer: metric → value. A metric that could not be had is absent, never zero."""


@dataclass(frozen=True)
class Metric:
    """What a figure is: "CPU", "µs per request", and whether "lower" or "higher" is better.

    `part_of`: the whole that it is a part of, when it is one; pictures stack the parts.
    """

    title: str
    unit: str
    better: str
    part_of: str = ""


@dataclass
class Case:
    """One thing measured with all peers in turn. `work` groups cases; `x`: its place on an axis."""

    work: str
    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    x: float | None = None

    @property
    def base(self) -> str:
        """The peer that the others are compared with: the first."""
        return next(iter(self.rounds))

    def values(self, peer: str, metric: str) -> list[float]:
        """The rounds of a peer; empty when it, or one of its rounds, has no such metric."""
        rounds = self.rounds.get(peer, [])
        return [one[metric] for one in rounds] if all(metric in one for one in rounds) else []

    def metrics(self) -> list[str]:
        """The metrics that any peer has, in the order in which they were measured."""
        return list(dict.fromkeys(name for rounds in self.rounds.values() for one in rounds for name in one))


@dataclass
class Record:
    """A run. `peers` says how each was configured, `left_out` why one is missing."""

    script: str
    when: str
    commit: str
    machine: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, str]
    peers: dict[str, str]
    left_out: dict[str, str]
    metrics: dict[str, Metric]
    works: dict[str, str]
    cases: list[Case] = field(default_factory=list)

    def of(self, work: str) -> list[Case]:
        return [case for case in self.cases if case.work == work]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Record:
        """Raises KeyError or TypeError when `text` is no record."""
        read = json.loads(text)
        metrics = {name: Metric(**metric) for name, metric in read.pop("metrics").items()}
        cases = [Case(**case) for case in read.pop("cases")]
        return Record(**read, metrics=metrics, cases=cases)


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there are none."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratios_to_base(case: Case, peer: str, metric: str) -> list[float]:
    """The peer ÷ the case's first peer, round by round; empty when either has no such metric."""
    base, values = case.values(case.base, metric), case.values(peer, metric)
    return ratios(base, values) if base and values else []


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Theirs ÷ ours, round by round: what slowed a whole round down slows both and cancels out.

    A round in which ours is 0 has no ratio. Raises ValueError when the rounds do not pair.
    """
    return [other / own for own, other in zip(ours, theirs, strict=True) if own]


def order(names: Sequence[str], turn: int) -> list[str]:
    """Who is measured when in round `turn`: forwards, then backwards, so that a steady drift cancels out."""
    return list(names) if turn % 2 == 0 else list(reversed(names))


def medians(case: Case, metric: str) -> Mapping[str, Spread]:
    """The spread of each peer that has the metric."""
    found = {peer: case.values(peer, metric) for peer in case.rounds}
    return {peer: spread(values) for peer, values in found.items() if values}
