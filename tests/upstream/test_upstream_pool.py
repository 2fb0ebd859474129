import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint
from scaleup.upstream.balance import RoundRobin
from scaleup.upstream.pool import Pool, Server

ENDPOINT = Endpoint("10.0.0.1", 8080)


def test_servers_are_chosen_by_the_algorithm() -> None:
    one, two = Server("one", ENDPOINT), Server("two", ENDPOINT)
    pool = Pool([one, two], RoundRobin())
    assert pool.servers == (one, two)
    assert [pool.choose() for _ in range(4)] == [one, two, one, two]


def test_a_server_that_is_down_is_not_chosen() -> None:
    one, two = Server("one", ENDPOINT, up=False), Server("two", ENDPOINT)
    pool = Pool([one, two], RoundRobin())
    assert {pool.choose(), pool.choose()} == {two}
    two.up = False
    assert pool.choose() is None
    assert not pool.any_up()


def test_a_server_without_weight_is_not_chosen() -> None:
    pool = Pool([Server("one", ENDPOINT, weight=0)], RoundRobin())
    assert pool.choose() is None
    assert not pool.any_up()


def test_a_full_server_is_not_chosen_until_a_session_ends() -> None:
    one = Server("one", ENDPOINT, maxconn=2)
    pool = Pool([one], RoundRobin())
    pool.acquire(one)
    assert pool.choose() is one
    pool.acquire(one)
    assert pool.choose() is None
    assert pool.any_up()
    pool.release(one)
    assert pool.choose() is one


def test_a_server_that_was_tried_is_not_chosen_again() -> None:
    one, two = Server("one", ENDPOINT), Server("two", ENDPOINT)
    pool = Pool([one, two], RoundRobin())
    assert {pool.choose(exclude={"one"}), pool.choose(exclude={"one"})} == {two}
    assert pool.choose(exclude=("one", "two")) is None


def test_choosing_counts_nothing() -> None:
    one = Server("one", ENDPOINT)
    Pool([one], RoundRobin()).choose()
    assert one.sessions == 0


def test_sessions_can_be_counted_elsewhere() -> None:
    one, two = Server("one", ENDPOINT, maxconn=3), Server("two", ENDPOINT)
    elsewhere = {one: 3, two: 50}
    pool = Pool([one, two], RoundRobin(), sessions=lambda server: elsewhere[server])
    assert {pool.choose(), pool.choose()} == {two}
    elsewhere[one] = 2
    assert {pool.choose(), pool.choose()} == {one, two}


def test_the_key_reaches_the_algorithm() -> None:
    class ByFirstByte:
        def pick(self, candidates, load, key):  # type: ignore[no-untyped-def]
            return candidates[key[0]]

    one, two = Server("one", ENDPOINT), Server("two", ENDPOINT)
    assert Pool([one, two], ByFirstByte()).choose(b"\1") is two


def test_two_servers_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="two servers have the name 'one'"):
        Pool([Server("one", ENDPOINT), Server("one", ENDPOINT)], RoundRobin())


def test_releasing_more_than_was_acquired_is_a_bug() -> None:
    one = Server("one", ENDPOINT)
    with pytest.raises(AssertionError, match="released more often"):
        Pool([one], RoundRobin()).release(one)


some_server = st.builds(
    Server,
    name=st.uuids().map(str),
    endpoint=st.just(ENDPOINT),
    weight=st.integers(0, 2),
    maxconn=st.integers(0, 2),
    up=st.booleans(),
    sessions=st.integers(0, 3),
)


@given(st.lists(some_server, max_size=6), st.data())
def test_what_is_chosen_may_be_chosen_and_none_means_none(servers: list[Server], data: st.DataObject) -> None:
    exclude = data.draw(st.sets(st.sampled_from([server.name for server in servers]))) if servers else set()
    eligible = []
    for server in servers:
        full = server.maxconn > 0 and server.sessions >= server.maxconn
        if server.up and server.weight > 0 and not full and server.name not in exclude:
            eligible.append(server)
    chosen = Pool(servers, RoundRobin()).choose(exclude=exclude)
    assert chosen in eligible if eligible else chosen is None
