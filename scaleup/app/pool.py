"""Connections to the database, kept for reuse; every use has a deadline; one kind of error when it is away.

aiomysql brings a pool, but one that can hang: it forgets to wake who waits when a connection comes back
broken, or when the one that it woke gave up; it connects while holding the lock that giving back needs; and
neither taking a connection nor reading from it has a time-out. Here a semaphore counts the connections in
use. It is released whatever happened to the connection, so that somebody waiting always goes on, and a new
connection is made outside any lock.

    async with pool.cursor() as cursor:      # waiting, connecting and all queries: within the time-out
        await cursor.execute("SELECT 1")

Connections are in autocommit mode: without it, the first SELECT would freeze what a connection sees until
it commits. A connection that comes back inside a transaction is closed, which rolls it back. One whose
query is cancelled is closed by aiomysql itself, since the answer would be read by the next user.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiomysql
from pymysql.err import Error, InterfaceError

from scaleup.app.address import DatabaseAddress

CLOSE_SECONDS = 0.5
"""How long saying goodbye to the server may take."""

_AWAY = {
    1021: "its disk is full",
    1040: "too many connections",
    1047: "the Galera node is not ready",
    1053: "it is shutting down",
    1114: "its disk is full",
    1146: "it has no tables of ours",  # it is new: watch.py makes them
    1203: "too many connections of this user",
    1290: "it is read-only",
    1927: "the connection was killed",
    2003: "cannot connect",
    2006: "the connection is gone",
    2013: "the connection was lost",
}
"""Errors after which the same request can succeed later, here or with another server."""

_BUSY = {1205: "a lock was not released in time", 1213: "a deadlock"}
"""It is there, but others were in the way."""

_REFUSED = {1044, 1142, 1227}
"""No right to do this: it will not go away by itself."""


class DatabaseAwayError(Exception):
    """The database cannot be asked now. Whether what was being written is stored is not known."""


class DatabaseBusyError(DatabaseAwayError):
    """It answers, but other connections kept it from doing what we asked. That was not done."""


class DatabaseRefusesError(DatabaseAwayError):
    """It answers, but will not let us in or do what we ask."""


class _Cursor(aiomysql.Cursor):  # type: ignore[misc] # aiomysql has no types
    """A cursor without SHOW WARNINGS: aiomysql would ask for them, a round trip, to give them to `warnings`."""

    async def _show_warnings(self, conn: Any) -> None:
        return None


class Pool:
    """At most `size` connections. `timeout`: seconds for one use, if `cursor` is not told otherwise."""

    def __init__(self, address: DatabaseAddress, password: str, *, size: int, timeout: float) -> None:
        self.address, self.size = address, size
        self.on_away: Callable[[str], None] = lambda _reason: None
        """Called each time the database turns out to be away, with the reason."""
        self._password, self._timeout = password, timeout
        self._slots = asyncio.Semaphore(size)
        self._idle: deque[Any] = deque()  # the last given back is taken first; the others may grow old
        self._in_use = 0
        self._closed = False

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def idle(self) -> int:
        return len(self._idle)

    @contextlib.asynccontextmanager
    async def cursor(self, timeout: float | None = None) -> AsyncIterator[Any]:
        """An aiomysql cursor on a connection of one's own.

        Raises DatabaseAwayError when the database is not there, too slow, or when all connections are in
        use for too long; other errors of SQL are pymysql's.
        """
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit), self._slots:
                connection = await self._take()
                self._in_use += 1
                try:
                    async with connection.cursor(_Cursor) as cursor:
                        yield cursor
                finally:
                    self._in_use -= 1
                    self._give_back(connection)
        except TimeoutError:
            raise self._away(DatabaseAwayError(f"no answer within {limit:g} s")) from None
        except Error as error:
            named = _classify(error)
            if named is None:
                raise
            raise named if isinstance(named, DatabaseBusyError) else self._away(named) from error

    async def close(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self._closed = True
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                for connection in self._idle:
                    await connection.ensure_closed()
        self._drop_idle()

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            reader = connection._reader
            # eof_received, not at_eof(): MySQL 8 sends an error before it closes, which is still unread.
            if not reader.eof_received and reader.exception() is None:
                return connection
            connection.close()
        return await self._connect()

    async def _connect(self) -> Any:
        address = self.address
        try:
            # Around all of it: aiomysql's own connect_timeout ends before the handshake begins.
            async with asyncio.timeout(self._timeout):
                return await aiomysql.connect(
                    host=address.endpoint.host,
                    port=address.endpoint.port,
                    user=address.user,
                    password=self._password.encode().decode("latin1"),  # aiomysql encodes it as latin1
                    db=address.database,
                    charset="utf8mb4",
                    autocommit=True,
                    local_infile=False,  # else a server could ask for any file of ours
                )
        except Error as error:  # that of a server which does not let us in, whatever its number
            raise self._away(_classify(error) or DatabaseRefusesError(str(error.args[-1]))) from error
        except (struct.error, LookupError, NameError, ValueError) as error:
            raise self._away(DatabaseAwayError(f"it does not speak MySQL: {error!r}")) from error
        except RuntimeError as error:  # of pymysql: MySQL's way to log in needs the package cryptography
            raise self._away(DatabaseRefusesError(str(error))) from error
        except TimeoutError:
            raise self._away(DatabaseAwayError(f"no connection within {self._timeout:g} s")) from None

    def _give_back(self, connection: Any) -> None:
        if connection.closed:
            return
        if self._closed or connection.get_transaction_status():
            connection.close()
        else:
            self._idle.append(connection)

    def _away(self, error: DatabaseAwayError) -> DatabaseAwayError:
        """Add the address. One connection that does not answer speaks for the idle ones, too."""
        told = type(error)(f"{self.address.endpoint}: {error}")
        self._drop_idle()
        self.on_away(str(told))
        return told

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _classify(error: Error) -> DatabaseAwayError | None:
    code = error.args[0] if error.args else None
    if isinstance(error, InterfaceError):
        return DatabaseAwayError("the connection was closed")
    if not isinstance(code, int):  # of the driver: what came over the wire makes no sense
        return DatabaseAwayError(f"it does not speak MySQL: {code}")
    if code in _AWAY:
        return DatabaseAwayError(_AWAY[code])
    if code in _BUSY:
        return DatabaseBusyError(_BUSY[code])
    if code in _REFUSED:
        return DatabaseRefusesError(str(error.args[-1]))
    return None
