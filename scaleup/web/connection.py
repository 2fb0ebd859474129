"""One client's connection: requests in, responses out, in order, until either side has had enough.

head that does not end      closed, when `keepalive` has passed since its first byte
idle                        closed after `keepalive`
slow reader                 reset when it stays behind for `send_timeout`
error, unread body          lingering close (RFC 9112 §9.6): a plain one would reset the connection, and the
                            reset can overtake the response that says what was wrong
client that leaves          whoever answers is told by `on_gone`
drain                       the response in progress is the last one
many requests at once       others have their turns in between
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from scaleup.processes.tasks import Tasks
from scaleup.web.body import Body
from scaleup.web.framing import LAST_CHUNK, chunk, goes_on, has_body, request_length
from scaleup.web.problems import Problem
from scaleup.web.reply import Broken, Frame, Reply
from scaleup.web.stream import Stream
from scaleup.web.syntax import (
    END,
    MAX_HEAD_BYTES,
    RequestHead,
    SyntaxFault,
    read_request,
    refuse_beginning,
)

LINGER_SECONDS = 1.0
"""How long a client may take to read an error; everything that it sends meanwhile is thrown away."""
JOINED_BYTES = 64 * 1024
TURN = 16
"""Requests of one client that are answered in a row, when they have all arrived."""


@dataclass(slots=True)
class Request:
    """`peer`: the address at the other end of the connection."""

    head: RequestHead
    body: Body
    peer: str
    connection: Connection

    def named(self, name: bytes) -> bytes:
        """The value of a field by its lower-case name; empty when it is absent."""
        return self.head.named.get(name, b"")


Answer = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_body`: bytes; the others: seconds (see `settings`)."""

    max_body: int
    keepalive: float
    send_timeout: float
    body_timeout: float


class Connection(Stream):
    """`owner` answers, and counts."""

    def __init__(self, owner: Listener) -> None:
        super().__init__(owner.loop)
        self._owner, self._limits = owner, owner.limits
        self.is_finishing = False
        """The response in progress, or else the next one, is the last."""
        self.on_gone: Callable[[], object] | None = None
        """Called when the client leaves, while its request is answered."""
        self._is_idle = False
        self._is_sending = False
        self._asks_head = False  # perhaps in a request that is none
        self._in_a_row = 0
        self.peer = ""

    # ----- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peername = transport.get_extra_info("peername")
        self.peer = peername[0] if peername else ""
        self._owner.opened(self)

    def eof_received(self) -> bool:
        super().eof_received()
        self._gone()
        return True  # what it has asked for is answered

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._gone()
        self._owner.closed(self)

    def _gone(self) -> None:
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None

    # ----- requests and responses -----------------------------------------------------------------

    def finish(self) -> None:
        """We drain: close now if idle."""
        self.is_finishing = True
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
        except (TimeoutError, ConnectionError, Broken):
            self.reset()
        finally:
            if self._is_sending:
                self.reset()
            self.close()

    async def _serve_one(self) -> bool:
        """Whether there may be another one."""
        try:
            head = await self._next_head()
            if head is None:
                return False
            length = request_length(head)
        except SyntaxFault as fault:
            refusal = self._owner.refuse(self.peer, Problem(fault.status, str(fault), close=True))
            await self._send(refusal, "HEAD" if self._asks_head else "GET", is_http11=True, is_last=True)
            await self._linger()
            return False
        body = Body(
            self,
            length,
            limit=self._limits.max_body,
            grace=self._limits.body_timeout,
            # §10.1.1: an expectation in HTTP/1.0 is ignored
            is_awaited=head.is_http11 and b"expect" in head.named,
        )
        reply = await self._owner.answer(Request(head, body, self.peer, self))
        self.on_gone = None
        # RFC 9112 §6.3: without a length and without chunks, the end of the connection is the end of the body
        is_endless = not head.is_http11 and reply.length is None and has_body(head.method, reply.status)
        is_last = reply.close or self.is_finishing or is_endless or not goes_on(head) or not body.skip()
        try:
            await self._send(reply, head.method, is_http11=head.is_http11, is_last=is_last)
        finally:
            self._owner.answered(self, reply)
        if not is_last:
            return True
        if reply.status >= 400 or not body.is_complete:
            await self._linger()
        else:
            await self.flush(self.loop.time() + self._limits.send_timeout)
        return False

    async def _next_head(self) -> RequestHead | None:
        """None: the client has had enough, or takes too long. Raises SyntaxFault."""
        deadline, has_begun = self.loop.time() + self._limits.keepalive, False
        while True:
            data = self.received
            if data[:2] == b"\r\n":  # RFC 9112 §2.2: an empty line before the request line is ignored
                data = self.received = data.lstrip(b"\r\n")
            if data:
                self._asks_head = data.startswith(b"HEAD ")
                end = data.find(END, 0, MAX_HEAD_BYTES)
                if end >= 0:
                    return read_request(self.take(end + len(END)))
                refuse_beginning(data)
                if not has_begun:
                    has_begun = True
                    deadline = self.loop.time() + self._limits.keepalive
            elif self.is_finishing:
                return None
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
        try:
            head = reply.head(about)
            if not sends_body:
                self.write(head)
            elif source is None:
                self._write_both(head, reply.content)
            else:
                first, is_all = source.at_hand()
                self._write_both(head, _framed(first, frame, is_all))
                if not is_all:
                    await source.send(self, frame, seconds)
                    if frame is chunk:
                        self.write(LAST_CHUNK)
        finally:
            if source is not None:
                source.close()
        self._is_sending = False
        if not self._may_write:
            await self.drain(self.loop.time() + seconds)

    def _write_both(self, head: bytes, first: bytes) -> None:
        """To join what is small costs less than another system call."""
        if len(first) <= JOINED_BYTES:
            self.write(head + first)
        else:
            self.write(head)
            self.write(first)

    async def _linger(self) -> None:
        """Raises TimeoutError when the client does not take the response."""
        await self.flush(self.loop.time() + self._limits.send_timeout)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        deadline = self.loop.time() + LINGER_SECONDS
        with suppress(TimeoutError, ConnectionError):
            while await self.more(deadline):
                self.received = b""


def _framed(first: bytes, frame: Frame, is_all: bool) -> bytes:
    if frame is not chunk:
        return first
    begun = chunk(first) if first else b""  # an empty chunk would be the last one
    return begun + LAST_CHUNK if is_all else begun


def _as_it_is(piece: bytes) -> bytes:
    return piece


class Listener:
    """The protocol factory for `loop.create_server`, and what its connections have in common.

    `answer` raises nothing but CancelledError; `refuse` is the response to what is no request; `sent` is told of
    each response that has been sent, or not.
    """

    def __init__(
        self,
        limits: Limits,
        answer: Answer,
        refuse: Callable[[str, Problem], Reply],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits, self.answer, self.refuse = limits, answer, refuse
        self.open: set[Connection] = set()
        self._tasks = Tasks()
        self._all_closed = asyncio.Event()

    def __call__(self) -> Connection:
        return Connection(self)

    def opened(self, connection: Connection) -> None:
        self.open.add(connection)
        self._tasks.spawn(connection.serve(), name="client")

    def closed(self, connection: Connection) -> None:
        self.open.discard(connection)
        if not self.open:
            self._all_closed.set()

    def answered(self, connection: Connection, reply: Reply) -> None:
        """One response is sent, or was broken off."""

    async def drain(self, seconds: float) -> int:
        """Close idle connections at once and busy ones after their responses; returns how many were cut off."""
        self._all_closed.clear()
        for connection in list(self.open):
            connection.finish()
        if self.open:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_closed.wait()
        left = len(self.open)
        await self._tasks.cancel()
        return left
