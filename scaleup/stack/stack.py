"""All parts together: started in the order of need, stopped in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from scaleup.config.faults import did_you_mean
from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.stack.part import Part
from scaleup.stack.plan import TIERS, Spec
from scaleup.stack.rundir import RunDir
from scaleup.stack.view import ConsoleView

PART_GRACE_SECONDS = 2.0
"""Beyond its drain time, for one part that is stopped by itself."""

TIER_GRACE_SECONDS = 0.5
"""Beyond its drain time, for each tier when everything is stopped."""


_STEPS = {"start": ("start",), "stop": ("stop",), "restart": ("stop", "start")}


class Stack:
    """`drain`: seconds that each process may take to finish what is in progress."""

    def __init__(
        self, specs: list[Spec], run_dir: RunDir, virtual: Endpoint, drain: float, view: ConsoleView
    ) -> None:
        self.virtual = virtual
        self._drain, self._view = drain, view
        self.parts = {spec.name: Part(spec, run_dir, self._event) for spec in specs}
        self._changed = asyncio.Event()
        self._busy = asyncio.Lock()  # one command at a time
        self._serving = False  # between start() and stop()

    async def start(self, settle_seconds: float) -> None:
        """Start all. `settle_seconds`: how long an election may take. Raises StartupError."""
        for tier in TIERS:
            parts = self._tier(tier)
            self._view.starting([part.spec.name for part in parts])
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._start(part))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settle_seconds):
                while not self._is_settled():
                    await self._changed.wait()
                    self._changed.clear()
        self._serving = True

    def _is_settled(self) -> bool:
        """The load balancer of the highest priority owns the virtual address, and the others know it."""
        first, *others = (part.state for part in self._tier("lb"))
        return first == "active" and all(state == "backup" for state in others)

    async def stop(self) -> None:
        """Stop all, each tier before those that it needs."""
        self._serving = False
        for tier in reversed(TIERS):
            await asyncio.gather(*(part.stop(self._drain + TIER_GRACE_SECONDS) for part in self._tier(tier)))

    def status(self) -> dict[str, Any]:
        """As `status --json` prints it."""
        owner = next((part.spec.name for part in self._tier("lb") if part.state == "active"), None)
        return {
            "virtual_ip": {"address": self.virtual.host, "port": self.virtual.port, "owner": owner},
            "processes": [
                {
                    "tier": part.spec.tier,
                    "name": part.spec.name,
                    "pid": part.pid,
                    "address": str(part.spec.endpoint),
                    "state": part.state,
                }
                for tier in reversed(TIERS)
                for part in self._tier(tier)
            ],
        }

    async def command(self, command: str, name: str | None) -> dict[str, Any]:
        """Carry out what the control socket was asked. Raises StartupError."""
        if command == "status":
            return self.status()
        if command not in _STEPS:
            raise StartupError(f"no such command: {command}")
        part = self.parts.get(str(name))
        if part is None:
            names = ", ".join(self.parts)
            raise StartupError(
                f"no process is called {name}{did_you_mean(str(name), self.parts)}; there are {names}"
            )
        async with self._busy:
            if command == "start" and part.child is not None:
                raise StartupError(f"{name} runs already, as process {part.pid}")
            if command == "stop" and part.child is None:
                raise StartupError(f"{name} does not run")
            for step in _STEPS[command]:
                if not self._serving:  # it would start what is being started, or has just been stopped
                    raise StartupError("the whole stack is being started or stopped")
                await (part.start() if step == "start" else part.stop(self._drain + PART_GRACE_SECONDS))
                self._view.event(part, "started" if step == "start" else "stopped", {})
        return self.status()

    def _event(self, part: Part, event: str, fields: dict[str, Any]) -> None:
        self._changed.set()
        self._view.event(part, event, fields)

    def _tier(self, tier: str) -> list[Part]:
        return [part for part in self.parts.values() if part.spec.tier == tier]

    async def _start(self, part: Part) -> None:
        await part.start()
        self._view.started(part)
