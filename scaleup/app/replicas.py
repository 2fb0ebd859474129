"""Reading from replicas: which of them, if any, may answer a request.

A replica has what the primary committed a little later. So a client that has written might not find it there, and
one that has read from one might find less at the next. Both are cured by positions (position.py): a request says
what its client has seen (session.py), and is answered

1. by a replica of which we know that it has got as far;
2. else by one that gets there within WAIT_SECONDS, which the server waits for (MASTER_GTID_WAIT);
3. else by the primary.

How far behind a replica is, is measured rather than asked: every LOOK_SECONDS the primary says how far it is, and
each replica how far it has got. The lag is the age of the last of the primary's positions that the replica has
reached. Unlike Seconds_Behind_Master it notices a replica that has lost the primary, needs no right, and compares
no clocks. One that is more than the allowed lag behind, stopped, away, or not read-only is left out until it is
well again. While the primary is away nothing is committed, so lags stay as they were, and reads go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from pymysql.err import Error

from scaleup.app.outcomes import DatabaseAwayError, DatabaseBusyError
from scaleup.app.pool import Pool
from scaleup.app.position import Position
from scaleup.app.transactions import Transactions
from scaleup.net.addresses import Endpoint

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
MAX_LAG_SECONDS = 60.0
"""The greatest that can be allowed."""
WAIT_SECONDS = 0.1
"""What a request waits for a replica before it turns to the primary."""

WAIT = "SELECT MASTER_GTID_WAIT(%s, %s)"
PRIMARY = "SELECT @@GLOBAL.gtid_binlog_pos"
REPLICA = (
    "SELECT @@GLOBAL.read_only, @@GLOBAL.log_bin AND @@GLOBAL.log_slave_updates, @@GLOBAL.gtid_slave_pos"
)


class Track:
    """Where the primary was, and when: ●"""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Position]] = deque(maxlen=int(MAX_LAG_SECONDS / LOOK_SECONDS) + 1)

    def was(self, time: float, position: Position) -> None:
        self._samples.append((time, position))

    def behind(self, applied: Position) -> float:
        """Seconds; inf when it is more than we remember, or nothing is known of the primary."""
        if not self._samples:
            return math.inf
        newest, _ = self._samples[-1]
        reached = (time for time, position in reversed(self._samples) if applied.covers(position))
        return newest - next(reached, -math.inf)


class Replica:
    """`reason`: why it is not read from, or None."""

    def __init__(self, pool: Pool, transactions: Transactions) -> None:
        self.pool, self.transactions = pool, transactions
        self.reason: str | None = "it has not been looked at yet"

    @property
    def endpoint(self) -> Endpoint:
        return self.pool.endpoint

    def load(self) -> tuple[int, int]:
        """Changes by uses, not by who asks, so that requests which come together share a query."""
        return self.pool.in_use + self.pool.waiting, self.pool.uses

    def becomes(self, reason: str | None) -> None:
        if reason is not None and self.reason is None:
            log.warning("the replica %s is not read from: %s", self.endpoint, reason)
        elif reason is None and self.reason is not None:
            log.info("the replica %s is read from", self.endpoint)
        self.reason = reason


class Replicas:
    """`run` watches them. `max_lag`: seconds."""

    def __init__(self, primary: Pool, replicas: Sequence[Replica], max_lag: float) -> None:
        self._primary, self._max_lag = primary, max_lag
        self.all = tuple(replicas)
        self._track = Track()
        self._waiting = 0

    @property
    def usable(self) -> list[Replica]:
        return [replica for replica in self.all if replica.reason is None]

    async def choose(self, needed: Position) -> Replica | None:
        """The one to read from, which has got as far as `needed`; None: the primary."""
        usable = self.usable
        if not usable or needed.is_newest:
            return None
        if known := [it for it in usable if it.transactions.applied.covers(needed)]:
            return min(known, key=Replica.load)
        best = min(usable, key=Replica.load)
        return best if await self._gets_there(best, needed) else None

    def failed(self, replica: Replica, error: DatabaseAwayError) -> None:
        """A read met that error."""
        if not isinstance(error, DatabaseBusyError):
            replica.becomes(str(error))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Once, at the primary and then at each."""
        try:
            (position,) = await _ask(self._primary, PRIMARY)
            self._track.was(asyncio.get_running_loop().time(), Position.parse(position))
        except (DatabaseAwayError, Error, ValueError) as error:
            log.debug("the primary does not say how far it is: %s", error)
        for replica, reason in zip(
            self.all, await asyncio.gather(*map(self._look_at, self.all)), strict=True
        ):
            replica.becomes(reason)

    async def _look_at(self, replica: Replica) -> str | None:
        try:
            is_read_only, has_log, text = await _ask(replica.pool, REPLICA)
            applied = Position.parse(text)
        except DatabaseBusyError:  # with our own reads: no reason to send them all to the primary
            return replica.reason
        except DatabaseAwayError as error:
            return str(error)
        except (Error, ValueError) as error:
            return f"it does not say how far it has got, as MariaDB would: {error}"
        if not is_read_only:
            return "it is not read-only, so it may be the primary"
        if not has_log:
            return "it does not log what it applies: start it with --log-bin --log-slave-updates"
        replica.transactions.applied = applied  # which may be less than before, if it was made anew
        behind = self._track.behind(replica.transactions.applied)
        return None if behind <= self._max_lag else f"it is {behind:.1f} s behind the primary"

    async def _gets_there(self, replica: Replica, needed: Position) -> bool:
        # Bounded, so that clients who send what never comes do not take all connections.
        if self._waiting >= max(1, replica.pool.size // 2):
            return False
        self._waiting += 1
        try:
            if await _ask(replica.pool, WAIT, str(needed), WAIT_SECONDS) != (0,):
                return False
        except (DatabaseAwayError, Error):
            return False
        finally:
            self._waiting -= 1
        replica.transactions.got_to(needed)
        return True


async def _ask(pool: Pool, query: str, *parameters: object) -> tuple[Any, ...]:
    async with pool.cursor() as cursor:
        await cursor.execute(query, parameters or None)
        row: tuple[Any, ...] = await cursor.fetchone()
        return row
