"""One client's connection to the embedded database: statements in MySQL's terms, done by SQLite.

Everything in a `Connection` happens in one thread of its own. Readers see the last committed state and never
wait (SQLite's WAL). There is one writer at a time: the right to write is taken by a writing statement, or by
BEGIN for a whole transaction, because a transaction that has read before it writes could not go on otherwise
once somebody else has written. Who waits too long for it gets MySQL's error 1205.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaleup.db import sqlerror
from scaleup.db.locks import WRITING, Locks
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

VERSION = f"8.0.0-embedded-sqlite-{sqlite3.sqlite_version}"
"""8.0.0, because clients decide by the number how to speak."""

WRITE_WAIT_SECONDS = 5.0
"""How long a statement waits for the writer before it (MySQL's innodb_lock_wait_timeout is 50 s)."""

# What a column declared DATETIME holds is text; clients are to get it as a time. (Known in the whole process.)
sqlite3.register_converter("DATETIME", lambda value: datetime.fromisoformat(value.decode()))


@dataclass(frozen=True, slots=True)
class Result:
    """`columns` is empty for statements without rows."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    affected: int = 0
    last_id: int = 0


def prepare(path: Path) -> None:
    """Make the file, if it is not there; WAL is a property of it. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


class Connection:
    """`durable`: whether a commit survives a loss of power."""

    def __init__(self, path: Path, locks: Locks, *, number: int, database: str, durable: bool) -> None:
        self.autocommit = True
        self._locks = locks
        self._last_id = 0
        self._sqlite = sqlite3.connect(path, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES)
        self._sqlite.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        for name, arguments, function in (
            ("VERSION", 0, lambda: VERSION),
            ("DATABASE", 0, lambda: database),
            ("CONNECTION_ID", 0, lambda: number),
            ("LAST_INSERT_ID", 0, lambda: self._last_id),
            ("UTC_TIMESTAMP", 0, _utc_timestamp),
            ("UTC_TIMESTAMP", 1, _utc_timestamp),
            ("GET_LOCK", 2, lambda name, timeout: locks.acquire(f"lock {name}", self, timeout)),
            ("RELEASE_LOCK", 1, lambda name: locks.release(f"lock {name}", self)),
        ):
            self._sqlite.create_function(name, arguments, function)

    @property
    def in_transaction(self) -> bool:
        return self._sqlite.in_transaction

    def execute(self, text: str) -> Result:
        """Do one statement. Raises SqlError."""
        plan, parameters = translate(text)
        try:
            return self._execute(plan, parameters)
        except sqlite3.Error as error:
            raise _named(error) from None
        except OverflowError:
            raise SqlError(sqlerror.OUT_OF_RANGE, "a number has more than 64 bits") from None

    def reset(self) -> None:
        """As a new connection."""
        self._end("ROLLBACK")
        self._locks.forget(self)
        self.autocommit = True
        self._last_id = 0

    def close(self) -> None:
        self._end("ROLLBACK")
        self._sqlite.close()
        self._locks.forget(self)

    def _execute(self, plan: Plan, parameters: dict[str, Any]) -> Result:
        match plan:
            case Read(sql):
                if not self.autocommit:
                    self._begin()
                cursor = self._sqlite.execute(sql, parameters)
                return Result([column[0] for column in cursor.description], cursor.fetchall())
            case Write(sql, table):
                with self._writing():
                    cursor = self._sqlite.execute(sql, parameters)
                return Result(affected=cursor.rowcount, last_id=self._inserted(cursor, table))
            case Define(sql):
                self._end("COMMIT")
                with self._writing():
                    self._sqlite.execute(sql)
                self._end("COMMIT")
            case Begin():
                self._end("COMMIT")
                self._begin()
            case Commit():
                self._end("COMMIT")
            case Rollback():
                self._end("ROLLBACK")
            case SetAutocommit(on):
                if on:
                    self._end("COMMIT")
                self.autocommit = on
            case Nothing():
                pass
        return Result()

    def _inserted(self, cursor: sqlite3.Cursor, table: str | None) -> int:
        """What LAST_INSERT_ID() means: the first of the ids that a statement has made."""
        if table is None or cursor.rowcount < 1 or not self._makes_ids(table):
            return 0
        assert cursor.lastrowid is not None
        self._last_id = cursor.lastrowid - cursor.rowcount + 1  # one writer: they follow each other
        return self._last_id

    def _makes_ids(self, table: str) -> bool:
        query = "SELECT sql LIKE '%AUTOINCREMENT%' FROM sqlite_master WHERE name = ? COLLATE NOCASE"
        row = self._sqlite.execute(query, (table,)).fetchone()
        return bool(row and row[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Within a transaction the right to write was taken at its beginning."""
        if not self.autocommit or self.in_transaction:
            self._begin()
            yield
            return
        self._take_writing()
        try:
            yield
        finally:
            self._locks.release(WRITING, self)

    def _begin(self) -> None:
        if not self.in_transaction:
            self._take_writing()
            try:
                self._sqlite.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:
                self._locks.release(WRITING, self)
                raise

    def _end(self, how: str) -> None:
        if self.in_transaction:
            self._sqlite.execute(how)
        self._locks.release(WRITING, self)

    def _take_writing(self) -> None:
        if not self._locks.acquire(WRITING, self, WRITE_WAIT_SECONDS):
            raise SqlError(
                sqlerror.LOCK_WAIT_TIMEOUT, "Lock wait timeout exceeded; another transaction is open"
            )


def _utc_timestamp(digits: int = 0) -> str:
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    return now[: 20 + digits].rstrip(".")


_BY_NAME = {
    "SQLITE_CONSTRAINT_UNIQUE": (sqlerror.DUPLICATE_ENTRY, "Duplicate entry for key "),
    "SQLITE_CONSTRAINT_PRIMARYKEY": (sqlerror.DUPLICATE_ENTRY, "Duplicate entry for key "),
    "SQLITE_CONSTRAINT_ROWID": (sqlerror.DUPLICATE_ENTRY, "Duplicate entry for key "),
    "SQLITE_CONSTRAINT_NOTNULL": (sqlerror.NOT_NULL, "Column cannot be null: "),
    "SQLITE_BUSY": (sqlerror.LOCK_WAIT_TIMEOUT, ""),
    "SQLITE_FULL": (sqlerror.DISK_FULL, ""),
    "SQLITE_READONLY": (sqlerror.READ_ONLY, ""),
}
_BY_MESSAGE = {
    "no such table": sqlerror.NO_SUCH_TABLE,
    "no such column": sqlerror.UNKNOWN_COLUMN,
    "has no column named": sqlerror.UNKNOWN_COLUMN,
    "already exists": sqlerror.TABLE_EXISTS,
}


def _named(error: sqlite3.Error) -> SqlError:
    """SQLite's error by MySQL's number."""
    name, message = getattr(error, "sqlite_errorname", ""), str(error)
    if name in _BY_NAME:
        code, words = _BY_NAME[name]
        return SqlError(code, words + message.rpartition("failed: ")[2])
    if name == "SQLITE_CONSTRAINT_CHECK":  # the constraint's name says what it is: see schema.py
        number, _, column = message.rpartition("failed: ")[2].partition(":")
        return SqlError(int(number), f"Value not allowed in column {column!r}")
    for words, code in _BY_MESSAGE.items():
        if words in message:
            return SqlError(code, message)
    return SqlError(sqlerror.SYNTAX if name == "SQLITE_ERROR" else sqlerror.UNKNOWN, message)
