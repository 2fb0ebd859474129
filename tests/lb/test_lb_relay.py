"""Plays of bytes and ends: what goes in comes out, in order, once; FIN stays FIN."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import threading

from plays import CHUNK_BYTES, FIN, Actor, Stage, connected, play

from scaleup.lb.engine import BUFFER_BYTES, URGENT
from scaleup.lb.relay import Outcome, Relay, Timeouts


@play()
async def test_a_request_and_its_reply(stage: Stage) -> None:
    await stage.client.send(b"request")
    await stage.server.expect(b"request")
    await stage.server.send(b"reply")
    await stage.client.expect(b"reply")
    stage.client.fin()
    await stage.server.expect_fin()
    stage.server.fin()
    await stage.client.expect_fin()
    outcome = await stage.end()
    assert (outcome.state, outcome.bytes_in, outcome.bytes_out, outcome.pauses) == ("--", 7, 5, 0)
    assert 0 <= outcome.duration < 5


@play()
async def test_the_server_speaks_first(stage: Stage) -> None:
    await stage.server.send(b"220 ready")
    await stage.client.expect(b"220 ready")
    await stage.client.send(b"HELO")
    await stage.server.expect(b"HELO")
    stage.server.close()
    await stage.client.expect_fin()
    stage.client.close()


@play(started=False)
async def test_bytes_that_waited_before_the_start(stage: Stage) -> None:
    await stage.client.send(b"early")
    await stage.server.send(b"banner")
    stage.client.fin()
    stage.relay.start()
    await stage.server.expect(b"early")
    await stage.server.expect_fin()
    await stage.client.expect(b"banner")
    stage.server.fin()
    await stage.client.expect_fin()


@play()
async def test_the_reply_comes_after_the_clients_fin(stage: Stage) -> None:
    await stage.client.send(b"all I have to say")
    stage.client.fin()
    await stage.server.expect(b"all I have to say")
    await stage.server.expect_fin()
    for number in range(10):
        await stage.server.send(b"line %d\n" % number)
        await stage.client.expect(b"line %d\n" % number)
    stage.server.fin()
    await stage.client.expect_fin()
    assert (await stage.end()).state == "--"


@play()
async def test_the_upload_goes_on_after_the_servers_fin(stage: Stage) -> None:
    await stage.server.send(b"go ahead")
    stage.server.fin()
    await stage.client.expect(b"go ahead")
    await stage.client.expect_fin()
    for number in range(10):
        await stage.client.send(b"record %d\n" % number)
        await stage.server.expect(b"record %d\n" % number)
    stage.client.fin()
    await stage.server.expect_fin()
    assert (await stage.end()).state == "--"


@play()
async def test_a_fin_does_not_overtake_bytes_that_wait(stage: Stage) -> None:
    """The server has long closed when the client begins to read: all bytes, then FIN."""
    sent = await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    stage.server.close()
    assert await stage.client.receive_all() == (b"x" * sent, FIN)


@play()
async def test_both_close_at_once(stage: Stage) -> None:
    await stage.client.send(b"bye")
    await stage.server.send(b"farewell")
    stage.client.fin()
    stage.server.fin()
    await stage.client.expect(b"farewell")
    await stage.server.expect(b"bye")
    await stage.client.expect_fin()
    await stage.server.expect_fin()
    assert (await stage.end()).state == "--"


@play(started=False)
async def test_both_closed_before_the_start(stage: Stage) -> None:
    stage.client.close()
    stage.server.close()
    stage.relay.start()
    assert (await stage.end()).state == "--"


@play()
async def test_segments_of_one_byte(stage: Stage) -> None:
    for number in range(256):
        await stage.client.send(bytes([number]))
        await stage.server.expect(bytes([number]))
        await stage.server.send(bytes([255 - number]))
        await stage.client.expect(bytes([255 - number]))
    stage.client.fin()
    await stage.server.expect_fin()
    stage.server.fin()
    await stage.client.expect_fin()
    outcome = await stage.end()
    assert (outcome.bytes_in, outcome.bytes_out) == (256, 256)


@play()
async def test_100_mb_each_way_at_once(stage: Stage) -> None:
    size = 100_000_000
    block = random.Random(2).randbytes(3_333_333)  # no multiple of any buffer

    async def send(actor: Actor) -> str:
        digest = hashlib.sha256()
        for start in range(0, size, len(block)):
            piece = block[: size - start]
            digest.update(piece)
            await actor.send(piece)
        actor.fin()
        return digest.hexdigest()

    async def receive(actor: Actor) -> str:
        digest = hashlib.sha256()
        while piece := await actor.receive():
            digest.update(piece)
        return digest.hexdigest()

    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(send(actor)) for actor in (stage.client, stage.server)]
        received = [group.create_task(receive(actor)) for actor in (stage.server, stage.client)]
    assert [task.result() for task in sent] == [task.result() for task in received]
    outcome = await stage.end()
    assert (outcome.state, outcome.bytes_in, outcome.bytes_out) == ("--", size, size)


async def _stall_and_resume(stage: Stage, sender: Actor, reader: Actor) -> None:
    """A reader that does not read stops the sender after a bounded number of bytes; then it reads all of them."""
    limit = stage.queue_bytes() + BUFFER_BYTES
    data = random.Random(3).randbytes(1_000_003)
    sent = await sender.send_until_blocked(data)
    assert 0 < sent <= limit
    waiting = [side.carrier.held for side in (stage.relay._client, stage.relay._server)]
    assert 0 < sum(waiting) <= BUFFER_BYTES
    sender.fin()
    received, end = await reader.receive_all()
    assert received == (data * (sent // len(data) + 1))[:sent]
    assert end == FIN
    reader.fin()
    await sender.expect_fin()
    outcome = await stage.end()
    assert outcome.state == "--"
    assert outcome.pauses >= 1
    assert max(outcome.bytes_in, outcome.bytes_out) == sent


@play(small="both")
async def test_a_client_that_stalls_stops_the_server(stage: Stage) -> None:
    await _stall_and_resume(stage, stage.server, stage.client)


@play(small="both")
async def test_a_server_that_stalls_stops_the_client(stage: Stage) -> None:
    await _stall_and_resume(stage, stage.client, stage.server)


@play(small="both")
async def test_a_stalled_direction_does_not_hold_up_the_other(stage: Stage) -> None:
    sent = await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    for _ in range(100):
        await stage.client.send(b"still here")
        await stage.server.expect(b"still here")
    stage.server.fin()
    received, end = await stage.client.receive_all()
    assert (len(received), end) == (sent, FIN)
    stage.client.fin()
    await stage.server.expect_fin()


@play(small="both")
async def test_both_stall_and_both_resume(stage: Stage) -> None:
    sent = await stage.server.send_until_blocked(b"s" * CHUNK_BYTES)
    also = await stage.client.send_until_blocked(b"c" * CHUNK_BYTES)
    stage.server.fin()
    stage.client.fin()
    assert await stage.client.receive_all() == (b"s" * sent, FIN)
    assert await stage.server.receive_all() == (b"c" * also, FIN)
    assert (await stage.end()).state == "--"


@play()
async def test_descriptors_reused_in_the_same_round(stage: Stage) -> None:
    """Each end starts the next connection from within on_end: it gets the descriptors that were just closed."""
    finished = asyncio.Event()
    outcomes: list[Outcome] = []
    used: set[int] = set()
    actors: list[socket.socket] = []

    def begin() -> None:
        client, relays_client = connected()
        relays_server, server = connected()
        used.update((relays_client.fileno(), relays_server.fileno()))
        actors.extend((client, server))
        relay = Relay(stage.engine, relays_client, relays_server, Timeouts(10, 10, 10, 10), ended)
        relay.start()
        client.send(b"x" * (len(outcomes) + 1))
        client.shutdown(socket.SHUT_WR)
        server.shutdown(socket.SHUT_WR)

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        for actor in actors:
            actor.close()
        actors.clear()
        if len(outcomes) == 50:
            finished.set()
        else:
            begin()

    begin()
    await finished.wait()
    assert [outcome.bytes_in for outcome in outcomes] == list(range(1, 51))
    assert len(used) < 20, "descriptors were indeed reused"
    stage.relay.abort()


@play()
async def test_urgent_data_in_a_fast_stream_do_not_hold_up_what_is_behind_them(stage: Stage) -> None:
    """A splice stops at them and says EAGAIN; only recv steps over them."""
    for _ in range(4):
        await stage.client.send(b"x" * 1000)
        await stage.server.expect(b"x" * 1000)
    stage.client.send_urgent(b"!")
    await stage.client.send(b"behind")
    await stage.server.expect(b"behind")
    stage.client.fin()
    await stage.server.expect_fin()
    stage.server.fin()
    await stage.client.expect_fin()


@play(small="both")
async def test_a_signal_in_the_middle_of_a_stream_does_not_stall_it(stage: Stage) -> None:
    """A splice ends early for a signal; a target that took a part is not full for that reason."""
    payload = random.Random(1).randbytes(8 * 1024 * 1024)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    hits = threading.Event()

    def disturb() -> None:
        while not hits.wait(0.002):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stage.client.send(payload))
            await stage.server.expect(payload)
    finally:
        hits.set()
        thread.join()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    stage.client.fin()
    await stage.server.expect_fin()
    stage.server.fin()
    await stage.client.expect_fin()


@play(started=False)
async def test_a_client_that_was_reset_before_the_start_closes_both(stage: Stage) -> None:
    """What it was told of was urgent data; the reset came meanwhile."""
    stage.client.send_urgent(b"!")
    stage.client.rst()
    stage.relay.start(client_events=URGENT)
    assert (await stage.end()).state == "CD"
    await stage.server.expect_rst()
    assert all(fd not in stage.engine._watches for fd in stage.descriptors), "a number may be used again"
