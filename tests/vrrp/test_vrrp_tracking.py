"""Checks of real things: interfaces in a namespace of their own, processes, scripts, sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from elections import until
from needs import requires
from pydantic import ValidationError

from scaleup.vrrp import scripts as scripts_module
from scaleup.vrrp.scripts import run
from scaleup.vrrp.tracking import Tracker, TrackSettings, look, open_processes, processes_called

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root may become another user")


def track(**settings: Any) -> TrackSettings:
    return TrackSettings.model_validate({"name": "chk", "interval": 0.02, "timeout": 20.0, **settings})


def script(folder: Path, text: str) -> str:
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


class Results:
    """What a Tracker has reported."""

    def __init__(self) -> None:
        self.all: list[tuple[str, bool, str]] = []

    def __call__(self, name: str, passed: bool, detail: str) -> None:
        self.all.append((name, passed, detail))

    @property
    def last(self) -> bool | None:
        return self.all[-1][1] if self.all else None


@contextlib.asynccontextmanager
async def tracking(*tracks: TrackSettings) -> AsyncIterator[Results]:
    results = Results()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Tracker(tracks, results).run())
        try:
            yield results
        finally:
            task.cancel()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class TestScripts:
    @pytest.mark.parametrize("code", [0, 1, 255])
    async def test_the_exit_code(self, tmp_path: Path, code: int) -> None:
        assert await run([script(tmp_path, f"exit {code}")], timeout=10) == code

    async def test_a_signal(self, tmp_path: Path) -> None:
        assert await run([script(tmp_path, "kill -9 $$")], timeout=10) == -signal.SIGKILL

    async def test_arguments_are_not_read_by_a_shell(self, tmp_path: Path) -> None:
        told = tmp_path / "told"
        text = f'for word; do echo "$word"; done > {told}'
        assert await run([script(tmp_path, text), "$HOME; exit 1", "b c"], timeout=10) == 0
        assert told.read_text() == "$HOME; exit 1\nb c\n"

    async def test_one_that_takes_too_long_is_killed_with_what_it_started(self, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        hanging = script(tmp_path, f"sleep 600 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run([hanging], timeout=3.0))  # until then it has to have begun
            await until(pids.exists)
        assert task.result() is None
        await until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))

    async def test_a_cancelled_one_is_killed_and_reaped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scripts_module, "REAP_SECONDS", 20.0)
        pid = tmp_path / "pid"
        hanging = script(tmp_path, f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run([hanging], timeout=600))
            await until(pid.exists)
            task.cancel()
        assert not os.path.exists(f"/proc/{pid.read_text().strip()}")  # noqa: ASYNC240 - /proc does not block

    async def test_it_has_a_session_of_its_own_no_environment_no_terminal_and_no_descriptors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SCALEUP_APP_DATABASE", "secret")
        told = tmp_path / "told"
        with socket.socket() as ours:
            os.set_inheritable(ours.fileno(), True)
            text = f"(env; ls -l /proc/self/fd; cut -d' ' -f1,5,6 /proc/$$/stat) > {told}"
            assert await run([script(tmp_path, text)], timeout=10) == 0
        said = told.read_text()
        assert "SCALEUP" not in said
        assert "socket:" not in said
        pid, group, session = said.splitlines()[-1].split()
        assert pid == group == session

    async def test_it_is_not_scheduled_in_real_time_when_we_are(self, tmp_path: Path) -> None:
        """In a process of its own, because the flag that is set for it stays."""
        told = tmp_path / "told"
        program = script(tmp_path, f"chrt -p $$ > {told} 2>&1; ulimit -r >> {told} 2>&1")
        ours = f"""
import asyncio, os, sys
from scaleup.vrrp.scripts import run
try:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
except PermissionError:
    sys.exit(77)
print(asyncio.run(run([{program!r}], timeout=10)))
assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
"""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ours, stdout=subprocess.PIPE)
        said, _ = await process.communicate()
        if process.returncode == 77:
            pytest.skip("real-time scheduling is not allowed here")
        assert said == b"0\n"
        assert "SCHED_OTHER" in told.read_text()

    async def test_it_cannot_ask_for_real_time_either(self, tmp_path: Path) -> None:
        told = tmp_path / "told"
        hanging = script(tmp_path, f"echo $$ > {told}.new; mv {told}.new {told}; sleep 600")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run([hanging], timeout=600))
            await until(told.exists)
            assert resource.prlimit(int(told.read_text()), resource.RLIMIT_RTPRIO) == (0, 0)
            task.cancel()

    @as_root
    async def test_it_runs_as_the_user_with_its_groups_and_without_capabilities(self, tmp_path: Path) -> None:
        open_to_all = tmp_path / "open"
        open_to_all.mkdir()
        open_to_all.chmod(0o777)
        for folder in (tmp_path, *tmp_path.parents):
            if not folder.stat().st_mode & stat.S_IXOTH and folder.is_relative_to("/tmp/pytest-of-root"):
                folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        told = open_to_all / "told"
        text = f"(id -un; id -Gn; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status) > {told}"
        assert await run([script(open_to_all, text)], timeout=10, user="nobody") == 0
        user, groups, *capabilities = told.read_text().splitlines()
        assert (user, groups) == ("nobody", "nogroup")
        assert {line.split()[1] for line in capabilities} == {"0" * 16}

    async def test_what_cannot_be_started_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            await run([str(tmp_path / "none")], timeout=10)
        (tmp_path / "text").write_text("not a program")
        with pytest.raises(PermissionError):
            await run([str(tmp_path / "text")], timeout=10)


class TestLook:
    @pytest.mark.parametrize(
        ("text", "passed", "detail"),
        [
            ("exit 0", True, "exit code 0"),
            ("exit 4", False, "exit code 4"),
            ("kill $$", False, "killed by signal 15"),
        ],
    )
    async def test_a_script(self, tmp_path: Path, text: str, passed: bool, detail: str) -> None:
        assert await look(track(script=script(tmp_path, text))) == (passed, detail)

    async def test_a_script_in_time(self, tmp_path: Path) -> None:
        hanging = track(script=script(tmp_path, "exec sleep 600"), timeout=0.05)
        assert await look(hanging) == (False, "no end within 0.05 s")

    async def test_a_script_that_is_not_there_fails(self, tmp_path: Path) -> None:
        passed, detail = await look(track(script=str(tmp_path / "none")))
        assert passed is False
        assert detail.endswith("none cannot be started: No such file or directory")

    async def test_want_of_descriptors_is_not_its_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check = track(script=script(tmp_path, "exit 0"))
        lowest = os.dup(0)
        os.close(lowest)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            passed, detail = await look(check)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert passed is None
        assert "Too many open files" in detail

    async def test_tcp_and_http(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readline()
            status = b"200 OK" if b" /healthz " in request else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            where = f"127.0.0.1:{port}"
            assert (await look(track(tcp=where))).passed is True
            passed, detail = await look(track(http=f"{where}/healthz"))
            assert passed is True
            assert detail.startswith(f"{where} L7OK status 200")
            assert (await look(track(http=f"{where}/other"))).passed is False
        assert (await look(track(tcp=where))).passed is False


class TestTracker:
    async def test_checks_are_made_again_and_again_and_nothing_is_left(self, tmp_path: Path) -> None:
        flag = tmp_path / "flag"
        async with tracking(track(script=script(tmp_path, f"test -e {flag}"))) as results:
            await until(lambda: results.last is False)
            flag.touch()
            await until(lambda: results.last is True)
            flag.unlink()
            await until(lambda: results.last is False)

    async def test_all_are_made_at_the_start_however_long_their_intervals(self, tmp_path: Path) -> None:
        program = script(tmp_path, "exit 0")
        tracks = [track(name=f"chk{number}", script=program, interval=3600) for number in range(12)]
        async with tracking(*tracks) as results:
            await until(lambda: len(results.all) == 12)
        assert {name for name, _, _ in results.all} == {it.name for it in tracks}

    async def test_not_more_than_so_many_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scaleup.vrrp.tracking.CONCURRENT", 2)
        most = under_way = 0

        async def counted(*arguments: Any, **more: Any) -> int | None:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            try:
                return await run(*arguments, **more)
            finally:
                under_way -= 1

        monkeypatch.setattr("scaleup.vrrp.tracking.run", counted)
        program = script(tmp_path, "exit 0")
        async with tracking(*(track(name=f"chk{number}", script=program) for number in range(6))) as results:
            await until(lambda: len(results.all) >= 24)
        assert most == 2

    async def test_after_the_start_each_keeps_to_its_own_turn(self, tmp_path: Path) -> None:
        """Two checks at 0.2 s: the second one's turn is half an interval behind the first's, and none is early."""
        made: list[tuple[str, float]] = []
        loop = asyncio.get_running_loop()
        program = script(tmp_path, "exit 0")
        tracks = [track(name=name, script=program, interval=0.2) for name in ("one", "two")]
        origin = loop.time()
        async with asyncio.TaskGroup() as group:
            tracker = Tracker(tracks, lambda name, passed, detail: made.append((name, loop.time() - origin)))
            task = group.create_task(tracker.run())
            await until(lambda: len(made) >= 8)
            task.cancel()
        for offset, name in ((0.2, "one"), (0.1, "two")):
            turns = [when for each, when in made if each == name][1:]
            assert all(when >= offset + 0.2 * number for number, when in enumerate(turns))

    async def test_what_cannot_be_checked_is_said_once_and_is_no_result(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempts = 0

        async def no_memory(*_: Any, **__: Any) -> int:
            nonlocal attempts
            attempts += 1
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr("scaleup.vrrp.tracking.run", no_memory)
        async with tracking(track(script=script(tmp_path, "exit 0"))) as results:
            await until(lambda: attempts > 5)
        assert results.all == []
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "check chk cannot be made"
        ]


class TestProcesses:
    @pytest.fixture
    def sleeper(self, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A process with a name that no other has."""
        program = tmp_path / f"slp{os.getpid()}"
        program.symlink_to("/bin/sleep")
        process = subprocess.Popen([program, "600"])
        # Popen returns at execve(), and the kernel gives the new name a moment later.
        while Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0] != bytes(program):
            os.sched_yield()
        yield process
        process.kill()
        process.wait()

    async def test_one_that_dies_and_one_that_comes(self, tmp_path: Path) -> None:
        program = tmp_path / f"slp{os.getpid()}"
        program.symlink_to("/bin/sleep")
        async with tracking(track(process=program.name)) as results:
            await until(lambda: results.last is False)
            for _ in range(2):
                process = subprocess.Popen([program, "600"])  # noqa: ASYNC220 - as sleeper's
                await until(lambda: results.last is True)
                process.kill()  # and not waited for: a zombie is not alive
                await until(lambda: results.last is False)
                process.wait()

    async def test_death_is_known_before_the_next_look(self, sleeper: subprocess.Popen[bytes]) -> None:
        name = Path(sleeper.args[0]).name  # type: ignore[index]
        async with tracking(track(process=name, interval=3600)) as results:
            await until(lambda: results.last is True)
            sleeper.kill()
            await until(lambda: results.last is False)

    def test_by_its_kernel_name_or_its_first_argument(self, sleeper: subprocess.Popen[bytes]) -> None:
        name = Path(sleeper.args[0]).name  # type: ignore[index]
        assert processes_called(name) == [sleeper.pid]
        comm = Path(f"/proc/{sleeper.pid}/comm").read_text().strip()
        assert comm == name[:15]
        (pidfd,) = open_processes([sleeper.pid], name)
        os.close(pidfd)
        assert open_processes([sleeper.pid], "another name") == []
        assert processes_called(name + "x") == []

    def test_a_process_that_has_ended_meanwhile(self, sleeper: subprocess.Popen[bytes]) -> None:
        name = Path(sleeper.args[0]).name  # type: ignore[index]
        sleeper.kill()
        sleeper.wait()
        assert open_processes([sleeper.pid], name) == []


INSIDE = """
import asyncio, contextlib, subprocess, sys, time
from scaleup.vrrp.tracking import Tracker, TrackSettings

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    ip("link", "set", "veth0", "up"); ip("link", "set", "veth1", "up")
    seen = []
    heard = asyncio.Event()
    def report(name, passed, detail):
        if not seen or seen[-1][:2] != (passed, detail):
            seen.append((passed, detail, time.monotonic()))
            heard.set()
    async def turns(to):
        async with asyncio.timeout(20):
            while not seen or seen[-1][:2] != to:
                heard.clear()
                await heard.wait()
    tracker = Tracker([TrackSettings(name="link", interface="veth0")], report)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tracker.run())
        await turns((True, "veth0 is up"))
        for down, up in (("veth1", "veth1"), ("veth0", "veth0")):
            process = await asyncio.create_subprocess_exec("ip", "link", "set", down, "down")
            await process.wait()
            done = time.monotonic()
            await turns((False, "veth0 is down"))
            print(f"{down} down, known {(seen[-1][2] - done) * 1000:.1f} ms after ip had ended")
            process = await asyncio.create_subprocess_exec("ip", "link", "set", up, "up")
            await process.wait()
            await turns((True, "veth0 is up"))
        process = await asyncio.create_subprocess_exec("ip", "link", "del", "veth0")
        await process.wait()
        await turns((False, "there is no veth0"))
        task.cancel()
    print("done")

asyncio.run(main())
"""


@requires("unshare", "ip")
def test_an_interface_is_down_when_it_or_its_other_end_is_down_or_it_is_removed() -> None:
    """In a network namespace that ends with the process."""
    unshare = ["unshare", "-n"] if ROOT else ["unshare", "-Urn"]
    process = subprocess.run(
        [*unshare, sys.executable, "-c", INSIDE], capture_output=True, text=True, timeout=50, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "done"
    print(process.stdout)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({}, "say exactly one of"),
            ({"interface": "eth0", "process": "nginx"}, "not interface and process"),
            ({"script": "relative.sh"}, "with its whole path"),
            ({"script": ""}, "with its whole path"),
            ({"tcp": "10.0.0.1"}, "has no port"),
            ({"http": "10.0.0.1/healthz"}, "has no port"),
            ({"http": "10.0.0.1:80/a b"}, "cannot be sent"),
            ({"interface": "eth0", "fall": 3}, "rise and fall count checks"),
            ({"process": "nginx", "user": "nobody"}, "user is for a script"),
            ({"script": "/bin/true", "user": "no-such-user"}, "there is no user no-such-user"),
            ({"process": "nginx", "weight": 254}, "less than or equal to 253"),
            ({"process": "nginx", "interval": 0}, "greater than 0"),
            ({"process": "nginx", "wieght": 1}, "Extra inputs"),
        ],
    )
    def test_faults(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            TrackSettings.model_validate({"name": "chk", **settings})

    def test_a_script_is_split_as_a_shell_would(self) -> None:
        it = track(script="/usr/local/bin/check --name 'a b'", rise=2, fall=3)
        assert it.script == ("/usr/local/bin/check", "--name", "a b")
        assert (it.check.name, it.check.rise, it.check.fall) == ("chk", 2, 3)
        assert TrackSettings.model_validate(it.model_dump(mode="json")) == it
