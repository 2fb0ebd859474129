"""Telling the operator's programs of changes, as keepalived's notify scripts are told.

    notify_master, notify_backup, notify_fault, notify_stop    each for its state, without further arguments
    notify                                                     for all of them, with four arguments:
                                                               INSTANCE|GROUP  NAME  STATE  PRIORITY
                                                               (of a group, the priority is 0)

They run one after the other, in the order of the changes: a script for BACKUP never overtakes the one for
MASTER before it. What waits is bounded; when a script hangs, the oldest that have not begun are left out,
because the last state is the one that counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from scaleup.config.model import Seconds
from scaleup.vrrp.decisions import Condition, Notify
from scaleup.vrrp.scripts import Command, User, run

log = logging.getLogger(__name__)

MAX_WAITING = 64  # programs: eight routers and their groups may move a few times while one hangs

STATES = {
    Condition.ACTIVE: "MASTER",
    Condition.BACKUP: "BACKUP",
    Condition.FAULT: "FAULT",
    Condition.STOPPED: "STOP",
}
"""keepalived's words. It has none for a router that has not started up yet, and no script is told of that."""


class NotifySettings(BaseModel):
    """The scripts of one router or sync group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notify_master: Command | None = Field(None, description="run on becoming Active")
    notify_backup: Command | None = Field(None, description="run on becoming a Backup")
    notify_fault: Command | None = Field(None, description="run on leaving the election for a fault")
    notify_stop: Command | None = Field(None, description="run when the process stops")
    notify: Command | None = Field(None, description="run at each change: INSTANCE|GROUP NAME STATE PRIORITY")
    notify_timeout: Seconds = Field(10.0, description="seconds until a script is killed")
    notify_user: User = Field(None, description="whom scripts run as (default: as this process)")

    @property
    def has_any(self) -> bool:
        """Whether there is a script at all."""
        names = ("notify", *(f"notify_{state.lower()}" for state in STATES.values()))
        return any(getattr(self, name) is not None for name in names)

    def commands(self, change: Notify) -> list[Sequence[str]]:
        """What is to be run for a change, in order."""
        state = STATES.get(change.condition)
        if state is None:
            return []
        own: Command | None = getattr(self, f"notify_{state.lower()}")
        arguments = (change.kind, change.router, state, str(change.priority))
        general = (*self.notify, *arguments) if self.notify is not None else None
        return [command for command in (own, general) if command is not None]


class Notifier:
    """`settings`: by the name of the router or group."""

    def __init__(self, settings: Mapping[str, NotifySettings]) -> None:
        self._settings = settings
        self._waiting: deque[tuple[Sequence[str], NotifySettings]] = deque()
        self._something = asyncio.Event()
        self._all_done = asyncio.Event()
        self._all_done.set()

    def tell(self, change: Notify) -> None:
        """Have the scripts run for it, by `run`."""
        settings = self._settings.get(change.router)
        if settings is None:
            return
        self._waiting += [(command, settings) for command in settings.commands(change)]
        while len(self._waiting) > MAX_WAITING:
            left_out, _ = self._waiting.popleft()
            log.error("%d notify scripts wait already: left out %s", MAX_WAITING, " ".join(left_out))
        if self._waiting:
            self._all_done.clear()
            self._something.set()

    async def run(self) -> None:
        """Until cancelled; a script that runs then is killed."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                await _run(*self._waiting.popleft())
            self._all_done.set()

    async def finish(self, seconds: float) -> None:
        """Wait until all scripts have run, but not longer: the last ones tell that this process stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_done.wait()


async def _run(command: Sequence[str], settings: NotifySettings) -> None:
    shown = " ".join(command)
    try:
        code = await run(command, timeout=settings.notify_timeout, user=settings.notify_user)
    except OSError as error:
        log.error("notify script %s cannot be started: %s", shown, error.strerror)
        return
    if code is None:
        log.error("notify script %s was killed after %g s", shown, settings.notify_timeout)
    elif code != 0:
        log.warning("notify script %s ended with %d", shown, code)
