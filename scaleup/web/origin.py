"""Connections to one application server: opened, kept while idle, never kept for longer than the application does.

Idle connections are closed after `keepalive`, which has to be shorter than the application's own, so that it is
we who close. Still, the application may close one at the very moment when a request is sent on it, and nobody can
tell then whether that request was processed: see `forward` for which ones may be sent on a used connection.
"""

from __future__ import annotations

import asyncio
from collections import deque

from scaleup.upstream.pool import Server
from scaleup.web.stream import Stream

MAX_IDLE = 64
"""For each server: what a burst has opened is closed when it is over."""


class Origin:
    """`keepalive`: seconds. Made inside the running loop; to be closed.

    Connections end by `abort`, not `close`: that would wait, for ever, for an application that has answered early
    to take the rest of a request.
    """

    def __init__(self, server: Server, keepalive: float) -> None:
        self._server, self._keepalive = server, keepalive
        self._loop = asyncio.get_running_loop()
        self._idle: deque[tuple[Stream, float]] = deque()  # the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def reuse(self) -> Stream | None:
        """The one that was used last; None: there is none."""
        while self._idle:
            connection, _ = self._idle.pop()
            if _is_good(connection):
                return connection
            connection.abort()
        return None

    async def connect(self, seconds: float) -> Stream:
        """Raises TimeoutError, OSError."""
        endpoint = self._server.endpoint
        if endpoint is None:
            raise OSError("its address is not known")
        async with asyncio.timeout(seconds):
            _, connection = await self._loop.create_connection(
                lambda: Stream(self._loop), endpoint.host, endpoint.port
            )
        return connection

    def keep(self, connection: Stream, *, had_body: bool) -> None:
        """For another request, if it may be: it was used to the end, and nothing of the request is left on it."""
        if not _is_good(connection) or connection.has_unsent or (had_body and connection.has_untaken):
            connection.abort()
            return
        connection.read_on()
        self._idle.append((connection, self._loop.time() + self._keepalive))
        if len(self._idle) > MAX_IDLE:
            self._idle.popleft()[0].abort()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keepalive, self._expire)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.pop()[0].abort()

    def _expire(self) -> None:
        now = self._loop.time()
        while self._idle and self._idle[0][1] <= now:
            self._idle.popleft()[0].abort()
        self._timer = self._loop.call_at(self._idle[0][1], self._expire) if self._idle else None


def _is_good(connection: Stream) -> bool:
    """Whether a request may be sent on it; what came unasked is nobody's response."""
    return not (connection.received or connection.is_at_end or connection.is_lost)
