"""`python -m scaleup.app`: one application process.

Stopping takes `--drain` seconds at most: half of them to be noticed, while /readyz says `draining`, nothing
is refused and who balances turns elsewhere; half of them for requests in progress.
"""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import Gauge

from scaleup.app.pool import DatabaseAwayError, Pool
from scaleup.app.server import HttpServer
from scaleup.app.settings import AppSettings
from scaleup.app.store import Store
from scaleup.app.views import Views
from scaleup.app.watch import Watch
from scaleup.net.sockets import endpoint_of, listening
from scaleup.processes import Process, run

log = logging.getLogger(__name__)


async def serve(settings: AppSettings, process: Process) -> None:
    pool = Pool(
        settings.database,
        settings.password(),
        size=settings.database_connections,
        timeout=settings.database_timeout,
    )
    _measure(pool, process)
    store = Store(pool)
    watch = Watch(pool, tell=lambda state: process.event("database", state=state))

    async def database_readiness() -> str | None:
        if watch.reason is None:
            try:
                await store.ping()
            except DatabaseAwayError as error:
                return str(error)
        return watch.reason

    process.add_readiness(database_readiness)
    views = Views(
        store,
        name=process.name,
        database=settings.database,
        trusted=settings.trusted_proxy,
        readiness=process.readiness,
    )
    server = HttpServer(
        views,
        name=process.name,
        registry=process.registry,
        grace=settings.drain / 2,
        log_access=settings.access_log,
    )
    sockets = [listening(endpoint, "--listen") for endpoint in settings.listen]
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run(), name="watch the database")
            await server.start(sockets)
            log.info("listening on %s", ", ".join(str(endpoint_of(sock)) for sock in sockets))
            await watch.asked.wait()  # a refusal ends us here, before anybody has counted on us
            process.ready()
            await process.stopping.wait()
            server.drain()
            if not process.orphaned:  # else nobody is left to notice
                await asyncio.sleep(settings.drain / 2)
            watching.cancel()
    finally:
        await server.stop()
        await pool.close()


def _measure(pool: Pool, process: Process) -> None:
    gauge = Gauge(
        "scaleup_app_database_connections", "Connections of the pool", ["state"], registry=process.registry
    )
    gauge.labels("in use").set_function(lambda: pool.in_use)
    gauge.labels("idle").set_function(lambda: pool.idle)


if __name__ == "__main__":
    run(AppSettings, serve)
