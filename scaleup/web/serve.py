"""The life of a web server process: put the parts together, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import random

from scaleup.processes import Process
from scaleup.upstream.balance import algorithm
from scaleup.upstream.checks import Checker
from scaleup.upstream.health import Change
from scaleup.upstream.pool import Pool, Server
from scaleup.web.connection import Limits
from scaleup.web.disk import Disk
from scaleup.web.forward import Forwarder, Rules
from scaleup.web.metrics import Metrics
from scaleup.web.server import Readiness, WebServer, own_fields
from scaleup.web.settings import WebSettings
from scaleup.web.static import CacheControl, Files

log = logging.getLogger(__name__)


async def serve(settings: WebSettings, process: Process) -> None:
    """Serve until the process is told to stop."""
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
    web = assemble(settings, pool, metrics, process.readiness)
    try:
        for endpoint in settings.listen:
            log.info("listening on %s", await web.listen(endpoint))
        process.ready()
        async with asyncio.TaskGroup() as group:
            checks = group.create_task(Checker(pool.servers, settings, changed).run(), name="health checks")
            await process.stopping.wait()
            await web.drain(settings.drain)
            checks.cancel()
    finally:
        await web.drain(0)  # not drained yet when something failed


def assemble(settings: WebSettings, pool: Pool, metrics: Metrics, readiness: Readiness) -> WebServer:
    """The server with its parts, not listening yet. Its `drain` closes them all."""
    return WebServer(
        settings.name,
        files=_files(settings),
        error_pages={int(text[:3]): text[4:] for text in settings.error_page},
        forwarder=_forwarder(settings, pool, metrics) if pool.servers else None,
        prefixes=settings.prefix,
        readiness=readiness,
        metrics=metrics,
        limits=Limits(settings.max_body, settings.keepalive, settings.send_timeout, settings.body_timeout),
    )


def _forwarder(settings: WebSettings, pool: Pool, metrics: Metrics) -> Forwarder:
    rules = Rules(
        settings.tries,
        settings.connect_timeout,
        settings.response_timeout,
        settings.tunnel_timeout,
        settings.app_keepalive,
        settings.trusted_proxy,
    )
    return Forwarder(settings.name, pool, rules, metrics, _new_id)


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
