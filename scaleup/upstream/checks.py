"""Watching servers: their checks, run side by side.

The shell around `health`: for each server a task waits until its deadline, makes the check (`probe`) and
hands the result to its Health, which decides. At most so many checks as there are `slots` are in progress at a
time; the rest wait their turn, and the time-out of a check starts when its turn comes. A server in maintenance is
not checked, nor one without an address. When it returns, and when it has got another address, what was known of it
says nothing any more: its checks start anew, as soon as one in progress has ended (`live_changed`).

Whoever serves clients tells of their connections, too (`connection_failed`, `connection_made`): see `health`. They
count only for a server that is checked, as in HAProxy: nothing else would bring it up again.

`run` owns its tasks: when it is cancelled, all checks are broken off and their sockets closed before it
returns; an error in one of them, which is an error of ours, ends it with that error, so that
servers are never left unwatched in silence.
"""

from __future__ import annotations

import asyncio
import logging
import random as stdlib_random
from collections.abc import Callable, Container, Sequence

from scaleup.upstream.health import Change, Health, OnError
from scaleup.upstream.probe import Result, probe
from scaleup.upstream.server import Live, Server
from scaleup.upstream.settings import UpstreamSettings
from scaleup.upstream.stream import context_of

log = logging.getLogger(__name__)


CONCURRENCY = 100
"""Far below any limit on descriptors; with the default time-out that is still 50 hanging servers a second."""


class Checker:
    """Keeps `up` of each server true, logs each change and then tells `on_change`; `on_result` hears of each check.

    `source`: our IP address to check from. `random()`: 0 ≤ it < 1, for offsets and jitter. `slots`: for checks in
    progress, perhaps shared with others; by default CONCURRENCY of its own. `error_limit`, `on_error`: see
    `Health`. `known`: those whose `up` is known from an earlier Checker. `preamble`: what a check sends first. Made
    inside the running loop.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        settings: UpstreamSettings,
        on_change: Callable[[Server, Change], None] = lambda server, change: None,
        *,
        source: str | None = None,
        random: Callable[[], float] = stdlib_random.random,
        slots: asyncio.Semaphore | None = None,
        error_limit: int = 0,
        on_error: OnError = "fail-check",
        known: Container[Server] = (),
        preamble: bytes = b"",
        on_result: Callable[[Server, Result], None] = lambda server, result: None,
    ) -> None:
        self._on_result = on_result
        self._settings = settings
        self._on_change = on_change
        self._source = source
        self._random = random
        self._slots = slots or asyncio.Semaphore(CONCURRENCY)
        self._check = settings.check
        self._context = None if self._check.tls is None else context_of(self._check.tls)
        self._error_limit, self._on_error = error_limit, on_error
        self._preamble = preamble
        self._watches = {
            server: _Watch(self._new_health(server, server in known, server.up)) for server in servers
        }
        for server, watch in self._watches.items():
            server.up = watch.health.up

    def last(self, server: Server) -> Result | None:
        """The newest check of a server; None: none yet."""
        watch = self._watches.get(server)
        return watch.last if watch else None

    def level(self, server: Server) -> int | None:
        """Of its health; None: it is not watched."""
        watch = self._watches.get(server)
        return watch.health.level if watch else None

    def force(self, server: Server, up: bool) -> None:
        """An operator says so; checks go on, and may find something else."""
        if (watch := self._watches.get(server)) and server.up != up:
            watch.health = self._new_health(server, known=True, up=up)
            watch.look_again()
            self._apply(server, Change(up, "an operator says so"))

    def connection_made(self, server: Server) -> None:
        """A client's connection reached it."""
        if watch := self._watches.get(server):
            watch.health.connection_made()

    def connection_failed(self, server: Server, reason: str) -> None:
        """A client's connection did not reach it, and that was no fault of ours."""
        if (watch := self._watches.get(server)) and server.live.checked:
            due = watch.health.deadline
            change = watch.health.connection_failed(asyncio.get_running_loop().time(), reason)
            if watch.health.deadline < due:
                watch.look_again()
            if change:
                self._apply(server, change)

    def live_changed(self, server: Server, before: Live) -> None:
        """What an operator may change of it is not as it was `before`."""
        now, watch = server.live, self._watches.get(server)
        if watch is None or not now.serves or (before.serves and before.endpoint == now.endpoint):
            return
        watch.health = self._new_health(server, known=False, up=True)
        watch.health.deadline = asyncio.get_running_loop().time()
        watch.last = None
        watch.look_again()
        if not server.up:
            self._apply(server, Change(True, "checks start anew"))

    async def run(self) -> None:
        """Check until cancelled (with no servers there is nothing to do, and it returns)."""
        async with asyncio.TaskGroup() as group:
            for server, watch in self._watches.items():
                group.create_task(self._watch(server, watch), name=f"check {server.name}")

    def _new_health(self, server: Server, known: bool, up: bool) -> Health:
        settings, own = self._settings, server.options
        return Health(
            inter=own.inter or settings.inter,
            rise=own.rise or settings.rise,
            fall=own.fall or settings.fall,
            now=asyncio.get_running_loop().time(),
            random=self._random,
            fastinter=own.fastinter or settings.fastinter,
            downinter=own.downinter or settings.downinter,
            error_limit=self._error_limit,
            on_error=self._on_error,
            known=up if known else None,
        )

    async def _watch(self, server: Server, watch: _Watch) -> None:
        loop = asyncio.get_running_loop()
        was_made = True
        while True:
            await watch.due()
            health, endpoint = watch.health, server.endpoint
            if endpoint is None or server.admin == "maint" or not server.live.checked:
                health.check_not_made(loop.time())
                continue
            async with self._slots:
                result = await probe(
                    server.options.elsewhere(endpoint),
                    self._check,
                    timeout=self._settings.check_timeout,
                    source=self._source,
                    preamble=self._preamble,
                    name=server.host,
                    context=self._context,
                )
            if watch.health is not health:
                continue  # it speaks of an address that the server has no more
            watch.last = result
            self._on_result(server, result)
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


class _Watch:
    """What is known of one server."""

    __slots__ = ("_waiter", "health", "last")

    def __init__(self, health: Health) -> None:
        self.health = health
        self.last: Result | None = None
        self._waiter: asyncio.Future[bool] | None = None

    async def due(self) -> None:
        """Until the deadline, which may come nearer meanwhile: then call `look_again`."""
        loop = asyncio.get_running_loop()
        is_due = False
        while not is_due and (left := self.health.deadline - loop.time()) > 0:
            self._waiter = loop.create_future()
            # It may come a moment early, uvloop's timers have whole milliseconds: that is due, too.
            timer = loop.call_later(left, _wake, self._waiter, True)
            try:
                is_due = await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if not is_due:
            await asyncio.sleep(0)  # checks that are late already must not keep all else waiting

    def look_again(self) -> None:
        if self._waiter is not None:
            _wake(self._waiter, False)


def _wake(waiter: asyncio.Future[bool], is_due: bool) -> None:
    if not waiter.done():
        waiter.set_result(is_due)


def _judge(health: Health, result: Result, now: float) -> Change | None:
    if result.passed is None:
        health.check_not_made(now)
        return None
    if result.passed:
        return health.check_passed(now, str(result))
    return health.check_failed(now, str(result))
