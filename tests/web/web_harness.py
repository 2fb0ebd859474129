"""A web server of ours on a real socket, applications behind it that misbehave on order, and a raw client.

`running` fails the test when the server leaves a task, a descriptor or a log line of level ERROR behind.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import endpoint_of, listening
from scaleup.upstream.balance import algorithm
from scaleup.upstream.pool import Pool
from scaleup.upstream.server_settings import ServerSettings
from scaleup.web.access_log import Access
from scaleup.web.clients import Clients
from scaleup.web.metrics import Metrics
from scaleup.web.serve import admission, assemble, limits
from scaleup.web.server import WebServer
from scaleup.web.settings import WebSettings

SECONDS = 20.0
"""Nothing in these tests takes longer, unless it hangs."""


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


@dataclass
class Seen:
    """A request as it arrived at an application. `head`: up to the empty line, without it."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n")[0]

    def values(self, name: str) -> list[bytes]:
        """The values of a field, in order."""
        lines = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:]]
        return [value for key, _, value in lines if key.lower() == name.lower().encode()]

    async def body(self) -> bytes:
        """The whole body, by its framing."""
        if self.values("transfer-encoding") == [b"chunked"]:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return body
        return await self.reader.readexactly(int((self.values("content-length") or [b"0"])[0]))

    async def answer(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        reset(self.writer)


Behaviour = Callable[[Seen], Awaitable[None]]


async def fine(seen: Seen) -> None:
    """Read the request and answer it."""
    await seen.body()
    await seen.answer(ok(b"hello"))


def ok(body: bytes, *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@dataclass
class Application:
    """A raw application server. `behave` answers one request (None: its port refuses connections).

    `seen` has all heads that arrived.
    """

    behave: Behaviour | None = fine
    name: str = "app1"
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("127.0.0.1", 0))
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a connection has been closed by the web server."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(Seen(head[:-4], reader, writer))
                assert self.behave is not None
                await self.behave(self.seen[-1])
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            writer.transport.abort()
        self.closed.set()
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Application"]:
        if self.behave is None:
            with socket.socket() as bound:
                bound.bind(("127.0.0.1", 0))
                self.endpoint = Endpoint(*bound.getsockname())
                yield self
            return
        running: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            await self._serve(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
        self.endpoint = Endpoint(*server.sockets[0].getsockname()[:2])
        try:
            yield self
        finally:
            server.close()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


@dataclass
class Web:
    """The web server under test."""

    clients: Clients
    server: WebServer
    endpoint: Endpoint
    pool: Pool
    registry: CollectorRegistry
    accesses: list[Access]
    """What the access log was told."""
    errors: list[str] = field(default_factory=list)
    """What was logged at level ERROR; a test that means it empties this."""

    async def connect(self) -> "Client":
        return Client(*await asyncio.open_connection(self.endpoint.host, self.endpoint.port))

    async def ask(self, *parts: bytes) -> bytes:
        """Send a whole request, byte for byte, and return everything up to the end of the connection."""
        client = await self.connect()
        try:
            return await client.ask(*parts)
        finally:
            client.writer.close()

    async def get(self, path: str, *fields: bytes, method: str = "GET", body: bytes = b"") -> "Answer":
        lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: site.test", b"Connection: close", *fields]
        if body:
            lines.append(b"Content-Length: %d" % len(body))
        return Answer.parse(await self.ask(b"\r\n".join(lines) + b"\r\n\r\n" + body), method)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"scaleup_web_{name}", labels) or 0.0


@dataclass
class Client:
    """A raw connection to the web server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *parts: bytes) -> bytes:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
        return await self.rest()

    async def rest(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()

    async def head(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self, method: str = "GET") -> "Answer":
        """One response with a Content-Length; the connection stays open."""
        answer = Answer.parse(await self.head(), method)
        if method != "HEAD":
            answer.body = await self.reader.readexactly(int(answer.value("content-length") or "0"))
        return answer

    def reset(self) -> None:
        reset(self.writer)


@dataclass
class Answer:
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes

    @classmethod
    def parse(cls, data: bytes, method: str = "GET") -> "Answer":
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        fields = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
        answer = cls(int(status), reason, fields, body)
        if answer.value("transfer-encoding") == "chunked":
            answer.body = unchunked(body)
        return answer

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        values = self.values(name)
        assert len(values) < 2, f"{name} stands {len(values)} times"
        return values[0] if values else None


def unchunked(data: bytes) -> bytes:
    """The content of a chunked body, which has to be complete."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert data == b"\r\n"
            return body
        assert data[length : length + 2] == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


@contextlib.asynccontextmanager
async def running(
    *applications: Application, root: Path | None = None, **settings: Any
) -> AsyncIterator[Web]:
    """A web server before these applications; they are all up, and are not checked."""
    errors, tasks, descriptors = _Errors(), asyncio.all_tasks(), _descriptors()
    logging.getLogger().addHandler(errors)
    try:
        async with contextlib.AsyncExitStack() as stack:
            for application in applications:
                await stack.enter_async_context(application.listening())
            web = await _start([_server(app) for app in applications], root, settings)
            web.errors = errors.records
            try:
                async with asyncio.timeout(SECONDS):
                    yield web
            finally:
                await web.clients.drain(1.0)
                await web.server.close()
        await _settled(lambda: asyncio.all_tasks() <= tasks and _descriptors() <= descriptors)
        assert asyncio.all_tasks() - tasks == set()
        assert _descriptors() - descriptors == set()
        assert errors.records == []
    finally:
        logging.getLogger().removeHandler(errors)


def _server(application: Application) -> ServerSettings:
    return ServerSettings.model_validate(f"{application.name}={application.endpoint}")


async def _start(servers: list[ServerSettings], root: Path | None, given: dict[str, Any]) -> Web:
    maxconn = given.pop("maxconn", 0)
    settings = WebSettings(node="web1", root=root, app=tuple(servers), **given)
    registry = CollectorRegistry()
    pool = Pool([app.server() for app in settings.app], algorithm("roundrobin", lambda n: 0))
    for server in pool.servers:
        server.change(maxconn=maxconn)

    async def ready() -> str | None:
        return None

    metrics = Metrics(registry)
    accesses = list[Access]()
    server = assemble(settings, pool, metrics, ready, log_access=accesses.append)
    clients = Clients(server, limits(settings, hsts=0), admission(settings), metrics)
    sock = listening(Endpoint("127.0.0.1", 0), "--listen")
    endpoint = endpoint_of(sock)
    clients.accept([sock])
    return Web(clients, server, endpoint, pool, registry, accesses)


def _descriptors() -> set[str]:
    """What this process has open; but libuv keeps /dev/null open, for the day when descriptors run out."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listdir itself had open
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
    return {what for what in found if not what.endswith("/dev/null")}


async def _settled(done: Callable[[], bool]) -> None:
    """Let what is closing close: transports take a few turns of the loop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS / 2):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own, such as a kernel's buffer."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
