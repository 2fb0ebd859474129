"""The web tier under load while one of its two applications fails in every way that it can.

Each fault lasts a while and is then repaired. From outside: what a client is told, and when; whether a part of an
answer ever looked like all of it; how often each POST came; how the other's clients fared; what was left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from web.misbehaving import body_of
from web.outside import LOOK_SECONDS, PATIENCE_SECONDS, Address, Process, web
from web.visiting import Ask, Attempt, Visitors, longest_gap, percentile

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(120)]

RATE = 150.0
"""Requests a second; every second one is a POST."""

BEFORE_SECONDS, FAULT_SECONDS, AFTER_SECONDS = 1.5, 2.0, 1.5
RESPONSE_SECONDS, CONNECT_SECONDS, TRIES = 0.6, 0.5, 2
LATE_SECONDS = 1.0
"""What a busy machine may add to a deadline."""

DEADLINE_SECONDS = TRIES * (RESPONSE_SECONDS + CONNECT_SECONDS) + LATE_SECONDS
NOISE_SECONDS = 0.05
"""A p99 below it says more of the scheduler than of the web tier."""

GAP_SECONDS, SLICE_SECONDS = 1.0, 0.5
"""Of a gap a stall of the machine may be one half."""

PROGRAM = Path(__file__).parents[1] / "web" / "misbehaving.py"


class Application:
    """A process of tests/web/misbehaving.py, which can be started again on its port."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, free_port()
        self.posts: Counter[str] = (
            Counter()
        )  # of those that were killed; what they had seen last is not known
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), self.name, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == str(self.port)

    def order(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE_SECONDS)[0], f"{self.name} says nothing"
        return self.process.stdout.readline().strip()

    def seen(self) -> Counter[str]:
        """How often each POST came."""
        return self.posts + Counter(json.loads(self.order("posts")))

    def kill(self) -> None:
        self.posts = self.seen()
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Stand:
    """Two applications and a web server before them."""

    def __init__(
        self, process: Process, address: Address, admin: str, applications: list[Application]
    ) -> None:
        self._process, self.address, self._admin = process, address, admin
        self.broken, self.sound = applications

    def fail(self, fault: str) -> None:
        if fault == "kill":
            self.broken.kill()
        elif fault == "hang":
            os.kill(self.broken.process.pid, signal.SIGSTOP)
        else:
            assert self.broken.order(fault) == fault

    def repair(self, fault: str) -> None:
        if fault == "kill":
            self.broken.start()
        elif fault == "hang":
            os.kill(self.broken.process.pid, signal.SIGCONT)
        else:
            assert self.broken.order("fine") == "fine"

    def held(self) -> tuple[int, float, float]:
        """Sockets that are open, requests in progress, connections of clients."""
        sockets = 0
        for one in self._tree():
            for name in os.listdir(f"/proc/{one.pid}/fd"):
                with contextlib.suppress(OSError):
                    sockets += os.readlink(f"/proc/{one.pid}/fd/{name}").startswith("socket:")
        return sockets, self._metric("requests_in_progress"), self._metric("connections")

    def settles(self, to: tuple[int, float, float]) -> None:
        """Wait until no more is held than that."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            held = self.held()
            if all(now <= then for now, then in zip(held, to, strict=True)):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"held {held}, before {to}: {self._connections()}")
            time.sleep(LOOK_SECONDS)

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _connections(self) -> list[str]:
        found = [it for one in self._tree() for it in one.net_connections("all")]
        return [f"{one.laddr} → {one.raddr} {one.status}" for one in found]

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self._admin}/metrics", timeout=20) as response:
            text = response.read().decode()
        families = text_string_to_metric_families(text)
        samples = [one for family in families for one in family.samples if one.name == f"scaleup_web_{name}"]
        assert samples, name
        return sum(one.value for one in samples)

    @property
    def log(self) -> str:
        return "".join(self._process.log)


@pytest.fixture
def stand() -> Iterator[Stand]:
    with contextlib.ExitStack() as stack:
        applications = []
        for name in ("app1", "app2"):
            applications.append(application := Application(name))
            stack.callback(application.end)
        admin = f"127.0.0.1:{free_port()}"
        flags = ["--admin", admin]
        for one in applications:
            flags += ["--app", f"{one.name}=127.0.0.1:{one.port}"]
        flags += ["--response-timeout", str(RESPONSE_SECONDS), "--connect-timeout", str(CONNECT_SECONDS)]
        flags += ["--tries", str(TRIES), "--app-keepalive", "0.5", "--inter", "0.2", "--check-timeout", "0.5"]
        process, address = stack.enter_context(web(*flags))
        yield Stand(process, address, admin, applications)


def plan(number: int) -> Ask:
    path = f"/api/{number}"
    if number // 2 % 2:  # not every second one, as the applications take turns
        return Ask("GET", path, expected=body_of(path))
    body = b"x" * (
        number // 4 % 2 * 100
    )  # without a body, nothing but the rule keeps it from being sent again
    return Ask("POST", path, body, body_of(path), good=(201,))


def by(attempts: list[Attempt], application: Application, method: str) -> list[Attempt]:
    """Those that this application answered well."""
    return [
        a
        for a in attempts
        if a.ok
        and a.ask.method == method
        and a.answer
        and a.answer.value("x-application") == application.name
    ]


def usual_p99(attempts: list[Attempt]) -> float:
    """The median of the p99s of each half second: what a fault does it does all the while, and what another process
    of this machine does to a single one says nothing.
    """
    slices: dict[int, list[Attempt]] = {}
    for attempt in attempts:
        slices.setdefault(int(attempt.began / SLICE_SECONDS), []).append(attempt)
    return statistics.median(percentile(some, 99) for some in slices.values())


CUT_OFF = ("reset", "short", "chunk")
"""Faults in the middle of a body, when its head has gone to the client: nothing but an end that is seen is left."""


# Each takes 7 s: those that are told from another by a small thing only are for `make soak`.
@pytest.mark.parametrize(
    "fault",
    [
        *("kill", "hang", "slow", "chunk", "garbage"),
        *(pytest.param(it, marks=pytest.mark.soak) for it in ("silent", "reset", "short", "framing")),
    ],
)
async def test_a_fault_of_an_application_under_load(stand: Stand, fault: str) -> None:
    held = stand.held()
    async with Visitors(stand.address, RATE, plan) as visitors:
        began = visitors.now
        await asyncio.sleep(BEFORE_SECONDS)
        failing = visitors.now
        await asyncio.to_thread(stand.fail, fault)
        await asyncio.sleep(FAULT_SECONDS)
        await asyncio.to_thread(stand.repair, fault)
        repaired = visitors.now
        await asyncio.sleep(AFTER_SECONDS)
        ended = visitors.now
    before = [a for a in visitors.between(began, failing) if a.began + a.seconds < failing]
    during = visitors.between(failing, repaired)
    bad = [a for a in visitors.attempts if not a.ok]
    calm, troubled = (usual_p99(by(some, stand.sound, "POST")) for some in (before, during))
    print(
        f"\n{fault}: {len(during)} asked, not ok {dict(Counter(outcome(a) for a in bad))}, "
        f"gap {longest_gap(visitors.attempts) * 1000:.0f} ms, "
        f"p99 of the other {calm * 1000:.1f} → {troubled * 1000:.1f} ms"
    )

    assert not [str(a) for a in before if not a.ok]
    assert not [str(a) for a in visitors.attempts if a.lied], "a part of a body looked like all of it"
    allowed = {"502", "503", "504"} | ({"cut off"} if fault in (*CUT_OFF, "kill", "hang") else set())
    assert not [str(a) for a in bad if outcome(a) not in allowed]
    assert max(a.seconds for a in visitors.attempts) <= DEADLINE_SECONDS
    assert longest_gap(visitors.attempts) <= GAP_SECONDS
    assert by(during, stand.sound, "GET")
    # A POST is answered by the first that got it, so these were not delayed by the fault of the other.
    assert troubled <= max(2 * calm, NOISE_SECONDS)
    late = visitors.between(repaired + AFTER_SECONDS / 2, ended)
    assert not [str(a) for a in late if not a.ok], "not repaired"

    seen = stand.broken.seen() + stand.sound.seen()
    assert not {path: times for path, times in seen.items() if times > 1}, "a POST was sent twice"
    answered = {a.ask.path for a in visitors.attempts if a.ok and a.ask.method == "POST"}
    assert answered <= set(seen) or fault == "kill"  # which takes with it what it had seen last
    await asyncio.to_thread(stand.settles, held)
    assert "Traceback" not in stand.log
    assert "never retrieved" not in stand.log


def outcome(attempt: Attempt) -> str:
    if attempt.answer is None:
        return attempt.error
    return f"{attempt.answer.status}" if attempt.answer.is_complete else "cut off"
