"""A foreign program as a child: tied to us, in a process group of its own, its output in our log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from scaleup.processes import Tasks, tether

log = logging.getLogger(__name__)

TAIL_LINES = 15
"""Lines of output that are kept, to be told when the program fails."""
MAX_LINE_BYTES = 64 * 1024


class Program:
    """Made by `start`. The kernel kills it when we die, however we die."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.name = name
        self._process = process
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._tasks = Tasks()
        self._reading = self._tasks.spawn(self._read(), name=f"output of {name}")

    @classmethod
    async def start(cls, arguments: Sequence[str], *, user: str | None, directory: Path) -> Program:
        """`user`: who it runs as, if not as us; only root can ask for it."""
        process = await asyncio.create_subprocess_exec(
            *tether.command(arguments, user=user),
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # uvloop does not know process_group
            limit=MAX_LINE_BYTES,
        )
        return cls(process, Path(arguments[0]).name)

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    @property
    def tail(self) -> str:
        """The last lines of output."""
        return "\n".join(self._tail)

    async def wait(self) -> int:
        """The return code, when it has ended and all its output is read."""
        code = await self._process.wait()
        await asyncio.wait([self._reading])
        return code

    async def stop(self, grace: float) -> int:
        """SIGTERM, and SIGKILL to its whole group after `grace` seconds."""
        if not self.ended and grace > 0:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    return await self.wait()
            log.warning("%s has not ended within %g s: killing it", self.name, grace)
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return await self.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # a longer line than MAX_LINE_BYTES: its beginning is thrown away
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            log.log(logging.WARNING if "[ERROR]" in text else logging.DEBUG, "%s: %s", self.name, text)
