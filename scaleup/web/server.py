"""The web server: finds out who answers a request, counts it, and logs it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from scaleup.web.access_log import Access
from scaleup.web.connection import Connection, Request
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
    with a slash. `log_access`: told of each request; None: nobody wants to know.
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
        log_access: Callable[[Access], None] | None = None,
    ) -> None:
        self._files, self._error_pages, self._forwarder = files, error_pages, forwarder
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
        self._readiness, self._metrics, self._log_access = readiness, metrics, log_access
        self._fields = own_fields(name)
        self._loop = asyncio.get_running_loop()
        self._in_progress = 0
        metrics.in_progress.set_function(lambda: self._in_progress)

    async def finish(self, deadline: float) -> None:
        """When there are no clients any more: of what they have asked for, something may still be under way."""
        if self._forwarder is not None:
            await self._forwarder.finish(deadline)

    async def close(self) -> None:
        """When there are no clients any more."""
        if self._forwarder is not None:
            await self._forwarder.close()
        if self._files is not None:
            self._files.close()

    # ----- what connections ask (`connection.Server`) ---------------------------------------------

    def refuse(self, peer: str, problem: Problem) -> Reply:
        log.debug("%s: %s", peer, problem)
        return reply_to(problem, b"", self._fields)

    def sent(self, request: Request, reply: Reply, status: int, count: int) -> None:
        self._metrics.answered(reply.kind, status)
        if self._log_access is not None:
            self._tell_access(request, status, count)

    def refused(self, connection: Connection, line: bytes, reply: Reply, count: int) -> None:
        self._metrics.answered(reply.kind, reply.status)
        if self._log_access is not None:
            scheme = "http" if connection.is_plain else "https"
            self._log_access(
                Access(connection.peer, time.time(), 0.0, None, line, reply.status, count, scheme, b"", None)
            )

    async def answer(self, request: Request) -> Reply:
        """Raises CancelledError when the client has left, or was sent away."""
        kind, at_hand = "static", None
        self._in_progress += 1
        try:
            if self._files is not None:
                at_hand = self._files.at_hand(request)
            if at_hand is not None:
                answer = at_hand
            else:
                kind = "refused"
                target = self._admit(request)
                kind, respond = self._route(target)
                answer = await respond(request, target)
        except Problem as problem:
            answer = await self._tell(problem, request)
        except asyncio.CancelledError:
            status = 502  # a drain has cut it off
            if request.connection.is_at_end or request.connection.is_lost:
                status = 499
                log.info("%s left before the response to %s (499)", request.peer, request.head.method)
            self._metrics.answered(kind, status)
            if self._log_access is not None:
                self._tell_access(request, status, 0)
            raise
        except Exception:
            # A mistake of ours. Told without a traceback to the client, and with one to us.
            log.exception("%s %s failed", request.head.method, request.head.target)
            answer = reply_to(
                Problem(500, "This server made a mistake."), request.named(b"accept"), self._fields
            )
        finally:
            self._in_progress -= 1
        answer.kind = kind
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

    def _tell_access(self, request: Request, status: int, count: int) -> None:
        assert self._log_access is not None
        self._log_access(
            Access(
                request.peer,
                time.time(),
                self._loop.time() - request.came,
                request.head,
                b"",
                status,
                count,
                "http" if request.connection.is_plain else "https",
                request.request_id,
                request.upstream,
            )
        )


async def _nothing_here(request: Request, target: Target) -> Reply:
    raise Problem(404, "There is no such page here.")


def own_fields(name: str) -> tuple[Field, ...]:
    """In every response of our own making."""
    return (
        (b"X-Served-By", name.encode()),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"same-origin"),
    )
