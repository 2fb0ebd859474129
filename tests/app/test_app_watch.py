"""The database goes away and comes back: 503 in time, readiness says why, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from app_harness import App, address_of, make_pool, run_app, until
from database_servers import DatabaseServer, start_database
from database_servers import database as database_server
from needs import requires

from bench.ports import free_port
from scaleup.app.address import DatabaseAddress
from scaleup.app.migrate import LOCK, Migration, migrate, migrations
from scaleup.app.pool import Pool
from scaleup.app.watch import Watch
from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint


async def status(app: App, path: str = "/api/links") -> int:
    async with app.client.get(path) as response:
        return response.status


async def timed(app: App) -> tuple[int, float]:
    begun = time.monotonic()
    async with app.client.post("/api/links", json={"url": "https://example.org/"}) as response:
        if response.status == 503:
            assert response.headers["Retry-After"] == "1"
            assert response.content_type == "application/problem+json"
        return response.status, time.monotonic() - begun


async def test_a_paused_database_costs_503_in_time_and_nothing_afterwards(database: DatabaseServer) -> None:
    async with run_app(database, database_timeout=2.0) as app:
        await app.until_ready()
        with database.paused():
            answers = await asyncio.gather(*(timed(app) for _ in range(30)))  # three times the pool's size
            assert {code for code, _ in answers} == {503}
            assert max(seconds for _, seconds in answers) < 5.5  # one after the other would be 6 s
            assert await status(app, "/healthz") == 200
            assert await status(app, "/readyz") == 503
        begun = time.monotonic()
        await app.until_ready()
        assert time.monotonic() - begun < 10
        assert (await timed(app))[0] == 201
        assert ("database", {"state": "away"}) in app.process.events
        assert ("database", {"state": "back"}) in app.process.events


@pytest.mark.slow
@requires("mariadbd")
async def test_a_restart_of_the_database_loses_nothing_that_was_acknowledged(data_directory: Path) -> None:
    """Writes go on all the time. Away: 503 within 2 s. Back: 201 again within 2 s; a busy machine adds to both."""
    port = free_port()
    start = {"engine": "mariadb", "port": port, "arguments": ["--data", str(data_directory)]}
    server = await asyncio.to_thread(lambda: start_database(**start))
    stored: list[str] = []
    slowest = 0.0
    last_answer = 0

    async def write(app: App) -> None:
        nonlocal slowest, last_answer
        for number in range(10_000):
            code = f"w{number}"
            begun = time.monotonic()
            async with app.client.post(
                "/api/links", json={"url": "https://a.example/", "code": code}
            ) as answer:
                slowest = max(slowest, time.monotonic() - begun)
                last_answer = answer.status
                if answer.status == 201:
                    stored.append(code)
            await asyncio.sleep(0.01)

    try:
        async with run_app(server, database_timeout=1.5) as app:
            await app.until_ready()
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(write(app))
                await until(lambda: len(stored) >= 20)
                await asyncio.to_thread(server.stop)
                before = len(stored)
                await until(lambda: last_answer == 503)
                server = await asyncio.to_thread(lambda: start_database(**start))
                back = time.monotonic()
                await until(lambda: len(stored) >= before + 20)
                recovered = time.monotonic() - back
                writing.cancel()
        codes = {row[0] for row in server.execute("SELECT code FROM links")}
        assert codes >= set(stored)
        assert len(stored) == len(set(stored))
        print(f"slowest answer {slowest:.2f} s, 20 writes {recovered:.2f} s after the database was back")
        assert slowest < 5
        assert recovered < 5
    finally:
        await asyncio.to_thread(server.stop)


async def test_who_has_too_much_to_do_is_ready(database: DatabaseServer) -> None:
    """Else who balances sends its share to the others, which have too much to do already."""
    async with make_pool(database, size=1) as pool, asyncio.TaskGroup() as tasks:
        watch = Watch(pool)
        watching = tasks.create_task(watch.run())
        await watch.asked.wait()
        async with pool.cursor():
            assert await watch.readiness() is None
            pool.on_away("somebody has lost a connection")
            while await watch.readiness() is not None:  # noqa: ASYNC110 - it looks again
                await asyncio.sleep(0.01)
        watching.cancel()


async def test_a_database_that_is_not_there_yet_is_waited_for() -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        absent = DatabaseServer("embedded", Endpoint("127.0.0.1", port), "", None, None, "")  # type: ignore[arg-type]
        async with run_app(absent) as app:
            assert await status(app, "/healthz") == 200
            assert (await timed(app))[0] == 503
            async with app.client.get("/readyz") as response:
                assert response.status == 503
                assert "cannot connect" in (await response.json())["detail"]
            await asyncio.to_thread(lambda: stack.enter_context(database_server("embedded", port=port)))
            begun = time.monotonic()
            await app.until_ready()
            assert time.monotonic() - begun < 10
            assert await app.add()


async def test_a_database_that_comes_back_empty_gets_its_tables_again(
    app: App, database: DatabaseServer
) -> None:
    await app.add()
    database.empty()
    assert await status(app) == 503
    await app.until_ready()
    assert await status(app) == 200


async def test_a_refused_password_ends_the_start_with_what_to_do(database: DatabaseServer) -> None:
    async with make_pool(database, password="wrong") as pool:
        with pytest.raises(StartupError) as caught:
            await Watch(pool).run()
    assert str(database.endpoint) in str(caught.value)
    for word in ("'scaleup'", "--database", "--database-password-file", "SCALEUP_APP_DATABASE_PASSWORD"):
        assert word in str(caught.value)
    assert "wrong" not in str(caught.value)


async def test_an_unknown_database_ends_the_start(database: DatabaseServer) -> None:
    from database_servers import PASSWORD

    pool = Pool(DatabaseAddress("scaleup", database.endpoint, "nosuch"), PASSWORD, size=1, timeout=10)
    with pytest.raises(StartupError, match=r"nosuch|there is 'scaleup'"):
        await Watch(pool).run()
    await pool.close()


@contextlib.contextmanager
def migrating(database: DatabaseServer) -> Iterator[None]:
    """Another application is at it, and takes its time."""
    with database.connection() as other, other.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, 0)", (LOCK,))
        yield


async def test_nobody_waits_for_the_end_of_a_migration(
    database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.watch.ASKED_SECONDS", 0.05)
    monkeypatch.setattr("scaleup.app.migrate.LOCK_SECONDS", 60)
    async with asyncio.timeout(20):
        with migrating(database):
            async with run_app(database) as app, app.client.get("/readyz") as response:
                assert response.status == 503
                assert "is being brought up to date" in (await response.json())["detail"]


async def test_who_is_stopped_in_a_migration_stops(
    database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.migrate.LOCK_SECONDS", 60)
    with migrating(database):
        async with asyncio.timeout(20), run_app(database, until_listening=False) as app:
            while True:
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    assert await status(app, "/readyz") == 503
                    break
                await asyncio.sleep(0.01)


async def test_an_error_that_nobody_foresaw_ends_no_running_process(
    app: App, database: DatabaseServer
) -> None:
    database.empty()
    database.execute("CREATE TABLE schema_migrations (nosuch INT NOT NULL PRIMARY KEY)")
    assert await status(app) == 503
    said = ""
    while "version" not in said:  # the watch has met it
        async with app.client.get("/readyz") as response:
            assert response.status == 503
            said = (await response.json())["detail"]
    database.empty()
    await app.until_ready()
    assert await app.add()


async def test_a_newer_schema_ends_the_start_but_not_a_running_process(database: DatabaseServer) -> None:
    async with run_app(database, database_timeout=2.0) as app:
        await app.until_ready()
        async with make_pool(database) as pool:
            await migrate(pool, [*migrations(), Migration(99, "future", ())])
            with pytest.raises(StartupError, match="version 99"):
                await Watch(pool).run()
        watched_again = len(app.process.events)
        with database.paused():
            await timed(app)
        await app.until_ready()  # it has looked at the schema again, and goes on with it
        assert len(app.process.events) > watched_again
        assert (await timed(app))[0] == 201


async def test_stopping_lets_a_request_finish_and_refuses_readiness(database: DatabaseServer) -> None:
    async with run_app(database, drain=4.0) as app:
        await app.until_ready()
        app.process.stopping.set()
        await asyncio.sleep(0)
        async with app.client.get("/readyz") as response:
            assert (await response.json())["detail"] == "draining"
            assert response.headers["Connection"] == "close"
        assert await app.add()  # half of the time for being noticed


async def test_a_crowd_that_asks_whether_it_is_there_shares_the_answer(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    cursor = pool.cursor
    monkeypatch.setattr(pool, "cursor", lambda **how: asked.append(how) or cursor(**how))
    watch = Watch(pool)
    watch.reason = None
    assert await asyncio.gather(*(watch.readiness() for _ in range(100))) == [None] * 100
    assert len(asked) == 1
    assert await watch.readiness() is None
    assert len(asked) == 2  # what was found out before says nothing of now


async def test_a_stop_while_the_database_hangs_waits_for_it_once(database: DatabaseServer) -> None:
    with contextlib.ExitStack() as stack:
        async with run_app(database, database_timeout=3.0) as app:
            await app.until_ready()
            code = await app.add()
            async with app.client.get(f"/l/{code}", allow_redirects=False) as response:
                assert response.status == 302
            stack.enter_context(database.paused())
            waiting = partial(app.process.registry.get_sample_value, "scaleup_app_clicks_waiting")
            await until(lambda: waiting() == 0)  # it is being written
            begun = time.monotonic()
        assert time.monotonic() - begun < 5.0  # generous; twice would be 6


async def test_clicks_are_written_during_a_long_drain(database: DatabaseServer) -> None:
    """Who is killed in it loses a second of them, as ever."""
    async with run_app(database, drain=20.0) as app:
        await app.until_ready()
        code = await app.add()
        app.process.stopping.set()
        async with app.client.get(f"/l/{code}", allow_redirects=False) as response:
            assert response.status == 302
        await until(lambda: database.execute("SELECT clicks FROM links") == ((1,),))
        async with app.client.get("/readyz") as response:
            assert (await response.json())["detail"] == "draining"


def test_address_of_is_what_the_settings_say(database: DatabaseServer) -> None:
    assert str(address_of(database)) == f"mysql://scaleup@{database.endpoint}/scaleup"
