"""Three Galera nodes: any takes reads and writes, each sees what was committed at another, and one may die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path

import pymysql
import pytest
from database_servers import PASSWORD, DatabaseServer, Other, Sql, database
from needs import requires
from test_app_history import SOAK_SEED, Cluster, long_history

from bench.ports import free_port
from scaleup.app.address import DatabaseAddress
from scaleup.app.migrate import migrate
from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.app.store import Store
from scaleup.app.transactions import Transactions
from scaleup.net.addresses import Endpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.timeout(240),
    requires("mariadbd", "mariadb-install-db", "rsync"),
]

NOW = datetime(2026, 1, 31, 12, 0, 0)
URL = "https://example.org/"
NOTICE_SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[DatabaseServer]:
    with database("mariadb", arguments=["--galera", "3"]) as server:
        yield server


@contextlib.asynccontextmanager
async def store_of(*nodes: Sql, timeout: float = 5.0) -> AsyncIterator[tuple[Store, Pool]]:
    first, *others = (node.endpoint for node in nodes)
    pool = Pool(
        DatabaseAddress("scaleup", first, "scaleup", tuple(others)), PASSWORD, size=3, timeout=timeout
    )
    try:
        yield Store(Transactions(pool, chance=lambda: 0.5)), pool
    finally:
        await pool.close()


@pytest.fixture
async def empty(cluster: DatabaseServer) -> list[Sql]:
    for node in cluster.nodes:
        until_is(node, "ON", 3)
    cluster.empty()
    async with store_of(*cluster.nodes) as (_, pool):
        await migrate(pool)
    return cluster.nodes


def until_is(node: Sql, ready: str, size: int | None = None) -> None:
    """In a cluster of so many, if that is asked for."""
    deadline = time.monotonic() + NOTICE_SECONDS
    status: dict[object, object] = {}
    while True:
        with contextlib.suppress(pymysql.err.MySQLError):  # it is just starting
            status = dict(node.execute("SHOW GLOBAL STATUS LIKE 'wsrep%'"))
            if status["wsrep_ready"] == ready and size in (None, int(str(status["wsrep_cluster_size"]))):
                return
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


async def test_what_was_done_at_one_is_so_at_another_at_once(empty: list[Sql]) -> None:
    """Without wsrep_sync_wait, one of twenty came too early: reads, and deletes and inserts as well."""
    first, second, third = empty
    async with store_of(first, second) as (here, one), store_of(second, third) as (there, other):
        for number in range(200):
            await here.add(f"a{number}", URL, NOW)
            assert await there.get(f"a{number}") is not None
            await here.add(f"b{number}", URL, NOW)
            assert await there.delete(f"b{number}")
            assert await here.delete(f"a{number}")
            await there.add(f"a{number}", URL, NOW)
        assert (one.endpoint, other.endpoint) == (first.endpoint, second.endpoint)


async def test_writers_at_several_nodes_lose_nothing(empty: list[Sql]) -> None:
    """Transactions that meet at COMMIT are done again."""
    async with contextlib.AsyncExitStack() as stack:
        stores = [
            (await stack.enter_async_context(store_of(node, *[it for it in empty if it is not node])))[0]
            for node in empty
        ]
        async with asyncio.TaskGroup() as tasks:
            for number in range(90):
                tasks.create_task(stores[number % 3].add(f"b{number}", URL, NOW))
        for store in stores:
            for number in range(90):
                assert await store.get(f"b{number}") is not None


async def test_a_node_that_has_lost_the_others_is_left(empty: list[Sql]) -> None:
    """It still answers `SELECT 1`: what it says of itself counts."""
    first, second, third = empty
    with second.paused(), third.paused():
        await asyncio.to_thread(until_is, first, "OFF")
        nobody = Other(Endpoint("127.0.0.1", free_port()), first.data)
        async with store_of(first, nobody) as (store, _):
            with pytest.raises(DatabaseAwayError, match="its Galera node is not ready"):
                await store.add("c", URL, NOW)
    await asyncio.to_thread(until_is, first, "ON", 3)
    async with store_of(*empty) as (store, _):
        await store.add("c", URL, NOW)


class Galera(Cluster):
    """Two applications that begin at different nodes."""

    def __init__(self, data: Path, nodes: list[Sql], chance: random.Random) -> None:
        super().__init__(data)
        self._nodes, self._chance = nodes, chance

    async def start(self) -> None:
        self._apps = [self._start_app(port) for port in self.ports]

    async def stop(self) -> None:
        for app in self._apps:
            app.terminate()
        for app in self._apps:
            await asyncio.to_thread(app.wait, 30)
        assert "Traceback" not in self._log.read_text()

    def _url(self, port: int) -> str:
        turn = sorted(self.ports).index(port)
        hosts = ",".join(str(node.endpoint) for node in (*self._nodes[turn:], *self._nodes[:turn]))
        return f"mysql://scaleup@{hosts}/scaleup"

    def urls(self) -> list[str]:
        with self._nodes[0].connection() as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 1")
            cursor.execute("SELECT url FROM links")
            return [str(row[0]) for row in cursor.fetchall()]

    async def node_killed(self, _seconds: float) -> None:
        """scaleup.db starts it again."""
        victim, other = self._chance.sample(self._nodes, 2)
        os.kill(victim.server_pid(), signal.SIGKILL)
        await asyncio.to_thread(until_is, other, "ON", len(self._nodes) - 1)
        await asyncio.to_thread(until_is, victim, "ON", len(self._nodes))

    async def node_stopped(self, seconds: float) -> None:
        victim = self._chance.choice(self._nodes)
        with victim.paused():
            await asyncio.sleep(seconds)
        await asyncio.to_thread(until_is, victim, "ON", len(self._nodes))

    def faults(self) -> dict[str, Callable[[float], Awaitable[None]]]:
        return {
            "node killed": self.node_killed,
            "node stopped": self.node_stopped,
            "application killed": self.application_killed,
        }


async def test_a_history(empty: list[Sql], tmp_path: Path) -> None:
    """Nothing that was acknowledged is lost, doubled or read too late, whichever node or application dies."""
    chance = random.Random(SOAK_SEED)
    await long_history(Galera(tmp_path, empty, chance), "three Galera nodes", chance)
