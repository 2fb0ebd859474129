"""Forwarding to application servers: which one, how often to try, and the way back to the client.

Trying again follows nginx's `proxy_next_upstream error timeout`:

    what happened                              GET, HEAD, OPTIONS, PUT, DELETE     POST, PATCH, …
    no connection                              next server                         next server
    sent, then reset, closed, or timed out     next server, unless a body began    502 or 504
    an answer that is not HTTP                 502                                 502
    after the head went to the client          its connection is aborted           likewise

There are at most `tries`, and none begins later than RETRY_SECONDS after the request came. A request that may be
repeated goes to a connection that was used before, if there is one, and when it looks as if just that was being
closed meanwhile, once more to the same server, as part of the same try: it was closed within CROSSING_SECONDS,
and not a byte came. One that may not be repeated gets a connection of its own: it costs a handshake and leaves
no doubt.

A client that leaves cancels what it only wanted to read. A write whose body had arrived is seen through: to
break it off would stop nothing, only nobody would know how it ended. When we drain, it has until the drain ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from scaleup.net.addresses import is_in
from scaleup.processes.logs import LimitedLog
from scaleup.processes.tasks import Tasks
from scaleup.upstream.balance import client_key
from scaleup.upstream.pool import Pool, Server
from scaleup.web.access_log import Upstream
from scaleup.web.connection import Request
from scaleup.web.exchange import Failure, Response, exchange
from scaleup.web.headers import (
    Hop,
    request_id_of,
    takes_trailers,
    to_application,
    to_client,
    upgrade_of,
)
from scaleup.web.metrics import Metrics
from scaleup.web.origin import Origin
from scaleup.web.problems import RETRY_AFTER, Problem
from scaleup.web.reply import Frame, Reply
from scaleup.web.stream import Stream
from scaleup.web.syntax import RequestHead, ResponseHead
from scaleup.web.targets import Target
from scaleup.web.tunnel import tunnel

log = logging.getLogger(__name__)

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
"""RFC 9110 §9.2.2: the effect of several such requests is that of one."""
RETRY_SECONDS = 10.0
"""A person waits about so long; a server that failed later than that has failed for good."""
CROSSING_SECONDS = 1.0
"""A request and the close that it crosses are a round trip apart; who has had it for longer has had it."""
LOG_EVERY_SECONDS = 1.0
MAX_LEFT_ALONE = 256
"""Writes that are seen through for clients that have left: they count as nobody's connections, so whoever sends and
leaves, again and again, could have any number of them at a slow application."""

_READS = frozenset(("GET", "HEAD", "OPTIONS"))
_MAY_HAVE_BODY = frozenset(("POST", "PUT", "PATCH"))
_TOLD = {
    502: "The application did not answer properly.",
    504: "The application did not answer in time.",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """See `settings`; seconds, bytes."""

    tries: int
    connect_timeout: float
    response_timeout: float
    tunnel_timeout: float
    keepalive: float
    trusted: tuple[IPv4Network | IPv6Network, ...]


Observe = Callable[[Server, str | None], None]
"""Told of each exchange: None when its response was passed on, else why there was none, or not all of it."""


class Forwarder:
    """Answers requests with the responses of application servers. `name`: ours, in Via and X-Served-By.

    `new_id`: gives the ids of requests that came without. Made inside the running loop; to be closed.
    """

    def __init__(
        self,
        name: str,
        pool: Pool,
        rules: Rules,
        metrics: Metrics,
        new_id: Callable[[], bytes],
        observe: Observe,
    ) -> None:
        self._name, self._pool = name.encode(), pool
        self._rules, self._metrics, self._new_id, self._observe = rules, metrics, new_id, observe
        self._loop = asyncio.get_running_loop()
        self._origins = {server.name: Origin(server, rules.keepalive) for server in pool.servers}
        self._time = b"X-Request-Timeout: %g\r\n" % rules.response_timeout
        self._tasks = Tasks()
        self._left_alone = 0
        self._seen_through = asyncio.Event()
        self._limited = LimitedLog(log, LOG_EVERY_SECONDS, self._loop.time)

    async def respond(self, request: Request, target: Target) -> Reply:
        """The application's response. Raises Problem when there is none."""
        head, body = request.head, request.body
        body.refuse_large()
        hop = self._hop(request, target)
        request.request_id = hop.request_id
        upgrade = (
            upgrade_of(head.named) if head.method == "GET" and body.is_complete and head.is_http11 else None
        )
        message = self._message(request, target, hop, upgrade)
        key = client_key(request.peer) if self._pool.needs_key and request.peer else None
        last_try = request.came + RETRY_SECONDS
        task = asyncio.current_task()
        assert task is not None
        request.connection.on_gone = task.cancel
        tried: dict[str, Failure] = {}
        while len(tried) < self._rules.tries:
            server = self._pool.choose(key, tried)
            if server is None:
                break
            self._pool.acquire(server)
            began, outcome = self._loop.time(), None
            try:
                attempt = self._exchange(
                    server, request, message, hop, last_try, upgrades=upgrade is not None
                )
                reads = head.method in _READS
                outcome = await (attempt if reads else self._seeing_through(server, head, attempt))
            finally:
                status = outcome.head.status if isinstance(outcome, Response) else None
                if status is None:
                    self._pool.release(server)
                request.upstream = Upstream(server.name, status, self._loop.time() - began, len(tried) + 1)
            if isinstance(outcome, Response):
                return self._relay(request, server, outcome, hop)
            if body.problem is not None:
                raise body.problem  # the client's failure, not the server's
            self._failed(server, outcome)
            tried[server.name] = outcome
            if not _may_try_again(head.method, outcome, request) or self._loop.time() > last_try:
                break
        raise self._problem(list(tried.values()))

    async def finish(self, deadline: float) -> None:
        """See the writes through whose clients have left; what is still under way at the deadline is cut off."""
        if self._left_alone and self._loop.time() < deadline:
            log.info("%d writes whose clients have left are seen through", self._left_alone)
            self._seen_through.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._seen_through.wait()
        if self._left_alone:
            log.warning("%d writes are cut off, and nobody knows how they end", self._left_alone)

    async def close(self) -> None:
        await self._tasks.cancel()
        for origin in self._origins.values():
            origin.close()

    # ----- one try --------------------------------------------------------------------------------

    async def _seeing_through(
        self, server: Server, head: RequestHead, attempt: Coroutine[Any, Any, Response | Failure]
    ) -> Response | Failure:
        """It goes on when it is we who are cancelled."""
        task = self._tasks.spawn(attempt, name=f"{head.method} at {server.name}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._left_alone >= MAX_LEFT_ALONE:
                task.cancel()
            self._left_alone += 1
            self._pool.acquire(server)  # the client has gone, but the server is still busy with it

            def finished(task: asyncio.Task[Response | Failure]) -> None:
                self._left_alone -= 1
                if not self._left_alone:
                    self._seen_through.set()
                self._pool.release(server)
                _close_unread(task)

            task.add_done_callback(finished)
            raise

    async def _exchange(
        self,
        server: Server,
        request: Request,
        message: bytes,
        hop: Hop,
        last_try: float,
        *,
        upgrades: bool,
    ) -> Response | Failure:
        origin, method, body = self._origins[server.name], request.head.method, request.body
        seconds, is_answering = self._rules.response_timeout, False

        def interim(head: ResponseHead) -> None:
            nonlocal is_answering
            is_answering = True
            if head.status != 100 and request.head.is_http11 and not request.connection.is_lost:
                request.connection.write(b"HTTP/1.1 %d \r\n%b\r\n" % (head.status, to_client(head, hop)))

        if method in IDEMPOTENT and (used := origin.reuse()) is not None:
            crossing = min(self._loop.time() + CROSSING_SECONDS, last_try)
            outcome = await exchange(
                used, message, method, body, seconds, self._tasks, interim, upgrades=upgrades
            )
            if isinstance(outcome, Response) or outcome.reason != "disconnected" or body.has_begun:
                return outcome
            if used.received or is_answering or self._loop.time() > crossing:
                return outcome
        try:
            connection = await origin.connect(self._rules.connect_timeout)
        except TimeoutError:
            detail = f"no connection within {self._rules.connect_timeout:g} s"
            return Failure(504, "connect_timeout", detail, was_sent=False)
        except OSError as error:
            return Failure(502, "connect", str(error), was_sent=False)
        return await exchange(
            connection, message, method, body, seconds, self._tasks, interim, upgrades=upgrades
        )

    # ----- the way there --------------------------------------------------------------------------

    def _message(self, request: Request, target: Target, hop: Hop, upgrade: bytes | None) -> bytes:
        """The head of the request to the application."""
        head, body = request.head, request.body
        about = self._time
        if upgrade is not None:
            about += b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade
        elif takes_trailers(head):
            about += b"Connection: TE\r\nTE: trailers\r\n"
        if body.length is None:
            about += b"Transfer-Encoding: chunked\r\n"
        elif body.length or head.method in _MAY_HAVE_BODY:
            about += b"Content-Length: %d\r\n" % body.length
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
            head.method.encode(),
            target.raw.encode(),
            to_application(head, hop),
            about,
        )

    def _hop(self, request: Request, target: Target) -> Hop:
        named, peer = request.head.named, request.peer
        return Hop(
            name=self._name,
            version=b"1.1" if request.head.is_http11 else b"1.0",
            peer=peer.encode(),
            peer_is_trusted=bool(self._rules.trusted) and is_in(peer, self._rules.trusted),
            scheme=b"http" if request.connection.is_plain else b"https",
            # RFC 9112 §3.2.2: a host in the target replaces the field
            host=target.authority or named.get(b"host", b""),
            request_id=request_id_of(named) or self._new_id(),
        )

    # ----- the way back ---------------------------------------------------------------------------

    def _relay(self, request: Request, server: Server, response: Response, hop: Hop) -> Reply:
        head = response.head
        if head.status == 101 or request.head.method not in _READS:
            request.connection.on_gone = None
        response.on_close = partial(self._done, server, request.body.has_begun)
        lines = to_client(head, hop)
        if takes_trailers(request.head):
            response.keeps_trailers = True
            if b"trailer" in head.named and response.length is None:
                lines += b"Trailer: %b\r\n" % head.named[b"trailer"]
        if head.status == 101:
            lines += b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.named.get(b"upgrade", b"")
            source = _Tunnelled(response, self._rules.tunnel_timeout)
            return Reply(101, (), source=source, close=True, lines=lines)
        return Reply(
            head.status,
            (),
            # RFC 9110 §8.6: none in 204
            length=None if head.status == 204 else response.length,
            source=response,
            close=not request.body.is_complete,  # an early response: what still comes of the body is not read
            lines=lines,
        )

    def _done(self, server: Server, had_body: bool, response: Response) -> None:
        """The response was sent, or will not be."""
        self._pool.release(server)
        if response.failure is None:
            self._observe(server, None)
        else:
            self._failed(server, response.failure)
        if response.may_be_kept:
            self._origins[server.name].keep(response.connection, had_body=had_body)
        else:
            response.connection.abort()

    def _failed(self, server: Server, failure: Failure) -> None:
        self._observe(server, failure.reason)
        self._metrics.upstream_failures.labels(server.name, failure.reason).inc()
        self._limited.warning(
            f"{server.name} {failure.reason}", f"{server.name} ({server.endpoint}): {failure.detail}"
        )

    def _problem(self, failures: Sequence[Failure]) -> Problem:
        if failures:
            status = failures[-1].status
            return Problem(status, _TOLD[status])
        if self._pool.any_up():
            return Problem(503, "All application servers are busy; try again soon.", fields=[RETRY_AFTER])
        return Problem(503, "No application server is up; try again soon.", fields=[RETRY_AFTER])


class _Tunnelled:
    """What follows 101 (RFC 9110 §7.8): bytes of another protocol, both ways."""

    def __init__(self, response: Response, seconds: float) -> None:
        self._response, self._seconds = response, seconds

    def at_hand(self) -> tuple[bytes, bool]:
        return b"", False

    async def send(self, to: Stream, frame: Frame, seconds: float) -> None:
        await tunnel(to, self._response.connection, self._seconds)

    def trailers(self) -> bytes:
        return b""

    def close(self) -> None:
        self._response.close()


def _may_try_again(method: str, failure: Failure, request: Request) -> bool:
    if failure.is_final:
        return False
    return not failure.was_sent or (method in IDEMPOTENT and not request.body.has_begun)


def _close_unread(task: asyncio.Task[Response | Failure]) -> None:
    if not task.cancelled() and task.exception() is None and isinstance(outcome := task.result(), Response):
        outcome.close()
        outcome.connection.abort()
