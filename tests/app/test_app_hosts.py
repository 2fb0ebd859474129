"""A database of several hosts: the one that is not read-only is used, and found again when it is another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime

import pytest
from aiohttp.test_utils import make_mocked_request
from app_harness import make_pool, run_app
from database_servers import PASSWORD, DatabaseServer, database
from needs import requires

from bench.ports import free_port
from scaleup.app import session
from scaleup.app.address import DatabaseAddress
from scaleup.app.migrate import migrate
from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.app.replicas import Replica, Replicas
from scaleup.app.store import INSERT, Store
from scaleup.app.transactions import Transactions
from scaleup.net.addresses import Endpoint

pytestmark = [pytest.mark.slow, requires("mariadbd", "mariadb")]

NOW = datetime(2026, 1, 31, 12, 0, 0)
URL = "https://example.org/"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[DatabaseServer, DatabaseServer]]:
    with database("mariadb") as one, database("mariadb") as two:
        yield one, two


@pytest.fixture
async def pair(
    servers: tuple[DatabaseServer, DatabaseServer],
) -> tuple[DatabaseServer, DatabaseServer]:
    """The first is the primary, the second read-only; both with our tables, and no replication between them."""
    for server in servers:
        server.as_owner("SET GLOBAL read_only = 0")
        server.empty()
        async with make_pool(server) as pool:
            await migrate(pool)
    servers[1].as_owner("SET GLOBAL read_only = 1")
    return servers


@contextlib.asynccontextmanager
async def store_of(*hosts: Endpoint, timeout: float = 20.0) -> AsyncIterator[tuple[Store, Pool]]:
    pool = Pool(DatabaseAddress("scaleup", hosts[0], "scaleup", hosts[1:]), PASSWORD, size=3, timeout=timeout)
    try:
        yield Store(Transactions(pool, chance=lambda: 0.5)), pool
    finally:
        await pool.close()


def codes(server: DatabaseServer) -> list[object]:
    return [row[0] for row in server.execute("SELECT code FROM links ORDER BY code")]


async def test_the_primary_is_found_wherever_it_stands(pair: tuple[DatabaseServer, DatabaseServer]) -> None:
    primary, replica = pair
    nobody = Endpoint("127.0.0.1", free_port())
    for hosts in ((nobody, replica.endpoint, primary.endpoint), (primary.endpoint, replica.endpoint)):
        async with store_of(*hosts) as (store, pool):
            await store.add(f"c{len(hosts)}", URL, NOW)
            assert pool.endpoint == primary.endpoint
    assert codes(primary) == ["c2", "c3"]
    assert codes(replica) == []


async def test_many_look_for_the_primary_at_once(pair: tuple[DatabaseServer, DatabaseServer]) -> None:
    """Those that find the first hosts closed at the same time do not lead each other past the right one."""
    primary, replica = pair
    nobody = Endpoint("127.0.0.1", free_port())
    async with store_of(nobody, replica.endpoint, primary.endpoint) as (store, pool):
        await asyncio.gather(*(store.add(f"c{number}", URL, NOW) for number in range(12)))
        assert pool.endpoint == primary.endpoint
        assert pool.idle == pool.size  # all to the host that is used
    assert len(codes(primary)) == 12


async def test_another_becomes_the_primary_and_nobody_is_refused(
    pair: tuple[DatabaseServer, DatabaseServer],
) -> None:
    one, two = pair
    async with store_of(one.endpoint, two.endpoint) as (store, pool):
        await pool.warm()
        await store.add("a", URL, NOW)
        one.as_owner("SET GLOBAL read_only = 1")
        two.as_owner("SET GLOBAL read_only = 0")
        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(store.add(f"b{number}", URL, NOW))
        assert pool.endpoint == two.endpoint
        assert len(codes(two)) == 5
        assert await store.get("b0") is not None  # reads have moved, too
        assert await store.get("a") is None  # which was never replicated: see docs/app.md
    assert codes(one) == ["a"]


async def test_a_primary_that_is_stopped_is_left_within_the_deadline(
    pair: tuple[DatabaseServer, DatabaseServer],
) -> None:
    one, two = pair
    async with store_of(one.endpoint, two.endpoint, timeout=3.0) as (store, pool):
        await store.add("a", URL, NOW)
        with one.paused():
            two.as_owner("SET GLOBAL read_only = 0")
            begun = time.monotonic()
            with pytest.raises(DatabaseAwayError):
                await store.add("b", URL, NOW)  # on a connection that was open
            await store.add("c", URL, NOW)
            assert time.monotonic() - begun < 2 * 3.0 + 2.0  # an add's deadline each
            assert pool.endpoint == two.endpoint
    assert codes(two) == ["c"]


async def test_who_asks_whether_it_is_the_primary_leaves_one_that_is_stopped(
    pair: tuple[DatabaseServer, DatabaseServer],
) -> None:
    one, two = pair
    async with store_of(one.endpoint, two.endpoint, timeout=6.0) as (store, pool):
        await store.add("a", URL, NOW)
        two.as_owner("SET GLOBAL read_only = 0")
        with one.paused():
            begun = time.monotonic()
            await asyncio.gather(*(pool.recheck() for _ in range(10)))
            assert time.monotonic() - begun < 6.0 + 6.0  # each after the other would be 50 s
        assert pool.endpoint == two.endpoint


async def test_one_that_does_not_say_how_far_it_is_may_not_be_the_primary_any_more(
    pair: tuple[DatabaseServer, DatabaseServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.transactions.POSITION", "SELECT 'no position', ''")
    one, two = pair
    async with store_of(one.endpoint, two.endpoint) as (_, pool):
        transactions = Transactions(pool, chance=lambda: 0.5, follows=True)
        store = Store(transactions, Replicas(pool, [Replica(pool, transactions)], max_lag=1.0))
        await pool.warm()
        one.as_owner("SET GLOBAL read_only = 1")
        two.as_owner("SET GLOBAL read_only = 0")
        two.execute(INSERT, "new", URL, NOW)
        assert await store.get("new") is None  # from the former primary: who has seen nothing does not care
        session.begin(make_mocked_request("GET", "/", {session.HEADER: "0-1-1"}))
        assert await store.get("new") is not None


async def test_no_primary_is_told_of_each_host(pair: tuple[DatabaseServer, DatabaseServer]) -> None:
    one, two = pair
    one.as_owner("SET GLOBAL read_only = 1")
    async with store_of(one.endpoint, two.endpoint) as (store, _):
        with pytest.raises(DatabaseAwayError) as caught:
            await store.add("a", URL, NOW)
    for server in pair:
        assert f"{server.endpoint}: it is read-only" in str(caught.value)


async def test_the_interface_says_which_host(pair: tuple[DatabaseServer, DatabaseServer]) -> None:
    one, two = pair
    address = DatabaseAddress("scaleup", two.endpoint, "scaleup", (one.endpoint,))
    async with run_app(one, database=address) as app:
        await app.until_ready()
        async with app.client.get("/api/whoami") as response:
            assert (await response.json())["database"]["address"] == str(one.endpoint)
