"""GTID positions, how far behind a replica is, and what follows: without a database."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from scaleup.app import session
from scaleup.app.outcomes import DatabaseAwayError, OutcomeUnknownError
from scaleup.app.position import MAX_DOMAINS, NEWEST, START, Position
from scaleup.app.replicas import LOOK_SECONDS, MAX_LAG_SECONDS, PRIMARY, Replica, Replicas, Track
from scaleup.app.store import CodeTakenError, Store
from scaleup.app.transactions import UNKNOWN, Stand, Transactions
from scaleup.net.addresses import Endpoint

parse = Position.parse
POSITIONS = st.dictionaries(
    st.integers(0, 3), st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=4
).map(Position)
OF_ONE_HISTORY = st.dictionaries(st.integers(0, 3), st.integers(0, 9), max_size=4).map(
    lambda numbers: Position({domain: (number // 3, number) for domain, number in numbers.items()})
)


@pytest.mark.parametrize(
    "text", ["", "0-1-57", "0-1-57,7-2-3", f"{2**32 - 1}-{2**32 - 1}-{2**64 - 1}", "newest"]
)
def test_it_is_read_as_it_is_written(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("0-1", "0-1-", "0-1--1", "00-1-1", "0-1-1,", ",0-1-1", "0 -1-1", "0-1-1;", "٣-1-1", "NEWEST"),
        "0-1-" + "9" * 21,
        *(f"{2**32}-1-1", f"0-{2**32}-1", f"0-1-{2**64}"),
        ",".join(f"{number}-1-1" for number in range(MAX_DOMAINS + 1)),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no DOMAIN|has more than|is too great"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0-1-57, 1-2-3", "0-1-57,1-2-3"),  # as proxies join two lines of a header
        ("0-1-9,0-1-57,0-1-8", "0-1-57"),
        ("0-1-9,\t newest", "newest"),
    ],
)
def test_several_that_were_joined(text: str, position: str) -> None:
    assert parse(text) == parse(position)


def test_which_covers_which() -> None:
    assert parse("0-1-6").covers(parse("0-2-5"))  # another server went on where the other had ended
    assert not parse("0-1-5").covers(parse("0-2-5"))  # these two have not one history
    assert parse("0-1-5").with_(parse("0-2-5")) == NEWEST
    assert not parse("0-1-5").covers(parse("0-1-6"))
    assert not parse("0-1-5").covers(parse("0-1-5,1-1-1"))
    assert parse("").covers(START)
    assert not parse("0-1-5").covers(NEWEST)
    assert NEWEST.covers(parse("0-1-5"))
    assert NEWEST.covers(NEWEST)


@given(POSITIONS, POSITIONS)
def test_both_are_covered(one: Position, two: Position) -> None:
    both = one.with_(two)
    assert both.covers(one)
    assert both.covers(two)


@given(OF_ONE_HISTORY, OF_ONE_HISTORY, OF_ONE_HISTORY)
def test_the_least_that_covers_both(one: Position, two: Position, three: Position) -> None:
    both = one.with_(two)
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


class Server:
    """Says how far it is; a pool of connections to itself."""

    endpoint = Endpoint("127.0.0.1", 3307)
    in_use = waiting = uses = 0
    timeout = 1.5

    def __init__(self, position: str, *, read_only: bool = False) -> None:
        self.position: str | None = position
        self.read_only, self.has_log = read_only, True

    @contextlib.asynccontextmanager
    async def cursor(self, _timeout: float | None = None, *, watching: bool = False) -> AsyncIterator[Server]:
        assert watching, "who looks must not wait behind requests"
        yield self

    async def execute(self, query: str) -> None:
        self._of_primary = query == PRIMARY

    async def fetchone(self) -> tuple[object, ...]:
        if self.position is None:
            raise DatabaseAwayError("gone")
        if self._of_primary:
            return int(self.has_log), self.position, ""
        return int(self.read_only), int(self.has_log), self.position


def looking(primary: Server, *servers: Server) -> Replicas:
    pools: list[Any] = [primary, *servers]
    return Replicas(pools[0], [Replica(it, Transactions(it, lambda: 0.5)) for it in pools[1:]], max_lag=2.0)


async def test_one_with_another_history_is_left_out_until_it_is_made_anew() -> None:
    """The wrong one was promoted, or the primary comes from a backup: what it has is not what there is."""
    primary, server = Server("0-1-100"), Server("0-1-100", read_only=True)
    replicas = looking(primary, server)
    (replica,) = replicas.all
    await replicas.look()
    assert replica.reason is None
    for position in ("0-2-91", "0-2-100"):
        primary.position = position
        await replicas.look()
        assert replica.reason == "it has 0-1-100, which the primary has not: make it anew from the primary"
    primary.position = None  # it cannot be asked; that does not make the other one better
    await replicas.look()
    assert replica.reason is not None
    assert replica.reason.startswith("it has 0-1-100")
    primary.position, server.position = "0-2-101", "0-2-101"
    await replicas.look()
    assert (replica.reason, replica.applied) == (None, parse("0-2-101"))


async def test_a_primary_that_does_not_log_has_no_replicas() -> None:
    primary, server = Server(""), Server("", read_only=True)
    primary.has_log = False
    replicas = looking(primary, server)
    await replicas.look()
    assert replicas.all[0].reason == "the primary does not log its commits: start it with --log-bin"


async def test_what_was_chosen_as_far_enough_and_is_not_does_not_count() -> None:
    """Somebody has put an older copy in its place between two looks."""
    replicas = looking(Server("0-1-9"), Server("0-1-9", read_only=True))
    (replica,) = replicas.all
    await replicas.look()
    known, needed = replica.applied, parse("0-1-8")
    assert await replicas.choose(needed) is replica
    assert replicas.answered(replica, known, needed, Stand(parse("0-1-9"), parse("0-1-9")))
    assert not replicas.answered(replica, known, needed, UNKNOWN)
    assert replicas.answered(replica, known, START, UNKNOWN)  # who has seen nothing may be shown anything
    assert replica.reason is None
    assert not replicas.answered(replica, known, needed, Stand(parse("0-1-9"), parse("0-1-7")))
    assert replica.reason == "it has gone back to 0-1-7"
    assert await replicas.choose(needed) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DatabaseAwayError("it is away"), None),
        (OutcomeUnknownError("the answer was lost"), NEWEST),
        (CodeTakenError("code"), NEWEST),
    ],
)
async def test_only_a_write_that_may_have_shown_or_done_something_moves_reads_to_the_primary(
    error: Exception, told: Position | None
) -> None:
    class Failing:
        async def statement(self, _work: object) -> None:
            raise error

    failing: Any = Failing()
    store = Store(failing, looking(Server("0-1-9"), Server("0-1-9", read_only=True)))
    its_session = session.begin(make_mocked_request("POST", "/api/links"))
    with pytest.raises(type(error)):
        await store.add("code", "https://example.org/", datetime(2026, 1, 31))
    assert its_session.seen == told


async def test_what_a_client_makes_up_is_not_held_against_a_replica() -> None:
    """MariaDB waits for a number, whoever has given it: it says that it is there, and is not."""
    replicas = looking(Server("0-1-9"), Server("0-1-9", read_only=True))
    (replica,) = replicas.all
    await replicas.look()
    for made_up in ("0-2-9", "0-1-10", "7-1-1"):
        assert not replicas.answered(replica, replica.applied, parse(made_up), Stand(START, parse("0-1-9")))
    assert (replica.reason, replica.applied) == (None, parse("0-1-9"))


async def test_an_answer_from_before_a_replica_was_made_anew_says_nothing_of_it() -> None:
    server = Server("0-1-9", read_only=True)
    replicas = looking(Server("0-1-9"), server)
    (replica,) = replicas.all
    await replicas.look()
    known, server.position = replica.applied, "0-1-5"
    await replicas.look()
    assert replicas.answered(replica, known, parse("0-1-9"), Stand(START, parse("0-1-9")))
    assert replica.applied == parse("0-1-5")
