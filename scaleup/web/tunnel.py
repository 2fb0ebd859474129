"""A connection that has become one of another protocol (RFC 9110 §7.8): bytes both ways, until both have ended.

Who has ended may still be listening, and may as well have left: only what is sent there tells. So the other one is
heard to its end, but need not be waited for as long as before; and what cannot be delivered to who has left takes
nothing away from that one's last words, which may still be on their way.
"""

from __future__ import annotations

import asyncio

from scaleup.web.stream import Stream

HALF_SECONDS = 30.0
"""How long nothing may move when one side has ended; what HAProxy calls `timeout client-fin`."""


class _Tunnel:
    def __init__(self, loop: asyncio.AbstractEventLoop, idle_seconds: float) -> None:
        self._loop, self._idle_seconds = loop, idle_seconds
        self._moved = loop.time()  # in either direction

    async def copy(self, source: Stream, to: Stream) -> None:
        while True:
            if source.received:
                self._moved = self._loop.time()
                try:
                    to.write(source.take(len(source.received)))
                    await to.drain(self._moved + self._idle_seconds)
                except ConnectionError:
                    if not to.is_at_end:
                        raise
                    break
            elif not await self._more(source):
                break
        to.write_eof()
        self._moved = self._loop.time()
        self._idle_seconds = min(self._idle_seconds, HALF_SECONDS)

    async def _more(self, source: Stream) -> bool:
        while True:
            now = self._loop.time()
            try:
                return await source.more(min(self._moved + self._idle_seconds, now + HALF_SECONDS))
            except TimeoutError:
                if self._moved + self._idle_seconds <= self._loop.time():
                    raise


async def tunnel(client: Stream, application: Stream, idle_seconds: float) -> None:
    """Raises TimeoutError when nothing has moved for so long, ConnectionError when either side was lost."""
    both = _Tunnel(client.loop, idle_seconds)
    application.stays_open = True
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(both.copy(client, application))
            group.create_task(both.copy(application, client))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
