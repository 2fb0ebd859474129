"""What goes wrong in proxies, and for each fault the test that it does not here: in a worker, on either event loop.

Those of processes are in test_lb_faults_node.py; that a task is lost to which nobody refers (cpython #117379), in
tests/processes/test_processes_tasks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import random
import time
from pathlib import Path

import pydantic
import pytest
from plays import FIN, RST
from servers import Backend, EchoServer
from test_lb_worker import PATIENCE_SECONDS, Open, backend, eventually, shop

from scaleup.lb import carrier
from scaleup.lb.counters import BackendColumn, FrontendColumn
from scaleup.lb.engine import BUFFER_BYTES
from scaleup.lb.pipes import PIPE_BYTES
from scaleup.lb.settings import BackendTable, FrontendTable
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import stop_listening
from scaleup.upstream.checks import Checker
from scaleup.upstream.pool import Server
from scaleup.upstream.probe import Result
from scaleup.upstream.settings import UpstreamSettings

__all__ = ["backend", "shop"]  # fixtures

KERNEL_BYTES = 2 * sum(
    int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem")
)
"""The most that the kernel holds between a sender and a reader with a proxy between them."""


# ----- bytes of one connection in another -------------------------------------------------------------


async def test_one_users_response_does_not_reach_another(shop: Open) -> None:
    """Clients vanish at every stage, so that descriptors are closed and used again all the time (uvloop #645)."""
    chance = random.Random(1)
    whole = 0
    with (
        contextlib.closing(EchoServer("a", "127.0.66.24")) as first,
        contextlib.closing(EchoServer("b", "127.0.66.25")) as second,
    ):
        one = shop(first, second, queue=100)
        for number in (0, 1):
            one.server_is(number, maxconn=4)  # the others wait

        async def visit(number: int) -> None:
            nonlocal whole
            client = await one.client()
            patience = chance.randrange(12)  # in rounds of the loop; some have more than they need
            said = f"<{number}>".encode() * 50
            await client.send(said)
            if patience < 6:
                for _ in range(patience):
                    await asyncio.sleep(0)
                client.rst()
                return
            client.fin()
            got, end = await client.receive_all()
            assert (got[:2] in (b"a\n", b"b\n"), end) == (True, FIN)
            assert got[2:] == said
            whole += 1

        for batch in range(0, 300, 30):
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                for number in range(batch, batch + 30):
                    group.create_task(visit(number))
        assert 100 < whole < 200
        await one.empty()


@pytest.mark.parametrize("fast_reads", [1, math.inf], ids=["spliced", "copied"])
async def test_a_buffer_is_not_used_again_before_it_is_drained(
    shop: Open, backend: Backend, fast_reads: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections share the one that is read into: what a slow reader has not taken is no part of it."""
    monkeypatch.setattr(carrier, "FAST_READS", fast_reads)
    one = shop(backend)
    streams = []
    for number in range(3):
        client, server = await one.session(backend)
        data = random.Random(number).randbytes(1_000_003)
        sent = await server.send_until_blocked(data)
        server.fin()
        streams.append((client, server, (data * (sent // len(data) + 1))[:sent]))
    for client, server, data in streams:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await client.receive_all() == (data, FIN)
        client.fin()
        await server.expect_fin()
    await one.empty()
    assert one.count(FrontendColumn.PAUSES) >= 3, "they were slow indeed"


# ----- ends and resets ----------------------------------------------------------------------------------


async def test_half_close_is_not_lost(shop: Open, backend: Backend) -> None:
    """The reply comes after the client's FIN, and is whole (Envoy #2067, Traefik #5366)."""
    one = shop(backend)
    client, server = await one.session(backend)
    client.fin()
    await server.expect_fin()
    reply = random.Random(4).randbytes(3_000_001)
    async with asyncio.TaskGroup() as group:
        got = group.create_task(client.receive_all())
        await server.send(reply)
        server.fin()
    assert got.result() == (reply, FIN)
    await one.empty()


async def test_a_fin_timeout_ends_what_half_closed(shop: Open, backend: Backend) -> None:
    """Always: a side that is silent for ever after the other's FIN is not kept."""
    one = shop(backend, timeout_server_fin=0.05, timeout_client_fin=0.05)
    for who in (0, 1):
        both = await one.session(backend)
        both[who].fin()
        await both[1 - who].expect_fin()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await both[who].receive_all()
        await one.empty()


@pytest.mark.parametrize("who", [0, 1], ids=["client", "server"])
async def test_a_reset_after_a_fin_is_seen(shop: Open, backend: Backend, who: int) -> None:
    """After eof_received() → True asyncio does not read any more, and would not hear of it."""
    one = shop(backend)
    both = await one.session(backend)
    both[who].fin()
    await both[1 - who].expect_fin()
    both[who].rst()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await one.empty()
        await both[1 - who].expect_rst_after_fin()


@pytest.mark.parametrize("who", [0, 1], ids=["client", "server"])
async def test_a_reset_is_not_masked_as_a_fin(shop: Open, backend: Backend, who: int) -> None:
    """A truncated body must not look complete (Envoy #2703); what came before the reset is delivered."""
    one = shop(backend)
    both = await one.session(backend)
    await both[who].send(b"the first ha")
    await both[1 - who].expect(b"the first ha")
    both[who].rst()
    assert await both[1 - who].receive_all() == (b"", RST)
    await one.empty()


@pytest.mark.parametrize("who", [0, 1], ids=["client", "server"])
async def test_a_fin_is_not_turned_into_a_reset(shop: Open, backend: Backend, who: int) -> None:
    """Nor does closing drop what a slow reader has yet to read."""
    one = shop(backend)
    both = await one.session(backend)
    data = random.Random(5).randbytes(1_000_003)
    sent = await both[who].send_until_blocked(data)
    both[who].fin()
    async with asyncio.timeout(PATIENCE_SECONDS):
        got, end = await both[1 - who].receive_all()
    assert (len(got), end) == (sent, FIN)
    assert got == (data * (sent // len(data) + 1))[:sent]
    both[1 - who].fin()
    await one.empty()
    assert not both[who].was_reset()


# ----- what must have an end ------------------------------------------------------------------------------


async def test_idle_connections_do_not_leak(shop: Open, backend: Backend) -> None:
    one = shop(backend, timeout_client=0.05)
    before = len(os.listdir("/proc/self/fd"))
    pairs = [(await one.client(), await one.served(backend)) for _ in range(10)]
    for pair in pairs:
        for actor in pair:
            assert await actor.receive_all() == (b"", FIN)
            actor.close()
    await one.empty()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("table", [FrontendTable, BackendTable])
def test_no_time_out_is_infinite(table: type[pydantic.BaseModel]) -> None:
    """Neither by default (Envoy's idle_timeout = 0, haproxy #136) nor by wish."""
    timeouts = [name for name in table.model_fields if "timeout" in name]
    assert len(timeouts) >= 2
    for name in timeouts:
        assert 0 < table.model_fields[name].default < math.inf
        for endless in (0, -1, math.inf, math.nan):
            with pytest.raises(pydantic.ValidationError, match=name):
                table.model_validate({"name": "x", name: endless})


@pytest.mark.parametrize("fast_reads", [1, math.inf], ids=["spliced", "copied"])
async def test_memory_does_not_grow_behind_a_slow_reader(
    shop: Open, backend: Backend, fast_reads: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is held up when the kernel's buffers and ours are full (cpython #116279), and that is counted."""
    monkeypatch.setattr(carrier, "FAST_READS", fast_reads)
    one = shop(backend)
    client, server = await one.session(backend)
    async with asyncio.timeout(PATIENCE_SECONDS):
        sent = await server.send_until_blocked(bytes(1_000_000))
    assert BUFFER_BYTES < sent < KERNEL_BYTES + PIPE_BYTES
    (session,) = one.worker._sessions
    assert session.relay is not None
    assert 0 < session.relay._server.carrier.held <= PIPE_BYTES
    client.rst()
    await server.receive_all()
    await one.empty()
    assert one.count(FrontendColumn.PAUSES) >= 1  # the kernel may find more room once or twice


@pytest.mark.parametrize("how", ["it leaves", "the kernel alone knows", "it never came"])
async def test_a_socket_that_was_shut_down_does_not_spin_the_loop(
    shop: Open, backend: Backend, how: str
) -> None:
    """A listening socket that does not listen any more reports EPOLLHUP for ever."""
    one = shop(backend)
    await one.session(backend, one.elected)
    stop_listening(one.sockets[0])
    if how != "the kernel alone knows":
        one.say_state(active=False)
    if how == "it never came":
        one.say_state(active=True)
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(0.1)
    assert (time.process_time() - cpu) / (time.monotonic() - began) < 0.5
    one.take_address()
    await one.session(backend, one.elected)


async def test_an_end_does_not_wait_for_connections_that_stay(shop: Open, backend: Backend) -> None:
    """As wait_closed() does since 3.12.1 (cpython #104344): what is left when the time is up is reset."""
    one = shop(backend)
    one.server_is(0, maxconn=1)
    client, server = await one.session(backend)
    queued = await one.client()
    await eventually(lambda: one.count(BackendColumn.WAITING) == 1)
    await one.drain(0.05)
    for actor in (client, server, queued):
        await actor.expect_rst()
    assert one.count(FrontendColumn.KILLED) == 2


# ----- checks ---------------------------------------------------------------------------------------------


async def test_a_cancellation_is_not_swallowed(backend: Backend) -> None:
    """By wait_for(), on 3.11, when it comes together with what was waited for (cpython #107547)."""
    backend.listen(1000)
    settings = UpstreamSettings(inter=0.01, check_timeout=PATIENCE_SECONDS)
    for rounds in range(40):  # of the loop: a whole check, and more
        server = Server("s", Endpoint(backend.host, backend.port))
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            checking = group.create_task(Checker([server], settings, random=lambda: 0.0).run())
            for _ in range(rounds):
                await asyncio.sleep(0)
            checking.cancel()
        assert checking.cancelled()
        with contextlib.suppress(BlockingIOError):
            backend.accept()[0].close()


async def test_checks_do_not_come_in_herds() -> None:
    """Each begins at a time of its own, and none keeps step with another (Envoy #4132, haproxy #2145).

    What counts is when each of them was due: a machine that stalls makes several at once.
    """
    interval, many = 0.3, 20
    settings = UpstreamSettings(inter=interval, fastinter=interval, check_timeout=PATIENCE_SECONDS)
    due: dict[Server, list[float]] = {}

    def checked(server: Server, result: Result) -> None:
        assert result.passed
        due[server].append(checker._watches[server].health.deadline)

    with contextlib.ExitStack() as stack:
        for number in range(many):
            one = stack.enter_context(contextlib.closing(Backend("127.0.66.26"))).listen()
            due[Server(f"s{number}", Endpoint(one.host, one.port))] = []
        checker = Checker(list(due), settings, random=random.Random(2).random, on_result=checked)
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(checker.run())
            await eventually(lambda: all(len(times) >= 3 for times in due.values()))
            checking.cancel()
    first, later = ([times[turn] for times in due.values()] for turn in (0, 2))
    assert max(first) - min(first) > interval / 4
    overtaken = sum(
        (first[one] < first[other]) != (later[one] < later[other])
        for one, other in itertools.combinations(range(many), 2)
    )
    assert overtaken >= many / 4  # a machine that stalls for longer than an interval keeps their order
