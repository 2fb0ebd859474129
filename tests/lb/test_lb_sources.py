"""Limits for each source, with real sockets."""

from __future__ import annotations

from plays import Actor
from servers import Backend
from test_lb_proxy_protocol import FROM_HERE
from test_lb_worker import Open, backend, eventually, shop

from scaleup.lb.counters import FrontendColumn, ServerColumn
from scaleup.net.addresses import Endpoint
from scaleup.net.proxy_protocol import v2

__all__ = ["backend", "shop"]  # fixtures


async def test_so_many_at_a_time(shop: Open, backend: Backend) -> None:
    one = shop(backend, source_maxconn=2)
    (first, its_server), _ = [await one.session(backend) for _ in range(2)]
    third = await one.client()
    await third.expect_rst()
    assert one.count(FrontendColumn.DENIED) == 1
    assert one.server_count(ServerColumn.TOTAL) == 2
    first.fin()
    await its_server.expect_fin()
    its_server.fin()
    await eventually(lambda: one.count(FrontendColumn.CURRENT) == 1)
    await one.session(backend)


async def test_so_many_in_a_while_and_who_goes_on_stays_out(shop: Open, backend: Backend) -> None:
    one = shop(backend, source_rate=2, source_period=3600)
    for _ in range(2):
        client, _ = await one.session(backend)
        client.rst()
        await one.empty()
    for refused in range(1, 5):
        await (await one.client()).expect_rst()
        assert one.count(FrontendColumn.DENIED) == refused
    await one.empty()


async def test_it_is_the_client_who_counts_and_not_his_proxy(shop: Open, backend: Backend) -> None:
    one = shop(backend, source_maxconn=1, **FROM_HERE)

    async def through_a_proxy(host: str) -> Actor:
        client = await one.client()
        await client.send(v2(Endpoint(host, 4711), Endpoint("203.0.113.1", 443)))
        return client

    for host in ("192.0.2.7", "192.0.2.8"):
        await through_a_proxy(host)
        await one.served(backend)
    await (await through_a_proxy("192.0.2.7")).expect_rst()
    assert one.count(FrontendColumn.DENIED) == 1
