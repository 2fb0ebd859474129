"""The made-up world: the clock and the network."""

from __future__ import annotations

from ipaddress import IPv4Address
from random import Random

import pytest

from scaleup.sim import clock as clock_module
from scaleup.sim.clock import VirtualClock
from scaleup.sim.network import LAN_LATENCY_SECONDS, Datagram, Network

SOURCE = IPv4Address("10.0.0.1")


class TestClock:
    def test_what_is_earlier_happens_earlier_and_first_come_first_served(self) -> None:
        clock, seen = VirtualClock(), list[tuple[float, str]]()
        for when, what in [(2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")]:
            clock.at(when, lambda what=what: seen.append((clock.now, what)))  # type: ignore[misc]
        clock.run_until(2.0)
        assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
        clock.run_until(2.5)
        assert clock.now == 2.5
        assert len(seen) == 3

    def test_an_event_can_make_another_one_of_the_same_time(self) -> None:
        clock, seen = VirtualClock(), list[float]()
        clock.at(1.0, lambda: clock.at(1.0, lambda: seen.append(clock.now)))
        clock.run_until(1.0)
        assert seen == [1.0]

    def test_time_does_not_go_back(self) -> None:
        clock = VirtualClock()
        clock.run_until(5.0)
        clock.run_until(3.0)
        assert clock.now == 5.0
        with pytest.raises(AssertionError, match="past"):
            clock.at(4.0, lambda: None)

    def test_a_storm_comes_to_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock_module, "MAX_EVENTS", 100)
        clock = VirtualClock()

        def again() -> None:
            clock.at(clock.now, again)

        again()
        with pytest.raises(RuntimeError, match="storm"):
            clock.run_until(1.0)


class World:
    def __init__(self, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.network = Network(self.clock, Random(seed))
        self.arrived: list[tuple[str, bytes, float]] = []
        for name in "abc":
            self.network.attach(name, lambda datagram, name=name: self._arrive(name, datagram))  # type: ignore[misc]

    def _arrive(self, name: str, datagram: Datagram) -> None:
        assert datagram.source == SOURCE
        self.arrived.append((name, datagram.data, self.clock.now))

    def send(self, sender: str, data: bytes = b"x") -> None:
        self.network.send(sender, Datagram(data, SOURCE))

    def receivers(self, sender: str) -> list[str]:
        """Who hears that sender now."""
        self.arrived.clear()
        self.send(sender)
        self.clock.run_until(self.clock.now + 10)
        return [name for name, _, _ in self.arrived]


class TestNetwork:
    def test_everybody_else_hears_it(self) -> None:
        world = World()
        assert [world.receivers(name) for name in "abc"] == [["b", "c"], ["a", "c"], ["a", "b"]]

    def test_it_takes_the_latency_of_a_lan(self) -> None:
        world = World()
        world.send("a")
        world.clock.run_until(1)
        assert world.arrived == [("b", b"x", LAN_LATENCY_SECONDS[0]), ("c", b"x", LAN_LATENCY_SECONDS[0])]

    def test_a_cut_has_a_direction(self) -> None:
        world = World()
        world.network.cut("a", "b")
        assert [world.receivers(name) for name in "abc"] == [["c"], ["a", "c"], ["a", "b"]]

    def test_isolated_is_cut_off_both_ways(self) -> None:
        world = World()
        world.network.isolate("a")
        assert [world.receivers(name) for name in "abc"] == [[], ["c"], ["b"]]

    def test_what_is_under_way_still_arrives(self) -> None:
        world = World()
        world.send("a")
        world.network.isolate("a")
        world.clock.run_until(1)
        assert len(world.arrived) == 2

    def test_loss_is_about_as_much_as_was_asked_for(self) -> None:
        world = World()
        world.network.loss = 0.3
        for _ in range(1000):
            world.send("a")
        world.clock.run_until(1)
        assert 1300 < len(world.arrived) < 1500

    def test_slow_packets_overtake_one_another(self) -> None:
        world = World()
        world.network.set_latency(0.1, 0.5)
        for number in range(100):
            world.send("a", bytes([number]))
        world.clock.run_until(1)
        assert all(0.1 <= when <= 0.5 for _, _, when in world.arrived)
        data = [data for _, data, _ in world.arrived]
        assert data != sorted(data)
        assert world.network.slowest == 0.5

    def test_healed_is_as_new_but_remembers_how_slow_it_was(self) -> None:
        world = World()
        world.network.isolate("a")
        world.network.loss = 1.0
        world.network.set_latency(0.1, 0.5)
        assert world.receivers("b") == []
        world.network.heal()
        assert world.receivers("a") == ["b", "c"]
        assert world.network.latency == LAN_LATENCY_SECONDS
        assert world.network.slowest == 0.5

    def test_the_seed_decides(self) -> None:
        def arrivals(seed: int) -> list[tuple[str, bytes, float]]:
            world = World(seed)
            world.network.loss = 0.5
            world.network.set_latency(0, 1)
            for _ in range(20):
                world.send("a")
            world.clock.run_until(1)
            return world.arrived

        assert arrivals(1) == arrivals(1) != arrivals(2)
