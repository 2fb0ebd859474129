"""Forwarding on real sockets: what the application gets, what the client gets, and what goes wrong."""

import asyncio
import contextlib
import gzip
from ipaddress import IPv6Address

import pytest
from web_harness import SECONDS, Answer, Application, Seen, ok, running, until

from scaleup.net import proxy_protocol
from scaleup.web import connection, forward


async def never(seen: Seen) -> None:
    """Accept a request and say nothing, until the connection is closed."""
    await seen.reader.read()


async def deaf(seen: Seen) -> None:
    """Do not even read."""
    await asyncio.Event().wait()


def answering(data: bytes, *, close: bool = True):  # type: ignore[no-untyped-def]
    async def behave(seen: Seen) -> None:
        await seen.body()
        await seen.answer(data)
        if close:
            seen.writer.close()

    return behave


async def test_the_way_there_and_back() -> None:
    app = Application(answering(ok(b"hello", b"X-Served-By: app1", b"X-Own: 1"), close=False))
    async with running(app) as web:
        answer = await web.get("/api/links?limit=5", b"Accept: application/json", b"X-Mine: yes")
        assert (answer.status, answer.reason, answer.body) == (200, "OK", b"hello")
        assert answer.value("x-served-by") == "web1, app1"
        assert answer.value("via") == "1.1 web1"
        assert answer.value("x-own") == "1"
        assert answer.value("server") == "scaleup"
        assert answer.value("x-content-type-options") == "nosniff"
        assert answer.value("date") is not None
        (seen,) = app.seen
        assert seen.line == b"GET /api/links?limit=5 HTTP/1.1"
        assert seen.values("host") == [b"site.test"]
        assert seen.values("x-forwarded-for") == [b"127.0.0.1"]
        assert seen.values("x-forwarded-proto") == [b"http"]
        assert seen.values("x-forwarded-host") == [b"site.test"]
        assert seen.values("via") == [b"1.1 web1"]
        assert seen.values("x-mine") == [b"yes"]
        assert seen.values("connection") == []
        assert seen.values("user-agent") == []  # aiohttp's own
        assert web.metric("requests_total", kind="forward", code="2xx") == 1


async def test_the_application_s_connection_is_used_again() -> None:
    app = Application()
    async with running(app) as web:
        for _ in range(3):
            assert (await web.get("/api/")).body == b"hello"
        assert (len(app.seen), app.connections) == (3, 1)


async def test_only_the_prefixes_are_forwarded() -> None:
    app = Application()
    async with running(app, prefix=("/api/",)) as web:
        for path in (
            "/",
            "/api",
            "/apix/",
            "/l/abc",
            "/api/../x",
            "/api/%2e%2e/x",
            "/healthz",
            "/api/../readyz",
        ):
            await web.get(path)
        assert app.seen == []
        for path in ("/api/", "/api/x", "//api/x", "/%61pi/x", "/x/../api/y"):
            assert (await web.get(path)).status == 200
        assert [seen.line.split(b" ")[1].decode() for seen in app.seen] == [
            *("/api/", "/api/x", "//api/x", "/%61pi/x", "/x/../api/y")
        ]


async def test_servers_take_turns() -> None:
    apps = [Application(name=f"app{i}") for i in (1, 2)]
    async with running(*apps) as web:
        for _ in range(4):
            await web.get("/api/")
        assert [len(app.seen) for app in apps] == [2, 2]


async def test_trap_1_a_compressed_request_body_stays_as_it_is() -> None:
    bodies = []

    async def behave(seen: Seen) -> None:
        bodies.append(await seen.body())
        await seen.answer(ok(gzip.compress(b"back"), b"Content-Encoding: gzip"))

    app = Application(behave)
    async with running(app) as web:
        there = gzip.compress(b"there")
        answer = await web.get("/api/", b"Content-Encoding: gzip", method="POST", body=there)
        assert bodies == [there]
        assert app.seen[0].values("content-encoding") == [b"gzip"]
        assert answer.value("content-encoding") == "gzip"
        assert gzip.decompress(answer.body) == b"back"


@pytest.mark.parametrize(
    "path",
    ["/api/a%2Fb/../x;p=%3B", "/api/%7Euser/~user?q=%20+&&=", "/api//x/./y?a=//../b", '/api/|"{}^`[]?|"{}'],
)
async def test_trap_2_the_path_goes_through_byte_for_byte(path: str) -> None:
    app = Application()
    async with running(app) as web:
        assert (await web.get(path)).status == 200
        assert app.seen[0].line == f"GET {path} HTTP/1.1".encode()


async def test_trap_3_duplicate_fields_are_all_kept_in_order() -> None:
    app = Application(answering(ok(b"", b"Set-Cookie: a=1", b"set-cookie: b=2", b"SET-COOKIE: c=3")))
    async with running(app) as web:
        answer = await web.get("/api/", b"X-Many: 1", b"x-many: 2", b"X-MANY: 3", b"X-Many: 4")
        assert app.seen[0].values("x-many") == [b"1", b"2", b"3", b"4"]
        assert answer.values("set-cookie") == ["a=1", "b=2", "c=3"]


async def test_trap_3_bytes_that_are_not_utf_8() -> None:
    app = Application(answering(ok(b"", b"X-Name: caf\xe9"), close=False))
    async with running(app) as web:
        answer = await web.get("/api/")
        assert answer.value("x-name") == "caf\xe9"
        assert (await web.get("/api/", b"X-Name: caf\xe9")).status == 200
        assert app.seen[-1].values("x-name") == [b"caf\xe9"]


async def test_trap_4_fields_that_connection_names_end_here() -> None:
    app = Application(
        answering(ok(b"", b"Connection: X-Gone, keep-alive", b"X-Gone: 1", b"Keep-Alive: timeout=9"))
    )
    async with running(app) as web:
        answer = await web.get(
            "/api/",
            *(b"Connection: X-Hop, Host, Content-Length", b"X-Hop: 1", b"Keep-Alive: 5", b"TE: gzip"),
            *(
                b"Proxy-Connection: close",
                b"Proxy-Authorization: Basic eA==",
                b"Upgrade: h2c",
                b"Proxy: http://x",
            ),
        )
        seen = app.seen[0]
        for name in (
            "x-hop",
            "keep-alive",
            "te",
            "proxy-connection",
            "proxy-authorization",
            "upgrade",
            "proxy",
        ):
            assert seen.values(name) == [], name
        assert seen.values("host") == [b"site.test"]
        assert answer.value("x-gone") is None
        assert answer.value("keep-alive") is None


async def test_trap_4_a_client_s_claims_about_itself_are_not_believed() -> None:
    app = Application()
    claims = (
        *(b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.test"),
        *(
            b"X-Forwarded-Port: 1",
            b"Forwarded: for=6.6.6.6",
            b"X-Real-IP: 6.6.6.6",
            b"Connection: X-Forwarded-For",
        ),
    )
    async with running(app) as web:
        await web.get("/api/", *claims)
        seen = app.seen[0]
        assert seen.values("x-forwarded-for") == [b"127.0.0.1"]
        assert seen.values("x-forwarded-proto") == [b"http"]
        assert seen.values("x-forwarded-host") == [b"site.test"]
        assert [seen.values(name) for name in ("forwarded", "x-real-ip", "x-forwarded-port")] == [[], [], []]
        assert (await web.get("/api/", b"X_Forwarded_For: 6.6.6.6")).status == 400
        assert len(app.seen) == 1


async def test_trap_4_a_trusted_proxy_is_believed_and_added_to() -> None:
    app = Application()
    async with running(app, trusted_proxy=("127.0.0.0/8",)) as web:
        await web.get("/api/", b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"Via: 1.1 edge")
        seen = app.seen[0]
        assert seen.values("x-forwarded-for") == [b"1.2.3.4, 127.0.0.1"]
        assert seen.values("x-forwarded-proto") == [b"https"]
        assert seen.values("via") == [b"1.1 edge, 1.1 web1"]


async def test_a_client_that_a_proxy_has_seen_through_ipv6_is_known_by_its_ipv4_address() -> None:
    """In what the application is told, and in the networks that are trusted."""
    app, mapped = Application(), IPv6Address("::ffff:192.0.2.7").packed
    header = proxy_protocol.SIGNATURE + b"\x21\x21\x00\x24" + mapped + mapped + b"\x00\x50\x00\x50"
    get = b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    async with running(app, accept_proxy=("127.0.0.0/8",), trusted_proxy=("192.0.2.0/24",)) as web:
        assert (await web.ask(header, get)).startswith(b"HTTP/1.1 200 ")
        assert app.seen[0].values("x-forwarded-for") == [b"1.2.3.4, 192.0.2.7"]
        assert [access.peer for access in web.accesses] == ["192.0.2.7"]


TRAILING = answering(
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 7\r\nX-Two: 2\r\n\r\n"
)


async def test_trap_5_early_hints_go_through_and_trailers_to_nobody_who_has_not_asked() -> None:
    app = Application(TRAILING)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        hints = Answer.parse(await client.head())
        assert (hints.status, hints.value("link")) == (103, "</a>")
        answer = Answer.parse(await client.head() + b"0\r\n\r\n")
        assert answer.status == 200
        assert answer.value("trailer") is None
        assert answer.value("content-type") is None  # and none is invented
        assert await client.reader.readexactly(13) == b"3\r\nabc\r\n0\r\n\r\n"[:13]
        client.writer.close()
        assert app.seen[0].values("te") == app.seen[0].values("connection") == []
        old = Answer.parse(await web.ask(b"GET /api/ HTTP/1.0\r\nTE: trailers\r\n\r\n"))
        assert (old.status, old.body) == (200, b"abc")


async def test_trap_5_trailers_go_to_who_asks_but_for_what_a_header_must_hold() -> None:
    app = Application(TRAILING)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(
            b"GET /api/ HTTP/1.1\r\nHost: a\r\nTE: trailers, deflate;q=0.5\r\nConnection: TE\r\n\r\n"
        )
        await client.head()  # 103
        assert Answer.parse(await client.head() + b"0\r\n\r\n").value("trailer") == "X-Sum"
        body = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n"
        assert await client.reader.readexactly(len(body)) == body
        assert (app.seen[0].values("te"), app.seen[0].values("connection")) == ([b"trailers"], [b"TE"])
        client.writer.close()


async def test_a_response_s_field_may_have_an_underscore_in_its_name() -> None:
    """Which is a letter of names as any other (RFC 9110 §5.6.2); what is refused in requests is for CGI's sake."""
    head = b"HTTP/1.1 200 OK\r\nX_Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    app = Application(answering(head + b"3\r\nabc\r\n0\r\nx_sum: 2\r\n\r\n"))
    async with running(app) as web:
        answer = await web.ask(
            b"GET /api/ HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nX_Own: 1\r\n" in answer
        assert answer.endswith(b"3\r\nabc\r\n0\r\nx_sum: 2\r\n\r\n")


async def test_trap_5_the_trailers_of_a_request_end_here() -> None:
    app = Application()
    async with running(app) as web:
        head = b"POST /api/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        answer = await web.ask(head + b"3\r\nabc\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
        assert Answer.parse(answer).status == 200  # `fine` reads no trailers: they would be in the way
        assert len(app.seen) == 1


async def test_a_response_that_breaks_off_as_it_begins_is_502() -> None:
    """Nothing of it has been sent: so the client can be told."""
    app = Application(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n")
    )
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).status == 200
        answer = Answer.parse(await client.rest())
        assert (answer.status, answer.value("connection")) == (502, "close")
        assert len(answer.body) == int(answer.value("content-length") or 0)
        assert web.metric("requests_total", kind="forward", code="5xx") == 1
        client.writer.close()


async def test_trap_6_expect_is_answered_here_once_an_application_accepted() -> None:
    app = Application()
    head = b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(head)
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"abc")
        assert (await client.answer()).body == b"hello"
        assert app.seen[0].values("expect") == []
        client.writer.close()


async def test_trap_6_a_refusal_spares_the_upload() -> None:
    head = b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    app = Application()
    async with running(app, max_body=100) as web:
        assert (await web.ask(head % 101)).startswith(b"HTTP/1.1 413 ")
        for server in web.pool.servers:
            server.up = False
        assert (await web.ask(head % 3)).startswith(b"HTTP/1.1 503 ")
        assert app.seen == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"\x16\x03\x01\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nBad Name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: a\x01b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
async def test_trap_7_an_answer_that_is_not_http_is_502_and_final(garbage: bytes) -> None:
    bad, good = Application(answering(garbage), "app1"), Application(name="app2")
    async with running(bad, good) as web:
        answer = await web.get("/api/")
        assert answer.status == 502
        assert answer.value("content-type") == "application/problem+json"
        assert (len(bad.seen), len(good.seen)) == (1, 0)
        assert web.metric("upstream_failures_total", server="app1", reason="garbage") == 1


async def test_trap_7_nothing_answers_503_with_retry_after() -> None:
    app = Application()
    async with running(app) as web:
        web.pool.servers[0].up = False
        answer = await web.get("/api/")
        assert (answer.status, answer.value("retry-after")) == (503, "1")
        assert b"No application server is up" in answer.body
    async with running(app, maxconn=1) as web:
        web.pool.acquire(web.pool.servers[0])
        answer = await web.get("/api/")
        assert (answer.status, answer.value("retry-after")) == (503, "1")
        assert b"busy" in answer.body


async def test_trap_7_a_server_that_says_nothing_is_504() -> None:
    app = Application(never)
    async with running(app, response_timeout=0.1) as web:
        assert (await web.get("/api/")).status == 504
        await app.closed.wait()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_trap_8_a_client_that_leaves_cancels_what_it_only_wanted_to_read(method: str) -> None:
    app = Application(never)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(f"{method} /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
        await until(lambda: bool(app.seen))
        client.writer.close()
        await until(lambda: web.metric("requests_total", kind="forward", code="499") == 1)
        if method == "GET":
            await app.closed.wait()
        else:
            # A write is seen through: breaking it off would stop nothing. Its slot is taken until then.
            assert web.pool.servers[0].sessions == 1
            assert not app.closed.is_set()
            assert not app.seen[0].writer.is_closing()
            await app.seen[0].answer(ok(b"done"))
            await until(lambda: web.pool.servers[0].sessions == 0)


async def test_trap_8_leaving_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    app = Application(never)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(app.seen))
        client.reset()
        await app.closed.wait()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("method", "status", "sent"), [("GET", 200, 2), ("DELETE", 200, 2), ("POST", 502, 1)]
)
async def test_trap_9_what_a_dying_connection_may_have_swallowed_is_repeated_only_if_idempotent(
    method: str, status: int, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "CROSSING_SECONDS", SECONDS)  # a busy machine may need more than a second

    async def behave(seen: Seen) -> None:
        await seen.body()
        if len(app.seen) == 2:
            seen.writer.close()
        else:
            await seen.answer(ok(b"hello"))

    app = Application(behave)
    async with running(app) as web:
        await web.get("/api/")
        assert (await web.get("/api/", method=method)).status == status
        assert len(app.seen) == 1 + sent


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 20", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_trap_9_what_was_taken_and_then_failed_is_no_close_that_was_crossed(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be repeated at the same server beside --tries: `said` of a response, or after a while."""
    if not said:
        monkeypatch.setattr(forward, "CROSSING_SECONDS", -1.0)

    async def behave(seen: Seen) -> None:
        if len(app.seen) > 1:
            await seen.answer(said)
            seen.writer.close()
        else:
            await seen.answer(ok(b"hello"))

    app = Application(behave)
    async with running(app, tries=1) as web:
        await web.get("/api/")
        assert b" 502 Bad Gateway\r\n" in await web.ask(
            b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        assert len(app.seen) == 2


@pytest.mark.parametrize(("count", "status"), [(16, b"200"), (17, b"502")])
async def test_so_many_interim_responses_and_no_more(count: int, status: bytes) -> None:
    app = Application(answering(b"HTTP/1.1 102 Processing\r\n\r\n" * count + ok(b"")))
    async with running(app) as web:
        answer = await web.ask(b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 102 ") == count
        assert b"\r\n\r\nHTTP/1.1 %b " % status in answer


async def test_trap_9_a_post_never_meets_a_connection_that_the_application_is_closing() -> None:
    app = Application()
    async with running(app) as web:
        await web.get("/api/")
        await web.get("/api/", method="POST", body=b"x")
        await web.get("/api/", method="POST", body=b"x")
        assert app.connections == 3
        assert app.seen[1].values("content-length") == [b"1"]


async def test_trap_10_a_body_that_trickles_is_408() -> None:
    async def behave(seen: Seen) -> None:
        await seen.body()

    app = Application(behave)
    async with running(app, body_timeout=0.2) as web:
        client = await web.connect()
        client.writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")

        async def trickle() -> None:
            while not client.writer.is_closing():
                client.writer.write(b"x")
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            trickling = group.create_task(trickle())
            answer = Answer.parse(await client.head())
            trickling.cancel()
        assert (answer.status, answer.value("connection")) == (408, "close")
        assert web.metric("upstream_failures_total", server="app1", reason="disconnected") == 0
        await app.closed.wait()
        client.writer.close()


async def test_trap_10_the_application_s_time_is_not_the_client_s() -> None:
    """A large body whose application dawdles longer than the client would be given."""
    go = asyncio.Event()
    size = 8 * 1024 * 1024

    async def behave(seen: Seen) -> None:
        seen.reader._limit = 1024  # type: ignore[attr-defined]  # or asyncio reads ahead
        await go.wait()
        assert len(await seen.body()) == size
        await seen.answer(ok(b"done"))

    app = Application(behave)
    async with running(app, body_timeout=0.5) as web:
        request = b"POST /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(web.ask(request, bytes(size)))
            await until(lambda: bool(app.seen))
            await asyncio.sleep(0.8)  # what is tested is that nothing happens in this time
            assert not asked.done()
            go.set()
        assert asked.result().startswith(b"HTTP/1.1 200 ")


async def test_while_a_response_comes_the_client_s_time_is_not_the_application_s() -> None:
    """It answers while it is still being sent to, and then waits for a client that dawdles."""

    async def echo(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        await seen.answer(await seen.reader.readexactly(3))
        await seen.answer(await seen.reader.readexactly(3))

    app = Application(echo)
    async with running(app, response_timeout=0.5) as web:
        client = await web.connect()
        client.writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        await client.head()
        assert await client.reader.readexactly(3) == b"abc"
        await asyncio.sleep(0.8)  # what is tested is that nothing happens in this time
        client.writer.write(b"def")
        assert await client.reader.readexactly(3) == b"def"
        client.writer.close()
        assert web.metric("upstream_failures_total", server="app1", reason="body_timeout") == 0


async def test_an_application_that_does_not_take_the_body_is_504() -> None:
    app = Application(deaf)
    size = 16 * 1024 * 1024
    async with running(app, response_timeout=0.2, max_body=size) as web:
        client = await web.connect()
        client.writer.write(
            b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        )
        assert (await client.head()).startswith(b"HTTP/1.1 504 ")
        client.reset()


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_refused_connection_leads_to_the_next_server_for_every_method(method: str) -> None:
    dead, alive = Application(None, "app1"), Application(name="app2")
    async with running(dead, alive) as web:
        for _ in range(2):
            assert (await web.get("/api/", method=method, body=b"x" * (method != "GET"))).status == 200
        assert web.metric("upstream_failures_total", server="app1", reason="connect") == 1


async def test_all_refuse_is_502() -> None:
    async with running(Application(None)) as web:
        assert (await web.get("/api/")).status == 502


async def reset_at_once(seen: Seen) -> None:
    seen.reset()


async def close_at_once(seen: Seen) -> None:
    seen.writer.close()


@pytest.mark.parametrize("behave", [reset_at_once, close_at_once])
async def test_a_get_that_was_sent_is_tried_at_the_next_server(behave) -> None:  # type: ignore[no-untyped-def]
    bad, good = Application(behave, "app1"), Application(name="app2")
    async with running(bad, good) as web:
        for _ in range(2):
            assert (await web.get("/api/")).body == b"hello"
        assert len(good.seen) == 2


@pytest.mark.parametrize("behave", [reset_at_once, close_at_once, never])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_post_is_never_sent_twice(behave, method: str) -> None:  # type: ignore[no-untyped-def]
    apps = [Application(behave, f"app{i}") for i in (1, 2, 3)]
    async with running(*apps, response_timeout=0.5 if behave is never else SECONDS) as web:
        answer = await web.get("/api/", method=method, body=b"x")
        assert answer.status == (504 if behave is never else 502)
        assert sum(len(app.seen) for app in apps) == 1


async def test_a_put_whose_body_has_begun_is_not_sent_again() -> None:
    apps = [Application(reset_at_once, f"app{i}") for i in (1, 2)]
    async with running(*apps) as web:
        assert (await web.get("/api/", method="PUT", body=b"x")).status == 502
        assert sum(len(app.seen) for app in apps) == 1


async def test_there_are_at_most_so_many_tries() -> None:
    apps = [Application(close_at_once, f"app{i}") for i in range(5)]
    async with running(*apps, tries=2) as web:
        assert (await web.get("/api/")).status == 502
        assert sum(bool(app.seen) for app in apps) == 2


async def test_a_time_out_leads_a_get_to_the_next_server() -> None:
    slow, good = Application(never, "app1"), Application(name="app2")
    async with running(slow, good, response_timeout=0.5) as web:
        for _ in range(2):
            assert (await web.get("/api/")).status == 200


@pytest.mark.parametrize("chunked", [True, False])
async def test_bodies_are_streamed_both_ways_at_once(chunked: bool) -> None:
    """The first byte comes back before the last one has left; and the framing there is the client's."""

    async def echo(seen: Seen) -> None:
        assert seen.values("content-length" if not chunked else "transfer-encoding")
        await seen.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        body = b""
        while len(body) < 2:
            data = await seen.reader.readexactly(6 if chunked else 1)
            body += data[3:4] if chunked else data
            await seen.answer(b"1\r\n" + body[-1:] + b"\r\n")
        await seen.answer(b"0\r\n\r\n")
        seen.writer.close()

    app = Application(echo)
    async with running(app) as web:
        client = await web.connect()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 2"
        piece = b"1\r\n%b\r\n" if chunked else b"%b"
        client.writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + piece % b"a")
        await client.head()
        assert await client.reader.readuntil(b"a\r\n") == b"1\r\na\r\n"
        client.writer.write(piece % b"b" + (b"0\r\n\r\n" if chunked else b""))
        assert await client.rest() == b"1\r\nb\r\n0\r\n\r\n"
        client.writer.close()


async def test_a_large_body_arrives_whole_in_both_directions() -> None:
    size = 8 * 1024 * 1024
    data = bytes(range(256)) * (size // 256)

    async def echo(seen: Seen) -> None:
        body = await seen.body()
        await seen.answer(ok(body))

    async with running(Application(echo)) as web:
        answer = await web.get("/api/", method="POST", body=data)
        assert answer.body == data


async def test_a_client_that_reads_slowly_holds_up_the_application_not_our_memory() -> None:
    sent = 0

    async def pour(seen: Seen) -> None:
        nonlocal sent
        await seen.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await seen.answer(bytes(100_000))
            sent += 100_000

    async with running(Application(pour)) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        client.writer.transport.pause_reading()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 40_000_000  # the kernel's buffers of four sockets
        client.reset()


@pytest.mark.parametrize(("limit", "status"), [(10, 200), (9, 413)])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_413(limit: int, status: int, chunked: bool) -> None:
    app = Application()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 10"
    body = b"a\r\n0123456789\r\n0\r\n\r\n" if chunked else b"0123456789"
    async with running(app, max_body=limit) as web:
        request = b"POST /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + framing + b"\r\n\r\n" + body
        answer = Answer.parse(await web.ask(request))
        assert answer.status == status


async def test_an_oversized_upload_gets_to_read_its_413(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on sending megabytes that nobody reads; a plain close would reset the connection."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", SECONDS)  # a busy machine may need more than a second
    async with running(Application(), max_body=1000) as web:
        size = 4 * 1024 * 1024
        client = await web.connect()
        client.writer.write(
            b"POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        )
        assert (await client.rest()).startswith(b"HTTP/1.1 413 ")
        client.writer.close()


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        (b"Content-Length: 1000", b"hello"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
        (b"X: no length", b"hello"),
    ],
)
@pytest.mark.parametrize("end", ["close", "reset", "hang", "garbage"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_that_was_cut_off_never_looks_complete(
    fields: bytes, first: bytes, end: str, version: str
) -> None:
    has_begun = asyncio.Event()

    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n" + first)
        await has_begun.wait()
        if end == "reset":
            seen.reset()
        elif end == "close":
            seen.writer.close()
        elif end == "garbage":
            await seen.answer(b"zz\r\n")
        await never(seen)

    if end == "garbage":
        fields, first = b"Transfer-Encoding: chunked", b"5\r\nhello\r\n"
    has_length = b"X:" not in fields
    app = Application(behave)
    async with running(app, response_timeout=0.5 if end == "hang" else SECONDS) as web:
        client = await web.connect()
        client.writer.write(f"GET /api/ HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        head = await client.head()
        await client.reader.readuntil(b"hello")
        has_begun.set()
        if end == "close" and not has_length:  # this is how such a body ends when it is complete
            assert await client.rest() == (b"\r\n0\r\n\r\n" if b"chunked" in head else b"")
        else:
            with pytest.raises(ConnectionResetError):
                await client.rest()
        client.writer.close()


async def test_a_request_body_that_was_cut_off_never_looks_complete() -> None:
    whole = asyncio.Event()

    async def behave(seen: Seen) -> None:
        await seen.body()
        whole.set()

    for framing in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        app = Application(behave)
        async with running(app) as web:
            client = await web.connect()
            client.writer.write(b"POST /api/ HTTP/1.1\r\nHost: a\r\n" + framing)
            await until(lambda app=app: bool(app.seen))
            client.writer.close()
            await app.closed.wait()
            assert not whole.is_set()


async def test_an_early_response_ends_both_connections() -> None:
    async def behave(seen: Seen) -> None:
        await seen.answer(ok(b"enough", b"X-Served-By: app1"))

    app = Application(behave)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(b"PUT /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbeginning")
        answer = await client.answer()
        assert (answer.status, answer.value("connection")) == (200, "close")
        assert await client.rest() == b""
        await app.closed.wait()
        client.writer.close()


async def test_what_came_on_an_idle_connection_is_nobody_s_response() -> None:
    """aiohttp would hand it to the next request on that connection."""

    async def behave(seen: Seen) -> None:
        await seen.answer(ok(b"first") if len(app.seen) == 1 else ok(b"second"))

    app = Application(behave)
    async with running(app) as web:
        assert (await web.get("/api/")).body == b"first"
        assert web.server._forwarder is not None
        ((kept, _),) = web.server._forwarder._origins["app1"]._idle
        await app.seen[0].answer(ok(b"stray"))
        await until(lambda: bool(kept.received))
        assert (await web.get("/api/")).body == b"second"


@pytest.mark.parametrize("status", [204, 304])
async def test_responses_without_a_body(status: int) -> None:
    app = Application(answering(b'HTTP/1.1 %d x\r\nETag: "1"\r\n\r\n' % status, close=False))
    async with running(app) as web:
        client = await web.connect()
        for _ in range(2):
            client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await client.answer()
            assert answer.status == status
            assert answer.value("transfer-encoding") is None
            assert answer.value("content-length") is None
        client.writer.close()
        assert app.connections == 1


async def test_head_keeps_the_length_and_has_no_body() -> None:
    app = Application(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", close=False))
    async with running(app) as web:
        client = await web.connect()
        for _ in range(2):
            client.writer.write(b"HEAD /api/ HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await client.answer("HEAD")
            assert answer.value("content-length") == "1234"
        client.writer.close()


async def test_the_absolute_form_replaces_the_host() -> None:
    app = Application()
    async with running(app) as web:
        await web.get("http://other.test:81/api/x?y")
        assert app.seen[0].line == b"GET /api/x?y HTTP/1.1"
        assert app.seen[0].values("host") == [b"other.test:81"]


async def test_http_1_0_is_forwarded_as_1_1() -> None:
    app = Application(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    )
    async with running(app) as web:
        answer = Answer.parse(await web.ask(b"GET /api/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))
        assert answer.body == b"abc"
        assert answer.value("transfer-encoding") is None
        assert answer.value("connection") == "close"
        assert app.seen[0].line.endswith(b"HTTP/1.1")
        assert app.seen[0].values("via") == [b"1.0 web1"]


async def test_http_1_0_without_a_host_is_forwarded_with_an_empty_one() -> None:
    app = Application()
    async with running(app) as web:
        assert (await web.ask(b"GET /api/ HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert b"\r\nHost: \r\n" in app.seen[0].head


async def test_a_response_has_one_date() -> None:
    app = Application(answering(ok(b"", b"date: Mon, 23 Nov 2026 10:00:00 GMT")))
    async with running(app) as web:
        assert len((await web.get("/api/")).values("date")) == 1


async def test_chunks_in_http_1_0_are_read_and_their_connection_is_not_used_again() -> None:
    """RFC 9112 §6.1: the framing is faulty."""
    head = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    app = Application(answering(head + b"3\r\nabc\r\n0\r\n\r\n", close=False))
    async with running(app) as web:
        for _ in range(2):
            assert (await web.get("/api/")).body == b"abc"
        assert app.connections == 2


async def test_cookies_of_one_client_are_no_other_s() -> None:
    app = Application(answering(ok(b"", b"Set-Cookie: session=1; Path=/"), close=False))
    async with running(app) as web:
        await web.get("/api/")
        await web.get("/api/")
        assert app.seen[1].values("cookie") == []


async def test_redirects_are_the_client_s_to_follow() -> None:
    app = Application(answering(b"HTTP/1.1 302 Found\r\nLocation: /api/x\r\nContent-Length: 0\r\n\r\n"))
    async with running(app) as web:
        answer = await web.get("/l/abc")
        assert (answer.status, answer.value("location")) == (302, "/api/x")
        assert len(app.seen) == 1


async def test_sessions_are_counted_back_to_none() -> None:
    apps = [
        Application(close_at_once, "app1"),
        Application(answering(b"x"), "app2"),
        Application(name="app3"),
    ]
    async with running(*apps) as web:
        for _ in range(3):
            await web.get("/api/")
        assert [server.sessions for server in web.pool.servers] == [0, 0, 0]
        assert web.metric("requests_in_progress") == 0


async def test_an_application_s_reason_phrase_is_replaced_by_ours() -> None:
    async with running(
        Application(answering(b"HTTP/1.1 404 \x01\x1b[2J\r\nContent-Length: 0\r\n\r\n"))
    ) as web:
        answer = await web.get("/api/")
        assert (answer.status, answer.reason) == (404, "Not Found")


# ----- other protocols --------------------------------------------------------------------------------

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
UPGRADE = b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


async def echo_protocol(seen: Seen) -> None:
    """Changes to a protocol that sends everything back, and says hello first."""
    assert (seen.values("connection"), seen.values("upgrade")) == ([b"upgrade"], [b"echo"])
    await seen.answer(SWITCHED + b"hello")
    while data := await seen.reader.read(65536):
        await seen.answer(data)
    seen.writer.close()


async def test_an_upgraded_connection_carries_bytes_both_ways() -> None:
    app = Application(echo_protocol)
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(UPGRADE + b"first")  # and does not wait for 101
        head = Answer.parse(await client.head())
        assert (head.status, head.values("connection"), head.values("upgrade")) == (
            101,
            ["upgrade"],
            ["echo"],
        )
        assert head.values("transfer-encoding") == head.values("content-length") == []
        assert await client.reader.readexactly(10) == b"hellofirst"
        data = bytes(range(256)) * 4096
        async with asyncio.TaskGroup() as group:
            back = group.create_task(client.reader.readexactly(len(data)))
            client.writer.write(data)
        assert back.result() == data
        client.writer.write_eof()
        assert await client.rest() == b""
        client.writer.close()
        await app.closed.wait()
        await until(lambda: web.pool.servers[0].sessions == 0)


async def test_either_end_ends_it_for_both() -> None:
    for who in ("client", "application"):
        app = Application(echo_protocol)
        async with running(app) as web:
            client = await web.connect()
            client.writer.write(UPGRADE)
            await client.head()
            assert await client.reader.readexactly(5) == b"hello"
            if who == "client":
                client.reset()
            else:
                app.seen[0].reset()
                with contextlib.suppress(ConnectionResetError):
                    assert await client.rest() == b""
                client.writer.close()
            await app.closed.wait()
            await until(lambda web=web: web.pool.servers[0].sessions == 0)


async def test_an_upgraded_connection_on_which_nothing_moves_is_ended() -> None:
    async with running(Application(echo_protocol), tunnel_timeout=0.2) as web:
        client = await web.connect()
        client.writer.write(UPGRADE)
        with contextlib.suppress(ConnectionResetError):
            assert (await client.rest()).endswith(b"hello")
        client.writer.close()


async def test_an_application_may_decline() -> None:
    app = Application(answering(ok(b"plain"), close=False))
    async with running(app) as web:
        client = await web.connect()
        for _ in range(2):
            client.writer.write(UPGRADE)
            answer = await client.answer()
            assert (answer.status, answer.body, answer.values("upgrade")) == (200, b"plain", [])
        client.writer.close()
        assert app.connections == 1


async def test_every_request_has_an_id_and_time() -> None:
    app = Application()
    async with running(app, response_timeout=7.5) as web:
        first = await web.get("/api/")
        second = await web.get("/api/", b"X-Request-Id: mine-1", b"traceparent: 00-0af7-b7ad-01")
        ids = [seen.values("x-request-id")[0].decode() for seen in app.seen]
        assert len(ids[0]) == 32
        assert ids[1] == "mine-1"
        assert [first.value("x-request-id"), second.value("x-request-id")] == ids
        assert app.seen[1].values("traceparent") == [b"00-0af7-b7ad-01"]
        assert app.seen[0].values("x-request-timeout") == [b"7.5"]


async def test_a_stream_of_events_is_not_held_back() -> None:
    go = asyncio.Event()

    async def behave(seen: Seen) -> None:
        await seen.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go.wait()
        await seen.answer(b"data: 2\n\n")
        seen.writer.close()

    async with running(Application(behave)) as web:
        client = await web.connect()
        client.writer.write(b"GET /api/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await client.head()
        assert await client.reader.readuntil(b"1\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
        go.set()
        assert await client.rest() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        client.writer.close()
