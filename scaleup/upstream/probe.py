"""One check of one server: connect, perhaps ask, and say what came of it (`healthcheck` says what can be asked).

The result carries HAProxy's code: L4… speaks of the connection (OK, CON: refused or unreachable, TOUT: no
answer), L6… of TLS (OK, RSP: no agreement, or not the certificate that it has to be, TOUT), L7… of what was said
on it (OK, STS: a status that is not wanted, RSP: not HTTP, or broken off, TOUT: no status line in time). SOCKERR is
our own failure, before the server was even asked: no descriptor left, a name that does not resolve, a source
address that we do not have. It counts neither way: running out of descriptors must not take all servers down.

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
import ssl
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import connect, dialling, resolve
from scaleup.upstream import mysql
from scaleup.upstream.healthcheck import HealthCheck
from scaleup.upstream.stream import Plain, Secure, Stream

Code = Literal[
    "L4OK", "L4CON", "L4TOUT", "L6OK", "L6RSP", "L6TOUT", "L7OK", "L7STS", "L7RSP", "L7TOUT", "SOCKERR"
]  # fmt: skip

DRAIN_S = 0.2
"""How long a server that has answered may take to close: a local network's round trips, not more."""

DRAIN_BYTES = 65536
"""How much more of the answer is read, and thrown away: a health page, not a download."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])[ \r\n]")  # RFC 9112 §4, as far as it matters
_ANY_STATUS_LINE = b"HTTP/1.1 200 "
_RESET, _ORDERLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # for SO_LINGER


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
        return None if self.code == "SOCKERR" else self.code in ("L4OK", "L6OK", "L7OK")

    def __str__(self) -> str:
        return f"{self.code} {self.detail} ({self.seconds * 1000:.0f} ms)"


async def probe(
    endpoint: Endpoint,
    check: HealthCheck,
    *,
    timeout: float,
    source: str | None = None,
    preamble: bytes = b"",
    name: str = "",
    context: ssl.SSLContext | None = None,
) -> Result:
    """Check a server once. Never raises for what a server or a network can do.

    `timeout`: seconds for all of it. `source`: our IP address to connect from. `preamble`: sent first. `name`: what
    the server's host is called, if not as in `endpoint`. `context`: for a check in TLS (`stream.context_of`).
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    name = name or endpoint.host
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
                stream: Stream = Plain(connection)
                code: Code = "L4OK"
                detail = "connected"
                if check.tls is not None:
                    assert context is not None, "a check in TLS needs a context"
                    on_timeout, on_error = "L6TOUT", "L6RSP"
                    stream = secure = Secure(connection, context, check.tls.sni or _host_of(check) or name)
                    code, detail = "L6OK", await secure.shake_hands()
                if check.kind != "tcp":
                    on_timeout, on_error = "L7TOUT", "L7RSP"
                    if check.kind == "mysql":
                        code, detail = await _ask_mysql(connection, check)
                    else:
                        host = check.host or str(Endpoint(name, endpoint.port))
                        code, detail, status = await _ask(stream, check, host)
        except TimeoutError:
            return Result(on_timeout, f"no answer within {timeout:g} s", loop.time() - began)
        except OSError as error:
            return Result(on_error, _reason(error), loop.time() - began)
        result = Result(code, detail, loop.time() - began, status)
        if code not in ("L4OK", "L7RSP"):
            await _let_it_finish(connection, stream)
        return result
    finally:
        if connection is not None:
            connection.close()


@lru_cache(4096)  # asked with every check
def _is_address(host: str) -> bool:
    return Endpoint(host, 0).address is not None


def _host_of(check: HealthCheck) -> str:
    """Of its Host field, without the port; empty: it says none."""
    return Endpoint.parse(check.host, 0).host if check.host else ""


async def _ask(stream: Stream, check: HealthCheck, host: str) -> tuple[Code, str, int | None]:
    fields = [f"Host: {host}", "Connection: close", "User-Agent: ScaleUp"]
    if check.method == "POST":
        fields.append("Content-Length: 0")
    request = "\r\n".join([f"{check.method} {check.path} HTTP/1.1", *fields, "", ""])
    await stream.send(request.encode("ascii"))
    answer = b""
    try:
        while (status := status_of(answer)) is None:
            more = await stream.receive(len(_ANY_STATUS_LINE) - len(answer))
            if not more:
                return "L7RSP", f"closed after {len(answer)} bytes of an answer", None
            answer += more
    except ValueError as error:
        return "L7RSP", str(error), None
    return ("L7OK" if status in check.expect else "L7STS"), f"status {status}", status


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
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error.strerror or error).lower()  # of the resolver


async def _let_it_finish(connection: socket.socket, stream: Stream) -> None:
    """Say that we have ended and read on until the server closes, within bounds; if it does, close in order too."""
    loop = asyncio.get_running_loop()
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_S):
            await stream.end()
            while left > 0:
                more = await loop.sock_recv(connection, left)
                if not more:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)
                    return
                left -= len(more)
    except OSError:  # a reset, or the time is up: the verdict stands
        return
