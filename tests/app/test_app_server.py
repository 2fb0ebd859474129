"""Connections of the application's server that end other than by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from aiohttp.web_protocol import RequestHandler
from app_harness import until

from scaleup.app.links import Link
from scaleup.app.server import HttpServer
from scaleup.app.views import Views
from scaleup.net.addresses import Endpoint

LONG = "https://example.org/" + "x" * 2000


class Store:
    """A page of it is some 200 KB."""

    async def page(self, limit: int, after: int | None) -> list[tuple[int, Link]]:
        return [(number, Link(str(number), LONG, 0, datetime(2026, 1, 31))) for number in range(limit)]

    async def add(self, code: str, url: str, created: datetime) -> Link:
        return Link(code, url, 0, created)


@contextlib.asynccontextmanager
async def serving(grace: float = 10.0) -> AsyncIterator[tuple[HttpServer, Endpoint, socket.socket]]:
    async def ready() -> None:
        return None

    store: Any = Store()
    no_clicks: Any = None
    views = Views(
        store, no_clicks, name="app7", database=lambda: Endpoint("-", 0), trusted=(), readiness=ready
    )
    server = HttpServer(views, name="app7", grace=grace)
    listening = socket.create_server(("127.0.0.1", 0))
    endpoint = Endpoint(*listening.getsockname())
    try:
        await server.start([listening])
        yield server, endpoint, listening
    finally:
        await server.stop()


def open_connections(server: HttpServer) -> int:
    return len(server._runner.server.connections) if server._runner.server else 0


@contextlib.contextmanager
def not_reading(endpoint: Endpoint) -> Any:
    """A client that asks for more than any buffer holds, and takes nothing of it."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((endpoint.host, endpoint.port))
        client.sendall(b"GET /api/links?limit=100 HTTP/1.1\r\nHost: a\r\n\r\n" * 60)
        yield client


@pytest.mark.parametrize("alone", ["our buffer's bound", "the kernel's"])
async def test_who_does_not_take_what_it_asked_for(alone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is enough: ours ends who takes a little now and then, the kernel's what our transport has got rid of."""
    monkeypatch.setattr("scaleup.app.server.SEND_SECONDS", 0.5)
    if alone == "the kernel's":
        monkeypatch.setattr("scaleup.app.server._Handler.pause_writing", RequestHandler.pause_writing)
    async with serving() as (server, endpoint, listening):
        if alone == "our buffer's bound":
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        with not_reading(endpoint):
            await until(lambda: open_connections(server) == 1)
            await until(lambda: open_connections(server) == 0)


async def test_who_takes_it_slowly_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleup.app.server.SEND_SECONDS", 5.0)
    async with serving() as (_, endpoint, _):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=2**16)
        for _ in range(20):
            writer.write(b"GET /api/links?limit=100 HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(20):
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
            assert len(json.loads(await reader.readexactly(length))["links"]) == 100
        writer.close()
        await writer.wait_closed()


async def test_the_end_is_not_held_up_by_who_does_not_read() -> None:
    async with serving(grace=0.2) as (server, endpoint, _):
        with not_reading(endpoint):
            await until(server._is_busy)
            async with asyncio.timeout(5):  # generous: it is the grace and twice CUT_SECONDS
                await server.stop()
        assert open_connections(server) == 0


async def test_a_body_that_arrives_after_the_stop_has_begun_is_read() -> None:
    body = json.dumps({"url": LONG}).encode()
    async with serving() as (server, endpoint, _):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"POST /api/links HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body[:100])
        await until(server._is_busy)
        server.drain()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.stop())
            await until(lambda: is_closed(endpoint))
            writer.write(body[100:])
            assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        writer.close()
        await writer.wait_closed()


def is_closed(endpoint: Endpoint) -> bool:
    with socket.socket() as client:
        return client.connect_ex((endpoint.host, endpoint.port)) != 0
