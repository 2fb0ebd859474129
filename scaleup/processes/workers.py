"""A tier as several processes behind one address: a parent that serves nobody, and its workers.

The parent opens the sockets (`sockets`) and keeps a `generation` of workers running, of which each serves as if it
were alone. A reload makes another one. A worker that dies or hangs is replaced (`keeper`), and loses only the
connections that it has. Each second a worker tells whether it is ready, and what it has counted; the parent's
/metrics says the sum (`summed`), also of workers that have ended.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaleup.net.addresses import Endpoint
from scaleup.processes.channel import Message
from scaleup.processes.generation import Generation
from scaleup.processes.logs import Destination
from scaleup.processes.process import Process
from scaleup.processes.sockets import Sockets
from scaleup.processes.summed import Summed
from scaleup.processes.tasks import Tasks

log = logging.getLogger(__name__)

NOT_YET = "the workers have not said yet"


@dataclass(frozen=True)
class Plan:
    """One configuration of the workers.

    `fields`, `descriptors`: of their first message; the listening sockets come behind these descriptors. `drain`:
    seconds for what is in progress when they stop; `grace`: beyond them, until one is killed. `close`: called when
    no worker of it is left.
    """

    module: str
    name: str
    workers: int
    endpoints: Sequence[Endpoint]
    log: Destination
    fields: Mapping[str, Any]
    drain: float
    grace: float
    descriptors: Sequence[int] = ()
    close: Callable[[], None] = lambda: None


class Workers:
    """`least`: see `Summed`."""

    def __init__(self, process: Process, least: Iterable[str] = ()) -> None:
        self._process = process
        self._summed = Summed(least)
        self._sockets = Sockets()
        self._numbers = itertools.count()
        self._current: _Planned | None = None
        self._retiring: set[_Planned] = set()
        self._tasks = Tasks()
        process.registry.register(self._summed)
        process.add_readiness(self._readiness)

    async def serve(self, plan: Plan) -> None:
        """Until the process is told to stop; then drain. Raises StartupError."""
        try:
            await self._start(plan)
            log.info("serving, with %d worker%s", plan.workers, "s" if plan.workers > 1 else "")
            self._process.ready()
            await self._process.stopping.wait()
        finally:
            await self._process.end_reload()
            await asyncio.gather(*(it.drain(it.plan.drain) for it in self._generations()))
            await self._tasks.cancel()
            for generation in self._generations():  # that have not ended meanwhile
                await generation.end()
            self._sockets.close_all()

    async def take(self, plan: Plan) -> None:
        """Serve by another plan from now on. Raises StartupError; then nothing has changed."""
        old = self._current
        await self._start(plan)
        assert old is not None
        self._retiring.add(old)
        self._tasks.spawn(self._retire(old, plan), name="workers under the old settings")

    async def _start(self, plan: Plan) -> None:
        try:
            opened = self._sockets.open(plan.endpoints, plan.workers)
        except BaseException:
            plan.close()
            raise
        new = _Planned(plan, next(self._numbers), self._sockets, self._hear, self._summed.ended)
        try:
            await new.start()
        except BaseException:
            await new.end()
            self._sockets.close(opened)
            raise
        self._current = new

    async def _retire(self, old: _Planned, plan: Plan) -> None:
        """In the end nothing of it is left."""
        await old.retire(old.plan.drain, self._sockets.leave(plan.endpoints))
        await old.end()
        self._retiring.discard(old)  # not before, or a stop that breaks this off would leave it
        log.info("the workers under the old settings have ended")

    def _generations(self) -> list[_Planned]:
        return [*self._retiring, *([self._current] if self._current else [])]

    def _hear(self, key: tuple[int, int], message: Message) -> None:
        match message.kind:
            case "state":
                self._summed.told(key, message.fields["families"])
            case "event":
                self._process.tell_parent("event", **message.fields)

    async def _readiness(self) -> str | None:
        """Ready while any worker is, and the others, whose connections wait for them, can be started again."""
        if self._current is not None and (fault := self._current.fault):
            return fault
        reasons = list(self._current.reasons.values()) if self._current else []
        return None if None in reasons else (reasons or [NOT_YET])[0]


class _Planned(Generation):
    """`hear(key, message)`, `ended(key)`: of a worker, by the number of its generation and its row in it."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        sockets: Sockets,
        hear: Callable[[tuple[int, int], Message], None],
        ended: Callable[[tuple[int, int]], None],
    ) -> None:
        names = [f"{plan.name}/worker{row + 1}" for row in range(plan.workers)]
        super().__init__(plan.module, names, plan.grace)
        self.plan = plan
        self.reasons: dict[int, str | None] = {}
        """Why a worker is not ready; None: it is."""
        self._number, self._sockets = number, sockets
        self._heard, self._on_ended = hear, ended

    async def end(self) -> None:
        await super().end()
        self.plan.close()

    def _init(self, row: int) -> tuple[Sequence[int], dict[str, Any]]:
        plan = self.plan
        listening = [self._sockets.of_worker([it], row, plan.workers) for it in plan.endpoints]
        descriptors = [sock.fileno() for sockets in listening for sock in sockets]
        counts = [len(sockets) for sockets in listening]
        return [*plan.descriptors, *descriptors], {**plan.fields, "log": plan.log, "sockets": counts}

    def _ready(self, row: int) -> None:
        self.reasons[row] = None

    def _hear(self, row: int, message: Message) -> None:
        if message.kind == "state":
            self.reasons[row] = message.fields["reason"]
        self._heard((self._number, row), message)

    def _ended(self, row: int) -> None:
        self.reasons.pop(row, None)
        self._on_ended((self._number, row))
