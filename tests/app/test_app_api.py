"""The contract of the HTTP interface, over real HTTP, on every engine."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import aiohttp
import pytest
from app_harness import App, run_app, until
from database_servers import DatabaseServer

URL = "https://example.org/?q=1"


async def answer(
    app: App, method: str, path: str, expected: int, **options: Any
) -> tuple[dict[str, Any], aiohttp.ClientResponse]:
    """The JSON of a response, which must have that status; an error must be a problem."""
    async with app.client.request(method, path, allow_redirects=False, **options) as response:
        text = await response.text()
        assert response.status == expected, text
        assert response.headers["X-Served-By"] == "app7"
        assert response.headers["Server"] == "scaleup"
        if expected >= 400 and method != "HEAD":
            assert response.content_type == "application/problem+json"
            body = await response.json()
            assert body["status"] == expected
            assert body["type"] == "about:blank"
            assert body["title"] == response.reason
            assert body["detail"]
            return body, response
        is_json = response.content_type == "application/json" and method != "HEAD"
        return (await response.json() if is_json else {}), response


async def test_creating_a_link(app: App) -> None:
    link, response = await answer(app, "POST", "/api/links", 201, json={"url": URL})
    assert response.headers["Location"] == f"/api/links/{link['code']}"
    assert link["url"] == URL
    assert link["clicks"] == 0
    assert link["short"] == f"/l/{link['code']}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", link["created"])
    same, _ = await answer(app, "GET", response.headers["Location"], 200)
    assert same == link


async def test_choosing_a_code(app: App) -> None:
    link, _ = await answer(app, "POST", "/api/links", 201, json={"url": URL, "code": "My-Code_1"})
    assert link["code"] == "My-Code_1"
    problem, _ = await answer(app, "POST", "/api/links", 409, json={"url": URL, "code": "My-Code_1"})
    assert problem["field"] == "code"
    await answer(app, "POST", "/api/links", 201, json={"url": URL, "code": "my-code_1"})
    await answer(app, "POST", "/api/links", 201, json={"url": URL, "code": None})  # as if not there


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": 7}, "url"),
        ({"url": URL, "code": "a b"}, "code"),
        ({"url": URL, "code": ""}, "code"),
        ({"url": URL, "Code": "x"}, "Code"),
    ],
)
async def test_a_member_that_cannot_be_taken_is_named(app: App, body: dict[str, Any], field: str) -> None:
    problem, _ = await answer(app, "POST", "/api/links", 400, json=body)
    assert problem["field"] == field


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 9000, b'{"url": NaN}'])
async def test_a_body_that_is_no_json_object(app: App, body: bytes) -> None:
    await answer(app, "POST", "/api/links", 400, data=body, headers={"Content-Type": "application/json"})


async def test_a_body_of_another_type(app: App) -> None:
    _, response = await answer(app, "POST", "/api/links", 415, data={"url": URL})
    assert response.headers["Accept-Post"] == "application/json"


async def test_a_body_that_is_too_long(app: App) -> None:
    problem, _ = await answer(app, "POST", "/api/links", 413, json={"url": "x" * 20_000})
    assert "16384" in problem["detail"]


async def test_a_body_that_claims_to_be_compressed(app: App, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    await answer(app, "POST", "/api/links", 415, data=b'{"url": "https://example.org/"}', headers=headers)
    assert "Traceback" not in caplog.text


async def test_what_is_not_there(app: App) -> None:
    for path in (
        "/",
        "/api/",
        "/api/links/",
        "/api/links/nosuch",
        "/l/nosuch",
        "/l/%C3%A4",
        "/l/a%20b",
        "/l/" + "x" * 33,
    ):
        await answer(app, "GET", path, 404)
    for path in ("/api/links/nosuch", "/api/links/a%00b"):
        await answer(app, "DELETE", path, 404)


async def test_methods_that_are_not_there(app: App) -> None:
    for path, allowed in (
        ("/api/links", "GET, HEAD, POST"),
        ("/api/links/x", "DELETE, GET, HEAD"),
        ("/l/x", "GET, HEAD"),
    ):
        _, response = await answer(app, "PUT", path, 405)
        assert response.headers["Allow"] == allowed


async def test_following_a_link_counts(app: App) -> None:
    code = await app.add(URL)
    for _ in range(3):
        _, response = await answer(app, "GET", f"/l/{code}", 302)
        assert response.headers["Location"] == URL
        assert response.headers["Cache-Control"] == "no-store"
    _, response = await answer(app, "HEAD", f"/l/{code}", 302)  # a preview
    assert response.headers["Location"] == URL
    async with asyncio.timeout(20):
        while (await answer(app, "GET", f"/api/links/{code}", 200))[0]["clicks"] != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_url_goes_into_the_location_byte_for_byte(app: App) -> None:
    url = "https://EXAMPLE.org/a%2fb/../%7Ec;p=%3B?q=a+b&x=%E4#f"
    code = await app.add(url)
    _, response = await answer(app, "GET", f"/l/{code}", 302)
    assert response.headers["Location"] == url


async def test_a_link_that_is_known_already_is_not_sent_again(app: App) -> None:
    code = await app.add(URL)
    _, response = await answer(app, "GET", f"/api/links/{code}", 200)
    tag = response.headers["ETag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        headers = {"If-None-Match": known}
        _, response = await answer(app, "GET", f"/api/links/{code}", 304, headers=headers)
        assert response.headers["ETag"] == tag
    await answer(app, "GET", f"/api/links/{code}", 200, headers={"If-None-Match": '"x"'})


async def test_a_request_with_a_key_may_be_sent_again(app: App) -> None:
    headers = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    first, response = await answer(app, "POST", "/api/links", 201, json={"url": URL}, headers=headers)
    again, repeated = await answer(app, "POST", "/api/links", 201, json={"url": URL}, headers=headers)
    assert again == first
    assert repeated.headers["Location"] == response.headers["Location"] == f"/api/links/{first['code']}"
    page, _ = await answer(app, "GET", "/api/links", 200)
    assert len(page["links"]) == 1
    body = {"url": URL, "code": "other"}
    problem, _ = await answer(app, "POST", "/api/links", 422, json=body, headers=headers)
    assert problem["field"] == "Idempotency-Key"
    for bad in ("", "a b", "x" * 256, '"a"b"'):
        headers = {"Idempotency-Key": bad}
        problem, _ = await answer(app, "POST", "/api/links", 400, json={"url": URL}, headers=headers)
        assert problem["field"] == "Idempotency-Key"


async def test_deleting_a_link(app: App) -> None:
    code = await app.add()
    await answer(app, "DELETE", f"/api/links/{code}", 204)
    await answer(app, "DELETE", f"/api/links/{code}", 404)
    await answer(app, "GET", f"/l/{code}", 404)


async def test_pages(app: App) -> None:
    codes = [await app.add(code=f"c{number}") for number in range(5)][::-1]
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        query = {"limit": "2"} | ({"after": after} if after else {})
        page, _ = await answer(app, "GET", "/api/links", 200, params=query)
        seen += [link["code"] for link in page["links"]]
        after = page["next"]
    assert seen == codes
    page, _ = await answer(app, "GET", "/api/links", 200)
    assert [link["code"] for link in page["links"]] == codes
    assert page["next"] is None
    page, _ = await answer(app, "GET", "/api/links?after=0", 200)
    assert page == {"links": [], "next": None}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=", "limit=-1", "after=-1", "after=x"]
)
async def test_numbers_that_cannot_be_taken(app: App, query: str) -> None:
    problem, _ = await answer(app, "GET", f"/api/links?{query}", 400)
    assert problem["field"] == query.partition("=")[0]
    await answer(app, "GET", f"/api/links?after={'9' * 5000}", 400)


async def test_who_am_i(app: App, database: DatabaseServer) -> None:
    who, _ = await answer(app, "GET", "/api/whoami", 200)
    assert who["application"] == {"name": "app7", "pid": os.getpid()}
    assert who["client"] == {"address": "127.0.0.1"}
    assert who["database"]["engine"] == database.engine
    assert who["database"]["address"] == str(database.endpoint)
    assert who["database"]["connection"] > 0
    headers = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9, 10.1.2.3"}
    who, _ = await answer(app, "GET", "/api/whoami", 200, headers=headers)
    assert who["client"] == {"address": "203.0.113.9"}


async def test_a_request_keeps_its_id_or_gets_one(app: App) -> None:
    for kept in ("web1-7.a_b", "Root=1-67:a/b+c", "x" * 128):
        _, response = await answer(app, "GET", "/api/links/x", 404, headers={"X-Request-Id": kept})
        assert response.headers["X-Request-Id"] == kept
    own = []
    for given in ("", "a b", "x" * 129, "ä"):
        _, response = await answer(app, "GET", "/api/whoami", 200, headers={"X-Request-Id": given})
        own.append(response.headers["X-Request-Id"])
    assert len(set(own)) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in own)


async def test_a_write_that_nobody_will_wait_for_is_not_begun(app: App) -> None:
    body = {"url": URL, "code": "too-late"}
    headers = {"X-Request-Timeout": "0"}
    problem, _ = await answer(app, "POST", "/api/links", 503, json=body, headers=headers)
    assert problem["outcome"] == "failed"
    await answer(app, "GET", "/api/links/too-late", 404)
    await answer(app, "GET", "/readyz", 200)


async def test_when_no_code_is_free_nothing_was_done(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    await app.add(code="taken")
    monkeypatch.setattr("scaleup.app.views.new_code", lambda _below: "taken")
    problem, _ = await answer(app, "POST", "/api/links", 503, json={"url": URL})
    assert problem["outcome"] == "failed"


async def test_an_expectation_that_nobody_knows(app: App) -> None:
    """aiohttp answers it before it asks us."""
    headers = {"Expect": "a-miracle", "X-Request-Id": "abc-8"}
    _, response = await answer(app, "GET", "/healthz", 417, headers=headers)
    assert response.headers["X-Request-Id"] == "abc-8"


async def test_the_log_says_which_request(database: DatabaseServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="scaleup.app.access")
    async with run_app(database, access_log=True) as app:
        await app.until_ready()
        await answer(app, "GET", "/l/nosuch", 404, headers={"X-Request-Id": "abc-7"})
        await until(lambda: "/l/nosuch" in caplog.text)  # who is answered may see it before it is logged
        (line,) = [record.getMessage() for record in caplog.records if "/l/nosuch" in record.getMessage()]
        assert '"GET /l/nosuch HTTP/1.1" 404' in line
        assert line.endswith("request abc-7")


async def test_health_and_readiness(app: App) -> None:
    for path in ("/healthz", "/readyz"):
        _, response = await answer(app, "GET", path, 200)
        assert response.content_type == "text/plain"


async def raw(app: App, request: bytes) -> bytes:
    """What comes back until the connection ends."""
    reader, writer = await asyncio.open_connection(app.endpoint.host, app.endpoint.port)
    writer.write(request)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"POST /api/links HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_breaks_http_is_answered_400_and_closed(
    app: App, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="scaleup.app.server")
    answered = await raw(app, request_bytes)
    assert answered.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in answered
    assert b"aiohttp" not in answered
    (its_id,) = re.findall(rb"\r\nX-Request-Id: ([0-9a-f]{16})\r\n", answered)
    assert f"(request {its_id.decode()})" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


HEAD = b"POST /api/links HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
BODY = b'{"url": "https://example.org/"}'


async def test_a_member_that_utf_8_cannot_say(app: App, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (r'{"\ud800": 1}', r'{"url": "https://\ud800/"}', r'{"url": "https://a/", "code": "\udfff"}'):
        await answer(app, "POST", "/api/links", 400, data=body, headers=headers)
    assert "Traceback" not in caplog.text


async def test_a_body_that_does_not_come(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleup.app.views.BODY_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection(app.endpoint.host, app.endpoint.port)
    writer.write(HEAD % len(BODY))
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    writer.write(BODY + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(20):
        assert b"HTTP/1.1" not in await reader.read()  # the problem, and then the end
    writer.close()
    await writer.wait_closed()


async def test_a_head_that_does_not_come(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleup.app.server.KEEPALIVE_SECONDS", 0.1)
    assert await raw(app, b"GET / HTTP/1.1\r\nHost:") == b""
    assert await raw(app, b"") == b""


async def test_a_client_that_does_not_wait_for_the_answer_is_served_all_the_same(
    app: App, database: DatabaseServer
) -> None:
    _, writer = await asyncio.open_connection(app.endpoint.host, app.endpoint.port)
    writer.write(HEAD % len(BODY) + BODY)
    writer.close()
    await writer.wait_closed()
    await until(lambda: database.execute("SELECT COUNT(*) FROM links") == ((1,),))


async def test_a_body_that_breaks_off_stores_nothing(
    app: App, database: DatabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(app.endpoint.host, app.endpoint.port)
    writer.write(HEAD % (len(BODY) + 1) + BODY)
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    assert database.execute("SELECT COUNT(*) FROM links") == ((0,),)
    assert "Traceback" not in caplog.text  # it is the client's doing
