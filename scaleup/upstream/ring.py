"""source ●: by the client's address, and by nothing else that could differ between two nodes.

Consistent hashing (Karger and others, 1997), HAProxy's `hash-type consistent`: each server has points on a
ring, which are hashes of its name; a client is hashed to a place on the ring, and the next point's server
serves it. Any node computes the same ring, so clients stay where they are when another node takes over.

    a server goes     its points are passed over: its clients, and no others, go to the next points
    it returns        exactly they return
    half its weight   half of its points are passed over

So the ring is built once, of all servers, and nothing is rebuilt when they come and go. A choice is one
hash and a binary search. The heaviest server has POINTS points and the others fewer, in proportion: how
evenly clients are shared depends on their number, with a deviation of 1 / √points.

A client without an address is served round robin, as HAProxy does.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Sequence
from hashlib import blake2b

from scaleup.upstream.algorithm import Algorithm, Load, is_free
from scaleup.upstream.server import FULL_THROTTLE, Server
from scaleup.upstream.turns import RoundRobin

POINTS = 256
"""Of the heaviest server: shares within 6 %. With 1,000 servers the ring takes 3.6 MB in each worker."""

_SEED = b"scaleup.source/2"
"""Part of every hash. A change of it, of POINTS, or of anything below moves all clients."""

_EIGHT = struct.Struct("!8Q")  # a digest of 64 bytes holds so many points


class Source(Algorithm):
    """The same client, the same server, on every node alike."""

    needs_key = True

    def __init__(self, randrange: Callable[[int], int]) -> None:
        super().__init__(randrange)
        self._turns = RoundRobin(randrange)
        self._all: Sequence[Server] = ()
        self._places = array("Q")  # of the points on the ring, ascending
        self._owners = array("I")  # of each of them, an index of _all
        self._ordinals = array("H")  # of each of them, which one of its server it is
        self._active: list[int] = []  # how many points each of _all has now
        self._heaviest = 1

    def prepare(self, servers: Sequence[Server]) -> None:
        self._all = servers
        ring = sorted(
            (place << 48) | (owner << 16) | ordinal
            for owner, server in enumerate(servers)
            for ordinal, place in enumerate(_points(server.name))
        )
        self._places = array("Q", [point >> 48 for point in ring])
        self._owners = array("I", [point >> 16 & 0xFFFF_FFFF for point in ring])
        self._ordinals = array("H", [point & 0xFFFF for point in ring])

    def servers_changed(self, servers: Sequence[Server]) -> None:
        super().servers_changed(servers)
        self._turns.servers_changed(servers)
        # Of all servers, down or not, lest clients move when the heaviest goes.
        self._heaviest = max([server.weight for server in self._all], default=0) * FULL_THROTTLE or 1
        usable = set(servers)
        self._active = [
            -(-POINTS * server.share // self._heaviest) if server in usable else 0 for server in self._all
        ]

    def pick(self, load: Load, key: bytes | None, exclude: Container[str]) -> Server | None:
        if key is None:
            return self._turns.pick(load, key, exclude)
        owners, ordinals, active = self._owners, self._ordinals, self._active
        place = int.from_bytes(blake2b(key, digest_size=8, person=_SEED).digest())
        at = bisect_left(self._places, place) - len(owners)  # from the end: the ring goes round at 0
        refused: set[int] = set()
        while len(refused) < len(self.servers):
            owner = owners[at]
            if ordinals[at] < active[owner] and owner not in refused:
                server = self._all[owner]
                if is_free(server, load, exclude):
                    return server
                refused.add(owner)
            at += 1
            if at == len(owners):
                at = 0
        return None


def _points(name: str) -> list[int]:
    """The places of a server's points: 64 bits each. The first of them are those of a lighter server."""
    points: list[int] = []
    for block in range(POINTS // 8):
        text = name.encode() + b"\0" + block.to_bytes(2)
        points += _EIGHT.unpack(blake2b(text, person=_SEED).digest())
    return points
