"""A request's body on its way through: read piece by piece, under a size limit and a deadline.

Two peers can hold it up, and each must be blamed for its own delay only. While we wait for the client, its clock
runs: it has a grace time, and then must have kept a least average rate. So a client that trickles is cut off
although bytes keep coming, and a slow application does not get clients cut off.
"""

from __future__ import annotations

from scaleup.web.framing import Chunks
from scaleup.web.problems import Problem
from scaleup.web.stream import READ_AHEAD_BYTES, Stream
from scaleup.web.syntax import SyntaxFault

MIN_BYTES_PER_SECOND = 1024
"""Slower than any telephone line in use, and 16 MiB then take at most 4.6 hours of a connection's time."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Body:
    """`length`: bytes; None: chunked. `limit`: bytes. `grace`: seconds. `is_awaited`: by `Expect: 100-continue`."""

    __slots__ = (
        "_chunks",
        "_grace",
        "_left",
        "_received",
        "_stream",
        "_waited",
        "has_begun",
        "is_awaited",
        "is_complete",
        "is_slow",
        "length",
        "limit",
        "problem",
    )

    def __init__(
        self, stream: Stream, length: int | None, *, limit: int, grace: float, is_awaited: bool = False
    ) -> None:
        self.length = length
        self.limit = limit
        self.is_awaited = is_awaited
        self.is_complete = length == 0
        self.has_begun = False
        """Whether any of it may have been sent on: then the request cannot be sent again."""
        self.is_slow = False
        """Whether it is the client that is waited for, now."""
        self.problem: Problem | None = None
        """Why it will not arrive whole, once that is known."""
        self._stream = stream
        self._chunks = Chunks() if length is None else None
        self._left = length or 0
        self._grace = grace
        self._received = 0
        self._waited = 0.0

    def refuse_large(self) -> None:
        """Raises Problem 413 when the announced length is over the limit."""
        if self.length is not None and self.length > self.limit:
            raise self._too_large()

    def skip(self) -> bool:
        """Throw away what has arrived of it; True when that was all."""
        if not self.is_complete and (self._stream.received or not self.is_awaited):
            try:
                self._take()
            except (Problem, SyntaxFault):
                return False
        return self.is_complete

    def at_hand(self) -> bytes | None:
        """All of it, if it has arrived; else None."""
        if self.is_complete:
            return b""
        if self._chunks is not None or self.is_awaited or len(self._stream.received) < self._left:
            return None
        self.has_begun = True
        return self._take()

    async def next_piece(self) -> bytes:
        """At least a byte; empty at the end. Raises Problem when it will not arrive whole: the client's failure."""
        if self.is_complete:
            return b""
        self.has_begun = True
        try:
            if self.is_awaited:
                # RFC 9110 §10.1.1. Only now that an application has accepted: a refusal would save the upload.
                self.is_awaited = False
                self._stream.write(CONTINUE)
            while not (piece := self._take()) and not self.is_complete:
                await self._wait()
        except SyntaxFault:
            raise Problem(400, "The body of the request is malformed.", close=True) from None
        except TimeoutError:
            raise Problem(408, "The body of the request came too slowly.", close=True) from None
        except ConnectionError:
            raise Problem(400, "The body of the request was cut off.", close=True) from None
        finally:
            self.is_slow = False
        return piece

    def _take(self) -> bytes:
        """What has arrived of it."""
        if self._chunks is None:
            piece = self._stream.take(self._left)
            self._left -= len(piece)
            self.is_complete = not self._left
        else:
            piece, done = self._chunks.take(self._stream.received)
            self._stream.take(done)
            self.is_complete = self._chunks.is_complete
        self._received += len(piece)
        if self._received > self.limit:
            raise self._too_large()
        return piece

    async def _wait(self) -> None:
        loop = self._stream.loop
        began = loop.time()
        allowance = self._grace + self._received / MIN_BYTES_PER_SECOND - self._waited
        self.is_slow = True
        if not await self._stream.more(began + allowance):
            raise ConnectionResetError("the client sends no more")
        self._waited += loop.time() - began

    def _too_large(self) -> Problem:
        return Problem(413, f"The body of the request is larger than {self.limit} bytes.", close=True)


assert READ_AHEAD_BYTES > 8 * 1024, "a chunk's line and the trailers fit in what is read ahead"
