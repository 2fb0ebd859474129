"""Pictures of a record: a file for each work, SVG and PNG; in it a panel for each metric, two in a row.

Cases that lie on an axis (a number of servers, …) become lines with a band from the least to the greatest round;
others become bars with whiskers. Metrics that are parts of a whole (the tiers' CPU time) share a panel, as
stacked bars. Cases with a theory are drawn as distributions (bench/cdf.py). The same record gives the same SVG, so
that a diff shows a change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cdf
from bench.record import AGAIN, Case, Record, medians

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "scaleup": "#2563eb",
    "haproxy": "#dc2626",
    "nginx": "#16a34a",
    "streams": "#a16207",
    "keepalived": "#dc2626",
}
OTHERS = ("#7c3aed", "#0891b2", "#db2777", "#65a30d", "#475569", "#ea580c")
WHISKERS = "#334155"
PANELS_IN_A_ROW = 2
PANEL_INCHES = 4.6
LINES_INCHES = 2.6
BAR_INCHES = 0.19
TITLE_INCHES = 0.55


def draw(record: Record, folder: Path, suffixes: Sequence[str] = ("svg", "png")) -> list[Path]:
    """The files written. Raises ImportError without matplotlib, OSError when `folder` cannot be written."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "scaleup", "svg.fonttype": "none", "font.size": 8})

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for work, title in record.works.items():
        if not (cases := record.of(work)):
            continue
        figure = cdf.figure(record, cases, style) if cdf.wanted(cases) else panels(record, cases)
        figure.suptitle(title)
        shown = {
            label: line
            for axes in figure.axes
            for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if shown:
            figure.legend(shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False)
        for suffix in suffixes:
            written.append(path := folder / f"{record.script}-{work}.{suffix}")
            figure.savefig(path, metadata={"Date": None} if suffix == "svg" else {}, dpi=130)
    return written


def panels(record: Record, cases: Sequence[Case]) -> Figure:
    """A panel for each metric, or whole of metrics."""
    from matplotlib.figure import Figure

    of_metrics = panels_of(record, cases)
    on_axis = len(cases) > 1 and all(case.x is not None for case in cases)
    columns = min(len(of_metrics), PANELS_IN_A_ROW)
    rows = math.ceil(len(of_metrics) / columns)
    bars = sum(len(case.rounds) + 1 for case in cases)
    height = TITLE_INCHES + (LINES_INCHES if on_axis else BAR_INCHES * bars)
    figure = Figure(figsize=(PANEL_INCHES * columns, height * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, metrics) in zip(grid, of_metrics.items(), strict=False):
        what = record.metrics[metrics[0]]
        axes.set_title(f"{name}, {what.unit} ({what.better} is better)", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(metrics) > 1:
            _stacked(axes, record, cases, metrics)
        elif on_axis:
            _lines(axes, cases, metrics[0])
        else:
            _bars(axes, cases, metrics[0])
    for spare in grid[len(of_metrics) :]:
        spare.set_axis_off()
    return figure


def panels_of(record: Record, cases: Sequence[Case]) -> dict[str, list[str]]:
    """What each panel shows, by title: a metric, or all that are parts of one whole."""
    panels: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metric for case in cases for metric in case.metrics()):
        what = record.metrics[metric]
        panels.setdefault(what.part_of or what.title, []).append(metric)
    return panels


def style(peer: str, place: int) -> dict[str, Any]:
    """The colour of a peer, the same in every picture; the control in its original's, paler."""
    kind = peer.removesuffix(AGAIN)
    again = peer.endswith(AGAIN)
    return {
        "color": COLOURS.get(kind, OTHERS[0 if again else place % len(OTHERS)]),
        "alpha": 0.45 if again else 1,
    }


def _label_bars(axes: Axes, cases: Sequence[Case]) -> dict[tuple[int, str], int]:
    """Where the bar of each case (by its place) and peer is: one line each, an empty one between cases."""
    places: dict[tuple[int, str], int] = {}
    labels, line = [], 0
    for number, case in enumerate(cases):
        for peer in case.rounds:
            places[number, peer] = line
            labels.append(f"{case.title} – {peer}" if peer == case.base else peer)
            line += 1
        line += 1
    axes.set_yticks(list(places.values()), labels)
    axes.invert_yaxis()
    return places


def _bars(axes: Axes, cases: Sequence[Case], metric: str) -> None:
    places = _label_bars(axes, cases)
    for number, case in enumerate(cases):
        for place, (peer, one) in enumerate(medians(case, metric).items()):
            reach = [[one.median - one.low], [one.high - one.median]]
            looks = style(peer, place)
            axes.barh(places[number, peer], one.median, xerr=reach, height=0.8, ecolor=WHISKERS, **looks)
    axes.set_xlim(left=0)


def _stacked(axes: Axes, record: Record, cases: Sequence[Case], metrics: Sequence[str]) -> None:
    places = _label_bars(axes, cases)
    for colour, metric in zip(OTHERS, metrics, strict=False):
        ends, lefts, widths = [], [], []
        for (number, peer), line in places.items():
            if one := medians(cases[number], metric).get(peer):
                before = [
                    medians(cases[number], other).get(peer) for other in metrics[: metrics.index(metric)]
                ]
                ends.append(line)
                lefts.append(sum(spread.median for spread in before if spread))
                widths.append(one.median)
        axes.barh(ends, widths, left=lefts, height=0.8, color=colour, label=record.metrics[metric].title)
    axes.set_xlim(left=0)


def _lines(axes: Axes, cases: Sequence[Case], metric: str) -> None:
    peers = list(dict.fromkeys(peer for case in cases for peer in case.rounds))
    for place, peer in enumerate(peers):
        found = [
            (case.x, medians(case, metric)[peer])
            for case in cases
            if case.x is not None and peer in medians(case, metric)
        ]
        xs = [x for x, _ in found]
        low, high = [one.low for _, one in found], [one.high for _, one in found]
        looks = style(peer, place)
        axes.plot(xs, [one.median for _, one in found], marker="o", markersize=3, label=peer, **looks)
        axes.fill_between(xs, low, high, color=looks["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    places = sorted({case.x for case in cases if case.x is not None})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.minorticks_off()
    axes.set_xlabel(str(cases[0].settings.get("axis", "")))
    axes.set_ylim(bottom=0)
