"""The runtime socket over real connections: who may connect, and what a client cannot do to the node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from desk import Desk

from scaleup.errors import StartupError
from scaleup.lb import runtime
from scaleup.lb.control import SessionFacts
from scaleup.lb.operations import Operations
from scaleup.lb.runtime import MAX_CLIENTS, MAX_LINE_BYTES, RuntimeSocket

PATIENCE_SECONDS = 20.0
HELP_BYTES = 2000
"""Of an answer to `help`, about."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lb.sock"


@pytest.fixture
async def desk(path: Path) -> AsyncIterator[Desk]:
    """With its socket at `path`."""
    with contextlib.closing(Desk()) as desk:
        server = RuntimeSocket(path, desk.operations)
        await server.start()
        yield desk
        await server.stop()
        assert not server._tasks, "clients that were still there are let go"
        assert not path.exists()  # noqa: ASYNC240


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, text: str) -> None:
        self.writer.write(text.encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.writer.drain()

    async def hears(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            heard = await self.reader.readexactly(len(text.encode()))
        assert heard.decode() == text

    async def rest(self) -> str:
        """Until the node closes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self.reader.read()).decode()


@contextlib.asynccontextmanager
async def client(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def ask(path: Path, line: str) -> str:
    async with client(path) as it:
        await it.says(line + "\n")
        return await it.rest()


# ----- a conversation -----------------------------------------------------------------------------


async def test_a_line_is_answered_and_the_connection_closed(desk: Desk, path: Path) -> None:
    assert await ask(path, "get weight web/web1") == "2 (initial 2)\n\n"


async def test_several_commands_on_a_line(desk: Desk, path: Path) -> None:
    line = "disable server web/web1; set weight web/web1 9;get weight web/web1;get weight web/x"
    assert await ask(path, line) == "\n\n9 (initial 2)\n\nNo such server.\n\n"
    assert desk.server("web/web1").admin == "maint"


async def test_after_prompt_the_connection_stays(desk: Desk, path: Path) -> None:
    async with client(path) as it:
        await it.says("prompt\n")
        await it.hears("\n> ")
        await it.says("get weight web/web1\n")
        await it.hears("2 (initial 2)\n\n> ")
        await it.says("\n")
        await it.hears("> ")
        await it.says("show backend;quit;show backend\n")
        assert await it.rest() == "# name\nweb\ndb\n\n"


async def test_a_line_may_come_in_pieces_and_half_of_one_is_no_command(desk: Desk, path: Path) -> None:
    async with client(path) as it:
        for byte in "get weight web/web1":
            await it.says(byte)
        await it.says("\n")
        assert await it.rest() == "2 (initial 2)\n\n"
    async with client(path) as it:
        await it.says("set weight web/web1 1")  # of 100, perhaps
        it.writer.write_eof()
        assert await it.rest() == ""
    assert desk.server("web/web1").weight == 2


async def test_an_error_of_ours_is_said_and_logged_and_the_next_command_answered(
    desk: Desk, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk.operations.date = None  # type: ignore[assignment, method-assign]
    assert (
        await ask(path, "show errors;get weight web/web1")
        == "An error of ours: see the log.\n\n2 (initial 2)\n\n"
    )
    assert "an error of ours, in the command 'show errors'" in caplog.text
    caplog.clear()


# ----- who may connect ----------------------------------------------------------------------------


def test_only_the_owner_may_connect_whatever_the_mask(path: Path) -> None:
    before = os.umask(0)
    try:
        with contextlib.closing(runtime.listening(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.umask(0) == 0, "it is put back"
    finally:
        os.umask(before)


def test_the_socket_of_a_dead_process_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with contextlib.closing(runtime.listening(path)), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))


async def test_the_socket_of_a_living_process_is_not(path: Path, desk: Desk) -> None:
    with pytest.raises(StartupError, match="another process listens there"):
        runtime.listening(path)
    assert await ask(path, "get weight web/web1") == "2 (initial 2)\n\n"


def test_nor_is_one_whose_backlog_is_full(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(path))
        with pytest.raises(StartupError, match="another process listens there"):
            runtime.listening(path)


def test_a_file_is_never_replaced(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(StartupError, match="a file that is no socket"):
        runtime.listening(path)
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no such file or directory"):
        runtime.listening(tmp_path / "nowhere" / "lb.sock")


async def test_what_a_successor_listens_on_is_left_alone(path: Path) -> None:
    with contextlib.closing(Desk()) as desk:
        server = RuntimeSocket(path, desk.operations)
        await server.start()
        path.unlink()  # noqa: ASYNC240
        with contextlib.closing(runtime.listening(path)):
            await server.stop()
            assert path.exists()  # noqa: ASYNC240


# ----- what a client cannot do --------------------------------------------------------------------


async def test_a_line_without_end_is_refused(desk: Desk, path: Path) -> None:
    async with client(path) as it:
        with contextlib.suppress(ConnectionError):
            await it.says("x" * (4 * MAX_LINE_BYTES))
        with contextlib.suppress(ConnectionError):  # a reset may come before what was said last
            assert (await it.rest()).startswith("The line is longer")


async def test_whoever_says_nothing_is_disconnected(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 0.05)
    async with client(path) as it:
        assert await it.rest() == ""
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 1.0)  # what is said must come within it
    async with client(path) as it:
        await it.says("prompt\n")
        assert await it.rest() == "\n> "


async def test_the_idle_time_can_be_set_for_a_connection(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 3600.0)
    async with client(path) as it:
        await it.says("prompt;set timeout cli 1;set timeout cli none\n")
        await it.hears("\n\nInvalid timeout value.\n\n> ")
        assert await it.rest() == ""


async def test_too_many_are_refused_and_those_that_are_there_stay(
    desk: Desk, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        there = [await stack.enter_async_context(client(path)) for _ in range(MAX_CLIENTS)]
        for one in there:
            await one.says("prompt\n")
            await one.hears("\n> ")
        for _ in range(3):
            async with client(path) as late:
                assert await late.rest() == ""
        assert caplog.text.count("a client of the runtime socket is refused") == 1
        await there[0].says("get weight web/web1;quit\n")
        assert await there[0].rest() == "2 (initial 2)\n\n"
        async with client(path) as next_one:
            await next_one.says("get weight web/web1\n")
            assert await next_one.rest() in ("2 (initial 2)\n\n", "")


class Crowded(Operations):
    """With more sessions than any buffer of the kernel takes."""

    def __init__(self, desk: Desk) -> None:
        self.__dict__.update(desk.operations.__dict__)

    async def sessions(self) -> Sequence[SessionFacts]:
        return [SessionFacts(f"0x{n:x}", "10.0.0.1:5", "www", "web", "web1", 5.0) for n in range(50_000)]


async def test_a_long_answer_is_whole(path: Path) -> None:
    with contextlib.closing(Desk()) as desk:
        server = RuntimeSocket(path, Crowded(desk))
        await server.start()
        said = await ask(path, "show sess")
        await server.stop()
    lines = said.splitlines()
    assert len(lines) == 50_001
    assert lines[-2] == "0xc34f: proto=tcpv4 src=10.0.0.1:5 fe=www be=web srv=web1 age=5s"
    assert lines[-1] == ""


async def test_whoever_does_not_take_an_answer_is_disconnected(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 0.1)
    with contextlib.closing(Desk()) as desk, socket.socket(socket.AF_UNIX) as slow:
        server = RuntimeSocket(path, Crowded(desk))
        await server.start()
        slow.connect(str(path))
        slow.sendall(b"show sess\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not server._tasks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            while server._tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await server.stop()


async def test_nor_can_the_last_of_an_answer_wait_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 0.1)
    with contextlib.closing(Desk()) as desk, contextlib.ExitStack() as stack:
        server = RuntimeSocket(path, desk.operations)
        await server.start()
        gone = select.poll()
        # Somewhere here the kernel's buffer takes nearly all of it.
        for kilobytes in range(64, 448, 48):
            slow = stack.enter_context(socket.socket(socket.AF_UNIX))
            slow.connect(str(path))
            slow.sendall((";".join(["help"] * (kilobytes * 1024 // HELP_BYTES)) + "\n").encode())
            gone.register(slow, 0)  # POLLHUP alone, which nobody has to ask for
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not gone.poll(0):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            gone.unregister(slow)
        await server.stop()


async def test_a_line_of_thousands_of_commands_keeps_nobody_waiting(desk: Desk, path: Path) -> None:
    commands = 1000
    async with client(path) as it, asyncio.TaskGroup() as group:
        await it.says(";".join(["clear counters"] * commands) + "\n")
        answer = group.create_task(it.rest())
        turns = 0
        while not answer.done():
            turns += 1
            await asyncio.sleep(0)
        assert answer.result() == "\n" * commands
        assert turns >= commands
