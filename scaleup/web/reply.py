"""A response whose head is ours to the byte.

aiohttp's own would name its version in Server, invent a Content-Type, write every value anew in UTF-8
(which loses other bytes) and answer a request that it could not parse as HTTP/1.0. So a Reply says its
head itself; the body still goes through aiohttp's writer, which chunks it and waits for slow clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web import BaseRequest, StreamResponse
from aiohttp.web_response import REASON_PHRASES

from scaleup.web.connection import Connection
from scaleup.web.headers import Field, head, members_of, value_of
from scaleup.web.problems import Problem

SERVER: Final = (b"Server", b"scaleup")  # without a version: it would help only attackers


class Reply(StreamResponse):
    """Return one from a handler, with its `body`; or `prepare` it, `write` in pieces, and return it.

    `fields`: without Content-Length, Transfer-Encoding, Connection, Server; Date is added when it is absent.
    `length`: of the body in bytes, None when only its end tells; for HEAD, what GET would send.
    """

    def __init__(
        self,
        status: int,
        fields: Sequence[Field],
        body: bytes = b"",
        *,
        length: int | None = -1,
    ) -> None:
        super().__init__(status=status)
        self._fields, self._content = fields, body
        self._announced = len(body) if length == -1 else length

    async def _start(self, request: BaseRequest) -> AbstractStreamWriter:
        self._req = request
        writer = self._payload_writer = request.writer
        connection = request.protocol
        assert isinstance(connection, Connection)
        keep_alive = (
            bool(request.keep_alive)
            and self._keep_alive is not False
            and not connection.is_finishing
            # It is declined, but aiohttp's parser may have lost what came behind such a request.
            and b"upgrade" not in members_of(request.raw_headers, b"connection")
        )
        is_http11 = request.version >= HttpVersion11
        fields = [*self._fields, SERVER]
        if not value_of(self._fields, b"date"):
            fields.append((b"Date", formatdate(usegmt=True).encode()))
        if self._announced is not None and self.status != 204:  # RFC 9110 §8.6: none in 204
            fields.append((b"Content-Length", b"%d" % self._announced))
        if self._must_be_empty_body:
            writer.length = 0  # whatever is written is dropped
        elif self._announced is not None:
            writer.length = self._announced
        elif is_http11:
            writer.enable_chunking()
            fields.append((b"Transfer-Encoding", b"chunked"))
        else:
            keep_alive = False  # RFC 9112 §6.3: the end of the connection is the end of the body
        if not keep_alive:
            fields.append((b"Connection", b"close"))
        elif not is_http11:
            fields.append((b"Connection", b"keep-alive"))
        self._keep_alive = keep_alive
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        first = head(self.status, REASON_PHRASES.get(self.status, "").encode(), fields)
        request.transport.write(first)
        writer.output_size += len(first)  # so that others see that a response has begun
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(b"" if self._must_be_empty_body else self._content or data)


def reply_to(problem: Problem, request: BaseRequest, fields: Sequence[Field]) -> Reply:
    """The response that tells a client of its problem. `fields`: those of every response of ours."""
    content_type, body = problem.body(value_of(request.raw_headers, b"accept"))
    reply = Reply(
        problem.status,
        [(b"Content-Type", content_type), (b"Cache-Control", b"no-store"), *problem.fields, *fields],
        body,
    )
    if problem.close:
        reply.force_close()
    return reply
