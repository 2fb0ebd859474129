"""A worker in the test's own process, with all that a node would hand it: real sockets, counters, messages."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from plays import Actor
from servers import Backend

from bench.ports import free_port
from scaleup.lb import observe, worker
from scaleup.lb.counters import BackendColumn, Column, Counters, FrontendColumn, ServerColumn
from scaleup.lb.observe import Observer
from scaleup.lb.settings import LbSettings
from scaleup.lb.worker import Worker, sizes_of
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, stop_listening
from scaleup.processes import Message, Process
from scaleup.processes.channel import MAX_QUEUED_MESSAGES

HOST, VIP = "127.0.66.1", "127.0.66.100"
PATIENCE_SECONDS = 20.0


def unused(host: str) -> Endpoint:
    return Endpoint(host, free_port(host))


class Shop:
    """One of `rows` workers, before `servers`; it listens on an elected and on a plain address."""

    def __init__(self, *servers: str, active: bool = True, told: bool = True, **settings: Any) -> None:
        self.elected, self.plain = unused(VIP), unused(HOST)
        self.settings = LbSettings.model_validate(
            {
                "listen": [str(self.elected), str(self.plain)],
                "server": [f"s{number}={line}" for number, line in enumerate(servers)],
                "vip": [VIP],
                "source": HOST,
                "peer": ["127.0.66.2"],
                "auth": "none",
                "queue": 10,
                **settings,
            }
        )
        self.counters = Counters.create(1, sizes_of(self.settings))
        self.sockets = [bound(where, "--listen") for where in (self.elected, self.plain)]
        for sock, listens in zip(self.sockets, (active, True), strict=True):
            if listens:
                sock.listen(100)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.process = SimpleNamespace(
            stopping=asyncio.Event(), tell_parent=lambda kind, **fields: self.told.append((kind, fields))
        )
        waker = os.eventfd(0, os.EFD_NONBLOCK)
        shared = [self.counters.descriptor, waker, *(sock.fileno() for sock in self.sockets)]
        init = Message(
            "init",
            {
                "settings": self.settings.table(),
                "row": 0,
                "rows": 1,
                "sockets": [2],
            },
            tuple(map(os.dup, shared)),
        )
        os.close(waker)
        self.worker = Worker(init, cast(Process, self.process))
        self.active, self.up = active, [True] * len(servers)
        self.live = [server.live for server in self.settings.server]
        self.maxconn = self.settings.maxconn
        self.rising: list[tuple[int, float]] = []
        if told:
            self.say_state()
        self._actors: list[Actor] = []
        self._closed = False

    def say(self, kind: str, **fields: Any) -> None:
        """What the node says."""
        self.worker.obey(Message(kind, fields))

    def say_state(self, *, active: bool | None = None) -> None:
        """The node says all that it knows, each time."""
        self.active = self.active if active is None else active
        live = [(number, live.as_list()) for number, live in enumerate(self.live)]
        self.say(
            "state", active=self.active, up=self.up, live=live, rising=self.rising, maxconn=[self.maxconn]
        )

    def server_is(self, number: int, *, up: bool = True, **live: Any) -> None:
        """`live`: what an operator has changed."""
        self.up[number] = up
        self.live[number] = self.live[number]._replace(**live)
        self.say_state()

    def take_address(self) -> None:
        """As the vrrp process and then the node do."""
        self.sockets[0].listen(100)
        self.say_state(active=True)

    def give_address_up(self) -> None:
        stop_listening(self.sockets[0])
        self.say_state(active=False)

    async def client(self, where: Endpoint | None = None) -> Actor:
        """Connected to the plain address, or `where`."""
        sock = socket.socket()
        actor = Actor(sock)
        self._actors.append(actor)
        endpoint = where or self.plain
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(
            (endpoint.host, endpoint.port)
        )  # by the kernel alone: a worker that refuses, does so later
        sock.setblocking(False)
        return actor

    async def served(self, backend: Backend) -> Actor:
        """The server's end of the connection that the worker made."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(BlockingIOError):
                    sock, host = backend.accept()
                    break
                await asyncio.sleep(0.001)
        assert host == HOST, "servers see the node's own address"
        sock.setblocking(False)
        actor = Actor(sock)
        self._actors.append(actor)
        return actor

    async def session(self, backend: Backend, where: Endpoint | None = None) -> tuple[Actor, Actor]:
        """A client and its server, who have exchanged a word."""
        client = await self.client(where)
        server = await self.served(backend)
        await server.send(b"welcome")  # the server speaks first, as MySQL does
        await client.expect(b"welcome")
        await client.send(b"hello")
        await server.expect(b"hello")
        return client, server

    def count(self, column: Column) -> int:
        return self.counters.total(column, 0)

    def server_count(self, column: ServerColumn, server: int = 0) -> int:
        return self.counters.total(column, server)

    async def empty(self) -> None:
        """Until no session is left."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.count(FrontendColumn.CURRENT):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert not list(self.worker._sessions)

    async def drain(self, seconds: float = 0.0) -> None:
        self._closed = True
        async with asyncio.timeout(PATIENCE_SECONDS):
            self.worker.finish(seconds)
            await self.worker.end()

    async def close(self) -> None:
        """Whatever a test did, a drain leaves nothing behind."""
        for actor in self._actors:
            actor.close()
        if not self._closed:
            await self.drain()
        assert self.count(FrontendColumn.CURRENT) == self.count(BackendColumn.WAITING) == 0
        for number in range(len(self.settings.server)):
            assert self.server_count(ServerColumn.CURRENT, number) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.counters.close()
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def backend() -> Any:
    with contextlib.closing(Backend("127.0.66.21")) as backend:
        yield backend.listen()


@pytest.fixture
def other() -> Any:
    with contextlib.closing(Backend("127.0.66.22")) as backend:
        yield backend.listen()


Open = Callable[..., Shop]


@pytest.fixture
async def shop() -> AsyncIterator[Open]:
    opened: list[Shop] = []

    def open_shop(*servers: Backend, **settings: Any) -> Shop:
        opened.append(Shop(*(server.address for server in servers), **settings))
        return opened[-1]

    yield open_shop
    for one in opened:
        await one.close()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# ----- a session ----------------------------------------------------------------------------------


async def test_a_session_from_its_start_to_its_end_and_what_it_counts(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    client, server = await one.session(backend)
    assert one.count(FrontendColumn.CURRENT) == one.server_count(ServerColumn.CURRENT) == 1
    client.fin()
    await server.expect_fin()
    await server.send(b"goodbye")
    await client.expect(b"goodbye")
    server.fin()
    await client.expect_fin()
    await one.empty()
    assert one.server_count(ServerColumn.CURRENT) == 0
    assert one.count(FrontendColumn.TOTAL) == one.server_count(ServerColumn.TOTAL) == 1
    assert one.count(FrontendColumn.BYTES_IN) == one.server_count(ServerColumn.BYTES_IN) == len(b"hello")
    assert (
        one.count(FrontendColumn.BYTES_OUT)
        == one.server_count(ServerColumn.BYTES_OUT)
        == len(b"welcomegoodbye")
    )


async def test_before_it_knows_the_state_nobody_is_accepted(shop: Open, backend: Backend) -> None:
    one = shop(backend, told=False)
    client = await one.client()  # connected by the kernel
    await asyncio.sleep(0.01)
    assert one.count(FrontendColumn.TOTAL) == 0
    one.say_state()
    server = await one.served(backend)
    await server.send(b"welcome")
    await client.expect(b"welcome")


async def test_without_a_server_a_client_is_reset_at_once(
    shop: Open, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    one = shop(backend)
    one.server_is(0, up=False)
    for _ in range(3):
        await (await one.client()).expect_rst()
    await one.empty()
    assert one.count(BackendColumn.REFUSED) == one.count(FrontendColumn.TOTAL) == 3
    assert one.server_count(ServerColumn.TOTAL) == 0
    assert len(caplog.messages) == 1
    assert "refused: no server is up" in caplog.messages[0]


async def test_a_server_that_comes_up_gets_sessions_and_one_that_goes_down_gets_no_more(
    shop: Open, backend: Backend, other: Backend
) -> None:
    one = shop(backend, other)
    one.server_is(1, up=False)
    sessions = [await one.session(backend) for _ in range(2)]
    one.server_is(0, up=False)
    one.server_is(1, up=True)
    await one.session(other)
    client, server = sessions[0]
    await client.send(b"those that it has go on")
    await server.expect(b"those that it has go on")


async def test_a_server_that_comes_up_serves_all_who_wait(
    shop: Open, backend: Backend, other: Backend
) -> None:
    one = shop(backend, other)
    one.server_is(0, maxconn=1)
    one.server_is(1, up=False)
    await one.session(backend)
    for _ in range(3):
        await one.client()
    await eventually(lambda: one.count(BackendColumn.WAITING) == 3)
    one.server_is(1, up=True)
    for _ in range(3):
        await one.served(other)


async def test_a_server_in_drain_or_maintenance_keeps_its_sessions_and_gets_no_more(
    shop: Open, backend: Backend, other: Backend
) -> None:
    one = shop(backend, other)
    one.server_is(1, admin="maint")
    client, server = await one.session(backend)
    for admin in ("drain", "maint"):
        one.server_is(0, admin=admin)
        one.server_is(1, admin="ready")
        for _ in range(4):
            await one.session(other)
    await client.send(b"goes on")
    await server.expect(b"goes on")
    one.server_is(0, admin="ready")
    one.server_is(1, weight=0)
    await one.session(backend)


async def test_a_server_that_moves_gets_new_sessions_at_its_new_address(
    shop: Open, backend: Backend, other: Backend
) -> None:
    one = shop(backend)
    client, server = await one.session(backend)
    one.server_is(0, endpoint=Endpoint.parse(other.address))
    await one.session(other)
    await client.send(b"goes on")
    await server.expect(b"goes on")
    one.server_is(0, endpoint=one.settings.server[0].live.endpoint)
    await one.session(backend)


async def test_without_an_address_a_server_is_not_dialled(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    one.server_is(0, endpoint=None)
    await (await one.client()).expect_rst()
    assert one.count(BackendColumn.REFUSED) == 1
    one.server_is(0, endpoint=one.settings.server[0].live.endpoint)
    await one.session(backend)


async def test_more_slots_serve_those_who_wait_at_once(shop: Open, backend: Backend) -> None:
    one = shop(backend, timeout_queue=3600.0)
    one.server_is(0, maxconn=1)
    await one.session(backend)
    for _ in range(3):
        await one.client()
    await eventually(lambda: one.count(BackendColumn.WAITING) == 3)
    one.server_is(0, maxconn=3)
    await one.served(backend)
    await one.served(backend)
    assert one.count(BackendColumn.WAITING) == 1


async def test_a_client_that_is_gone_before_it_was_served_leaves_nothing(
    shop: Open, backend: Backend
) -> None:
    one = shop(backend)
    for _ in range(5):
        (await one.client()).rst()
    await eventually(lambda: one.count(FrontendColumn.TOTAL) == 5)
    await one.empty()


async def test_maxconn_makes_clients_wait_in_the_kernels_queue(shop: Open, backend: Backend) -> None:
    one = shop(backend, maxconn=2)
    sessions = [await one.session(backend) for _ in range(2)]
    third = await one.client()  # connected by the kernel
    await third.send(b"early")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await third.receive()
    assert one.count(FrontendColumn.TOTAL) == 2
    sessions[0][0].close()
    await sessions[0][1].expect_fin()
    sessions[0][1].close()
    await (await one.served(backend)).expect(b"early")


async def test_an_error_of_ours_costs_one_session_and_nothing_else(
    shop: Open, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    one = shop(backend)
    dialler = one.worker._backends[0].dialler
    pool, dialler.pool = dialler.pool, cast(Any, None)
    await (await one.client()).expect_rst()
    await one.empty()
    assert "an error of ours" in caplog.text
    dialler.pool = pool
    await one.session(backend)


async def test_killing_those_who_wait_calls_none_of_them_to_a_slot(shop: Open, backend: Backend) -> None:
    """The slots that the killed leave go to nobody who is killed next; no server hears of them."""
    one = shop(backend, timeout_queue=3600.0)
    one.server_is(0, maxconn=2)
    served = [await one.session(backend, one.elected) for _ in range(2)]
    waiting = [await one.client(one.elected) for _ in range(8)]
    while one.count(BackendColumn.WAITING) < 8:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    one.give_address_up()
    for client in [*(client for client, _ in served), *waiting]:
        await client.expect_rst()
    await one.empty()
    assert one.count(FrontendColumn.KILLED) == 10
    with pytest.raises(BlockingIOError):
        backend.accept()


# ----- what an operator wants -----------------------------------------------------------------------


def answers(one: Shop, number: int) -> list[Any]:
    """To one question, when all of it was given."""
    parts = [fields for kind, fields in one.told if kind == "answer" and fields["number"] == number]
    assert [part["more"] for part in parts] == [True] * (len(parts) - 1) + [False]
    return [it for part in parts for it in part["part"]]


async def test_sessions_are_told_and_one_of_them_can_be_ended(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    staying, going = [await one.session(backend) for _ in range(2)]
    one.say("sessions", number=1)
    facts = {client: (identity, rest) for identity, client, *rest in answers(one, 1)}
    identity, (frontend, behind, server, age) = facts[going[0].address]
    assert (frontend, behind, server) == ("lb", "lb", "s0")
    assert 0 <= age < PATIENCE_SECONDS
    one.say("shut_down", number=2, session=identity)
    assert answers(one, 2) == [True]
    for actor in going:
        await actor.expect_rst()
    one.say("shut_down", number=3, session=identity)
    assert answers(one, 3) == []
    await staying[0].send(b"goes on")
    await staying[1].expect(b"goes on")
    assert one.count(FrontendColumn.KILLED) == 1


async def test_one_that_waits_has_no_server_yet_and_can_be_ended(shop: Open, backend: Backend) -> None:
    one = shop(backend, timeout_queue=3600.0)
    one.server_is(0, maxconn=1)
    await one.session(backend)
    waiting = await one.client()
    await eventually(lambda: one.count(BackendColumn.WAITING) == 1)
    one.say("sessions", number=1)
    [identity] = [facts[0] for facts in answers(one, 1) if facts[4] is None]
    one.say("shut_down", number=2, session=identity)
    await waiting.expect_rst()
    assert one.count(BackendColumn.WAITING) == 0


async def test_all_sessions_of_a_server_can_be_ended(shop: Open, backend: Backend, other: Backend) -> None:
    one = shop(backend, other)
    one.server_is(1, admin="drain")
    doomed = [await one.session(backend) for _ in range(3)]
    one.server_is(0, admin="drain")
    one.server_is(1, admin="ready")
    client, server = await one.session(other)
    one.say("shut_down_all", backend="lb", server="s0")
    for pair in doomed:
        for actor in pair:
            await actor.expect_rst()
    await client.send(b"goes on")
    await server.expect(b"goes on")


async def test_many_sessions_are_told_in_messages_that_are_not_too_large(
    shop: Open, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MOST_AT_A_TIME", 2)
    one = shop(backend)
    for _ in range(5):
        await one.session(backend)
    one.say("sessions", number=1)
    assert len(answers(one, 1)) == len({facts[0] for facts in answers(one, 1)}) == 5


async def test_a_frontend_that_may_have_more_takes_those_who_wait(shop: Open, backend: Backend) -> None:
    one = shop(backend, maxconn=1)
    await one.session(backend)
    await one.client()
    one.maxconn = 2
    one.say_state()
    await one.served(backend)
    one.maxconn = 1
    one.say_state()  # those that it has go on
    assert one.count(FrontendColumn.CURRENT) == 2


async def test_who_ended_a_session_before_its_time_is_counted(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    for who, column in ((0, ServerColumn.CLIENT_ABORTS), (1, ServerColumn.SERVER_ABORTS)):
        pair = await one.session(backend)
        pair[who].rst()
        await pair[1 - who].expect_rst()
        await one.empty()
        assert one.count(column) == 1
    client, server = await one.session(backend)
    client.close()
    await server.expect_fin()
    server.close()
    await one.empty()
    assert (one.count(ServerColumn.CLIENT_ABORTS), one.count(ServerColumn.SERVER_ABORTS)) == (1, 1)


# ----- the virtual address ------------------------------------------------------------------------


async def test_when_the_address_leaves_its_sessions_are_reset_on_both_sides(
    shop: Open, backend: Backend
) -> None:
    one = shop(backend)
    elected = await one.session(backend, one.elected)
    plain = await one.session(backend)
    one.give_address_up()
    await elected[0].expect_rst()
    await elected[1].expect_rst()
    await plain[0].send(b"still here")
    await plain[1].expect(b"still here")
    assert one.count(FrontendColumn.KILLED) == 1
    with pytest.raises(ConnectionRefusedError):
        await one.client(one.elected)
    await one.session(backend)


async def test_when_the_address_leaves_those_who_wait_for_a_server_are_reset(shop: Open) -> None:
    with contextlib.closing(Backend("127.0.66.23")) as silent:
        one = shop(silent.silent())
        dialling = await one.client(one.elected)
        await eventually(lambda: one.server_count(ServerColumn.CURRENT) == 1)
        one.give_address_up()
        await dialling.expect_rst()
        await one.empty()
        assert one.count(FrontendColumn.KILLED) == 1
        assert one.count(BackendColumn.REFUSED) == 0


async def test_the_address_comes_and_goes(shop: Open, backend: Backend) -> None:
    one = shop(backend, active=False)
    with pytest.raises(ConnectionRefusedError):
        await one.client(one.elected)
    for count in range(1, 6):
        one.take_address()
        client, server = await one.session(backend, one.elected)
        one.give_address_up()
        one.say_state()
        await client.expect_rst()
        await server.expect_rst()
        assert one.count(FrontendColumn.KILLED) == count


async def test_being_told_of_an_address_that_has_left_already_does_no_harm(
    shop: Open, backend: Backend
) -> None:
    one = shop(backend, active=False)
    one.say_state(active=True)
    await asyncio.sleep(0.01)
    one.take_address()
    await one.session(backend, one.elected)


# ----- the end ------------------------------------------------------------------------------------


async def test_a_drain_serves_the_queue_refuses_the_rest_and_waits(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    early = await one.session(backend)
    waiting = [await one.client() for _ in range(5)]  # in the kernel's queue: the loop has not turned
    async with asyncio.TaskGroup() as tasks:
        draining = tasks.create_task(one.drain(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        for client in waiting:
            server = await one.served(backend)
            await server.send(b"welcome")
            client.close()
            server.close()
        with pytest.raises(ConnectionRefusedError):
            await one.client()
        one.take_address()  # too late: this worker accepts no more
        await one.client(one.elected)
        await asyncio.sleep(0.01)
        assert one.count(FrontendColumn.TOTAL) == 6
        assert not draining.done()
        await early[0].send(b"last words")
        await early[1].expect(b"last words")
        early[0].close()
        await early[1].expect_fin()
        began = time.monotonic()
        early[1].close()
    assert time.monotonic() - began < PATIENCE_SECONDS * 0.8
    assert one.count(FrontendColumn.KILLED) == 0


async def test_a_drain_without_sessions_is_done_at_once(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await one.drain(3600)
    with pytest.raises(ConnectionRefusedError):
        await one.client(one.elected)


async def test_the_nodes_word_to_drain_stops_the_process(shop: Open, backend: Backend) -> None:
    one = shop(backend)
    one.say("drain", seconds=0)
    assert one.process.stopping.is_set()


# ----- what is told of servers ----------------------------------------------------------------------------


async def test_servers_that_are_not_reached_are_told_of_in_one_message(
    shop: Open, backend: Backend, other: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "TELL_SECONDS", 3600.0)  # however long all of them take
    other.close()  # it refuses
    one = shop(backend, other, redispatch=1)
    for _ in range(8):  # half of them are sent there first
        await one.session(backend)
    assert one.told == []
    one.worker._observer._now()
    ((kind, fields),) = one.told
    assert kind == "observed"
    assert fields == {"failed": [(1, (4, "Connection refused"))], "made": []}


async def test_a_server_that_is_reached_again_is_told_of_once(shop: Open, backend: Backend) -> None:
    observer = Observer(lambda failed, made: told.append((failed, made)))
    told: list[Any] = []
    observer.made(0)
    observer.failed(0, "refused")
    observer.failed(0, "late")
    observer.failed(1, "refused")
    await eventually(lambda: told)
    observer.made(0)
    observer.made(0)
    await eventually(lambda: len(told) == 2)
    assert told == [({0: (2, "late"), 1: (1, "refused")}, []), ({}, [0])]
    observer.close()


async def test_a_port_that_we_lack_speaks_against_nobody(
    shop: Open, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shop(backend, retries=0)
    monkeypatch.setattr("scaleup.lb.dial.THEIR_FAULT", {errno.ETIMEDOUT})
    backend.close()
    client = await one.client()
    await client.expect_rst()
    assert one.worker._observer._timer is None


async def test_when_they_are_not_observed_nothing_is_told(shop: Open, backend: Backend) -> None:
    one = shop(backend, observe="off", retries=0)
    backend.close()
    client = await one.client()
    await client.expect_rst()
    assert one.worker._observer._timer is None


@pytest.mark.parametrize(("rising", "share"), [([], 1.0), ([(0, 10.0)], 0.55)])
async def test_a_worker_that_begins_starts_slowly_only_what_the_node_says(
    rising: list[tuple[int, float]], share: float
) -> None:
    """Servers by name have no address before the first state; with it they do not come up, they are found."""
    shop = Shop("localhost:1,weight=20,slowstart=20", "localhost:2,weight=20", told=False)
    shop.rising = rising
    for number in (0, 1):
        shop.live[number] = shop.live[number]._replace(endpoint=Endpoint("127.0.66.3", 1 + number))
    shop.say_state()
    (pool,) = set(shop.worker._pools)
    chosen = [server.name for _ in range(310) if (server := pool.choose(b"client"))]
    assert chosen.count("s0") / chosen.count("s1") == pytest.approx(share, abs=0.05)
    await shop.close()


async def test_no_more_sessions_are_told_than_the_channel_takes(
    shop: Open, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.MOST_TOLD / worker.MOST_AT_A_TIME < MAX_QUEUED_MESSAGES
    monkeypatch.setattr(worker, "MOST_TOLD", 1)
    one = shop(backend)
    for _ in range(2):
        await one.session(backend)
    one.say("sessions", number=7)
    ((kind, fields),) = one.told
    assert (kind, fields["number"], len(fields["part"]), fields["more"]) == ("answer", 7, 1, False)
