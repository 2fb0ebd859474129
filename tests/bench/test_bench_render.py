"""Tables and pictures of a record."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_bench_record import CASE, record

from bench.plot import draw, panels_of
from bench.record import Case, Metric
from bench.render import grid, in_markdown, number, range_of


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.00"),
        (0.126, "0.13"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (-12.34, "-12.3"),
    ],
)
def test_a_figure_has_three_digits_or_all_before_the_point(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_cell_says_the_median_and_the_range() -> None:
    assert range_of([3.0, 1.0, 2.0]) == "2.00 (1.00–3.00)"
    assert range_of([3.0]) == "3.00"
    assert range_of([]) == "–"


def test_the_table_of_a_work() -> None:
    assert in_markdown(grid(record(CASE), [CASE])).splitlines() == [
        "|  |  | CPU, µs | ÷ scaleup | requests, per second | ÷ scaleup |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| 1-byte body | scaleup | 15.0 (10.0–20.0) | – | 5.00 (5.00–5.00) | – |",
        "|  | haproxy | 17.5 (5.00–30.0) | 1.00 (0.50–1.50) | – | – |",
        "|  | scaleup again | 15.0 (11.0–19.0) | 1.02 (0.95–1.10) | – | – |",
    ]


def test_who_is_alone_is_compared_with_nobody() -> None:
    alone = Case("requests", "alone", rounds={"scaleup": [{"cpu_us": 1.0}]})
    assert grid(record(alone), [alone]).header == ("", "", "CPU, µs")


def test_many_metrics_stand_below_each_other() -> None:
    calls = {f"call{number}": float(number) for number in range(6)}
    case = Case("calls", "a request", rounds={"scaleup": [calls], "haproxy": [{"call2": 7.0}]})
    described = record(case)
    described.metrics.update({name: Metric(name, "calls", "lower") for name in calls})
    table = grid(described, [case])
    assert table.header == ("", "", "scaleup", "haproxy")
    assert table.rows[0] == ("a request", "call0, calls", "0.00", "–")
    assert table.rows[2] == ("", "call2, calls", "2.00", "7.00")
    assert len(table.rows) == 6


@pytest.mark.parametrize("cases", [(CASE,), (CASE, Case("requests", "2", rounds=CASE.rounds, x=2.0))])
def test_the_same_record_gives_the_same_picture(tmp_path: Path, cases: tuple[Case, ...]) -> None:
    first, second = (draw(record(*cases), tmp_path / name, ("svg",)) for name in "ab")
    assert [path.name for path in first] == ["proxy-requests.svg"]
    assert first[0].read_bytes() == second[0].read_bytes()
    text = first[0].read_text()
    assert "haproxy" in text
    assert "lower is better" in text


def test_the_parts_of_a_whole_share_a_panel() -> None:
    whole = record(CASE)
    whole.metrics |= {
        name: Metric(f"CPU of {name}", "µs", "lower", "CPU by tier") for name in ("cpu_us", "rate")
    }
    assert panels_of(whole, [CASE]) == {"CPU by tier": ["cpu_us", "rate"]}
