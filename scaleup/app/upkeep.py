"""What an application does beside its requests: write the clicks down, forget old idempotency keys.

A redirect does not write. If it did, visits of one popular link would queue for the lock on its row, each with a
commit of its own. So clicks are counted in memory and added to the database every FLUSH_SECONDS, many in one
transaction. The price: a process that is killed loses its last second of clicks; never a link. One that is
stopped writes them first, as many as the time for it allows.

Counts are never doubled: those of a transaction whose outcome is unknown count as lost. Those that were
certainly not written wait for the next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable

from pymysql.err import Error

from scaleup.app.idempotency import KEPT
from scaleup.app.outcomes import DatabaseAwayError, DatabaseBusyError, OutcomeUnknownError
from scaleup.app.store import Store

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
CODES_AT_A_TIME = 200
"""Rows of one transaction: they are locked until its end. Fewer when the database is too slow for so many."""
MAX_CODES = 100_000
"""Links whose clicks may wait while the database is away: about 10 MB."""
FORGET_SECONDS = 60.0


class Clicks:
    """Counted, and not yet written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: Counter[str] = Counter()
        self._at_a_time = CODES_AT_A_TIME
        self.lost = 0
        """Clicks that will not be written, or not certainly were."""

    @property
    def waiting(self) -> int:
        """How many clicks are to be written."""
        return self._waiting.total()

    def count(self, code: str) -> None:
        if len(self._waiting) < MAX_CODES or code in self._waiting:
            self._waiting[code] += 1
        else:
            self.lost += 1

    async def flush(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Write what waits now, until there has been `enough` of it.

        Raises DatabaseAwayError; what was not written waits again.
        """
        clicks, self._waiting = self._waiting, Counter()
        try:
            while clicks and not enough():
                batch = dict(itertools.islice(clicks.items(), self._at_a_time))
                try:
                    await self._store.count_clicks(batch)
                except (OutcomeUnknownError, DatabaseBusyError, asyncio.CancelledError) as error:
                    self._at_a_time = max(1, self._at_a_time // 2)
                    if not isinstance(error, DatabaseBusyError):
                        self.lost += sum(batch.values())
                        _take_out(clicks, batch)
                    raise
                self._at_a_time = min(CODES_AT_A_TIME, self._at_a_time + 1)
                _take_out(clicks, batch)
        finally:
            self._waiting.update(clicks)

    async def write_last(self, seconds: float) -> None:
        """As many as can be written within so many seconds; the others are lost."""
        lost = self.lost
        with contextlib.suppress(TimeoutError, DatabaseAwayError, Error):
            async with asyncio.timeout(seconds):
                await self.flush()
        self.lost += self.waiting
        self._waiting.clear()
        if self.lost > lost:
            log.warning("%d clicks were not written before the end", self.lost - lost)

    async def keep_flushing(self, served: asyncio.Event) -> None:
        """Until all that will be `served` was: who stops us writes the rest."""
        while not served.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await served.wait()
            try:
                await self.flush(enough=served.is_set)
            except DatabaseAwayError as error:
                log.debug("%d clicks wait: %s", self.waiting, error)  # watch.py tells that it is away
            except Error as error:  # no reason to end the process: it can still redirect
                log.error("%d clicks cannot be written: %s", self.waiting, error)


def _take_out(clicks: Counter[str], batch: dict[str, int]) -> None:
    for code in batch:
        del clicks[code]


async def keep_forgetting(store: Store) -> None:
    """Delete the idempotency keys that are older than KEPT, again and again, until cancelled."""
    while True:
        await asyncio.sleep(FORGET_SECONDS)  # first: there may be no tables yet
        try:
            while await store.forget_keys(KEPT):
                pass
        except DatabaseAwayError as error:
            log.debug("old idempotency keys stay for now: %s", error)
        except Error as error:
            log.error("old idempotency keys cannot be deleted: %s", error)
