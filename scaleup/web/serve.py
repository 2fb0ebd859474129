"""The life of a web server process: put the parts together, serve, drain."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Callable, Sequence

from scaleup.processes import Process, logs
from scaleup.processes.accept import affordable
from scaleup.processes.worker import Orders, collect_rarely
from scaleup.upstream.balance import algorithm
from scaleup.upstream.checks import Checker
from scaleup.upstream.health import Change
from scaleup.upstream.pool import Pool, Server
from scaleup.web.access_log import FORMATS, Access, json_object
from scaleup.web.clients import Admission, Clients
from scaleup.web.connection import Limits
from scaleup.web.disk import Disk
from scaleup.web.forward import Forwarder, Observe, Rules
from scaleup.web.metrics import Metrics
from scaleup.web.server import Readiness, WebServer, own_fields
from scaleup.web.settings import WebSettings
from scaleup.web.static import CacheControl, Files

OTHER_DESCRIPTORS = 1000
"""Of small and large files that are kept open, and of idle connections to applications."""


async def serve(
    settings: WebSettings,
    process: Process,
    orders: Orders,
    plain: Sequence[socket.socket],
    tls: Sequence[socket.socket],
    context: ssl.SSLContext | None,
    hsts: int,
) -> None:
    """Serve on those listening sockets, which are ours from now on, until the process is told to stop."""
    metrics = Metrics(process.registry)
    pool = Pool(
        [app.server() for app in settings.app],
        algorithm(settings.balance, random.randrange),
        now=asyncio.get_running_loop().time,
        allbackups=settings.allbackups,
    )

    def changed(server: Server, change: Change) -> None:
        metrics.upstream_up.labels(server.name).set(change.up)
        process.event("server", server=server.name, up=change.up, reason=change.reason)

    for server in pool.servers:
        metrics.upstream_up.labels(server.name).set(server.up)
    checker = Checker(pool.servers, settings, changed, error_limit=settings.error_limit, on_error="mark-down")

    def observe(server: Server, failure: str | None) -> None:
        if failure is None:
            checker.connection_made(server)
        else:
            checker.connection_failed(server, failure)

    web = assemble(settings, pool, metrics, process.readiness, observe, _access_log(settings))
    clients = Clients(web, limits(settings, hsts), admission(settings), metrics)
    try:
        clients.accept(plain)
        if context is not None:
            clients.accept(tls, context)
        collect_rarely()
        process.ready()
        async with asyncio.TaskGroup() as group:
            checks = group.create_task(checker.run(), name="health checks")
            await process.stopping.wait()
            deadline = asyncio.get_running_loop().time() + orders.seconds
            if orders.gone is None:
                await clients.drain(orders.seconds)
            else:
                await clients.retire(orders.seconds, orders.gone)
            await web.finish(deadline)
            checks.cancel()
    finally:
        await clients.drain(0)  # not drained yet when something failed
        await web.close()


def assemble(
    settings: WebSettings,
    pool: Pool,
    metrics: Metrics,
    readiness: Readiness,
    observe: Observe = lambda server, failure: None,
    log_access: Callable[[Access], None] | None = None,
) -> WebServer:
    """The server with its parts. Its `close` closes them all."""
    return WebServer(
        settings.name,
        files=_files(settings),
        error_pages={int(text[:3]): text[4:] for text in settings.error_page},
        forwarder=_forwarder(settings, pool, metrics, observe) if pool.servers else None,
        prefixes=settings.prefix,
        readiness=readiness,
        metrics=metrics,
        log_access=log_access,
    )


def limits(settings: WebSettings, hsts: int) -> Limits:
    return Limits(settings.max_body, settings.keepalive, settings.send_timeout, settings.body_timeout, hsts)


def admission(settings: WebSettings) -> Admission:
    return Admission(
        affordable(settings.maxconn, OTHER_DESCRIPTORS), settings.source_maxconn, settings.accept_proxy
    )


def _access_log(settings: WebSettings) -> Callable[[Access], None] | None:
    if settings.access_log == "off":
        return None
    line = FORMATS[settings.access_log]
    if settings.access_log_file is None:
        return logs.gathered("scaleup.web.access", line, json_object).write
    return logs.gathered_in(settings.access_log_file, "--access-log-file", line).write


def _forwarder(settings: WebSettings, pool: Pool, metrics: Metrics, observe: Observe) -> Forwarder:
    rules = Rules(
        settings.tries,
        settings.connect_timeout,
        settings.response_timeout,
        settings.tunnel_timeout,
        settings.app_keepalive,
        settings.trusted_proxy,
    )
    return Forwarder(settings.name, pool, rules, metrics, _new_id, observe)


def _files(settings: WebSettings) -> Files | None:
    if settings.root is None:
        return None
    fields = list(own_fields(settings.name))
    if settings.content_security_policy:
        fields.append((b"Content-Security-Policy", settings.content_security_policy.encode()))
    caching = [CacheControl(*text.split("=", 1)) for text in settings.cache_control]
    return Files(Disk(settings.root), fields, _new_id, caching, settings.fallback)


def _new_id() -> bytes:
    """128 bits, as nginx's $request_id."""
    return b"%032x" % random.getrandbits(128)
