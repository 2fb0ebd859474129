"""How connections end, on real sockets: each termination state, and what else the line about it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Backend
from test_lb_worker import Open, Shop, backend, eventually, shop

from scaleup.lb.tcplog import STATES, Finished, line

__all__ = ["backend", "shop"]  # fixtures


class Lines:
    """In place of the log: what would be written."""

    def __init__(self, one: Shop) -> None:
        self.written: list[Finished] = []
        for frontend in one.worker._frontends:
            frontend._lines = self  # type: ignore[assignment]

    def write(self, finished: Finished) -> None:
        self.written.append(finished)

    async def one(self) -> Finished:
        await eventually(lambda: self.written)
        return self.written.pop(0)


@pytest.fixture
def dead() -> Iterator[Backend]:
    """It refuses, unless it is told to be silent."""
    with contextlib.closing(Backend("127.0.66.23")) as backend:
        yield backend


async def test_in_order(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    lines = Lines(one)
    client, server = await one.session(backend)
    client.fin()
    await server.expect_fin()
    server.fin()
    it = await lines.one()
    assert it.state == "--"
    assert (it.frontend, it.backend, it.server) == ("lb", "lb", "s0")
    assert (it.bytes_in, it.bytes_out, it.retries, it.redispatched) == (5, 7, 0, False)
    assert (it.actconn, it.feconn, it.beconn, it.srv_conn, it.srv_queue, it.backend_queue) == (
        1,
        1,
        0,
        0,
        0,
        0,
    )
    assert 0 <= it.timers.queue <= it.timers.connect + it.timers.queue <= it.timers.total
    assert "lb lb/s0" in line(it)


@pytest.mark.parametrize(("who", "state"), [("client", "CD"), ("server", "SD")])
async def test_a_reset_while_data_pass(shop: Open, backend: Backend, who: str, state: str) -> None:
    one = shop(backend)
    lines = Lines(one)
    client, server = await one.session(backend)
    (client if who == "client" else server).rst()
    assert (await lines.one()).state == state


@pytest.mark.parametrize(("side", "state"), [("client", "cD"), ("server", "sD")])
async def test_a_time_out_while_data_pass(shop: Open, backend: Backend, side: str, state: str) -> None:
    one = shop(backend, **{f"timeout_{side}": 0.05})
    lines = Lines(one)
    await one.client()
    await one.served(backend)  # who say nothing: that might take them longer
    assert (await lines.one()).state == state


async def test_killed_while_data_pass(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    lines = Lines(one)
    await one.session(backend, one.elected)
    one.give_address_up()
    assert (await lines.one()).state == "KD"


async def test_a_server_that_refuses(shop: Open, dead: Backend) -> None:
    one = shop(dead, retries=0)
    lines = Lines(one)
    await (await one.client()).expect_rst()
    it = await lines.one()
    assert (it.state, it.server, it.timers.connect, it.retries) == ("SC", "s0", -1, 0)


async def test_the_second_server_is_marked_as_such(shop: Open, backend: Backend, dead: Backend) -> None:
    one = shop(dead, backend, redispatch=1)
    lines = Lines(one)
    client, server = await one.session(backend)
    client.fin()
    server.fin()
    it = await lines.one()
    assert (it.state, it.server, it.retries, it.redispatched) == ("--", "s1", 1, True)
    assert "/+1 " in line(it)


async def test_no_server_is_up(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    one.server_is(0, up=False)
    lines = Lines(one)
    await (await one.client()).expect_rst()
    it = await lines.one()
    assert (it.state, it.server) == ("SC", None)
    assert "lb/<NOSRV> -1/-1/" in line(it)


async def test_a_server_that_does_not_answer(shop: Open, dead: Backend) -> None:
    one = shop(dead.silent(), retries=0, timeout_connect=0.05)
    lines = Lines(one)
    await (await one.client()).expect_rst()
    assert (await lines.one()).state == "sC"


@pytest.mark.parametrize(("what", "state"), [("reset", "CC"), ("killed", "KC")])
async def test_while_it_is_dialled(shop: Open, dead: Backend, what: str, state: str) -> None:
    one = shop(dead.silent())
    lines = Lines(one)
    client = await one.client(one.elected)
    await eventually(lambda: list(one.worker._sessions))
    if what == "reset":
        client.rst()
    else:
        one.give_address_up()
    assert (await lines.one()).state == state


@pytest.mark.parametrize(
    ("what", "state", "settings"),
    [
        ("reset", "CQ", {}),
        ("killed", "KQ", {}),
        ("late", "sQ", {"timeout_queue": 0.05}),
        ("full", "SQ", {"queue": 0}),
    ],
)
async def test_in_the_queue(
    shop: Open, backend: Backend, what: str, state: str, settings: dict[str, Any]
) -> None:
    one = shop(backend, **settings)
    one.server_is(0, maxconn=1)
    await one.session(backend)
    lines = Lines(one)
    client = await one.client(one.elected)
    if what in ("reset", "killed"):
        await eventually(lambda: one.worker._backends[0].waiting[0])
        if what == "reset":
            client.rst()
        else:
            one.give_address_up()
    it = await lines.one()
    assert (it.state, it.server, it.timers.connect) == (state, None, -1)
    assert it.timers.queue == -1 if what == "full" else it.timers.queue >= 0


@pytest.mark.parametrize(("what", "state"), [("no descriptor", "RC"), ("a bug", "IC")])
async def test_what_is_ours(
    shop: Open, backend: Backend, what: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shop(backend)
    lines = Lines(one)
    dialler = one.worker._backends[0].dialler

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files") if state == "RC" else RuntimeError(what)

    monkeypatch.setattr(dialler, "open", fail)
    await (await one.client()).expect_rst()
    assert (await lines.one()).state == state


def test_each_state_is_reached() -> None:
    """By the tests above, as they are written."""
    text = Path(__file__).read_text()
    assert {state for state in STATES if f'"{state}"' not in text} == set()


async def test_who_is_denied_is_not_logged(shop: Open, backend: Backend) -> None:
    one = shop(backend, accept_proxy=["10.0.0.0/8"])
    lines = Lines(one)
    await (await one.client()).expect_rst()
    await one.empty()
    await asyncio.sleep(0)
    assert lines.written == []
