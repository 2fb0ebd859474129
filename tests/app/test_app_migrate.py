"""Migrations: applied once, in order, whoever else is at it."""

from __future__ import annotations

import asyncio

import pytest
from app_harness import make_pool
from database_servers import DatabaseServer

from scaleup.app.migrate import LOCK, Migration, migrate, migrations
from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.app.store import Store
from scaleup.app.transactions import Transactions
from scaleup.errors import StartupError

CREATE = "CREATE TABLE IF NOT EXISTS links (id INT NOT NULL PRIMARY KEY)"


def versions(database: DatabaseServer) -> list[object]:
    return [row[0] for row in database.execute("SELECT version FROM schema_migrations ORDER BY version")]


def test_a_file_is_statements_and_comments() -> None:
    text = "-- why; it is\nCREATE TABLE a (\n  b INT -- kept\n);\n\n  -- more\nINSERT INTO a VALUES (';');\n"
    assert Migration.parse("0012_two_words.sql", text) == Migration(
        12, "two_words", ("CREATE TABLE a (\n  b INT -- kept\n)", "INSERT INTO a VALUES (';')")
    )


def test_our_migrations_are_numbered_from_one_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(migration.statements for migration in migrations())


async def test_an_empty_database_gets_all_of_them_once(pool: Pool, database: DatabaseServer) -> None:
    assert await migrate(pool) == migrations()
    assert await migrate(pool) == []
    assert versions(database) == [migration.version for migration in migrations()]
    assert await Store(Transactions(pool, chance=lambda: 0.5)).page(1) == []


async def test_only_what_is_missing_is_applied(pool: Pool, database: DatabaseServer) -> None:
    first = Migration(1, "first", (CREATE,))
    second = Migration(2, "second", ("INSERT INTO links (id) VALUES (7)",))
    assert await migrate(pool, [first]) == [first]
    assert await migrate(pool, [first, second]) == [second]
    assert database.execute("SELECT id FROM links") == ((7,),)


async def test_many_applications_start_at_once(database: DatabaseServer) -> None:
    fill = Migration(1, "fill", (CREATE, "INSERT INTO links (id) VALUES (1)"))  # fails when done twice

    async def start() -> int:
        async with make_pool(database, timeout=20) as pool:
            return len(await migrate(pool, [fill]))

    assert sum(await asyncio.gather(*(start() for _ in range(8)))) == 1
    assert versions(database) == [1]


async def test_who_waits_too_long_for_the_lock_asks_again_later(
    pool: Pool, database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.app.migrate.LOCK_SECONDS", 0)
    with database.connection() as other, other.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, 0)", (LOCK,))
        with pytest.raises(DatabaseAwayError, match="another application"):
            await migrate(pool)
    # A dead owner's lock is free, as soon as the server has noticed.
    async with asyncio.timeout(20):
        while True:
            try:
                await migrate(pool)
                break
            except DatabaseAwayError:
                await asyncio.sleep(0.01)


async def test_the_lock_is_free_afterwards_whatever_happened(pool: Pool, database: DatabaseServer) -> None:
    bad = Migration(1, "bad", ("CREATE TABLE links (",))
    with pytest.raises(Exception, match=r".") as caught:
        await migrate(pool, [bad])
    assert caught.value.args[0] == 1064
    assert database.execute("SELECT GET_LOCK(%s, 0)", LOCK) == ((1,),)
    assert versions(database) == []


async def test_a_schema_newer_than_the_code_is_left_alone(pool: Pool, database: DatabaseServer) -> None:
    await migrate(pool)
    await migrate(pool, [*migrations(), Migration(99, "future", ())])
    with pytest.raises(StartupError, match="is at version 99, newer than this program, which knows"):
        await migrate(pool)
