"""Connections to the database, kept for reuse; every use has a deadline; one kind of error when it is away.

aiomysql brings a pool, but one that can hang: it forgets to wake who waits when a connection comes back
broken, or when the one that it woke gave up; it connects while holding the lock that giving back needs; and
neither taking a connection nor reading from it has a time-out. Here a semaphore counts the connections in
use. It is released whatever happened to the connection, so that somebody waiting always goes on, and a new
connection is made outside any lock.

    async with pool.cursor() as cursor:      # waiting, connecting and all queries: within the time-out
        await cursor.execute("SELECT 1")

Who would wait too long is not let in. By Little's law the wait is the number of those before us, times how
long a use takes on average, by the number of connections. When that is more than WAIT_SHARE of the deadline,
what we are asked for would come too late, and the waiting would have made it later for the others, too:
DatabaseOverloadedError at once. Who watches over a server has a connection of its own for that, beyond the others.

Of several hosts one is used at a time: the first that can be reached and is not read-only, which is the primary, or
any node of a Galera cluster that is in it.
It is looked for again whenever a connection is to be made, from the one used last onwards; and when a server says
that it is read-only now, all connections to it are dropped. So a primary that has changed is found again.

Connections are in autocommit mode: without it, the first SELECT would freeze what a connection sees until
it commits. A connection that comes back inside a transaction is closed, which rolls it back. One whose
query is cancelled is closed by aiomysql itself, since the answer would be read by the next user. A connection of
MAX_AGE_SECONDS is replaced: a server's memory for it only grows, and a name may have another address by now.

The server is told to end a statement after SERVER_SHARE of the time-out. So it is the server who says that one is
too slow or waits for a lock, while we still listen. One from which nobody has heard for longer hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from ssl import SSLContext, SSLError
from typing import Any

import aiomysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from pymysql.err import Error, InterfaceError, OperationalError

from scaleup.app import request_id
from scaleup.app.address import DatabaseAddress
from scaleup.app.encryption import Connection
from scaleup.app.outcomes import (
    CANNOT_CONNECT,
    GONE,
    LOST,
    NOT_READY,
    READ_ONLY,
    DatabaseAwayError,
    DatabaseBusyError,
    DatabaseOverloadedError,
    DatabaseRefusesError,
    named,
)
from scaleup.net.addresses import Endpoint

log = logging.getLogger(__name__)

CLOSE_SECONDS = 0.5
"""How long saying goodbye to the server may take."""

MAX_AGE_SECONDS = 1800.0
MAX_WAITING = 1024
"""Requests that wait for a connection, whatever the estimate says: each costs memory."""
WAIT_SHARE = 0.5
"""What of its time a use may spend waiting for its connection; the rest is for what it came for."""
SERVER_SHARE = 0.8
"""What of a use's time the server may spend on one statement: its answer has to arrive before we give up."""
LOCK_SHARE = 0.5
"""What of it a statement may wait for a lock: then there is time to do all of it again."""
WARM_CONNECTIONS = 2
"""Made before the first request, which need not wait for a login then."""
SLOW_QUERY_SECONDS = 0.25
_CONVERSIONS = {**conversions, FIELD_TYPE.DATETIME: datetime.fromisoformat}
"""Python's own reads a time in a twentieth of what PyMySQL's takes."""
_SMOOTHING = 1 / 32
"""How much the latest use counts in their average duration."""


class _Cursor(aiomysql.Cursor):  # type: ignore[misc] # aiomysql has no types
    """Tells slow queries, and asks for no warnings: aiomysql would, a round trip, to give them to `warnings`.

    `answered`: when the server last did, by the loop's clock.
    """

    answered = -math.inf

    async def execute(self, query: str, args: Any = None) -> Any:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            return await super().execute(query, args)
        except Error:
            raise
        except RuntimeError as error:  # uvloop's, on writing to what was reset since the last answer
            self.connection.close()
            raise OperationalError(LOST, str(error)) from error
        except Exception:  # an answer that cannot be read: the rest of it is still on its way
            self.connection.close()
            raise
        finally:
            if not self.connection.closed:
                self.answered = clock()
            if (seconds := clock() - begun) > SLOW_QUERY_SECONDS:  # also of one that was given up
                text, request = " ".join(query.split()), request_id.current.get()
                log.warning("slow query, %.0f ms, request %s: %s", seconds * 1000, request, text)

    async def _show_warnings(self, conn: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Connection:
    """aiomysql's, to which host, and when it was made, by the loop's clock."""

    raw: Any
    host: Endpoint
    born: float


class Pool:
    """At most `size` connections. `timeout`: seconds for one use, if `cursor` is not told otherwise."""

    def __init__(
        self,
        address: DatabaseAddress,
        password: str,
        *,
        size: int,
        timeout: float,
        ssl: SSLContext | None = None,
    ) -> None:
        self._ssl = ssl
        self.address, self.size, self.timeout = address, size, timeout
        self.on_away: Callable[[str], None] = lambda _reason: None
        """Called each time the database turns out to be away, with the reason."""
        self.in_use = 0
        """By requests, that is; not by who watches."""
        self.waiting = 0
        self.refused = 0
        """How many were not let in, or gave up waiting."""
        self.opened = 0
        """Connections that were made since the start."""
        self.uses = 0
        """Times that a connection was used by requests."""
        self._password = password
        self._slots = asyncio.Semaphore(size)
        self._watchers = asyncio.Semaphore(1)
        self._rechecking, self._rechecked = asyncio.Lock(), -1
        self._recheck_failed = (-1, DatabaseAwayError(""))
        """When the last one that failed did, and how."""
        self._moments = itertools.count()
        """What was when in rechecks; the loop's clock says the same time twice."""
        self._idle: deque[_Connection] = deque()
        """The last given back is taken first; the others may grow old."""
        self._mean_use_seconds = 0.0
        self._heard = -math.inf
        """When the server last answered anybody."""
        self._current = 0  # of the address's endpoints
        self._closed = False

    @property
    def endpoint(self) -> Endpoint:
        """The host that is used now."""
        return self.address.endpoints[self._current]

    @property
    def idle(self) -> int:
        return len(self._idle)

    @contextlib.asynccontextmanager
    async def cursor(self, timeout: float | None = None, *, watching: bool = False) -> AsyncIterator[Any]:
        """An aiomysql cursor on a connection of one's own. `timeout`: more than the pool's: a new connection.
        `watching`: one beyond `size`, so that a server can be looked at when it has much to do.

        Raises DatabaseAwayError when the database is not there or hangs, DatabaseBusyError when it is too slow,
        DatabaseOverloadedError when all connections are in use for too long; other errors of SQL are pymysql's.
        """
        limit = self.timeout if timeout is None else timeout
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(limit):
                slots = self._watchers if watching else self._slots
                await (slots.acquire() if watching else self._wait_for_slot(limit))
                try:
                    connection = await (self._take() if limit <= self.timeout else self._connect(limit))
                    self.in_use += not watching
                    self.uses += not watching
                    begun = clock()
                    try:
                        async with connection.raw.cursor(_Cursor) as cursor:
                            try:
                                yield cursor
                            finally:
                                self._heard = max(self._heard, cursor.answered)
                    finally:
                        self.in_use -= not watching
                        if not watching and limit <= self.timeout:  # a migration says nothing of requests
                            self._mean_use_seconds += (clock() - begun - self._mean_use_seconds) * _SMOOTHING
                        self._give_back(connection, keep=limit <= self.timeout)
                finally:
                    slots.release()
        except TimeoutError:
            if limit < self.timeout:  # it says more of who had so little time than of the database
                raise DatabaseBusyError(f"no answer within the {limit:.3f} s that were left") from None
            if clock() - self._heard < limit * SERVER_SHARE:
                raise DatabaseBusyError(f"it was not done within {limit:g} s") from None
            raise self._away(DatabaseAwayError(f"no answer within {limit:g} s")) from None
        except Error as error:
            told = _classify(error)
            if told is None:
                raise
            raise told if isinstance(told, DatabaseBusyError) else self._away(told) from error

    async def recheck(self) -> None:
        """Whether the host that is used may still be; else look for another. Raises DatabaseAwayError.

        A primary that became read-only still answers reads, with what is no longer the truth. Those who ask at
        the same time share what is found out after they have asked: one looks, within the time-out, and if that
        was in vain nobody who waited for it tries again.
        """
        asked = next(self._moments)
        async with self._rechecking:
            if self._rechecked > asked:
                return
            failed, reason = self._recheck_failed
            if failed > asked:
                raise type(reason)(str(reason), reason.code)
            begun = next(self._moments)
            try:
                await self._recheck()
            except DatabaseAwayError as error:
                self._recheck_failed = next(self._moments), type(error)(str(error), error.code)
                raise
            self._rechecked = begun

    async def _recheck(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                try:
                    async with asyncio.timeout(self.timeout / 3), self.cursor(watching=True) as cursor:
                        return await _settle(cursor.connection, may_be_read_only=not self.address.others)
                except DatabaseBusyError:
                    raise
                except (DatabaseAwayError, TimeoutError):
                    self._drop_idle()
                async with self.cursor(watching=True):  # on a new connection: to a host that may
                    pass
        except TimeoutError:
            raise self._away(DatabaseAwayError(f"no answer within {self.timeout:g} s")) from None

    async def warm(self) -> None:
        """Make the first connections before anybody waits for them. Raises DatabaseAwayError."""
        while len(self._idle) + self.in_use < min(WARM_CONNECTIONS, self.size):
            self._idle.append(await self._connect(self.timeout))

    async def close(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self._closed = True
        writers = [it.raw._writer for it in self._idle if it.raw._writer is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                for connection in list(self._idle):  # RuntimeError is uvloop's, when it was reset
                    with contextlib.suppress(OSError, RuntimeError):
                        await connection.raw.ensure_closed()
                for writer in writers:  # TLS says goodbye as well, which takes some turns of the loop
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        for writer in writers:
            writer.transport.abort()
        self._drop_idle()

    async def _wait_for_slot(self, limit: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # which does not wait
            return
        expected = (self.waiting + 1) * self._mean_use_seconds / self.size
        if expected > limit * WAIT_SHARE or self.waiting >= MAX_WAITING:
            self.refused += 1
            raise DatabaseOverloadedError(f"all {self.size} connections in use, {self.waiting} wait for one")
        self.waiting += 1
        try:
            async with asyncio.timeout(limit * WAIT_SHARE):
                await self._slots.acquire()
        except TimeoutError:
            self.refused += 1
            reason = f"all {self.size} connections in use for {limit * WAIT_SHARE:g} s"
            raise DatabaseOverloadedError(reason) from None
        finally:
            self.waiting -= 1

    async def _take(self) -> _Connection:
        oldest = asyncio.get_running_loop().time() - MAX_AGE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            reader = connection.raw._reader
            # eof_received, not at_eof(): MySQL 8 sends an error before it closes, which is still unread.
            if connection.born > oldest and not reader.eof_received and reader.exception() is None:
                return connection
            connection.raw.close()
        return await self._connect(self.timeout)

    async def _connect(self, statement_seconds: float) -> _Connection:
        """To the host used last, or the first after it that is a primary. Raises what all of them said."""
        hosts = self.address.endpoints
        first, reasons = self._current, []
        for turn in range(len(hosts)):
            number = (first + turn) % len(hosts)
            try:
                # All of them within one time-out: who is stopped accepts and says nothing.
                raw = await self._log_in(hosts[number], self.timeout / len(hosts), statement_seconds)
            except DatabaseAwayError as error:
                reasons.append(f"{hosts[number]}: {error}")
                last = error
                continue
            if number != self._current:
                log.warning("the database at %s is used from now on: %s", hosts[number], "; ".join(reasons))
                self._current = number
                self._drop_idle()  # those to the host before
            self.opened += 1
            return _Connection(raw, hosts[number], asyncio.get_running_loop().time())
        raise self._tell_away(type(last)("; ".join(reasons), last.code)) from last

    async def _log_in(self, host: Endpoint, seconds: float, statement_seconds: float) -> Any:
        """An aiomysql connection. Raises DatabaseAwayError."""
        address = self.address
        try:
            # Around all of it: aiomysql's own connect_timeout ends before the handshake begins.
            async with asyncio.timeout(seconds):
                raw = Connection(
                    host=host.host,
                    port=host.port,
                    user=address.user,
                    password=self._password.encode().decode("latin1"),  # aiomysql encodes it as latin1
                    db=address.database,
                    charset="utf8mb4",
                    conv=_CONVERSIONS,
                    autocommit=True,
                    local_infile=False,  # else a server could ask for any file of ours
                    ssl=self._ssl,
                )
                try:
                    await raw._connect()
                    await _limit(raw, statement_seconds)
                    await _settle(raw, may_be_read_only=not address.others)
                except BaseException:
                    raw.close()
                    raise
                return raw
        except Error as error:  # that of a server which does not let us in, whatever its number
            if isinstance(error.__cause__, SSLError):
                raise DatabaseRefusesError(f"TLS: {error.__cause__}") from error
            raise _classify(error) or DatabaseRefusesError(str(error.args[-1])) from error
        except (struct.error, LookupError, NameError, ValueError) as error:
            raise DatabaseAwayError(f"it does not speak MySQL: {error!r}") from error
        except RuntimeError as error:  # of pymysql: MySQL's way to log in needs the package cryptography
            raise DatabaseRefusesError(str(error)) from error
        except TimeoutError:
            raise DatabaseAwayError(f"no connection within {seconds:g} s", CANNOT_CONNECT) from None

    def _give_back(self, connection: _Connection, *, keep: bool) -> None:
        if connection.raw.closed:
            return
        is_current = connection.host == self.endpoint
        if not keep or not is_current or self._closed or connection.raw.get_transaction_status():
            connection.raw.close()
        else:
            self._idle.append(connection)

    def _away(self, error: DatabaseAwayError) -> DatabaseAwayError:
        """Add the address. One connection that does not answer speaks for the idle ones, too."""
        return self._tell_away(type(error)(f"{self.endpoint}: {error}", error.code))

    def _tell_away(self, error: DatabaseAwayError) -> DatabaseAwayError:
        self._drop_idle()
        self.on_away(str(error))
        return error

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().raw.close()


async def _settle(raw: Any, *, may_be_read_only: bool) -> None:
    """Raises DatabaseAwayError for a replica, or a Galera node outside of its cluster, as a write there would.

    In Galera's cluster a commit is certified everywhere, and applied on the other nodes a little later:
    wsrep_sync_wait has each statement wait for what was committed anywhere before it. Not only reads: a DELETE
    would not find a row that another node has just acknowledged, an INSERT one that was just deleted.
    """
    if "embedded" in raw.get_server_info().lower():  # there is but one of it
        return
    async with raw.cursor(_Cursor) as cursor:
        await cursor.execute("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'wsrep_on')")
        variables = dict(await cursor.fetchall())
        if variables.get("read_only") != "OFF" and not may_be_read_only:
            raise DatabaseAwayError("it is read-only", READ_ONLY)
        if variables.get("wsrep_on") != "ON":
            return
        await cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep_ready'")
        if await cursor.fetchone() != ("wsrep_ready", "ON"):
            raise DatabaseAwayError("its Galera node is not ready", NOT_READY)
        await cursor.execute("SET SESSION wsrep_sync_wait = 7")


async def _limit(raw: Any, seconds: float) -> None:
    """Tell the server how long a statement may take, of a use that may take so many seconds."""
    version = raw.get_server_info().lower()
    lock_wait = f"innodb_lock_wait_timeout = {max(1, int(seconds * LOCK_SHARE))}"
    seconds *= SERVER_SHARE
    if "mariadb" in version:
        limits = f"max_statement_time = {seconds:.3f}, {lock_wait}"
    elif "embedded" in version:  # it knows no such variables
        return
    else:
        limits = f"max_execution_time = {math.ceil(seconds * 1000)}, {lock_wait}"  # MySQL: of SELECT only
    async with raw.cursor(_Cursor) as cursor:
        await cursor.execute(f"SET SESSION {limits}")


def _classify(error: Error) -> DatabaseAwayError | None:
    code = error.args[0] if error.args else None
    if isinstance(error, InterfaceError):
        return DatabaseAwayError("the connection was closed", GONE)
    if not isinstance(code, int):  # of the driver: what came over the wire makes no sense
        return DatabaseAwayError(f"it does not speak MySQL: {code}")
    return named(code, str(error.args[-1]))
