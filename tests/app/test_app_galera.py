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
from database_servers import PASSWORD
from galera import Node, cluster
from needs import requires
from test_app_history import Cluster, check

from scaleup.app.address import DatabaseAddress
from scaleup.app.migrate import migrate
from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.app.store import Store
from scaleup.app.transactions import Transactions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.timeout(240),
    requires("mariadbd", "mariadb-install-db", "rsync"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the nodes run as mysql, which only root can start"),
]

NOW = datetime(2026, 1, 31, 12, 0, 0)
URL = "https://example.org/"
NOTICE_SECONDS = 30.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with cluster() as nodes:
        yield nodes


@contextlib.asynccontextmanager
async def store_of(*nodes: Node, timeout: float = 5.0) -> AsyncIterator[tuple[Store, Pool]]:
    first, *others = (node.endpoint for node in nodes)
    pool = Pool(
        DatabaseAddress("scaleup", first, "scaleup", tuple(others)), PASSWORD, size=3, timeout=timeout
    )
    try:
        yield Store(Transactions(pool, chance=lambda: 0.5)), pool
    finally:
        await pool.close()


@pytest.fixture
async def empty(nodes: list[Node]) -> list[Node]:
    with contextlib.closing(connected(nodes[0])) as connection, connection.cursor() as cursor:
        for table in ("links", "idempotency_keys", "schema_migrations"):
            cursor.execute(f"DROP TABLE IF EXISTS scaleup.{table}")
    async with store_of(*nodes) as (_, pool):
        await migrate(pool)
    return nodes


def connected(node: Node) -> pymysql.connections.Connection:
    return pymysql.connect(
        host=node.endpoint.host,
        port=node.endpoint.port,
        user="scaleup",
        password=PASSWORD.encode(),
        autocommit=True,
        ssl_disabled=True,
    )


async def test_what_was_written_at_one_is_read_at_another_at_once(empty: list[Node]) -> None:
    """Without wsrep_sync_wait, one of twenty reads came too early."""
    first, second, third = empty
    async with store_of(first, second) as (here, one), store_of(second, third) as (there, other):
        for number in range(200):
            await here.add(f"a{number}", URL, NOW)
            assert await there.get(f"a{number}") is not None
        assert (one.endpoint, other.endpoint) == (first.endpoint, second.endpoint)


async def test_writers_at_several_nodes_lose_nothing(empty: list[Node]) -> None:
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


async def test_a_node_that_has_lost_the_others_is_left(empty: list[Node]) -> None:
    """It still answers `SELECT 1`: what it says of itself counts."""
    first, second, third = empty
    for node in (second, third):
        node.kill()
    try:
        await asyncio.to_thread(until_not_ready, first)
        async with store_of(first, second, timeout=2.0) as (store, _):
            with pytest.raises(DatabaseAwayError, match="its Galera node is not ready"):
                await store.add("c", URL, NOW)
    finally:
        first.kill()
        await asyncio.to_thread(begin_again, empty)
    async with store_of(*empty) as (store, _):
        await store.add("c", URL, NOW)


def until_not_ready(node: Node) -> None:
    deadline = time.monotonic() + NOTICE_SECONDS
    while (status := node.status()).get("wsrep_ready") != "OFF":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def begin_again(nodes: list[Node]) -> None:
    """As an operator does after all have gone: the last one begins a group, the others join it."""
    nodes[0].may_begin()
    nodes[0].start("")
    nodes[0].await_ready(1)
    for count, node in enumerate(nodes[1:], 2):
        node.start(nodes[0].group)
        node.await_ready(count)


class Galera(Cluster):
    """Two applications that begin at different nodes."""

    def __init__(self, data: Path, nodes: list[Node], chance: random.Random) -> None:
        super().__init__(data)
        self._nodes, self._chance = nodes, chance

    async def start(self) -> None:
        self._apps = [self._start_app(port) for port in self.ports]

    async def stop(self) -> None:
        for app in self._apps:
            app.terminate()
        for app in self._apps:
            await asyncio.to_thread(app.wait, 10)
        assert "Traceback" not in self._log.read_text()

    def _url(self, port: int) -> str:
        turn = sorted(self.ports).index(port)
        hosts = ",".join(str(node.endpoint) for node in (*self._nodes[turn:], *self._nodes[:turn]))
        return f"mysql://scaleup@{hosts}/scaleup"

    def urls(self) -> list[str]:
        with contextlib.closing(connected(self._nodes[0])) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 1")
            cursor.execute("SELECT url FROM scaleup.links")
            return [str(row[0]) for row in cursor.fetchall()]

    async def node_killed(self, _seconds: float) -> None:
        victim, other = self._two()
        victim.kill()
        await asyncio.to_thread(other.await_ready, len(self._nodes) - 1)  # else it would meet its own ghost
        victim.start(other.group)
        await asyncio.to_thread(victim.await_ready, len(self._nodes))

    async def node_stopped(self, seconds: float) -> None:
        victim, _ = self._two()
        victim.kill(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        victim.kill(signal.SIGCONT)
        await asyncio.to_thread(victim.await_ready, len(self._nodes))

    def _two(self) -> tuple[Node, Node]:
        victim, other = self._chance.sample(self._nodes, 2)
        return victim, other

    def faults(self) -> dict[str, Callable[[float], Awaitable[None]]]:
        return {
            "node killed": self.node_killed,
            "node stopped": self.node_stopped,
            "application killed": self.application_killed,
        }


async def test_a_history(empty: list[Node], tmp_path: Path) -> None:
    """Nothing that was acknowledged is lost, doubled or read too late, whichever node or application dies."""
    chance = random.Random(11)
    galera = Galera(tmp_path, empty, chance)
    names = sorted(galera.faults())
    chance.shuffle(names)
    figures = await check(galera, 11, names, seconds=1.0)
    assert figures["stored"]
