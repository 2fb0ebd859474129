"""Where a message ends: RFC 9112 §6 and §7. ●

The length is read once, here, and said again in our own words on the other side: never a Content-Length beside a
Transfer-Encoding, never two lengths, never a coding that we do not understand.
"""

from __future__ import annotations

import re

from scaleup.web.syntax import (
    MAX_LINE_BYTES,
    Field,
    RequestHead,
    ResponseHead,
    SyntaxFault,
    is_host,
    members,
    read_trailers,
)

_LENGTH = re.compile(rb"[0-9]{1,18}")
# The size of a chunk; extensions mean nothing to us and are dropped (§7.1.1).
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_MAX_CHUNK_LINE = 256
CHUNKS_AT_ONCE = 1000
"""Of a byte each they take 1.5 ms; a whole read of them would take 80, in which nobody else has a turn."""


def request_length(head: RequestHead) -> int | None:
    """Of the body, in bytes; None: it is chunked. Raises SyntaxFault."""
    named = head.named
    host = named.get(b"host")
    if (host is None and head.is_http11) or (host and not is_host(host)):
        raise SyntaxFault(400, "The Host field is missing, or is not a host.")
    if b"expect" in named and members(named[b"expect"]) != (b"100-continue",):
        raise SyntaxFault(417, "This server knows no expectation but 100-continue.")
    length = named.get(b"content-length")
    if b"transfer-encoding" not in named:
        if length is None:
            return 0
        if not _LENGTH.fullmatch(length):
            raise SyntaxFault(400, "The Content-Length is not one number.")
        return int(length)
    # §6.1: in HTTP/1.0 "the framing is faulty"; beside a length, somebody may be smuggling
    if length is not None or not head.is_http11:
        raise SyntaxFault(400, "The length of the body is ambiguous.")
    codings = members(named[b"transfer-encoding"])
    if codings == (b"chunked",):
        return None
    if codings[-1:] != (b"chunked",) or codings.count(b"chunked") > 1:
        raise SyntaxFault(400, "The last Transfer-Encoding has to be chunked, and no other one.")
    # §6.1: "a transfer coding it does not understand SHOULD respond with 501"
    raise SyntaxFault(501, "This server knows no Transfer-Encoding but chunked.")


def response_length(method: str, head: ResponseHead) -> int | None:
    """What a response announces of its body; None: it is chunked, or ends with the connection.

    For HEAD and 304 it is the length that GET would have. Raises SyntaxFault when it is ambiguous.
    """
    named = head.named
    length = named.get(b"content-length")
    if b"transfer-encoding" in named:
        if members(named[b"transfer-encoding"]) != (b"chunked",):
            raise SyntaxFault(502, "a Transfer-Encoding other than chunked")
        if length is not None and method != "HEAD":
            raise SyntaxFault(502, "a Content-Length beside a Transfer-Encoding")
        return None
    if length is None:
        return 0 if head.status == 204 else None
    if _LENGTH.fullmatch(length):
        return int(length)
    values = set(members(length))  # the same twice is one (§6.3)
    if len(values) != 1 or not _LENGTH.fullmatch(value := values.pop()):
        raise SyntaxFault(502, "a Content-Length that is not one number")
    return int(value)


def goes_on(head: RequestHead | ResponseHead) -> bool:
    """Whether who sent this would have the connection kept (§9.3)."""
    named = head.named.get(b"connection")
    if named is None:
        return head.is_http11
    wanted = members(named)
    return b"close" not in wanted and (head.is_http11 or b"keep-alive" in wanted)


def has_body(method: str, status: int) -> bool:
    """Whether anything follows a response's head (§6.3)."""
    return method != "HEAD" and status >= 200 and status not in (204, 304)


class Chunks:
    """Takes a chunked body apart, as it arrives. Raises SyntaxFault when it is none."""

    def __init__(self) -> None:
        self.is_complete = False
        self.trailers: list[Field] = []
        self._left = 0  # bytes of the chunk in progress
        self._ends = False  # the line end after a chunk is to come
        self._is_last = False  # the trailers are to come

    def take(self, data: bytes) -> tuple[bytes, int]:
        """The content of what has arrived, of CHUNKS_AT_ONCE at most; and how much of `data` is done with."""
        at, end = 0, len(data)
        pieces: list[bytes] = []
        while at < end and not self.is_complete and len(pieces) < CHUNKS_AT_ONCE:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._ends = not self._left
            elif self._ends:
                if end - at == 1 and data[at] == 13:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise SyntaxFault(400, "A chunk is longer than its size.")
                at, self._ends = at + 2, False
            elif self._is_last:
                done = self._take_trailers(data, at)
                if not done:
                    break
                at = done
            else:
                line = data.find(b"\r\n", at, at + _MAX_CHUNK_LINE)
                if line < 0:
                    if end - at >= _MAX_CHUNK_LINE or not _CHUNK.fullmatch(data[at:end].rstrip(b" \t\r")):
                        raise SyntaxFault(400, "A chunk begins with its size.")
                    break
                size = _CHUNK.fullmatch(data, at, line)
                if size is None:
                    raise SyntaxFault(400, "A chunk begins with its size.")
                at, self._left = line + 2, int(size[1], 16)
                self._is_last = not self._left
        return b"".join(pieces) if len(pieces) != 1 else pieces[0], at

    def _take_trailers(self, data: bytes, at: int) -> int:
        """Where they end; 0: they do not, yet."""
        if data.startswith(b"\r\n", at):
            self.is_complete = True
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if (len(data) if end < 0 else end) - at > MAX_LINE_BYTES:
            raise SyntaxFault(431, "The trailers are too large.")
        if end < 0:
            if b"\n" in data[at:] and b"\r\n" not in data[at:]:
                raise SyntaxFault(400, "The trailers are not fields.")
            return 0
        self.trailers = read_trailers(data[at : end + 4])
        self.is_complete = True
        return end + 4


def chunk(piece: bytes) -> bytes:
    """`piece` as a chunk of its own."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def last_chunk(trailers: bytes = b"") -> bytes:
    """The end of a chunked body. `trailers`: lines."""
    return b"0\r\n%b\r\n" % trailers
