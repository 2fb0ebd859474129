"""Servers on real sockets for the tests of this folder."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from scaleup.net.addresses import Endpoint

SECONDS = 10.0
"""Nothing takes longer, unless it hangs."""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(
    handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    """A server; leaving the block waits until its handlers have ended by themselves, and its connections."""
    before = _sockets()
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0, ssl=tls)
    try:
        yield Endpoint(*server.sockets[0].getsockname()[:2])
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*handlers)
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                while _sockets() - before:  # noqa: ASYNC110  # transports close some turns of the loop later
                    await asyncio.sleep(0.001)


def _sockets() -> set[str]:
    """That this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listdir itself had open
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {what for what in found if what.startswith("socket:")}


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))
