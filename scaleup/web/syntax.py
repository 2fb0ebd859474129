"""The head of an HTTP/1.1 message, read strictly: RFC 9112 §2 to §5, RFC 9110 §5. ●

Two parsers that read the same bytes differently are how requests get smuggled, so nothing is repaired here. What
the grammar does not have is refused, also where the RFC would let a recipient be lenient: a bare LF, folded lines,
space before a colon, HTTP/1.2. A request's name with an underscore is refused as well, because CGI, WSGI and their
kin take `Content_Length` for `Content-Length`; a response's is a name as any other.

A head is checked as a whole by regular expressions that never go back: their quantifiers are possessive, so the
time that a head takes grows with its length only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar

Field = tuple[bytes, bytes]
"""A name and a value as they stood on the wire. Values are opaque (RFC 9110 §5.5): nothing is decoded."""

END = b"\r\n\r\n"
MAX_LINE_BYTES = 8 * 1024
"""Of a request target (414), and of a field with its name (431)."""
MAX_HEAD_BYTES = 32 * 1024
"""All of a request's head; nginx's large_client_header_buffers come to the same."""
MAX_RESPONSE_HEAD_BYTES = 64 * 1024
"""Of a response: the application is ours, and policies and cookies get long."""
MAX_FIELDS = 100
"""Of a request, and of trailers."""
MAX_RESPONSE_FIELDS = 500
"""All are read in one go, in which nobody else has a turn: these in two milliseconds at most."""

MAX_REMEMBERED = 256
"""Longer values are rare, and what is made of 8 KiB can take 130 KiB: a stranger could fill a cache with such."""
MAX_REMEMBERED_FIELDS = 2048
"""All of a request's, together. Secrets of clients are among them, which so stay in memory for a while."""

_Text = TypeVar("_Text", str, bytes)
_Made = TypeVar("_Made")


def remembered(
    count: int, longest: int = MAX_REMEMBERED
) -> Callable[[Callable[[_Text], _Made]], Callable[[_Text], _Made]]:
    """As functools.lru_cache, but only what is made of values no longer than `longest` is kept."""

    def decorate(make: Callable[[_Text], _Made]) -> Callable[[_Text], _Made]:
        kept = lru_cache(count)(make)

        @wraps(make)
        def remember(text: _Text) -> _Made:
            return kept(text) if len(text) <= longest else make(text)

        return remember

    return decorate


_TOKEN = rb"[!#$%&'*+.^`|~0-9A-Za-z-]"
_FIELD = rb"%b++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_METHOD = rb"[A-Z][A-Z0-9-]{0,31}+"
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]++) HTTP/1\.([01])\r\n" % _METHOD)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*+)?\r\n")
_REQUEST_FIELDS = re.compile(rb"(?:%b)*+" % (_FIELD % _TOKEN))
_FIELDS = re.compile(rb"(?:%b)*+\r\n" % (_FIELD % _TOKEN.replace(b"^", b"^_")))
_SPLIT = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")
_FIRST_LINE_BEGUN = re.compile(rb"%b(?: [!-~]*+(?: [!-~]*+)?+)?+\r?" % _METHOD)
_HOST = re.compile(rb"(?:[0-9A-Za-z._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class SyntaxFault(Exception):
    """Not HTTP/1.1. `status`: what a client is told."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(slots=True)
class RequestFields:
    """The fields of a request, perhaps of many: a client says the same of itself each time. `named`: by lower-case
    name, the values of all fields of that name, joined as a list (RFC 9110 §5.3). `passed_on`: what of them goes to
    the application, as lines, once `headers` has been asked.
    """

    all: Sequence[Field]
    named: Mapping[bytes, bytes]
    passed_on: bytes | None = None


@dataclass(slots=True)
class RequestHead:
    """`named`: that of the fields."""

    method: str
    target: str
    is_http11: bool
    fields: RequestFields
    named: Mapping[bytes, bytes]

    def line(self) -> bytes:
        """The request line."""
        return f"{self.method} {self.target} HTTP/1.{int(self.is_http11)}".encode("latin-1")


@dataclass(slots=True)
class ResponseHead:
    """`named`: see RequestFields. The reason phrase is dropped: nothing may depend on it (RFC 9112 §4)."""

    status: int
    is_http11: bool
    fields: Sequence[Field]
    named: Mapping[bytes, bytes]


def read_request(head: bytes) -> RequestHead:
    """`head`: up to and with END. Raises SyntaxFault."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise SyntaxFault(400, "This is not HTTP as RFC 9112 has it.")
    method, target, minor = line.groups()
    if len(target) > MAX_LINE_BYTES:
        raise SyntaxFault(414, "The request target is too long.")
    fields = _request_fields(head[line.end() : -2])
    return RequestHead(method.decode(), target.decode(), minor == b"1", fields, fields.named)


def read_response(head: bytes) -> ResponseHead:
    """`head`: up to and with END. Raises SyntaxFault."""
    line = _STATUS_LINE.match(head)
    if line is None or not _FIELDS.fullmatch(head, line.end()):
        raise SyntaxFault(502, "the response is not HTTP/1.1")
    if head.count(b"\n") > MAX_RESPONSE_FIELDS + 2:
        raise SyntaxFault(502, "the response has too many header fields")
    fields, named = _fields(head[line.end() : -2])
    return ResponseHead(int(line[2]), line[1] == b"1", fields, named)


def refuse_beginning(data: bytes) -> None:
    """Raise SyntaxFault when no request can begin like this, so that nobody waits for its end."""
    line, is_whole, _ = data.partition(b"\r\n")
    if len(line) > MAX_LINE_BYTES + 64:
        raise SyntaxFault(414, "The request target is too long.")
    if len(data) > MAX_HEAD_BYTES:
        raise SyntaxFault(431, "The header fields are too large together.")
    is_line = _REQUEST_LINE.match(data) if is_whole else _FIRST_LINE_BEGUN.fullmatch(line)
    # Counted, because this is asked at every arrival, however little it brings.
    if not is_line or data.count(b"\n") != data.count(b"\r\n"):
        raise SyntaxFault(400, "This is not HTTP as RFC 9112 has it.")


def is_host(value: bytes) -> bool:
    """Whether it may stand in Host, and before a path: a name or an address, perhaps a port (RFC 3986 §3.2)."""
    return _HOST.fullmatch(value) is not None


def lines_of(fields: Iterable[Field]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def read_trailers(section: bytes) -> list[Field]:
    """The fields after the last chunk; `section`: up to and with the empty line. Raises SyntaxFault.

    Those of a request go nowhere, so their names may be what a response's may.
    """
    if not _FIELDS.fullmatch(section):
        raise SyntaxFault(400, "The trailers are not fields.")
    if section.count(b"\n") > MAX_FIELDS + 1:
        raise SyntaxFault(431, "There are too many trailers.")
    return _fields(section[:-2])[0]


@remembered(256, MAX_REMEMBERED_FIELDS)
def _request_fields(block: bytes) -> RequestFields:
    """`block`: lines. Raises SyntaxFault."""
    if not _REQUEST_FIELDS.fullmatch(block):
        raise SyntaxFault(400, "This is not HTTP as RFC 9112 has it.")
    if block.count(b"\n") > MAX_FIELDS:  # counted before they are taken apart, which costs far more
        raise SyntaxFault(431, "There are too many header fields.")
    fields, named = _fields(block)
    if len(block) > MAX_LINE_BYTES and any(len(name) + len(value) > MAX_LINE_BYTES for name, value in fields):
        raise SyntaxFault(431, "A header field is too large.")
    return RequestFields(fields, named)


def _fields(block: bytes) -> tuple[list[Field], dict[bytes, bytes]]:
    """`block`: lines that were checked."""
    fields: list[Field] = _SPLIT.findall(block)
    if b" \r" in block or b"\t\r" in block:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    named = {name.lower(): value for name, value in fields}
    if len(named) < len(fields):
        named.clear()
        for name, value in fields:
            key = name.lower()
            named[key] = value if key not in named else named[key] + b", " + value
    return fields, named


@remembered(256)  # there are few values of Connection, and each message has one
def members(value: bytes) -> tuple[bytes, ...]:
    """The members of a list-based field, in lower case (RFC 9110 §5.6.1)."""
    return tuple([member for part in value.lower().split(b",") if (member := part.strip())])
