"""One process of the stack: started, watched, stopped, and what it last said of itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from scaleup.errors import StartupError
from scaleup.processes import Child, Message
from scaleup.processes.children import describe
from scaleup.stack.plan import Spec
from scaleup.stack.rundir import RunDir

START_SECONDS = 60.0
"""Until `ready`. A database's first start takes seconds on a slow disk."""

LOG_LINES_IN_ERROR = 12


class Part:
    """`on_event(part, event, fields)` for each event of the process, its unwanted death (`died`) included."""

    def __init__(
        self, spec: Spec, run_dir: RunDir, on_event: Callable[[Part, str, dict[str, Any]], None]
    ) -> None:
        self.spec = spec
        self.child: Child | None = None
        self.detail = ""
        """What a person should know of it beside its state, for example the database's engine."""
        self._run_dir, self._on_event = run_dir, on_event
        self._role: str | None = None
        self._is_ready = False
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child is not None else None

    @property
    def state(self) -> str:
        """`active`, `backup` or `fault` for a load balancer, `up` for others; `down` when it does not run."""
        if self.child is None or not self._is_ready:
            return "down"
        if self.spec.tier == "lb":
            return self._role or "active"  # without an election the one load balancer serves
        return "up"

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises StartupError with the end of its log."""
        self._role, self._is_ready, self._stopping = None, False, False
        log = self._run_dir.log(self.spec.name)
        try:
            with log.open("ab") as output:
                self.child = Child(
                    self.spec.name,
                    self.spec.arguments,
                    on_message=self._says,
                    on_exit=self._exited,
                    output=output,
                )
            self._run_dir.write_pid(self.spec.name, self.child.pid)
        except OSError as error:
            raise StartupError(f"{self.spec.name} cannot be started: {error}") from None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self.child is not None and not self._is_ready:
                    self._changed.clear()
                    await self._changed.wait()
        if not self._is_ready:
            how = "died" if self.child is None else f"was not ready within {START_SECONDS:g} s"
            raise StartupError(f"{self.spec.name} {how}:\n{_end_of(log.read_text(errors='replace'))}")

    async def stop(self, grace: float) -> None:
        """SIGTERM, SIGKILL after `grace` seconds; done when the process is gone."""
        self._stopping = True
        if self.child is not None:
            await self.child.stop(grace)

    def _says(self, message: Message) -> None:
        if message.kind == "ready":
            self._is_ready = True
        elif message.kind == "event":
            fields = dict(message.fields)
            event = fields.pop("event")
            if event == "role":
                self._role = fields["role"]
            elif event == "engine":
                self.detail = fields["engine"]
            self._on_event(self, event, fields)
        self._changed.set()

    def _exited(self, returncode: int) -> None:
        was_ready, self._is_ready = self._is_ready, False
        self.child = None
        self._role = None
        self._run_dir.write_pid(self.spec.name, None)
        self._changed.set()
        if was_ready and not self._stopping:
            self._on_event(self, "died", {"how": describe(returncode)})


def _end_of(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_IN_ERROR:])
