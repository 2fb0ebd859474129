"""Doing a transaction as a whole, again if need be, within the request's deadline.

`outcomes.then` says what an error leaves behind. Here the rest of the rule: a transaction is repeated from its
beginning, never from its middle; after a pause by chance, so that two that met do not meet again; at most
MAX_TRIES times; and never past the deadline, which all tries share: the pool's time-out, or the request's if that
is earlier and something is to be changed.

When the answer to a COMMIT is lost, only a transaction that recognises its own first try (by an idempotency key)
is repeated. Any other one raises OutcomeUnknownError, which says just that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

from pymysql.err import Error, InternalError, OperationalError

from scaleup.app import deadline
from scaleup.app.outcomes import DatabaseAwayError, DatabaseBusyError, OutcomeUnknownError, Then, then
from scaleup.app.pool import Pool
from scaleup.app.position import NEWEST, START, Position

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_TRIES = 5
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.01, 0.2
"""The longest pause doubles with each try. A deadlock is over when its winner commits: milliseconds."""


class _Kind(Enum):
    READ = "changes nothing: may be repeated after any loss"
    STATEMENT = "one statement in autocommit mode"
    TRANSACTION = "BEGIN … COMMIT"


class Stand(NamedTuple):
    """How far a server had got when it had answered.

    `shown` covers all that could be seen in its answer; who asks after it sees all that was `applied`. UNKNOWN: it
    did not say, so anything may have been shown, and nothing that was to be seen be there.
    """

    shown: Position = START
    applied: Position = START


NOBODY_ASKS = Stand()
UNKNOWN = Stand(NEWEST)
POSITION = "SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos"
POSITION_SECONDS = 0.1


class Transactions:
    """`chance()`: a number from 0 to 1, for the pauses. `follows`: whether it is asked how far the server is."""

    def __init__(self, pool: Pool, chance: Callable[[], float], *, follows: bool = False) -> None:
        self._pool, self._chance, self._follows = pool, chance, follows
        self.repeated = 0
        """How many times something was done again."""

    async def read(self, work: Callable[[Any], Awaitable[T]]) -> tuple[T, Stand]:
        """Call `work(cursor)`, which changes nothing. Raises DatabaseAwayError."""
        return await self._until_done(work, _Kind.READ, repeatable=True)

    async def statement(self, work: Callable[[Any], Awaitable[T]]) -> tuple[T, Stand]:
        """Call `work(cursor)`, which changes something by one statement.

        Raises DatabaseAwayError when it was not done, OutcomeUnknownError when nobody knows.
        """
        return await self._until_done(work, _Kind.STATEMENT, repeatable=False)

    async def transaction(
        self, work: Callable[[Any], Awaitable[T]], *, repeatable: bool = False
    ) -> tuple[T, Stand]:
        """Call `work(cursor)` between BEGIN and COMMIT. What `work` raises of its own is rolled back.

        `repeatable`: `work` finds out by itself that it was done already. Raises as `statement` does.
        """
        return await self._until_done(work, _Kind.TRANSACTION, repeatable=repeatable)

    async def _until_done(
        self, work: Callable[[Any], Awaitable[T]], kind: _Kind, *, repeatable: bool
    ) -> tuple[T, Stand]:
        clock = asyncio.get_running_loop().time
        left = self._pool.timeout if kind is _Kind.READ else min(self._pool.timeout, deadline.left())
        end = clock() + left
        has_others = bool(self._pool.address.others)
        maybe_done = False  # by any of the tries: the last may not even have reached the server
        for tries in range(1, MAX_TRIES + 1):
            one = _Try(kind, work)
            try:
                return await one.run(self._pool, left, self._ask if self._follows else None)
            except DatabaseAwayError as error:
                if one.done is not None:  # what has failed is the question about the position
                    return one.done.result, UNKNOWN
                outcome = then(error.code, committing=one.committing, has_others=has_others)
                maybe_done |= outcome is Then.UNKNOWN
                pause = self._chance() * min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**tries)
                helps = outcome is Then.AGAIN or (outcome is Then.UNKNOWN and repeatable)
                if not helps or tries == MAX_TRIES or clock() + pause >= end:
                    if maybe_done:
                        raise OutcomeUnknownError(str(error), error.code) from error
                    raise
            except (
                OperationalError,
                InternalError,
            ) as error:  # no mistake in SQL: a disk, a table, the engine
                if not one.committing:
                    raise
                log.error("what was to be changed met an error of the database: %s", error)
                raise OutcomeUnknownError(str(error)) from error
            self.repeated += 1
            await asyncio.sleep(pause)
            left = end - clock()
        raise AssertionError  # the last try returns or raises

    async def _ask(self, cursor: Any, seconds: float) -> Stand:
        """Behind what was read or done, on the same connection. It is done, so nothing may fail any more.

        A server writes a commit into its binary log before anybody can see it there, and counts it as applied
        after it can be seen. What a copy of another server came with is in neither's log, but was applied.
        """
        try:
            async with asyncio.timeout(min(POSITION_SECONDS, seconds / 2)):
                await cursor.execute(POSITION)
                logged, applied = map(Position.parse, await cursor.fetchone())
        except (TimeoutError, Error, ValueError) as error:
            log.debug("no position: %s", error)
            return UNKNOWN
        return Stand(logged.with_(applied), applied)


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    result: T


class _Try(Generic[T]):
    """One of them. `committing`: from here on the answer's loss leaves the outcome unknown. `done`: it is known."""

    def __init__(self, kind: _Kind, work: Callable[[Any], Awaitable[T]]) -> None:
        self._kind, self._work = kind, work
        self.committing = False
        self.done: _Done[T] | None = None

    async def run(
        self, pool: Pool, timeout: float, ask: Callable[[Any, float], Awaitable[Stand]] | None
    ) -> tuple[T, Stand]:
        """`ask(cursor, seconds)`: how far the server is, when it was done; `seconds`: what is left of `timeout`."""
        if timeout <= 0:  # else it would be sent, and nobody wait for the answer
            raise DatabaseBusyError("no time was left")
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        async with pool.cursor(timeout) as cursor:
            result = await self._do(cursor)
            self.done = _Done(result)
            return result, await ask(cursor, end - clock()) if ask else NOBODY_ASKS

    async def _do(self, cursor: Any) -> T:
        if self._kind is not _Kind.TRANSACTION:
            self.committing = self._kind is _Kind.STATEMENT
            return await self._work(cursor)
        await cursor.execute("BEGIN")
        try:
            result = await self._work(cursor)
        except Exception:
            # Also after 1205, which undoes its statement only. A connection that is lost has done it.
            if not cursor.connection.closed:
                await cursor.execute("ROLLBACK")
            raise
        self.committing = True
        await cursor.execute("COMMIT")
        return result
