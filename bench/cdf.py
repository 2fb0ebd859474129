"""Distributions of a record's cases: how many of the rounds took at most so long.

A row for each case, a column for each metric; a dotted line is where the theory has it. It is how cases that have a
theory (`settings["theory_ms"]`) are drawn: bars would hide how long the slow ones take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.record import Case, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = 4.6
ROW_INCHES = 2.0
TITLE_INCHES = 0.7
THEORY = "theory_ms"


def wanted(cases: Sequence[Case]) -> bool:
    return all(THEORY in case.settings for case in cases)


def steps(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Where the line rises, and to what share of the values, %; it begins at 0 with the least."""
    ordered = sorted(values)
    shares = [100 * number / len(ordered) for number in range(len(ordered) + 1)]
    return [ordered[0], *ordered], shares


def figure(record: Record, cases: Sequence[Case], looks: Any) -> Figure:
    """`looks(peer, place)`: the colour of a peer, as in the other pictures."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(metric for case in cases for metric in case.metrics()))
    size = (PANEL_INCHES * len(metrics), TITLE_INCHES + ROW_INCHES * len(cases))
    drawn = Figure(figsize=size, layout="constrained")
    panels = drawn.subplots(len(cases), len(metrics), squeeze=False)
    for row, case in zip(panels, cases, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            _panel(axes, case, metric, looks)
            axes.set_title(f"{case.title}: {record.metrics[metric].title}", fontsize=8)
            axes.set_xlabel(record.metrics[metric].unit)
        row[0].set_ylabel("% of the rounds")
    return drawn


def _panel(axes: Axes, case: Case, metric: str, looks: Any) -> None:
    for place, peer in enumerate(case.rounds):
        if values := case.values(peer, metric):
            axes.step(*steps(values), where="post", label=peer, **looks(peer, place))
    axes.axvline(case.settings[THEORY], color="#334155", linestyle=":", linewidth=1, label="theory")
    axes.set_ylim(0, 102)
    axes.spines[["top", "right"]].set_visible(False)
