"""The workers of one configuration, and what only they share: the counters, and eventfds that wake their queues.

    starting ──▶ serving ──▶ retiring ──▶ ended
                    │
                    └──── drain ────────▶ ended

A reload makes another generation out of the new settings. The listening sockets are the node's and go to both:
for a moment two workers accept from each, then the old one retires: it leaves the sockets alone, keeps the
sessions that it has, and ends with the last of them, or after `hard_stop_after`. So no queued connection is lost,
and each is relayed by the settings under which it was accepted. Sockets of which the new settings know nothing
are emptied and shut down by the old workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from scaleup.lb.counters import Counters
from scaleup.lb.settings import LbSettings
from scaleup.lb.worker import sizes_of
from scaleup.net.addresses import Endpoint
from scaleup.processes import Child, Message
from scaleup.processes.keeper import Keeper
from scaleup.processes.logs import Destination

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
"""For an answer: a worker is never busy with one thing for long."""
STOP_GRACE_SECONDS = 1.0
"""Beyond the time that it was given, until a worker is killed."""


class Generation:
    """`sockets`: for each worker those that it listens on, of each frontend, in their order.

    `on_ready()`: a worker has become ready, and must be told the state. `on_death(name, how)`.
    `on_observed(backend, server, times, reason)`: so many connections in a row did not reach it; 0: one has.
    """

    def __init__(
        self,
        settings: LbSettings,
        name: str,
        log: Destination,
        sockets: Sequence[Sequence[Sequence[socket.socket]]],
        on_ready: Callable[[], None],
        on_death: Callable[[str, str], None],
        on_observed: Callable[[str, str, int, str], None],
    ) -> None:
        self.settings, self._log, self._sockets = settings, log, sockets
        self._on_ready, self._on_death, self._on_observed = on_ready, on_death, on_observed
        self._servers = [(backend.name, it.name) for backend in settings.backends for it in backend.servers]
        self.counters = Counters.create(settings.workers, sizes_of(settings))
        self._wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(settings.workers)]
        self._keepers: list[Keeper] = []
        self._free = [asyncio.Event() for _ in range(settings.workers)]
        """Of each worker: it has no session any more, has ended, or was not started."""
        self._finishing = False
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count()
        for row in range(settings.workers):
            worker = f"{name}/worker{row + 1}"
            self._free[row].set()
            spawn, died = partial(self._spawn, worker, row), partial(self._died, worker, row)
            self._keepers.append(Keeper(worker, spawn, died))

    async def start(self) -> None:
        """Until all are ready. Raises StartupError; `end` is due then, too."""
        for keeper in self._keepers:
            keeper.start()
        for keeper in self._keepers:
            await keeper.first_ready()

    @property
    def serves(self) -> bool:
        """Whether any worker accepts."""
        return any(keeper.is_ready for keeper in self._keepers)

    def tell(self, kind: str, **fields: Any) -> None:
        """All workers that are ready; the others are told when they are."""
        for keeper in self._keepers:
            if keeper.is_ready and keeper.child is not None:
                keeper.child.send(kind, **fields)

    async def ask(self, kind: str, **fields: Any) -> list[Any]:
        """What all workers that are ready answer, as far as they live and do so within ASK_SECONDS."""
        number = next(self._numbers)
        asked = {
            row: keeper.child
            for row, keeper in enumerate(self._keepers)
            if keeper.is_ready and keeper.child is not None
        }
        question = self._questions[number] = _Question(asked)
        for child in asked.values():
            child.send(kind, number=number, **fields)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await question.answered.wait()
        except TimeoutError:
            log.warning("not all workers have answered within %g s", ASK_SECONDS)
        finally:
            del self._questions[number]
        return question.answers

    async def drain(self, seconds: float) -> None:
        """Refuse new connections; sessions may go on for so long. Returns when the last one has ended."""
        await self._finish("drain", seconds)

    async def retire(self, seconds: float, gone: Sequence[Endpoint]) -> None:
        """Leave the sockets to others, except `gone` ones. Returns when the last session has ended."""
        await self._finish("retire", seconds, gone=list(map(str, gone)))

    async def end(self) -> None:
        """Whatever they are doing; then the counters are gone."""
        if self._finishing:  # they end by themselves
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_SECONDS):
                    await asyncio.gather(*(keeper.child.wait() for keeper in self._keepers if keeper.child))
        for keeper in self._keepers:
            await keeper.stop(0)
        for waker in self._wakers:
            os.close(waker)
        self.counters.close()

    async def _finish(self, how: str, seconds: float, **fields: Any) -> None:
        self._finishing = True
        for keeper in self._keepers:
            keeper.expect_exit()
            if keeper.child is not None:
                keeper.child.send(how, seconds=seconds, **fields)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + STOP_GRACE_SECONDS):
                await asyncio.gather(*(free.wait() for free in self._free))

    def _spawn(self, name: str, row: int, on_exit: Callable[[int], None]) -> Child:
        def ended(status: int) -> None:
            self._free[row].set()
            for question in self._questions.values():
                question.answered_by(row)  # it will say no more
            on_exit(status)

        self._free[row].clear()
        child = Child(name, ["scaleup.lb.worker", name], on_message=partial(self._says, row), on_exit=ended)
        sockets = [sock.fileno() for frontend in self._sockets[row] for sock in frontend]
        child.send(
            "init",
            [self.counters.descriptor, *self._wakers, *sockets],
            name=name,
            log=self._log,
            settings=for_workers(self.settings),
            row=row,
            rows=self.settings.workers,
            sockets=[len(frontend) for frontend in self._sockets[row]],
        )
        return child

    def _says(self, row: int, message: Message) -> None:
        match message.kind:
            case "ready":
                self._keepers[row].was_ready()
                self._on_ready()
            case "free":
                self._free[row].set()
            case "answer":
                if question := self._questions.get(message.fields["number"]):
                    question.answers += message.fields["part"]
                    if not message.fields["more"]:
                        question.answered_by(row)
            case "observed":
                reached = [(server, (0, "")) for server in message.fields["made"]]
                for server, (times, reason) in [*reached, *message.fields["failed"]]:
                    backend, name = self._servers[int(server)]
                    self._on_observed(backend, name, times, reason)

    def _died(self, name: str, row: int, how: str) -> None:
        self.counters.clear_current(row)
        self._on_death(name, how)


def for_workers(settings: LbSettings) -> dict[str, Any]:
    """Without the files that they do not need, and that may be gone, or none of their business."""
    table = {**settings.table(), "auth": "none", "check_ca_file": None}
    for backend in table["backend"]:
        backend.pop("check_ca_file", None)
    return table


class _Question:
    """Put to some workers, by their rows. Each answers in parts, as one may be larger than a message."""

    def __init__(self, asked: Iterable[int]) -> None:
        self._left = set(asked)
        self.answers: list[Any] = []
        self.answered = asyncio.Event()
        if not self._left:
            self.answered.set()

    def answered_by(self, row: int) -> None:
        """All that it has to say."""
        self._left.discard(row)
        if not self._left:
            self.answered.set()
