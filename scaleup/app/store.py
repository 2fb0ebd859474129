"""The links in the database: each query in sight, each method one transaction.

A method that returns has stored what it says. One that raises DatabaseAwayError has changed nothing; one that
raises OutcomeUnknownError may have, and its caller must say so. transactions.py tells the two apart, and repeats
what may be repeated. Every query finds its rows by an index, and reads no more rows than it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pymysql.err import Error, IntegrityError

from scaleup.app import session
from scaleup.app.idempotency import Key, KeyReusedError
from scaleup.app.links import Link
from scaleup.app.lookup import Lookup
from scaleup.app.outcomes import DatabaseAwayError, DatabaseBusyError, OutcomeUnknownError
from scaleup.app.position import NEWEST, START, Position
from scaleup.app.replicas import REPLICA_SHARE, Replicas
from scaleup.app.transactions import UNKNOWN, Stand, Transactions

T = TypeVar("T")

INSERT = "INSERT INTO links (code, url, created) VALUES (%s, %s, %s)"
SELECT = "SELECT code, url, clicks, created FROM links WHERE code IN (%s)"
FIRST_PAGE = "SELECT id, code, url, clicks, created FROM links ORDER BY id DESC LIMIT %s"
NEXT_PAGE = "SELECT id, code, url, clicks, created FROM links WHERE id < %s ORDER BY id DESC LIMIT %s"
DELETE = "DELETE FROM links WHERE code = %s"
SELECT_URL = "SELECT code, url FROM links WHERE code IN (%s)"
COUNT_CLICKS = "UPDATE links SET clicks = clicks + %s WHERE code = %s"
INSERT_KEY = (
    "INSERT INTO idempotency_keys (idempotency_key, fingerprint, response, created) "
    "VALUES (%s, %s, %s, UTC_TIMESTAMP(6))"
)
SELECT_KEY = "SELECT fingerprint, response FROM idempotency_keys WHERE idempotency_key = %s"
OLDEST_KEY = "SELECT id FROM idempotency_keys ORDER BY id LIMIT 1"
NEWEST_KEY = "SELECT created FROM idempotency_keys ORDER BY id DESC LIMIT 1"
DELETE_KEYS = "DELETE FROM idempotency_keys WHERE id < %s AND created < %s"
WHO = "SELECT VERSION(), CONNECTION_ID()"

_DUPLICATE = 1062

Page = list[tuple[int, Link]]
"""Links, each with its id, which grows from link to link: what comes after this page is what is below its last."""

KEYS_AT_A_TIME = 1000
"""Old keys that one DELETE takes: rows are locked meanwhile."""


class CodeTakenError(Exception):
    """Another link has this code."""


@dataclass(frozen=True, slots=True)
class Server:
    """What answered us. `engine`: `mariadb`, `mysql` or `embedded`; `connection`: its id of our connection."""

    engine: str
    version: str
    connection: int


class Reader:
    """A server that links are read from, and how far it had got by then. Who asks it for a link at about the same
    time shares a query (lookup.py).
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._links = Lookup(self._get)
        self._urls = Lookup(self._url)

    async def get(self, code: str) -> tuple[Link | None, Stand]:
        links, stand = await self._links.ask(code)
        return links.get(code), stand

    async def url(self, code: str) -> tuple[str | None, Stand]:
        urls, stand = await self._urls.ask(code)
        return urls.get(code), stand

    async def page(self, limit: int, after: int | None) -> tuple[Page, Stand]:
        query, parameters = (FIRST_PAGE, (limit,)) if after is None else (NEXT_PAGE, (after, limit))

        async def work(cursor: Any) -> Page:
            await cursor.execute(query, parameters)
            return [(row[0], Link(*row[1:])) for row in await cursor.fetchall()]

        return await self._transactions.read(work)

    async def _get(self, codes: Sequence[str]) -> tuple[dict[str, Link], Stand]:
        rows, stand = await self._rows(SELECT, codes)
        return {row[0]: Link(*row) for row in rows}, stand

    async def _url(self, codes: Sequence[str]) -> tuple[dict[str, str], Stand]:
        rows, stand = await self._rows(SELECT_URL, codes)
        return dict(rows), stand

    async def _rows(self, query: str, codes: Sequence[str]) -> tuple[Sequence[Any], Stand]:
        async def work(cursor: Any) -> Sequence[Any]:
            await cursor.execute(for_many(query, len(codes)), codes)
            rows: Sequence[Any] = await cursor.fetchall()
            return rows

        return await self._transactions.read(work)


class Store:
    """All that the application asks of the database. Every method may raise DatabaseAwayError.

    Links are read from a replica, if there is one that has what the current session has seen; everything else
    is done at the primary.
    """

    def __init__(self, transactions: Transactions, replicas: Replicas | None = None) -> None:
        self._transactions, self._replicas = transactions, replicas
        self._primary = Reader(transactions)
        self._readers = {it: Reader(it.transactions) for it in replicas.all} if replicas else {}

    async def add(self, code: str, url: str, created: datetime) -> Link:
        """Store a new link. `created`: UTC, without a time zone. Raises CodeTakenError."""

        async def work(cursor: Any) -> Link:
            await _insert(cursor, code, url, created)
            return Link(code, url, 0, created)

        return await self._write(self._transactions.statement(work))

    async def add_once(self, key: Key, response: str, code: str, url: str, created: datetime) -> str:
        """Store a new link and `response`, unless this key has one: return the one that is stored.

        Two requests with one key at the same time: the second waits for the first one's row, and then finds it.
        Raises CodeTakenError, KeyReusedError.
        """

        async def work(cursor: Any) -> str:
            try:
                await cursor.execute(INSERT_KEY, (key.text, key.fingerprint, response))
            except IntegrityError as error:
                if error.args[0] != _DUPLICATE:
                    raise
                return await _stored_response(cursor, key)
            await _insert(cursor, code, url, created)
            return response

        return await self._write(self._transactions.transaction(work, repeatable=True))

    async def forget_keys(self, kept: timedelta) -> int:
        """Delete keys that are so much older than the newest, the oldest first, KEYS_AT_A_TIME at most; how many.

        All dates are by the database's clock: an application whose own goes wrong would forget the others' keys.
        """

        async def work(cursor: Any) -> int:
            await cursor.execute(OLDEST_KEY)
            oldest = await cursor.fetchone()
            await cursor.execute(NEWEST_KEY)
            newest = await cursor.fetchone()
            if oldest is None or newest is None:
                return 0
            await cursor.execute(DELETE_KEYS, (oldest[0] + KEYS_AT_A_TIME, newest[0] - kept))
            return int(cursor.rowcount)

        forgotten, _ = await self._transactions.transaction(work, repeatable=True)
        return forgotten

    async def get(self, code: str) -> Link | None:
        return await self._read(lambda reader: reader.get(code))

    async def url(self, code: str) -> str | None:
        """The URL to redirect to."""
        return await self._read(lambda reader: reader.url(code))

    async def page(self, limit: int, after: int | None = None) -> Page:
        """The newest links, or the newest of those older than the one whose id is `after`.

        A page costs the same however deep it is, and links that come or go meanwhile neither repeat nor
        hide others, as they would with OFFSET.
        """
        return await self._read(lambda reader: reader.page(limit, after))

    async def delete(self, code: str) -> bool:
        """Whether there was one."""

        async def work(cursor: Any) -> bool:
            await cursor.execute(DELETE, (code,))
            return bool(cursor.rowcount)

        return await self._write(self._transactions.statement(work))

    async def _write(self, doing: Awaitable[tuple[T, Stand]]) -> T:
        try:
            result, stand = await doing
        except Exception as error:
            if not isinstance(error, DatabaseAwayError) or isinstance(error, OutcomeUnknownError):
                self._saw(NEWEST)  # a refusal has told what is there, or it may be done
            raise
        self._saw(stand.shown)
        return result

    async def _read(self, ask: Callable[[Reader], Awaitable[tuple[T, Stand]]]) -> T:
        if not self._replicas or not self._readers:
            result, _ = await ask(self._primary)
            return result
        try:
            async with asyncio.timeout(self._replicas.primary.timeout * (1 + REPLICA_SHARE)):
                result, stand = await self._read_from(self._replicas, ask)
        except TimeoutError:
            raise DatabaseBusyError("no time was left to ask who the primary is, and then that one") from None
        self._saw(stand.shown)
        return result

    async def _read_from(
        self, replicas: Replicas, ask: Callable[[Reader], Awaitable[tuple[T, Stand]]]
    ) -> tuple[T, Stand]:
        """From a replica, else from the primary, else from the one that is the primary now."""
        needed = session.needed()
        if replica := await replicas.choose(needed):
            before = replica.applied
            try:
                result, stand = await ask(self._readers[replica])
            except (DatabaseAwayError, Error) as error:
                replicas.failed(replica, error)
            else:
                if replicas.answered(replica, before, needed, stand):
                    return result, stand
        if not needed.is_newest:
            result, stand = await ask(self._primary)
            if needed == START or (stand is not UNKNOWN and stand.shown.covers(needed)):
                return result, stand
        # Another server may have become the primary, and what the client has seen be of that one.
        await replicas.primary.recheck()
        return await ask(self._primary)

    def _saw(self, position: Position) -> None:
        if self._readers:
            session.saw(position)

    async def count_clicks(self, clicks: Mapping[str, int]) -> None:
        """Add to the clicks of each code, all or none. Links that are gone have none to add to."""

        async def work(cursor: Any) -> None:
            for code in sorted(clicks):  # in one order everywhere: no deadlocks between applications
                await cursor.execute(COUNT_CLICKS, (clicks[code], code))

        await self._transactions.transaction(work)

    async def who(self) -> Server:
        async def work(cursor: Any) -> tuple[Any, ...]:
            await cursor.execute(WHO)
            row: tuple[Any, ...] = await cursor.fetchone()
            return row

        row, _ = await self._transactions.read(work)
        version, connection = str(row[0]), int(row[1])
        known = (name for name in ("mariadb", "embedded") if name in version.lower())
        return Server(next(known, "mysql"), version, connection)


def for_many(query: str, count: int) -> str:
    """`query` has a place for one code; the same with places for so many."""
    return query.replace("%s", ", ".join(["%s"] * count))


async def _insert(cursor: Any, code: str, url: str, created: datetime) -> None:
    try:
        await cursor.execute(INSERT, (code, url, created))
    except IntegrityError as error:
        if error.args[0] != _DUPLICATE:
            raise
        raise CodeTakenError(code) from None


async def _stored_response(cursor: Any, key: Key) -> str:
    await cursor.execute(SELECT_KEY, (key.text,))
    row = await cursor.fetchone()
    if row is None:  # it was just being forgotten
        raise DatabaseBusyError("the idempotency key is being forgotten")
    fingerprint, response = row
    if fingerprint != key.fingerprint:
        raise KeyReusedError
    return str(response)
