"""Dialling on real sockets: servers that refuse, that are silent, that are full, and what each attempt counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from servers import Backend

from scaleup.lb import dial
from scaleup.lb.counters import BackendColumn, Counters, ServerColumn
from scaleup.lb.dial import Dial, Dialler, Reached
from scaleup.lb.engine import Engine
from scaleup.lb.settings import LbSettings
from scaleup.lb.waiting import WaitingRoom, Wakers
from scaleup.lb.worker import sizes_of
from scaleup.net.addresses import Endpoint
from scaleup.upstream.balance import algorithm
from scaleup.upstream.pool import Pool, Server

KEY = b"\x7f\0\0\1"
PATIENCE_SECONDS = 20.0
PAUSE_SECONDS = 0.5
"""Before a retry, where a test has something to do in it."""
IP_LOCAL_PORT_RANGE = 51  # <linux/in.h>, since Linux 6.3


class NoServer(Exception):
    """`args[0]`: what the dialler was told."""


class Desk:
    """A dialler with all that it needs, for servers given as `ADDRESS[,maxconn=N]`."""

    def __init__(self, *servers: str, **settings: Any) -> None:
        lines = [f"s{number}={line}" for number, line in enumerate(servers)]
        tier = LbSettings.model_validate({"listen": [":0"], "server": lines, **settings})
        (self.settings,) = tier.backends
        self.servers = [server.server() for server in self.settings.server]
        self.counters = Counters.create(1, sizes_of(tier))
        self.wakers = Wakers([os.eventfd(0, os.EFD_NONBLOCK)], 0, lambda: self.waiting.wake())
        self.waiting = WaitingRoom(
            self.counters.rows_of(BackendColumn.WAITING, 0),
            self.wakers,
            self.settings.queue,
            self.settings.timeout_queue,
        )
        self.pool = Pool(self.servers, algorithm("roundrobin", lambda n: 0), self.sessions)
        self.engine = Engine(asyncio.get_running_loop())
        tallies = [self.counters.tally(0, ServerColumn, number) for number in range(len(servers))]
        source = str(tier.source) if tier.source else None
        self.dialler = Dialler(self.settings, self.pool, tallies, self.waiting, self.engine, source)

    def sessions(self, server: Server) -> int:
        return self.count(ServerColumn.CURRENT)[self.servers.index(server)]

    def count(self, column: ServerColumn) -> list[int]:
        """Of each server."""
        return [self.counters.total(column, number) for number in range(len(self.servers))]

    def dial(self) -> tuple[Dial, asyncio.Future[Reached]]:
        """The future's error is NoServer."""
        outcome: asyncio.Future[Reached] = asyncio.get_running_loop().create_future()

        def reached(it: Reached) -> None:
            self.engine.watch(it.socket.fileno(), lambda events: None)
            outcome.set_result(it)

        return self.dialler.dial(
            KEY, reached, lambda _, why, state: outcome.set_exception(NoServer(why))
        ), outcome

    async def reach(self) -> Reached:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.dial()[1]

    async def name(self) -> str:
        """Of the server reached; hangs up."""
        reached = await self.reach()
        self.hang_up(reached)
        return reached.server.name

    async def failure(self) -> str:
        with pytest.raises(NoServer) as caught:
            await self.reach()
        return str(caught.value)

    def hang_up(self, reached: Reached) -> None:
        self.engine.forget(reached.socket.fileno())
        reached.socket.close()
        self.dialler.release(reached.server)

    def close(self) -> None:
        assert self.count(ServerColumn.CURRENT) == [0] * len(self.servers)
        assert [server.sessions for server in self.servers] == [0] * len(self.servers)
        self.waiting.close()
        self.wakers.close()
        self.engine.close()
        self.counters.close()


@pytest.fixture
async def desks() -> AsyncIterator[Any]:
    with contextlib.ExitStack() as stack:
        yield lambda *servers, **settings: stack.enter_context(contextlib.closing(Desk(*servers, **settings)))


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Backend())) for _ in range(3)]


@pytest.fixture
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause would fail the test by its time-out."""
    monkeypatch.setattr(dial, "PAUSE_SECONDS", 3600.0)


async def test_a_session_counts_until_it_is_released(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].listen().address, source="127.0.64.9")
    reached = await desk.reach()
    assert desk.count(ServerColumn.CURRENT) == [1]
    accepted, host = backends[0].accept()
    with accepted:
        assert host == "127.0.64.9"
        reached.socket.send(b"hello")
        assert accepted.recv(5) == b"hello"
    assert not reached.socket.getblocking()
    assert reached.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    desk.hang_up(reached)
    assert desk.count(ServerColumn.CURRENT) == [0]
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [0]


@pytest.mark.usefixtures("_no_pause")
async def test_when_one_refuses_another_is_tried_at_once(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].address, backends[1].listen().address, timeout_connect=3600)
    assert await desk.name() == "s1"
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [1, 0]
    assert desk.count(ServerColumn.REDISPATCHES) == [1, 0], "counted where it failed, as HAProxy does"
    assert desk.count(ServerColumn.RETRIES) == [0, 0]


@pytest.mark.usefixtures("_no_pause")
async def test_when_one_does_not_answer_another_is_tried_in_time(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].silent().address, backends[1].listen().address, timeout_connect=0.5)
    assert await desk.name() == "s1"
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [1, 0]


@pytest.mark.usefixtures("_short_pause")
async def test_one_alone_that_does_not_answer_is_named_with_the_reason(
    desks: Any, backends: list[Backend]
) -> None:
    desk = desks(backends[0].silent().address, timeout_connect=0.02, retries=1)
    assert await desk.failure() == "s0: timed out"
    desk = desks(backends[1].address, retries=0)
    assert await desk.failure() == "s0: Connection refused"


async def test_one_alone_is_tried_again_after_a_pause(
    desks: Any, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "PAUSE_SECONDS", PAUSE_SECONDS)
    desk = desks(backends[0].address)
    async with asyncio.TaskGroup() as tasks:
        dialling = tasks.create_task(desk.name())
        while desk.count(ServerColumn.RETRIES) == [0]:  # noqa: ASYNC110 - it refused, and now comes back
            await asyncio.sleep(0)
        assert desk.count(ServerColumn.CURRENT) == [0], "nothing is held during the pause"
        backends[0].listen()
    assert dialling.result() == "s0"
    assert desk.count(ServerColumn.CONNECT_ERRORS) == desk.count(ServerColumn.RETRIES) == [1]


# redispatch, retries → the attempts that each of three servers gets, when all refuse
SEQUENCES = {
    (1, 3): [1, 1, 2],  # 0 1 2 and, as none is left that was not tried, 2 again
    (0, 3): [4, 0, 0],
    (-1, 3): [3, 1, 0],  # 0 0 0, the last goes to 1
    (2, 3): [2, 2, 0],  # 0 0 1 1
    (3, 3): [3, 1, 0],
    (1, 0): [1, 0, 0],
    (-1, 1): [1, 1, 0],
    (-1, 0): [1, 0, 0],
}


@pytest.mark.usefixtures("_short_pause")
@pytest.mark.parametrize(("redispatch", "retries"), SEQUENCES)
async def test_which_retry_goes_to_another_server(
    desks: Any, backends: list[Backend], redispatch: int, retries: int
) -> None:
    desk = desks(*(backend.address for backend in backends), redispatch=redispatch, retries=retries)
    assert "refused" in await desk.failure()
    assert desk.count(ServerColumn.CONNECT_ERRORS) == SEQUENCES[redispatch, retries]
    again, elsewhere = sum(desk.count(ServerColumn.RETRIES)), sum(desk.count(ServerColumn.REDISPATCHES))
    assert again + elsewhere == retries
    assert elsewhere == sum(attempts > 0 for attempts in SEQUENCES[redispatch, retries]) - 1


async def test_no_server_up(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].listen().address, backends[1].listen().address + ",weight=0")
    desk.servers[0].up = False
    assert await desk.failure() == "no server is up"
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [0, 0]


async def test_a_server_that_went_down_in_the_pause_is_not_tried_again(
    desks: Any, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "PAUSE_SECONDS", PAUSE_SECONDS)
    desk = desks(backends[0].address, backends[1].listen().address, redispatch=0)
    async with asyncio.TaskGroup() as tasks:
        dialling = tasks.create_task(desk.name())
        while desk.count(ServerColumn.RETRIES) == [0, 0]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        desk.servers[0].up = False
    assert dialling.result() == "s1"


# ----- maxconn ------------------------------------------------------------------------------------


async def test_who_finds_every_server_full_waits_for_a_slot(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].listen().address + ",maxconn=1")
    first = await desk.reach()
    async with asyncio.TaskGroup() as tasks:
        second = tasks.create_task(desk.name())
        await asyncio.sleep(0.01)
        assert not second.done()
        desk.hang_up(first)
    assert second.result() == "s0"


async def test_who_waits_in_vain_is_told_so(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].listen().address + ",maxconn=1", timeout_queue=0.02)
    first = await desk.reach()
    assert await desk.failure() == "every server is full"
    desk.hang_up(first)


async def test_a_failed_attempt_frees_its_slot_for_those_who_wait(
    desks: Any, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "PAUSE_SECONDS", 3600.0)
    desk = desks(backends[0].silent().address + ",maxconn=1", timeout_connect=0.03, retries=0)
    failures = await asyncio.gather(desk.failure(), desk.failure(), desk.failure())
    assert failures == ["s0: timed out"] * 3
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [3]


async def test_trying_again_does_not_exceed_maxconn(
    desks: Any, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the pause another client has taken the slot."""
    monkeypatch.setattr(dial, "PAUSE_SECONDS", PAUSE_SECONDS)
    desk = desks(backends[0].address + ",maxconn=1")
    async with asyncio.TaskGroup() as tasks:
        early = tasks.create_task(desk.reach())
        while desk.count(ServerColumn.RETRIES) == [0]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        backends[0].listen()
        late = await desk.reach()
        while desk.waiting.empty:  # noqa: ASYNC110 - until the pause is over
            await asyncio.sleep(0.001)
        assert not early.done()
        assert desk.count(ServerColumn.CURRENT) == [1]
        desk.hang_up(late)
    desk.hang_up(early.result())


async def test_with_many_clients_maxconn_holds_and_all_are_served(
    desks: Any, backends: list[Backend]
) -> None:
    desk = desks(*(backend.listen().address + ",maxconn=2" for backend in backends))
    most = 0

    async def visit() -> None:
        nonlocal most
        reached = await desk.reach()
        most = max(most, *desk.count(ServerColumn.CURRENT))
        await asyncio.sleep(0)
        desk.hang_up(reached)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(60):
            tasks.create_task(visit())
    assert most == 2


# ----- what is left behind ------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["connecting", "pausing", "waiting"])
async def test_cancelling_leaves_nothing_behind(desks: Any, backends: list[Backend], where: str) -> None:
    held = None
    match where:
        case "connecting":
            desk = desks(backends[0].silent().address)
        case "pausing":
            desk = desks(backends[0].address)
        case _:
            desk = desks(backends[0].listen().address + ",maxconn=1")
            held = await desk.reach()
    dial, outcome = desk.dial()
    if where == "pausing":
        while desk.count(ServerColumn.RETRIES) == [0]:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not outcome.done()
    dial.cancel()
    dial.cancel()
    assert desk.waiting.empty
    assert desk.count(ServerColumn.CURRENT) == [int(held is not None)]
    assert not outcome.done()
    if held is not None:
        desk.hang_up(held)


async def test_a_fault_of_ours_counts_against_no_server(desks: Any, backends: list[Backend]) -> None:
    desk = desks(backends[0].listen().address, source="192.0.2.1")
    assert await desk.failure() == "cannot dial: Cannot assign requested address"
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [0]


async def test_no_port_left_is_no_server_s_fault(
    desks: Any, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one for all connections here, and the first has it."""
    desk = desks(backends[0].listen().address, retries=0, source="127.0.0.1")
    first = await desk.reach()
    port = first.socket.getsockname()[1]
    dialled = desk.dialler.open

    def with_this_port(address: Endpoint) -> Any:
        sock = dialled(address)
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=HH", port, port))
        return sock

    monkeypatch.setattr(desk.dialler, "open", with_this_port)
    outcome = asyncio.get_running_loop().create_future()
    desk.dialler.dial(KEY, outcome.set_result, lambda _, why, state: outcome.set_result((why, state)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await outcome == ("s0: Cannot assign requested address", "RC")
    assert desk.count(ServerColumn.CONNECT_ERRORS) == [0]
    desk.hang_up(first)
