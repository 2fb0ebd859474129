"""`up` as people use it: it starts, tells, obeys, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from e2e.running import RunningStack, start_stack, stop_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

STOP_SECONDS = 5.0


def scaleup(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scaleup", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def fetch(url: str, body: object = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def processes_of(prefix: str) -> list[psutil.Process]:
    """Whatever runs with an address of that stack on its command line, workers and mariadbd included."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if f"{prefix}." in line:
            found.append(process)
    return found


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    running = start_stack("127.0.78", "--interval", "0.5", "--engine", "embedded")  # lb1 is not to be late
    try:
        running.settled()
        yield running
    finally:
        stop_stack(running)


def test_prints_a_table_and_the_urls(stack: RunningStack) -> None:
    printed = "\n".join(stack.printed)
    for name in ("lb1", "lb2", "web1", "web2", "app1", "app2", "db"):
        assert name in printed
    assert "http://127.0.78.100:8080/" in printed
    assert "embedded" in printed


def test_the_page_and_the_api_work(stack: RunningStack) -> None:
    status, page = fetch(stack.url + "/")
    assert (status, b"<html" in page) == (200, True)
    status, created = fetch(stack.url + "/api/links", {"url": "http://example.com/", "code": "first"})
    assert (status, json.loads(created)["code"]) == (201, "first")
    status, whoami = fetch(stack.url + "/api/whoami")
    assert "embedded" in json.loads(whoami)["database"]["engine"]


def test_status(stack: RunningStack) -> None:
    stack.settled()
    told = scaleup("status", "--run-dir", str(stack.run_dir))
    assert "127.0.78.100:8080 is owned by lb1" in told.stdout
    status = json.loads(scaleup("status", "--json", "--run-dir", str(stack.run_dir)).stdout)
    assert status["virtual_ip"] == {"address": "127.0.78.100", "port": 8080, "owner": "lb1"}
    assert {row["name"]: row["state"] for row in status["processes"]} == {
        "lb1": "active",
        "lb2": "backup",
        "web1": "up",
        "web2": "up",
        "app1": "up",
        "app2": "up",
        "db": "up",
    }
    for row in status["processes"]:
        assert set(row) == {"tier", "name", "pid", "address", "state"}
        assert (stack.run_dir / "pids" / f"{row['name']}.pid").read_text().strip() == str(row["pid"])


def test_stop_start_restart_one(stack: RunningStack) -> None:
    run_dir = ("--run-dir", str(stack.run_dir))
    pid = stack.row("web2")["pid"]
    assert scaleup("stop", "web2", *run_dir).stdout == "web2 is down\n"
    assert not psutil.pid_exists(pid)
    assert stack.row("web2") == {
        "tier": "web",
        "name": "web2",
        "pid": None,
        "address": "127.0.78.22:8080",
        "state": "down",
    }
    again = scaleup("stop", "web2", *run_dir)
    assert (again.returncode, again.stderr) == (1, "scaleup: web2 does not run\n")
    assert fetch(stack.url + "/")[0] == 200
    assert scaleup("start", "web2", *run_dir).stdout == "web2 is up\n"
    assert scaleup("restart", "web2", *run_dir).stdout == "web2 is up\n"
    unknown = scaleup("stop", "wbe2", *run_dir)
    assert unknown.returncode == 1
    assert 'did you mean "web2"' in unknown.stderr


def test_a_death_is_told_and_nothing_restarts_by_itself(stack: RunningStack) -> None:
    os.kill(stack.row("app2")["pid"], signal.SIGKILL)
    stack.wait(lambda _: any("app2 died" in line for line in stack.printed), 20, "the death is printed")
    assert stack.row("app2")["state"] == "down"
    stack.command("start", "app2")
    assert stack.row("app2")["state"] == "up"


def test_a_second_stack_in_the_same_run_dir_is_refused(stack: RunningStack) -> None:
    stack.settled()
    second = scaleup("up", "--run-dir", str(stack.run_dir), "--network", "127.0.79.0/24")
    assert second.returncode == 1
    assert "runs already" in second.stderr
    assert stack.row("lb1")["state"] == "active"


def test_a_port_in_use_is_one_clear_error(stack: RunningStack, tmp_path: Path) -> None:
    second = scaleup(
        "up", "--run-dir", str(tmp_path / "run"), "--network", "127.0.78.0/24", "--engine", "embedded"
    )
    assert second.returncode == 1
    assert "127.0.78.41:3306" in second.stderr
    assert "in use" in second.stderr.lower()
    assert "Traceback" not in second.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_leaves_nothing_behind(number: signal.Signals) -> None:
    running = start_stack("127.0.80", "--interval", "0.1", "--engine", "embedded")
    running.settled()
    assert processes_of("127.0.80")
    children = psutil.Process(running.process.pid).children(recursive=True)
    running.process.send_signal(number)
    began = time.monotonic()
    assert running.process.wait(30) == 0
    seconds = time.monotonic() - began
    stop_stack(running)
    assert seconds < STOP_SECONDS
    assert not psutil.wait_procs(children, timeout=10)[
        1
    ]  # what nobody waits for any more goes a little later
    assert not processes_of("127.0.80")
    assert not running.run_dir.exists()


def test_variables_of_up_are_not_those_of_its_processes(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[up]\nlbs = 1\nengine = "embedded"\n[lb.node.other]\nworkers = 7\n')
    variables = {"SCALEUP_CONFIG": str(file), "SCALEUP_UP_WEBS": "1", "SCALEUP_LB_WORKERS": "5"}
    running = start_stack("127.0.76", environment=variables)
    try:
        names = [row["name"] for row in running.status()["processes"]]
        assert names == ["lb1", "web1", "app1", "app2", "db"]
        workers = psutil.Process(running.row("lb1")["pid"]).children()
        assert len(workers) == 1
    finally:
        stop_stack(running)


def test_killed_up_takes_everything_with_it() -> None:
    running = start_stack("127.0.81", "--interval", "0.1", "--engine", "auto")
    running.settled()
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert len(children) >= 11
    running.process.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    stop_stack(running)
    assert not alive, [child.cmdline() for child in alive]
    assert "no stack runs in" in scaleup("status", "--run-dir", str(running.run_dir)).stderr
    shutil.rmtree(running.run_dir)  # who was killed cannot; the next `up` there would


def test_data_is_kept_when_asked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for attempt in range(2):
        running = start_stack("127.0.82", "--lbs", "1", "--engine", "embedded", "--data", str(data))
        try:
            if attempt == 0:
                assert (
                    fetch(running.url + "/api/links", {"url": "http://example.com/", "code": "kept"})[0]
                    == 201
                )
            else:
                assert fetch(running.url + "/api/links/kept")[0] == 200
        finally:
            stop_stack(running)
        assert not running.run_dir.exists()
