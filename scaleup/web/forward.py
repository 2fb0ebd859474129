"""Forwarding to application servers: which one, how often to try, and the way back to the client.

Trying again follows nginx's `proxy_next_upstream error timeout`:

    what happened                              GET, HEAD, OPTIONS, PUT, DELETE     POST, PATCH, …
    no connection                              next server                         next server
    sent, then reset, closed, or timed out     next server, unless a body began    502 or 504
    an answer that is not HTTP                 502                                 502
    after the head went to the client          its connection is aborted           likewise

There are at most `tries`, and none begins later than RETRY_SECONDS after the request came.

A client that leaves cancels what it only wanted to read. A write whose body had arrived is seen through: to
break it off would stop nothing, only nobody would know how it ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

import aiohttp
from aiohttp.web import BaseRequest

from scaleup.processes.tasks import Tasks
from scaleup.upstream.balance import client_key
from scaleup.upstream.pool import Pool, Server
from scaleup.web.body import Body
from scaleup.web.connection import reset
from scaleup.web.exchange import IDEMPOTENT, Client, Failure, Response
from scaleup.web.headers import (
    Field,
    Hop,
    InvalidResponse,
    response_length,
    to_application,
    to_client,
    value_of,
)
from scaleup.web.metrics import Metrics
from scaleup.web.problems import RETRY_AFTER, Problem
from scaleup.web.reply import Reply
from scaleup.web.targets import Target

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""A person waits about so long; a server that failed later than that has failed for good."""

_READS = frozenset(("GET", "HEAD", "OPTIONS"))
_TOLD = {
    502: "The application did not answer properly.",
    504: "The application did not answer in time.",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_body`: bytes. `body_grace`: seconds."""

    tries: int
    max_body: int
    body_grace: float
    trusted: tuple[IPv4Network | IPv6Network, ...]


class Forwarder:
    """Answers requests with the responses of application servers. `name`: ours, in Via and X-Served-By."""

    def __init__(self, name: str, pool: Pool, client: Client, limits: Limits, metrics: Metrics) -> None:
        self._name, self._pool, self._client = name.encode(), pool, client
        self._limits, self._metrics = limits, metrics
        self._writes = Tasks()
        self._complained: dict[tuple[str, str], float] = {}

    async def respond(self, request: BaseRequest, target: Target) -> Reply:
        """The application's response. Raises Problem when there is none."""
        body = Body(request, limit=self._limits.max_body, grace=self._limits.body_grace)
        hop = self._hop(request, target)
        fields = to_application(request.raw_headers, hop)
        _refuse_undecodable(fields)
        key = client_key(hop.peer.decode()) if hop.peer else None
        last_try = asyncio.get_running_loop().time() + RETRY_SECONDS
        tried: dict[str, Failure] = {}
        while len(tried) < self._limits.tries:
            server = self._pool.choose(key, tried)
            if server is None:
                break
            self._pool.acquire(server)
            try:
                outcome = await self._send(server, request.method, target.raw, fields, body)
                if isinstance(outcome, Response):
                    return await self._relay(request, server, outcome, body)
            finally:
                self._pool.release(server)
            if body.problem:
                raise body.problem  # the client's failure, not the server's
            self._failed(server, outcome)
            tried[server.name] = outcome
            if not _may_try_again(request.method, outcome, body):
                break
            if asyncio.get_running_loop().time() > last_try:
                break
        raise self._problem(list(tried.values()))

    async def close(self) -> None:
        await self._writes.cancel()
        await self._client.close()

    async def _send(
        self, server: Server, method: str, path: str, fields: list[Field], body: Body
    ) -> Response | Failure:
        exchange = self._client.send(server, method, path, fields, body)
        if method in _READS:
            return await exchange
        task = self._writes.spawn(exchange, name=f"{method} at {server.name}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._pool.acquire(server)  # the client has gone, but the server is still busy with it

            def finished(task: asyncio.Task[Response | Failure]) -> None:
                self._pool.release(server)
                _close_unread(task)

            task.add_done_callback(finished)
            raise

    async def _relay(self, request: BaseRequest, server: Server, response: Response, body: Body) -> Reply:
        """Stream a response to the client. Raises Problem as long as nothing was sent."""
        try:
            reply = self._head(request, server, response)
            if not body.is_complete:
                reply.force_close()  # an early response: what still comes of the body is not read
            await reply.prepare(request)
            while piece := await self._read(request, server, response):
                await reply.write(piece)
        finally:
            # Returned to the pool already if it was read to the end; whatever is not clean is closed.
            response.close()
        return reply

    def _head(self, request: BaseRequest, server: Server, response: Response) -> Reply:
        fields = response.raw_headers
        try:
            if response.status < 200:
                raise InvalidResponse(f"status {response.status}")
            length = response_length(request.method, response.status, fields)
            to_send = to_client(fields, self._name)
        except InvalidResponse as error:
            self._failed(server, Failure(502, "garbage", str(error), was_sent=True))
            raise Problem(502, _TOLD[502]) from None
        return Reply(response.status, to_send, length=length)

    async def _read(self, request: BaseRequest, server: Server, response: Response) -> bytes:
        """The next piece of a response; empty at its end. A response that is cut off ends the connection."""
        try:
            return await response.next_piece(self._client.response_timeout)
        except TimeoutError:
            failure = Failure(504, "body_timeout", "the response stopped coming", was_sent=True)
        except (aiohttp.ClientError, OSError) as error:
            failure = Failure(502, "cut_off", str(error), was_sent=True)
        self._failed(server, failure)
        reset(request.transport)
        raise ConnectionAbortedError("the response was cut off")

    def _hop(self, request: BaseRequest, target: Target) -> Hop:
        peer = request.remote or ""
        return Hop(
            name=self._name,
            version=b"%d.%d" % request.version,
            peer=peer.encode(),
            peer_is_trusted=_is_in(peer, self._limits.trusted),
            scheme=b"http",
            # RFC 9112 §3.2.2: a host in the target replaces the field
            host=target.authority or value_of(request.raw_headers, b"host"),
        )

    def _failed(self, server: Server, failure: Failure) -> None:
        """Count it, and log it at most once a second for each server and reason."""
        self._metrics.upstream_failures.labels(server.name, failure.reason).inc()
        now, what = asyncio.get_running_loop().time(), (server.name, failure.reason)
        if now - self._complained.get(what, -1.0) >= 1.0:
            self._complained[what] = now
            log.warning("%s (%s): %s", server.name, server.endpoint, failure.detail)

    def _problem(self, failures: Sequence[Failure]) -> Problem:
        if failures:
            status = failures[-1].status
            return Problem(status, _TOLD[status])
        if self._pool.any_up():
            return Problem(503, "All application servers are busy; try again soon.", fields=[RETRY_AFTER])
        return Problem(503, "No application server is up; try again soon.", fields=[RETRY_AFTER])


def _may_try_again(method: str, failure: Failure, body: Body) -> bool:
    if failure.is_final:
        return False
    return not failure.was_sent or (method in IDEMPOTENT and not body.has_begun)


def _refuse_undecodable(fields: Sequence[Field]) -> None:
    """aiohttp's client would leave out bytes that are not UTF-8, and so send another value."""
    try:
        for _, value in fields:
            value.decode()
    except UnicodeDecodeError:
        raise Problem(400, "A header field is not UTF-8.") from None


def _is_in(peer: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _close_unread(task: asyncio.Task[Response | Failure]) -> None:
    if not task.cancelled() and task.exception() is None and isinstance(outcome := task.result(), Response):
        outcome.close()
