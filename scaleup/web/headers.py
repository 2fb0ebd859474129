"""Header fields: what is stripped and added on both ways through the web server. ●

Order and duplicates stay as they were, and values are passed on byte for byte. Three kinds of fields never go
through as they came:

- Fields about one connection (RFC 9110 §7.6.1), and those that `Connection` names.
- Framing: said again in our own words (`framing`).
- Claims about the client (X-Forwarded-*, Forwarded), unless the peer is one that we were told to trust.

The fields after a chunked body (trailers, RFC 9110 §6.5) go to clients that say `TE: trailers`, without those that
a header must hold. A request's end here, as §6.5.1 allows: some applications take them for header fields, and
so would believe of a client what was stripped above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaleup.web.syntax import Field, RequestFields, RequestHead, ResponseHead, lines_of, members

_HOP_BY_HOP = frozenset(
    b"connection proxy-connection keep-alive close te trailer transfer-encoding upgrade".split()
    # RFC 9110 §11.7: meant for, or from, the proxy next to the sender
    + b"proxy-authenticate proxy-authorization proxy-authentication-info".split()
)
# Answered here or written anew. `Proxy` would become HTTP_PROXY in a CGI program's environment (httpoxy).
_REQUEST_ONLY = frozenset(
    b"host content-length expect proxy forwarded x-real-ip via x-request-id x-request-timeout".split()
)
# Server and Date are said anew, as nginx does.
_RESPONSE_ONLY = frozenset(b"content-length server date via x-served-by x-request-id".split())
_NOT_IN_TRAILERS = (
    _HOP_BY_HOP
    | _RESPONSE_ONLY
    | frozenset(
        b"age allow authorization cache-control content-encoding content-range content-type date expires host "
        b"location pragma retry-after set-cookie strict-transport-security vary warning www-authenticate".split()
    )
)
_NOT_TO_APPLICATION = _HOP_BY_HOP | _REQUEST_ONLY
_NOT_TO_CLIENT = _HOP_BY_HOP | _RESPONSE_ONLY

_NAMES_NO_MORE = (b"keep-alive", b"close")

_REQUEST_ID = re.compile(rb"[0-9A-Za-z._:/+=-]{1,128}")


@dataclass(slots=True)
class Hop:
    """What this server knows about a request beside its fields.

    `name`: ours, as it appears in Via and X-Served-By. `version`: the client's, `1.0` or `1.1`. `peer`: the
    address at the other end of the connection. `host`: the site asked for, from the target or from Host.
    `request_id`: ours, unless the request has a usable one.
    """

    name: bytes
    version: bytes
    peer: bytes
    peer_is_trusted: bool
    scheme: bytes
    host: bytes
    request_id: bytes


def request_id_of(named: Mapping[bytes, bytes]) -> bytes | None:
    """The id that the request came with, if it can stand in a log."""
    given = named.get(b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else None


def to_application(head: RequestHead, hop: Hop) -> bytes:
    """A request's fields as the application gets them, as lines, without the framing."""
    named, chain, proto, host = head.named, hop.peer, hop.scheme, hop.host
    passed_on = head.fields.passed_on
    if passed_on is None:
        passed_on = head.fields.passed_on = _passed_on(head.fields)
    if hop.peer_is_trusted:
        # A trusted peer's own claims are kept, and it is added to them.
        chain = b", ".join(filter(None, (named.get(b"x-forwarded-for"), hop.peer)))
        proto = named.get(b"x-forwarded-proto") or proto
        host = named.get(b"x-forwarded-host") or host
    via = hop.version + b" " + hop.name
    if b"via" in named:
        via = named[b"via"] + b", " + via
    # RFC 9112 §3.2: HTTP/1.1 may not be without Host; it is empty when none was named
    return b"Host: %b\r\n%b%bX-Forwarded-Proto: %b\r\n%bVia: %b\r\nX-Request-Id: %b\r\n" % (
        hop.host,
        passed_on,
        b"X-Forwarded-For: %b\r\n" % chain if chain else b"",
        proto,
        b"X-Forwarded-Host: %b\r\n" % host if host else b"",
        via,
        hop.request_id,
    )


def _passed_on(fields: RequestFields) -> bytes:
    """Those that are the application's matter."""
    dropped = _dropped(fields.named, _NOT_TO_APPLICATION)
    return lines_of(
        [
            field
            for field in fields.all
            if (name := field[0].lower()) not in dropped and not name.startswith(b"x-forwarded-")
        ]
    )


def to_client(head: ResponseHead, hop: Hop) -> bytes:
    """A response's fields as the client gets them, as lines, without the framing."""
    named = head.named
    dropped = _dropped(named, _NOT_TO_CLIENT)
    via, served_by = b"1.1 " + hop.name, hop.name
    if b"via" in named:
        via = named[b"via"] + b", " + via
    if b"x-served-by" in named:
        served_by = served_by + b", " + named[b"x-served-by"]
    return b"%b%bVia: %b\r\nX-Served-By: %b\r\nX-Request-Id: %b\r\n" % (
        lines_of([field for field in head.fields if field[0].lower() not in dropped]),
        b"" if b"x-content-type-options" in named else b"X-Content-Type-Options: nosniff\r\n",
        via,
        served_by,
        hop.request_id,
    )


def takes_trailers(head: RequestHead) -> bool:
    """Whether the client does (§10.1.4), and our chunks reach it."""
    te = head.named.get(b"te")
    return te is not None and head.is_http11 and b"trailers" in members(te)


def trailers_to_client(fields: Sequence[Field]) -> list[Field]:
    """Without what is about framing, routing, caching, authentication or the content (§6.5.1)."""
    return [field for field in fields if field[0].lower() not in _NOT_IN_TRAILERS]


def upgrade_of(named: Mapping[bytes, bytes]) -> bytes | None:
    """The protocol that a request would change to; None: it would not, or not to one that goes through a proxy.

    HTTP/2 (`h2c`) and TLS are matters of this connection, not of the application's.
    """
    if b"upgrade" not in named or b"upgrade" not in members(named.get(b"connection", b"")):
        return None
    wanted = members(named[b"upgrade"])
    if not wanted or any(protocol.startswith((b"h2", b"http/", b"tls/")) for protocol in wanted):
        return None
    return named[b"upgrade"]


def _dropped(named: Mapping[bytes, bytes], always: frozenset[bytes]) -> frozenset[bytes]:
    """RFC 9110 §7.6.1: the names that Connection lists end at this hop."""
    listed = named.get(b"connection")
    if listed is None or listed in _NAMES_NO_MORE:  # nearly always
        return always
    return always.union(members(listed))
