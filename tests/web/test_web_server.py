"""The server as a whole: health, drain, metrics, limits on slow clients, and what it must never log."""

import asyncio
from pathlib import Path

import pytest
from web_harness import SECONDS, Answer, Application, Seen, ok, running, until

from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import endpoint_of, listening
from scaleup.web import server as server_module


async def test_healthz_and_readyz_are_answered_here() -> None:
    app = Application()
    async with running(app, prefix=("/",)) as web:
        assert (await web.get("/healthz")).body == b"ok\n"
        assert (await web.get("/readyz")).body == b"ok\n"
        assert app.seen == []
        assert (await web.get("/anything")).status == 200
        assert len(app.seen) == 1


async def test_draining_finishes_what_is_in_progress_and_closes_what_is_idle() -> None:
    go = asyncio.Event()

    async def behave(seen: Seen) -> None:
        assert await seen.body() == b"abc"
        await go.wait()
        await seen.answer(ok(b"done"))

    app = Application(behave)
    async with running(app) as web:
        idle, busy = await web.connect(), await web.connect()
        idle.writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        await idle.answer()
        busy.writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        await until(lambda: bool(app.seen))
        async with asyncio.TaskGroup() as group:
            group.create_task(web.clients.drain(SECONDS))
            assert await idle.rest() == b""
            busy.writer.write(b"bc")  # aiohttp's own drain would not read this any more
            with pytest.raises(ConnectionRefusedError):
                await web.connect()
            go.set()
            answer = await busy.answer()
            assert (answer.status, answer.body, answer.value("connection")) == (200, b"done", "close")
        idle.writer.close()
        busy.writer.close()


async def test_draining_ends_with_a_response_that_had_begun_before() -> None:
    go = asyncio.Event()

    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await go.wait()
        await seen.answer(b"cd")

    async with running(Application(behave)) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"connection: close" not in (await client.head()).lower()
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(web.clients.drain(60.0))
            await until(lambda: all(connection.is_finishing for connection in web.clients._open))
            go.set()
            assert await client.rest() == b"abcd"
        client.writer.close()


async def test_draining_ends_at_its_deadline() -> None:
    async def behave(seen: Seen) -> None:
        await seen.reader.read()

    app = Application(behave)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(app.seen))
        began = asyncio.get_running_loop().time()
        await web.clients.drain(0.1)
        assert asyncio.get_running_loop().time() - began < 5.0
        assert await client.rest() == b""
        await app.closed.wait()
        client.writer.close()


async def test_requests_are_counted(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("x")
    async with running(Application(), root=tmp_path) as web:
        await web.get("/")
        await web.get("/missing")
        await web.get("/api/")
        await web.get("/healthz")
        await web.ask(b"garbage\r\n\r\n")
        for kind, code in [
            *(("static", "2xx"), ("static", "4xx"), ("forward", "2xx"), ("local", "2xx"), ("refused", "4xx"))
        ]:
            assert web.metric("requests_total", kind=kind, code=code) == 1, (kind, code)
        assert web.metric("requests_in_progress") == 0


async def test_a_mistake_of_ours_is_500_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> None:
        raise LookupError("secret detail")

    monkeypatch.setattr(server_module, "parse", fails)
    async with running() as web:
        answer = await web.get("/x")
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
        (logged,) = web.errors
        assert "secret detail" in logged
        web.errors.clear()


async def test_ipv6() -> None:
    async with running() as web:
        try:
            sock = listening(Endpoint("::1", 0), "--listen")
        except StartupError:
            pytest.skip("this host has no IPv6")
        where = endpoint_of(sock)
        web.clients.accept([sock])
        reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n")
        assert Answer.parse(await reader.read()).status == 200
        writer.close()


async def test_many_requests_leave_nothing_behind() -> None:
    """Two hundred at once, of which some are broken off: the harness looks for what is left."""
    app = Application()
    async with running(app) as web:

        async def one(number: int) -> None:
            if number % 4:
                assert (await web.get("/api/")).body == b"hello"
            else:
                client = await web.connect()
                client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
                client.reset()

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(number))
        await until(lambda: web.metric("requests_in_progress") == 0)
        assert [server.sessions for server in web.pool.servers] == [0]
