"""Reaching a server for a client: choose, connect, retry, redispatch.

A failed attempt is followed by at most `retries` more. Every `redispatch`-th of them goes to another
server at once, if there is one that was not tried; the others go to the same server, after a pause (HAProxy's:
one second at most), in case it is only restarting. Nothing has been sent yet, so trying again is always safe.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

from scaleup.lb.counters import Counters, ServerColumn
from scaleup.lb.settings import LbSettings
from scaleup.lb.waiting import WaitingRoom
from scaleup.net.sockets import connect, dialling, resolve
from scaleup.upstream.pool import Pool, Server

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # HAProxy's pause before the same server is tried again


class NoServer(Exception):
    """No server could be reached. `args[0]`: why, for the log."""


@dataclass(slots=True)
class Reached:
    """A connected, non-blocking socket; `server` counts the session until `Dialler.release`."""

    server: Server
    socket: socket.socket


class Dialler:
    """Dials for one worker, whose row of the counters is `row`."""

    def __init__(
        self, settings: LbSettings, pool: Pool, counters: Counters, row: int, waiting: WaitingRoom
    ) -> None:
        self._settings, self._pool = settings, pool
        self._counters, self._row, self._waiting = counters, row, waiting
        self._index = {id(server): index for index, server in enumerate(pool.servers)}
        self._source = str(settings.source) if settings.source else None

    async def reach(self, key: bytes) -> Reached:
        """Connect to the server for the client `key` (its packed address). Raises NoServer."""
        server = await self._choose(key)
        tried: set[str] = set()
        for attempt in range(self._settings.retries + 1):
            if attempt:
                server = await self._next(server, tried, attempt, key)
            self._acquire(server)
            try:
                return Reached(server, await self._connect(server))
            except OSError as error:
                self.release(server)
                self.count(server, ServerColumn.CONNECT_ERRORS)
                tried.add(server.name)
                failure = f"{server.name}: {error.strerror or 'timed out'}"
                log.debug("cannot connect to %s", failure)
            except BaseException:
                self.release(server)
                raise
        raise NoServer(failure)

    def count(self, server: Server, column: ServerColumn, amount: int = 1) -> None:
        self._counters.add_server(self._row, self._index[id(server)], column, amount)

    def release(self, server: Server) -> None:
        """The session with `server` has ended: its slot is free."""
        self._pool.release(server)
        self.count(server, ServerColumn.CURRENT, -1)
        self._waiting.slot_freed()

    def _acquire(self, server: Server) -> None:
        self._pool.acquire(server)
        self.count(server, ServerColumn.CURRENT)

    async def _choose(self, key: bytes) -> Server:
        if not self._pool.any_up():
            raise NoServer("no server is up")
        server = await self._waiting.slot(lambda: self._pool.choose(key))
        if server is None:
            raise NoServer("every server is full")
        return server

    async def _next(self, server: Server, tried: set[str], attempt: int, key: bytes) -> Server:
        """Where the attempt goes after one to `server` has failed."""
        if self._is_redispatched(attempt):
            another = self._pool.choose(key, exclude=tried)
            if another is not None:
                self.count(server, ServerColumn.REDISPATCHES)
                return another
        self.count(server, ServerColumn.RETRIES)
        await asyncio.sleep(min(PAUSE_SECONDS, self._settings.timeout_connect))
        others = {other.name for other in self._pool.servers if other is not server}
        return self._pool.choose(key, exclude=others) or await self._choose(key)

    def _is_redispatched(self, attempt: int) -> bool:
        every = self._settings.redispatch
        if every < 0:
            return attempt == self._settings.retries
        return every > 0 and attempt % every == 0

    async def _connect(self, server: Server) -> socket.socket:
        """Raises OSError when the server cannot be reached, NoServer when we cannot even try."""
        async with asyncio.timeout(self._settings.timeout_connect):
            address = await resolve(server.endpoint)
            try:
                sock = dialling(address, self._source)
            except OSError as error:  # no descriptor left, or --source is not ours: no server's fault
                raise NoServer(f"cannot dial: {error.strerror}") from None
            try:
                await connect(sock, address)
            except BaseException:
                sock.close()
                raise
        return sock
