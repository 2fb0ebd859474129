"""The network between the nodes: a link to every other node in either direction, each of which can be cut.

Packets are lost with the probability `loss` and take a random time between the two `latency` limits, each on
its own, so that they overtake one another when the limits are far apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, TypeVar

from scaleup.sim.clock import VirtualClock

T = TypeVar("T")

LAN_LATENCY_SECONDS = (0.0002, 0.0002)


class Randomness(Protocol):
    """Where chance comes from: a `random.Random` with a seed."""

    def random(self) -> float: ...
    def uniform(self, a: float, b: float) -> float: ...
    def randint(self, a: int, b: int) -> int: ...
    def choice(self, seq: list[T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Datagram:
    data: bytes
    source: IPv4Address | IPv6Address


class Network:
    def __init__(self, clock: VirtualClock, randomness: Randomness) -> None:
        self._clock, self._randomness = clock, randomness
        self._nodes: dict[str, Callable[[Datagram], None]] = {}
        self._cut: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.latency = LAN_LATENCY_SECONDS
        self.slowest = LAN_LATENCY_SECONDS[1]
        """The longest time, in seconds, that any packet may have taken or still take."""

    def attach(self, name: str, receive: Callable[[Datagram], None]) -> None:
        self._nodes[name] = receive

    def send(self, sender: str, datagram: Datagram) -> None:
        """To every other node, as multicast does."""
        for name, receive in self._nodes.items():
            if name == sender or (sender, name) in self._cut:
                continue
            if self.loss and self._randomness.random() < self.loss:
                continue
            least, most = self.latency
            delay = least if least == most else self._randomness.uniform(least, most)
            self._clock.at(self._clock.now + delay, partial(receive, datagram))

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """In that direction only. What is under way still arrives."""
        receivers = tuple(receivers)
        self._cut.update((sender, receiver) for sender in senders for receiver in receivers)

    def isolate(self, name: str) -> None:
        others = [other for other in self._nodes if other != name]
        self.cut([name], others)
        self.cut(others, [name])

    def set_latency(self, least: float, most: float) -> None:
        self.latency = (least, most)
        self.slowest = max(self.slowest, most)

    def heal(self) -> None:
        """No cut, no loss, and as fast as at the start."""
        self._cut.clear()
        self.loss = 0.0
        self.latency = LAN_LATENCY_SECONDS
