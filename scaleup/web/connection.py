"""One client's connection: requests in, responses out, in order, until either side has had enough.

head that does not end      closed, when `keepalive` has passed since its first byte
idle                        closed after `keepalive`
slow reader                 reset when it stays behind for `send_timeout`
error, unread bytes         lingering close (RFC 9112 §9.6): a plain one would reset the connection, and the
                            reset can overtake the response
client that leaves          whoever answers is told by `on_gone`
drain                       the response in progress is the last one; a client that has asked for nothing yet may
                            have been accepted just now, and gets a moment for it
many requests at once       others have their turns in between
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from scaleup.net.sockets import outstanding
from scaleup.web.access_log import Upstream
from scaleup.web.body import Body
from scaleup.web.framing import chunk, goes_on, has_body, last_chunk, request_length
from scaleup.web.problems import Problem
from scaleup.web.reply import Broken, Reply
from scaleup.web.stream import PIECE_BYTES, Stream
from scaleup.web.syntax import (
    END,
    MAX_HEAD_BYTES,
    MAX_LINE_BYTES,
    RequestHead,
    SyntaxFault,
    read_request,
    refuse_beginning,
)

LINGER_SECONDS = 1.0
"""How long a client may take to read an error; everything that it sends meanwhile is thrown away."""
AGAIN_SECONDS = 0.1
"""Between two looks at whether all has arrived, when it seems so."""
FRESH_SECONDS = 1.0
"""How long a client that has been accepted may take to ask, when we drain."""
HSTS = b"\nstrict-transport-security:"
_EMPTY_LINES = re.compile(rb"(?:\r\n)++")
JOINED_BYTES = 4096
"""So much of a body is copied behind its head, which costs less than to send two things."""
TURN = 16
"""Requests of one client that are answered in a row, when they have all arrived."""


@dataclass(slots=True)
class Request:
    """`peer`: the client's address, as far as we know. `came`: when its head was whole, by the loop's clock.

    `request_id`, `upstream`: what became of it when it was forwarded, for the access log.
    """

    head: RequestHead
    body: Body
    peer: str
    connection: Connection
    came: float
    request_id: bytes = b""
    upstream: Upstream | None = None

    def named(self, name: bytes) -> bytes:
        """The value of a field by its lower-case name; empty when it is absent."""
        return self.head.named.get(name, b"")


class Server(Protocol):
    """Who answers."""

    async def answer(self, request: Request) -> Reply:
        """Raises nothing but CancelledError."""
        ...

    def refuse(self, peer: str, problem: Problem) -> Reply:
        """What came is no request."""
        ...

    def sent(self, request: Request, reply: Reply, status: int, count: int) -> None:
        """How it ended: 499 when the client did not take it all, 502 when it could not be finished.

        `count`: bytes of the body that were sent.
        """
        ...

    def refused(self, connection: Connection, line: bytes, reply: Reply, count: int) -> None:
        """So ended what was no request. `line`: as far as it has one."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_body`: bytes; `hsts`: seconds for which a client that came by TLS shall come by nothing else, 0: it is
    not told; the others: seconds (see `settings`).
    """

    max_body: int
    keepalive: float
    send_timeout: float
    body_timeout: float
    hsts: int = 0


class Connection(Stream):
    """`server` answers. `peer`: the client's address. `on_closed`: told when the transport is no more."""

    def __init__(
        self,
        server: Server,
        limits: Limits,
        peer: str,
        on_closed: Callable[[Connection], None],
        *,
        is_plain: bool,
    ) -> None:
        super().__init__(asyncio.get_running_loop())
        self._server, self._limits, self.peer, self._on_closed = server, limits, peer, on_closed
        self.is_plain = is_plain
        self._secure = b""
        if limits.hsts and not is_plain:
            self._secure = b"Strict-Transport-Security: max-age=%d\r\n" % limits.hsts
        self.was_connected = False
        self.is_finishing = False
        """The response in progress, or else the next one, is the last."""
        self.on_gone: Callable[[], object] | None = None
        """Called when the client leaves, while its request is answered, or the answer comes from a source."""
        self._is_idle = False
        self._has_served = False
        self._is_sending = False
        self._in_a_row = 0
        self._body_begins = 0  # of what was written

    # ----- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.was_connected = True

    def eof_received(self) -> bool:
        super().eof_received()
        self._gone()
        # It may be reading still, and files are sent to it. What an application would only be read for is given up,
        # as nginx does: it may as well have left. TLS has no half-close in asyncio.
        return self.is_plain

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._gone()
        self._on_closed(self)

    def _gone(self) -> None:
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None

    # ----- requests and responses -----------------------------------------------------------------

    def finish(self) -> None:
        """We drain: close now if idle."""
        self.is_finishing = True
        if self._has_served:
            self._close_if_idle()
        else:
            self.loop.call_later(FRESH_SECONDS, self._close_if_idle)

    def close(self) -> None:
        """In TLS, the transport waits for the client to say goodbye as well; many never do."""
        super().close()
        if not self.is_plain:
            self.loop.call_later(LINGER_SECONDS, self._leave)

    def _leave(self, was_empty: bool = False) -> None:
        """When all has arrived; `ssl_shutdown_timeout` bounds the wait for it.

        The transport below TLS may have more than it has given to the kernel yet, and cannot be asked: it would
        have given it until the second look.
        """
        sock = None if self.is_lost else self.transport.get_extra_info("socket")
        if sock is None:
            return
        is_empty = not outstanding(sock.fileno())
        if is_empty and was_empty:
            self.abort()
        else:
            self.loop.call_later(AGAIN_SECONDS if is_empty else LINGER_SECONDS, self._leave, is_empty)

    def _close_if_idle(self) -> None:
        if self._is_idle:
            self.close()

    async def serve(self) -> None:
        """Until the end of the connection. Raises nothing but CancelledError."""
        try:
            while await self._serve_one():
                self._in_a_row += 1
                if self._in_a_row == TURN:
                    self._in_a_row = 0
                    await asyncio.sleep(0)
            await self.flush(self.loop.time() + self._limits.send_timeout)
        except (OSError, Broken):  # TimeoutError and ConnectionError among them
            self.reset()
        finally:
            # Also when it was cancelled behind a response that the client does not take: a plain close would wait
            # for it without end, or be the end of a body that has no other.
            if self._is_sending or self.has_unsent:
                self.reset()
            self.close()

    async def _serve_one(self) -> bool:
        """Whether there may be another one."""
        head = None
        try:
            head = await self._next_head()
            if head is None:
                return False
            length = request_length(head)
        except SyntaxFault as fault:
            # What is no request may have no end of a line in all that was read ahead.
            line = head.line() if head else self.received[:MAX_LINE_BYTES].partition(b"\r\n")[0]
            method = "HEAD" if line.startswith(b"HEAD ") else "GET"  # perhaps
            refusal = self._server.refuse(self.peer, Problem(fault.status, str(fault), close=True))
            try:
                await self._send(refusal, method, is_http11=True, is_last=True)
            finally:
                self._server.refused(self, line, refusal, self.written - self._body_begins)
            await self._linger()
            return False
        self._has_served = True
        body = Body(
            self,
            length,
            limit=self._limits.max_body,
            grace=self._limits.body_timeout,
            # §10.1.1: an expectation in HTTP/1.0 is ignored
            is_awaited=head.is_http11 and b"expect" in head.named,
        )
        request = Request(head, body, self.peer, self, self.loop.time())
        reply = await self._server.answer(request)
        if reply.source is None:
            self.on_gone = None
        # RFC 9112 §6.3: without a length and without chunks, the end of the connection is the end of the body
        is_endless = not head.is_http11 and reply.length is None and has_body(head.method, reply.status)
        is_last = reply.close or self.is_finishing or is_endless or not goes_on(head) or not body.skip()
        before = self.written
        try:
            await self._send(reply, head.method, is_http11=head.is_http11, is_last=is_last)
        except Broken as broken:
            nothing_went = self.take_back(before)
            self._sent(request, reply, broken.status)
            if not nothing_went:
                raise
            refusal = self._server.refuse(
                self.peer, Problem(broken.status, "The response broke off as it began.", close=True)
            )
            await self._send(refusal, head.method, is_http11=head.is_http11, is_last=True)
            await self._linger()
            return False
        except (OSError, asyncio.CancelledError) as error:
            has_left = isinstance(error, OSError) or self.is_at_end or self.is_lost
            self._sent(request, reply, 499 if has_left else 502)  # or a drain has cut it off
            raise
        finally:
            self.on_gone = None
        self._sent(request, reply, reply.status)
        if is_last:
            is_more_to_come = self.received or not body.is_complete
            if is_more_to_come or reply.status >= 400 or reply.status == 101:
                await self._linger()
        return not is_last

    def _sent(self, request: Request, reply: Reply, status: int) -> None:
        self._server.sent(request, reply, status, max(0, self.written - self._body_begins))

    async def _next_head(self) -> RequestHead | None:
        """None: the client has had enough, or takes too long. Raises SyntaxFault."""
        deadline, has_begun = self.loop.time() + self._limits.keepalive, False
        while True:
            data = self.received
            if data.startswith(b"\r") and (empty := _EMPTY_LINES.match(data)):
                # RFC 9112 §2.2: before a request line they are ignored
                data = self.received = data[empty.end() :]
            if data == b"\r":
                pass
            elif data:
                end = data.find(END, 0, MAX_HEAD_BYTES)
                if end >= 0:
                    head = self.take(end + len(END))
                    try:
                        return read_request(head)
                    except SyntaxFault:
                        self.received = head + self.received  # it is told of
                        raise
                refuse_beginning(data)
                if not has_begun:
                    has_begun = True
                    deadline = self.loop.time() + self._limits.keepalive
            elif self.is_finishing:
                if self._has_served:
                    return None
                deadline = min(deadline, self.loop.time() + FRESH_SECONDS)
            self._in_a_row = 0
            self._is_idle = not data
            try:
                if not await self.more(deadline):
                    return None
            except (TimeoutError, ConnectionError):
                return None
            finally:
                self._is_idle = False

    async def _send(self, reply: Reply, method: str, *, is_http11: bool, is_last: bool) -> None:
        """Raises TimeoutError and ConnectionError for the client, Broken for the source."""
        self._is_sending = True
        source, seconds = reply.source, self._limits.send_timeout
        sends_body, frame, about = True, _as_it_is, b""
        if reply.status != 101:  # after which comes another protocol
            sends_body = has_body(method, reply.status)
            if is_last:
                about = b"Connection: close\r\n"
            elif not is_http11:
                about = b"Connection: keep-alive\r\n"
            if sends_body and reply.length is None and is_http11:
                frame, about = chunk, about + b"Transfer-Encoding: chunked\r\n"
            if self._secure and HSTS not in b"\n" + reply.lines.lower():  # an application's own stays
                about += self._secure
        try:
            head = reply.head(about)
            self._body_begins = self.written + len(head)
            if self.is_at_end and not self.is_plain:  # nothing that is written goes anywhere
                raise ConnectionResetError("the client has left")
            first, is_all = reply.content, True
            if not sends_body:
                first = b""
            elif source is not None:
                first, is_all = source.at_hand()
            if first:  # an empty chunk would be the last one
                first = frame(first)
            if len(first) > PIECE_BYTES:
                self.write(head)
                await self.send(first, seconds)
            elif len(first) > JOINED_BYTES:
                self.write(head)
                self.write(first)
            else:
                self.write(head + first)
            if source is not None and not is_all:
                await source.send(self, frame, seconds)
            if frame is chunk:
                self.write(last_chunk(source.trailers() if source is not None else b""))
        finally:
            if source is not None:
                source.close()
        self._is_sending = False
        if not self._may_write:
            await self.drain(self.loop.time() + seconds)

    async def _linger(self) -> None:
        """Raises TimeoutError when the client does not take the response."""
        await self.flush(self.loop.time() + self._limits.send_timeout)
        self.write_eof()
        deadline = self.loop.time() + LINGER_SECONDS
        with suppress(TimeoutError, ConnectionError):
            while await self.more(deadline):
                self.received = b""


def _as_it_is(piece: bytes) -> bytes:
    return piece
