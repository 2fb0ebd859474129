"""The line about a request that was answered: NCSA's common log, the combined one, or a JSON object. ●

    192.0.2.7 - - [23/Nov/2026:16:36:15 +0000] "GET / HTTP/1.1" 200 5316 "https://example.org/" "curl/8.5"
    │         │ │  when it came                 as it came      │   │     Referer                 User-Agent
    client    │ user: not looked at                             │   bytes of the body, with its chunks' framing
              ident: nobody asks                                status; 499: the client left before it had it all

The last two are the combined log's. What could break the line is escaped as nginx does it: a quotation mark, a
backslash, and all that is not printable ASCII become \\xHH. What is absent is "-".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from scaleup.web.syntax import RequestHead, remembered

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE = {code: f"\\x{code:02X}" for code in (*range(32), ord('"'), ord("\\"), *range(127, 256))}


class Upstream(NamedTuple):
    """What became of it at the application. `server`: the last that was tried, of `tries`.

    `status`: None when it gave no response. `seconds`: from the choice of a server to the response's head, or the
    failure.
    """

    server: str
    status: int | None
    seconds: float
    tries: int


class Access(NamedTuple):
    """A request that was answered.

    `ended`: seconds since the epoch. `seconds`: from the whole head of the request to the end of the response.
    `line`: of a request that is none, as far as it came; `head` is None then. `sent`: bytes of the body.
    """

    peer: str
    ended: float
    seconds: float
    head: RequestHead | None
    line: bytes
    status: int
    sent: int
    scheme: str
    request_id: bytes
    upstream: Upstream | None


def common(it: Access) -> str:
    came = _local(int(it.ended - it.seconds))
    return f'{it.peer or "-"} - - [{came}] "{_request(it)}" {it.status} {it.sent}'


def combined(it: Access) -> str:
    return f'{common(it)} "{_field(it, b"referer")}" "{_field(it, b"user-agent")}"'


def json_object(it: Access) -> str:
    """What is absent is null."""
    head, upstream = it.head, it.upstream
    came = datetime.fromtimestamp(it.ended - it.seconds, UTC).isoformat(timespec="milliseconds")
    return json.dumps(
        {
            "came": came,
            "client": it.peer or None,
            "request": _text(_line(it)),
            "method": head.method if head else None,
            "host": _value(head, b"host"),
            "scheme": it.scheme,
            "status": it.status,
            "bytes_sent": it.sent,
            "seconds": round(it.seconds, 6),
            "referer": _value(head, b"referer"),
            "user_agent": _value(head, b"user-agent"),
            "request_id": _text(it.request_id) or None,
            "upstream": upstream.server if upstream else None,
            "upstream_status": upstream.status if upstream else None,
            "upstream_seconds": round(upstream.seconds, 6) if upstream else None,
            "tries": upstream.tries if upstream else 0,
        }
    )


FORMATS: dict[str, Callable[[Access], str]] = {
    "common": common,
    "combined": combined,
    "json": json_object,
}


def _line(it: Access) -> bytes:
    return it.line if it.head is None else it.head.line()


def _request(it: Access) -> str:
    return _escaped(_line(it))


def _field(it: Access, name: bytes) -> str:
    return _escaped(it.head.named.get(name, b"")) if it.head else "-"


@remembered(1024)  # the same pages, the same browsers
def _escaped(value: bytes) -> str:
    return value.decode("latin-1").translate(_UNSAFE) or "-"


def _value(head: RequestHead | None, name: bytes) -> str | None:
    value = head.named.get(name) if head else None
    return None if value is None else _text(value)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


@lru_cache(64)
def _local(second: int) -> str:
    """23/Nov/2026:16:36:15 +0000, in English whatever the locale."""
    at = datetime.fromtimestamp(second).astimezone()
    return f"{at.day:02d}/{_MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S %z}"
