"""The pool: what aiomysql's own gets wrong, one test for each, and what it does when nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable

import aiomysql
import pytest
from app_harness import make_pool, until
from database_servers import PASSWORD, DatabaseServer
from needs import requires
from pymysql.err import OperationalError, ProgrammingError

from bench.ports import free_port
from scaleup.app.address import DatabaseAddress
from scaleup.app.encryption import Connection
from scaleup.app.outcomes import (
    DatabaseAwayError,
    DatabaseBusyError,
    DatabaseOverloadedError,
    DatabaseRefusesError,
)
from scaleup.app.pool import Pool, _Connection
from scaleup.net.addresses import Endpoint

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


async def ask(pool: Pool, sql: str = "SELECT 1") -> object:
    async with pool.cursor() as cursor:
        await cursor.execute(sql)
        row = await cursor.fetchone()
    return row[0]


@contextlib.asynccontextmanager
async def listening(handler: Handler, *, timeout: float = 10.0) -> AsyncIterator[Pool]:
    """A pool whose database is `handler`."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    pool = Pool(DatabaseAddress("u", Endpoint(host, port), "d"), "", size=2, timeout=timeout)
    async with server:
        yield pool
        await pool.close()


async def test_a_connection_is_used_again(pool: Pool) -> None:
    assert await ask(pool, "SELECT CONNECTION_ID()") == await ask(pool, "SELECT CONNECTION_ID()")
    assert (pool.in_use, pool.idle) == (0, 1)


async def test_no_more_connections_than_its_size(pool: Pool) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(ask(pool))
    assert pool.in_use == 0
    assert pool.idle <= pool.size


async def test_who_watches_need_not_wait_behind_requests(database: DatabaseServer) -> None:
    async with make_pool(database, size=1) as pool, pool.cursor():
        async with pool.cursor(watching=True) as cursor:
            await cursor.execute("SELECT 1")
        await pool.recheck()


@requires("mariadbd")
async def test_those_who_ask_whether_it_is_the_primary_share_the_answer(mariadb: DatabaseServer) -> None:
    def looks() -> int:
        ((_, count),) = mariadb.execute("SHOW GLOBAL STATUS LIKE 'Com_show_variables'")
        return int(str(count))

    async with make_pool(mariadb, size=1) as pool:
        await pool.warm()
        before = looks()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(pool.recheck())
        assert looks() - before == 2  # the first was under way when the others came


@requires("mariadbd")
async def test_who_watches_or_migrates_is_not_counted_among_requests(mariadb: DatabaseServer) -> None:
    """GET_LOCK may wait 10 s: in the average, requests would be refused for fear of waiting as long."""
    async with make_pool(mariadb, size=1) as pool:
        async with pool.cursor(watching=True) as cursor:
            await cursor.execute("SELECT SLEEP(0.01)")
            assert pool.in_use == 0
        async with pool.cursor(60.0) as cursor:
            await cursor.execute("SELECT SLEEP(0.01)")
            assert pool.in_use == 1
        assert (pool.in_use, pool.uses, pool._mean_use_seconds) == (0, 1, 0.0)


@requires("mariadbd")
async def test_those_who_ask_share_that_nobody_answers(mariadb: DatabaseServer) -> None:
    async with make_pool(mariadb, timeout=3.0) as pool:
        assert await ask(pool) == 1
        reasons: list[str] = []
        pool.on_away = reasons.append
        with mariadb.paused():
            begun = time.monotonic()
            results = await asyncio.gather(*(pool.recheck() for _ in range(20)), return_exceptions=True)
            assert time.monotonic() - begun < 3.0 + 7.0  # each after the other would be 60 s
        assert all(isinstance(result, DatabaseAwayError) for result in results)
        assert reasons == [f"{mariadb.endpoint}: no answer within 3 s"]
        await pool.recheck()


async def test_who_waits_goes_on_when_a_connection_comes_back_inside_a_transaction(
    database: DatabaseServer,
) -> None:
    async with make_pool(database, size=1) as pool:
        async with asyncio.TaskGroup() as tasks, pool.cursor() as cursor:
            await cursor.connection.begin()
            first = cursor.connection.thread_id()
            waiting = tasks.create_task(ask(pool, "SELECT CONNECTION_ID()"))
            await asyncio.sleep(0)
        assert waiting.result() != first  # that one was closed, which rolls its transaction back


async def test_who_waits_goes_on_when_a_query_is_cancelled(database: DatabaseServer) -> None:
    with database.connection() as other, other.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('x', 0)")
        async with make_pool(database, size=1) as pool, asyncio.TaskGroup() as tasks:
            cancelled = tasks.create_task(ask(pool, "SELECT GET_LOCK('x', 60)"))
            await until(lambda: pool.in_use == 1)
            waiting = tasks.create_task(ask(pool))
            await asyncio.sleep(0)
            cancelled.cancel()
            assert await waiting == 1


async def test_who_waits_goes_on_when_the_one_before_gives_up_just_as_it_is_its_turn(
    database: DatabaseServer,
) -> None:
    async with make_pool(database, size=1) as pool, asyncio.TaskGroup() as tasks:
        async with pool.cursor():
            giving_up = tasks.create_task(ask(pool))
            waiting = tasks.create_task(ask(pool))
            await asyncio.sleep(0)
        giving_up.cancel()  # woken, and has not run yet
        assert await waiting == 1


async def test_who_waits_goes_on_when_the_one_before_cannot_connect(database: DatabaseServer) -> None:
    """Three wait for the only slot; each gets it in turn although none gets a connection."""
    address = DatabaseAddress("scaleup", Endpoint("127.0.0.1", free_port()), "scaleup")
    pool = Pool(address, "", size=1, timeout=10.0)
    begun = time.monotonic()
    results = await asyncio.gather(*(ask(pool) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, DatabaseAwayError) for result in results)
    assert time.monotonic() - begun < 4.5  # who waits for nothing waits for 5 s


async def test_200_cancellations_leave_the_pool_whole(database: DatabaseServer) -> None:
    chance = random.Random(7)
    async with make_pool(database, timeout=30) as pool:  # the server has 200 abandoned logins to get through
        for _ in range(200):
            task = asyncio.create_task(ask(pool))  # noqa: TID251 - awaited below
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert pool.in_use == 0
        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(ask(pool)) for _ in range(pool.size)]
        assert [answer.result() for answer in answers] == [1] * pool.size


async def test_a_server_that_accepts_and_says_nothing_costs_the_time_out_however_many_wait() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(silent, timeout=1.0) as pool:  # as the kernel does for a stopped one
        begun = time.monotonic()
        results = await asyncio.gather(*(ask(pool) for _ in range(10)), return_exceptions=True)
        assert 0.9 < time.monotonic() - begun < 4.5  # two at a time would be 5 s
        assert all(isinstance(result, DatabaseAwayError) for result in results)


async def test_a_server_that_stops_in_mid_query_costs_the_time_out(database: DatabaseServer) -> None:
    async with make_pool(database, timeout=2.0) as pool:
        assert await ask(pool) == 1
        with database.paused():
            begun = time.monotonic()
            with pytest.raises(DatabaseAwayError, match="no answer within 2 s"):
                await ask(pool)
            assert time.monotonic() - begun < 2.0 + 5.0
        assert await ask(pool) == 1


async def test_when_one_connection_does_not_answer_the_idle_ones_are_not_tried_one_by_one(
    database: DatabaseServer,
) -> None:
    async with make_pool(database, timeout=2.0) as pool:
        async with pool.cursor(), pool.cursor():
            pass
        assert pool.idle == 2
        with database.paused(), pytest.raises(DatabaseAwayError):
            await ask(pool)
        assert pool.idle == 0


@requires("mariadbd")
async def test_who_waits_for_a_lock_does_not_take_the_database_for_away(mariadb: DatabaseServer) -> None:
    mariadb.execute("CREATE TABLE links (id BIGINT NOT NULL PRIMARY KEY) AS SELECT 1 AS id")
    async with make_pool(mariadb, timeout=3.0) as pool:  # the server waits for a lock for a second then
        reasons: list[str] = []
        pool.on_away = reasons.append
        await pool.warm()
        with mariadb.connection() as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT id FROM links FOR UPDATE")
            with pytest.raises(DatabaseBusyError, match="not released in time"):
                await ask(pool, "SELECT id FROM links FOR UPDATE")
        assert (reasons, pool.idle) == ([], 2)


@requires("mariadbd")
async def test_a_server_that_has_just_answered_is_not_away_when_time_is_up(mariadb: DatabaseServer) -> None:
    async with make_pool(mariadb, timeout=3.0) as pool:
        reasons: list[str] = []
        pool.on_away = reasons.append
        await pool.warm()

        async def ask_on_and_on() -> None:
            async with pool.cursor() as cursor:
                while True:
                    await cursor.execute("SELECT SLEEP(0.05)")

        with pytest.raises(DatabaseBusyError, match="not done within 3 s"):
            await ask_on_and_on()
        assert (reasons, pool.idle) == ([], 1)


async def test_what_is_not_mysql_is_the_database_being_away() -> None:
    async def http(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + bytes(9000000))
        writer.close()

    async def nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x05\0\0\0\x0a8.0\0")
        writer.close()

    for handler in (http, nothing, garbage):
        async with listening(handler) as pool:
            with pytest.raises(DatabaseAwayError, match=r"127\.0\.0\.1:\d+: "):
                await ask(pool)


async def test_a_connection_that_died_while_idle_is_not_used(pool: Pool, database: DatabaseServer) -> None:
    async with pool.cursor() as cursor:
        await cursor.execute("SELECT 1")
        connection = cursor.connection
    connection._writer.write_eof()  # the server closes its side, too
    await until(lambda: connection._reader is None or connection._reader.eof_received)
    assert await ask(pool) == 1


async def test_a_connection_that_is_reset_between_two_statements_is_lost(pool: Pool) -> None:
    async with pool.cursor() as cursor:
        await cursor.execute("SELECT 1")
        writer = cursor.connection._writer
        writer.transport.abort()  # what uvloop does by itself then
        await writer.wait_closed()
        with pytest.raises(OperationalError, match=r"2013.*closed"):
            await cursor.execute("SELECT 1")
    assert (await ask(pool), pool.idle) == (1, 1)


@requires("mariadbd")
async def test_an_answer_that_cannot_be_read_is_not_left_to_the_next(mariadb: DatabaseServer) -> None:
    async with make_pool(mariadb) as pool:
        with pytest.raises(ValueError, match="year 0"):
            await ask(pool, "SELECT CAST('0000-00-00' AS DATETIME) FROM seq_1_to_9")
        assert pool.idle == 0
        assert await ask(pool) == 1


async def test_every_read_is_fresh(pool: Pool, database: DatabaseServer) -> None:
    """Without autocommit the first SELECT would fix what a connection sees."""
    database.execute("CREATE TABLE links (id BIGINT NOT NULL PRIMARY KEY)")
    assert await ask(pool, "SELECT COUNT(*) FROM links") == 0
    database.execute("INSERT INTO links (id) VALUES (1)")
    assert await ask(pool, "SELECT COUNT(*) FROM links") == 1


@requires("mariadbd")
async def test_a_server_cannot_ask_for_our_files(mariadb: DatabaseServer) -> None:
    mariadb.execute("CREATE TABLE links (line TEXT)")
    async with make_pool(mariadb) as pool:
        with pytest.raises(OperationalError):
            await ask(pool, "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE links")


async def test_warnings_of_sql_are_not_asked_for(pool: Pool) -> None:
    async with pool.cursor() as cursor:
        await cursor.execute("DROP TABLE IF EXISTS nosuch")  # a note; aiomysql would warnings.warn


async def test_errors_of_sql_are_not_taken_for_the_database_being_away(pool: Pool) -> None:
    reasons: list[str] = []
    pool.on_away = reasons.append
    with pytest.raises(ProgrammingError):
        await ask(pool, "SELEC 1")
    assert not reasons
    assert await ask(pool) == 1


@requires("mariadbd")
@pytest.mark.parametrize(
    ("code", "error", "is_away"),
    [(1213, DatabaseBusyError, False), (1205, DatabaseBusyError, False), (1290, DatabaseAwayError, True)],
)
async def test_what_may_succeed_later(
    mariadb: DatabaseServer, code: int, error: type[DatabaseAwayError], is_away: bool
) -> None:
    async with make_pool(mariadb) as pool:
        reasons: list[str] = []
        pool.on_away = reasons.append
        with pytest.raises(error):
            await ask(pool, f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}")
        assert bool(reasons) == is_away
        assert await ask(pool) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\x6a\x04#HY000Host '10.0.0.9' is not allowed to connect",  # 1130, instead of the greeting
        b"\xff\xea\x04#HY000a number that we have never heard of",
    ],
)
async def test_a_server_that_does_not_let_us_in_is_a_refusal(answer: bytes) -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(len(answer).to_bytes(3, "little") + b"\0" + answer)
        writer.close()

    async with listening(refuse) as pool:
        with pytest.raises(DatabaseRefusesError, match=r"127\.0\.0\.1:\d+: .*(not allowed|never heard)"):
            await ask(pool)


@pytest.mark.parametrize("code", [1040, 1041, 1135, 1226])
async def test_a_server_that_cannot_let_us_in_now_is_away(code: int) -> None:
    answer = b"\xff" + code.to_bytes(2, "little") + b"#08004come back later"

    async def full(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(len(answer).to_bytes(3, "little") + b"\0" + answer)
        writer.close()

    async with listening(full) as pool:
        with pytest.raises(DatabaseAwayError) as caught:
            await ask(pool)
        assert type(caught.value) is DatabaseAwayError


async def test_a_wrong_password_is_a_refusal(database: DatabaseServer) -> None:
    async with make_pool(database, password="wrong") as pool:
        with pytest.raises(DatabaseRefusesError, match="Access denied"):
            await ask(pool)


async def test_a_missing_table_means_that_the_database_is_not_ours_yet(pool: Pool) -> None:
    with pytest.raises(DatabaseAwayError, match="no tables of ours"):
        await ask(pool, "SELECT id FROM links")


async def test_a_closed_pool_keeps_nothing(database: DatabaseServer) -> None:
    async with make_pool(database) as pool:
        async with pool.cursor():
            await pool.close()
        assert pool.idle == 0


async def test_a_connection_that_was_reset_does_not_hinder_closing_the_others() -> None:
    """uvloop raises RuntimeError on writing to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool = Pool(DatabaseAddress("u", Endpoint(*server.getsockname()), "d"), "", size=2, timeout=1.0)
        clients = []
        for _ in range(2):
            raw = Connection(host="127.0.0.1", user="u", db="d")
            raw._reader, raw._writer = await aiomysql.connection._open_connection(*server.getsockname())
            clients.append(raw._writer)
            pool._idle.append(_Connection(raw, pool.endpoint, math.inf))
            with server.accept()[0] as accepted:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: all(it.transport.is_closing() for it in clients))
        assert pool.idle == 2
        await pool.close()
    assert pool.idle == 0


def test_the_password_of_these_tests_is_one_that_goes_wrong_easily() -> None:
    assert not PASSWORD.isascii()
    assert "'" in PASSWORD
    assert "\\" in PASSWORD


async def test_the_first_connections_are_made_before_they_are_needed(database: DatabaseServer) -> None:
    async with make_pool(database) as pool:
        await pool.warm()
        assert pool.idle == 2
        await pool.warm()
        await ask(pool)
        assert pool.opened == 2


async def test_an_old_connection_is_replaced(
    database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_pool(database) as pool:
        first = await ask(pool, "SELECT CONNECTION_ID()")
        assert await ask(pool, "SELECT CONNECTION_ID()") == first
        monkeypatch.setattr("scaleup.app.pool.MAX_AGE_SECONDS", 0.0)
        assert await ask(pool, "SELECT CONNECTION_ID()") != first
        assert (pool.opened, pool.idle) == (2, 1)


async def test_who_waits_for_a_connection_too_long_is_told_so(
    database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.pool.WAIT_SHARE", 0.01)  # the rest is for a busy machine
    async with make_pool(database, size=1, timeout=20.0) as pool:
        reasons: list[str] = []
        pool.on_away = reasons.append
        async with pool.cursor(19.0):
            begun = time.monotonic()
            with pytest.raises(DatabaseOverloadedError, match=r"in use for 0\.1 s"):
                async with pool.cursor(10.0):
                    pass
            assert 0.09 < time.monotonic() - begun < 9.0
        assert (pool.refused, pool.waiting, reasons) == (1, 0, [])


@requires("mariadbd")
async def test_who_would_wait_too_long_is_not_let_in(
    mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses of 50 ms, one connection, half a second to wait: who would be the eleventh is told at once."""
    monkeypatch.setattr("scaleup.app.pool.WAIT_SHARE", 0.05)  # the rest is for a busy machine
    async with make_pool(mariadb, size=1, timeout=10.0) as pool:
        for _ in range(60):  # until the average is known; it begins at nothing
            pool._mean_use_seconds += (0.05 - pool._mean_use_seconds) / 8
        results = await asyncio.gather(
            *(ask(pool, "SELECT SLEEP(0.05) + 1") for _ in range(40)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, DatabaseOverloadedError)]
        assert sum("10 wait for one" in str(result) for result in refused) == 29
        assert len(refused) < 40  # of those that were let in some may have waited in vain
        assert pool.refused == len(refused)
        assert [result for result in results if result not in refused] == [1] * (40 - len(refused))


@requires("mariadbd")
async def test_the_server_itself_ends_what_nobody_waits_for(mariadb: DatabaseServer) -> None:
    async with make_pool(mariadb, timeout=5.0) as pool:
        assert await ask(pool, "SELECT @@max_statement_time") == 4.0
        assert await ask(pool, "SELECT @@innodb_lock_wait_timeout") == 2
        async with pool.cursor(60.0) as cursor:
            await cursor.execute("SELECT @@max_statement_time")
            assert await cursor.fetchone() == (48.0,)
        assert pool.idle == 1  # the one that may do more is not kept
        with pytest.raises(DatabaseBusyError, match="took too long"):
            await ask(pool, "SET STATEMENT max_statement_time = 0.01 FOR SELECT SLEEP(1), 1 FROM seq_1_to_9")


@requires("mariadbd")
async def test_a_slow_query_is_told(
    mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_pool(mariadb) as pool:
        await pool.warm()  # on a busy machine a login is slow, too
        monkeypatch.setattr("scaleup.app.pool.SLOW_QUERY_SECONDS", 0.02)
        async with pool.cursor() as cursor:
            await cursor.execute("SELECT\n  SLEEP(%s)", (0.03,))
        (record,) = [record for record in caplog.records if "slow query" in record.message]
        assert record.message.endswith(" ms, request -: SELECT SLEEP(%s)")  # without what the user sent
