"""The same faults, twenty times each; the figures are written to bench/results/failover-loopback.json."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from e2e.load import Load, longest_gap
from e2e.running import RunningStack, start_stack, stop_stack
from needs import requires

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200), requires("mariadbd")]

ROUNDS = int(os.environ.get("SCALEUP_SOAK_ROUNDS", "20"))
WATCHED_SECONDS = 1.5
BOUNDS_SECONDS = {"node killed": 0.5, "vrrp process killed": 0.8, "node stopped": 1.5}
"""The first two are promises; a planned hand-over may take its drain time (1 s) besides."""

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "failover-loopback.json"


@pytest.fixture
def stack() -> Iterator[RunningStack]:
    running = start_stack("127.0.86", "--interval", "0.1", "--engine", "mariadb")
    try:
        yield running
    finally:
        stop_stack(running)


def strike(stack: RunningStack, fault: str) -> str:
    """Do it to the active node; returns its name."""
    victim = str(stack.status()["virtual_ip"]["owner"])
    if fault == "vrrp process killed":
        stack.child(victim, "scaleup.vrrp.attached").kill()
    else:
        number = signal.SIGKILL if fault == "node killed" else signal.SIGTERM
        os.kill(stack.row(victim)["pid"], number)
    return victim


async def test_fail_overs_in_a_row(stack: RunningStack) -> None:
    gaps: dict[str, list[float]] = {fault: [] for fault in BOUNDS_SECONDS}
    failed: dict[str, int] = dict.fromkeys(BOUNDS_SECONDS, 0)
    for number in range(ROUNDS):
        for fault in BOUNDS_SECONDS:
            await asyncio.to_thread(stack.settled)
            async with Load(stack.url, f"soak-{number}-{fault.replace(' ', '-')}") as load:
                began = time.monotonic()
                victim = await asyncio.to_thread(strike, stack, fault)
                await asyncio.sleep(WATCHED_SECONDS)
                attempts = load.since(began)
                gaps[fault].append(longest_gap(attempts))
                failed[fault] += sum(not attempt.ok for attempt in attempts)
                if fault != "vrrp process killed":
                    await asyncio.to_thread(stack.command, "start", victim)
    for fault, seconds in gaps.items():
        ordered = sorted(seconds)
        print(
            f"\n{fault} × {ROUNDS}: gap median {statistics.median(ordered) * 1000:.0f} ms, "
            f"maximum {ordered[-1] * 1000:.0f} ms, {failed[fault]} requests failed"
        )
    write_results(gaps, failed)
    for fault, bound in BOUNDS_SECONDS.items():
        assert max(gaps[fault]) <= bound, fault


def write_results(gaps: dict[str, list[float]], failed: dict[str, int]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    record = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "settings": "interval 100 ms, 50 requests/s, two of each tier, MariaDB; one machine, loopback",
        "longest_gap_ms": {
            fault: [round(seconds * 1000, 1) for seconds in seconds_of] for fault, seconds_of in gaps.items()
        },
        "failed_requests": failed,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
