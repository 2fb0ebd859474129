"""What clients' connections show of the servers, told to the node (HAProxy's `observe layer4`).

A worker that cannot reach a server says so, and says when it reaches it again. It does so at most every
TELL_SECONDS: a thousand clients that are refused are one message. What follows from it the node decides, for all
workers (`upstream.health`: `error_limit`, `on_error`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TELL_SECONDS = 0.05


class Observer:
    """Servers are numbers here. `tell(failed, made)`: per server how often in a row, and why; and those reached."""

    def __init__(self, tell: Callable[[dict[int, tuple[int, str]], list[int]], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._failing: set[int] = set()  # those of which the node heard nothing better
        self._failed: dict[int, tuple[int, str]] = {}
        self._made: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def failed(self, server: int, reason: str) -> None:
        """A connection did not reach it."""
        self._failing.add(server)
        times, _ = self._failed.get(server, (0, ""))
        self._failed[server] = times + 1, reason
        self._soon()

    def made(self, server: int) -> None:
        """A connection reached it: nearly always nothing new."""
        if server in self._failing:
            self._failing.discard(server)
            self._failed.pop(server, None)
            self._made.add(server)
            self._soon()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(TELL_SECONDS, self._now)

    def _now(self) -> None:
        self._timer = None
        failed, self._failed = self._failed, {}
        made, self._made = self._made, set()
        self._tell(failed, sorted(made))
