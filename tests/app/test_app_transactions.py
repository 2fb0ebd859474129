"""Transactions: what is repeated, what is not, and what is said of it. With real errors on real connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from app_harness import make_pool, until
from database_servers import PASSWORD, DatabaseServer
from needs import requires
from pymysql.err import IntegrityError, OperationalError

from bench.ports import free_port
from scaleup.app import deadline
from scaleup.app.address import DatabaseAddress
from scaleup.app.idempotency import Key
from scaleup.app.migrate import migrate
from scaleup.app.outcomes import (
    DatabaseAwayError,
    DatabaseBusyError,
    OutcomeUnknownError,
    Then,
    then,
)
from scaleup.app.pool import Pool
from scaleup.app.store import CodeTakenError, Store
from scaleup.app.transactions import MAX_TRIES, UNKNOWN, Stand, Transactions
from scaleup.app.upkeep import Clicks
from scaleup.net.addresses import Endpoint

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456)
URL = "https://example.org/"


@pytest.mark.parametrize(
    ("codes", "before", "committing"),
    [
        ((1205, 1213), Then.AGAIN, Then.AGAIN),
        ((2003, 1040, 1135, 1203, 1226, 1047, 1290, 1044, 1142), Then.FAILED, Then.FAILED),
        ((2006, 2013, 1927, 1053), Then.AGAIN, Then.UNKNOWN),
        ((None, 1180, 1317, 1969, 3024, 1021, 1041), Then.FAILED, Then.UNKNOWN),
    ],
)
def test_the_table(codes: tuple[int | None, ...], before: Then, committing: Then) -> None:
    for code in codes:
        assert then(code, committing=False) is before, code
        assert then(code, committing=True) is committing, code


def test_another_host_may_take_what_this_one_does_not() -> None:
    for code in (2003, 1040, 1135, 1203, 1226, 1047, 1290):
        assert then(code, committing=True, has_others=True) is Then.AGAIN
    for code in (1044, 1142, 1146):
        assert then(code, committing=True, has_others=True) is Then.FAILED
    assert then(2013, committing=True, has_others=True) is Then.UNKNOWN


async def failing(cursor: Any, code: int) -> None:
    await cursor.execute(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}")


@requires("mariadbd")
@pytest.mark.parametrize(("code", "tries"), [(1213, MAX_TRIES), (1205, MAX_TRIES), (1969, 1), (1290, 1)])
async def test_what_may_help_is_repeated_so_often(mariadb: DatabaseServer, code: int, tries: int) -> None:
    async with make_pool(mariadb) as pool:
        done: list[object] = []

        async def work(cursor: Any) -> None:
            done.append(cursor.connection.thread_id())
            await failing(cursor, code)

        with pytest.raises(DatabaseAwayError) as caught:
            await Transactions(pool, chance=lambda: 0.0).transaction(work)
        assert caught.value.code == code
        assert not isinstance(caught.value, OutcomeUnknownError)
        assert len(done) == tries
        if code != 1290:  # after which the idle connections are dropped, too
            assert len(set(done)) == 1  # rolled back, and so kept
        assert pool.in_use == 0


@requires("mariadbd")
async def test_no_pause_goes_past_the_deadline(mariadb: DatabaseServer) -> None:
    async with make_pool(mariadb) as pool:
        transactions = Transactions(pool, chance=lambda: 1000.0)  # 20 s
        with pytest.raises(DatabaseBusyError):
            await transactions.transaction(lambda cursor: failing(cursor, 1213))
        assert transactions.repeated == 0


@requires("mariadbd")
async def test_a_write_gets_no_more_time_than_its_request_has(mariadb: DatabaseServer) -> None:
    async with make_pool(mariadb, timeout=30.0) as pool:
        await pool.warm()  # so that all of the time is for the statement
        away: list[str] = []
        pool.on_away = away.append
        transactions, sleep = Transactions(pool, chance=lambda: 0.0), "SELECT SLEEP(20)"
        deadline.begin("1")
        with pytest.raises(OutcomeUnknownError):
            await transactions.statement(lambda cursor: cursor.execute(sleep))
        deadline.begin("1")
        with pytest.raises(DatabaseBusyError, match="that were left"):
            await transactions.transaction(lambda cursor: cursor.execute(sleep))
        assert away == [], "it was not the database's fault"
        assert (pool.in_use, transactions.repeated) == (0, 0)


async def test_what_is_done_stays_done_when_the_position_is_not_told(
    mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_pool(mariadb) as pool:
        away: list[str] = []
        pool.on_away = away.append
        transactions = Transactions(pool, chance=lambda: 0.0, follows=True)
        monkeypatch.setattr("scaleup.app.transactions.POSITION", "SELECT SLEEP(20), 0")
        _, stand = await transactions.statement(lambda cursor: cursor.execute("SELECT SLEEP(0.2)"))
        assert (stand, away) == (UNKNOWN, [])
    async with make_pool(mariadb, timeout=1.5) as pool:
        await pool.warm()
        transactions = Transactions(pool, chance=lambda: 0.0, follows=True)

        async def stalls(*_: object) -> Stand:
            time.sleep(2.0)  # noqa: ASYNC251 - the process was stopped past its deadline
            await asyncio.sleep(0)
            raise AssertionError

        monkeypatch.setattr(transactions, "_ask", stalls)
        _, stand = await transactions.statement(lambda cursor: cursor.execute("SELECT 1"))
        assert stand == UNKNOWN


@requires("mariadbd")
async def test_an_error_that_nobody_foresaw_leaves_the_outcome_unknown(mariadb: DatabaseServer) -> None:
    """1030: the storage engine has an error."""
    async with make_pool(mariadb) as pool:
        transactions = Transactions(pool, chance=lambda: 0.0)
        with pytest.raises(OutcomeUnknownError):
            await transactions.statement(lambda cursor: failing(cursor, 1030))
        with pytest.raises(OperationalError):  # before its COMMIT, so it was rolled back
            await transactions.transaction(lambda cursor: failing(cursor, 1030))
        with pytest.raises(IntegrityError):
            await transactions.statement(lambda cursor: failing(cursor, 1062))
        assert pool.in_use == 0


async def test_what_only_reads_has_the_pools_time(database: DatabaseServer) -> None:
    async with make_pool(database) as pool:
        transactions = Transactions(pool, chance=lambda: 0.0)
        deadline.begin("0")
        await transactions.read(lambda cursor: cursor.execute("SELECT 1"))
        with pytest.raises(DatabaseBusyError, match="no time was left"):
            await transactions.statement(lambda cursor: cursor.execute("SELECT 1"))


@requires("mariadbd")
async def test_two_that_deadlock_both_get_through(mariadb: DatabaseServer) -> None:
    """Each holds a row and wants the other's. InnoDB ends one; it is done again, whole."""
    async with make_pool(mariadb) as pool:
        await migrate(pool)
        transactions = Transactions(pool, chance=lambda: 0.5)
        store = Store(transactions)
        await store.add("a", URL, NOW)
        await store.add("b", URL, NOW)
        both_hold_one = asyncio.Barrier(2)
        first_try = {"a", "b"}

        async def click(first: str, second: str) -> None:
            async def work(cursor: Any) -> None:
                await cursor.execute("UPDATE links SET clicks = clicks + 1 WHERE code = %s", (first,))
                if first in first_try:
                    first_try.remove(first)
                    await both_hold_one.wait()
                await cursor.execute("UPDATE links SET clicks = clicks + 1 WHERE code = %s", (second,))

            await transactions.transaction(work)

        await asyncio.gather(click("a", "b"), click("b", "a"))
        assert transactions.repeated >= 1
        assert [link.clicks for _, link in await store.page(2)] == [2, 2]


async def test_what_the_work_raises_is_rolled_back(
    store: Store, pool: Pool, database: DatabaseServer
) -> None:
    async def work(cursor: Any) -> None:
        await cursor.execute(
            "INSERT INTO links (code, url, created) VALUES ('a', 'u', '2026-01-01 00:00:00')"
        )
        raise CodeTakenError("a")

    with pytest.raises(CodeTakenError):
        await Transactions(pool, chance=lambda: 0.0).transaction(work)
    assert database.execute("SELECT COUNT(*) FROM links") == ((0,),)
    assert pool.idle == 1


class Cutting:
    """A way to a database that cuts a connection just when an answer is due.

    `when(packet)`: whether this packet of the client's is the one: it goes to the database, which answers,
    and the answer is lost.
    """

    def __init__(self, server: DatabaseServer, when: Callable[[bytes], bool]) -> None:
        self._server, self._when = server, when
        self.cuts = 0
        self._connections: set[asyncio.Task[object] | None] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        endpoint = self._server.endpoint
        answers, requests = await asyncio.open_connection(endpoint.host, endpoint.port)
        with contextlib.suppress(ConnectionError):
            async with asyncio.TaskGroup() as tasks:
                copying = tasks.create_task(self._copy(answers, writer))
                while packet := await reader.read(65536):
                    cut = self._when(packet)
                    if cut:
                        self.cuts += 1
                        copying.cancel()
                        await asyncio.wait([copying])
                    requests.write(packet)
                    if cut:
                        await answers.read(65536)
                        break
                copying.cancel()
        for stream in (writer, requests):
            stream.close()
            with contextlib.suppress(ConnectionError):
                await stream.wait_closed()

    async def ended(self) -> None:
        """When all connections are closed on both sides."""
        await asyncio.gather(*filter(None, self._connections))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def cutting(
    database: DatabaseServer, when: Callable[[bytes], bool]
) -> AsyncIterator[tuple[Store, Transactions, Cutting]]:
    """A store on an empty schema; its connections are cut there."""
    async with make_pool(database) as direct:
        await migrate(direct)
    way = Cutting(database, when)
    listener = await asyncio.start_server(way.connected, "127.0.0.1", 0)
    address = DatabaseAddress("scaleup", Endpoint(*listener.sockets[0].getsockname()), "scaleup")
    pool = Pool(address, PASSWORD, size=2, timeout=20.0)
    transactions = Transactions(pool, chance=lambda: 0.5)
    async with listener:
        yield Store(transactions), transactions, way
        await pool.close()
        await way.ended()


def once(word: bytes) -> Callable[[bytes], bool]:
    left = [word]

    def when(packet: bytes) -> bool:
        if left and left[0] in packet:
            left.clear()
            return True
        return False

    return when


async def test_an_insert_whose_answer_is_lost_is_unknown_and_not_repeated(database: DatabaseServer) -> None:
    async with cutting(database, once(b"INSERT INTO links")) as (store, transactions, way):
        with pytest.raises(OutcomeUnknownError):
            await store.add("abc", URL, NOW)
        assert (way.cuts, transactions.repeated) == (1, 0)
        assert await store.get("abc") is not None  # it was done, and nobody could know


async def test_a_commit_whose_answer_is_lost_is_repeated_with_a_key_and_done_once(
    database: DatabaseServer,
) -> None:
    async with cutting(database, once(b"COMMIT")) as (store, transactions, way):
        assert await store.add_once(Key("k", "f"), "first", "abc", URL, NOW) == "first"
        assert (way.cuts, transactions.repeated) == (1, 1)
        assert len(await store.page(10)) == 1


async def test_what_was_lost_before_the_commit_is_repeated(database: DatabaseServer) -> None:
    async with cutting(database, once(b"INSERT INTO links")) as (store, transactions, way):
        assert await store.add_once(Key("k", "f"), "first", "abc", URL, NOW) == "first"
        assert (way.cuts, transactions.repeated) == (1, 1)
        assert len(await store.page(10)) == 1


async def test_a_read_is_repeated(database: DatabaseServer) -> None:
    async with cutting(database, once(b"SELECT code, url")) as (store, transactions, way):
        assert await store.url("abc") is None
        assert (way.cuts, transactions.repeated) == (1, 1)


async def test_a_loss_after_an_unknown_outcome_leaves_it_unknown(database: DatabaseServer) -> None:
    """The first COMMIT was done, and every later try is cut before it can find that out."""
    committed = False

    def when(packet: bytes) -> bool:
        nonlocal committed
        committed = committed or b"COMMIT" in packet
        return committed

    async with cutting(database, when) as (store, _, way):
        with pytest.raises(OutcomeUnknownError):
            await store.add_once(Key("k", "f"), "first", "abc", URL, NOW)
        assert way.cuts > 1
    assert database.execute("SELECT COUNT(*) FROM links") == ((1,),)


async def test_clicks_of_an_unknown_outcome_are_lost_rather_than_doubled(database: DatabaseServer) -> None:
    async with cutting(database, once(b"COMMIT")) as (store, _, _way):
        await store.add("abc", URL, NOW)
        clicks = Clicks(store)
        clicks.count("abc")
        clicks.count("abc")
        assert clicks.waiting == 2
        with pytest.raises(OutcomeUnknownError):
            await clicks.flush()
        assert (clicks.waiting, clicks.lost) == (0, 2)
        await clicks.flush()
        assert database.execute("SELECT clicks FROM links") == ((2,),)  # they happened to arrive


async def test_clicks_that_cannot_be_written_wait() -> None:
    address = DatabaseAddress("scaleup", Endpoint("127.0.0.1", free_port()), "scaleup")
    clicks = Clicks(Store(Transactions(Pool(address, "", size=1, timeout=10.0), chance=lambda: 0.0)))
    for _ in range(3):
        clicks.count("abc")
    with pytest.raises(DatabaseAwayError):
        await clicks.flush()
    assert (clicks.waiting, clicks.lost) == (3, 0)


async def test_clicks_that_meet_a_mistake_wait_and_end_nothing(
    store: Store, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store.add("abc", URL, NOW)
    clicks, stopping = Clicks(store), asyncio.Event()
    clicks.count("abc")
    with monkeypatch.context() as patch:
        patch.setattr("scaleup.app.store.COUNT_CLICKS", "UPDATE links SET nosuch = %s WHERE code = %s")
        patch.setattr("scaleup.app.upkeep.FLUSH_SECONDS", 0.01)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(clicks.keep_flushing(stopping))
            await until(lambda: "cannot be written" in caplog.text)
            stopping.set()
    assert clicks.waiting == 1
    await clicks.flush()
    assert database.execute("SELECT clicks FROM links") == ((1,),)
    caplog.clear()


async def test_clicks_of_more_links_than_one_transaction_takes(
    store: Store, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.upkeep.CODES_AT_A_TIME", 2)
    clicks = Clicks(store)
    for number in range(5):
        await store.add(f"c{number}", URL, NOW)
        clicks.count(f"c{number}")
    await clicks.flush()
    assert clicks.waiting == 0
    assert database.execute("SELECT clicks FROM links") == ((1,),) * 5


async def test_clicks_that_wait_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleup.app.upkeep.MAX_CODES", 2)
    clicks = Clicks(store)
    for code in ("a", "b", "c", "a"):
        clicks.count(code)
    assert (clicks.waiting, clicks.lost) == (3, 1)


async def test_an_application_that_stops_writes_its_clicks(store: Store, database: DatabaseServer) -> None:
    await store.add("abc", URL, NOW)
    clicks, stopping = Clicks(store), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clicks.keep_flushing(stopping))
        await asyncio.sleep(0)
        clicks.count("abc")
        stopping.set()
    await clicks.write_last(10.0)
    assert (clicks.waiting, clicks.lost) == (0, 0)
    assert database.execute("SELECT clicks FROM links") == ((1,),)


@contextlib.contextmanager
def held(database: DatabaseServer) -> Iterator[None]:
    """Somebody else is writing, for as long as that."""
    with database.connection() as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE links SET clicks = clicks + 100")
        yield
        cursor.execute("COMMIT")


async def test_who_stops_writes_no_further_batch(
    store: Store, pool: Pool, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.upkeep.CODES_AT_A_TIME", 1)
    monkeypatch.setattr("scaleup.app.upkeep.FLUSH_SECONDS", 0.01)
    clicks, stopping = Clicks(store), asyncio.Event()
    for code in ("a", "b", "c"):
        await store.add(code, URL, NOW)
        clicks.count(code)
    async with asyncio.TaskGroup() as tasks:
        with held(database):
            tasks.create_task(clicks.keep_flushing(stopping))
            await until(lambda: pool.in_use == 1)
            stopping.set()
    assert (clicks.waiting, clicks.lost) == (2, 0)


async def test_the_last_clicks_get_no_more_time_than_there_is(
    store: Store, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("scaleup.app.upkeep.CODES_AT_A_TIME", 1)
    clicks = Clicks(store)
    for code in ("a", "b"):
        await store.add(code, URL, NOW)
        clicks.count(code)
    with held(database):
        begun = time.monotonic()
        await clicks.write_last(0.05)
        assert time.monotonic() - begun < 4.5  # the lock is waited for for 5 s
    assert (clicks.waiting, clicks.lost) == (0, 2)
    assert "2 clicks were not written" in caplog.text


@requires("mariadbd")
async def test_a_batch_that_is_too_slow_is_halved(
    mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.upkeep.CODES_AT_A_TIME", 16)
    slow = "UPDATE links SET clicks = clicks + %s + SLEEP(0.13) WHERE code = %s"
    monkeypatch.setattr("scaleup.app.store.COUNT_CLICKS", slow)
    async with make_pool(mariadb) as pool:
        await migrate(pool)
    async with make_pool(mariadb, timeout=2.0) as pool, asyncio.timeout(40):
        clicks = Clicks(Store(Transactions(pool, chance=lambda: 0.0)))
        codes = [f"c{number}" for number in range(16)]
        rows = ", ".join(f"('{code}', 'u', '{NOW}')" for code in codes)
        mariadb.execute(f"INSERT INTO links (code, url, created) VALUES {rows}")
        for code in codes:
            clicks.count(code)
        while clicks.waiting:
            with contextlib.suppress(DatabaseBusyError):
                await clicks.flush()
        assert clicks.lost == 0
        assert mariadb.execute("SELECT SUM(clicks) FROM links") == ((16,),)
