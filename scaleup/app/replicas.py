"""Reading from replicas: which of them, if any, may answer a request.

A replica has what the primary committed a little later. So a client that has written might not find it there, and
one that has read from one might find less at the next. Both are cured by positions (position.py): a request says
what its client has seen (session.py), and is answered

1. by a replica of which we know that it has got as far;
2. else by one that gets there within WAIT_SECONDS, which the server waits for (MASTER_GTID_WAIT);
3. else by the primary.

Behind each answer the server that gave it says how far it is, so one that was replaced meanwhile, or is not the
primary any more, is found out, and its answer not used.

How far behind a replica is, is measured rather than asked: every LOOK_SECONDS the primary says how far it is, and
each replica how far it has got. The lag is the age of the last of the primary's positions that the replica has
reached. Unlike Seconds_Behind_Master it notices a replica that has lost the primary, needs no right, and compares
no clocks. One that is more than the allowed lag behind, stopped, away, or not read-only is left out until it is
well again; so is one that has what the primary has not, since then its history is another. While the primary is
away nothing is committed, so lags stay as they were, and reads go on.
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
from scaleup.app.position import NEWEST, START, Position
from scaleup.app.transactions import UNKNOWN, Stand, Transactions
from scaleup.net.addresses import Endpoint

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
ANSWER_SECONDS = 0.5
"""How long one server may take to say how far it is."""
MAX_LAG_SECONDS = 60.0
"""The greatest that can be allowed."""
WAIT_SECONDS = 0.1
"""What a request waits for a replica before it turns to the primary."""
REPLICA_SHARE = 1 / 3
"""Of what a request may spend on the primary, which is asked when a replica has not answered for that long."""

WAIT = "SELECT MASTER_GTID_WAIT(%s, %s)"
PRIMARY = "SELECT @@GLOBAL.log_bin, @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos"
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
    """`reason`: why it is not read from, or None. `applied`: who reads there now sees that much.

    `has_strayed`: it has what the primary has not.
    """

    def __init__(self, pool: Pool, transactions: Transactions) -> None:
        self.pool, self.transactions = pool, transactions
        self.reason: str | None = "it has not been looked at yet"
        self.applied = START
        self.has_strayed = False

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
        self.primary, self._max_lag = primary, max_lag
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
        if known := [it for it in usable if it.applied.covers(needed)]:
            return min(known, key=Replica.load)
        best = min(usable, key=Replica.load)
        return best if await self._gets_there(best, needed) else None

    def failed(self, replica: Replica, error: DatabaseAwayError | Error) -> None:
        """A read met that error."""
        if not isinstance(error, DatabaseBusyError):
            replica.becomes(str(error))

    def answered(self, replica: Replica, before: Position, needed: Position, stand: Stand) -> bool:
        """Whether what it answered may be used. `before`: what was known of it when it was chosen.

        Only its own words count against it: `needed` may be what a client has made up.
        """
        if (
            stand is not UNKNOWN
        ):  # else the question came to nothing, and it may be another than the one chosen
            if not stand.applied.covers(before):
                replica.becomes(f"it has gone back to {str(stand.applied) or 'the beginning'}")
            elif replica.applied.covers(before):  # else it was made anew meanwhile
                replica.applied = replica.applied.with_(stand.applied)
        return stand.applied.covers(needed)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Once: how far the primary is, then each of them, so that who keeps up has no lag; and then the primary
        again, which by now has all that any of them can have.
        """
        begun = asyncio.get_running_loop().time()
        if (primary := await self._ask_primary()) is not None:
            self._track.was(begun, primary)
        applied = await asyncio.gather(*map(self._ask_replica, self.all))
        if primary is not None:
            primary = await self._ask_primary()
        for replica, found in zip(self.all, applied, strict=True):
            replica.becomes(found if isinstance(found, str) else self._judge(replica, found, primary))

    async def _ask_primary(self) -> Position | None:
        """None: it cannot be asked."""
        try:
            has_log, logged, applied = await _look(self.primary, PRIMARY)
            return Position.parse(logged).with_(Position.parse(applied)) if has_log else NEWEST
        except (DatabaseAwayError, Error, ValueError) as error:
            log.debug("the primary does not say how far it is: %s", error)
            return None

    async def _ask_replica(self, replica: Replica) -> Position | str:
        """How far it has got, or why it is no replica."""
        try:
            is_read_only, has_log, applied = await _look(replica.pool, REPLICA)
            if not is_read_only:
                return "it is not read-only, so it may be the primary"
            if not has_log:
                return "it does not log what it applies: start it with --log-bin --log-slave-updates"
            return Position.parse(applied)
        except DatabaseAwayError as error:
            return str(error)
        except (Error, ValueError) as error:
            return f"it does not say how far it has got, as MariaDB would: {error}"

    def _judge(self, replica: Replica, applied: Position, primary: Position | None) -> str | None:
        """Why it is not read from. `primary`: how far that was a little later; None: nobody knows."""
        replica.applied = applied  # which may be less than before, if it was made anew
        if primary is not None:
            replica.has_strayed = not primary.covers(applied)
            if primary.is_newest:
                return "the primary does not log its commits: start it with --log-bin"
        if replica.has_strayed:
            return f"it has {applied}, which the primary has not: make it anew from the primary"
        behind = self._track.behind(applied)
        return None if behind <= self._max_lag else f"it is {behind:.1f} s behind the primary"

    async def _gets_there(self, replica: Replica, needed: Position) -> bool:
        # Bounded, so that clients who send what never comes do not take all connections.
        if self._waiting >= max(1, replica.pool.size // 2):
            return False
        self._waiting += 1
        try:
            limit = min(2 * WAIT_SECONDS, replica.pool.timeout)
            async with replica.pool.cursor(limit) as cursor:
                await cursor.execute(WAIT, (str(needed), WAIT_SECONDS))
                return bool(
                    await cursor.fetchone() == (0,)
                )  # which looks at numbers only, not at who gave them
        except DatabaseAwayError as error:
            self.failed(replica, error)
            return False
        except Error as error:  # of what the client sent: nothing is wrong with the replica
            log.debug("%s cannot be waited for: %s", needed, error)
            return False
        finally:
            self._waiting -= 1


async def _look(pool: Pool, query: str) -> tuple[Any, ...]:
    async with pool.cursor(min(ANSWER_SECONDS, pool.timeout), watching=True) as cursor:
        await cursor.execute(query)
        row: tuple[Any, ...] = await cursor.fetchone()
        return row
