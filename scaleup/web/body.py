"""A request's body on its way through: read piece by piece, under a size limit and a deadline.

Two peers can hold it up, and each must be blamed for its own delay only. While we wait for the client, its
clock runs: it has a grace time, and then must have kept a least average rate. While the application takes
what was read, that exchange's timer runs (`server_timer`). So a client that trickles is cut off
although bytes keep coming, and a slow application does not get clients cut off.
"""

from __future__ import annotations

import asyncio

from aiohttp.web import BaseRequest
from aiohttp.web_protocol import RequestPayloadError

from scaleup.web.headers import request_length, wants_continue
from scaleup.web.problems import Problem

MIN_BYTES_PER_SECOND = 1024
"""Slower than any telephone line in use, and 16 MiB then take at most 4.6 hours of a connection's time."""


class BodyFailed(Exception):
    """The body will not arrive whole; `Body.problem` says why. Ends the exchange with the application."""


class Body:
    """An asynchronous iterator over the pieces of a request's body, for aiohttp's client.

    `limit`: bytes. `grace`: seconds. Raises Problem 413 at once when the announced length is over the limit.
    """

    def __init__(self, request: BaseRequest, *, limit: int, grace: float) -> None:
        self.length = request_length(request.raw_headers)
        """In bytes; None when it is chunked."""
        self.has_begun = False
        """Whether any of it may have been sent: then the request cannot be sent again."""
        self.is_complete = self.length == 0
        self.problem: Problem | None = None
        """Why the client's part failed, if it did."""
        self.server_timer: asyncio.Timeout | None = None
        """The timer of the exchange that is under way, and how long the application may take to accept a piece."""
        self.server_seconds = 0.0
        self._request, self._limit, self._grace = request, limit, grace
        self._received = 0
        self._waited = 0.0
        if self.length is not None and self.length > limit:
            raise self._too_large()

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if not self.has_begun:
            self.has_begun = True
            self._ask_for_it()
        self._time_the_server(None)
        try:
            piece = await self._next_piece()
            self._received += len(piece)
            if self._received > self._limit:
                raise self._too_large()
        except Problem as problem:
            self.problem = problem
            raise BodyFailed(str(problem)) from None
        self._time_the_server(self.server_seconds)
        if not piece:
            self.is_complete = True
            raise StopAsyncIteration
        return piece

    async def _next_piece(self) -> bytes:
        loop = asyncio.get_running_loop()
        allowance = self._grace + self._received / MIN_BYTES_PER_SECOND - self._waited
        began = loop.time()
        try:
            async with asyncio.timeout(allowance):
                return await self._request.content.readany()
        except TimeoutError:
            raise Problem(408, "The body of the request came too slowly.", close=True) from None
        except RequestPayloadError:
            raise Problem(400, "The body of the request is malformed.", close=True) from None
        except (ConnectionError, OSError):
            raise Problem(400, "The body of the request was cut off.", close=True) from None
        finally:
            self._waited += loop.time() - began

    def _ask_for_it(self) -> None:
        """RFC 9110 §10.1.1. Only now, when an application has accepted: until here a refusal saves the upload."""
        request = self._request
        if wants_continue(request.version, request.raw_headers) and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _time_the_server(self, seconds: float | None) -> None:
        if self.server_timer is None or self.server_timer.expired():
            return
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.server_timer.reschedule(deadline)

    def _too_large(self) -> Problem:
        return Problem(413, f"The body of the request is larger than {self._limit} bytes.", close=True)
