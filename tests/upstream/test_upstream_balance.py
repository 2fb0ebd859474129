import itertools
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from ipaddress import ip_address
from random import Random as Generator
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint
from scaleup.upstream.balance import Algorithm, AlgorithmName, algorithm, client_key
from scaleup.upstream.pool import Server

weights = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def servers(*weights: int) -> list[Server]:
    """s0, s1, … with these weights."""
    return [Server(f"s{n}", Endpoint("10.0.0.1", 8000 + n), weight) for n, weight in enumerate(weights)]


def sessions(server: Server) -> int:
    return server.sessions


def unasked(server: Server) -> int:
    raise AssertionError("the algorithm has no business with the load")


def new(name: str, seed: int = 1) -> Algorithm:
    return algorithm(name, Generator(seed).randrange)


def picks(chosen_by: Algorithm, among: Sequence[Server], count: int) -> list[str]:
    return [chosen_by.pick(among, sessions, None).name for _ in range(count)]


def keys(count: int) -> list[bytes]:
    return [ip_address(0x0A000000 + 7 * n).packed for n in range(count)]


@pytest.mark.parametrize("name", get_args(AlgorithmName))
def test_every_algorithm_returns_the_only_candidate(name: str) -> None:
    [only] = servers(3)
    assert new(name).pick([only], sessions, b"key") is only
    assert new(name).pick([only], sessions, None) is only


def test_an_unknown_algorithm_is_an_error_that_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'fastest'.*roundrobin, leastconn, random, source"):
        new("fastest")


class TestRoundRobin:
    def test_equal_servers_take_strict_turns(self) -> None:
        assert picks(new("roundrobin"), servers(1, 1, 1), 6) == ["s0", "s1", "s2", "s0", "s1", "s2"]

    def test_the_heavy_server_is_not_chosen_in_one_burst(self) -> None:
        """The example with which nginx explains the algorithm."""
        assert picks(new("roundrobin"), servers(5, 1, 1), 7) == ["s0", "s0", "s1", "s0", "s2", "s0", "s0"]

    @given(weights)
    def test_over_a_period_each_is_chosen_as_often_as_its_weight_says(self, weights: list[int]) -> None:
        chosen_by, among, total = new("roundrobin"), servers(*weights), sum(weights)
        for _period in range(2):
            counted = Counter(picks(chosen_by, among, total))
            assert [counted[server.name] for server in among] == weights

    @given(weights)
    def test_nobody_is_ever_a_whole_choice_ahead_of_its_share(self, weights: list[int]) -> None:
        chosen_by, among = new("roundrobin"), servers(*weights)
        counted: Counter[str] = Counter()
        for n in range(1, sum(weights) + 1):
            counted.update(picks(chosen_by, among, 1))
            for server in among:
                assert counted[server.name] < n * Fraction(server.weight, sum(weights)) + 1

    def test_a_server_that_returns_does_not_catch_up(self) -> None:
        chosen_by, among = new("roundrobin"), servers(1, 1, 1)
        picks(chosen_by, among, 4)
        picks(chosen_by, among[1:], 1000)
        after = picks(chosen_by, among, 30)
        assert Counter(after) == {"s0": 10, "s1": 10, "s2": 10}
        assert all(one != next_one for one, next_one in itertools.pairwise(after))

    def test_comings_and_goings_leave_no_lasting_debt(self) -> None:
        """The candidates differ with every choice, for long; the shares are right soon after."""
        chosen_by, among, generator = new("roundrobin"), servers(1, 2, 3, 4), Generator(7)
        for _ in range(5000):
            some = [server for server in among if generator.random() < 0.6]
            if some:
                chosen_by.pick(some, unasked, None)
        counted = Counter(picks(chosen_by, among, 100))
        for server in among:
            assert abs(counted[server.name] - 10 * server.weight) <= 3


class TestLeastConn:
    @given(st.lists(st.tuples(st.integers(1, 256), st.integers(0, 10_000)), min_size=1, max_size=8))
    def test_it_is_the_minimum(self, weights_and_sessions: list[tuple[int, int]]) -> None:
        among = servers(*(weight for weight, _ in weights_and_sessions))
        for server, (_, count) in zip(among, weights_and_sessions, strict=True):
            server.sessions = count
        chosen = new("leastconn").pick(among, sessions, None)
        oracle = min(Fraction(server.sessions, server.weight) for server in among)
        assert Fraction(chosen.sessions, chosen.weight) == oracle

    def test_equals_take_turns_by_weight(self) -> None:
        among = servers(2, 1, 1)
        assert picks(new("leastconn"), among, 8) == picks(new("roundrobin"), among, 8)

    def test_only_the_equals_take_turns(self) -> None:
        among = servers(1, 1, 1)
        among[1].sessions = 1
        assert picks(new("leastconn"), among, 4) == ["s0", "s2", "s0", "s2"]

    def test_sessions_fill_up_by_weight(self) -> None:
        chosen_by, among = new("leastconn"), servers(3, 1)
        for _ in range(400):
            chosen_by.pick(among, sessions, None).sessions += 1
        assert [server.sessions for server in among] == [300, 100]

    def test_the_load_is_what_the_reader_says(self) -> None:
        among = servers(1, 1)
        elsewhere = {"s0": 5, "s1": 4}
        assert new("leastconn").pick(among, lambda server: elsewhere[server.name], None).name == "s1"


class TestRandom:
    def test_of_two_the_less_loaded_wins(self) -> None:
        among = servers(1, 1)
        among[0].sessions = 1
        assert set(picks(new("random"), among, 100)) == {"s1"}

    def test_less_loaded_is_by_weight(self) -> None:
        among = servers(10, 1)
        among[0].sessions, among[1].sessions = 9, 1
        assert set(picks(new("random"), among, 100)) == {"s0"}

    def test_the_most_loaded_of_several_is_never_chosen(self) -> None:
        among = servers(1, 1, 1)
        among[2].sessions = 1
        assert set(picks(new("random"), among, 100)) == {"s0", "s1"}

    def test_equally_idle_servers_are_chosen_by_weight(self) -> None:
        counted = Counter(picks(new("random"), servers(1, 2, 3, 4), 10_000))
        for n, share in enumerate((1000, 2000, 3000, 4000)):  # 5 standard deviations are 150 to 245
            assert abs(counted[f"s{n}"] - share) < 250

    @settings(max_examples=20)
    @given(st.integers(0, 2**32))
    def test_two_choices_keep_fifty_servers_even(self, seed: int) -> None:
        chosen_by, among = new("random", seed), servers(*[1] * 50)
        for _ in range(1000):
            chosen_by.pick(among, sessions, None).sessions += 1
        assert max(server.sessions for server in among) <= 25  # one choice gives 30 and more

    def test_the_same_seed_makes_the_same_choices(self) -> None:
        among = servers(1, 2, 3)
        assert picks(new("random", 5), among, 50) == picks(new("random", 5), among, 50)


class TestSource:
    def choices(self, among: Sequence[Server], count: int = 2000) -> dict[bytes, str]:
        chosen_by = new("source")
        return {key: chosen_by.pick(among, unasked, key).name for key in keys(count)}

    def test_two_nodes_choose_alike(self) -> None:
        """Whatever the order of their configuration, and whatever they chose before."""
        one, other = servers(1, 2, 3), list(reversed(servers(1, 2, 3)))
        chosen_by = new("source")
        chosen_by.pick(one[:1], unasked, b"before")
        assert self.choices(one) == self.choices(other)
        assert all(chosen_by.pick(one, unasked, key).name == name for key, name in self.choices(one).items())

    def test_a_release_does_not_move_clients(self) -> None:
        """During an upgrade one node runs the old release: these choices must never change."""
        chosen_by, among = new("source"), servers(1, 2, 1)
        hosts = ["10.0.0.1", "10.0.0.2", "192.0.2.7", "203.0.113.99", "2001:db8::1", "::1"]
        chosen = [chosen_by.pick(among, unasked, client_key(host)).name for host in hosts]
        assert chosen == ["s1", "s0", "s0", "s2", "s2", "s0"]

    def test_when_a_server_goes_only_its_clients_move(self) -> None:
        among = servers(1, 1, 2, 1)
        before, after = self.choices(among), self.choices(among[:2] + among[3:])
        for key, name in before.items():
            assert after[key] == name or name == "s2"
        assert "s2" not in after.values()

    def test_the_clients_of_a_lost_server_spread_over_the_others(self) -> None:
        among = servers(1, 1, 1, 1)
        before, after = self.choices(among), self.choices(among[1:])
        moved = Counter(after[key] for key, name in before.items() if name == "s0")
        assert all(moved[name] > sum(moved.values()) / 5 for name in ("s1", "s2", "s3"))

    def test_a_weight_that_grows_only_attracts(self) -> None:
        before, after = self.choices(servers(2, 2, 2)), self.choices(servers(2, 3, 2))
        assert all(after[key] in (name, "s1") for key, name in before.items())
        assert Counter(after.values())["s1"] > Counter(before.values())["s1"]

    def test_clients_are_shared_by_weight(self) -> None:
        counted = Counter(self.choices(servers(1, 2, 3, 4), 10_000).values())
        for n, share in enumerate((1000, 2000, 3000, 4000)):
            assert abs(counted[f"s{n}"] - share) < 250

    def test_without_an_address_clients_take_turns(self) -> None:
        assert picks(new("source"), servers(1, 1), 4) == ["s0", "s1", "s0", "s1"]


def test_the_key_of_a_client_is_its_packed_address() -> None:
    assert client_key("10.0.0.1") == b"\x0a\0\0\x01"
    assert client_key("2001:db8::1") == ip_address("2001:db8::1").packed


def test_an_ipv4_client_has_one_key_on_every_socket() -> None:
    assert client_key("::ffff:10.0.0.1") == client_key("10.0.0.1")


def test_what_is_not_an_address_has_no_key() -> None:
    with pytest.raises(ValueError, match="web1"):
        client_key("web1")
