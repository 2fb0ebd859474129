"""Rounds, ratios, and what is kept of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import Case, Metric, Record, medians, order, ratios, ratios_to_base, spread

CASE = Case(
    "requests",
    "1-byte body",
    rounds={
        "scaleup": [{"cpu_us": 10.0, "rate": 5.0}, {"cpu_us": 20.0, "rate": 5.0}],
        "haproxy": [{"cpu_us": 5.0}, {"cpu_us": 30.0}],
        "scaleup again": [{"cpu_us": 11.0, "rate": 6.0}, {"cpu_us": 19.0}],
    },
    x=1.0,
)


def record(*cases: Case) -> Record:
    return Record(
        script="proxy",
        when="2026-11-22T00:00:00+00:00",
        commit="0123456789abcdef",
        machine={"cores": "2"},
        settings={"rounds": 2},
        versions={"haproxy": "2.6"},
        peers={"haproxy": "nbthread 1"},
        left_out={"nginx": "nginx is not installed"},
        metrics={"cpu_us": Metric("CPU", "µs", "lower"), "rate": Metric("requests", "per second", "higher")},
        works={"requests": "Requests"},
        cases=list(cases),
    )


def test_a_spread_is_the_median_with_the_least_and_the_greatest() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)


def test_of_nothing_there_is_no_spread() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_ratio_is_taken_within_its_round() -> None:
    """Theirs is half in a round that was quick and half in one that was slow: the drift cancels out."""
    assert ratios([10.0, 40.0], [5.0, 20.0]) == [0.5, 0.5]


def test_a_round_in_which_ours_is_zero_has_no_ratio() -> None:
    assert ratios([0.0, 2.0], [1.0, 1.0]) == [0.5]


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_the_first_peer_is_the_one_compared_with() -> None:
    assert ratios_to_base(CASE, "haproxy", "cpu_us") == [0.5, 1.5]


def test_a_metric_that_a_round_lacks_has_no_values_and_no_ratios() -> None:
    assert CASE.values("scaleup again", "rate") == []
    assert ratios_to_base(CASE, "scaleup again", "rate") == []
    assert set(medians(CASE, "rate")) == {"scaleup"}


def test_the_metrics_of_a_case_are_those_of_all_its_peers() -> None:
    assert CASE.metrics() == ["cpu_us", "rate"]


def test_every_other_round_goes_backwards() -> None:
    names = ["a", "b", "a again"]
    assert order(names, 0) == ["a", "b", "a again"]
    assert order(names, 1) == ["a again", "b", "a"]


@given(st.integers(min_value=1, max_value=6), st.integers(min_value=1, max_value=10))
def test_a_steady_drift_meets_all_peers_alike(peers: int, pairs: int) -> None:
    """Over an even number of rounds the places of every peer add up to the same."""
    names = [str(number) for number in range(peers)]
    places = dict.fromkeys(names, 0)
    for turn in range(2 * pairs):
        for place, name in enumerate(order(names, turn)):
            places[name] += place
    assert len(set(places.values())) == 1


def test_a_record_comes_back_from_its_json() -> None:
    assert Record.from_json(record(CASE).to_json()) == record(CASE)


def test_another_json_is_no_record() -> None:
    with pytest.raises(KeyError):
        Record.from_json("{}")
    with pytest.raises(TypeError):
        Record.from_json(record(CASE).to_json().replace('"script"', '"sript"'))
