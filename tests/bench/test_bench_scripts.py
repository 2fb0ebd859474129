"""Every script, from its command line, with real proxies: short runs, whose figures nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import requires

from bench.ports import free_port
from bench.profile import in_summary
from bench.record import Record
from bench.running import accepts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # real processes, beside those of other tests

ROOT = Path(__file__).parents[2]
GONE_SECONDS = 30.0
SECONDS = ("--seconds", "0.5")
"""Less, and on a busy machine nobody is answered meanwhile."""
SHORT = ("--quick", *SECONDS, "--against", "streams")


@pytest.fixture
def room() -> Iterator[Path]:
    """Where a script and all that it starts keep their files, and by which they are known."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        yield Path(folder)


def environment(room: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(room)}


def bench(room: Path, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", f"bench.{script}", *flags]
    return subprocess.run(argv, cwd=ROOT, env=environment(room), capture_output=True, text=True, check=False)


def measured(room: Path, script: str, *flags: str) -> Record:
    """What a run has recorded; it leaves nothing else behind."""
    done = bench(room, script, "--json", str(room / "record.json"), *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = {"record.json", "pictures"}
    await_nothing_left(room, kept)
    return Record.from_json((room / "record.json").read_text())


def await_nothing_left(room: Path, kept: set[str]) -> None:
    """A process that was killed takes a moment to go."""
    deadline = time.monotonic() + GONE_SECONDS
    while left := set(left_in(room)) - kept:
        assert time.monotonic() < deadline, left


def left_in(room: Path) -> list[str]:
    """Files, and processes that were started with its environment and live on."""
    processes = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={room}\0".encode() in environ.read_bytes():
                processes.append((environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # somebody else's, or gone
    return sorted(path.name for path in room.iterdir()) + processes


def test_proxy(room: Path) -> None:
    flags = ("--only", "requests,connections,latency", "--connections", "2", "--rate", "100")
    record = measured(room, "proxy", *SHORT, *flags)
    assert [case.work for case in record.cases] == ["requests"] * 3 + ["connections", "latency"]
    for case in record.cases:
        assert list(case.rounds) == ["scaleup", "streams", "scaleup again"]
        assert all(value > 0 for rounds in case.rounds.values() for one in rounds for value in one.values())
    assert record.cases[0].metrics() == ["cpu_us", "rate"]


def test_proxy_in_bulk_and_with_workers_and_drawn(room: Path) -> None:
    pictures = room / "pictures"
    flags = ("--only", "bulk,workers", "--connections", "4", "--workers", "2", "--plot", str(pictures))
    record = measured(room, "proxy", *SHORT, *flags)
    assert [case.work for case in record.cases] == ["bulk", "bulk", "workers"]
    assert record.cases[0].metrics() == ["cpu_s_gb", "gb_s"]
    drawn = ["proxy-bulk.png", "proxy-bulk.svg", "proxy-workers.png", "proxy-workers.svg"]
    assert sorted(path.name for path in pictures.iterdir()) == drawn


@requires("nginx")
def test_web(room: Path) -> None:
    record = measured(room, "web", "--quick", *SECONDS, "--connections", "2")
    assert [case.work for case in record.cases] == ["static"] * 4 + ["forward"]
    for case in record.cases:
        assert list(case.rounds) == ["scaleup", "nginx", "scaleup again"]
        assert all(value > 0 for rounds in case.rounds.values() for one in rounds for value in one.values())


@requires("mariadbd", "node", "npm")
def test_app(room: Path) -> None:
    room.chmod(0o1777)  # as /tmp: when root starts it, the database has a user of its own, and files there
    flags = ("--quick", *SECONDS, "--connections", "2", "--workers", "2")
    record = measured(room, "app", *flags)
    assert [case.work for case in record.cases] == ["redirect", "read", "create"]
    for case in record.cases:
        assert list(case.rounds) == ["scaleup", "express", "flask", "scaleup again"]
        assert all(value > 0 for rounds in case.rounds.values() for one in rounds for value in one.values())


@requires("strace")
def test_profile(room: Path) -> None:
    record = measured(room, "profile", *SHORT)
    assert [case.work for case in record.cases] == ["time", "time", "calls", "calls"]
    request, connection = record.of("calls")
    # What a run this short began and did not finish comes on top, and what was tried in vain.
    assert request.values("scaleup", "recvfrom")[0] >= 1.9, "a request has to be received, and its answer"
    assert connection.values("scaleup", "accept4")[0] >= 0.9
    assert connection.values("scaleup", "connect")[0] >= 0.9


def test_logs(room: Path) -> None:
    (case,) = measured(room, "logs", *SHORT).cases
    assert set(case.rounds) == {"scaleup", "scaleup, logging", "scaleup again", "streams"}


def test_idle(room: Path) -> None:
    record = measured(room, "idle", "--quick", "--against", "streams", "--connections", "20")
    assert record.settings["connections"] == 20
    (case,) = record.cases
    assert all(value > 0 for value in case.values("scaleup", "empty_mib"))


def test_scale(room: Path) -> None:
    flags = ("--only", "servers,connections", "--servers", "20", "--connections", "1,3")
    record = measured(room, "scale", *SHORT, *flags)
    assert [(case.work, case.x) for case in record.cases] == [
        ("servers", 20.0),
        ("connections", 1.0),
        ("connections", 3.0),
    ]
    assert "idle_percent" in record.cases[0].metrics()


def test_stack(room: Path) -> None:
    flags = ("--quick", *SECONDS, "--connections", "2", "--rate", "50")
    record = measured(room, "stack", *flags, "--", "--engine", "embedded", "--lbs", "1")
    assert [case.work for case in record.cases] == ["cpu", "cpu", "latency", "latency"]
    link = record.cases[1]
    assert all(link.values("stack", f"cpu_us_{tier}")[0] > 0 for tier in ("lb", "web", "app", "db"))


def test_a_proxy_that_runs_elsewhere_is_measured_with_its_agent(room: Path) -> None:
    """The server behind, the proxy and the agent are started here, as on their hosts."""
    children: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> int:
        child = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child.pid

    try:
        server, proxy, agent = (free_port("127.0.0.1") for _ in range(3))
        start("-m", "bench.server", "--listen", f"127.0.0.1:{server}")
        pid = start(
            *("-m", "bench.streams", "--listen", f"127.0.0.1:{proxy}", "--server", f"127.0.0.1:{server}")
        )
        start("bench/agent.py", "--listen", f"127.0.0.1:{agent}", "--process", f"there={pid}")
        while not all(accepts(("127.0.0.1", port)) for port in (server, proxy, agent)):
            assert all(child.poll() is None for child in children)
        where = ("--target", f"there=127.0.0.1:{proxy}", "--agent", f"127.0.0.1:{agent}")
        record = measured(room, "proxy", "--quick", "--only", "requests,bulk,workers", *where)
    finally:
        for child in children:
            child.terminate()
            child.wait(20)
            assert child.stdout is not None
            child.stdout.close()
    assert {case.work for case in record.cases} == {"requests", "bulk"}, "workers cannot be set from here"
    assert list(record.cases[0].rounds) == ["there", "there again"]
    assert record.cases[0].values("there", "cpu_us")[0] > 0


def test_the_summary_of_a_trace() -> None:
    rows = [
        "calls     syscall",
        "--------- -------",
        "     1388 accept4",
        "     2784 close",
        "     4172 total",
    ]
    assert in_summary("\n".join(rows) + "\n") == {"accept4": 1388, "close": 2784}


def test_ctrl_c_leaves_nothing_behind(room: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "bench.proxy", "--only", "requests", "--against", "streams", "--rounds", "99"],
        cwd=ROOT,
        env=environment(room),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any(Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()):
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    await_nothing_left(room, set())


@pytest.mark.parametrize(
    ("script", "flags", "said"),
    [
        ("proxy", ("--against", "varnish"), "no varnish: choose from haproxy, nginx, streams"),
        ("web", ("--against", "haproxy"), "no haproxy: choose from nginx"),
        ("app", ("--against", "nginx"), "no nginx: choose from express, flask"),
        ("proxy", ("--only", "request"), "no request: choose from requests, concurrency"),
        ("proxy", ("--target", "10.0.0.1"), "write HOST:PORT"),
        (
            "proxy",
            ("--pin", "--only", "workers", "--workers", str(os.cpu_count()), "--against", ""),
            "leave none",
        ),
        ("scale", ("--servers", "1001"), "at most 1000"),
        ("idle", ("--connections", "10000000"), "see ulimit -n"),
        ("idle", ("--rounds", "0"), "write a number from 1"),
    ],
)
def test_a_wrong_flag_is_said_in_a_line(room: Path, script: str, flags: tuple[str, ...], said: str) -> None:
    done = bench(room, script, *flags)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "script",
    [
        *("proxy", "web", "app", "profile", "logs", "idle", "stack", "scale", "failover", "saturated"),
        *("report", "generator", "transfer", "server", "attempts"),
    ],
)
def test_every_script_explains_itself(room: Path, script: str) -> None:
    done = bench(room, script, "--help")
    assert done.returncode == 0
    assert f"python -m bench.{script}" in done.stdout
