"""Watching over the database: wait for it, bring its schema up to date, see it go and come back.

The application listens from the beginning. While the database is not ready it answers 503, and /readyz says
why. Only what no waiting can cure ends the process, and only at its start: a refused password, a schema
newer than the code.

When a request finds the database away, we ask again every RETRY_SECONDS until it is back, and look at its
schema once more: it may have been replaced by an empty one (`scaleup.db` without --data).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from pymysql.err import Error

from scaleup.app.migrate import migrate
from scaleup.app.outcomes import DatabaseAwayError, DatabaseBusyError, DatabaseRefusesError
from scaleup.app.pool import Pool
from scaleup.errors import StartupError
from scaleup.processes.tasks import Tasks

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.25
"""Between tries: with the pool's time-out it bounds how late we see the database come back."""
ASKED_SECONDS = 10.0
"""After it nobody waits any longer to hear whether we are refused: a migration takes its time, and who started us
does not wait for so long (30 s, processes/keeper.py)."""
RECHECK_SECONDS = 1.0
"""Of several hosts: how late at most we see that another is the primary now."""


class Watch:
    """`reason`: None while the database can be used, else why it cannot.

    `tell(state)` is called with `away` and `back`.
    """

    def __init__(self, pool: Pool, tell: Callable[[str], None] = lambda _state: None) -> None:
        self.reason: str | None = "the database has not answered yet"
        self._pool, self._tell = pool, tell
        self._wake = asyncio.Event()
        self._tasks = Tasks()
        self._asking: asyncio.Task[str | None] | None = None
        self.asked = asyncio.Event()
        """Set when the database has been asked for the first time, whatever came of it, or asking takes long."""
        pool.on_away = self._found_away

    async def run(self) -> None:
        """Until cancelled. Raises StartupError when the database cannot become usable by waiting."""
        long = asyncio.get_running_loop().call_later(ASKED_SECONDS, self._takes_long)
        try:
            await self._until_usable()
        except DatabaseRefusesError as error:
            raise StartupError(
                f"the database refuses the user {self._pool.address.user!r}: {error}; see --database, and "
                "--database-password-file or the environment variable SCALEUP_APP_DATABASE_PASSWORD; who may not "
                "change the schema needs it up to date: python -m scaleup.app migrate"
            ) from None
        finally:
            long.cancel()
        while True:
            await self._until_away()
            try:
                await self._until_usable(patient=True)
            except StartupError as error:  # a newer version of us has migrated: that is its business
                log.warning("%s", error)
                self._become_usable()

    async def readiness(self) -> str | None:
        """Why the database cannot be used; it is asked now. One that is busy is there.

        Who comes while it is being asked shares the answer: there is one connection for this, and a crowd that
        waits for it would take so long that the database seems to be away.
        """
        if self.reason is not None:
            return self.reason
        if self._asking is None or self._asking.done():
            self._asking = self._tasks.spawn(self._ask(), name="ask whether the database is there")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str | None:
        try:
            async with self._pool.cursor(watching=True) as cursor:
                await cursor.execute("SELECT 1")
        except DatabaseBusyError:
            return None
        except (DatabaseAwayError, Error) as error:
            return str(error)
        return self.reason

    async def _until_away(self) -> None:
        while not self._wake.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_SECONDS if self._pool.address.others else None):
                    await self._wake.wait()
                    return
            with contextlib.suppress(DatabaseAwayError, Error):  # then the pool has told us
                await self._pool.recheck()

    async def _until_usable(self, *, patient: bool = False) -> None:
        """`patient`: a refusal is waited for as well; a password may be in the middle of being changed. So is any
        other error: links may be read all the same.
        """
        while True:
            try:
                await migrate(self._pool)
                await self._pool.warm()
            except (DatabaseAwayError, Error) as error:
                if isinstance(error, DatabaseRefusesError | Error) and not patient:
                    raise
                self._found_away(str(error))
                self.asked.set()  # not in _found_away: the pool calls it of a refusal, too
            else:
                return self._become_usable()
            await asyncio.sleep(RETRY_SECONDS)

    def _takes_long(self) -> None:
        if not self.asked.is_set():
            self.reason = "the database's schema is being brought up to date"
            self.asked.set()

    def _found_away(self, reason: str) -> None:
        if not self._wake.is_set():
            log.warning("the database is away: %s", reason)
            self._tell("away")
        self.reason = reason
        self._wake.set()

    def _become_usable(self) -> None:
        if self._wake.is_set():
            log.info("the database can be used")
            self._tell("back")
        self.reason = None
        self._wake.clear()
        self.asked.set()
