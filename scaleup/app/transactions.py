"""Doing a transaction as a whole, again if need be, within the request's deadline.

`outcomes.then` says what an error leaves behind. Here the rest of the rule: a transaction is repeated from its
beginning, never from its middle; after a pause by chance, so that two that met do not meet again; at most
MAX_TRIES times; and never past the deadline, which all tries share. When the answer to a COMMIT is lost, only
a transaction that recognises its own first try (by an idempotency key) is repeated. Any other one raises
OutcomeUnknownError, which says just that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, TypeVar

from scaleup.app.outcomes import DatabaseAwayError, OutcomeUnknownError, Then, then
from scaleup.app.pool import Pool

T = TypeVar("T")

MAX_TRIES = 5
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.01, 0.2
"""The longest pause doubles with each try. A deadlock is over when its winner commits: milliseconds."""


class _Kind(Enum):
    READ = "changes nothing: may be repeated after any loss"
    STATEMENT = "one statement in autocommit mode"
    TRANSACTION = "BEGIN … COMMIT"


class Transactions:
    """`chance()`: a number from 0 to 1, for the pauses."""

    def __init__(self, pool: Pool, chance: Callable[[], float]) -> None:
        self._pool, self._chance = pool, chance
        self.repeated = 0
        """How many times something was done again."""

    async def read(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Call `work(cursor)`, which changes nothing. Raises DatabaseAwayError."""
        return await self._until_done(work, _Kind.READ, repeatable=True)

    async def statement(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Call `work(cursor)`, which changes something by one statement.

        Raises DatabaseAwayError when it was not done, OutcomeUnknownError when nobody knows.
        """
        return await self._until_done(work, _Kind.STATEMENT, repeatable=False)

    async def transaction(self, work: Callable[[Any], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Call `work(cursor)` between BEGIN and COMMIT. What `work` raises of its own is rolled back.

        `repeatable`: `work` finds out by itself that it was done already. Raises as `statement` does.
        """
        return await self._until_done(work, _Kind.TRANSACTION, repeatable=repeatable)

    async def _until_done(self, work: Callable[[Any], Awaitable[T]], kind: _Kind, *, repeatable: bool) -> T:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._pool.timeout
        has_others = bool(self._pool.address.others)
        maybe_done = False  # by any of the tries: the last may not even have reached the server
        for tries in range(1, MAX_TRIES + 1):
            one = _Try(kind)
            try:
                return await one.run(self._pool, work, deadline - clock())
            except DatabaseAwayError as error:
                outcome = then(error.code, committing=one.committing, has_others=has_others)
                maybe_done |= outcome is Then.UNKNOWN
                pause = self._chance() * min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**tries)
                helps = outcome is Then.AGAIN or (outcome is Then.UNKNOWN and repeatable)
                if not helps or tries == MAX_TRIES or clock() + pause >= deadline:
                    if maybe_done:
                        raise OutcomeUnknownError(str(error), error.code) from error
                    raise
            self.repeated += 1
            await asyncio.sleep(pause)
        raise AssertionError  # the last try returns or raises


class _Try:
    """One of them. `committing`: from here on the answer's loss leaves the outcome unknown."""

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self.committing = False

    async def run(self, pool: Pool, work: Callable[[Any], Awaitable[T]], timeout: float) -> T:
        async with pool.cursor(timeout) as cursor:
            if self._kind is not _Kind.TRANSACTION:
                self.committing = self._kind is _Kind.STATEMENT
                return await work(cursor)
            await cursor.execute("BEGIN")
            try:
                result = await work(cursor)
            except Exception:
                # Also after 1205, which undoes its statement only. A connection that is lost has done it.
                if not cursor.connection.closed:
                    await cursor.execute("ROLLBACK")
                raise
            self.committing = True
            await cursor.execute("COMMIT")
            return result
