"""The listening sockets of a tier with several workers: for each address one for each worker.

The parent opens them and keeps them open, so that a worker can die, and another one of a new configuration can take
its place, while clients wait in the kernel's queue. With SO_REUSEPORT the kernel spreads connections over the
sockets; those of workers that are no more go to the others, since to close one would reset who waits there.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, endpoint_of, is_ours, listening

log = logging.getLogger(__name__)


class Sockets:
    """`is_virtual`: such an address is bound, and another process lets its sockets listen.

    `free`: an address may be absent for now.
    """

    def __init__(
        self, is_virtual: Callable[[Endpoint], bool] = lambda endpoint: False, *, free: bool = False
    ) -> None:
        self._is_virtual, self._free = is_virtual, free
        self._sockets: dict[Endpoint, list[socket.socket]] = {}

    def open(self, endpoints: Iterable[Endpoint], workers: int) -> list[socket.socket]:
        """What is missing for so many workers; returns it. Raises StartupError, and then opens nothing.

        Port 0 becomes one that the kernel chooses, the same for all.
        """
        opened: dict[Endpoint, list[socket.socket]] = {}
        try:
            for endpoint in endpoints:
                opened[endpoint] = self._open(endpoint, workers)
        except BaseException:
            self.close(chain.from_iterable(opened.values()))
            raise
        for endpoint, sockets in opened.items():
            self._sockets.setdefault(endpoint, []).extend(sockets)
        return list(chain.from_iterable(opened.values()))

    def at(self, endpoint: Endpoint) -> Sequence[socket.socket]:
        """All that were opened for it."""
        return self._sockets.get(endpoint, ())

    def of_worker(self, endpoints: Iterable[Endpoint], row: int, workers: int) -> list[socket.socket]:
        return [sock for endpoint in endpoints for sock in self._sockets[endpoint][row::workers]]

    def leave(self, wanted: Container[Endpoint]) -> list[Endpoint]:
        """Close those for other addresses than these; returns where they are bound.

        Whoever was handed them has them still, and is to finish them. At once, and not when that is done: they will
        not listen any more then, and a reload that brings the address back would take them for open.
        """
        left = {endpoint: socks for endpoint, socks in self._sockets.items() if endpoint not in wanted}
        where = [endpoint_of(socks[0]) for socks in left.values()]
        self.close(chain.from_iterable(left.values()))
        return where

    def close(self, sockets: Iterable[socket.socket]) -> None:
        for sock in list(sockets):
            sock.close()
        for endpoint, ours in list(self._sockets.items()):
            self._sockets[endpoint] = [sock for sock in ours if sock.fileno() >= 0]
            if not self._sockets[endpoint]:
                del self._sockets[endpoint]

    def close_all(self) -> None:
        self.close(chain.from_iterable(list(self._sockets.values())))

    def _open(self, endpoint: Endpoint, workers: int) -> list[socket.socket]:
        known, virtual = self.at(endpoint), self._is_virtual(endpoint)
        where = endpoint
        if not virtual:
            where = endpoint_of(known[0]) if known else self._claim(endpoint)
        opening = bound if virtual else listening
        opened: list[socket.socket] = []
        try:
            for _ in range(len(known), workers):
                opened.append(opening(where, "--listen", reuse_port=True, free=self._free))
        except BaseException:
            self.close(opened)
            raise
        if not known:
            log.info("to listen on %s while Active" if virtual else "listening on %s", where)
            if self._free and not virtual and not is_ours(where):
                log.warning("no interface of this host has %s yet; will something bring it?", where.host)
        return opened

    def _claim(self, endpoint: Endpoint) -> Endpoint:
        """See that nobody else listens there, since SO_REUSEPORT would share it in silence with another process
        of the same user.
        """
        with bound(endpoint, "--listen", free=self._free) as sock:
            return endpoint_of(sock)
