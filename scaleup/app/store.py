"""The links in the database: each query in sight, each method one use of a connection.

Every write is one statement in autocommit mode: it is stored as a whole when its method returns, and not at
all when it raises a pymysql error. When it raises DatabaseAwayError, nobody knows; the caller must say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.err import IntegrityError

from scaleup.app.links import Link
from scaleup.app.pool import Pool

INSERT = "INSERT INTO links (code, url, created) VALUES (%s, %s, %s)"
SELECT = "SELECT id, code, url, clicks, created FROM links WHERE code = %s"
NEWEST = "SELECT id, code, url, clicks, created FROM links ORDER BY id DESC LIMIT %s"
OLDER = "SELECT id, code, url, clicks, created FROM links WHERE id < %s ORDER BY id DESC LIMIT %s"
DELETE = "DELETE FROM links WHERE code = %s"
SELECT_URL = "SELECT url FROM links WHERE code = %s"
COUNT_CLICK = "UPDATE links SET clicks = clicks + 1 WHERE code = %s"
WHO = "SELECT VERSION(), CONNECTION_ID()"
PING = "SELECT 1"

_DUPLICATE = 1062


class CodeTakenError(Exception):
    """Another link has this code."""


@dataclass(frozen=True, slots=True)
class Server:
    """What answered us. `engine`: `mariadb`, `mysql` or `embedded`; `connection`: its id of our connection."""

    engine: str
    version: str
    connection: int


class Store:
    """All that the application asks of the database. Every method may raise DatabaseAwayError."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, code: str, url: str, created: datetime) -> Link:
        """Store a new link. `created`: UTC, without a time zone. Raises CodeTakenError."""
        async with self._pool.cursor() as cursor:
            try:
                await cursor.execute(INSERT, (code, url, created))
            except IntegrityError as error:
                if error.args[0] != _DUPLICATE:
                    raise
                raise CodeTakenError(code) from None
            return Link(cursor.lastrowid, code, url, 0, created)

    async def get(self, code: str) -> Link | None:
        async with self._pool.cursor() as cursor:
            await cursor.execute(SELECT, (code,))
            row = await cursor.fetchone()
        return Link(*row) if row else None

    async def page(self, limit: int, after: int | None = None) -> list[Link]:
        """The newest links, or the newest of those older than the one whose id is `after`.

        A page costs the same however deep it is, and links that come or go meanwhile neither repeat nor
        hide others, as they would with OFFSET.
        """
        query, parameters = (NEWEST, (limit,)) if after is None else (OLDER, (after, limit))
        async with self._pool.cursor() as cursor:
            await cursor.execute(query, parameters)
            return [Link(*row) for row in await cursor.fetchall()]

    async def delete(self, code: str) -> bool:
        """Whether there was one."""
        async with self._pool.cursor() as cursor:
            await cursor.execute(DELETE, (code,))
            return bool(cursor.rowcount)

    async def visit(self, code: str) -> str | None:
        """The URL to redirect to; the click is counted."""
        async with self._pool.cursor() as cursor:
            await cursor.execute(SELECT_URL, (code,))
            row = await cursor.fetchone()
            if row is None:
                return None
            await cursor.execute(COUNT_CLICK, (code,))
        url: str = row[0]
        return url

    async def who(self) -> Server:
        async with self._pool.cursor() as cursor:
            await cursor.execute(WHO)
            row: tuple[Any, ...] = await cursor.fetchone()
        version, connection = str(row[0]), int(row[1])
        known = (name for name in ("mariadb", "embedded") if name in version.lower())
        return Server(next(known, "mysql"), version, connection)

    async def ping(self) -> None:
        async with self._pool.cursor() as cursor:
            await cursor.execute(PING)
