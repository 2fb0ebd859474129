"""Where a message ends, and to whom its bytes belong: on connections that break off, half close, or are kept."""

import asyncio
import gzip
import random
import socket
from pathlib import Path

import pytest
from web_harness import SECONDS, Application, Client, Seen, Web, ok, running, unchunked, until

from scaleup.processes.tasks import Tasks
from scaleup.upstream.server_settings import ServerSettings
from scaleup.web import connection, forward, tunnel
from scaleup.web.body import Body
from scaleup.web.connection import Connection
from scaleup.web.exchange import Upload
from scaleup.web.framing import CHUNKS_AT_ONCE
from scaleup.web.origin import Origin
from scaleup.web.problems import Problem
from scaleup.web.stream import Stream
from scaleup.web.syntax import MAX_LINE_BYTES

SMALL_BUFFER = 4096


async def connect_narrowly(web: Web) -> tuple[Client, Connection]:
    """With small buffers in the kernel, so that what the client does not read stays with us; and our side of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (web.endpoint.host, web.endpoint.port))
    client = Client(*await asyncio.open_connection(sock=sock))
    client.writer.transport.pause_reading()
    await until(lambda: any(connection.was_connected for connection in web.clients._open))
    (ours,) = web.clients._open
    ours.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    return client, ours


def idle(web: Web) -> list[Stream]:
    """The connections to the application that wait for a next request."""
    assert web.server._forwarder is not None
    return [connection for connection, _ in web.server._forwarder._origins["app1"]._idle]


async def test_a_body_that_its_connection_ends_is_complete_also_for_a_client_that_takes_it_slowly() -> None:
    """The application has closed long before its last bytes have gone to the client."""
    parts = [bytes([i]) * 50_000 for i in range(3)]
    has_closed = asyncio.Event()

    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\n\r\n")
        for count, part in enumerate(parts[:2], 1):
            await seen.answer(part)
            await until(lambda count=count: ours.written >= 50_000 * count)
        await seen.answer(parts[2])  # waits with us, behind what the client has not taken
        seen.writer.write_eof()
        await seen.reader.read()
        has_closed.set()

    async with running(Application(behave)) as web:
        client, ours = await connect_narrowly(web)
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await has_closed.wait()
        client.writer.transport.resume_reading()
        _, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert unchunked(body) == b"".join(parts)
        client.writer.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_that_we_break_off_never_looks_complete(version: str) -> None:
    """Its end would be that of the connection, which we close because the request turns out to be broken."""

    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await seen.reader.read()

    async with running(Application(behave), max_body=1000, body_timeout=0.5) as web:
        client = await web.connect()
        client.writer.write(f"POST /api/ HTTP/{version}\r\nHost: a\r\nContent-Length: 9\r\n\r\nslow".encode())
        await client.head()
        await client.reader.readuntil(b"hello")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        client.writer.close()
        await until(lambda: web.metric("requests_total", kind="forward", code="4xx") == 1)
        assert web.metric("upstream_failures_total", server="app1", reason="cut_off") == 0


async def test_what_comes_on_an_idle_connection_is_seen_also_when_reading_had_paused() -> None:
    """A large response came faster than its client took it; then the application says more than was asked for."""
    go = asyncio.Event()

    async def behave(seen: Seen) -> None:
        if len(app.seen) > 1:
            await seen.answer(ok(b"second"))
            return
        await seen.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(50_000))
        await until(lambda: ours.written >= 50_000)
        await seen.answer(bytes(50_000))
        await until(lambda: ours.written >= 100_000)
        await seen.answer(bytes(100_000))  # more than is read ahead
        await go.wait()
        await seen.answer(ok(b"stray"))

    app = Application(behave)
    async with running(app) as web:
        client, ours = await connect_narrowly(web)
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: ours.written >= 100_000)
        client.writer.transport.resume_reading()
        assert (await client.answer()).body == bytes(200_000)
        await until(lambda: bool(idle(web)))
        (kept,) = idle(web)
        go.set()
        await until(lambda: bool(kept.received))
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).body == b"second"
        client.writer.close()


async def test_an_idle_connection_is_closed_although_the_application_leaves_bytes_of_a_request_unread() -> (
    None
):
    """It has answered early, and would be waited for without end."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        server = ServerSettings.model_validate(f"app1=127.0.0.1:{deaf.getsockname()[1]}").server()
        origin = Origin(server, keepalive=60.0)
        connection = await origin.connect(5.0)
        connection.write(bytes(16 * 1024 * 1024))
        origin._idle.append((connection, connection.loop.time() + 60.0))  # `keep` would not
        origin.close()
        await until(lambda: connection.is_lost)


@pytest.mark.parametrize("size", [16 * 1024, 16 * 1024 * 1024])
async def test_a_connection_on_which_a_request_was_not_taken_is_not_kept(size: int) -> None:
    """The application has answered early; what it left unread stands before the next request. `size`: in our
    kernel, or with us.
    """
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        server = ServerSettings.model_validate(f"app1=127.0.0.1:{deaf.getsockname()[1]}").server()
        origin = Origin(server, keepalive=60.0)
        fresh, connection = [await origin.connect(5.0) for _ in range(2)]
        fresh.write(b"GET")
        fresh._send_unsent()
        await until(lambda: not fresh.has_untaken)
        connection.write(bytes(size))
        origin.keep(connection, had_body=True)
        assert origin.reuse() is None
        await until(lambda: connection.is_lost)
        origin.keep(fresh, had_body=True)
        assert origin.reuse() is fresh
        fresh.abort()
        await until(lambda: fresh.is_lost)


async def test_a_client_that_has_left_before_it_was_told_to_continue_has_failed() -> None:
    """And not the application, which would be given all of its time for a body that does not come."""
    stream = Stream(asyncio.get_running_loop())
    stream.is_lost = True
    body = Body(stream, 5, limit=10, grace=1.0, is_awaited=True)
    with pytest.raises(Problem, match="cut off"):
        await body.next_piece()


async def silent(seen: Seen) -> None:
    await seen.reader.read()


async def test_a_client_that_leaves_behind_what_it_does_not_take_is_forgotten(tmp_path: Path) -> None:
    """It has asked twice, takes nothing, and half closes: its first response is still with us then."""
    (tmp_path / "file").write_bytes(bytes(50_000))
    app = Application(silent)
    async with running(app, root=tmp_path) as web:
        client, ours = await connect_narrowly(web)
        client.writer.write(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\nGET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(app.seen))
        assert ours.has_unsent
        client.writer.write_eof()
        try:
            await until(lambda: web.metric("connections") == 0)
        finally:
            client.reset()


async def test_a_response_that_a_drain_cuts_off_is_told_of() -> None:
    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await seen.reader.read()

    async with running(Application(behave)) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.0\r\n\r\n")
        await client.reader.readuntil(b"hello")
        await web.clients.drain(0.01)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert web.metric("requests_total", kind="forward", code="5xx") == 1
        client.writer.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_a_drain_cuts_off_before_its_response_is_told_of(method: str) -> None:
    app = Application(silent)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(f"{method} /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
        await until(lambda: bool(app.seen))
        await web.clients.drain(0.01)
        assert web.metric("requests_total", kind="forward", code="5xx") == 1
        assert [(access.status, access.sent) for access in web.accesses] == [(502, 0)]
        client.reset()


async def test_not_any_number_of_writes_is_seen_through_for_clients_that_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "MAX_LEFT_ALONE", 1)
    app = Application(silent)
    async with running(app) as web:
        for count in (1, 2, 3):
            client = await web.connect()
            client.writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await until(lambda count=count: len(app.seen) == count)
            client.reset()
            await until(lambda count=count: web.metric("requests_total", kind="forward", code="499") == count)
        await until(lambda: web.pool.servers[0].sessions == 1)
        await until(lambda: all(seen.reader.at_eof() for seen in app.seen[1:]))
        assert not app.seen[0].reader.at_eof()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_leaves_while_nothing_comes_frees_the_application(method: str) -> None:
    """Of a stream of events, for instance. What writes is seen through."""

    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n")
        await seen.reader.read()

    app = Application(behave)
    async with running(app, response_timeout=60.0 if method == "GET" else 0.5) as web:
        client = await web.connect()
        client.writer.write(f"{method} /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
        await client.reader.readuntil(b"1\n\n")
        client.writer.close()
        await app.closed.wait()
        left = web.metric("requests_total", kind="forward", code="499")
        assert left == (method == "GET")
        assert web.pool.servers[0].sessions == 0


SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
UPGRADE = b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


async def test_in_a_tunnel_an_application_that_has_ended_goes_on_listening() -> None:
    heard: list[bytes] = []

    async def behave(seen: Seen) -> None:
        await seen.answer(SWITCHED)
        seen.writer.write_eof()
        heard.append(await seen.reader.read())

    app = Application(behave)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(UPGRADE)
        await client.head()
        assert await client.rest() == b""  # that one has ended
        for piece in (b"one", b"two"):
            client.writer.write(piece)
            await asyncio.sleep(0)
        client.writer.write_eof()
        await app.closed.wait()
        assert heard == [b"onetwo"]
        client.writer.close()


async def test_in_a_tunnel_the_last_words_of_who_has_left_arrive_although_it_cannot_be_answered() -> None:
    async def behave(seen: Seen) -> None:
        await seen.answer(SWITCHED)
        for count in (1, 2):
            await seen.answer(bytes(50_000))
            await until(lambda count=count: ours.written >= 50_000 * count)
        seen.writer.close()  # and whatever comes is answered with a reset

    app = Application(behave)
    async with running(app) as web:
        client, ours = await connect_narrowly(web)
        client.writer.write(UPGRADE)
        await app.closed.wait()
        while len(ours.received) < 100:  # nobody takes them any more
            client.writer.write(b"?")
            await asyncio.sleep(0)
        client.writer.transport.resume_reading()
        assert (await client.rest()).endswith(b"\r\n\r\n" + bytes(100_000))
        client.writer.close()


async def test_in_a_tunnel_who_has_left_is_not_waited_for_as_long_as_who_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnel, "HALF_SECONDS", 0.1)

    async def behave(seen: Seen) -> None:
        await seen.answer(SWITCHED)

    app = Application(behave)
    async with running(app, tunnel_timeout=3600.0) as web:
        client = await web.connect()
        client.writer.write(UPGRADE)
        await client.head()
        app.seen[0].writer.close()
        await until(lambda: web.pool.servers[0].sessions == 0)
        client.writer.close()


async def test_a_large_response_at_hand_waits_in_pieces_for_a_client_that_takes_it_slowly(
    tmp_path: Path,
) -> None:
    """Compressed, a megabyte of text may be half of one, and it is in memory for all clients together."""
    text = random.Random(1).randbytes(400_000).hex().encode()
    (tmp_path / "page.html").write_bytes(text)
    async with running(root=tmp_path) as web:
        client, ours = await connect_narrowly(web)
        client.writer.write(b"GET /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        await until(lambda: not ours._may_write)
        assert ours.written < 200_000
        client.writer.transport.resume_reading()
        assert gzip.decompress((await client.answer()).body) == text
        client.writer.close()


async def test_of_what_is_no_request_a_line_is_logged_and_not_all_that_was_read_ahead() -> None:
    async def behave(seen: Seen) -> None:
        await until(lambda: len(ours.received) > 32 * 1024)
        await seen.answer(ok(b""))

    async with running(Application(behave)) as web:
        client, ours = await connect_narrowly(web)
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n" + b"\xff" * 300_000)
        client.writer.transport.resume_reading()
        await client.rest()
        client.writer.close()
        assert [access.status for access in web.accesses] == [200, 414]
        assert web.accesses[1].line == b"\xff" * MAX_LINE_BYTES


async def test_who_sends_more_than_was_asked_for_gets_to_read_the_last_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain close with bytes unread would reset the connection, and the reset could overtake the response."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", SECONDS)  # a busy machine may need more than a second
    (tmp_path / "file").write_bytes(bytes(60_000))
    async with running(root=tmp_path) as web:
        client = await web.connect()
        last = b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        client.writer.write(last + b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n" * 50_000)
        assert (await client.rest()).endswith(b"\r\n\r\n" + bytes(60_000))
        client.writer.close()


async def test_a_body_of_very_small_chunks_leaves_others_their_turns() -> None:
    loop, tasks, turns = asyncio.get_running_loop(), Tasks(), 0

    def count() -> None:
        nonlocal turns, ticking
        turns += 1
        ticking = loop.call_soon(count)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ServerSettings.model_validate(f"app1=127.0.0.1:{listener.getsockname()[1]}").server()
        to = await Origin(server, keepalive=60.0).connect(5.0)
        client = Stream(loop)
        client.received = b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
        ticking = loop.call_soon(count)
        upload = Upload(to, Body(client, None, limit=100_000, grace=1.0), 5.0, tasks)
        await until(lambda: upload.is_complete)
        ticking.cancel()
        assert turns >= 50_000 // CHUNKS_AT_ONCE
        to.abort()
        await until(lambda: to.is_lost)
        await tasks.cancel()
