"""Plays of resets: RST stays RST, keeps its place behind the bytes before it, and never stands for a FIN."""

from __future__ import annotations

import asyncio

from plays import CHUNK_BYTES, FIN, RST, Stage, play

REPLY = b"HTTP/1.1 413 Content Too Large\r\n\r\n"


@play()
async def test_the_client_resets_in_mid_stream(stage: Stage) -> None:
    await stage.client.send(b"half a requ")
    await stage.server.expect(b"half a requ")
    stage.client.rst()
    await stage.server.expect_rst()
    outcome = await stage.end()
    assert (outcome.state, outcome.bytes_in) == ("CD", 11)


@play()
async def test_the_server_resets_in_mid_stream(stage: Stage) -> None:
    await stage.server.send(b"half a rep")
    await stage.client.expect(b"half a rep")
    stage.server.rst()
    await stage.client.expect_rst()
    outcome = await stage.end()
    assert (outcome.state, outcome.bytes_out) == ("SD", 10)


@play()
async def test_bytes_and_reset_of_the_client_in_one_event(stage: Stage) -> None:
    """uvloop reports them once and drops the watcher; the reset must be seen nevertheless."""
    await stage.client.send(b"half a requ")
    stage.client.rst()
    assert await stage.server.receive_all() == (b"half a requ", RST)
    assert (await stage.end()).state == "CD"


@play()
async def test_bytes_and_reset_of_the_server_in_one_event(stage: Stage) -> None:
    await stage.server.send(b"half a rep")
    stage.server.rst()
    assert await stage.client.receive_all() == (b"half a rep", RST)
    assert (await stage.end()).state == "SD"


@play()
async def test_more_bytes_than_the_buffer_and_a_reset(stage: Stage) -> None:
    """What the kernel had taken before the reset arrives whole."""
    sent = stage.server.send_some(bytes(3 * CHUNK_BYTES))
    stage.server.rst()
    received, end = await stage.client.receive_all()
    assert end == RST
    assert 0 < len(received) <= sent
    assert (await stage.end()).bytes_out == len(received)


@play(started=False)
async def test_the_client_vanished_before_the_start(stage: Stage) -> None:
    await stage.client.send(b"hello")
    stage.client.rst()
    stage.relay.start()
    assert await stage.server.receive_all() == (b"hello", RST)
    assert (await stage.end()).state == "CD"


@play(started=False)
async def test_the_server_vanished_before_the_start(stage: Stage) -> None:
    stage.server.rst()
    await stage.client.send(b"hello")
    stage.relay.start()
    await stage.client.expect_rst()
    assert (await stage.end()).state == "SD"


@play(started=False)
async def test_both_vanished_before_the_start(stage: Stage) -> None:
    stage.client.rst()
    stage.server.rst()
    stage.relay.start()
    assert (await stage.end()).state in ("CD", "SD")


@play()
async def test_an_early_reply_survives_the_reset_behind_it(stage: Stage) -> None:
    """The server refuses an upload and closes with bytes unread: its kernel sends RST, and no FIN."""
    await stage.client.send(b"x" * 100_000)
    await stage.server.expect(b"x" * 50_000)
    while not stage.server.unread_bytes():  # noqa: ASYNC110 - the relay may pass it on in several pieces
        await asyncio.sleep(0)
    await stage.server.send(REPLY)
    stage.server.close()
    assert await stage.client.receive_all() == (REPLY, RST)
    assert (await stage.end()).state == "SD"


@play()
async def test_an_early_reply_and_fin_while_the_client_uploads(stage: Stage) -> None:
    """The server closes with nothing unread; the next bytes of the upload meet a closed socket."""
    await stage.server.send(REPLY)
    stage.server.close()
    await stage.client.expect(REPLY)
    await stage.client.expect_fin()
    await stage.client.send_until_reset(b"x" * CHUNK_BYTES)
    assert (await stage.end()).state == "SD"


@play(small="client")
async def test_a_fin_is_not_lost_to_the_reset_that_follows_it(stage: Stage) -> None:
    """The relay learns of the reset by sending, while a part of the reply and the FIN are still unread."""
    reply = b"r" * 40_000
    await stage.server.send(reply)
    stage.server.fin()
    stage.server.rst()
    await stage.client.send(b"more")
    assert await stage.client.receive_all() == (reply, FIN)
    outcome = await stage.end()
    assert (outcome.state, outcome.pauses > 0) == ("SD", True)
    await stage.client.expect_rst_after_fin()


async def _fill_the_kernel(stage: Stage) -> bytes:
    """The relay has passed all on, but the client's kernel has no room for the last of it."""
    sent = 0
    while stage.under_way_to_client() < 3000:
        await stage.server.send(b"x" * 500)
        sent += 500
        await asyncio.sleep(0.002)
    return b"x" * sent


@play(small="client")
async def test_a_reset_waits_for_the_acknowledgement_of_what_came_before(stage: Stage) -> None:
    """The relay holds nothing any more, but its kernel does: closing with a reset would lose that."""
    sent = await _fill_the_kernel(stage)
    stage.server.rst()
    await asyncio.sleep(0.03)  # time enough to pass the reset on too early
    assert await stage.client.receive_all() == (sent, RST)
    outcome = await stage.end()
    assert (outcome.state, outcome.pauses) == ("SD", 0)


@play(small="client", client_fin=0.1)
async def test_an_acknowledgement_that_never_comes(stage: Stage) -> None:
    await _fill_the_kernel(stage)
    stage.server.rst()
    outcome = await stage.end()
    assert (outcome.state, outcome.pauses) == ("SD", 0)
    assert 0.09 <= outcome.duration < 5
    assert (await stage.client.receive_all())[1] == RST


@play()
async def test_both_reset_at_once_after_a_half_close(stage: Stage) -> None:
    """Both alarms ring in one round; the first ends the relay."""
    stage.client.fin()
    await stage.server.expect_fin()
    await stage.server.send(b"and it is acknowledged")
    await stage.client.expect(b"and it is acknowledged")
    stage.client.rst()
    stage.server.rst()
    assert (await stage.end()).state in ("CD", "SD")


@play()
async def test_the_clients_fin_and_the_servers_reset_at_once(stage: Stage) -> None:
    """Both have said all that they had to say. Whichever is seen first ends the connection."""
    stage.server.fin()
    await stage.client.expect_fin()
    stage.client.fin()
    stage.server.rst()
    assert (await stage.end()).state in ("--", "SD")


@play()
async def test_the_client_resets_after_its_fin_while_the_server_is_silent(stage: Stage) -> None:
    await stage.client.send(b"request")
    stage.client.fin()
    await stage.server.expect(b"request")
    await stage.server.expect_fin()
    stage.client.rst()
    assert (await stage.end()).state == "CD"
    await stage.server.expect_rst_after_fin()


@play()
async def test_the_client_resets_after_its_fin_while_the_server_replies(stage: Stage) -> None:
    stage.client.fin()
    await stage.server.expect_fin()
    stage.client.rst()
    await stage.server.send_until_reset(b"x" * CHUNK_BYTES)
    assert (await stage.end()).state == "CD"


@play()
async def test_the_server_resets_after_its_fin_while_the_client_is_silent(stage: Stage) -> None:
    stage.server.fin()
    await stage.client.expect_fin()
    stage.server.rst()
    assert (await stage.end()).state == "SD"
    await stage.client.expect_rst_after_fin()


@play()
async def test_the_server_resets_instead_of_replying_after_the_clients_fin(stage: Stage) -> None:
    """The client waits for the reply: it must not take the reset for an empty one."""
    await stage.client.send(b"request")
    stage.client.fin()
    await stage.server.expect(b"request")
    await stage.server.expect_fin()
    await stage.server.send(b"half a rep")
    stage.server.rst()
    assert await stage.client.receive_all() == (b"half a rep", RST)
    assert (await stage.end()).state == "SD"


@play()
async def test_a_last_reply_with_fin_and_reset_at_once_is_whole(stage: Stage) -> None:
    """The same, but the server said FIN before its reset: all that the client waits for has come."""
    stage.client.fin()
    await stage.server.expect_fin()
    await stage.server.send(b"reply")
    stage.server.fin()
    stage.server.rst()
    assert await stage.client.receive_all() == (b"reply", FIN)
    await stage.end()


@play(small="both")
async def test_a_reset_behind_bytes_that_wait_for_a_slow_reader(stage: Stage) -> None:
    sent = await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    stage.server.rst()
    received, end = await stage.client.receive_all()
    assert end == RST
    assert 0 < len(received) <= sent
    outcome = await stage.end()
    assert (outcome.state, outcome.bytes_out) == ("SD", len(received))


@play(small="both", client=10, client_fin=0.1)
async def test_a_reader_that_never_takes_the_bytes_before_a_reset(stage: Stage) -> None:
    await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    stage.server.rst()
    await stage.client.expect(b"x")
    outcome = await stage.end()
    assert outcome.state == "SD"
    assert outcome.duration < 5
    assert (await stage.client.receive_all())[1] == RST


@play(small="both")
async def test_a_stalled_reader_that_resets_frees_the_sender(stage: Stage) -> None:
    await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    stage.client.rst()
    await stage.server.expect_rst()
    assert (await stage.end()).state == "CD"


@play(small="both", client=1, client_fin=1, server=1, server_fin=1)
async def test_the_last_words_of_a_stalled_reader(stage: Stage) -> None:
    """Bytes and reset in one event, while the relay waits both to read and to write: uvloop drops both watchers."""
    await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    await stage.client.send(b"enough")
    stage.client.rst()
    assert await stage.server.receive_all() == (b"enough", RST)
    assert (await stage.end()).duration < 0.9


@play(small="both")
async def test_a_sender_that_resets_while_both_are_stalled(stage: Stage) -> None:
    await stage.server.send_until_blocked(b"s" * CHUNK_BYTES)
    await stage.client.send_until_blocked(b"c" * CHUNK_BYTES)
    stage.server.rst()
    assert (await stage.client.receive_all())[1] == RST
    assert (await stage.end()).state == "SD"


@play()
async def test_abort_resets_both_sides(stage: Stage) -> None:
    await stage.client.send(b"request")
    await stage.server.expect(b"request")
    stage.relay.abort()
    assert stage.outcomes[0].state == "KD"
    await stage.client.expect_rst()
    await stage.server.expect_rst()


@play(small="both")
async def test_abort_while_stalled(stage: Stage) -> None:
    await stage.server.send_until_blocked(b"x" * CHUNK_BYTES)
    stage.relay.abort("U")
    stage.relay.abort("K")
    assert [outcome.state for outcome in stage.outcomes] == ["UD"]
    assert (await stage.client.receive_all())[1] == RST
    await stage.server.expect_rst()


@play()
async def test_abort_after_a_half_close(stage: Stage) -> None:
    stage.client.fin()
    await stage.server.expect_fin()
    stage.relay.abort()
    await stage.client.expect_rst()
    await stage.server.expect_rst_after_fin()


@play(started=False)
async def test_abort_before_the_start(stage: Stage) -> None:
    stage.relay.abort()
    await stage.client.expect_rst()
    await stage.server.expect_rst()
    assert stage.outcomes[0].state == "KD"
