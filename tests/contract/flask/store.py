"""The links in the database, by PyMySQL and a pool of its connections that threads share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pymysql
from pymysql.err import Error, IntegrityError, InterfaceError, OperationalError

DUPLICATE = 1062
NOT_DONE = {1040, 1205, 1213, 1290, 2003}
"""Too many connections, locks, read-only, not there."""
TIMEOUT = 1.5
"""Seconds that a request waits: for a connection, and for each answer on it."""
INSERT = "INSERT INTO links (code, url, created) VALUES (%s, %s, %s)"


class DatabaseError(Exception):
    """`outcome` of the change that was asked for: `failed`, or `unknown`."""

    def __init__(self, reason: str, outcome: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class KeyReusedError(Exception):
    """This key came with another request before."""


class Store:
    def __init__(self, url: str, password: str, connections: int) -> None:
        parts = urlsplit(url)
        self.address = parts.netloc.rpartition("@")[2]
        self._options = {
            "host": parts.hostname,
            "port": parts.port or 3306,
            "user": parts.username,
            "password": password.encode(),
            "database": parts.path[1:],
        }
        self._slots = threading.BoundedSemaphore(connections)
        self._idle: list[Any] = []

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        """On a connection of one's own, in a transaction. Raises DatabaseError, IntegrityError."""
        if not self._slots.acquire(timeout=TIMEOUT):
            raise DatabaseError("all connections are in use", "failed")
        connection = None
        try:
            connection = self._take() or self._connect()
            with connection.cursor() as cursor:
                yield cursor
        except (OperationalError, InterfaceError) as error:
            while idle := self._take():  # they are as good as this one
                idle._force_close()
            begun = connection is not None and error.args[0] not in NOT_DONE
            raise DatabaseError(str(error.args[-1]), "unknown" if begun else "failed") from error
        finally:
            if connection is not None and connection.open:
                self._idle.append(connection)
            self._slots.release()

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self) -> Any:
        limits = {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT, "write_timeout": TIMEOUT}
        return pymysql.connect(**self._options, **limits, autocommit=True)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._cursor() as cursor:
            cursor.connection.begin()
            try:
                yield cursor
                cursor.connection.commit()
            except BaseException:
                with contextlib.suppress(Error):
                    cursor.connection.rollback()
                raise

    def _row(self, sql: str, *values: object) -> Any:
        with self._cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchone()

    def add(self, code: str, url: str, created: datetime) -> None:
        with self._cursor() as cursor:
            cursor.execute(INSERT, (code, url, created))

    def add_once(
        self, key: str, fingerprint: str, response: str, code: str, url: str, created: datetime
    ) -> str:
        """Store the link and the response, unless this key has one: the response that is stored."""
        with self._transaction() as cursor:
            try:
                cursor.execute(
                    "INSERT INTO idempotency_keys (idempotency_key, fingerprint, response, created) "
                    "VALUES (%s, %s, %s, UTC_TIMESTAMP(6))",
                    (key, fingerprint, response),
                )
            except IntegrityError:
                cursor.execute(
                    "SELECT fingerprint, response FROM idempotency_keys WHERE idempotency_key = %s", (key,)
                )
                stored = cursor.fetchone()
                if stored is None or stored[0] != fingerprint:
                    raise KeyReusedError from None
                return str(stored[1])
            cursor.execute(INSERT, (code, url, created))
            return response

    def url(self, code: str) -> str | None:
        row = self._row("SELECT url FROM links WHERE code = %s", code)
        return row[0] if row else None

    def get(self, code: str) -> Any:
        return self._row("SELECT code, url, clicks, created FROM links WHERE code = %s", code)

    def page(self, limit: int, before: int) -> Sequence[Any]:
        """The newest before an id."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT id, code, url, clicks, created FROM links WHERE id < %s ORDER BY id DESC LIMIT %s",
                (before, limit),
            )
            return tuple(cursor.fetchall())

    def delete(self, code: str) -> bool:
        with self._cursor() as cursor:
            return bool(cursor.execute("DELETE FROM links WHERE code = %s", (code,)))

    def count_clicks(self, clicks: Sequence[tuple[str, int]]) -> None:
        """Add to each code's clicks, all or none. `clicks`: sorted, so that nobody waits in a circle."""
        if clicks:
            with self._transaction() as cursor:
                for code, count in clicks:
                    cursor.execute("UPDATE links SET clicks = clicks + %s WHERE code = %s", (count, code))

    def who(self) -> dict[str, Any]:
        version, connection = self._row("SELECT VERSION(), CONNECTION_ID()")
        engine = "mariadb" if "mariadb" in version.lower() else "mysql"
        return {"engine": engine, "version": version, "address": self.address, "connection": connection}

    def ready(self) -> None:
        """The tables are there."""
        self._row("SELECT 1 FROM links LEFT JOIN idempotency_keys USING (id) LIMIT 1")
