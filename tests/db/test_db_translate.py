"""Only what means the same in SQLite is translated; the rest is refused with 1235."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.db.sqlerror import SqlError
from scaleup.db.translate import (
    Begin,
    Commit,
    Define,
    Nothing,
    Plan,
    Read,
    Rollback,
    SetAutocommit,
    Write,
    translate,
)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("SELECT a FROM t WHERE b = 'x'", Read("SELECT a FROM t WHERE b = :p1")),
        ("select `a` from `t`", Read("SELECT `a` FROM `t`")),
        ("SELECT VERSION(), DATABASE()", Read("SELECT VERSION(), DATABASE()")),
        ("SELECT a FROM t LIMIT 5, 10", Read("SELECT a FROM t LIMIT :p2 OFFSET :p1")),
        ("INSERT INTO t (a) VALUES (1), (2)", Write("INSERT INTO t (a) VALUES (:p1), (:p2)", "t")),
        ("DELETE FROM t WHERE a = 1", Write("DELETE FROM t WHERE a = :p1")),
        (
            "UPDATE t SET a = 1, b = c WHERE d = 2",
            Write("UPDATE t SET a = :p1, b = c WHERE d = :p2 AND (NOT a IS (:p1) OR NOT b IS (c))"),
        ),
        ("DROP TABLE IF EXISTS t", Define("DROP TABLE IF EXISTS `t`")),
        ("BEGIN", Begin()),
        ("START TRANSACTION", Begin()),
        ("COMMIT", Commit()),
        ("rollback", Rollback()),
        ("SET AUTOCOMMIT = 0", SetAutocommit(False)),
        ("SET SESSION autocommit = ON", SetAutocommit(True)),
        ("SET NAMES utf8mb4", Nothing()),
    ],
)
def test_what_means_the_same(text: str, plan: Plan) -> None:
    assert translate(text)[0] == plan


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM t WHERE b LIKE 'x'",  # SQLite ignores case
        "SELECT 4 / 2",  # 2.0000 and 2
        "SELECT 1.5",
        "SELECT 0x41",
        "SELECT a FROM t FOR UPDATE",
        "SELECT a FROM t LOCK IN SHARE MODE",
        "SELECT a FROM t ORDER BY 1",
        "SELECT DISTINCT a FROM t",
        "SELECT a, COUNT(*) FROM t GROUP BY a",
        "SELECT a FROM t HAVING a > 1",
        "SELECT a FROM t JOIN u ON t.a = u.a",
        "SELECT a FROM t, u",
        "SELECT a FROM (SELECT 1 AS a) AS t",
        "SELECT a FROM t WHERE b IN (SELECT 1)",
        "SELECT a FROM other.t",
        "SELECT table_name FROM information_schema.tables",
        "SELECT 1 UNION SELECT 2",
        "SELECT SUM(a) FROM t",  # a DECIMAL in MySQL
        "SELECT NOW()",
        "SELECT UTC_TIMESTAMP(6)",  # would arrive as text
        "SELECT SLEEP(1)",
        "SELECT LOAD_EXTENSION('x')",
        "SELECT @@version",
        "SELECT @x",
        "SELECT a <=> b FROM t",
        "SELECT a REGEXP 'x' FROM t",
        "SELECT CASE WHEN a THEN b END FROM t",
        "INSERT IGNORE INTO t (a) VALUES (1)",
        "INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE a = 2",
        "REPLACE INTO t (a) VALUES (1)",
        "UPDATE t SET a = 1 LIMIT 1",
        "UPDATE t SET a = 1 ORDER BY b",
        "UPDATE t, u SET t.a = 1",
        "DELETE FROM t LIMIT 1",
        "DELETE t FROM t JOIN u ON t.a = u.a",
        "DROP TABLE a, b",
        "DROP DATABASE scaleup",
        "ALTER TABLE t ADD COLUMN b INT",
        "TRUNCATE TABLE t",
        "CREATE INDEX i ON t (a)",
        "CREATE DATABASE x",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TEMPORARY TABLE t (a INT)",
        "CREATE TABLE t AS SELECT 1",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "SAVEPOINT a",
        "ROLLBACK TO SAVEPOINT a",
        "SET GLOBAL x = 1",
        "SET sql_mode = ''",
        "SET NAMES latin1",
        "SET time_zone = '+01:00'",
        "GRANT ALL ON *.* TO x",
        "CALL p()",
        "PRAGMA journal_mode",
        "VACUUM",
        "SELECT 1; SELECT 2",
        "COMMIT; BEGIN",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(SqlError) as caught:
        translate(text)
    assert caught.value.code == 1235, caught.value


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM t INTO OUTFILE '/tmp/x'",
        "ATTACH 'x' AS y",
        "",
        ";",
        "  ",
        "-- x",
        "SELEC 1",
        "SELECT",
        "SELECT FROM",
        "SELECT (1",
        "UPDATE t SET",
    ],
)
def test_what_is_no_sql(text: str) -> None:
    with pytest.raises(SqlError) as caught:
        translate(text)
    assert caught.value.code in (1064, 1235)


@pytest.mark.parametrize(
    "columns",
    [
        "a TEXT",
        "a VARCHAR(10)",  # compares without regard to case
        "a VARCHAR(10) COLLATE utf8mb4_general_ci",
        "a CHAR(10) COLLATE utf8mb4_bin",
        "a TIMESTAMP(6)",
        "a DATETIME",  # would have to be rounded
        "a TINYINT",
        "a DECIMAL(10, 2)",
        "a JSON",
        "a ENUM('x')",
        "a BLOB",
        "a INT AUTO_INCREMENT",
        "a INT DEFAULT (1 + 1)",
        "a DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6)",
        "a INT, KEY b (a)",
        "a INT, UNIQUE KEY b (a(10))",
        "a INT, FOREIGN KEY (a) REFERENCES t (a)",
        "a INT CHECK (a > 1)",
        "a INT GENERATED ALWAYS AS (1)",
    ],
)
def test_columns_that_are_refused(columns: str) -> None:
    with pytest.raises(SqlError) as caught:
        translate(f"CREATE TABLE t ({columns})")
    assert caught.value.code == 1235, caught.value


def test_columns_and_their_checks() -> None:
    plan, _ = translate(
        "CREATE TABLE t (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, a INT, b VARCHAR(3) UNIQUE DEFAULT 'x',"
        " c DATETIME(6) NULL COMMENT 'y', UNIQUE (a, b)) ENGINE=InnoDB COLLATE utf8mb4_bin COMMENT='z'"
    )
    assert isinstance(plan, Define)
    database = sqlite3.connect(":memory:")
    database.execute(plan.sql)
    database.execute("INSERT INTO t (a, c) VALUES (7, NULL)")
    assert database.execute("SELECT * FROM t").fetchall() == [(1, 7, "x", None)]
    for values, failed in (
        ("0, 1, 'a', NULL", "1235:id"),
        ("2, 'a', 'a', NULL", "1366:a"),
        ("2, 2147483648, 'a', NULL", "1264:a"),
        ("2, 1, 'abcd', NULL", "1406:b"),
        ("2, 1, 'a', 'x'", "1292:c"),
        ("2, 1, 'x ', NULL", "t.b"),  # equal but for a space
    ):
        with pytest.raises(sqlite3.IntegrityError, match=failed):
            database.execute(f"INSERT INTO t VALUES ({values})")
    database.close()


def test_a_shape_is_parsed_once() -> None:
    first, _ = translate("SELECT a FROM t WHERE b = 1")
    second, parameters = translate("SELECT a FROM t WHERE b = 2")
    assert first is second
    assert parameters == {"p1": 2}


@given(st.text() | st.text(alphabet="SELCTFROMWH a,=()*'\"`1;:-").map("SELECT ".__add__))
def test_any_text_is_translated_or_refused(text: str) -> None:
    with contextlib.suppress(SqlError):
        translate(text)
