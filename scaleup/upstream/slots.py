"""Which address has which slot ●: the servers of one name, of which a resolver finds now more, now fewer.

    found        an address that has a slot keeps it; one that has none gets the first that is free; one that is
                 not found any more leaves, after `hold_obsolete` seconds
    denied       there is no such name, or it has no addresses: all leave, after `hold_nx` seconds
    no answer    nothing happens, however long it lasts: the last good answer stands

Slots are keyed by address, as sessions, health and statistics belong to whoever is there: an answer in another
order, or with one address less, must not move the others. (HAProxy's issues 841, 1061 and 3400 are about what
happens otherwise.) Addresses without a slot wait for one; none is put out for them.

New addresses get slots in ascending order. So nodes that see the same answers from the beginning put the same
server into the same slot, as `balance source` would like it; their histories may part them later.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from scaleup.net.addresses import Endpoint


class Slots:
    """`addresses`: those that have a slot already, of each; None: it is free. `hold_…`: seconds.

    Call `expire` at the `deadline`. `now`: seconds on a clock that never jumps.
    """

    def __init__(self, addresses: Sequence[Endpoint | None], hold_obsolete: float, hold_nx: float) -> None:
        self.addresses = list(addresses)
        self._hold_obsolete, self._hold_nx = hold_obsolete, hold_nx
        self._found: set[Endpoint] = set()
        self._leaving: dict[Endpoint, float] = {}  # until when they are held

    @property
    def deadline(self) -> float:
        """When the next address leaves; inf: none does."""
        return min(self._leaving.values(), default=math.inf)

    @property
    def waiting(self) -> int:
        """Addresses that were found and have no slot."""
        return len(self._found - set(self.addresses))

    def found(self, now: float, addresses: Collection[Endpoint]) -> None:
        """These are its addresses, at least one."""
        self._found = set(addresses)
        self._hold(now + self._hold_obsolete)
        self.expire(now)

    def denied(self, now: float) -> None:
        """It has none, and that is no error."""
        self._found = set()
        self._hold(now + self._hold_nx)
        self.expire(now)

    def expire(self, now: float) -> None:
        for slot, address in enumerate(self.addresses):
            if address is not None and self._leaving.get(address, math.inf) <= now:
                del self._leaving[address]
                self.addresses[slot] = None
        new = iter(sorted(self._found - set(self.addresses), key=_order))
        for slot, address in enumerate(self.addresses):
            if address is None:
                self.addresses[slot] = next(new, None)

    def _hold(self, until: float) -> None:
        """Those that are not found any more, at most so long; who leaves already does not get more time."""
        leaving = [
            address for address in self.addresses if address is not None and address not in self._found
        ]
        self._leaving = {address: min(until, self._leaving.get(address, math.inf)) for address in leaving}


def _order(endpoint: Endpoint) -> tuple[int, bytes, int]:
    address = endpoint.address
    assert address is not None, "a resolver finds addresses"
    return address.version, address.packed, endpoint.port
