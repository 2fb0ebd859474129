"""How far a fail-over is from what the protocol allows, and what was wanted. Pure.

A case says its theory and its bar (`settings["theory_ms"]`, `["bar_ms"]`; no bar: None). The take-over is held to
it, and the client's gap where it begins with the fault itself. After a host's death it does not: the last
advertisement was up to an interval before, so that gap is shorter than the theory.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from bench.record import Case, Record
from bench.render import NOTHING, Grid


@dataclass(frozen=True)
class Verdict:
    """Medians less the theory, by peer, ms. `bar`: of the first peer, ms; None: there is none."""

    case: Case
    metric: str
    beyond: dict[str, float]
    bar: float | None

    @property
    def word(self) -> str:
        if self.bar is None:
            return NOTHING
        return "held" if self.beyond[self.case.base] <= self.bar else "missed"


def verdicts(record: Record) -> Iterator[Verdict]:
    for case in record.cases:
        theory, bar = case.settings["theory_ms"], case.settings["bar_ms"]
        for metric in ("takeover_ms",) if case.work == "host-death" else ("takeover_ms", "gap_ms"):
            beyond = {peer: statistics.median(case.values(peer, metric)) - theory for peer in case.rounds}
            yield Verdict(case, metric, beyond, bar)


def table(record: Record) -> Grid:
    """A row for each verdict."""
    found = list(verdicts(record))
    peers = list(dict.fromkeys(peer for one in found for peer in one.beyond))
    rows = [
        (
            one.case.work,
            one.case.title,
            record.metrics[one.metric].title,
            *(f"{one.beyond[peer]:+.2f}" if peer in one.beyond else NOTHING for peer in peers),
            NOTHING if one.bar is None else f"{one.bar:g}",
            one.word,
        )
        for one in found
    ]
    return Grid(
        ("fault", "interval", "", *(f"{peer}, ms beyond" for peer in peers), "bar, ms", ""),
        tuple(rows),
        labels=3,
    )
