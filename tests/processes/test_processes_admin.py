"""The admin address, asked over real connections on both loops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import listening
from scaleup.processes import Process
from scaleup.processes.admin import Admin

ANYWHERE = Endpoint("127.0.0.1", 0)


@contextlib.asynccontextmanager
async def admin() -> AsyncIterator[tuple[Process, Endpoint]]:
    """A process, and where it can be asked."""
    process = Process("web1")
    server = Admin(process.registry, process.readiness)
    try:
        yield process, await server.start(ANYWHERE)
    finally:
        await server.stop()
        process.close()


async def ask(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """The status, the fields and the body of an answer."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), fields, body


async def test_healthz_says_that_the_process_lives_whatever_it_can_do() -> None:
    async with admin() as (process, endpoint):
        assert (await ask(endpoint, "/healthz"))[::2] == (200, "ok\n")
        process.stopping.set()
        assert (await ask(endpoint, "/healthz"))[::2] == (200, "ok\n")


async def test_readyz_says_why_not() -> None:
    async with admin() as (process, endpoint):
        reason: list[str | None] = ["the database is away"]

        async def check() -> str | None:
            return reason[0]

        process.add_readiness(check)
        assert (await ask(endpoint, "/readyz"))[::2] == (503, "starting\n")
        process.ready()
        assert (await ask(endpoint, "/readyz"))[::2] == (503, "the database is away\n")
        reason[0] = None
        assert (await ask(endpoint, "/readyz"))[::2] == (200, "ready\n")
        process.stopping.set()
        assert (await ask(endpoint, "/readyz"))[::2] == (503, "draining\n")


async def test_a_readiness_check_that_fails_is_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    async with admin() as (process, endpoint):

        async def check() -> str | None:
            raise RuntimeError("a bug in a check")

        process.add_readiness(check)
        process.ready()
        assert (await ask(endpoint, "/readyz"))[0] == 500
        assert (await ask(endpoint, "/healthz"))[0] == 200
    assert "a bug in a check" in caplog.text


async def test_metrics_are_prometheus() -> None:
    async with admin() as (process, endpoint):
        counter = Counter("scaleup_things", "Things, by their kind.", ["kind"], registry=process.registry)
        counter.labels('a "quoted"\nkind').inc(3)
        status, fields, body = await ask(endpoint, "/metrics")
        assert status == 200
        assert fields["content-type"].startswith("text/plain; version=")
        families = {family.name: family for family in text_string_to_metric_families(body)}
        [sample] = [sample for sample in families["scaleup_things"].samples if sample.name.endswith("_total")]
        assert (sample.labels, sample.value) == ({"kind": 'a "quoted"\nkind'}, 3)
        assert families["process_open_fds"].samples[0].value > 0


async def test_two_processes_count_apart() -> None:
    """Nothing is registered globally."""
    async with admin() as (one, _), admin() as (_, other_endpoint):
        Counter("scaleup_things", "Things.", registry=one.registry)
        assert "scaleup_things" not in (await ask(other_endpoint, "/metrics"))[2]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/readyz", 405)]
)
async def test_it_is_read_only_and_small(method: str, path: str, status: int) -> None:
    async with admin() as (_, endpoint):
        assert (await ask(endpoint, path, method))[0] == status


async def test_a_port_in_use() -> None:
    with listening(ANYWHERE, "--listen") as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        process = Process("web1")
        server = Admin(process.registry, process.readiness)
        with pytest.raises(StartupError) as caught:
            await server.start(endpoint)
        cure = "stop what uses it, or choose another port"
        assert str(caught.value) == f"--admin {endpoint}: Address already in use; {cure}"
        await server.stop()
        process.close()


async def test_stop_without_start() -> None:
    process = Process("web1")
    await Admin(process.registry, process.readiness).stop()
    process.close()


async def test_stop_does_not_wait_for_an_asker_who_stays() -> None:
    async with asyncio.timeout(10):  # less than it keeps a connection
        async with admin() as (_, endpoint):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"ok\n")  # and the connection is kept alive
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
