"""The web server: finds out who answers a request, counts it, and drains at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import BACKLOG, endpoint_of, listening
from scaleup.web.connection import Limits, Listener, Request
from scaleup.web.forward import Forwarder
from scaleup.web.metrics import Metrics
from scaleup.web.problems import Problem, wants_page
from scaleup.web.reply import Reply, reply, reply_to
from scaleup.web.static import Files
from scaleup.web.syntax import Field
from scaleup.web.targets import Target, parse

log = logging.getLogger(__name__)

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

Readiness = Callable[[], Awaitable[str | None]]
Respond = Callable[[Request, Target], Awaitable[Reply]]


class WebServer:
    """`files`, `forwarder`: None when there is nothing to serve, or nowhere to forward to.

    `error_pages`: files that people are shown, by status. `prefixes`: what is forwarded; each begins and ends
    with a slash.
    """

    def __init__(
        self,
        name: str,
        *,
        files: Files | None,
        error_pages: Mapping[int, str],
        forwarder: Forwarder | None,
        prefixes: tuple[str, ...],
        readiness: Readiness,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._files, self._error_pages, self._forwarder = files, error_pages, forwarder
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
        self._readiness, self._metrics = readiness, metrics
        self._fields = own_fields(name)
        self._listener = Listener(limits, self._answer, self._refuse)
        self._in_progress = 0
        metrics.connections.set_function(lambda: len(self._listener.open))
        metrics.in_progress.set_function(lambda: self._in_progress)
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
        if self._files is not None:
            self._files.close()

    async def _answer(self, request: Request) -> Reply:
        """Raises CancelledError when the client has left."""
        kind = "refused"
        self._in_progress += 1
        try:
            if self._files is not None and (at_hand := self._files.at_hand(request)) is not None:
                kind, answer = "static", at_hand
            else:
                target = self._admit(request)
                kind, respond = self._route(target)
                answer = await respond(request, target)
        except Problem as problem:
            answer = await self._tell(problem, request)
        except asyncio.CancelledError:
            if request.connection.is_at_end:
                self._metrics.answered(kind, 499)
                log.info("%s left before the response to %s (499)", request.peer, request.head.method)
            raise
        except Exception:
            # A mistake of ours. Told without a traceback to the client, and with one to us.
            log.exception("%s %s failed", request.head.method, request.head.target)
            answer = reply_to(
                Problem(500, "This server made a mistake."), request.named(b"accept"), self._fields
            )
        finally:
            self._in_progress -= 1
        self._metrics.answered(kind, answer.status)
        return answer

    async def _tell(self, problem: Problem, request: Request) -> Reply:
        """Of a problem; people may be shown a page of the site's own."""
        accept = request.named(b"accept")
        answer = reply_to(problem, accept, self._fields)
        path = self._error_pages.get(problem.status)
        if path is not None and self._files is not None and wants_page(accept):
            content = await self._files.page(path)
            if content is not None:
                answer.content, answer.length = content, len(content)
        return answer

    def _admit(self, request: Request) -> Target:
        """What is asked for. Raises Problem when it should not even be looked at."""
        if request.head.method in ("CONNECT", "TRACE"):
            raise Problem(405, "This server is no proxy for you.", fields=[(b"Allow", METHODS)], close=True)
        return parse(request.head.target)

    def _route(self, target: Target) -> tuple[str, Respond]:
        path = target.path
        if path in (b"/healthz", b"/readyz"):
            return "local", self._health
        if self._forwarder is not None and path.startswith(self._prefixes):
            return "forward", self._forwarder.respond
        if self._files is not None:
            return "static", self._files.respond
        return "refused", _nothing_here

    async def _health(self, request: Request, target: Target) -> Reply:
        """/healthz: this process lives. /readyz: it can serve; application servers have no say in it."""
        reason = await self._readiness() if target.path == b"/readyz" else None
        status, text = (200, "ok") if reason is None else (503, reason)
        fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")]
        return reply(status, [*fields, *self._fields], f"{text}\n".encode())

    def _refuse(self, peer: str, problem: Problem) -> Reply:
        """What came is no request."""
        log.debug("%s: %s", peer, problem)
        self._metrics.answered("refused", problem.status)
        return reply_to(problem, b"", self._fields)


async def _nothing_here(request: Request, target: Target) -> Reply:
    raise Problem(404, "There is no such page here.")


def own_fields(name: str) -> tuple[Field, ...]:
    """In every response of our own making."""
    return (
        (b"X-Served-By", name.encode()),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"same-origin"),
    )
