"""A whole process, from its settings to its exit code: what it says, to whom, and when it ends.

Most of it can be seen from inside one process, since `run` ends with SystemExit; the rest, which needs to
kill or be killed, is in test_processes_death.py. The tier is process_programs/tier.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loops import LOOPS
from process_programs import tier
from processes_harness import DEADLINE_SECONDS, unlogged

from scaleup.errors import ConfigurationError, StartupError
from scaleup.processes import Message, Process, run, run_child

Serve = Callable[[tier.Settings, Process], Awaitable[None]]


def exit_code(*argv: str, serve: Serve = tier.serve, loop: str = "uvloop") -> object:
    with unlogged(), pytest.raises(SystemExit) as caught:
        run(tier.Settings, serve, argv=argv, loop_factory=LOOPS[loop])
    return caught.value.code


# ----- exit codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code", "lines"),
    [
        (["--act", "nothing"], 0, []),
        (["--check"], 0, []),
        (["--act", "fail"], 1, ["web ERROR   the world is not right", "web ERROR   in two ways"]),
        (["--act", "fail late"], 78, ["web ERROR   --act: not this"]),
        (["--act", "fail in parallel"], 78, ["web ERROR   one", "web ERROR   two"]),
        (["--drain", "x", "--admin", "y"], 78, ["scaleup: --admin: ", "scaleup: --drain: "]),
        (["--config", "no.toml"], 78, ["scaleup: no.toml: cannot be read: "]),
        (["--log-file", "/no/such/folder/x"], 78, ["scaleup: --log-file: it cannot be written"]),
        (["--admin", "192.0.2.1:1"], 1, ["web ERROR   --admin 192.0.2.1:1: Cannot assign requested address"]),
        (["--akt", "x"], 2, ["usage: ", "python -m scaleup.web: error: no such option: --akt"]),
    ],
)
def test_the_exit_code_says_who_has_to_act_and_a_line_says_how(
    argv: list[str], code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*argv) == code
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(lines), said
    for line, expected in zip(said, lines, strict=True):
        assert expected in line


def test_a_bug_is_not_hidden_by_an_error_beside_it() -> None:
    with unlogged(), pytest.raises(ExceptionGroup) as caught:
        run(tier.Settings, tier.serve, argv=["--act", "fail with a bug"])
    assert {type(error) for error in caught.value.exceptions} >= {RuntimeError}


def test_an_error_reaches_the_person_who_sends_the_log_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    assert exit_code("--act", "fail", "--log-file", str(log)) == 1
    assert capsys.readouterr().err == "scaleup: the world is not right\nscaleup: in two ways\n"
    assert [line[24:] for line in log.read_text().splitlines()] == [
        "web ERROR   the world is not right",
        "web ERROR   in two ways",
    ]


def test_a_child_is_not_started_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(init: Message, process: Process) -> None:
        raise AssertionError

    with unlogged(), pytest.raises(SystemExit) as caught:
        run_child(serve)
    assert caught.value.code == 1
    said = "scaleup: this process is started by its node, not by hand; see README.md\n"
    assert capsys.readouterr().err == said


# ----- signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_in_order(
    number: signal.Signals, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(settings: tier.Settings, process: Process) -> None:
        process.ready()
        assert await process.readiness() is None
        os.kill(os.getpid(), number)
        await process.stopping.wait()
        assert await process.readiness() == "draining"
        assert not process.orphaned
        if number == signal.SIGHUP:  # a terminal that closes may send it twice: that is no force
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.01)

    assert exit_code(serve=serve, loop=loop) == 0
    assert capsys.readouterr().err.endswith(f"web INFO    {number.name}: stopping\n")


def test_a_signal_that_means_nothing_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """nginx's logrotate sends SIGUSR1."""

    async def serve(settings: tier.Settings, process: Process) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        await process.stopping.wait()

    assert exit_code(serve=serve) == 0
    assert "SIGUSR1: means nothing here" in capsys.readouterr().err


# ----- reloading --------------------------------------------------------------------------------------


def test_a_reload_takes_what_can_be_loaded_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    answers: list[Any] = [
        *(1, ConfigurationError("cluster.toml:3: drain: no"), 2, StartupError("no room")),
        ZeroDivisionError("of ours"),
    ]
    taken: list[int] = []

    def load_next() -> Any:
        if isinstance(answers[0], ConfigurationError):
            raise answers.pop(0)
        return answers.pop(0)

    async def take(settings: Any) -> None:
        if isinstance(settings, Exception):
            raise settings
        taken.append(settings)

    async def serve(settings: tier.Settings, process: Process) -> None:
        process.ready()
        process.reloads(load_next, take)
        for left in (4, 3, 2, 1, 0):
            os.kill(os.getpid(), signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_SECONDS):
                while len(answers) > left or process._reloading:  # noqa: ASYNC110
                    await asyncio.sleep(0)
        await process.end_reload()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        assert exit_code(serve=serve) == 0
        told = [manager.recv(100).partition(b"=")[0] for _ in range(11)]
    assert taken == [1, 2]
    assert told == [b"READY", *[b"RELOADING", b"READY"] * 5]
    said = capsys.readouterr().err
    assert said.count("not reloaded: nothing was changed") == 2
    assert "cluster.toml:3: drain: no" in said
    assert "no room" in said
    assert "an error of ours, while reloading" in said


def test_reloads_take_their_turns() -> None:
    running = 0
    ended: list[int] = []

    async def take(number: int) -> None:
        nonlocal running
        running += 1
        assert running == 1
        os.kill(os.getpid(), signal.SIGHUP)  # two while one is in progress are one more
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)
        ended.append(number)
        running -= 1

    async def serve(settings: tier.Settings, process: Process) -> None:
        process.reloads(lambda: len(ended), take)
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(ended) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await process.end_reload()

    assert exit_code(serve=serve) == 0
    assert ended[:3] == [0, 1, 2]


FROM_A_TERMINAL = """
import asyncio, fcntl, sys, termios
from process_programs import tier
from scaleup.processes import run

fcntl.ioctl(0, termios.TIOCSCTTY, 0)

async def serve(settings, process):
    if "reloads" in sys.argv:
        process.reloads(lambda: None, lambda nothing: asyncio.sleep(0))
    print("started", flush=True)
    await process.stopping.wait()

run(tier.Settings, serve, argv=[])
"""


@pytest.mark.parametrize("flags", [["reloads"], []])
def test_a_terminal_that_closes_ends_what_was_started_from_it(flags: list[str]) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", FROM_A_TERMINAL, *flags],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as child:
        os.close(theirs)
        said = b""
        while not said.endswith(b"started\r\n"):
            said += os.read(ours, 1000)
        os.close(ours)
        assert child.wait(DEADLINE_SECONDS) == 0


# ----- systemd ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_systemd_is_told(tmp_path: Path, is_abstract: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"@scaleup-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)

    async def serve(settings: tier.Settings, process: Process) -> None:
        with pytest.raises(BlockingIOError):
            manager.recv(100)  # not yet
        process.ready()
        assert manager.recv(100) == b"READY=1"
        os.kill(os.getpid(), signal.SIGTERM)
        await process.stopping.wait()
        assert manager.recv(100) == b"STOPPING=1"

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0", 1) if is_abstract else path)
        manager.setblocking(False)
        assert exit_code(serve=serve) == 0


@pytest.mark.parametrize("path", ["", "/no/such/socket", "@nobody-listens-here", "x" * 200])
def test_systemd_that_does_not_listen_is_no_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)

    async def serve(settings: tier.Settings, process: Process) -> None:
        process.ready()

    assert exit_code(serve=serve) == 0


# ----- readiness --------------------------------------------------------------------------------------


async def test_readiness_and_its_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleup.processes.process.READINESS_SECONDS", 0.02)
    process = Process("web1")
    reasons: dict[str, str | None] = {"database": "no database", "disk": None}

    async def database() -> str | None:
        return reasons["database"]

    async def disk() -> str | None:
        if reasons["disk"] == "slow":
            await asyncio.Event().wait()
        return reasons["disk"]

    process.add_readiness(database)
    process.add_readiness(disk)
    assert await process.readiness() == "starting"
    process.ready()
    assert await process.readiness() == "no database"
    reasons["database"] = None
    assert await process.readiness() is None
    reasons["disk"] = "slow"
    assert await process.readiness() == "no answer within 0.02 s"
    process.stopping.set()
    assert await process.readiness() == "draining"
    process.close()


async def test_events_without_a_parent_go_nowhere() -> None:
    process = Process("web1")
    process.event("role", role="active")
    process.ready()
    process.close()
    process.close()
