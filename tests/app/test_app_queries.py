"""Every query of the store finds its rows by an index: MariaDB's own plans, on tables with rows in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pymysql.cursors
import pytest
from app_harness import make_pool
from database_servers import DatabaseServer
from needs import requires

from scaleup.app import store
from scaleup.app.lookup import MOST_KEYS
from scaleup.app.migrate import migrate

pytestmark = requires("mariadbd")

ROWS = 2000
NOW = datetime(2026, 1, 31, 12, 0, 0, 123456)
PARAMETERS: dict[str, tuple[object, ...]] = {
    "SELECT": ("c7",),
    "FIRST_PAGE": (20,),
    "NEXT_PAGE": (1500, 20),
    "DELETE": ("c7",),
    "SELECT_URL": ("c7",),
    "COUNT_CLICKS": (1, "c7"),
    "SELECT_KEY": ("k7",),
    "OLDEST_KEY": (),
    "NEWEST_KEY": (),
    "DELETE_KEYS": (100, NOW),
}
"""Of each query that looks for rows."""


def queries() -> dict[str, str]:
    """All of the store's: its constants."""
    words = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
    return {name: text for name, text in vars(store).items() if str(text).startswith(words)}


def test_every_query_is_looked_at() -> None:
    searching = {name for name, text in queries().items() if " FROM " in text or text.startswith("UPDATE")}
    assert searching == set(PARAMETERS)


@pytest.fixture
async def filled(mariadb: DatabaseServer) -> DatabaseServer:
    async with make_pool(mariadb) as pool:
        await migrate(pool)
    with mariadb.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(store.INSERT, [(f"c{n}", "https://example.org/", NOW) for n in range(ROWS)])
        by_the_hundred = store.INSERT_KEY.replace("UTC_TIMESTAMP(6)", "%s")  # which PyMySQL sends together
        cursor.executemany(by_the_hundred, [(f"k{n}", "f", "{}", NOW) for n in range(ROWS)])
        cursor.execute("ANALYZE TABLE links, idempotency_keys")
    return mariadb


async def test_no_query_reads_a_whole_table(filled: DatabaseServer) -> None:
    with (
        filled.connection(cursorclass=pymysql.cursors.DictCursor) as connection,
        connection.cursor() as cursor,
    ):
        for name, parameters in PARAMETERS.items():
            cursor.execute(f"EXPLAIN {queries()[name]}", parameters)
            (plan,) = cursor.fetchall()
            check(name, plan)


def check(name: str, plan: dict[str, Any]) -> None:
    assert plan["type"] in ("const", "range", "index"), (name, plan)
    assert plan["key"], (name, plan)
    assert "filesort" not in (plan["Extra"] or ""), (name, plan)
    most = 200 if name == "DELETE_KEYS" else 20 if plan["type"] == "index" else 1
    if name != "NEXT_PAGE":  # the estimate of a range does not know its LIMIT
        assert int(plan["rows"]) <= most, (name, plan)


async def test_a_look_for_many_reads_the_rows_that_it_returns(filled: DatabaseServer) -> None:
    codes = [f"c{number}" for number in range(0, 20 * MOST_KEYS, 20)]
    with (
        filled.connection(cursorclass=pymysql.cursors.DictCursor) as connection,
        connection.cursor() as cursor,
    ):
        for query in (store.SELECT, store.SELECT_URL):
            cursor.execute(f"EXPLAIN {store.for_many(query, len(codes))}", codes)
            (plan,) = cursor.fetchall()
            assert (plan["type"], plan["key"], int(plan["rows"])) == ("range", "links_code", MOST_KEYS)


async def test_a_full_scan_would_be_found(filled: DatabaseServer) -> None:
    with (
        filled.connection(cursorclass=pymysql.cursors.DictCursor) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("EXPLAIN SELECT id FROM links WHERE url = 'x'")
        (plan,) = cursor.fetchall()
    with pytest.raises(AssertionError):
        check("SCAN", plan)
