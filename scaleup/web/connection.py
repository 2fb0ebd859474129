"""One client's connection: aiohttp's server protocol with its gaps closed.

head that does not end     `keepalive_timeout`, which aiohttp applies to it as well since 3.14.4
body that is malformed     told to whoever reads it; aiohttp would let it wait for ever
slow reader                aborted when it stays behind for `send_timeout`; aiohttp waits for ever
error, unread body         lingering close (RFC 9112 §9.6): a plain one would reset the connection,
                           and the reset can overtake the response that says what was wrong
drain                      aiohttp's own would stop reading the bodies of requests in progress
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import StreamReader
from aiohttp.http_writer import HttpVersion11
from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

MAX_TARGET_BYTES = 8 * 1024
"""Of a request line; more is answered 414."""
MAX_FIELD_BYTES = MAX_TARGET_BYTES + 1
"""Of one header field; more is answered 431. One more than a target may have, so that errors can be told apart."""
MAX_FIELDS = 100
LINGER_SECONDS = 1.0
"""How long a client may take to read an error; everything that it sends meanwhile is thrown away."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

Refuse = Callable[[BaseRequest, BaseException | None], StreamResponse]


class Connection(RequestHandler):
    """`refuse(request, error)`: the response to a request that could not be parsed."""

    __slots__ = ("_is_deaf", "_newest_body", "_refuse", "_send_timeout", "_stalled", "is_finishing")

    def __init__(self, manager: Server, *, refuse: Refuse, send_timeout: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._refuse, self._send_timeout = refuse, send_timeout
        self._stalled: asyncio.TimerHandle | None = None
        self._newest_body: StreamReader | None = None
        self._is_deaf = False
        self.is_finishing = False
        """The response in progress, or else the next one, is the last."""

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        super().data_received(data)
        if not self._messages:
            return
        newest, body = self._messages[-1]
        if not isinstance(newest, _ErrInfo):
            self._newest_body = body
            return
        self._is_deaf = True  # nothing that follows can be understood
        if self._newest_body is not None and not self._newest_body.is_eof():
            self._newest_body.set_exception(RequestPayloadError("malformed"))

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        request._version = HttpVersion11  # aiohttp puts 1.0 in place of what it could not parse
        return self._refuse(request, exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._loop.call_later(self._send_timeout, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._not_stalled()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._not_stalled()
        super().connection_lost(exc)

    def _not_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _abort(self) -> None:
        self._stalled = None
        reset(self.transport)

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        is_unread = not request.content.is_eof()
        if is_unread:
            resp.force_close()
        outcome = await super().finish_response(request, resp, start_time)
        if self.is_finishing:
            resp.force_close()  # its head may have gone out before we knew
        if not resp.keep_alive and (is_unread or resp.status >= 400):
            await self._linger()
        return outcome

    async def _linger(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._is_deaf = True
        with suppress(RuntimeError):  # it was not paused
            transport.resume_reading()
        transport.write_eof()
        await asyncio.sleep(LINGER_SECONDS)  # ended by connection_lost, which cancels us

    async def start(self) -> None:
        await super().start()
        transport = self.transport
        if self._stalled is None and transport is not None and transport.get_write_buffer_size():
            # Closing waits until all is sent. A client that takes nothing would keep the connection for ever.
            self._stalled = self._loop.call_later(self._send_timeout, self._abort)

    def finish(self) -> None:
        """We drain: close now if idle; otherwise the response in progress is the last one."""
        self.is_finishing = True
        if self._waiter is not None and not self._waiter.done():
            self.force_close()


def reset(transport: asyncio.Transport | None) -> None:
    """End a response that cannot be finished, so that nobody can take what came for all of it.

    It has to be a reset: a plain close is how a body without a length ends (RFC 9112 §6.3), and it is what
    `transport.abort()` alone would do.
    """
    if transport is not None:
        with suppress(OSError):  # closed already
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


class Listener(Server):
    """The protocol factory for `loop.create_server`. `options`: for Connection."""

    def __init__(self, handler: Callable[[BaseRequest], Awaitable[StreamResponse]], **options: Any) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._options = options
        self._open: set[RequestHandler] = set()
        self._all_closed = asyncio.Event()

    def __call__(self) -> RequestHandler:
        return Connection(
            self,
            loop=self._loop,
            access_log=None,
            auto_decompress=False,  # the body goes on as it came, with its Content-Encoding
            lingering_time=0.0,  # ours is better: it answers malformed bodies too
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
            read_bufsize=64 * 1024,  # twice as much is held of a body that the application has not taken
            **self._options,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open.add(handler)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open.discard(handler)
        if not self._open:
            self._all_closed.set()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    async def drain(self, seconds: float) -> int:
        """Close idle connections at once and busy ones after their responses; returns how many were cut off."""
        self._all_closed.clear()
        for connection in list(self._open):
            assert isinstance(connection, Connection)
            connection.finish()
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_closed.wait()
        left = len(self._open)
        await self.shutdown(timeout=0.1)
        return left
