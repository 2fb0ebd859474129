"""Which server gets the next connection.

An algorithm sees only servers that may be chosen now (`pool` has left out the rest) and returns one of
them. It remembers at most a number for each server's name, so servers come and go without it being told,
and it asks for a server's load only when it wants to know: in the load balancer that is a sum over shared
memory.

    roundrobin  in turn, by weight, and smoothly: with weights 2 and 1 it is A B A, not A A B
    leastconn   the fewest sessions for its weight; roundrobin among equals
    random      two drawn by weight, the less loaded of them wins
    source      by the client's address: the same client, the same server, on every node alike

Why `random` when there is leastconn: choosers that do not see each other's choices (workers, nodes) all
send to the same least loaded server at once; two draws avoid that, and are almost as even
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Literal, Protocol, TypeVar, get_args

AlgorithmName = Literal["roundrobin", "leastconn", "random", "source"]


class Candidate(Protocol):
    """A server that may be chosen. `name`: different for each. `weight`: 1–256, its share."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class Algorithm(Protocol):
    """A way to choose."""

    def pick(self, candidates: Sequence[C], load: Callable[[C], int], key: bytes | None) -> C:
        """One of `candidates`, which are never none, of one configuration and always in its order.

        `load`: how many sessions a candidate has. `key`: who asks, see `client_key`; None: unknown.
        """
        ...


def algorithm(name: str, randrange: Callable[[int], int]) -> Algorithm:
    """A new instance of the algorithm called `name`. Raises ValueError that names the choices.

    `randrange(n)`: a random whole number, 0 ≤ it < n.
    """
    match name:
        case "roundrobin":
            return RoundRobin()
        case "leastconn":
            return LeastConn()
        case "random":
            return Random(randrange)
        case "source":
            return Source()
    raise ValueError(
        f"{name!r} is not a balance algorithm: choose one of {', '.join(get_args(AlgorithmName))}"
    )


def client_key(host: str) -> bytes:
    """The `key` of a client's IP address: 4 or 16 bytes. Raises ValueError when it is not an address.

    An IPv4 client seen through an IPv6 socket (::ffff:10.0.0.1) has the key of its IPv4 address.
    """
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed


class RoundRobin:
    """In turn, smoothly by weight.

    nginx's algorithm: each time, every candidate earns its weight; the richest is chosen, and pays what
    all of them earned. Over any (sum of weights) choices each is chosen exactly `weight` times, and never
    more than one ahead of its share in between. What is earned is frozen while a server is away, so it
    does not catch up in a burst.
    """

    def __init__(self) -> None:
        self._earned: dict[str, int] = {}

    def pick(self, candidates: Sequence[C], load: Callable[[C], int], key: bytes | None) -> C:
        earned = self._earned
        richest, most, total = candidates[0], -math.inf, 0
        for candidate in candidates:
            total += candidate.weight
            mine = earned.get(candidate.name, 0) + candidate.weight
            earned[candidate.name] = mine
            if mine > most:
                richest, most = candidate, mine
        earned[richest.name] -= total
        return richest


class LeastConn:
    """The fewest sessions for its weight; those that are equal take turns by weight, as in nginx."""

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def pick(self, candidates: Sequence[C], load: Callable[[C], int], key: bytes | None) -> C:
        # Equal fractions divide to equal floats: the quotient is rounded from the exact value.
        loads = [load(candidate) / candidate.weight for candidate in candidates]
        least = min(loads)
        tied = [candidate for candidate, its in zip(candidates, loads, strict=True) if its == least]
        return tied[0] if len(tied) == 1 else self._turns.pick(tied, load, key)


class Random:
    """Two different servers drawn by weight; of them the one with fewer sessions for its weight."""

    def __init__(self, randrange: Callable[[int], int]) -> None:
        self._randrange = randrange

    def pick(self, candidates: Sequence[C], load: Callable[[C], int], key: bytes | None) -> C:
        first = self._draw(candidates)
        rest = [candidate for candidate in candidates if candidate is not first]
        if not rest:
            return first
        second = self._draw(rest)
        # As fractions, multiplied out.
        lighter = load(second) * first.weight < load(first) * second.weight
        return second if lighter else first

    def _draw(self, candidates: Sequence[C]) -> C:
        mark = self._randrange(sum([candidate.weight for candidate in candidates]))
        for candidate in candidates:
            mark -= candidate.weight
            if mark < 0:
                return candidate
        raise AssertionError("randrange(n) returned n or more")


class Source:
    """By the client's address, and by nothing else that could differ between two nodes.

    Weighted rendezvous hashing: each server's name makes, with the client's key, a score that any node
    computes alike; the highest wins. A server that goes takes only its own clients with it: for the
    others the highest score is still there. When it returns, exactly they return. With u the hash as a
    number in (0, 1), weight / -ln(u) is highest with probability weight / sum of weights (Schindelhauer
    and Schomaker, 2005). The price is one hash per server, about 0.8 µs each; a ring would be quicker for
    hundreds of servers, but needs memory, rebuilding, and many points to be as even.

    A client without an address is served round robin, as HAProxy does.
    """

    # Part of every hash. A change of it, or of anything below, moves all clients.
    _SEED = b"scaleup.source/1"
    # 48 bits: with the half that keeps it off 0 and 1, still exact as a float.
    _HASH_BYTES = 6

    def __init__(self) -> None:
        self._turns = RoundRobin()
        self._hashes: dict[str, blake2b] = {}  # of the name; copied to go on with the key

    def pick(self, candidates: Sequence[C], load: Callable[[C], int], key: bytes | None) -> C:
        if key is None:
            return self._turns.pick(candidates, load, key)
        scores = [self._score(candidate, key) for candidate in candidates]
        return candidates[scores.index(max(scores))]

    def _score(self, candidate: Candidate, key: bytes) -> float:
        started = self._hashes.get(candidate.name)
        if started is None:
            started = blake2b(digest_size=self._HASH_BYTES, person=self._SEED)
            started.update(candidate.name.encode() + b"\0")
            self._hashes[candidate.name] = started
        hashed = started.copy()
        hashed.update(key)
        fraction = (int.from_bytes(hashed.digest()) + 0.5) / (1 << 8 * self._HASH_BYTES)
        return candidate.weight / -math.log(fraction)
