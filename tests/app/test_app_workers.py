"""`--workers N`: several processes behind one address; one dies or hangs, and the address goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from database_servers import DatabaseServer
from test_app_processes import fails, start, url

from bench.ports import free_port


class Application:
    """A parent with two workers."""

    def __init__(self, server: DatabaseServer, log: Path) -> None:
        self.port, self.admin = free_port(), free_port()
        self.process = start(
            *("--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}", "--workers", "2"),
            *("--database", url(server), "--drain", "0.2", "--log-file", str(log)),
        )
        until(lambda: self.get("/readyz", self.admin) == "ready\n")

    def get(self, path: str, port: int | None = None) -> str | None:
        """None when nobody answers, or not with 2xx."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port or self.port}{path}", timeout=20
            ) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def pid(self) -> int:
        """Of whichever worker answers."""
        answer = self.get("/api/whoami")
        assert answer is not None
        assert json.loads(answer)["application"]["name"] == "app2"
        return int(json.loads(answer)["application"]["pid"])

    def metric(self, name: str) -> float:
        text = self.get("/metrics", self.admin) or ""
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (.*)$", text, re.MULTILINE))

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def application(server: DatabaseServer, tmp_path: Path) -> Iterator[Application]:
    server.empty()
    application = Application(server, tmp_path / "log")
    yield application
    if application.process.poll() is None:
        application.stop()
    assert application.process.stderr is not None
    application.process.stderr.close()
    assert "Traceback" not in (tmp_path / "log").read_text()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_both_serve_and_are_counted_together(application: Application, server: DatabaseServer) -> None:
    seen: set[int] = set()
    asked = 0
    while len(seen) < 2:
        seen.add(application.pid())
        asked += 1
    assert seen == application.workers()
    until(lambda: application.metric("scaleup_app_responses_total") >= asked)
    before = application.metric("scaleup_app_responses_total")
    os.kill(min(seen), signal.SIGKILL)
    until(lambda: application.workers() > {max(seen)} and len(application.workers()) == 2)
    for _ in range(20):  # a connection that the dead one had not accepted waits for its successor
        application.pid()
    assert application.metric("scaleup_app_responses_total") >= before
    server.execute("INSERT INTO links (code, url, created) VALUES ('a', 'http://x/', '2026-01-01 00:00:00')")
    for _ in range(3):
        urllib.request.build_opener(_Stay).open(
            f"http://127.0.0.1:{application.port}/l/a", timeout=20
        ).close()
    assert application.stop() == 0
    assert server.execute("SELECT clicks FROM links") == ((3,),)


class _Stay(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: object, fp: object, *_: object) -> object:  # type: ignore[override]
        return fp


@pytest.mark.slow
def test_one_that_hangs_is_replaced(application: Application) -> None:
    hung = min(application.workers())
    os.kill(hung, signal.SIGSTOP)
    until(lambda: hung not in application.workers() and len(application.workers()) == 2)
    for _ in range(20):
        application.pid()


@pytest.mark.slow
def test_workers_do_not_outlive_their_parent(application: Application) -> None:
    workers = application.workers()
    application.process.kill()
    application.process.wait()
    until(lambda: not any(map(psutil.pid_exists, workers)))


@pytest.mark.slow
def test_a_wrong_password_ends_all_of_it(server: DatabaseServer) -> None:
    arguments = ("--listen", f"127.0.0.1:{free_port()}", "--database", url(server), "--workers", "2")
    code, said = fails(*arguments, password="wrong")
    assert code == 1
    assert "the database refuses the user 'scaleup'" in said
    assert "worker1 did not start" in said
