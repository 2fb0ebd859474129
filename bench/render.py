"""Tables, for a terminal and for Markdown: the same cells. Pure.

A cell is "median (least–greatest)". Beside each figure stands its ratio to the first peer's, taken round by
round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.record import Case, Record, ratios_to_base, spread

NOTHING = "–"
METRICS_ABREAST = 5


@dataclass(frozen=True)
class Grid:
    """A table: a header and rows of as many cells. The first `labels` columns are text, the others figures."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 2


def number(value: float) -> str:
    """Three significant digits, or all before the point."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def range_of(values: Sequence[float]) -> str:
    """ "median (least–greatest)"; of one value that value; of none a dash."""
    if not values:
        return NOTHING
    found = spread(values)
    if len(values) == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)})"


def grid(record: Record, cases: Sequence[Case]) -> Grid:
    """Cases of one work: a row for each peer of each case, two columns for each metric.

    More metrics than fit beside each other: a row for each metric of each case, a column for each peer.
    """
    metrics = list(dict.fromkeys(metric for case in cases for metric in case.metrics()))
    if len(metrics) > METRICS_ABREAST:
        return _turned(record, cases)
    header = ["", ""]
    several = any(len(case.rounds) > 1 for case in cases)
    for metric in metrics:
        header.append(f"{record.metrics[metric].title}, {record.metrics[metric].unit}")
        if several:
            header.append(f"÷ {cases[0].base}")
    rows = []
    for case in cases:
        for place, peer in enumerate(case.rounds):
            row = [case.title if place == 0 else "", peer]
            for metric in metrics:
                row.append(range_of(case.values(peer, metric)))
                if several:
                    ratios = ratios_to_base(case, peer, metric)
                    row.append(range_of(ratios) if peer != case.base else NOTHING)
            rows.append(tuple(row))
    return Grid(tuple(header), tuple(rows))


def _turned(record: Record, cases: Sequence[Case]) -> Grid:
    peers = list(dict.fromkeys(peer for case in cases for peer in case.rounds))
    rows = []
    for case in cases:
        for place, metric in enumerate(case.metrics()):
            what = record.metrics[metric]
            figures = [range_of(case.values(peer, metric)) for peer in peers]
            rows.append((case.title if place == 0 else "", f"{what.title}, {what.unit}", *figures))
    return Grid(("", "", *peers), tuple(rows))


def on_terminal(grid: Grid, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(grid.header):
        table.add_column(column, justify="left" if place < grid.labels else "right")
    for row in grid.rows:
        table.add_row(*row)
    return table


def in_markdown(grid: Grid) -> str:
    rule = ["---"] * grid.labels + ["---:"] * (len(grid.header) - grid.labels)
    lines = [grid.header, tuple(rule), *grid.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
