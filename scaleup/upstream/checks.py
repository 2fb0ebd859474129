"""Watching servers: their checks, run side by side.

The shell around `health`: for each server a task waits until its deadline, makes the check (`probe`) and
hands the result to its Health, which decides. At most `concurrency` checks are in progress at a time; the
rest wait their turn, and the time-out of a check starts when its turn comes.

`run` owns its tasks: when it is cancelled, all checks are broken off and their sockets closed before it
returns; an error in one of them, which is an error of ours, ends it with that error, so that
servers are never left unwatched in silence.
"""

from __future__ import annotations

import asyncio
import logging
import random as stdlib_random
from collections.abc import Callable, Sequence

from scaleup.upstream.health import Change, Health
from scaleup.upstream.pool import Server
from scaleup.upstream.probe import Result, probe
from scaleup.upstream.settings import UpstreamSettings

log = logging.getLogger(__name__)


class Checker:
    """Keeps `up` of each server true, logs each change and then tells `on_change`.

    `source`: our IP address to check from. `random()`: 0 ≤ it < 1, for offsets and jitter. `concurrency`:
    checks at a time; 32 is far below any limit on descriptors, and with the default time-out still checks
    32 hanging servers every 2 s.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        settings: UpstreamSettings,
        on_change: Callable[[Server, Change], None] = lambda server, change: None,
        *,
        source: str | None = None,
        random: Callable[[], float] = stdlib_random.random,
        concurrency: int = 32,
    ) -> None:
        self._servers = tuple(servers)
        self._settings = settings
        self._on_change = on_change
        self._source = source
        self._random = random
        self._slots = asyncio.Semaphore(concurrency)

    async def run(self) -> None:
        """Check until cancelled (with no servers there is nothing to do, and it returns)."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(self._watch(server), name=f"check {server.name}")

    async def _watch(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        settings = self._settings
        health = Health(
            inter=settings.inter,
            rise=settings.rise,
            fall=settings.fall,
            now=loop.time(),
            random=self._random,
        )
        server.up = health.up
        was_made = True
        while True:
            await asyncio.sleep(health.deadline - loop.time())
            async with self._slots:
                result = await probe(
                    server.endpoint,
                    settings.health_check,
                    timeout=settings.check_timeout,
                    source=self._source,
                )
            if result.passed is None and was_made:  # once, not every interval
                log.warning("server %s (%s) cannot be checked: %s", server.name, server.endpoint, result)
            was_made = result.passed is not None
            if change := _judge(health, result, loop.time()):
                self._apply(server, change)

    def _apply(self, server: Server, change: Change) -> None:
        server.up = change.up
        level, state = (logging.INFO, "UP") if change.up else (logging.WARNING, "DOWN")
        log.log(level, "server %s (%s) is %s: %s", server.name, server.endpoint, state, change.reason)
        self._on_change(server, change)


def _judge(health: Health, result: Result, now: float) -> Change | None:
    if result.passed is None:
        health.check_not_made(now)
        return None
    if result.passed:
        return health.check_passed(now, str(result))
    return health.check_failed(now, str(result))
