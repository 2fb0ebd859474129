"""The web server: admits a request, finds out who answers it, counts it, and drains at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import http_parser
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web import BaseRequest, StreamResponse

from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import BACKLOG, endpoint_of, listening
from scaleup.web.connection import MAX_TARGET_BYTES, Listener, reset
from scaleup.web.forward import Forwarder
from scaleup.web.headers import Field, refuse_ambiguous
from scaleup.web.metrics import Metrics
from scaleup.web.problems import Problem
from scaleup.web.reply import Reply, reply_to
from scaleup.web.static import Files
from scaleup.web.targets import Target, parse

log = logging.getLogger(__name__)

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

Readiness = Callable[[], Awaitable[str | None]]
Answer = Callable[[BaseRequest, Target], Awaitable[Reply]]


class WebServer:
    """`files`, `forwarder`: None when there is nothing to serve, or nowhere to forward to.

    `prefixes`: what is forwarded; each begins and ends with a slash. `options`: for `Connection`.
    """

    def __init__(
        self,
        name: str,
        *,
        files: Files | None,
        forwarder: Forwarder | None,
        prefixes: tuple[str, ...],
        readiness: Readiness,
        metrics: Metrics,
        **options: Any,
    ) -> None:
        self._files, self._forwarder = files, forwarder
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
        self._readiness, self._metrics = readiness, metrics
        self._fields = own_fields(name)
        self._listener = Listener(self._handle, refuse=self._refuse, **options)
        metrics.connections.set_function(lambda: self._listener.open_connections)
        self._servers: list[asyncio.Server] = []

    async def listen(self, endpoint: Endpoint) -> Endpoint:
        """Accept connections; returns where, with the port that the kernel chose. Raises StartupError."""
        sock = listening(endpoint, "--listen")
        where = endpoint_of(sock)
        # create_server calls listen() again, with a backlog of 100 unless it is told another.
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._listener, sock=sock, backlog=BACKLOG))
        return where

    async def drain(self, seconds: float) -> None:
        """Accept no more, let what is in progress finish for at most `seconds`, then close everything."""
        await asyncio.sleep(0)  # connections that the kernel has queued are accepted, not reset
        for server in self._servers:
            server.close()
        if left := await self._listener.drain(seconds):
            log.warning("%d connections were still busy after %g s and are cut off", left, seconds)
        if self._forwarder is not None:
            await self._forwarder.close()

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        kind = "refused"
        self._metrics.in_progress.inc()
        try:
            target = self._admit(request)
            kind, answer = self._route(target)
            reply = await answer(request, target)
        except Problem as problem:
            reply = reply_to(problem, request, self._fields)
        except (asyncio.CancelledError, ConnectionError) as error:
            self._gone(request, kind, error)
            raise
        except Exception:
            # A mistake of ours. Told without a traceback to the client, and with one to us.
            log.exception("%s %s failed", request.method, request.raw_path)
            self._metrics.answered(kind, 500)
            if request.writer.output_size:
                reset(request.transport)
                raise ConnectionAbortedError("a response was begun and cannot be finished") from None
            return reply_to(Problem(500, "This server made a mistake."), request, self._fields)
        finally:
            self._metrics.in_progress.dec()
        self._metrics.answered(kind, reply.status)
        return reply

    def _admit(self, request: BaseRequest) -> Target:
        """What is asked for. Raises Problem when it should not even be looked at."""
        refuse_ambiguous(request.version, request.raw_headers)
        if request.method in ("CONNECT", "TRACE"):
            raise Problem(405, "This server is no proxy for you.", fields=[(b"Allow", METHODS)], close=True)
        return parse(request.raw_path)

    def _route(self, target: Target) -> tuple[str, Answer]:
        if target.path in (b"/healthz", b"/readyz"):
            return "local", self._health
        if self._forwarder is not None and any(map(target.is_below, self._prefixes)):
            return "forward", self._forwarder.respond
        if self._files is not None:
            return "static", self._files.respond
        return "refused", _nothing_here

    async def _health(self, request: BaseRequest, target: Target) -> Reply:
        """/healthz: this process lives. /readyz: it can serve; application servers have no say in it."""
        reason = await self._readiness() if target.path == b"/readyz" else None
        status, text = (200, "ok") if reason is None else (503, reason)
        fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")]
        return Reply(status, [*fields, *self._fields], f"{text}\n".encode())

    def _refuse(self, request: BaseRequest, error: BaseException | None) -> StreamResponse:
        """The parser could not read a request."""
        problem = Problem(400, "This is not HTTP as RFC 9112 has it.", close=True)
        if isinstance(error, LineTooLong):
            is_target = error.args[1] == MAX_TARGET_BYTES
            problem = (
                Problem(414, "The request target is too long.", close=True)
                if is_target
                else Problem(431, "A header field is too large.", close=True)
            )
        elif "Too many headers" in str(error):
            problem = Problem(431, "There are too many header fields.", close=True)
        log.debug("%s: %s", request.remote, error)
        self._metrics.answered("refused", problem.status)
        return reply_to(problem, request, self._fields)

    def _gone(self, request: BaseRequest, kind: str, error: BaseException) -> None:
        """Nobody is told anything: the client left, or we had to reset the connection, or we stop."""
        if isinstance(error, ConnectionAbortedError):
            self._metrics.answered(kind, 502)
        elif request.transport is None or request.transport.is_closing():
            self._metrics.answered(kind, 499)
            log.info("%s left before the response to %s (499)", request.remote, request.method)


async def _nothing_here(request: BaseRequest, target: Target) -> Reply:
    raise Problem(404, "There is no such page here.")


def own_fields(name: str) -> tuple[Field, ...]:
    """In every response of our own making."""
    return (
        (b"X-Served-By", name.encode()),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"same-origin"),
    )


def refuse_slow_parser() -> None:
    """Raise StartupError when aiohttp runs without its C parser: the Python one lets other requests through."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise StartupError(
            "aiohttp has no compiled HTTP parser here: install its wheel for this platform, "
            "and unset AIOHTTP_NO_EXTENSIONS"
        )
