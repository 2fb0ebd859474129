"""Background tasks with an owner.

The event loop refers to tasks only weakly (cpython #117379) and reports an error that nobody awaited
when the garbage collector comes by. `Tasks` keeps them, logs what fails at once, and can end them all.
Where the tasks of one coroutine end with it, asyncio.TaskGroup is the better tool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """A registry of running tasks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine, name=name)  # noqa: TID251 - this is the owner
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)

    async def cancel(self) -> None:
        """Cancel all of them, but the one that asks for it, and wait for their ends."""
        running = self._running - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._running)
