"""PROXY headers through a worker: read from proxies in front of it, written to servers behind it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from servers import Backend
from test_lb_worker import PATIENCE_SECONDS, Open, backend, other, shop

from scaleup.lb import greeting
from scaleup.lb.counters import FrontendColumn, ServerColumn
from scaleup.net.addresses import Endpoint
from scaleup.net.proxy_protocol import v1, v2, v2_local

__all__ = ["backend", "other", "shop"]  # fixtures

ALICE, SHOP = Endpoint("192.0.2.7", 4711), Endpoint("203.0.113.1", 80)
HEADERS = {"v1": v1(ALICE, SHOP), "v2": v2(ALICE, SHOP, [(0xE0, b"kept")], checksum=True)}
FROM_HERE = {"accept_proxy": ["127.0.0.0/8"]}


@pytest.mark.parametrize("sent", HEADERS)
@pytest.mark.parametrize("told", HEADERS)
async def test_who_a_proxy_names_is_told_to_the_server(
    shop: Open, backend: Backend, sent: str, told: str
) -> None:
    one = shop(backend, **FROM_HERE, send_proxy=told)
    client = await one.client()
    await client.send(HEADERS[sent] + b"hello")
    server = await one.served(backend)
    await server.expect({"v1": v1, "v2": v2}[told](ALICE, SHOP) + b"hello")
    await server.send(b"welcome")
    await client.expect(b"welcome")
    client.fin()
    await server.expect_fin()
    server.fin()
    await one.empty()
    assert one.count(FrontendColumn.BYTES_IN) == len(b"hello"), "headers are no traffic"


@pytest.mark.parametrize("sent", HEADERS)
async def test_a_header_that_comes_byte_by_byte(shop: Open, backend: Backend, sent: str) -> None:
    one = shop(backend, **FROM_HERE)
    client = await one.client()
    for byte in HEADERS[sent]:
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    server = await one.served(backend)
    await client.send(b"hello")
    await server.expect(b"hello")


async def test_without_a_proxy_in_front_the_servers_hear_of_the_client_itself(
    shop: Open, backend: Backend
) -> None:
    one = shop(backend, send_proxy="v2")
    client = await one.client()
    server = await one.served(backend)
    await client.send(b"hello")
    source, destination = client._sock.getsockname(), client._sock.getpeername()
    await server.expect(v2(Endpoint(*source), Endpoint(*destination)) + b"hello")


async def test_a_proxy_that_speaks_for_itself_is_served_as_itself(shop: Open, backend: Backend) -> None:
    one = shop(backend, **FROM_HERE, send_proxy="v1")
    client = await one.client()
    await client.send(v2_local())
    server = await one.served(backend)
    await server.expect(v1(Endpoint(*client._sock.getsockname()), Endpoint(*client._sock.getpeername())))


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 99999\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        HEADERS["v2"][:-1] + b"!",
        b"\r\n\r\n\0\r\nQUIT\n\x31" + bytes(20),
    ],
)
async def test_what_is_no_header_is_refused_and_counted(shop: Open, backend: Backend, bad: bytes) -> None:
    one = shop(backend, **FROM_HERE)
    client = await one.client()
    await client.send(bad)
    await client.expect_rst()
    await one.empty()
    assert one.count(FrontendColumn.UNGREETED) == 1
    assert one.server_count(ServerColumn.TOTAL) == 0


@pytest.mark.parametrize("end", ["fin", "rst", "silence"])
async def test_half_a_header_is_refused(
    shop: Open, backend: Backend, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if end == "silence":
        monkeypatch.setattr(greeting, "GREETING_SECONDS", 0.02)
    one = shop(backend, **FROM_HERE)
    client = await one.client()
    await client.send(HEADERS["v1"][:20])
    if end == "fin":
        client.fin()
    elif end == "rst":
        client.rst()
    if end != "rst":
        await client.expect_rst()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not one.count(FrontendColumn.UNGREETED):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await one.empty()
    assert one.server_count(ServerColumn.TOTAL) == 0


async def test_whoever_is_not_on_the_list_is_refused(shop: Open, backend: Backend) -> None:
    one = shop(backend, accept_proxy=["10.0.0.0/8", "::/0"])
    client = await one.client()
    await client.expect_rst()
    await one.empty()
    assert one.count(FrontendColumn.DENIED) == 1


async def test_a_drain_does_not_wait_for_headers(shop: Open, backend: Backend) -> None:
    one = shop(backend, **FROM_HERE)
    client = await one.client()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not one.count(FrontendColumn.CURRENT):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await one.drain(0)
    await client.expect_rst()


async def test_the_same_client_gets_the_same_server_whichever_proxy_it_came_through(
    shop: Open, backend: Backend, other: Backend
) -> None:
    one = shop(backend, other, **FROM_HERE, balance="source", send_proxy="v1")
    chosen: dict[str, set[str]] = {}
    for turn in range(24):
        who = Endpoint(f"192.0.2.{turn % 8}", 1000 + turn)
        client = await one.client()
        await client.send(v1(who, SHOP))
        chosen.setdefault(who.host, set()).add(await who_is_dialled(backend, other))
    assert all(len(servers) == 1 for servers in chosen.values())
    assert len(set.union(*chosen.values())) == 2


async def who_is_dialled(*backends: Backend) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for candidate in backends:
                with contextlib.suppress(BlockingIOError):
                    sock, _ = candidate.accept()
                    sock.close()
                    return candidate.address
            await asyncio.sleep(0.001)
