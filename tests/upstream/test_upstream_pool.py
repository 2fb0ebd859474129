from collections import Counter
from random import Random as Generator
from typing import Literal

import pytest

from scaleup.net.addresses import Endpoint
from scaleup.upstream.algorithm import Algorithm
from scaleup.upstream.balance import ALGORITHMS, algorithm
from scaleup.upstream.pool import STEPS, Pool, Server

ENDPOINT = Endpoint("10.0.0.1", 8080)


def turns() -> Algorithm:
    return algorithm("roundrobin", lambda n: 0)


def test_servers_are_chosen_by_the_algorithm() -> None:
    one, two = Server("one", ENDPOINT), Server("two", ENDPOINT)
    pool = Pool([one, two], turns())
    assert pool.servers == (one, two)
    assert [pool.choose() for _ in range(4)] == [one, two, one, two]


def test_a_server_that_is_down_is_not_chosen() -> None:
    one, two = Server("one", ENDPOINT, up=False), Server("two", ENDPOINT)
    pool = Pool([one, two], turns())
    assert {pool.choose(), pool.choose()} == {two}
    two.up = False
    assert pool.choose() is None
    assert not pool.any_up()


def test_a_server_without_weight_is_not_chosen() -> None:
    pool = Pool([Server("one", ENDPOINT, weight=0)], turns())
    assert pool.choose() is None
    assert not pool.any_up()


def test_a_full_server_is_not_chosen_until_a_session_ends() -> None:
    one = Server("one", ENDPOINT, maxconn=2)
    pool = Pool([one], turns())
    pool.acquire(one)
    assert pool.choose() is one
    pool.acquire(one)
    assert pool.choose() is None
    assert pool.any_up()
    pool.release(one)
    assert pool.choose() is one


def test_a_server_that_was_tried_is_not_chosen_again() -> None:
    one, two = Server("one", ENDPOINT), Server("two", ENDPOINT)
    pool = Pool([one, two], turns())
    assert {pool.choose(exclude={"one"}), pool.choose(exclude={"one"})} == {two}
    assert pool.choose(exclude=("one", "two")) is None


def test_choosing_counts_nothing() -> None:
    one = Server("one", ENDPOINT)
    Pool([one], turns()).choose()
    assert one.sessions == 0


def test_sessions_can_be_counted_elsewhere() -> None:
    one, two = Server("one", ENDPOINT, maxconn=3), Server("two", ENDPOINT)
    elsewhere = {one: 3, two: 50}
    pool = Pool([one, two], turns(), sessions=lambda server: elsewhere[server])
    assert {pool.choose(), pool.choose()} == {two}
    elsewhere[one] = 2
    assert {pool.choose(), pool.choose()} == {one, two}


def test_the_key_reaches_the_algorithm() -> None:
    class ByFirstByte(Algorithm):
        def pick(self, load, key, exclude):  # type: ignore[no-untyped-def]
            return self.servers[key[0]]

    one, two = Server("one", ENDPOINT), Server("two", ENDPOINT)
    assert Pool([one, two], ByFirstByte(lambda n: 0)).choose(b"\1") is two


def test_two_servers_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="two servers have the name 'one'"):
        Pool([Server("one", ENDPOINT), Server("one", ENDPOINT)], turns())


def test_releasing_more_than_was_acquired_is_a_bug() -> None:
    one = Server("one", ENDPOINT)
    with pytest.raises(AssertionError, match="released more often"):
        Pool([one], turns()).release(one)


def test_a_server_cannot_be_in_two_pools() -> None:
    """It tells one of its changes; the other would go on with what it knew."""
    one = Server("one", ENDPOINT)
    Pool([one], turns())
    with pytest.raises(ValueError, match="'one' is in another pool already"):
        Pool([one], turns())


@pytest.mark.parametrize("admin", ["drain", "maint"])
def test_an_operator_takes_a_server_out_and_in_whatever_its_checks_say(
    admin: Literal["drain", "maint"],
) -> None:
    one, two = Server("one", ENDPOINT, admin=admin), Server("two", ENDPOINT)
    pool = Pool([one, two], turns())
    assert {pool.choose(), pool.choose()} == {two}
    assert not pool.is_free(one)
    one.change(admin="ready")
    assert {pool.choose(), pool.choose()} == {one, two}
    one.up = False
    assert {pool.choose(), pool.choose()} == {two}


def test_one_server_can_be_asked_for() -> None:
    one, two = Server("one", ENDPOINT, maxconn=1), Server("two", ENDPOINT, up=False)
    pool = Pool([one, two], turns())
    assert (pool.is_free(one), pool.is_free(two)) == (True, False)
    pool.acquire(one)
    assert not pool.is_free(one)


class TestBackups:
    def pool(self, allbackups: bool = False) -> Pool:
        servers = [Server(name, ENDPOINT, backup=name.startswith("b")) for name in ("a1", "b1", "a2", "b2")]
        return Pool(servers, turns(), allbackups=allbackups)

    def chosen(self, pool: Pool) -> set[str]:
        return {server.name for _ in range(8) if (server := pool.choose())}

    def test_they_are_used_only_when_no_other_server_is_usable(self) -> None:
        pool = self.pool()
        a1, _, a2, _ = pool.servers
        assert self.chosen(pool) == {"a1", "a2"}
        a1.up = False
        assert self.chosen(pool) == {"a2"}
        a2.change(admin="drain")
        assert self.chosen(pool) == {"b1"}
        a1.up = True
        assert self.chosen(pool) == {"a1"}

    def test_that_the_others_are_full_is_no_reason(self) -> None:
        active, backup = Server("active", ENDPOINT, maxconn=1), Server("backup", ENDPOINT, backup=True)
        pool = Pool([active, backup], turns())
        pool.acquire(active)
        assert pool.choose() is None
        assert pool.any_up()

    def test_the_first_that_is_up_or_all(self) -> None:
        for pool, first, then in ((self.pool(), {"b1"}, {"b2"}), (self.pool(True), {"b1", "b2"}, {"b2"})):
            a1, b1, a2, b2 = pool.servers
            a1.up = a2.up = False
            assert self.chosen(pool) == first
            b1.up = False
            assert self.chosen(pool) == then
            b2.up = False
            assert pool.choose() is None
            assert not pool.any_up()


class TestSlowStart:
    """The clock is the test's."""

    def setup_method(self) -> None:
        self.now = 1000.0
        self.cold = Server("cold", ENDPOINT, 10, slowstart=20.0)
        self.warm = Server("warm", ENDPOINT, 10)

    def pool(self, name: str = "roundrobin") -> Pool:
        return Pool([self.cold, self.warm], algorithm(name, Generator(1).randrange), now=lambda: self.now)

    def share(self, pool: Pool) -> float:
        """Of the sessions per weight that the cold one gets, as a part of what the warm one gets."""
        counted = Counter(server.name for _ in range(400) if (server := pool.choose()))
        return counted["cold"] / counted["warm"]

    def test_it_does_not_apply_to_servers_that_were_up_from_the_beginning(self) -> None:
        assert self.share(self.pool()) == 1

    def test_the_weight_grows_to_the_whole_within_the_time(self) -> None:
        pool = self.pool()
        self.cold.up = False
        assert self.share(pool) == 0
        self.cold.up = True
        for passed, per_cent in (
            (0.0, 5),
            (0.9, 5),
            (5.0, 30),
            (10.0, 55),
            (18.9, 95),
            (19.0, 100),
            (60.0, 100),
        ):
            self.now = 1000.0 + passed
            assert self.share(pool) == pytest.approx(per_cent / 100, abs=0.02)
            assert self.cold.throttle == per_cent

    def test_all_servers_are_looked_at_once_for_each_step_and_not_again(self) -> None:
        looks = 0

        class Counting(Algorithm):
            def servers_changed(self, servers):  # type: ignore[no-untyped-def]
                nonlocal looks
                looks += 1

            def pick(self, load, key, exclude):  # type: ignore[no-untyped-def]
                return None

        pool = Pool([self.cold], Counting(lambda n: 0), now=lambda: self.now)
        self.cold.up = False
        self.cold.up = True
        for _ in range(3000):
            pool.choose()
            self.now += 0.01
        assert looks == STEPS

    def test_a_server_that_goes_down_meanwhile_begins_again(self) -> None:
        pool = self.pool()
        self.cold.up = False
        self.cold.up = True
        self.now += 10
        assert self.share(pool) == pytest.approx(0.55, abs=0.02)
        self.cold.up = False
        assert self.share(pool) == 0
        self.cold.up = True
        assert self.share(pool) == pytest.approx(0.05, abs=0.02)

    def test_it_applies_after_maintenance_and_not_after_a_drain(self) -> None:
        pool = self.pool()
        self.cold.change(admin="drain")
        self.cold.change(admin="ready")
        assert self.share(pool) == 1
        self.cold.change(admin="maint")
        self.cold.change(admin="ready")
        assert self.share(pool) == pytest.approx(0.05, abs=0.02)

    @pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "first"])
    def test_every_algorithm_by_weight_heeds_it(self, name: str) -> None:
        pool = self.pool(name)
        self.cold.up = False
        self.cold.up = True
        counted: Counter[str] = Counter()
        for n in range(2000):
            server = pool.choose((n % 500 * 7919).to_bytes(4))
            assert server is not None
            pool.acquire(server)
            counted[server.name] += 1
        assert 0 < counted["cold"] < 0.15 * counted["warm"]
