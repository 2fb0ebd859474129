"""A response whose head is ours to the byte: every field of it was put there by us.

Its content is either there as bytes, or a `Source` sends it, piece by piece, at the client's pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from scaleup.web.problems import Problem
from scaleup.web.stream import Stream
from scaleup.web.syntax import Field, lines_of

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


class Broken(Exception):
    """A source cannot send all that was announced. `status`: why, for the metrics."""

    def __init__(self, detail: str, status: int = 502) -> None:
        super().__init__(detail)
        self.status = status


Frame = Callable[[bytes], bytes]
"""What a piece is put into on its way: a chunk, or nothing."""


class Source(Protocol):
    def at_hand(self) -> tuple[bytes, bool]:
        """What can be sent along with the head, and whether that is all. Called once, before `send`.

        Raises Broken.
        """
        ...

    async def send(self, to: Stream, frame: Frame, seconds: float) -> None:
        """Send all the rest; the client may stay behind for so many seconds.

        Raises Broken; TimeoutError and ConnectionError when it is the client that failed.
        """
        ...

    def trailers(self) -> bytes:
        """The fields after a chunked body, as lines, when it is complete."""
        ...

    def close(self) -> None:
        """Called once, after `send` or in place of it."""
        ...


@dataclass(slots=True)
class Reply:
    """`length`: what is announced; None: it is not known, or not told. `lines`: further fields, as they are.

    `kind`: who answers, for the metrics.
    """

    status: int
    fields: Sequence[Field]
    content: bytes = b""
    length: int | None = None
    source: Source | None = None
    close: bool = False
    lines: bytes = b""
    kind: str = "refused"

    def head(self, about: bytes) -> bytes:
        """Up to and with the empty line. `about`: lines about this connection."""
        first = _STATUS_LINES.get(self.status) or b"HTTP/1.1 %d \r\n" % self.status
        length = b"" if self.length is None else b"Content-Length: %d\r\n" % self.length
        fields = lines_of(self.fields) if self.fields else b""
        return b"".join((first, self.lines, fields, length, _origin(int(time.time())), about, b"\r\n"))


def reply(status: int, fields: Sequence[Field], content: bytes = b"") -> Reply:
    """One with its content at hand."""
    return Reply(status, fields, content, len(content))


def reply_to(problem: Problem, accept: bytes, fields: Sequence[Field]) -> Reply:
    """Tells a client of its problem. `fields`: those of every response of ours."""
    content_type, body = problem.body(accept)
    head = [(b"Content-Type", content_type), (b"Cache-Control", b"no-store"), *problem.fields, *fields]
    return Reply(problem.status, head, body, len(body), close=problem.close)


@lru_cache(maxsize=2)
def _origin(second: int) -> bytes:
    """Who answers, and when (RFC 9110 §6.6.1, §10.2.4), as lines. `second`: since the epoch."""
    return b"Server: scaleup\r\nDate: %b\r\n" % formatdate(second, usegmt=True).encode()
