"""GTID positions, how far behind a replica is, and what follows: without a database."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.app.outcomes import DatabaseOverloadedError
from scaleup.app.position import MAX_DOMAINS, NEWEST, START, Position
from scaleup.app.replicas import LOOK_SECONDS, MAX_LAG_SECONDS, Replica, Replicas, Track
from scaleup.app.transactions import Transactions
from scaleup.net.addresses import Endpoint

parse = Position.parse
POSITIONS = st.dictionaries(
    st.integers(0, 3), st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=4
).map(Position)


@pytest.mark.parametrize("text", ["", "0-1-57", "0-1-57,7-2-3", f"0-1-{10**19}", "newest"])
def test_it_is_read_as_it_is_written(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("0-1", "0-1-", "0-1--1", "00-1-1", "0-1-1,", ",0-1-1", " 0-1-1", "0-1-1;", "٣-1-1", "NEWEST"),
        "0-1-" + "9" * 21,
        ",".join(f"{number}-1-1" for number in range(MAX_DOMAINS + 1)),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no DOMAIN|has more than"):
        parse(text)


def test_which_covers_which() -> None:
    assert parse("0-1-5").covers(parse("0-2-5"))  # who gave the number does not matter
    assert not parse("0-1-5").covers(parse("0-1-6"))
    assert not parse("0-1-5").covers(parse("0-1-5,1-1-1"))
    assert parse("").covers(START)
    assert not parse("0-1-5").covers(NEWEST)
    assert NEWEST.covers(parse("0-1-5"))
    assert NEWEST.covers(NEWEST)


@given(POSITIONS, POSITIONS, POSITIONS)
def test_the_least_that_covers_both(one: Position, two: Position, three: Position) -> None:
    both = one.with_(two)
    assert both.covers(one)
    assert both.covers(two)
    assert not (three.covers(one) and three.covers(two)) or three.covers(both)
    assert one.with_(NEWEST) == NEWEST.with_(one) == NEWEST


def test_the_lag_is_the_age_of_what_was_reached() -> None:
    track = Track()
    assert track.behind(parse("0-1-9")) == math.inf
    for time, number in ((1.0, 1), (2.0, 5), (3.0, 5), (4.0, 9)):
        track.was(time, Position({0: (1, number)}))
    assert track.behind(parse("0-1-9")) == 0.0
    assert track.behind(parse("0-1-8")) == 1.0  # it had what there was at 3.0
    assert track.behind(parse("0-1-4")) == 3.0
    assert track.behind(parse("")) == math.inf


def test_an_idle_primary_is_nothing_to_be_behind_of() -> None:
    track = Track()
    for turn in range(10_000):
        track.was(turn * LOOK_SECONDS, START)
    assert track.behind(START) == 0.0
    for turn in range(int(2 * MAX_LAG_SECONDS / LOOK_SECONDS)):
        track.was((10_000 + turn) * LOOK_SECONDS, parse("0-1-1"))
    assert track.behind(START) == math.inf  # and the track has an end


class BusyPool:
    """All of its connections are in use."""

    endpoint = Endpoint("127.0.0.1", 3307)

    def cursor(self) -> object:
        raise DatabaseOverloadedError("all 1 connections in use")


@pytest.mark.parametrize("reason", [None, "it is 3.0 s behind the primary"])
async def test_one_that_is_busy_stays_what_it_was(reason: str | None) -> None:
    """With reads, perhaps: leaving it out would send all of them to the primary."""
    pool: Any = BusyPool()
    replica = Replica(pool, Transactions(pool, chance=lambda: 0.5))
    replica.reason = reason
    await Replicas(pool, [replica], max_lag=2.0).look()
    assert replica.reason == reason
