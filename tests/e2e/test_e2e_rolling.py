"""Both web servers and both applications are restarted in turn, while 500 requests a second go through all tiers.

A request has failed when it has no complete response after one retry, which only a GET has, and only when its
connection was closed before the first byte of a response. The next one's turn comes when whoever stands before the
last one has been seen to use it again: so somebody would do it who looks at the log.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator

import pytest
from e2e.running import RunningStack, start_stack, stop_stack
from needs import requires
from web.outside import PATIENCE_SECONDS
from web.visiting import Ask, Visitors, percentile

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(180), requires("mariadbd")]

RATE = 500.0
BUSY = 0.95
"""Of the rate that is to be held: a generator that cannot keep up would test something else."""

CALM_SECONDS = 1.0
TARGET = "http://example.com/rolling"
CODE = "rolling"


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    running = start_stack("127.0.89", "--lbs", "1", "--engine", "mariadb", "--drain", "2")
    try:
        running.wait(
            lambda status: all(row["state"] in ("up", "active") for row in status["processes"]), 20, "all up"
        )
        body = json.dumps({"url": TARGET, "code": CODE}).encode()
        fields = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{running.url}/api/links", body, fields), timeout=10
        ):
            yield running
    finally:
        stop_stack(running)


def plan(number: int) -> Ask:
    """A file, what an application reads, and where it redirects to."""
    if number % 3 == 0:
        return Ask("GET", "/")
    if number % 3 == 1:
        return Ask("GET", f"/api/links/{CODE}")
    return Ask("GET", f"/l/{CODE}", good=(302,))


@pytest.mark.parametrize("each", [1, 50], ids=["a connection each", "on kept connections"])
async def test_a_rolling_restart_loses_no_request(stack: RunningStack, each: int) -> None:
    host, _, port = stack.url.removeprefix("http://").partition(":")
    async with Visitors((host, int(port)), RATE, plan, connections=16, each=each) as visitors:
        began = visitors.now
        for victim, users in (
            ("web1", {"web1"}),
            ("web2", {"web2"}),
            ("app1", {"web1, app1", "web2, app1"}),
            ("app2", {"web1, app2", "web2, app2"}),
        ):
            await asyncio.sleep(CALM_SECONDS)
            await asyncio.to_thread(stack.command, "restart", victim)
            await used(visitors, visitors.now, users)
        await asyncio.sleep(CALM_SECONDS)
        seconds = visitors.now - began
    failed = [attempt for attempt in visitors.attempts if not attempt.ok]
    retried = sum(attempt.retried for attempt in visitors.attempts)
    print(
        f"\n{each} on a connection: {len(failed)} of {len(visitors.attempts)} failed, {retried} retried, "
        f"p99 {percentile(visitors.attempts, 99) * 1000:.0f} ms, "
        f"slowest {percentile(visitors.attempts, 100) * 1000:.0f} ms"
    )
    assert not [str(attempt) for attempt in failed]
    assert len(visitors.attempts) >= BUSY * RATE * seconds


async def used(visitors: Visitors, since: float, users: set[str]) -> None:
    """Wait until answers to what was asked since then have come by each of these ways."""

    def ways() -> set[str]:
        recent = (a.answer for a in visitors.between(since, visitors.now) if a.answer)
        return {way for answer in recent for way in served_by(answer.value("x-served-by"))}

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not users <= ways():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def served_by(value: str) -> set[str]:
    """ "web1, app1": by web1, and by app1 at the request of web1."""
    return {value, value.partition(",")[0]}
