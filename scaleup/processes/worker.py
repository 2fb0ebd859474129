"""A worker's side of `workers`: it obeys its parent, and reports to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Container, Iterator, Sequence
from itertools import islice

from scaleup.net.addresses import Endpoint
from scaleup.processes.channel import Message
from scaleup.processes.process import Process
from scaleup.processes.summed import families
from scaleup.processes.tasks import Tasks

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
GARBAGE_THRESHOLD = 50_000
"""New objects until the collector looks. In the load balancer, the 700 of Python 3.11 were 30 connections, and cost
4 % of the CPU time of each.
"""


class Orders:
    """What a worker is told at its end, after which `process.stopping` is set.

    `seconds`: how long what is in progress may take. `gone`: None when it drains, so that nobody accepts
    any more; else others accept, but for these addresses.
    """

    def __init__(self, process: Process, seconds: float) -> None:
        self.seconds = seconds
        self.gone: Container[Endpoint] | None = None
        self._process = process
        process.on_message = self._obey
        leave_signals(process)

    def _obey(self, message: Message) -> None:
        if message.kind in ("drain", "retire"):
            self.seconds = message.fields["seconds"]
            if message.kind == "retire":
                self.gone = frozenset(map(Endpoint.parse, message.fields["gone"]))
            self._process.stopping.set()


def leave_signals(process: Process) -> None:
    """The parent decides. A service manager may signal all processes of a tier at once, and a worker that stops by
    itself takes the listening sockets away from its successor, too.
    """

    def left(number: signal.Signals) -> None:
        if not process.stopping.is_set():
            log.info("%s: left to the parent", number.name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        asyncio.get_running_loop().add_signal_handler(number, left, number)


def collect_rarely() -> None:
    """What serves a client is freed by counting references, so the garbage collector finds little: let it look
    rarely.
    """
    gc.collect()
    gc.freeze()  # what is there now stays
    gc.set_threshold(GARBAGE_THRESHOLD)


@contextlib.asynccontextmanager
async def reporting(process: Process, prefix: str) -> AsyncIterator[None]:
    """Within it, and at its end, the parent is told what the metrics with that prefix say."""

    async def tell() -> None:
        process.tell_parent(
            "state", reason=await process.readiness(), families=families(process.registry, prefix)
        )

    async def keep_telling() -> None:
        while True:
            await tell()
            await asyncio.sleep(REPORT_SECONDS)

    tasks = Tasks()
    tasks.spawn(keep_telling(), name="tell the parent")
    try:
        yield
    finally:
        await tasks.cancel()
        await tell()


def sockets_of(init: Message) -> list[list[socket.socket]]:
    """The listening sockets that a worker was handed, of each endpoint of the plan."""
    counts: Sequence[int] = init.fields["sockets"]
    descriptors: Iterator[int] = iter(init.descriptors[len(init.descriptors) - sum(counts) :])
    return [[socket.socket(fileno=it) for it in islice(descriptors, count)] for count in counts]
