"""Plays of time: each time-out ends a connection, for the right side and no earlier than it says."""

from __future__ import annotations

import asyncio

from plays import CHUNK_BYTES, FIN, RST, Actor, Stage, play

TIMEOUT = 0.08
EARLY = 0.001  # uvloop's clock counts milliseconds
LONG = 10.0


@play(client=TIMEOUT)
async def test_an_idle_client(stage: Stage) -> None:
    await stage.client.send(b"hello")
    await stage.server.expect(b"hello")
    outcome = await stage.end()
    assert outcome.state == "cD"
    assert TIMEOUT - EARLY <= outcome.duration < LONG
    await stage.client.expect_fin()
    await stage.server.expect_fin()


@play(server=TIMEOUT)
async def test_an_idle_server(stage: Stage) -> None:
    await stage.client.send(b"hello")
    await stage.server.expect(b"hello")
    outcome = await stage.end()
    assert outcome.state == "sD"
    assert TIMEOUT - EARLY <= outcome.duration < LONG
    await stage.client.expect_fin()
    await stage.server.expect_fin()


@play(client=TIMEOUT, server=TIMEOUT)
async def test_when_both_are_idle_the_client_is_named_as_haproxy_does(stage: Stage) -> None:
    assert (await stage.end()).state == "cD"
    await stage.client.expect_fin()
    await stage.server.expect_fin()


@play(client=TIMEOUT, server=TIMEOUT)
async def test_bytes_in_one_direction_keep_both_sides_alive(stage: Stage) -> None:
    """A download longer than the client's time-out: the client says nothing, but it takes."""
    for _ in range(12):
        await asyncio.sleep(TIMEOUT / 4)
        await stage.server.send(b"tick")
        await stage.client.expect(b"tick")
    outcome = await stage.end()
    assert outcome.duration >= 4 * TIMEOUT
    assert outcome.bytes_out == 12 * len(b"tick")
    await stage.client.expect_fin()
    await stage.server.expect_fin()


@play(small="both", client=3 * TIMEOUT, server=TIMEOUT)
async def test_a_client_that_does_not_take(stage: Stage) -> None:
    """Nothing is expected of the server, which is not being read, though its time-out is the shorter one."""
    await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    outcome = await stage.end()
    assert outcome.state == "cD"
    assert outcome.duration >= 3 * TIMEOUT - EARLY
    received, end = await stage.client.receive_all()
    assert end == RST, "it must not take a part for the whole"
    assert len(received) <= outcome.bytes_out
    await stage.server.expect_rst()


@play(small="both", client=TIMEOUT, server=3 * TIMEOUT)
async def test_a_server_that_does_not_take(stage: Stage) -> None:
    await stage.client.send_until_blocked(b"x" * CHUNK_BYTES)
    outcome = await stage.end()
    assert outcome.state == "sD"
    assert (await stage.server.receive_all())[1] == RST
    await stage.client.expect_rst()


@play(small="both", client=LONG, server=TIMEOUT)
async def test_a_paused_server_has_its_whole_time_again_afterwards(stage: Stage) -> None:
    sent = await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    await asyncio.sleep(2 * TIMEOUT)
    await stage.client.expect(b"x" * sent)
    await stage.server.send(b"and more")
    await stage.client.expect(b"and more")
    assert (await stage.end()).state == "sD"
    await stage.client.expect_fin()
    await stage.server.expect_fin()


@play(server_fin=TIMEOUT, server=LONG)
async def test_server_fin_counts_after_the_clients_fin(stage: Stage) -> None:
    await stage.client.send(b"request")
    stage.client.fin()
    await stage.server.expect(b"request")
    await stage.server.expect_fin()
    outcome = await stage.end()
    assert outcome.state == "sD"
    assert TIMEOUT - EARLY <= outcome.duration < LONG
    await stage.client.expect_fin()


@play(client_fin=TIMEOUT, client=LONG)
async def test_client_fin_counts_after_the_servers_fin(stage: Stage) -> None:
    await stage.server.send(b"reply")
    stage.server.fin()
    await stage.client.expect(b"reply")
    await stage.client.expect_fin()
    outcome = await stage.end()
    assert outcome.state == "cD"
    assert TIMEOUT - EARLY <= outcome.duration < LONG
    await stage.server.expect_fin()


@play(client=TIMEOUT, client_fin=TIMEOUT, server_fin=6 * TIMEOUT, server=TIMEOUT)
async def test_nothing_is_expected_of_a_client_that_said_fin(stage: Stage) -> None:
    """It may wait for its reply as long as the server may think, and a fin time-out may also be the longer one."""
    stage.client.fin()
    await stage.server.expect_fin()
    await asyncio.sleep(3 * TIMEOUT)
    await stage.server.send(b"at last")
    stage.server.fin()
    assert await stage.client.receive_all() == (b"at last", FIN)
    assert (await stage.end()).state == "--"


@play(server_fin=TIMEOUT, server=LONG)
async def test_activity_postpones_a_fin_timeout(stage: Stage) -> None:
    stage.client.fin()
    await stage.server.expect_fin()
    for _ in range(8):
        await asyncio.sleep(TIMEOUT / 3)
        await stage.server.send(b"tick")
        await stage.client.expect(b"tick")
    stage.server.fin()
    await stage.client.expect_fin()
    outcome = await stage.end()
    assert outcome.state == "--"
    assert outcome.duration > 2 * TIMEOUT


@play(client=TIMEOUT, client_fin=TIMEOUT)
async def test_the_last_idle_time_counts_from_the_fin_not_from_before(stage: Stage) -> None:
    """A FIN that is passed on is activity: client_fin starts with it."""
    await asyncio.sleep(TIMEOUT * 0.7)
    stage.server.fin()
    await stage.client.expect_fin()
    outcome = await stage.end()
    assert outcome.duration >= TIMEOUT * 1.6
    await stage.server.expect_fin()


@play(small="client", started=False, client=TIMEOUT, server=LONG)
async def test_waiting_for_a_client_begins_with_the_first_bytes_for_it(stage: Stage) -> None:
    """Not one of them is taken, so nothing but their coming is the client's activity."""
    kernel = Actor(stage.sockets[0])
    old = await kernel.send_until_blocked(b"x" * CHUNK_BYTES)
    stage.relay.start()
    await asyncio.sleep(TIMEOUT * 0.7)
    while more := kernel.send_some(b"x" * CHUNK_BYTES):
        old += more
    await stage.server.send(b"y")
    outcome = await stage.end()
    assert (outcome.state, outcome.bytes_out) == ("cD", 0)
    assert outcome.duration >= TIMEOUT * 1.6
    received, end = await stage.client.receive_all()
    assert (len(received) <= old, end) == (True, RST)
    await stage.server.expect_fin()


@play(client=TIMEOUT)
async def test_no_time_is_up_after_the_end(stage: Stage) -> None:
    stage.client.fin()
    stage.server.fin()
    assert (await stage.end()).state == "--"
    await stage.client.expect_fin()
    await stage.server.expect_fin()
    await asyncio.sleep(2 * TIMEOUT)
