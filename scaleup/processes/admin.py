"""The admin address: `/healthz` (the process lives), `/readyz` (it can serve), `/metrics` (Prometheus).

A tier may have pages of its own there, read-only as the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import MappingProxyType

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import endpoint_of, listening
from scaleup.processes.pages import Pages

log = logging.getLogger(__name__)


class Admin:
    """A small HTTP server, read-only. `pages` may come and go while it serves."""

    def __init__(
        self,
        registry: CollectorRegistry,
        readiness: Callable[[], Awaitable[str | None]],
        pages: Pages = MappingProxyType({}),
    ) -> None:
        self._registry, self._readiness, self._pages = registry, readiness, pages
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/{page:.*}", self._page)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=15, shutdown_timeout=0.5)

    async def start(self, endpoint: Endpoint) -> Endpoint:
        """Returns where it listens. Raises StartupError."""
        sock = listening(endpoint, "--admin")
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()
        log.info("/healthz, /readyz and /metrics on http://%s", endpoint_of(sock))
        return endpoint_of(sock)

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = await self._readiness()
        return (
            web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _page(self, request: web.Request) -> web.Response:
        make = self._pages.get(request.path)
        if make is None:
            raise web.HTTPNotFound
        page = make()
        headers = {"Content-Type": page.content_type, "Cache-Control": "no-store", **page.headers}
        return web.Response(body=page.text.encode(), headers=headers)
