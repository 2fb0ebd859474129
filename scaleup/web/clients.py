"""All clients of a worker: taken in, served, and sent away at the end.

    accept ──▶ (PROXY header) ──▶ within --source-maxconn? ──▶ (TLS handshake) ──▶ requests … ──▶ closed
       │                              no: 503, or a reset where TLS is spoken
       └ paused while there are --maxconn: the others wait in the kernel's queue

Each has one task, from accept to the end of what it asks; its socket counts until the transport has closed it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from socket import SocketType

from scaleup.net.addresses import Endpoint, is_in, unmapped
from scaleup.net.proxy_protocol import Refused
from scaleup.net.sockets import close_with_reset
from scaleup.processes.accept import Acceptor, Listener
from scaleup.processes.logs import LimitedLog
from scaleup.processes.tasks import Tasks
from scaleup.upstream.sources import Sources, source_of
from scaleup.web.connection import LINGER_SECONDS, Connection, Limits
from scaleup.web.greeting import GREETING_SECONDS, greeting
from scaleup.web.metrics import Metrics
from scaleup.web.problems import RETRY_AFTER, Problem
from scaleup.web.server import WebServer

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 5.0

Networks = Sequence[IPv4Network | IPv6Network]


@dataclass(frozen=True, slots=True)
class Admission:
    """`maxconn`: connections at a time; `source_maxconn`: of one address, 0 for no limit. `proxies`: who begins a
    connection with a PROXY header.
    """

    maxconn: int
    source_maxconn: int = 0
    proxies: Networks = ()


class Clients:
    """Made inside the running loop. `server` answers them."""

    def __init__(self, server: WebServer, limits: Limits, admission: Admission, metrics: Metrics) -> None:
        self._loop = asyncio.get_running_loop()
        self._server, self._limits, self._admission = server, limits, admission
        self._metrics = metrics
        self._open: dict[Connection, bytes | None] = {}  # and the source that each counts for
        self._sources = (
            Sources(admission.source_maxconn, rate=0, period=1.0) if admission.source_maxconn else None
        )
        self._acceptors: list[Acceptor] = []
        self._tasks = Tasks()
        self._none_left = asyncio.Event()
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)
        metrics.connections.set_function(lambda: len(self._open))
        metrics.limit.set(admission.maxconn)

    def accept(self, sockets: Sequence[socket.socket], context: ssl.SSLContext | None = None) -> None:
        """From these listening sockets, which are ours from now on; `context`: TLS is spoken there."""
        listeners = [Listener(sock, elected=False) for sock in sockets]
        acceptor = Acceptor(listeners, self._has_room, partial(self._accepted, context))
        self._acceptors.append(acceptor)
        acceptor.start(elected=False)

    async def drain(self, seconds: float) -> None:
        """Take those who wait and refuse further ones; what is asked may take so long, then all are cut off."""
        for acceptor in self._acceptors:
            acceptor.finish()
        await self._finish(seconds)

    async def retire(self, seconds: float, gone: Container[Endpoint]) -> None:
        """The same, but others accept from now on, except for the addresses that are `gone`."""
        for acceptor in self._acceptors:
            acceptor.leave(gone)
        await self._finish(seconds)

    async def _finish(self, seconds: float) -> None:
        self._none_left.clear()
        for connection in list(self._open):
            connection.finish()
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._none_left.wait()
        if self._open:
            log.warning("%d connections were still busy after %g s and are cut off", len(self._open), seconds)
        await self._tasks.cancel()
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    # ----- one client -----------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return len(self._open) < self._admission.maxconn

    def _accepted(
        self, context: ssl.SSLContext | None, sock: SocketType, host: str, port: int, elected: bool
    ) -> None:
        connection = Connection(self._server, self._limits, host, self._closed, is_plain=context is None)
        self._open[connection] = None
        # uvloop closes twice what is not a socket.socket.
        ours = socket.socket(sock.family, socket.SOCK_STREAM, 0, sock.detach())
        self._tasks.spawn(self._serve(connection, ours, context), name="client")

    async def _serve(
        self, connection: Connection, sock: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        try:
            if self._admission.proxies and is_in(connection.peer, self._admission.proxies):
                header = await greeting(sock, min(GREETING_SECONDS, self._limits.keepalive))
                if header.source is not None:
                    connection.peer = unmapped(header.source.host)
            if self._sources is not None and not self._admit(connection, self._sources):
                return await self._turn_away(sock, context)
            await self._begin(connection, sock, context)
        except Refused as refused:
            self._metrics.refused(f"proxy_{refused.cause}")
            self._limited.warning(refused.cause, f"{connection.peer}: no PROXY header: {refused}")
        except OSError as error:
            self._metrics.refused("tls" if context is not None else "reset")
            log.debug("%s: %s", connection.peer, error)
        else:
            await connection.serve()
        finally:
            if not connection.was_connected:
                sock.close()
                self._closed(connection)
        return None

    async def _begin(
        self, connection: Connection, sock: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        """Raises OSError when there is no TLS handshake, or none in time."""
        if context is None:
            connection.socket = sock
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        else:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=context,
                ssl_handshake_timeout=self._limits.keepalive,
                ssl_shutdown_timeout=self._limits.send_timeout,
            )

    def _admit(self, connection: Connection, sources: Sources) -> bool:
        source = source_of(connection.peer)
        if refusal := sources.enter(source, self._loop.time()):
            self._metrics.refused("source_maxconn")
            self._limited.warning("source", f"{connection.peer} is refused: {refusal}")
            return False
        self._open[connection] = source
        return True

    async def _turn_away(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        if context is not None:  # to say it would take a handshake
            close_with_reset(sock)
            return
        problem = Problem(503, "You have too many connections; close some.", fields=[RETRY_AFTER], close=True)
        refusal = self._server.refuse("", problem)
        with suppress(OSError, TimeoutError):
            sock.send(refusal.head(b"Connection: close\r\n") + refusal.content)
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._loop.sock_recv(sock, 4096):
                    pass

    def _closed(self, connection: Connection) -> None:
        source = self._open.pop(connection, None)
        if source is not None and self._sources is not None:
            self._sources.leave(source)
        for acceptor in self._acceptors:
            acceptor.resume()
        if not self._open:
            self._none_left.set()
