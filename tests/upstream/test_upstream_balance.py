"""Each algorithm against a dumb oracle, and for fairness; through a pool, as it is used."""

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from ipaddress import ip_address
from random import Random as Generator
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint
from scaleup.upstream.algorithm import Algorithm
from scaleup.upstream.balance import ALGORITHMS, algorithm, client_key
from scaleup.upstream.pool import Pool, Server
from scaleup.upstream.ranking import SWEEP

weights = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def servers(*weights: int, maxconn: int = 0) -> list[Server]:
    """s0, s1, … with these weights."""
    return [
        Server(f"s{n}", Endpoint("10.0.0.1", 8000 + n), weight, maxconn) for n, weight in enumerate(weights)
    ]


def unasked(server: Server) -> int:
    raise AssertionError("the algorithm has no business with the load")


def pool_of(name: str, *weights: int, maxconn: int = 0, seed: int = 1) -> Pool:
    return Pool(servers(*weights, maxconn=maxconn), algorithm(name, Generator(seed).randrange))


def picks(pool: Pool, count: int, exclude: Sequence[str] = ()) -> list[str]:
    """Choices whose sessions end at once."""
    names = []
    for _ in range(count):
        server = pool.choose(exclude=exclude)
        assert server is not None
        pool.acquire(server)
        pool.release(server)
        names.append(server.name)
    return names


def keep(pool: Pool, count: int = 1) -> None:
    """Sessions that stay."""
    for _ in range(count):
        server = pool.choose()
        assert server is not None
        pool.acquire(server)


def set_sessions(pool: Pool, *counts: int) -> None:
    for server, count in zip(pool.servers, counts, strict=True):
        while server.sessions < count:
            pool.acquire(server)
        while server.sessions > count:
            pool.release(server)


def keys(count: int) -> list[bytes]:
    return [ip_address(0x0A000000 + 7 * n).packed for n in range(count)]


class TestEach:
    """What holds of every algorithm."""

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_it_returns_the_only_server(self, name: str) -> None:
        pool = pool_of(name, 3)
        assert pool.choose(b"key") is pool.choose(None) is pool.servers[0]

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_without_servers_there_is_none(self, name: str) -> None:
        assert pool_of(name).choose(b"key") is None

    @pytest.mark.parametrize("name", ALGORITHMS)
    @settings(max_examples=60)
    @given(data=st.data())
    def test_what_is_chosen_may_be_chosen_and_none_means_none(self, name: str, data: st.DataObject) -> None:
        """However servers come and go, fill up, are excluded and change weight."""
        n = data.draw(st.integers(1, 6))
        maxconns = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
        pool = pool_of(name, *[1] * n)
        for server, maxconn in zip(pool.servers, maxconns, strict=True):
            server.change(maxconn=maxconn)
        for _ in range(data.draw(st.integers(1, 25))):
            server = data.draw(st.sampled_from(pool.servers))
            match data.draw(st.sampled_from(["up", "weight", "admin", "end", "choose", "choose", "choose"])):
                case "up":
                    server.up = not server.up
                case "weight":
                    server.change(weight=data.draw(st.integers(0, 3)))
                case "admin":
                    server.change(admin=data.draw(st.sampled_from(["ready", "drain", "maint"])))
                case "end" if server.sessions:
                    pool.release(server)
                case _:
                    exclude = data.draw(st.sets(st.sampled_from([one.name for one in pool.servers])))
                    key = data.draw(st.none() | st.binary(min_size=4, max_size=4))
                    eligible = [
                        one
                        for one in pool.servers
                        if one.up and one.weight and one.admin == "ready" and one.name not in exclude
                        if not one.maxconn or one.sessions < one.maxconn
                    ]
                    chosen = pool.choose(key, exclude)
                    assert chosen in eligible if eligible else chosen is None
                    if chosen:
                        pool.acquire(chosen)

    @pytest.mark.parametrize("name", ["roundrobin", "leastconn", "first", "random"])
    def test_loads_are_read_of_a_few_servers_however_many_there_are(self, name: str) -> None:
        """What makes it cheap: not a microsecond more for a thousand."""
        read = 0

        def sessions(server: Server) -> int:
            nonlocal read
            read += 1
            return server.sessions

        many = servers(*[1] * 1000, maxconn=50)
        pool = Pool(many, algorithm(name, Generator(1).randrange), sessions)
        keep(pool, 1000)
        read = 0
        keep(pool, 100)
        assert read <= 100 * (SWEEP + 4)


class TestNames:
    def test_an_unknown_one_is_an_error_that_names_the_choices(self) -> None:
        with pytest.raises(ValueError, match=r"'fastest'.*roundrobin, leastconn, first, random, source"):
            algorithm("fastest", Generator().randrange)

    def test_one_of_your_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The example of the manual, `algorithm`."""
        text = sys.modules["scaleup.upstream.algorithm"].__doc__
        assert text is not None
        code = text[text.index("class Shortest") : text.index("Say `--balance")]
        mine = ModuleType("mine")
        exec("from scaleup.upstream.algorithm import *\n" + code.replace("\n    ", "\n"), mine.__dict__)
        monkeypatch.setitem(sys.modules, "mine", mine)
        pool = Pool(
            [Server("longer", Endpoint("h", 1)), Server("short", Endpoint("h", 2), maxconn=1)],
            algorithm("mine:Shortest", Generator().randrange),
        )
        assert picks(pool, 2) == ["short", "short"]
        keep(pool)
        assert picks(pool, 1) == ["longer"]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such_module:X", "'no_such_module:X' cannot be imported: ModuleNotFoundError"),
            ("json:Sticky", "AttributeError: module 'json' has no attribute 'Sticky'"),
            ("json:loads", "'json:loads' is not an algorithm: write a subclass of"),
            ("json:JSONDecoder", "is not an algorithm"),
            ("scaleup.upstream.algorithm:Algorithm", "is not an algorithm"),  # it has no `pick` yet
            (":X", "cannot be imported: ValueError"),
        ],
    )
    def test_what_is_wrong_with_one_of_your_own_is_said(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            algorithm(name, Generator().randrange)

    def test_only_those_that_look_at_the_client_ask_for_its_key(self) -> None:
        assert [name for name in ALGORITHMS if pool_of(name, 1).needs_key] == ["source"]


class TestRoundRobin:
    def test_equal_servers_take_strict_turns(self) -> None:
        assert picks(pool_of("roundrobin", 1, 1, 1), 6) == ["s0", "s1", "s2", "s0", "s1", "s2"]

    def test_the_heavy_server_is_not_chosen_in_one_burst(self) -> None:
        assert picks(pool_of("roundrobin", 5, 1, 1), 7) == ["s0", "s1", "s0", "s0", "s2", "s0", "s0"]

    @given(weights)
    def test_it_is_the_earliest_deadline_of_those_that_may_begin(self, weights: list[int]) -> None:
        """The oracle: the definition, in fractions, with a look at each server."""
        taken = [0] * len(weights)
        total = sum(weights)
        expected = []
        for turn in range(2 * total):
            may = [i for i, w in enumerate(weights) if Fraction(taken[i], w) <= Fraction(turn, total)]
            chosen = min(may, key=lambda i: (Fraction(taken[i] + 1, weights[i]), i))
            taken[chosen] += 1
            expected.append(f"s{chosen}")
        assert picks(pool_of("roundrobin", *weights), 2 * total) == expected

    @given(weights)
    def test_over_a_period_each_is_chosen_as_often_as_its_weight_says(self, weights: list[int]) -> None:
        pool = pool_of("roundrobin", *weights)
        for _period in range(3):
            counted = Counter(picks(pool, sum(weights)))
            assert [counted[server.name] for server in pool.servers] == weights

    @given(weights)
    def test_nobody_is_ever_a_whole_choice_off_its_share(self, weights: list[int]) -> None:
        pool = pool_of("roundrobin", *weights)
        counted: Counter[str] = Counter()
        for n in range(1, sum(weights) + 1):
            counted.update(picks(pool, 1))
            for server in pool.servers:
                assert abs(counted[server.name] - n * Fraction(server.weight, sum(weights))) < 1

    def test_a_server_that_returns_does_not_catch_up(self) -> None:
        pool = pool_of("roundrobin", 1, 1, 1)
        picks(pool, 4)
        pool.servers[0].up = False
        picks(pool, 1000)
        pool.servers[0].up = True
        after = picks(pool, 30)
        assert all(9 <= count <= 11 for count in Counter(after).values())
        assert all(one != next_one for one, next_one in itertools.pairwise(after))

    def test_nor_does_one_that_was_full(self) -> None:
        pool = pool_of("roundrobin", 1, 1, 1)
        pool.servers[0].change(maxconn=1)
        pool.acquire(pool.servers[0])
        assert Counter(picks(pool, 1000)) == {"s1": 500, "s2": 500}
        pool.release(pool.servers[0])
        assert all(9 <= count <= 11 for count in Counter(picks(pool, 30)).values())

    def test_the_share_of_a_server_that_is_tried_in_vain_is_spread_over_the_others(self) -> None:
        """As redispatch asks: choose, fail, choose again without that one."""
        pool = pool_of("roundrobin", 1, 1, 1)
        served: Counter[str] = Counter()
        failed = 0
        for _ in range(300):
            [name] = picks(pool, 1)
            if name == "s0":
                failed += 1
                [name] = picks(pool, 1, exclude=["s0"])
            served[name] += 1
        assert 99 <= failed <= 101
        assert all(149 <= served[name] <= 151 for name in ("s1", "s2"))

    def test_comings_and_goings_leave_no_lasting_debt(self) -> None:
        """The servers differ with every choice, for long; the shares are right soon after."""
        pool, generator = pool_of("roundrobin", 1, 2, 3, 4), Generator(7)
        for _ in range(2000):
            for server in pool.servers:
                server.up = generator.random() < 0.6
            pool.choose()
        for server in pool.servers:
            server.up = True
        counted = Counter(picks(pool, 100))
        for server in pool.servers:
            assert abs(counted[server.name] - 10 * server.weight) <= 3


class TestLeastConn:
    @given(st.lists(st.tuples(st.integers(1, 256), st.integers(0, 50)), min_size=1, max_size=8))
    def test_it_is_the_minimum(self, weights_and_sessions: list[tuple[int, int]]) -> None:
        pool = pool_of("leastconn", *(weight for weight, _ in weights_and_sessions))
        set_sessions(pool, *(count for _, count in weights_and_sessions))
        for _ in range(30):
            chosen = pool.choose()
            assert chosen is not None
            oracle = min(Fraction(server.sessions, server.weight) for server in pool.servers)
            assert Fraction(chosen.sessions, chosen.weight) == oracle
            pool.acquire(chosen)

    @settings(max_examples=50)
    @given(st.integers(1, 30), st.integers(0, 2**32))
    def test_it_stays_the_minimum_while_sessions_come_and_go(self, n: int, seed: int) -> None:
        generator = Generator(seed)
        pool = pool_of("leastconn", *(generator.randint(1, 5) for _ in range(n)))
        for _ in range(200):
            if generator.random() < 0.45 and (busy := [s for s in pool.servers if s.sessions]):
                pool.release(generator.choice(busy))
                continue
            chosen = pool.choose()
            assert chosen is not None
            oracle = min(Fraction(server.sessions, server.weight) for server in pool.servers)
            assert Fraction(chosen.sessions, chosen.weight) == oracle
            pool.acquire(chosen)

    @given(weights)
    def test_equals_take_turns_by_weight(self, weights: list[int]) -> None:
        pool = pool_of("leastconn", *weights)
        for _period in range(2):
            counted = Counter(picks(pool, sum(weights)))
            assert all(abs(counted[server.name] - server.weight) <= 1 for server in pool.servers)

    def test_only_the_equals_take_turns(self) -> None:
        pool = pool_of("leastconn", 1, 1, 1)
        set_sessions(pool, 0, 1, 0)
        assert picks(pool, 4) == ["s0", "s2", "s0", "s2"]

    def test_sessions_fill_up_by_weight(self) -> None:
        pool = pool_of("leastconn", 3, 1)
        keep(pool, 400)
        assert [server.sessions for server in pool.servers] == [300, 100]

    def test_the_load_is_what_the_reader_says(self) -> None:
        elsewhere = {"s0": 5, "s1": 4}
        among = servers(1, 1)
        pool = Pool(
            among, algorithm("leastconn", Generator().randrange), lambda server: elsewhere[server.name]
        )
        assert pool.choose() is among[1]

    def test_a_rise_elsewhere_is_seen_at_once(self) -> None:
        """No server is chosen for a load that it had: the lowest is read again before it is taken."""
        elsewhere = {f"s{n}": n for n in range(100)}
        among = servers(*[1] * 100)
        pool = Pool(
            among, algorithm("leastconn", Generator().randrange), lambda server: elsewhere[server.name]
        )
        assert pool.choose() is among[0]
        for n in range(99):
            elsewhere[f"s{n}"] = 1000
            assert pool.choose() is among[n + 1]

    def test_a_heap_that_is_made_anew_in_the_midst_of_a_choice_is_heeded(self) -> None:
        """Falls leave older entries behind, until there are too many; a rise may come at any number of them."""
        count = 30
        for falls in range(4 * count + 64):
            elsewhere = {f"s{n}": 1000 + n for n in range(count)}
            among = servers(*[1] * count)
            loads = elsewhere.__getitem__
            pool = Pool(
                among,
                algorithm("leastconn", Generator().randrange),
                lambda server, loads=loads: loads(server.name),  # type: ignore[misc]
            )
            for _ in range(falls):
                elsewhere.update((name, load - 1) for name, load in elsewhere.items())
                pool.choose()
            elsewhere.update((f"s{n}", 5000 - n) for n in range(count))
            assert pool.choose() is among[-1]

    def test_a_fall_elsewhere_is_seen_after_a_bounded_number_of_choices(self) -> None:
        elsewhere = {f"s{n}": 10 for n in range(100)}
        among = servers(*[1] * 100)
        pool = Pool(
            among, algorithm("leastconn", Generator().randrange), lambda server: elsewhere[server.name]
        )
        pool.choose()
        for name in ("s99", "s0", "s50"):
            elsewhere[name] = 0
            assert name in [server.name for _ in range(100 // SWEEP) if (server := pool.choose())]
            elsewhere[name] = 10

    @settings(max_examples=20)
    @given(st.integers(0, 2**32), st.integers(2, 4))
    def test_workers_that_share_counts_keep_fifty_servers_even(self, seed: int, workers: int) -> None:
        """Each with a pool of its own, as in the load balancer; sessions end in whichever worker has them."""
        generator = Generator(seed)
        counts: Counter[str] = Counter()
        pools = [
            Pool(
                servers(*[1] * 50),
                algorithm("leastconn", generator.randrange),
                lambda server: counts[server.name],
            )
            for _ in range(workers)
        ]
        sessions: list[tuple[Pool, Server]] = []
        for step in range(3000):
            pool = generator.choice(pools)
            server = pool.choose()
            assert server is not None
            pool.acquire(server)
            counts[server.name] += 1
            sessions.append((pool, server))
            if step > 1000:
                pool, server = sessions.pop(generator.randrange(len(sessions)))
                pool.release(server)
                counts[server.name] -= 1
        assert len(sessions) == 1001
        assert max(counts.values()) - min(counts.values()) <= 8  # 20 on average


class TestFirst:
    def test_servers_are_filled_in_their_order(self) -> None:
        pool = pool_of("first", 1, 1, 1, maxconn=2)
        for expected in ([1, 0, 0], [2, 0, 0], [2, 1, 0], [2, 2, 0], [2, 2, 1], [2, 2, 2]):
            keep(pool)
            assert [server.sessions for server in pool.servers] == expected
        assert pool.choose() is None

    def test_a_slot_that_is_freed_in_front_is_taken_first(self) -> None:
        pool = pool_of("first", 1, 1, 1, maxconn=2)
        keep(pool, 5)
        pool.release(pool.servers[1])
        pool.release(pool.servers[0])
        assert [pool.choose(), pool.choose(exclude={"s0"})] == [pool.servers[0], pool.servers[1]]

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**32))
    def test_it_is_the_first_that_is_not_full(self, maxconns: list[int], seed: int) -> None:
        generator = Generator(seed)
        pool = pool_of("first", *[1] * len(maxconns))
        for server, maxconn in zip(pool.servers, maxconns, strict=True):
            server.change(maxconn=maxconn)
        for _ in range(60):
            if generator.random() < 0.4 and (busy := [s for s in pool.servers if s.sessions]):
                pool.release(generator.choice(busy))
            free = (s for s in pool.servers if not s.maxconn or s.sessions < s.maxconn)
            chosen = pool.choose()
            assert chosen is next(free, None)
            if chosen:
                pool.acquire(chosen)


class TestRandom:
    def test_of_two_the_less_loaded_wins(self) -> None:
        pool = pool_of("random", 1, 1)
        set_sessions(pool, 1, 0)
        assert set(picks(pool, 100)) == {"s1"}

    def test_less_loaded_is_by_weight(self) -> None:
        pool = pool_of("random", 10, 1)
        set_sessions(pool, 9, 1)
        assert set(picks(pool, 100)) == {"s0"}

    def test_the_most_loaded_of_several_is_never_chosen(self) -> None:
        pool = pool_of("random", 1, 1, 1)
        set_sessions(pool, 0, 0, 1)
        assert set(picks(pool, 100)) == {"s0", "s1"}

    def test_equally_idle_servers_are_chosen_by_weight(self) -> None:
        counted = Counter(picks(pool_of("random", 1, 2, 3, 4), 10_000))
        for n, share in enumerate((1000, 2000, 3000, 4000)):  # 5 standard deviations are 150 to 245
            assert abs(counted[f"s{n}"] - share) < 250

    def test_full_and_excluded_servers_do_not_change_the_odds_of_the_others(self) -> None:
        """Drawing again, and the list of those that are free, must give the same."""
        pool = pool_of("random", 200, 1, 2, 3)
        pool.servers[0].change(maxconn=1)
        pool.acquire(pool.servers[0])
        counted = Counter(picks(pool, 6000))
        for n, share in ((1, 1000), (2, 2000), (3, 3000)):
            assert abs(counted[f"s{n}"] - share) < 200
        assert Counter(picks(pool, 3000, exclude=["s1", "s2"])) == {"s3": 3000}

    @settings(max_examples=20)
    @given(st.integers(0, 2**32))
    def test_two_choices_keep_fifty_servers_even(self, seed: int) -> None:
        pool = pool_of("random", *[1] * 50, seed=seed)
        keep(pool, 1000)
        assert max(server.sessions for server in pool.servers) <= 25  # one choice gives 30 and more

    def test_the_same_seed_makes_the_same_choices(self) -> None:
        assert picks(pool_of("random", 1, 2, 3, seed=5), 50) == picks(pool_of("random", 1, 2, 3, seed=5), 50)


class TestSource:
    def pool(self, *weights: int, among: list[Server] | None = None) -> Pool:
        return Pool(among or servers(*weights), algorithm("source", Generator().randrange), unasked)

    def choices(self, pool: Pool, count: int = 2000) -> dict[bytes, str]:
        chosen = {}
        for key in keys(count):
            server = pool.choose(key)
            assert server is not None
            chosen[key] = server.name
        return chosen

    def test_two_nodes_choose_alike(self) -> None:
        """Whatever the order of their configuration, and whatever happened to them before."""
        one, other = self.pool(1, 2, 3), self.pool(among=list(reversed(servers(1, 2, 3))))
        other.servers[1].up = False
        other.choose(b"before")
        other.servers[1].up = True
        assert self.choices(one) == self.choices(other)

    def test_stickiness_survives_a_fail_over(self) -> None:
        """The second node has not seen the servers that are down come or go; it chooses alike all the same."""
        one, other = self.pool(1, 1, 1, 1), self.pool(1, 1, 1, 1)
        before = self.choices(one)
        one.servers[2].up = other.servers[2].up = False
        taken_over = self.choices(other)
        assert taken_over == self.choices(one)
        assert all(taken_over[key] == name for key, name in before.items() if name != "s2")

    def test_a_release_does_not_move_clients(self) -> None:
        """During an upgrade one node runs the old release: these choices must never change."""
        pool = self.pool(1, 2, 1)
        hosts = ["10.0.0.1", "10.0.0.2", "192.0.2.7", "203.0.113.99", "2001:db8::1", "::1"]
        chosen = [server.name for host in hosts if (server := pool.choose(client_key(host)))]
        assert chosen == ["s2", "s2", "s1", "s1", "s0", "s1"]

    def test_when_a_server_goes_only_its_clients_move_and_exactly_they_return(self) -> None:
        pool = self.pool(1, 1, 2, 1)
        before = self.choices(pool)
        pool.servers[2].up = False
        after = self.choices(pool)
        assert all(after[key] == name or name == "s2" for key, name in before.items())
        assert "s2" not in after.values()
        pool.servers[2].up = True
        assert self.choices(pool) == before

    def test_it_is_the_next_point_of_a_usable_server(self) -> None:
        """The oracle: hashes in a sorted list, looked through from its beginning."""
        from hashlib import blake2b

        from scaleup.upstream.ring import _SEED, _points

        pool = self.pool(1, 1, 1)
        pool.servers[1].up = False
        points = sorted((place, name) for name in ("s0", "s2") for place in _points(name))
        for key, name in self.choices(pool, 300).items():
            place = int.from_bytes(blake2b(key, digest_size=8, person=_SEED).digest())
            assert name == next((owner for point, owner in points if point >= place), points[0][1])

    def test_the_clients_of_a_lost_server_spread_over_the_others(self) -> None:
        pool = self.pool(1, 1, 1, 1)
        before = self.choices(pool)
        pool.servers[0].up = False
        after = self.choices(pool)
        moved = Counter(after[key] for key, name in before.items() if name == "s0")
        assert all(moved[name] > sum(moved.values()) / 5 for name in ("s1", "s2", "s3"))

    def test_a_weight_that_shrinks_only_repels(self) -> None:
        pool = self.pool(2, 2, 2)
        before = self.choices(pool)
        pool.servers[1].change(weight=1)
        after = self.choices(pool)
        assert all(after[key] == name or name == "s1" for key, name in before.items())
        assert Counter(after.values())["s1"] < Counter(before.values())["s1"]

    def test_clients_are_shared_by_weight(self) -> None:
        counted = Counter(self.choices(self.pool(1, 2, 3, 4), 10_000).values())
        for n, share in enumerate((1000, 2000, 3000, 4000)):  # 64 to 256 points: deviations of 12 to 6 %
            assert abs(counted[f"s{n}"] - share) < 0.25 * share

    def test_a_full_server_s_clients_go_to_the_next(self) -> None:
        pool = Pool(servers(1, 1, 1, maxconn=1), algorithm("source", Generator().randrange))
        chosen = [server for _ in range(3) if (server := pool.choose(b"key")) and not pool.acquire(server)]
        assert set(chosen) == set(pool.servers)
        assert pool.choose(b"key") is None

    def test_without_an_address_clients_take_turns(self) -> None:
        assert picks(pool_of("source", 1, 1), 4) == ["s0", "s1", "s0", "s1"]


def test_the_key_of_a_client_is_its_packed_address() -> None:
    assert client_key("10.0.0.1") == b"\x0a\0\0\x01"
    assert client_key("2001:db8::1") == ip_address("2001:db8::1").packed


def test_an_ipv4_client_has_one_key_on_every_socket() -> None:
    assert client_key("::ffff:10.0.0.1") == client_key("10.0.0.1")


def test_what_is_not_an_address_has_no_key() -> None:
    with pytest.raises(ValueError, match="web1"):
        client_key("web1")


def test_an_algorithm_cannot_be_made_without_pick() -> None:
    with pytest.raises(TypeError, match="pick"):
        Algorithm(Generator().randrange)  # type: ignore[abstract]
