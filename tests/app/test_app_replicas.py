"""Reads from real replicas: what a session has seen it goes on seeing, whatever becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from app_harness import App, make_pool, run_app
from database_servers import DatabaseServer, Other, database
from needs import requires
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scaleup.app.address import DatabaseAddress
from scaleup.app.position import Position
from scaleup.app.replicas import Replica, Replicas
from scaleup.app.session import COOKIE, HEADER
from scaleup.app.transactions import Transactions

pytestmark = [pytest.mark.slow, requires("mariadbd", "mariadb")]

USABLE = "scaleup_app_replica_usable"
URL = "https://example.org/"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a replica that is well is not to be taken for one that is away, or behind."""
    monkeypatch.setattr("scaleup.app.replicas.ANSWER_SECONDS", 5.0)
    monkeypatch.setattr("scaleup.app.replicas.WAIT_SECONDS", 1.0)
    monkeypatch.setattr("scaleup.app.transactions.POSITION_SECONDS", 5.0)


@pytest.fixture(scope="module")
def servers() -> Iterator[DatabaseServer]:
    with database("mariadb", arguments=["--replicas", "2"]) as server:
        yield server


@pytest.fixture
def primary(servers: DatabaseServer) -> Iterator[DatabaseServer]:
    """With replicas that have all it has."""
    servers.empty()
    yield servers
    for replica in servers.replicas:
        replica.as_owner("SET GLOBAL read_only = 1; STOP SLAVE; START SLAVE")
        caught_up(servers, replica)


def caught_up(primary: DatabaseServer, replica: Other) -> None:
    ((position,),) = primary.execute("SELECT @@GLOBAL.gtid_binlog_pos")
    assert replica.execute("SELECT MASTER_GTID_WAIT(%s, 20)", position) == ((0,),)


@contextlib.asynccontextmanager
async def reading(
    primary: DatabaseServer, *replicas: Other, max_lag: float = 60.0, **more: object
) -> AsyncIterator[App]:
    """An application that has found them usable."""
    hosts = [replica.endpoint for replica in replicas]
    async with run_app(primary, database_replica=hosts, database_max_lag=max_lag, **more) as app:
        await app.until_ready()
        await until_usable(app, *replicas)
        yield app


def measured(app: App, name: str) -> dict[str, float]:
    """By replica."""
    text = generate_latest(app.process.registry).decode()
    return {
        sample.labels["replica"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def until_usable(app: App, *replicas: Other) -> None:
    """These and no others."""
    wanted = {str(replica.endpoint) for replica in replicas}
    async with asyncio.timeout(20):
        while wanted != {it for it, value in measured(app, USABLE).items() if value}:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def get(app: App, code: str, position: str = "") -> tuple[int, str]:
    """As a client without cookies: the status, and the position that was told."""
    headers = {HEADER: position} if position else {}
    async with (
        aiohttp.ClientSession(f"http://{app.endpoint}", cookie_jar=aiohttp.DummyCookieJar()) as client,
        client.get(f"/api/links/{code}", headers=headers) as response,
    ):
        return response.status, response.headers.get(HEADER, "")


async def test_who_has_written_reads_it_at_once(primary: DatabaseServer) -> None:
    async with reading(primary, *primary.replicas) as app:
        before = measured(app, "scaleup_app_replica_uses_total")
        for number in range(100):
            await app.add(code=f"c{number}")
            for path in (f"/api/links/c{number}", f"/l/c{number}"):
                async with app.client.get(path, allow_redirects=False) as response:
                    assert response.status in (200, 302)
            async with app.client.get("/api/links?limit=1") as response:
                assert (await response.json())["links"][0]["code"] == f"c{number}"
        after = measured(app, "scaleup_app_replica_uses_total")
        assert sum(after.values()) - sum(before.values()) > 200  # they were asked, and not the primary
        assert all(after[it] - before[it] > 50 for it in after)


async def test_a_replica_that_does_not_have_it_yet_is_not_asked_by_who_wrote_it(
    primary: DatabaseServer,
) -> None:
    (replica, _) = primary.replicas
    async with reading(primary, replica) as app:
        await app.add(code="old")
        await asyncio.to_thread(caught_up, primary, replica)
        await asyncio.to_thread(replica.as_owner, "STOP SLAVE SQL_THREAD")
        await app.add(code="new")
        async with app.client.get("/api/links/new") as response:  # with the cookie of its write
            assert response.status == 200
            position = response.headers[HEADER]
        assert (await get(app, "new", position))[0] == 200  # the header does the same
        assert (await get(app, "new"))[0] == 404  # a stranger, who was told nothing of it
        assert (await get(app, "old"))[0] == 200
        await asyncio.to_thread(replica.as_owner, "START SLAVE SQL_THREAD")
        await asyncio.to_thread(caught_up, primary, replica)
        assert (await get(app, "new"))[0] == 200


async def test_reads_do_not_go_back_in_time_from_one_replica_to_the_other(primary: DatabaseServer) -> None:
    """A client that only reads, and hands on what it was told."""
    one, two = primary.replicas
    async with reading(primary, one, two) as app:
        await app.add(code="old")
        for replica in (one, two):
            await asyncio.to_thread(caught_up, primary, replica)
        await asyncio.to_thread(two.as_owner, "STOP SLAVE SQL_THREAD")
        await app.add(code="new")
        await asyncio.to_thread(caught_up, primary, one)
        found = [await get(app, "new") for _ in range(20)]
        assert {status for status, _ in found} == {200, 404}  # one has it, the other not
        position = next(position for status, position in found if status == 200)
        assert {(await get(app, "new", position))[0] for _ in range(20)} == {200}


async def test_one_that_lags_is_left_out_until_it_has_caught_up(primary: DatabaseServer) -> None:
    replica, _ = primary.replicas
    async with reading(primary, replica, max_lag=1.0) as app:
        await app.add(code="old")
        await asyncio.to_thread(replica.as_owner, "STOP SLAVE SQL_THREAD")
        await app.add(code="new")
        await until_usable(app)
        assert (await get(app, "new"))[0] == 200  # from the primary
        await asyncio.to_thread(replica.as_owner, "START SLAVE SQL_THREAD")
        await until_usable(app, replica)


async def test_one_that_has_lost_the_primary_is_left_out(primary: DatabaseServer) -> None:
    """Its Seconds_Behind_Master would be NULL, and with a cable cut 0 for a minute."""
    replica, _ = primary.replicas
    async with reading(primary, replica, max_lag=1.0) as app:
        await asyncio.to_thread(replica.as_owner, "STOP SLAVE IO_THREAD")
        await app.add(code="new")
        await until_usable(app)
        await asyncio.to_thread(replica.as_owner, "START SLAVE IO_THREAD")
        await until_usable(app, replica)


async def test_one_that_hangs_costs_a_read_a_third_of_its_time(primary: DatabaseServer) -> None:
    one, two = primary.replicas
    async with reading(primary, one, two, database_timeout=6.0) as app:
        await app.add(code="here")
        for replica in (one, two):
            await asyncio.to_thread(caught_up, primary, replica)
        with one.paused():
            begun = time.monotonic()
            statuses = [status for status, _ in await asyncio.gather(*(get(app, "here") for _ in range(20)))]
            assert statuses == [200] * 20
            assert time.monotonic() - begun < 6.0  # generous: 2 s, and then the primary
            await until_usable(app, two)
        await until_usable(app, one, two)


async def test_one_that_dies_is_left_and_found_again(primary: DatabaseServer) -> None:
    one, two = primary.replicas
    async with reading(primary, one, two) as app:
        await app.add(code="here")
        os.kill(one.server_pid(), signal.SIGKILL)
        for _ in range(20):
            assert (await get(app, "here", "newest"))[0] == 200
            assert (await get(app, "none"))[0] == 404
        await until_usable(app, two)
        await until_usable(app, one, two)


async def test_reads_go_on_while_the_primary_is_away(primary: DatabaseServer) -> None:
    async with reading(primary, *primary.replicas, database_timeout=3.0) as app:
        await app.add(code="here")
        for replica in primary.replicas:
            await asyncio.to_thread(caught_up, primary, replica)
        with primary.paused():
            for _ in range(10):
                async with app.client.get("/l/here", allow_redirects=False) as response:
                    assert response.status == 302
            async with app.client.get("/readyz") as response:
                assert response.status == 200
            async with app.client.post("/api/links", json={"url": URL}) as response:
                assert response.status == 503
                assert (await response.json())["outcome"] in ("failed", "unknown")
            assert (await get(app, "here"))[0] == 200


async def test_who_needs_the_primary_while_it_hangs_waits_for_its_time_and_a_third(
    primary: DatabaseServer,
) -> None:
    """Twenty at once, who have seen what no replica may have. First it is asked whether it still is the primary."""
    async with reading(primary, *primary.replicas, database_timeout=3.0) as app:
        await app.add(code="here")
        with primary.paused():
            begun = time.monotonic()
            found = await asyncio.gather(*(get(app, "here", "newest") for _ in range(20)))
            assert time.monotonic() - begun < 4.0 + 4.0  # generous; each after the other would be 80 s
            assert [status for status, _ in found] == [503] * 20
        async with app.client.get("/api/links/here", headers={HEADER: "newest"}) as response:
            assert response.status == 200


async def test_what_is_no_replica_is_not_read_from(primary: DatabaseServer) -> None:
    one, two = primary.replicas
    await asyncio.to_thread(two.as_owner, "SET GLOBAL read_only = 0")
    hosts = [primary.endpoint, one.endpoint, two.endpoint]
    async with run_app(primary, database_replica=hosts, database_max_lag=60.0) as app:
        await app.until_ready()
        await until_usable(app, one)


@pytest.mark.parametrize("engine", ["embedded"])
async def test_a_database_without_positions_has_no_replicas(engine: str) -> None:
    with database(engine) as alone, database(engine) as other:
        async with run_app(alone, database_replica=[other.endpoint]) as app:
            await app.until_ready()
            await app.add(code="here")
            async with app.client.get("/api/links/here") as response:
                assert response.status == 200
            assert measured(app, USABLE) == {str(other.endpoint): 0.0}


async def test_positions_that_clients_make_up(
    primary: DatabaseServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never comes is waited for a tenth of a second, by half of the connections at most; then the primary."""
    monkeypatch.setattr("scaleup.app.replicas.WAIT_SECONDS", 0.1)
    (replica, _) = primary.replicas
    async with reading(primary, replica, database_connections=4) as app:
        await app.add(code="here")
        await asyncio.to_thread(caught_up, primary, replica)
        domain, server, number = map(int, (await get(app, "here"))[1].split("-"))
        for made_up in (
            *(f"{domain}-{server + 1}-{number}", f"{domain}-{server + 1}-{number + 1}"),
            *("0-1-99999999999", "7-1-1", "newest", "rubbish", "0-1-1,0", "0" * 5000, "'; DROP"),
            *(f"{2**32 - 1}-{2**32 - 1}-{2**64 - 1}", f"{2**32}-1-1", f"0-{2**32}-1", f"0-1-{2**64}"),
        ):
            assert (await get(app, "here", made_up))[0] == 200
        begun = time.monotonic()
        found = await asyncio.gather(*(get(app, "here", "7-1-1") for _ in range(100)))
        assert {status for status, _ in found} == {200}
        assert time.monotonic() - begun < 6.0  # 100 after each other would be 10 s
    assert "is not read from" not in caplog.text  # nor was it at any time


async def test_what_the_server_takes_for_no_position_is_no_fault_of_it(primary: DatabaseServer) -> None:
    """As long as `parse` and MariaDB agree, nobody can send such a one."""
    async with make_pool(primary) as pool:
        replica = Replica(pool, Transactions(pool, lambda: 0.5))
        replica.becomes(None)
        assert await Replicas(pool, [replica], max_lag=1.0).choose(Position({2**32: (1, 1)})) is None
        assert replica.reason is None


async def test_who_gets_a_cookie(primary: DatabaseServer) -> None:
    (replica, _) = primary.replicas
    async with reading(primary, replica) as app:
        async with app.client.get("/api/links") as response:
            assert HEADER in response.headers
            assert not response.cookies  # it has written nothing: nothing to be remembered
        async with app.client.post("/api/links", json={"url": URL, "code": "c"}) as response:
            (cookie,) = response.cookies.values()
            assert cookie.key.startswith(f"{COOKIE}-")
            assert cookie.value == response.headers[HEADER]
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
        async with app.client.get("/api/links") as response:
            assert response.status == 200
        assert [it.value for it in app.client.cookie_jar] == [response.headers[HEADER]]
        async with app.client.post("/api/links", json={"url": URL, "code": "c"}) as response:
            assert response.status == 409  # who hears that it is taken may look where it certainly is
            assert response.headers[HEADER] == "newest"
        async with app.client.get("/api/links/c") as response:
            assert response.status == 200
            assert response.headers[HEADER] != "newest"


async def test_no_replicas_no_positions(primary: DatabaseServer) -> None:
    async with run_app(primary) as app:
        await app.until_ready()
        async with app.client.post("/api/links", json={"url": URL}) as response:
            assert HEADER not in response.headers
            assert not response.cookies


async def test_a_replica_becomes_the_primary() -> None:
    """As docs/cluster.md has it: the old one read-only, the other caught up and then writable, and followed."""
    with database("mariadb", arguments=["--replicas", "2"]) as primary:
        one, two = primary.replicas
        address = DatabaseAddress("scaleup", primary.endpoint, "scaleup", (one.endpoint,))
        async with reading(primary, one, two, database=address) as app:
            await app.add(code="before")
            await asyncio.to_thread(primary.as_owner, "SET GLOBAL read_only = 1")
            await asyncio.to_thread(caught_up, primary, one)
            await asyncio.to_thread(one.as_owner, "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0")
            user = "CREATE USER follower IDENTIFIED BY 'f'; GRANT REPLICATION SLAVE ON *.* TO follower"
            await asyncio.to_thread(one.as_owner, user)  # scaleup.db's own is known to its primary only
            to_one = f"MASTER_HOST='{one.endpoint.host}', MASTER_PORT={one.endpoint.port}"
            to_one += ", MASTER_USER='follower', MASTER_PASSWORD='f'"
            await asyncio.to_thread(two.as_owner, f"STOP SLAVE; CHANGE MASTER TO {to_one}; START SLAVE")
            async with asyncio.timeout(20):  # nobody writes, and the new primary is found all the same
                while await primary_of(app) != str(one.endpoint):  # noqa: ASYNC110 - nobody sets an event
                    await asyncio.sleep(0.05)
            await until_usable(app, two)
            await app.add(code="after")
            await asyncio.to_thread(caught_up, one, two)
            for code in ("before", "after"):
                async with app.client.get(f"/api/links/{code}") as response:
                    assert response.status == 200


async def test_one_that_has_not_heard_of_the_change_asks_before_it_answers_who_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connections to the former primary still answer."""
    monkeypatch.setattr("scaleup.app.watch.RECHECK_SECONDS", 1000.0)
    with database("mariadb", arguments=["--replicas", "2"]) as primary:
        one, two = primary.replicas
        address = DatabaseAddress("scaleup", primary.endpoint, "scaleup", (one.endpoint,))
        async with reading(primary, two, database=address) as app:
            await app.add(code="before")
            await asyncio.to_thread(two.as_owner, "STOP SLAVE")  # nothing new comes there
            await asyncio.to_thread(primary.as_owner, "SET GLOBAL read_only = 1")
            await asyncio.to_thread(caught_up, primary, one)
            await asyncio.to_thread(one.as_owner, "STOP SLAVE; SET GLOBAL read_only = 0")
            async with reading(primary, database=address) as other:
                async with other.client.get("/api/links/before") as response:
                    assert response.status == 200
                await other.add(code="after")
            ((position,),) = one.execute("SELECT @@GLOBAL.gtid_binlog_pos")
            assert (await get(app, "after"))[0] == 404  # it has not heard, and who asks neither
            assert (await get(app, "after", str(position)))[0] == 200
            assert await primary_of(app) == str(one.endpoint)


async def primary_of(app: App) -> str:
    async with app.client.get("/api/whoami") as response:
        return str((await response.json())["database"]["address"])
