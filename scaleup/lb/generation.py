"""The workers of one configuration, and what only they share: the counters, and eventfds that wake their queues."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scaleup.lb.counters import Counters
from scaleup.lb.settings import LbSettings
from scaleup.lb.worker import sizes_of
from scaleup.processes import Message, generation
from scaleup.processes.logs import Destination

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
"""For an answer: a worker is never busy with one thing for long."""
STOP_GRACE_SECONDS = 1.0
"""Beyond the time that it was given, until a worker is killed."""


class Generation(generation.Generation):
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
        self._names = [f"{name}/worker{row + 1}" for row in range(settings.workers)]
        super().__init__("scaleup.lb.worker", self._names, STOP_GRACE_SECONDS)
        self.settings, self._log, self._sockets = settings, log, sockets
        self._on_ready, self._on_death, self._on_observed = on_ready, on_death, on_observed
        self._servers = [(backend.name, it.name) for backend in settings.backends for it in backend.servers]
        self.counters = Counters.create(settings.workers, sizes_of(settings))
        self._wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(settings.workers)]
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count()

    async def ask(self, kind: str, **fields: Any) -> list[Any]:
        """What all workers that are ready answer, as far as they live and do so within ASK_SECONDS."""
        number, asked = next(self._numbers), self.serving()
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

    async def end(self) -> None:
        """Whatever they are doing; then the counters are gone."""
        await super().end()
        for waker in self._wakers:
            os.close(waker)
        self.counters.close()

    def _init(self, row: int) -> tuple[Sequence[int], dict[str, Any]]:
        sockets = [sock.fileno() for frontend in self._sockets[row] for sock in frontend]
        return [self.counters.descriptor, *self._wakers, *sockets], {
            "log": self._log,
            "settings": for_workers(self.settings),
            "row": row,
            "rows": self.settings.workers,
            "sockets": [len(frontend) for frontend in self._sockets[row]],
        }

    def _ready(self, row: int) -> None:
        self._on_ready()

    def _hear(self, row: int, message: Message) -> None:
        match message.kind:
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

    def _ended(self, row: int) -> None:
        for question in self._questions.values():
            question.answered_by(row)  # it will say no more

    def _died(self, row: int, how: str) -> None:
        self.counters.clear_current(row)
        self._on_death(self._names[row], how)


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
