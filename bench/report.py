"""docs/benchmarks.md, out of bench/results/*.json and the prose in bench/benchmarks.in.md. No figure is typed.

    python -m bench.report            writes the page and its pictures
    python -m bench.report --check    says whether the page is what the results give; exit 0 or 1

The prose has lines of the form `<!-- what … -->`, each of which is replaced:

    <!-- run proxy -->                  machine, commit, versions and settings of the record proxy.json
    <!-- work proxy requests -->        table and picture of one of its works
    <!-- bars failover -->              how far its medians are from the theory, and what was wanted
    <!-- failover -->                   the table of failover-loopback.json
    <!-- ceiling -->                    what one active node could carry, from proxy.json

A record that is not there is said to be missing, with the command that makes it.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import bars
from bench.flags import described
from bench.machine import CHECKOUT
from bench.record import AGAIN, Record, medians
from bench.render import Grid, grid, in_markdown, number

PROSE = CHECKOUT / "bench" / "benchmarks.in.md"
RESULTS = CHECKOUT / "bench" / "results"
PAGE = CHECKOUT / "docs" / "benchmarks.md"
PICTURES = CHECKOUT / "docs" / "images"

SCRIPTS = ("proxy", "web", "app", "profile", "logs", "idle", "stack", "scale", "failover", "saturated")
LOOPBACK = "failover-loopback"
_PLACE = re.compile(r"^<!-- (.+) -->$", re.MULTILINE)

Results = Mapping[str, Record]
"""By script; those that exist."""


def read(folder: Path) -> dict[str, Record]:
    """The records of a folder. Raises SystemExit when one cannot be read as such."""
    found = {}
    for script in SCRIPTS:
        path = folder / f"{script}.json"
        if not path.exists():
            continue
        try:
            found[script] = Record.from_json(path.read_text())
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{path}: not a record ({error!r}); {remake(script)}") from None
    return found


def remake(script: str) -> str:
    return f"make it: python -m bench.{script} --json bench/results/{script}.json"


def page(prose: str, results: Results, failover: dict[str, Any] | None) -> str:
    """The prose with every place filled. Raises ValueError for a place of no known kind."""

    def fill(found: re.Match[str]) -> str:
        words = found[1].split()
        match words:
            case ["generated"]:
                return "<!-- Written by bench/report.py from bench/benchmarks.in.md: edit that. -->"
            case ["run", script]:
                return _known(results, script, run)
            case ["work", script, work]:
                return _known(results, script, lambda record: work_of(record, work))
            case ["bars", script]:
                return _known(results, script, lambda record: in_markdown(bars.table(record)))
            case ["ceiling"]:
                return _known(results, "proxy", ceiling)
            case ["failover"]:
                return failover_table(failover) if failover else f"_No {LOOPBACK}.json._"
        raise ValueError(f"{found[0]}: no such place; see bench/report.py")

    return _PLACE.sub(fill, prose)


def _known(results: Results, script: str, part: Callable[[Record], str]) -> str:
    return part(results[script]) if script in results else f"_Not measured; {remake(script)}_"


def run(record: Record) -> str:
    """What a reader needs to judge the figures, or to repeat them."""
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in record.settings.items() if value != "")
    machine = ", ".join(f"{name}: {value}" for name, value in record.machine.items())
    lines = [
        f"Run on {record.when[:10]} at commit `{record.commit[:12]}`"
        + (" with changes that were not committed" if record.commit.endswith("+") else "")
        + f". {machine}.",
        f"Settings: {settings}.",
    ]
    rows = [(name, record.versions.get(name, ""), how) for name, how in record.peers.items()]
    if rows:
        lines += ["", in_markdown(Grid(("peer", "version", "settings"), tuple(rows), labels=3))]
    lines += [f"\nLeft out: {why}." for why in record.left_out.values()]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,g}" if isinstance(value, int | float) else str(value)


def work_of(record: Record, work: str) -> str:
    """A table of its cases and the picture of it."""
    if not (cases := record.of(work)):
        return f"_Not part of the run; {remake(record.script)}_"
    title = record.works[work]
    picture = f"images/{record.script}-{work}.svg"
    return f"{in_markdown(grid(record, cases))}\n\n![{title}]({picture})"


def ceiling(record: Record) -> str:
    """What a core carries when it does nothing else: 1 s ÷ the CPU time of a unit of work."""
    rows = []
    for case in record.cases:
        for metric, unit in (
            ("cpu_us", "requests/s"),
            ("cpu_us_connection", "connections/s"),
            ("cpu_s_gb", "GB/s"),
        ):
            if case.work in ("requests", "connections", "bulk") and (found := medians(case, metric)):
                per_second = 1.0 if metric == "cpu_s_gb" else 1e6
                carried = [
                    f"{peer} {number(per_second / one.median)}"
                    for peer, one in found.items()
                    if one.median and not peer.endswith(AGAIN)
                ]
                rows.append(
                    (f"{record.works[case.work]}: {case.title}", f"{unit} a core", ", ".join(carried))
                )
    return in_markdown(Grid(("work", "unit", "ceiling"), tuple(rows), labels=3))


def failover_table(failover: dict[str, Any]) -> str:
    """The longest gap that a client at a fixed rate saw, by fault, ms."""
    rows = []
    for fault, gaps in failover["longest_gap_ms"].items():
        shown = (statistics.median(gaps), nearest_rank(gaps, 95), min(gaps), max(gaps))
        rows.append((fault, str(len(gaps)), *(number(value) for value in shown)))
    header = ("fault", "times", "median, ms", "p95, ms", "least, ms", "greatest, ms")
    about = f"{failover['settings']}. {failover['machine']}, commit `{failover['commit'][:12]}`."
    return f"{about}\n\n{in_markdown(Grid(header, tuple(rows), labels=1))}"


def nearest_rank(values: list[float], percent: float) -> float:
    """The percentile that is one of the values."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def generate() -> tuple[str, dict[str, Record]]:
    """The page, and the records it was made of."""
    records = read(RESULTS)
    failover_file = RESULTS / f"{LOOPBACK}.json"
    failover = json.loads(failover_file.read_text()) if failover_file.exists() else None
    return page(PROSE.read_text(), records, failover), records


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    text, records = generate()
    if arguments.check:
        if not PAGE.exists() or PAGE.read_text() != text:
            raise SystemExit(f"{PAGE} is not what the results give; run: python -m bench.report")
        return
    PAGE.write_text(text)
    from bench.plot import draw

    for record in records.values():
        draw(record, PICTURES, ("svg",))
    print(f"wrote {PAGE.relative_to(CHECKOUT)} from {', '.join(records) or 'no results'}")


if __name__ == "__main__":
    main()
