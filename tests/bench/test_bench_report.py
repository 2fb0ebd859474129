"""docs/benchmarks.md is what the results give."""

from __future__ import annotations

import re

import pytest
from test_bench_record import CASE, record

from bench import report
from bench.record import Case


def test_the_page_in_the_repository_is_what_the_results_give() -> None:
    text, _ = report.generate()
    assert report.PAGE.read_text() == text, "run: python -m bench.report"


def test_every_picture_of_the_page_is_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", report.PAGE.read_text())
    assert pictures
    assert [name for name in pictures if not (report.PAGE.parent / name).is_file()] == []


def test_every_work_of_every_result_is_on_the_page() -> None:
    text, records = report.generate()
    for name, made in records.items():
        for work in made.works:
            assert not made.of(work) or f"images/{name}-{work}.svg" in text


def test_a_place_takes_its_table() -> None:
    text = report.page("a\n\n<!-- work proxy requests -->\n\nb", {"proxy": record(CASE)}, None)
    assert text.startswith("a\n\n|  |  | CPU, µs |")
    assert text.endswith("![Requests](images/proxy-requests.svg)\n\nb")


def test_what_was_not_measured_is_said_with_the_command() -> None:
    text = report.page("<!-- work idle idle -->", {}, None)
    assert text == "_Not measured; make it: python -m bench.idle --json bench/results/idle.json_"


def test_a_place_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no such place"):
        report.page("<!-- wrok proxy requests -->", {}, None)


def test_a_run_says_what_a_reader_needs() -> None:
    text = report.run(record(CASE))
    for what in ("2026-11-22", "`0123456789ab`", "cores: 2", "rounds 2", "nbthread 1", "not installed"):
        assert what in text
    assert "not committed" not in text


def test_the_ceiling_of_a_core_is_the_inverse_of_what_a_unit_costs() -> None:
    works = {"requests": "Requests", "bulk": "Bulk"}
    made = record(
        Case(
            "requests", "1 byte", rounds={"scaleup": [{"cpu_us": 20.0}], "scaleup again": [{"cpu_us": 1.0}]}
        ),
        Case("bulk", "up", rounds={"scaleup": [{"cpu_s_gb": 0.25}]}),
    )
    made.works = works
    assert report.ceiling(made).splitlines()[2:] == [
        "| Requests: 1 byte | requests/s a core | scaleup 50,000 |",
        "| Bulk: up | GB/s a core | scaleup 4.00 |",
    ]


def test_fail_over_is_told_by_its_ranks() -> None:
    gaps = [float(number) for number in range(1, 21)]
    failover = {"settings": "s", "machine": "m", "commit": "c", "longest_gap_ms": {"node killed": gaps}}
    assert (
        report.failover_table(failover).splitlines()[-1] == "| node killed | 20 | 10.5 | 19.0 | 1.00 | 20.0 |"
    )
