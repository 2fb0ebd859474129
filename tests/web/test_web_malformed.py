"""Requests that break HTTP, or that two parsers may read differently: refused and closed, and never forwarded.

Each is sent whole, byte by byte, and with a second request behind it that nobody may answer.
"""

import asyncio
from contextlib import suppress

import pytest
from web_harness import Answer, Application, running

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # the parser is the same on both loops

SMUGGLED = b"GET /api/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
HOST = b"Host: a\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = [b"POST /api/ HTTP/" + version, b"Host: a", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(*fields: bytes, target: bytes = b"/api/", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"GET " + target + b" " + version, *fields]) + b"\r\n\r\n"


CATALOGUE: dict[str, tuple[bytes, int]] = {
    # the request line
    "version 0.9": (get(HOST[:-2], version=b"HTTP/0.9"), 400),
    "version 1.2": (get(HOST[:-2], version=b"HTTP/1.2"), 400),
    "trap 11: version 2.0": (get(HOST[:-2], version=b"HTTP/2.0"), 400),
    "version 3.0": (get(HOST[:-2], version=b"HTTP/3.0"), 400),
    "version in lower case": (get(HOST[:-2], version=b"http/1.1"), 400),
    "version of another protocol": (get(HOST[:-2], version=b"ICY/1.1"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "method in lower case": (b"get /api/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no method": (b"/api/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "relative target": (get(HOST[:-2], target=b"api/"), 400),
    "star for GET": (get(HOST[:-2], target=b"*"), 400),
    "star for OPTIONS": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "fragment": (get(HOST[:-2], target=b"/api/#x"), 400),
    "space in the target": (get(HOST[:-2], target=b"/api/ x"), 400),
    "byte above 7F in the target": (get(HOST[:-2], target=b"/api/\xc3\xa4"), 400),
    "control character in the target": (get(HOST[:-2], target=b"/api/\x01"), 400),
    "NUL in the target": (get(HOST[:-2], target=b"/api/\0"), 400),
    "encoded NUL in the target": (get(HOST[:-2], target=b"/api/%00"), 400),
    "above the root": (get(HOST[:-2], target=b"/api/../../x"), 400),
    "absolute form of another scheme": (get(HOST[:-2], target=b"ftp://a/api/"), 400),
    "absolute form without a host": (get(HOST[:-2], target=b"http:///api/"), 400),
    "absolute form with a user": (get(HOST[:-2], target=b"http://u:p@a/api/"), 400),
    "no scheme but a colon": (get(HOST[:-2], target=b"a:b"), 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "TRACE": (b"TRACE /api/ HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "target too long": (get(HOST[:-2], target=b"/api/" + b"a" * 9000), 414),
    # lines
    "bare LF after the request line": (b"GET /api/ HTTP/1.1\n" + HOST + b"\r\n", 400),
    "bare LF after a field": (b"GET /api/ HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "bare CR in a field": (get(b"Host: a", b"X: a\rb"), 400),
    "line folding": (get(b"Host: a", b"X: a", b" b"), 400),
    "line folding before the first field": (get(b" Host: a"), 400),
    "space before the colon": (get(b"Host: a", b"X : a"), 400),
    "field without a colon": (get(b"Host: a", b"X"), 400),
    "field without a name": (get(b"Host: a", b": a"), 400),
    "space in a name": (get(b"Host: a", b"X Y: a"), 400),
    "byte above 7F in a name": (get(b"Host: a", b"X\xe4: a"), 400),
    "control character in a value": (get(b"Host: a", b"X: \x01"), 400),
    "NUL in a value": (get(b"Host: a", b"X: \0"), 400),
    "trap 11: underscore in a name": (get(b"Host: a", b"X_Y: a"), 400),
    "trap 11: Content_Length": (post(b"Content_Length: 5", body=b"hello"), 400),
    "field too large": (get(b"Host: a", b"X: " + b"a" * 9000), 431),
    "fields too large together": (get(b"Host: a", *(b"X%d: " % i + b"a" * 7000 for i in range(5))), 431),
    "too many fields": (get(b"Host: a", *(b"X: a" for _ in range(200))), 431),
    # Host
    "no Host": (get(), 400),
    "two Hosts": (get(b"Host: a", b"Host: a"), 400),
    "Host with a space": (get(b"Host: a b"), 400),
    "Host with a path": (get(b"Host: a/b"), 400),
    "Host with a user": (get(b"Host: u@a"), 400),
    "list of Hosts": (get(b"Host: a, b/"), 400),
    # framing
    "CL.TE": (post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\nG"), 400),
    "TE.CL": (post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"0\r\n\r\n"), 400),
    "TE.TE": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"), 400),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "chunked is not last": (post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400),
    "identity": (post(b"Transfer-Encoding: identity", body=b"hello"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "trap 11: Transfer-Encoding in 1.0": (
        post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", version=b"1.0"),
        400,
    ),
    "two lengths that agree": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    "two lengths that differ": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), 400),
    "list of lengths": (post(b"Content-Length: 5, 5", body=b"hello"), 400),
    "length with a plus": (post(b"Content-Length: +5", body=b"hello"), 400),
    "length with a minus": (post(b"Content-Length: -5", body=b"hello"), 400),
    "length in hex": (post(b"Content-Length: 0x5", body=b"hello"), 400),
    "length with a space": (post(b"Content-Length: 5 5", body=b"hello"), 400),
    "empty length": (post(b"Content-Length:", body=b"hello"), 400),
    "length over 64 bits": (post(b"Content-Length: 99999999999999999999", body=b"hello"), 400),
    "large length": (post(b"Content-Length: 999999999999", body=b"hello"), 413),
    # chunks
    "chunk size that is no number": (post(b"Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
    "chunk size with a sign": (post(b"Transfer-Encoding: chunked", body=b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size in 0x": (post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size over 64 bits": (post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n"), 400),
    "chunk longer than its size": (post(b"Transfer-Encoding: chunked", body=b"3\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk ended by a bare LF": (post(b"Transfer-Encoding: chunked", body=b"5\nhello\r\n0\r\n\r\n"), 400),
    "chunk data ended by a bare LF": (
        post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\n0\r\n\r\n"),
        400,
    ),
    "second chunk broken": (post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\nzz\r\n"), 400),
    "trailer that is no field": (post(b"Transfer-Encoding: chunked", body=b"0\r\nX\r\n\r\n"), 400),
    # others
    "unknown expectation": (get(b"Host: a", b"Expect: 200-maybe"), 417),
}


@pytest.mark.parametrize("name", CATALOGUE)
async def test_malformed(name: str) -> None:
    request, status = CATALOGUE[name]
    app = Application()
    async with running(app) as web:
        for parts in ([request], [request + SMUGGLED]):
            answer = Answer.parse(await web.ask(*parts))  # reads until the connection is closed
            assert (answer.status, answer.value("connection")) == (status, "close")
            assert answer.value("content-type") == "application/problem+json"
            assert answer.body.count(b"about:blank") == 1
        # Headers may have gone out before a body turned out to be broken; a whole request never did.
        for seen in app.seen:
            assert seen.line == b"POST /api/ HTTP/1.1"
            assert b"chunk" in name.encode() or b"trailer" in name.encode()
            with pytest.raises((asyncio.IncompleteReadError, ValueError)):
                await seen.body()


@pytest.mark.parametrize("name", [name for name, (request, _) in CATALOGUE.items() if len(request) < 300])
async def test_malformed_byte_by_byte(name: str) -> None:
    request, status = CATALOGUE[name]
    app = Application()
    async with running(app) as web:
        client = await web.connect()
        for i in range(len(request)):
            client.writer.write(request[i : i + 1])
            await asyncio.sleep(0)
        answer = Answer.parse(await client.rest())
        assert (answer.status, answer.value("connection")) == (status, "close")
        client.writer.close()


async def test_a_body_that_looks_like_a_request_is_a_body() -> None:
    app = Application()
    async with running(app) as web:
        request = post(b"Connection: close", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED)
        assert Answer.parse(await web.ask(request)).status == 200
        assert [seen.line for seen in app.seen] == [b"POST /api/ HTTP/1.1"]


async def test_0_cl_a_length_that_the_application_ignores_does_not_leave_its_body_behind() -> None:
    """The application answers without reading: what it did not read must not become its next request."""

    async def behave(seen):  # type: ignore[no-untyped-def]
        await seen.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    app = Application(behave)
    async with running(app) as web:
        for method in (b"GET", b"POST"):
            request = post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED).replace(b"POST", method, 1)
            client = await web.connect()
            client.writer.write(request[:-5])
            await client.head()
            client.writer.write(request[-5:])
            await client.rest()
            client.writer.close()
            await web.get("/api/next")
        assert [seen.line.split(b" ")[1] for seen in app.seen] == [b"/api/", b"/api/next"] * 2
        assert app.seen[0].writer is not app.seen[1].writer


@pytest.mark.parametrize("protocol", [b"websocket", b"tcp", b"h2c"])
async def test_what_follows_a_declined_upgrade_is_the_next_request(protocol: bytes) -> None:
    """CVE-2026-69243: a parser that stops parsing at the field."""
    app = Application()
    upgrade = post(b"Connection: upgrade", b"Upgrade: " + protocol, b"Content-Length: 5", body=b"hello")
    async with running(app) as web:
        client = await web.connect()
        client.writer.write(upgrade + SMUGGLED)
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.body, answer.value("connection")) == (200, b"hello", None)
        assert [seen.line.split(b" ")[1] for seen in app.seen] == [b"/api/", b"/api/smuggled"]
        assert app.seen[0].values("upgrade") == []
        client.writer.close()


async def test_half_a_head_is_not_waited_for_longer_than_the_keepalive_time() -> None:
    async with running(Application(), keepalive=0.2) as web:
        assert await web.ask(b"GET /api/ HTTP/1.1\r\nHost:") == b""
        client = await web.connect()
        request = b"GET /api/ HTTP/1.1\r\nHost: a\r\nX: "

        async def trickle() -> None:
            client.writer.write(request)
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            trickling = group.create_task(trickle())
            with suppress(ConnectionResetError):
                assert await client.rest() == b""
            trickling.cancel()
        client.writer.close()
