"""The workers of one configuration.

    starting ──▶ serving ──▶ retiring ──▶ ended
                    │
                    └──── drain ────────▶ ended

A reload makes another generation out of the new settings. The listening sockets are the parent's and go to both:
for a moment two workers accept from each, then the old one retires: it leaves the sockets alone, finishes what it
has, and ends with the last of it, or when its time is up. So no queued connection is lost, and each is served by
the settings under which it was accepted. Sockets of which the new settings know nothing are emptied and shut down
by the old workers.

A worker is told `init`, and once `drain` or `retire`, with the `seconds` that it may take. It says `ready`, and
`free` when it has nothing left to do, since its own end takes a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from scaleup.net.addresses import Endpoint
from scaleup.processes.channel import Message
from scaleup.processes.children import Child
from scaleup.processes.keeper import Keeper


class Generation:
    """A base class. `module`: what a worker runs. `names`: of the workers. `grace`: seconds beyond its time until
    one is killed.
    """

    def __init__(self, module: str, names: Sequence[str], grace: float) -> None:
        self._module, self._grace = module, grace
        self._free = [asyncio.Event() for _ in names]
        """Of each worker: it has nothing left to do, has ended, or was not started."""
        self._finishing = False
        for free in self._free:
            free.set()
        self._keepers = [
            Keeper(name, partial(self._spawn, name, row), partial(self._died, row))
            for row, name in enumerate(names)
        ]

    def _init(self, row: int) -> tuple[Sequence[int], dict[str, Any]]:
        """The descriptors and the fields of a worker's first message, with `log` (see `run_child`)."""
        raise NotImplementedError

    def _ready(self, row: int) -> None:
        """A worker serves."""

    def _hear(self, row: int, message: Message) -> None:
        """A worker has said something of its own."""

    def _ended(self, row: int) -> None:
        """A worker's process is no more, however it ended."""

    def _died(self, row: int, how: str) -> None:
        """And nobody had asked for that."""

    async def start(self) -> None:
        """Until all are ready. Raises StartupError; `end` is due then, too."""
        for keeper in self._keepers:
            keeper.start()
        for keeper in self._keepers:
            await keeper.first_ready()

    @property
    def fault(self) -> str | None:
        """Why clients should go elsewhere; None: they are served.

        A worker that cannot be started again is one as well: its sockets still get their share of the connections,
        and nobody takes them.
        """
        if not any(keeper.is_ready for keeper in self._keepers):
            return "no worker accepts"
        return next((f"{it.name} cannot be started again" for it in self._keepers if it.hopeless), None)

    def serving(self) -> dict[int, Child]:
        """The workers that are ready, by their rows."""
        return {
            row: keeper.child
            for row, keeper in enumerate(self._keepers)
            if keeper.is_ready and keeper.child is not None
        }

    def tell(self, kind: str, **fields: Any) -> None:
        """All workers that are ready; the others are told when they are."""
        for child in self.serving().values():
            child.send(kind, **fields)

    async def drain(self, seconds: float) -> None:
        """Refuse new connections; what is there may go on for so long. Returns when the last of it has ended."""
        await self._finish("drain", seconds)

    async def retire(self, seconds: float, gone: Sequence[Endpoint]) -> None:
        """Leave the sockets to others, except `gone` ones. Returns when the last connection has ended."""
        await self._finish("retire", seconds, gone=list(map(str, gone)))

    async def end(self) -> None:
        """Whatever they are doing."""
        if self._finishing:  # they end by themselves
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await asyncio.gather(*(keeper.child.wait() for keeper in self._keepers if keeper.child))
        for keeper in self._keepers:
            await keeper.stop(0)

    async def _finish(self, how: str, seconds: float, **fields: Any) -> None:
        self._finishing = True
        for keeper in self._keepers:
            keeper.expect_exit()
            if keeper.child is not None:
                keeper.child.send(how, seconds=seconds, **fields)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + self._grace):
                await asyncio.gather(*(free.wait() for free in self._free))

    def _spawn(self, name: str, row: int, on_exit: Callable[[int], None]) -> Child:
        def ended(status: int) -> None:
            self._free[row].set()
            self._ended(row)
            on_exit(status)

        descriptors, fields = self._init(row)
        child = Child(name, [self._module, name], on_message=partial(self._says, row), on_exit=ended)
        self._free[row].clear()
        child.send("init", descriptors, name=name, **fields)
        return child

    def _says(self, row: int, message: Message) -> None:
        match message.kind:
            case "ready":
                self._keepers[row].was_ready()
                self._ready(row)
            case "free":
                self._free[row].set()
            case _:
                self._hear(row, message)
