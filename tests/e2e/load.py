"""A client at a fixed rate: unique writes and reads through the virtual address, a connection each.

Attempts start on schedule whether or not earlier ones have ended, up to `CONCURRENCY` at a time, so that
a stack that hangs is seen to hang. Everything about an attempt is counted from its start.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass

import aiohttp

RATE = 50.0
"""Attempts per second."""

CONCURRENCY = 16
ATTEMPT_SECONDS = 5.0


@dataclass(slots=True)
class Attempt:
    kind: str  # "write" or "read"
    began: float  # time.monotonic()
    ended: float = 0.0
    status: int | None = None  # None: no complete response
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status is not None and self.status < 400


class Load:
    """`async with Load(url) as load:` runs it; `acknowledged` are the codes of the links answered with 201."""

    def __init__(self, url: str, prefix: str = "e2e") -> None:
        self._url, self._prefix = url, prefix
        self.attempts: list[Attempt] = []
        self.acknowledged: list[str] = []
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS),
            auto_decompress=False,
        )
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._clock = self._group.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._clock.cancel()
        await self._group.__aexit__(None, None, None)
        await self._session.close()

    async def _run(self) -> None:
        began = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            await self._slots.acquire()
            self._group.create_task(self._attempt(number))

    async def _attempt(self, number: int) -> None:
        code = f"{self._prefix}-{number}"
        is_write = number % 2 == 0 or not self.acknowledged
        attempt = Attempt("write" if is_write else "read", time.monotonic())
        try:
            if is_write:
                body = {"url": f"http://example.com/{number}", "code": code}
                request = self._session.post(f"{self._url}/api/links", json=body)
            else:
                known = self.acknowledged[number * 7919 % len(self.acknowledged)]
                request = self._session.get(f"{self._url}/api/links/{known}")
            async with request as response:
                await response.read()
                attempt.status = response.status
                if is_write and response.status == 201:
                    self.acknowledged.append(code)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            attempt.error = type(error).__name__ + ": " + str(error)
        finally:
            attempt.ended = time.monotonic()
            self.attempts.append(attempt)
            self._slots.release()

    def since(self, instant: float) -> list[Attempt]:
        """The attempts that started at `instant` or later, in order of their starts."""
        return sorted((a for a in self.attempts if a.began >= instant), key=lambda a: a.began)


def longest_gap(attempts: list[Attempt]) -> float:
    """The longest time from an attempt's start until it, or one that started later, had succeeded."""
    longest, next_success = 0.0, float("inf")
    for attempt in sorted(attempts, key=lambda a: a.began, reverse=True):
        if attempt.ok:
            next_success = min(next_success, attempt.ended)
        if next_success < float("inf"):
            longest = max(longest, next_success - attempt.began)
    return longest
