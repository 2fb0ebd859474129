"""Header fields: what is refused, stripped, added, and written anew on both ways through the web server.

A field is a pair of bytes, name and value, as it stood on the wire: values are opaque (RFC 9110 §5.5), so
nothing is decoded and encoded again. Order and duplicates stay as they were. Three kinds of fields never
go through as they came:

- Fields about one connection (RFC 9110 §7.6.1), and those that `Connection` names.
- Framing. Two parsers that disagree on where a message ends are how requests get smuggled, so the length
  is taken from our parser and said again in our own words: never a Content-Length beside a Transfer-Encoding.
- Claims about the client (X-Forwarded-*, Forwarded), unless the peer is one that we were told to trust.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scaleup.web.problems import Problem

Field = tuple[bytes, bytes]

MAX_HEAD_BYTES = 32 * 1024
"""All fields of a request together; nginx's large_client_header_buffers come to the same."""

_HOP_BY_HOP = frozenset(
    b"connection proxy-connection keep-alive te trailer transfer-encoding upgrade".split()
    # RFC 9110 §11.7: meant for, or from, the proxy next to the sender
    + b"proxy-authenticate proxy-authorization proxy-authentication-info".split()
)
# Connection cannot name these away: an application would take a request without Host for another site's.
_NEVER_NAMED = frozenset((b"host", b"content-length"))
# Answered here or written anew. `Proxy` would become HTTP_PROXY in a CGI program's environment (httpoxy).
_REQUEST_ONLY = frozenset(b"host content-length expect proxy forwarded x-real-ip via".split())
_RESPONSE_ONLY = frozenset(b"content-length server via x-served-by".split())

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_UNSAFE_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(rb"(?:[0-9A-Za-z._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class InvalidResponse(Exception):
    """An application's response head that cannot be passed on."""


@dataclass(frozen=True, slots=True)
class Hop:
    """What this server knows about a request beside its fields.

    `name`: ours, as it appears in Via and X-Served-By. `version`: the client's, `1.0` or `1.1`. `peer`: the
    address at the other end of the connection. `host`: the site asked for, from the target or from Host.
    """

    name: bytes
    version: bytes
    peer: bytes
    peer_is_trusted: bool
    scheme: bytes
    host: bytes


def value_of(fields: Iterable[Field], name: bytes) -> bytes:
    """The first value of the field with this lower-case name; empty when it is absent."""
    return next((value for key, value in fields if key.lower() == name), b"")


def members_of(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """The members of a list-based field, over all its lines, in lower case (RFC 9110 §5.6.1)."""
    lines = (value for key, value in fields if key.lower() == name)
    return [member for line in lines for part in line.split(b",") if (member := part.strip().lower())]


def refuse_ambiguous(version: tuple[int, int], fields: Sequence[Field]) -> None:
    """Raise Problem for a request that aiohttp's parser lets through and another parser may read differently."""
    if version not in ((1, 0), (1, 1)):
        raise Problem(400, "This server speaks HTTP/1.1 and HTTP/1.0.", close=True)
    if sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEAD_BYTES:
        raise Problem(431, "The header fields are too large together.", close=True)
    for name, _ in fields:
        if b"_" in name:
            # CGI, WSGI and their kin read Content_Length as they read Content-Length.
            raise Problem(400, "A header field has an underscore in its name.", close=True)
    if not _HOST.fullmatch(value_of(fields, b"host")):
        raise Problem(400, "The Host field is not a host.", close=True)
    codings = members_of(fields, b"transfer-encoding")
    if codings and version == (1, 0):
        # RFC 9112 §6.1: "MUST treat the message as if the framing is faulty"
        raise Problem(400, "HTTP/1.0 has no Transfer-Encoding.", close=True)
    if codings not in ([], [b"chunked"]):
        # §6.1: "a transfer coding it does not understand SHOULD respond with 501"
        raise Problem(501, "This server knows no Transfer-Encoding but chunked.", close=True)
    expected = members_of(fields, b"expect")
    if expected not in ([], [b"100-continue"]):
        raise Problem(417, "This server knows no expectation but 100-continue.", close=True)


def request_length(fields: Sequence[Field]) -> int | None:
    """The length of a request's body in bytes; None when it is chunked. The fields were not refused."""
    if members_of(fields, b"transfer-encoding"):
        return None
    return int(value_of(fields, b"content-length") or b"0")


def wants_continue(version: tuple[int, int], fields: Sequence[Field]) -> bool:
    """RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored."""
    return version == (1, 1) and bool(members_of(fields, b"expect"))


def to_application(fields: Sequence[Field], hop: Hop) -> list[Field]:
    """A request's fields as the application gets them, without the framing."""
    dropped = _about_the_connection(fields) | _REQUEST_ONLY
    kept = [
        (name, value)
        for name, value in fields
        if (lower := name.lower().replace(b"_", b"-")) not in dropped
        and not lower.startswith(b"x-forwarded-")
    ]
    host = [(b"Host", hop.host)] if hop.host else []
    return [*host, *_one_spelling(kept), *_forwarding(fields, hop)]


def _forwarding(fields: Sequence[Field], hop: Hop) -> list[Field]:
    """Who asked, and how. A trusted peer's own claims are kept, and it is added to them."""

    def claimed(name: bytes) -> bytes:
        return value_of(fields, name) if hop.peer_is_trusted else b""

    chain = [value for name, value in fields if name.lower() == b"x-forwarded-for" and hop.peer_is_trusted]
    via = [value for name, value in fields if name.lower() == b"via"]
    added = [
        (b"X-Forwarded-For", b", ".join([*chain, hop.peer])),
        (b"X-Forwarded-Proto", claimed(b"x-forwarded-proto") or hop.scheme),
        (b"X-Forwarded-Host", claimed(b"x-forwarded-host") or hop.host),
        (b"Via", b", ".join([*via, hop.version + b" " + hop.name])),
    ]
    return [(name, value) for name, value in added if value]


def to_client(fields: Sequence[Field], name: bytes) -> list[Field]:
    """A response's fields as the client gets them, without the framing. `name`: ours.

    Raises InvalidResponse when a field could be read as something else by the next parser.
    """
    for key, value in fields:
        if not _TOKEN.fullmatch(key) or _UNSAFE_IN_VALUE.search(value):
            raise InvalidResponse("a header field with characters that it cannot have")
    dropped = _about_the_connection(fields) | _RESPONSE_ONLY
    kept = [(key, value) for key, value in fields if key.lower() not in dropped]
    served_by = [value for key, value in fields if key.lower() == b"x-served-by"]
    via = [value for key, value in fields if key.lower() == b"via"]
    if not value_of(fields, b"x-content-type-options"):
        kept.append((b"X-Content-Type-Options", b"nosniff"))
    kept.append((b"Via", b", ".join([*via, b"1.1 " + name])))
    kept.append((b"X-Served-By", b", ".join([name, *served_by])))
    return kept


def response_length(method: str, status: int, fields: Sequence[Field]) -> int | None:
    """The length of the body that a response announces; None when only its end tells.

    For HEAD and 304 it is the length that GET would have. Raises InvalidResponse when the framing is
    ambiguous: the response parser is lenient, and what it guessed must not be passed on as a fact.
    """
    codings = members_of(fields, b"transfer-encoding")
    if codings not in ([], [b"chunked"]):
        raise InvalidResponse("a Transfer-Encoding other than chunked")
    lengths = set(members_of(fields, b"content-length"))
    if lengths and codings and method != "HEAD":
        raise InvalidResponse("a Content-Length beside a Transfer-Encoding")
    if not lengths or codings:
        return 0 if status == 204 else None
    if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
        raise InvalidResponse("a Content-Length that is not one number")
    return int(length)


def head(status: int, reason: bytes, fields: Iterable[Field]) -> bytes:
    """The head of a response, up to and with the empty line."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason), *(name + b": " + value for name, value in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _about_the_connection(fields: Iterable[Field]) -> frozenset[bytes]:
    """The names that end at this hop. RFC 9110 §7.6.1: those that Connection lists are among them."""
    named = members_of(fields, b"connection")
    return _HOP_BY_HOP.union(named) - _NEVER_NAMED if named else _HOP_BY_HOP


def _one_spelling(fields: Iterable[Field]) -> list[Field]:
    """Let duplicates share the first one's spelling.

    aiohttp's client drops the first of two fields that differ only in case (`Accept` and `accept`).
    """
    spelling: dict[bytes, bytes] = {}
    return [(spelling.setdefault(name.lower(), name), value) for name, value in fields]
