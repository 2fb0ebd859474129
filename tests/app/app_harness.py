"""What the application's tests start: pools, and application processes in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp

from bench.ports import free_port

sys.path.append(str(Path(__file__).parent.parent / "db"))

import database_servers
from database_servers import DatabaseServer

from scaleup.app.__main__ import serve
from scaleup.app.address import DatabaseAddress
from scaleup.app.pool import Pool
from scaleup.app.settings import AppSettings
from scaleup.net.addresses import Endpoint
from scaleup.processes import Process

PATIENCE_SECONDS = 10.0
"""What a database may take that is well: more than a busy machine adds. Who waits for its end says less."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.001)


def address_of(server: DatabaseServer) -> DatabaseAddress:
    return DatabaseAddress("scaleup", server.endpoint, "scaleup")


@contextlib.asynccontextmanager
async def make_pool(
    server: DatabaseServer,
    *,
    size: int = 3,
    timeout: float = PATIENCE_SECONDS,
    password: str = database_servers.PASSWORD,
) -> AsyncIterator[Pool]:
    pool = Pool(address_of(server), password, size=size, timeout=timeout)
    try:
        yield pool
    finally:
        await pool.close()


class _Process(Process):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.listening = asyncio.Event()
        self.events: list[tuple[str, dict[str, object]]] = []

    def ready(self) -> None:
        super().ready()
        self.listening.set()

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))


class App:
    """An application process, as `python -m scaleup.app` runs it, but in this loop. `client` speaks to it."""

    def __init__(self, client: aiohttp.ClientSession, endpoint: Endpoint, process: _Process) -> None:
        self.client, self.endpoint, self.process = client, endpoint, process

    async def until_ready(self) -> None:
        while True:
            async with self.client.get("/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.02)

    async def add(self, url: str = "https://example.org/", code: str | None = None) -> str:
        body = {"url": url} if code is None else {"url": url, "code": code}
        async with self.client.post("/api/links", json=body) as response:
            assert response.status == 201, await response.text()
            added: str = (await response.json())["code"]
            return added


@contextlib.asynccontextmanager
async def run_app(
    server: DatabaseServer, *, until_listening: bool = True, **settings: object
) -> AsyncIterator[App]:
    endpoint = Endpoint("127.0.0.1", free_port())
    usual = {"database_password": database_servers.PASSWORD, "database_timeout": PATIENCE_SECONDS}
    given = {"node": "app7", "drain": 0.0} | usual | settings
    process = _Process("app7")
    complete = AppSettings.model_validate({"listen": (endpoint,), "database": address_of(server), **given})
    try:
        async with (
            asyncio.TaskGroup() as tasks,
            aiohttp.ClientSession(
                f"http://{endpoint}",
                cookie_jar=aiohttp.CookieJar(unsafe=True),  # also from an address
            ) as client,
        ):
            tasks.create_task(serve(complete, process))
            if until_listening:
                await process.listening.wait()
            yield App(client, endpoint, process)
            process.stopping.set()
    finally:
        process.close()
