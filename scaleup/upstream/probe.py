"""One check of one server: connect, perhaps ask, and say what came of it.

    tcp        the server accepts a connection
    http:PATH  it answers `GET PATH` with a status 2xx or 3xx
    mysql      it lets a user without a password log in (`mysql`); with ?wsrep_ready a Galera node is in sync,
               with ?read_only=0 it takes writes

The result carries HAProxy's code: L4… speaks of the connection (OK, CON: refused or unreachable, TOUT: no
answer), L7… of what was said on it (OK, STS: a status that is not wanted, RSP: not HTTP, or broken off,
TOUT: no status line in time). SOCKERR is our own failure, before the server was even asked: no descriptor
left, a name that does not resolve, a source address that we do not have. It counts neither way: running
out of descriptors must not take all servers down.

One time-out spans the whole check, so that a server which sends a byte now and then does not pass. Of the
answer only the first 13 bytes matter, so only they are kept.

How a check ends on the wire: a tcp check is closed with RST (SO_LINGER 0), as HAProxy does, so that
neither side is left in TIME_WAIT; so is every check that went wrong. After an answer in HTTP the server
may finish and close first, shortly and boundedly; then the TIME_WAIT is the server's, as usual, and it
logs no reset.

Sockets are driven with the loop's sock_… calls: no transport that could outlive a cancelled check, and
nothing is passed as `sock=` (uvloop #645).
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import connect, dialling, resolve
from scaleup.upstream import mysql

Code = Literal["L4OK", "L4CON", "L4TOUT", "L7OK", "L7STS", "L7RSP", "L7TOUT", "SOCKERR"]

DRAIN_S = 0.2
"""How long a server that has answered may take to close: a local network's round trips, not more."""

DRAIN_BYTES = 65536
"""How much more of the answer is read, and thrown away: a health page, not a download."""

MYSQL_USER = "haproxy"
"""As HAProxy's manual calls the user for its check: so it is there already."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])[ \r\n]")  # RFC 9112 §4, as far as it matters
_MYSQL = re.compile(
    r"mysql(?::([A-Za-z0-9_.-]{1,32}))?(?:\?((?:wsrep_ready|read_only=[01])(?:&(?:wsrep_ready|read_only=[01]))*))?"
)
_ANY_STATUS_LINE = b"HTTP/1.1 200 "
_RESET, _ORDERLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # for SO_LINGER


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What a check does. `path`: for http, what to GET: "/healthz", "/ready?deep=1".

    For mysql, `user`: who logs in; `wsrep_ready`: it has to be ON; `read_only`: what it has to be, None: either.
    """

    kind: Literal["tcp", "http", "mysql"]
    path: str = ""
    user: str = ""
    wsrep_ready: bool = False
    read_only: bool | None = None

    @classmethod
    def parse(cls, text: str) -> HealthCheck:
        """Read `tcp`, `http:PATH` or `mysql[:USER][?wsrep_ready][&read_only=0|1]`.

        Raises ValueError that says what to write instead.
        """
        kind, colon, path = text.strip().partition(":")
        if kind == "tcp" and not colon:
            return cls("tcp")
        if kind.partition("?")[0] == "mysql":
            return cls._parse_mysql(text.strip())
        if kind != "http":
            raise ValueError(
                f"{text!r} is not a health check: write tcp, http:PATH or mysql:USER, for example http:/healthz"
            )
        if not path.startswith("/"):
            raise ValueError(
                f"{text!r} has no path: write http:PATH with a leading slash, for example http:/healthz"
            )
        if not path.isascii() or not path.isprintable() or set(path) & set(" #"):
            raise ValueError(
                f"the path in {text!r} cannot be sent: write spaces, # and non-ASCII letters as %XX"
            )
        return cls("http", path)

    @classmethod
    def _parse_mysql(cls, text: str) -> HealthCheck:
        found = _MYSQL.fullmatch(text)
        wanted = found[2].split("&") if found and found[2] else []
        if not found or len(set(wanted)) < len(wanted) or {"read_only=0", "read_only=1"} <= set(wanted):
            raise ValueError(
                f"{text!r} is not a check of MySQL: write mysql, mysql:USER or mysql:USER?wsrep_ready&read_only=0"
            )
        read_only = "read_only=1" in wanted if any("read_only" in one for one in wanted) else None
        return cls("mysql", "", found[1] or MYSQL_USER, "wsrep_ready" in wanted, read_only)

    def __str__(self) -> str:
        if self.kind == "http":
            return f"http:{self.path}"
        if self.kind == "tcp":
            return "tcp"
        wanted = ["wsrep_ready"] * self.wsrep_ready
        wanted += [] if self.read_only is None else [f"read_only={self.read_only:d}"]
        return f"mysql:{self.user}{'?' if wanted else ''}{'&'.join(wanted)}"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check. `detail`: for people. `seconds`: from start to verdict. `http_status`: if any came."""

    code: Code
    detail: str
    seconds: float
    http_status: int | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the server is fine; None when the check could not be made."""
        return None if self.code == "SOCKERR" else self.code in ("L4OK", "L7OK")

    def __str__(self) -> str:
        return f"{self.code} {self.detail} ({self.seconds * 1000:.0f} ms)"


async def probe(
    endpoint: Endpoint,
    check: HealthCheck,
    *,
    timeout: float,
    source: str | None = None,
    preamble: bytes = b"",
) -> Result:
    """Check a server once. Never raises for what a server or a network can do.

    `timeout`: seconds for all of it. `source`: our IP address to connect from. `preamble`: sent first.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    connection: socket.socket | None = None
    on_timeout: Code = "SOCKERR"
    on_error: Code = "SOCKERR"
    status: int | None = None
    try:
        try:
            async with asyncio.timeout(timeout):
                address = endpoint if _is_address(endpoint.host) else await resolve(endpoint)
                connection = dialling(address, source)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                on_timeout, on_error = "L4TOUT", "L4CON"
                await connect(connection, address)
                if preamble:
                    await loop.sock_sendall(connection, preamble)
                if check.kind == "tcp":
                    return Result("L4OK", "connected", loop.time() - began)
                on_timeout, on_error = "L7TOUT", "L7RSP"
                if check.kind == "mysql":
                    code, detail = await _ask_mysql(connection, check)
                else:
                    code, detail, status = await _ask(connection, endpoint, check.path)
        except TimeoutError:
            return Result(on_timeout, f"no answer within {timeout:g} s", loop.time() - began)
        except OSError as error:
            return Result(on_error, _reason(error), loop.time() - began)
        result = Result(code, detail, loop.time() - began, status)
        if code != "L7RSP":
            await _let_it_finish(connection)
        return result
    finally:
        if connection is not None:
            connection.close()


@lru_cache(4096)  # asked with every check
def _is_address(host: str) -> bool:
    return Endpoint(host, 0).address is not None


async def _ask(connection: socket.socket, endpoint: Endpoint, path: str) -> tuple[Code, str, int | None]:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\nUser-Agent: ScaleUp\r\n\r\n"
    await loop.sock_sendall(connection, request.encode("ascii"))
    answer = b""
    try:
        while (status := status_of(answer)) is None:
            more = await loop.sock_recv(connection, len(_ANY_STATUS_LINE) - len(answer))
            if not more:
                return "L7RSP", f"closed after {len(answer)} bytes of an answer", None
            answer += more
    except ValueError as error:
        return "L7RSP", str(error), None
    return ("L7OK" if 200 <= status < 400 else "L7STS"), f"status {status}", status


async def _ask_mysql(connection: socket.socket, check: HealthCheck) -> tuple[Code, str]:
    talk = mysql.Conversation(connection)
    try:
        version = await talk.log_in(check.user)
        code: Code = "L7OK"
        detail = version
        if check.wsrep_ready and (await talk.ask("SHOW STATUS LIKE 'wsrep_ready'"))[1:] != ["ON"]:
            code, detail = "L7STS", "wsrep_ready is not ON"
        elif check.read_only is not None:
            is_read_only = await talk.ask("SELECT @@global.read_only") != ["0"]
            if is_read_only != check.read_only:
                code, detail = "L7STS", f"read_only is {is_read_only:d}"
        await talk.quit()
    except mysql.Malformed as error:
        return "L7RSP", str(error)
    except mysql.Denied as error:
        return "L7STS", str(error)
    return code, detail


def status_of(answer: bytes) -> int | None:
    """The status of an HTTP/1 answer of which the first `answer` bytes have come; None: too few of them.

    Raises ValueError as soon as they cannot become a status line any more.
    """
    beginning = answer[: len(_ANY_STATUS_LINE)]
    if not _STATUS_LINE.match(beginning + _ANY_STATUS_LINE[len(beginning) :]):
        raise ValueError(f"not an HTTP/1 answer: {beginning!r}")
    found = _STATUS_LINE.match(beginning)
    return int(found[1]) if found else None


def _reason(error: OSError) -> str:
    """The system's words: the loops' own texts repeat the address."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error.strerror or error).lower()  # of the resolver


async def _let_it_finish(connection: socket.socket) -> None:
    """Read on until the server closes, within bounds; if it does, close in order too."""
    loop = asyncio.get_running_loop()
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                more = await loop.sock_recv(connection, left)
                if not more:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)
                    return
                left -= len(more)
    except OSError:  # a reset, or the time is up: the verdict stands
        return
