"""The whole stack under 50 requests/s while one process after the other is killed.

For each victim: load runs for a while, the victim is killed, and is started again before the next. Printed:
failed requests and the longest gap. The bounds are the project's own promise, at an interval of 100 ms.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from e2e.load import CONCURRENCY, Attempt, Load, longest_gap
from e2e.running import RunningStack, start_stack, stop_stack
from needs import requires

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(180), requires("mariadbd")]

BEFORE_SECONDS = 1.0
AFTER_SECONDS = 3.0
STALL_SECONDS = 0.5
"""What the machine may add to a bound, by halting all of it."""


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    running = start_stack("127.0.77", "--interval", "0.1", "--engine", "mariadb")
    try:
        running.settled()
        yield running
    finally:
        stop_stack(running)


async def in_thread(function, *arguments):  # type: ignore[no-untyped-def]
    """The status and the commands are asked in a blocking way; the load must go on meanwhile."""
    return await asyncio.to_thread(function, *arguments)


class Report:
    """What happened since the fault; printed, with the bounds judged by the test."""

    def __init__(self, title: str, load: Load, since: float) -> None:
        self.attempts = load.since(since)
        self.failed = [attempt for attempt in self.attempts if not attempt.ok]
        self.gap = longest_gap(self.attempts)
        print(
            f"\n{title}: {len(self.failed)} of {len(self.attempts)} requests failed, "
            f"longest gap {self.gap * 1000:.0f} ms {sorted({describe(a) for a in self.failed})}"
        )


def describe(attempt: Attempt) -> str:
    return f"{attempt.status}" if attempt.status else attempt.error.partition(":")[0]


@pytest.fixture
async def load(stack: RunningStack, request: pytest.FixtureRequest) -> AsyncIterator[Load]:
    """Load that had no failure before the fault, and whose acknowledged links are all there afterwards."""
    await in_thread(stack.settled)
    prefix = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    async with Load(stack.url, prefix) as running:
        await asyncio.sleep(BEFORE_SECONDS)
        assert all(attempt.ok for attempt in running.attempts), [describe(a) for a in running.attempts]
        yield running
    await in_thread(stack.settled)
    await assert_all_there_once(stack.url, running.acknowledged, prefix)


async def assert_all_there_once(url: str, acknowledged: list[str], prefix: str) -> None:
    """Every acknowledged link is there, once."""
    codes: list[str] = []
    after: object = None
    async with aiohttp.ClientSession() as session:
        while True:
            parameters = {"limit": "100", **({"after": str(after)} if after is not None else {})}
            async with session.get(f"{url}/api/links", params=parameters) as response:
                page = await response.json()
            codes += [link["code"] for link in page["links"]]
            if (after := page["next"]) is None:
                break
    ours = [code for code in codes if code.startswith(prefix + "-")]
    assert len(ours) == len(set(ours)), "a link is there twice"
    assert not set(acknowledged) - set(ours), "an acknowledged link is lost"
    print(f"{len(acknowledged)} links acknowledged, all there once")


def active(stack: RunningStack) -> str:
    owner = stack.status()["virtual_ip"]["owner"]
    assert isinstance(owner, str)
    return owner


async def test_node_killed(stack: RunningStack, load: Load) -> None:
    victim = await in_thread(active, stack)
    fault = time.monotonic()
    os.kill((await in_thread(stack.row, victim))["pid"], signal.SIGKILL)
    await asyncio.sleep(AFTER_SECONDS)
    report = Report(f"kill -9 of the active node ({victim})", load, fault)
    await in_thread(stack.command, "start", victim)
    assert report.gap <= 0.5 + STALL_SECONDS
    assert report.attempts[-1].ok


async def test_vrrp_killed(stack: RunningStack, load: Load) -> None:
    victim = await in_thread(active, stack)
    process = await in_thread(stack.child, victim, "scaleup.vrrp.attached")
    fault = time.monotonic()
    process.kill()
    await asyncio.sleep(AFTER_SECONDS)
    report = Report(f"kill -9 of the active node's vrrp process ({victim})", load, fault)
    assert report.gap <= 0.8 + STALL_SECONDS
    assert report.attempts[-1].ok


async def test_worker_hangs(stack: RunningStack, load: Load) -> None:
    """Stopped, it would go on collecting connections for ever: the node replaces it."""
    victim = await in_thread(active, stack)
    worker = await in_thread(stack.child, victim, "scaleup.lb.worker")
    fault = time.monotonic()
    worker.suspend()
    await in_thread(worker.wait, 20)
    replaced = time.monotonic()
    await asyncio.sleep(AFTER_SECONDS)
    report = Report(f"SIGSTOP of the active node's worker ({victim})", load, fault)
    late = [attempt for attempt in report.failed if attempt.began > replaced + 2.0 + STALL_SECONDS]
    assert replaced - fault <= 6.0 + STALL_SECONDS
    assert not late, [describe(attempt) for attempt in late]


async def test_node_stopped(stack: RunningStack, load: Load) -> None:
    victim = await in_thread(active, stack)
    fault = time.monotonic()
    os.kill((await in_thread(stack.row, victim))["pid"], signal.SIGTERM)
    await in_thread(
        stack.wait,
        lambda status: status["virtual_ip"]["owner"] not in (None, victim),
        10.0,
        "another owner",
    )
    taken_over = time.monotonic()
    await asyncio.sleep(AFTER_SECONDS)
    report = Report(f"SIGTERM to the active node ({victim})", load, fault)
    await in_thread(stack.command, "start", victim)
    late = [attempt for attempt in report.failed if attempt.began > taken_over]
    assert not late, [describe(attempt) for attempt in late]


@pytest.mark.parametrize("victim", ["web1", "app1"])
async def test_server_killed(stack: RunningStack, load: Load, victim: str) -> None:
    fault = time.monotonic()
    os.kill((await in_thread(stack.row, victim))["pid"], signal.SIGKILL)
    await asyncio.sleep(AFTER_SECONDS)
    report = Report(f"kill -9 of {victim}", load, fault)
    await in_thread(stack.command, "start", victim)
    assert len(report.failed) <= CONCURRENCY
    assert report.attempts[-1].ok


async def test_database_restarted(stack: RunningStack, load: Load) -> None:
    fault = time.monotonic()
    await in_thread(stack.command, "stop", "db")
    stopped = time.monotonic()
    await asyncio.sleep(2.0)
    await in_thread(stack.command, "start", "db")
    back = time.monotonic()
    await asyncio.sleep(AFTER_SECONDS)
    report = Report("database stopped and started again", load, fault)
    away = [a for a in report.failed if stopped <= a.began < back]
    assert away, "the database was away, and nobody noticed"
    assert {a.status for a in report.failed} == {503}
    assert max(a.ended - a.began for a in away) <= 2.0 + STALL_SECONDS
    late = [a for a in report.failed if a.began > back + 2.0 + STALL_SECONDS]
    assert not late, f"not recovered {late[-1].began - back:.1f} s after the database was back"
