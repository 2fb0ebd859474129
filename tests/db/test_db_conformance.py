"""The SQL that the application uses means the same on MariaDB and on the embedded engine.

Every test runs on both. What only MariaDB can do is not here: see test_db_translate.py for what the embedded
engine refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any

import pymysql
import pytest
from database_servers import PASSWORD, DatabaseServer
from pymysql.cursors import Cursor

from scaleup.app.migrate import _CREATE_HISTORY, migrations
from scaleup.app.store import (
    COUNT_CLICKS,
    DELETE,
    FIRST_PAGE,
    INSERT,
    NEXT_PAGE,
    SELECT,
    SELECT_URL,
    for_many,
)

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456)
URL = "https://example.org/"


class Client:
    """A connection and its cursor."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.cursor: Cursor = connection.cursor()

    def __call__(self, sql: str, *parameters: object) -> tuple[tuple[Any, ...], ...]:
        self.cursor.execute(sql, parameters or None)
        return self.cursor.fetchall()

    def fails(self, code: int, sql: str, *parameters: object) -> None:
        with pytest.raises(pymysql.err.MySQLError) as caught:
            self(sql, *parameters)
        assert caught.value.args[0] == code, caught.value


@pytest.fixture
def clients(database: DatabaseServer) -> Iterator[tuple[Client, Client]]:
    """Two connections in autocommit mode, and the tables."""
    with ExitStack() as stack:
        one, two = (Client(stack.enter_context(database.connection())) for _ in range(2))
        for migration in migrations():
            for statement in migration.statements:
                one(statement)
        one(_CREATE_HISTORY)
        yield one, two


@pytest.fixture
def client(clients: tuple[Client, Client]) -> Client:
    return clients[0]


def add(client: Client, code: str) -> int:
    client(INSERT, code, URL, NOW)
    assert client.cursor.lastrowid is not None
    return client.cursor.lastrowid


def test_who_answers(client: Client, database: DatabaseServer) -> None:
    ((version, connection, name, one),) = client("SELECT VERSION(), CONNECTION_ID(), DATABASE(), 1")
    assert database.engine in version.lower()
    assert version == client.connection.get_server_info().removeprefix("5.5.5-")
    assert connection == client.connection.thread_id()
    assert name == "scaleup"
    assert one == 1


def test_migrations_can_be_repeated(client: Client) -> None:
    for migration in migrations():
        for statement in migration.statements:
            client(statement)


def test_inserting_gives_ids_that_grow(client: Client) -> None:
    first = add(client, "a")
    assert client.cursor.rowcount == 1
    second = add(client, "b")
    assert second > first
    assert client("SELECT LAST_INSERT_ID()") == ((second,),)


def test_several_rows_at_once(client: Client) -> None:
    first = add(client, "first")
    client.cursor.executemany(INSERT, [(f"c{number}", URL, NOW) for number in range(3)])
    assert client.cursor.rowcount == 3
    assert client.cursor.lastrowid == first + 1  # the first of them
    assert client("SELECT COUNT(*) FROM links") == ((4,),)


def test_the_ids_of_others_are_not_ours(clients: tuple[Client, Client]) -> None:
    one, two = clients
    added = add(one, "a")
    add(two, "b")
    assert one("SELECT LAST_INSERT_ID()") == ((added,),)


def test_an_insert_without_an_automatic_id_has_none(client: Client) -> None:
    client("INSERT INTO schema_migrations (version, name, applied) VALUES (%s, %s, UTC_TIMESTAMP(6))", 1, "x")
    assert client.cursor.lastrowid == 0
    ((applied,),) = client("SELECT applied FROM schema_migrations")
    assert abs((datetime.now(UTC).replace(tzinfo=None) - applied).total_seconds()) < 60


def test_values_come_back_as_they_were(client: Client) -> None:
    add(client, "a")
    ((code, url, clicks, created),) = client(SELECT, "a")
    assert (code, url, clicks, created) == ("a", URL, 0, NOW)
    assert isinstance(clicks, int)


@pytest.mark.parametrize(
    "text", ["'", '"', "\\", "\\'", "''", "%s %d %%", "`", ";--", "/*", "\n\r\t\0\x1a", ":p1", "?"]
)
def test_strings_are_escaped(client: Client, text: str) -> None:
    client(INSERT, "a", text, NOW)
    assert client(SELECT_URL, "a") == (("a", text),)
    assert client("SELECT id FROM links WHERE url = %s", text) != ()


def test_a_duplicate_is_1062_and_changes_nothing(client: Client) -> None:
    add(client, "a")
    client.fails(1062, INSERT, "a", "https://other.example/", NOW)
    assert client("SELECT code, url FROM links") == (("a", URL),)


def test_codes_compare_by_bytes(client: Client) -> None:
    add(client, "abc")
    add(client, "ABC")
    assert client(SELECT_URL, "Abc") == ()
    assert client(for_many(SELECT_URL, 3), "Abc", "abc", "aBc") == (("abc", URL),)
    client.fails(1062, INSERT, "abc ", URL, NOW)  # but without trailing spaces


def test_updates_and_deletes_count_rows(client: Client) -> None:
    add(client, "a")
    client(COUNT_CLICKS, 1, "a")
    assert client.cursor.rowcount == 1
    client(COUNT_CLICKS, 1, "b")
    assert client.cursor.rowcount == 0
    client("UPDATE links SET url = %s WHERE code = %s", URL, "a")
    assert client.cursor.rowcount == 0  # it was that already
    client(DELETE, "a")
    assert client.cursor.rowcount == 1
    client(DELETE, "a")
    assert client.cursor.rowcount == 0


def test_pages(client: Client) -> None:
    ids = [add(client, f"c{number}") for number in range(5)][::-1]
    assert [row[0] for row in client(FIRST_PAGE, 2)] == ids[:2]
    assert [row[0] for row in client(NEXT_PAGE, ids[1], 2)] == ids[2:4]
    assert [
        row[0] for row in client("SELECT id FROM links ORDER BY id DESC LIMIT %s OFFSET %s", 2, 1)
    ] == ids[1:3]
    assert client("SELECT id FROM links WHERE id IN (%s, %s) AND NOT code = 'x'", ids[0], ids[3]) != ()
    assert client("SELECT id FROM links WHERE id BETWEEN %s AND %s AND url IS NOT NULL", ids[3], ids[1])


@pytest.mark.parametrize(
    ("code", "sql"),
    [
        (1064, "SELEC 1"),
        (1064, "SELECT 'a"),
        (1146, "SELECT id FROM nosuch"),
        (1146, "INSERT INTO nosuch (a) VALUES (1)"),
        (1054, "SELECT nosuch FROM links"),
        (1054, "SELECT `nosuch` FROM links"),
        (1054, "INSERT INTO links (nosuch) VALUES (1)"),
        (1050, "CREATE TABLE links (id INT NOT NULL PRIMARY KEY)"),
        (1048, "INSERT INTO links (code, url, created) VALUES ('a', NULL, '2026-01-01 00:00:00')"),
        (
            1406,
            "INSERT INTO links (code, url, created) VALUES ('" + "x" * 33 + "', 'u', '2026-01-01 00:00:00')",
        ),
        (1366, "INSERT INTO links (code, url, created) VALUES ('a', 'ä', '2026-01-01 00:00:00')"),
        (
            1366,
            "INSERT INTO links (code, url, clicks, created) VALUES ('a', 'u', 'x', '2026-01-01 00:00:00')",
        ),
        (1264, "INSERT INTO links (code, url, clicks, created) VALUES ('a', 'u', -1, '2026-01-01 00:00:00')"),
        (1292, "INSERT INTO links (code, url, created) VALUES ('a', 'u', 'yesterday')"),
    ],
)
def test_mistakes_have_mysqls_numbers(client: Client, code: int, sql: str) -> None:
    client.fails(code, sql)
    assert client("SELECT COUNT(*) FROM links") == ((0,),)


def test_a_transaction_is_kept_or_not(clients: tuple[Client, Client]) -> None:
    one, two = clients
    one.connection.begin()
    add(one, "a")
    assert one("SELECT COUNT(*) FROM links") == ((1,),)
    assert two("SELECT COUNT(*) FROM links") == ((0,),)
    one.connection.rollback()
    assert one("SELECT COUNT(*) FROM links") == ((0,),)
    one.connection.begin()
    add(one, "b")
    one.connection.commit()
    assert two("SELECT code FROM links") == (("b",),)


def test_a_mistake_in_a_transaction_undoes_its_statement_only(client: Client) -> None:
    client.connection.begin()
    add(client, "a")
    client.fails(1062, INSERT, "a", URL, NOW)
    add(client, "b")
    client.connection.commit()
    assert client("SELECT code FROM links ORDER BY id") == (("a",), ("b",))


def test_a_connection_that_ends_in_a_transaction_rolls_back(
    clients: tuple[Client, Client], database: DatabaseServer
) -> None:
    with database.connection() as connection:
        ending = Client(connection)
        connection.begin()
        add(ending, "a")
    assert clients[0]("SELECT COUNT(*) FROM links") == ((0,),)
    add(clients[0], "a")  # and its locks are free


def test_the_state_of_the_transaction_is_told(client: Client) -> None:
    def in_transaction() -> bool:
        return bool(client.connection.server_status & 1)

    assert client.connection.get_autocommit()
    assert not in_transaction()
    client.connection.begin()
    add(client, "a")
    assert in_transaction()
    client.connection.commit()
    assert not in_transaction()


def test_without_autocommit(clients: tuple[Client, Client]) -> None:
    one, two = clients
    one.connection.autocommit(False)
    add(one, "a")
    assert two("SELECT COUNT(*) FROM links") == ((0,),)
    one.connection.commit()
    assert two("SELECT COUNT(*) FROM links") == ((1,),)
    add(one, "b")
    one.connection.autocommit(True)  # commits
    assert two("SELECT COUNT(*) FROM links") == ((2,),)


def test_making_a_table_commits(clients: tuple[Client, Client]) -> None:
    one, two = clients
    one.connection.begin()
    add(one, "a")
    one("CREATE TABLE IF NOT EXISTS schema_migrations (version INT NOT NULL PRIMARY KEY)")
    one.connection.rollback()
    assert two("SELECT COUNT(*) FROM links") == ((1,),)


def test_writers_wait_for_each_other(clients: tuple[Client, Client]) -> None:
    one, two = clients
    add(one, "a")
    one.connection.begin()
    one(COUNT_CLICKS, 1, "a")
    with ThreadPoolExecutor() as threads:
        threads.submit(two, COUNT_CLICKS, 1, "a")
        one(COUNT_CLICKS, 1, "a")
        one.connection.commit()
    assert one("SELECT clicks FROM links") == ((3,),)


def test_counting_from_many_connections_loses_nothing(client: Client, database: DatabaseServer) -> None:
    add(client, "a")

    def count() -> None:
        with database.connection() as connection:
            for _ in range(20):
                Client(connection)(COUNT_CLICKS, 1, "a")

    with ThreadPoolExecutor(5) as threads:
        for _ in range(5):
            threads.submit(count)
    assert client("SELECT clicks FROM links") == ((100,),)


def test_locks_have_names_and_owners(clients: tuple[Client, Client]) -> None:
    one, two = clients
    assert one("SELECT GET_LOCK(%s, %s)", "l", 0) == ((1,),)
    assert one("SELECT GET_LOCK(%s, %s)", "other", 0) == ((1,),)
    assert one("SELECT GET_LOCK(%s, %s)", "l", 0) == ((1,),)  # has it already
    assert two("SELECT GET_LOCK(%s, %s)", "l", 0) == ((0,),)
    assert two("SELECT RELEASE_LOCK(%s)", "l") == ((0,),)
    assert two("SELECT RELEASE_LOCK(%s)", "nosuch") == ((None,),)
    for _ in range(2):  # as often as it was taken
        assert two("SELECT GET_LOCK(%s, %s)", "l", 0) == ((0,),)
        assert one("SELECT RELEASE_LOCK(%s)", "l") == ((1,),)
    assert two("SELECT GET_LOCK(%s, %s)", "l", 0) == ((1,),)


def test_who_waits_for_a_lock_gets_it(clients: tuple[Client, Client]) -> None:
    one, two = clients
    one("SELECT GET_LOCK('l', 0)")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(two, "SELECT GET_LOCK('l', 20)")
        one("SELECT RELEASE_LOCK('l')")
        assert waiting.result() == ((1,),)


def test_a_lock_goes_with_its_owner(clients: tuple[Client, Client], database: DatabaseServer) -> None:
    with database.connection() as connection:
        Client(connection)("SELECT GET_LOCK('l', 0)")
    assert clients[0]("SELECT GET_LOCK('l', 20)") == ((1,),)


def test_the_wrong_password_and_the_wrong_user(database: DatabaseServer) -> None:
    for user, password in (("scaleup", "wrong"), ("scaleup", ""), ("root", ""), ("nosuch", PASSWORD)):
        with pytest.raises(pymysql.err.OperationalError) as caught:
            pymysql.connect(
                host=database.endpoint.host,
                port=database.endpoint.port,
                user=user,
                password=password,
                ssl_disabled=True,
            )
        assert caught.value.args[0] in (1045, 1698)  # 1698: root has no password at all


def test_the_wrong_database(client: Client, database: DatabaseServer) -> None:
    with (
        pytest.raises(pymysql.err.OperationalError) as caught,
        closing(
            pymysql.connect(
                host=database.endpoint.host,
                port=database.endpoint.port,
                user="scaleup",
                password=PASSWORD.encode(),
                database="nosuch",
                ssl_disabled=True,
            )
        ),
    ):
        pass
    assert caught.value.args[0] in (1044, 1049)  # MariaDB does not tell strangers what there is
    client.connection.select_db("scaleup")
    with pytest.raises(pymysql.err.OperationalError):
        client.connection.select_db("nosuch")


def test_ping_and_the_usual_settings(client: Client) -> None:
    client.connection.ping(reconnect=False)
    for statement in ("SET NAMES utf8mb4", "SET time_zone = '+00:00'", "SET SESSION autocommit = 1"):
        client(statement)
