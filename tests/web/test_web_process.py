"""`python -m scaleup.web` as a process: it starts, notices a server's death and return, drains, and ends with 0."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from web_harness import Answer, Application, Seen, fine, until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_factories=["asyncio"])]


class Running:
    """The process, and the lines of its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())

    def logged(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.lines)

    @property
    def port(self) -> int:
        (line,) = [line for line in self.lines if "listening on" in line]
        return int(line.strip().rpartition(":")[2])

    async def get(self, path: str) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = Answer.parse(await reader.read())
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def started(*argv: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scaleup.web", "--listen", "127.0.0.1:0", "--node", "web1", *argv),
        stderr=asyncio.subprocess.PIPE,
    )
    running = Running(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(running.read_log())
        try:
            async with asyncio.timeout(40):
                yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_the_life_of_a_web_server(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("front")
    app, checks = Application(), ("--inter", "0.05", "--check-timeout", "20")
    async with contextlib.AsyncExitStack() as application:
        await application.enter_async_context(app.listening())
        async with started("--root", str(tmp_path), "--app", f"app1={app.endpoint}", *checks) as web:
            await until(lambda: web.logged("listening on"))
            assert (await web.get("/")).body == b"front"
            assert (await web.get("/api/")).body == b"hello"
            await until(lambda: any(seen.line == b"GET /readyz HTTP/1.1" for seen in app.seen))
            await application.aclose()
            await until(lambda: web.logged("app1", "DOWN"))
            answer = await web.get("/api/")
            assert (answer.status, answer.value("retry-after")) == (503, "1")
            assert (await web.get("/readyz")).status == 200  # it can still serve files
            web.process.terminate()
            assert await web.process.wait() == 0
            assert not web.logged("Traceback")


async def test_a_server_whose_answers_fail_is_left_out_until_a_check_passes() -> None:
    """It says that it is ready, and answers nothing else."""

    async def behave(seen: Seen) -> None:
        if seen.line.startswith(b"GET /readyz"):
            await fine(seen)
        else:
            seen.reset()

    bad, good = Application(behave, "bad"), Application(name="good")
    async with bad.listening(), good.listening():
        servers = ("--app", f"bad={bad.endpoint}", "--app", f"good={good.endpoint}")
        async with started(*servers, "--error-limit", "3", "--inter", "3600") as web:
            await until(lambda: web.logged("listening on"))
            for _ in range(20):
                assert (await web.get("/api/")).body == b"hello"
            await until(lambda: web.logged("bad", "DOWN", "3 connections failed"))
            asked = [seen for seen in bad.seen if seen.line.startswith(b"GET /api/")]
            assert len(asked) == 3


async def test_a_write_whose_client_has_left_is_seen_through_a_drain() -> None:
    go = asyncio.Event()

    async def behave(seen: Seen) -> None:
        if seen.line.startswith(b"POST"):
            await go.wait()
        await fine(seen)

    app = Application(behave)
    async with app.listening(), started("--app", f"app1={app.endpoint}", "--inter", "3600") as web:
        await until(lambda: web.logged("listening on"))
        _, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: any(seen.line.startswith(b"POST") for seen in app.seen))
        writer.close()
        await until(lambda: web.logged("left before the response"))
        web.process.terminate()
        await until(lambda: web.logged("are seen through"))
        go.set()
        assert await web.process.wait() == 0
        assert not web.logged("cut off")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--root", "/nowhere"], 78, "is not a folder"),
        (["--listen", "192.0.2.1:80"], 1, "no interface of this host has the address"),
        (["--no-such"], 2, "--no-such"),
    ],
)
async def test_a_start_that_fails_says_why_in_one_line(argv: list[str], code: int, said: str) -> None:
    async with started(*argv) as web:
        assert await web.process.wait() == code
        await until(lambda: web.logged(said))
        assert not web.logged("Traceback")
