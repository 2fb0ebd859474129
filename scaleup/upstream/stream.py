"""The two ways in which a check can speak on its connection: as it is, or inside TLS.

Both drive a connected, non-blocking socket with the loop's sock_… calls (see `probe` for why) and leave it the
caller's. Every call can raise OSError, of which ssl.SSLError is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from socket import socket
from typing import Protocol, TypeVar

from scaleup.upstream.healthcheck import Tls

RECORD_BYTES = 16_384
"""RFC 8446 §5.1: the most that a record holds."""

T = TypeVar("T")


class Stream(Protocol):
    async def send(self, data: bytes) -> None: ...

    async def receive(self, most: int) -> bytes:
        """Up to so many bytes; none: the server has ended."""

    async def end(self) -> None:
        """Nothing more will be sent."""


class Plain:
    def __init__(self, connection: socket) -> None:
        self._socket, self._loop = connection, asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self, most: int) -> bytes:
        return await self._loop.sock_recv(self._socket, most)

    async def end(self) -> None:
        """It is said by closing the socket."""


class Secure:
    """TLS: call `shake_hands` first. `name`: the host name or address whose certificate it should be."""

    def __init__(self, connection: socket, context: ssl.SSLContext, name: str) -> None:
        self._plain = Plain(connection)
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._received,
            self._to_send,
            server_hostname=name.removesuffix("."),  # RFC 6066 §3
        )

    async def shake_hands(self) -> str:
        """The version that was agreed on: "TLSv1.3"."""
        await self._until_done(self._tls.do_handshake)
        return self._tls.version() or ""

    async def send(self, data: bytes) -> None:
        await self._until_done(lambda: self._tls.write(data))

    async def receive(self, most: int) -> bytes:
        try:
            return await self._until_done(lambda: self._tls.read(most))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # with a close_notify, or without
            return b""

    async def end(self) -> None:
        """With a close_notify; the server's own is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    async def _until_done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._flush()
                if more := await self._plain.receive(RECORD_BYTES):
                    self._received.write(more)
                else:
                    self._received.write_eof()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert that tells the server why
                raise
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        if self._to_send.pending:
            await self._plain.send(self._to_send.read())


def context_of(tls: Tls) -> ssl.SSLContext:
    """Costs a few milliseconds: once for all checks. Raises OSError for a ca_file that cannot be used."""
    if not tls.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=tls.ca_file)
    # Python 3.13 has become stricter with authorities than HAProxy or curl are: private ones lack extensions.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
