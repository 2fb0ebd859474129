"""A connection that has become one of another protocol (RFC 9110 §7.8): bytes both ways, until both have ended."""

from __future__ import annotations

import asyncio

from scaleup.web.stream import Stream


class _Tunnel:
    def __init__(self, loop: asyncio.AbstractEventLoop, idle_seconds: float) -> None:
        self._loop, self._idle_seconds = loop, idle_seconds
        self._moved = loop.time()  # in either direction

    async def copy(self, source: Stream, to: Stream) -> None:
        while True:
            if source.received:
                self._moved = self._loop.time()
                to.write(source.take(len(source.received)))
                await to.drain(self._moved + self._idle_seconds)
            elif not await self._more(source):
                break
        if not to.is_lost and to.transport.can_write_eof():
            to.transport.write_eof()

    async def _more(self, source: Stream) -> bool:
        while True:
            try:
                return await source.more(self._moved + self._idle_seconds)
            except TimeoutError:
                if self._moved + self._idle_seconds <= self._loop.time():
                    raise


async def tunnel(client: Stream, application: Stream, idle_seconds: float) -> None:
    """Raises TimeoutError when nothing has moved for so long, ConnectionError when either side was lost."""
    both = _Tunnel(client.loop, idle_seconds)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(both.copy(client, application))
            group.create_task(both.copy(application, client))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
