"""A child that is started again when it dies, and killed when it hangs.

A child that is stopped, or whose event loop is blocked, is alive for the kernel and dead for everybody
else: its listening sockets go on filling. So it is asked for a sign of life, and replaced without one.
Unanswered questions are counted, not seconds: after a pause of the whole machine nobody is killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from scaleup.errors import StartupError
from scaleup.processes.children import Child, describe

log = logging.getLogger(__name__)

SHORT_LIFE_SECONDS = 1.0
"""A child that lived shorter than this waits as long before it is started again."""

PING_SECONDS = 1.0
HUNG_AFTER_PINGS = 3
"""Unanswered ones. An event loop that is blocked for so long serves nobody."""

HOPELESS_AFTER_STARTS = 3
"""In a row after which a child was not ready: its owner should no longer count on it."""

START_SECONDS = 30.0
"""Until a child's first `ready`: an interpreter on a very slow machine."""


class Keeper:
    """Keeps one child running, from `start` to `stop`.

    `spawn(on_exit)` starts the child and hands it `on_exit`; `on_death(how)` is told of each death that
    nobody asked for, before the child is started again, and of each time that this fails. The owner calls
    `was_ready` when the child has said so: a child that dies before it was ever ready would only die again,
    so `first_ready` raises StartupError instead, as it does when the child takes too long.
    """

    def __init__(
        self, name: str, spawn: Callable[[Callable[[int], None]], Child], on_death: Callable[[str], None]
    ) -> None:
        self.name = name
        self.child: Child | None = None
        self.is_ready = False
        self._spawn, self._on_death = spawn, on_death
        self._loop = asyncio.get_running_loop()
        self._first_ready: asyncio.Future[None] = self._loop.create_future()
        self._first_ready.add_done_callback(asyncio.Future.exception)  # nobody has to ask for it
        self._stopping = False
        self._failed = 0  # starts in a row
        self._started_at = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._next_ping: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Raises StartupError when the system can start no process."""
        self._started_at = self._loop.time()
        try:
            self.child = self._spawn(self._exited)
        except OSError as error:
            raise StartupError(f"{self.name} cannot be started: {error.strerror}") from None

    @property
    def hopeless(self) -> bool:
        """It died, and starting it again has failed several times; it goes on trying."""
        return self._failed >= HOPELESS_AFTER_STARTS

    def was_ready(self) -> None:
        self.is_ready, self._failed = True, 0
        self._watch()
        if not self._first_ready.done():
            self._first_ready.set_result(None)

    async def first_ready(self) -> None:
        """Raises StartupError."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(self._first_ready)
        except TimeoutError:
            raise StartupError(f"{self.name} was not ready within {START_SECONDS:g} s; see its log") from None

    def expect_exit(self) -> None:
        """From now on the child's end is wanted."""
        self._stopping = True
        for timer in (self._again, self._next_ping):
            if timer is not None:
                timer.cancel()

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        self.expect_exit()
        if self.child is not None:
            await self.child.stop(grace)

    def _watch(self) -> None:
        if self._next_ping is not None:
            self._next_ping.cancel()
        if self._stopping or not self.is_ready or self.child is None:
            return
        if self.child.unanswered >= HUNG_AFTER_PINGS:
            log.error("%s hangs: no sign of life for %g s", self.name, HUNG_AFTER_PINGS * PING_SECONDS)
            self.child.kill()
            return
        self.child.ping()
        self._next_ping = self._loop.call_later(PING_SECONDS, self._watch)

    def _exited(self, returncode: int) -> None:
        self._failed += not self.is_ready
        self.is_ready = False
        if self._next_ping is not None:
            self._next_ping.cancel()
        how = describe(returncode)
        if not self._first_ready.done():
            self._first_ready.set_exception(StartupError(f"{self.name} did not start: {how}; see its log"))
            self._stopping = True
        if self._stopping:
            return
        lived = self._loop.time() - self._started_at
        delay = 0.0 if lived >= SHORT_LIFE_SECONDS else SHORT_LIFE_SECONDS
        log.error("%s died (%s): starting it again%s", self.name, how, f" in {delay:g} s" if delay else "")
        self._on_death(how)
        self._again = self._loop.call_later(delay, self._start_again)

    def _start_again(self) -> None:
        try:
            self.start()
        except StartupError as error:
            log.error("%s; trying again in %g s", error, SHORT_LIFE_SECONDS)
            self._failed += 1
            self._on_death(str(error))
            self._again = self._loop.call_later(SHORT_LIFE_SECONDS, self._start_again)
