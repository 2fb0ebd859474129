"""The life of a process that serves: put the parts together, serve, drain.

Stopping takes `--drain` seconds at most: half of them to be noticed, while /readyz says `draining`, nothing
is refused and who balances turns elsewhere; half of them for requests in progress.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Sequence
from functools import partial

from scaleup.app.metrics import measure
from scaleup.app.pool import Pool
from scaleup.app.replicas import REPLICA_SHARE, Replica, Replicas
from scaleup.app.server import HttpServer
from scaleup.app.settings import AppSettings
from scaleup.app.store import Store
from scaleup.app.transactions import Transactions
from scaleup.app.upkeep import Clicks, keep_forgetting
from scaleup.app.views import Views
from scaleup.app.watch import Watch
from scaleup.net.sockets import endpoint_of
from scaleup.processes import Process
from scaleup.processes.worker import collect_rarely

log = logging.getLogger(__name__)


async def serve(settings: AppSettings, process: Process, sockets: Sequence[socket.socket]) -> None:
    """Serve on those listening sockets, which are ours from now on, until the process is told to stop."""
    make_pool = partial(
        Pool, password=settings.password(), size=settings.database_connections, ssl=settings.database_ssl()
    )
    pool = make_pool(settings.database, timeout=settings.database_timeout)
    replicas = [
        make_pool(settings.database.at(host), timeout=settings.database_timeout * REPLICA_SHARE)
        for host in settings.database_replica
    ]
    transactions = Transactions(pool, chance=random.random, follows=bool(replicas))
    reading = Replicas(
        pool,
        [Replica(it, Transactions(it, chance=random.random, follows=True)) for it in replicas],
        settings.database_max_lag,
    )
    store = Store(transactions, reading)
    clicks = Clicks(store)
    watch = Watch(pool, tell=lambda state: process.event("database", state=state))

    async def database_readiness() -> str | None:
        if reading.usable:  # links can be read, whatever befalls the primary
            return None
        return await watch.readiness()

    process.add_readiness(database_readiness)
    views = Views(
        store,
        clicks,
        name=settings.name,
        database=lambda: pool.endpoint,
        trusted=settings.trusted_proxy,
        readiness=process.readiness,
    )
    server = HttpServer(
        views,
        name=settings.name,
        positions=bool(replicas),
        grace=settings.drain / 2,
        log_access=settings.access_log,
    )
    measure(process.registry, pool, transactions, clicks, reading, server.responses)
    served, clock = asyncio.Event(), asyncio.get_running_loop().time
    end: float | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(watch.run(), name="watch the database"),
                tasks.create_task(keep_forgetting(store), name="forget old keys"),
            ]
            if replicas:
                watching.append(tasks.create_task(reading.run(), name="watch the replicas"))
            tasks.create_task(stopping_ends(watch.asked, process.stopping), name="wait for the end")
            tasks.create_task(clicks.keep_flushing(served), name="write the clicks")
            await server.start(sockets)
            log.info("listening on %s", ", ".join(str(endpoint_of(sock)) for sock in sockets))
            await watch.asked.wait()  # a refusal ends us here, before anybody has counted on us
            collect_rarely()
            if not process.stopping.is_set():
                process.ready()
            await process.stopping.wait()
            server.drain()
            if not process.orphaned:  # else nobody is left to notice
                await asyncio.sleep(settings.drain / 2)
            await server.stop()
            served.set()
            end = clock() + settings.database_timeout
            for task in watching:
                task.cancel()
    finally:
        await server.stop()  # when something has failed
        # What was being written when the last request was served has a share of that time.
        await clicks.write_last(settings.database_timeout if end is None else max(0.0, end - clock()))
        await asyncio.gather(*(it.close() for it in (pool, *replicas)))


async def stopping_ends(waiting: asyncio.Event, stopping: asyncio.Event) -> None:
    """Who is told to stop waits for nothing else."""
    await stopping.wait()
    waiting.set()
