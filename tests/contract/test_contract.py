"""The contract of the application tier: whoever keeps it can take its place, and stand beside it on one database.

Nothing here knows of what an application is made: it is asked over HTTP, and the database is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from contract_harness import URL, Application, add, answer, connect
from db.database_servers import DatabaseServer
from needs import requires

pytestmark = pytest.mark.timeout(240)  # the first one waits for a database, and of npm for what Express needs

AGAIN_SECONDS = 20.0
"""How long an application may take to find its database again."""


async def test_creating_a_link(app: Application) -> None:
    link, response = await answer(app, "POST", "/api/links", 201, json={"url": URL})
    code = link["code"]
    assert link == {
        "code": code,
        "url": URL,
        "short": f"/l/{code}",
        "clicks": 0,
        "created": link["created"],
    }
    assert re.fullmatch(r"[1-9A-HJ-NP-Za-km-z]{7}", code)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", link["created"])
    assert response.headers["Location"] == f"/api/links/{code}"
    assert (await answer(app, "GET", f"/api/links/{code}", 200))[0] == link


async def test_choosing_a_code(app: Application) -> None:
    assert await add(app, code="My-Code_1") == "My-Code_1"
    problem, _ = await answer(app, "POST", "/api/links", 409, json={"url": URL, "code": "My-Code_1"})
    assert problem["field"] == "code"
    await add(app, code="my-code_1")  # upper and lower case are two
    await add(app, code=None)  # as if it were not there


URLS = [
    "HTTP://EXAMPLE.ORG",
    "https://EXAMPLE.org/a%2fb/../%7Ec;p=%3B?q=a+b&x=%E4#f",
    "http://[2001:db8::1]:8080/x?r[]=1",
    "https://example.org/" + "x" * 2028,
]


async def test_a_url_leads_where_it_says_byte_for_byte(app: Application) -> None:
    for url in URLS:
        code = await add(app, url)
        _, response = await answer(app, "GET", f"/l/{code}", 302)
        assert response.headers["Location"] == url
        assert response.headers["Cache-Control"] == "no-store"


BAD_URLS = [
    *(None, 7, "", "example.org", "//example.org/", "javascript:alert(1)", "ftp://example.org/"),
    *("http:///path", "http:example.org", "https://bank.example@evil.example/", "https://a:b@example.org/"),
    *("https://example.org:0/", "https://example.org:65536/", "http://[::1/", "https://example.org/ä"),
    *("https://example.org/a b", "https://example.org/\r\nSet-Cookie:x", "https://a\\b/", "x" * 2049),
]
BAD_MEMBERS: list[tuple[dict[str, Any], str]] = [
    *(({"url": url}, "url") for url in BAD_URLS),
    ({}, "url"),
    ({"url": URL, "code": "a b"}, "code"),
    ({"url": URL, "code": ""}, "code"),
    ({"url": URL, "code": "x" * 33}, "code"),
    ({"url": URL, "code": 7}, "code"),
    ({"url": URL, "Code": "x"}, "Code"),
]


async def test_a_member_that_cannot_be_taken_is_named(app: Application, database: DatabaseServer) -> None:
    """A URL that would mislead above all."""
    for body, field in BAD_MEMBERS:
        problem, _ = await answer(app, "POST", "/api/links", 400, json=body)
        assert problem["field"] == field, body
    assert database.execute("SELECT COUNT(*) FROM links") == ((0,),)


async def test_a_body_that_is_no_json_object(app: Application) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 9000, b'{"url": NaN}'):
        await answer(app, "POST", "/api/links", 400, data=body, headers=headers)


async def test_a_body_of_another_kind_or_size(app: Application, database: DatabaseServer) -> None:
    _, response = await answer(app, "POST", "/api/links", 415, data={"url": URL})
    assert response.headers["Accept-Post"] == "application/json"
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    await answer(app, "POST", "/api/links", 415, data=b'{"url": "https://example.org/"}', headers=headers)
    await answer(app, "POST", "/api/links", 413, json={"url": "x" * 20_000})
    assert database.execute("SELECT COUNT(*) FROM links") == ((0,),)


async def test_what_is_not_there(app: Application) -> None:
    for path in (
        "/",
        "/api/",
        "/api/links/",
        "/api/links/none",
        "/l/none",
        "/l/%C3%A4",
        "/l/%FF",
        "/l/a%20b",
    ):
        await answer(app, "GET", path, 404)
    await answer(app, "GET", "/l/" + "x" * 33, 404)
    await answer(app, "DELETE", "/api/links/none", 404)
    await answer(app, "DELETE", "/api/links/a%00b", 404)


async def test_methods_that_are_not_there(app: Application) -> None:
    for path, allowed in (
        ("/api/links", {"GET", "HEAD", "POST"}),
        ("/api/links/x", {"DELETE", "GET", "HEAD"}),
        ("/l/x", {"GET", "HEAD"}),
    ):
        for method in ("PUT", "OPTIONS"):
            _, response = await answer(app, method, path, 405)
            assert set(response.headers["Allow"].split(", ")) == allowed


async def test_visits_are_counted_and_previews_are_not(app: Application) -> None:
    code = await add(app)
    for _ in range(3):
        await answer(app, "GET", f"/l/{code}", 302)
    _, response = await answer(app, "HEAD", f"/l/{code}", 302)
    assert response.headers["Location"] == URL
    async with asyncio.timeout(AGAIN_SECONDS):
        while (await answer(app, "GET", f"/api/links/{code}", 200))[0]["clicks"] != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_link_that_is_known_already_is_not_sent_again(app: Application) -> None:
    code = await add(app)
    _, response = await answer(app, "GET", f"/api/links/{code}", 200)
    tag = response.headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    assert response.headers["Cache-Control"] == "no-cache"
    for known in (tag, f'"x", W/{tag}', "*"):
        _, response = await answer(app, "GET", f"/api/links/{code}", 304, headers={"If-None-Match": known})
        assert response.headers["ETag"] == tag
    await answer(app, "GET", f"/api/links/{code}", 200, headers={"If-None-Match": '"x"'})


async def test_deleting_a_link(app: Application) -> None:
    code = await add(app)
    await answer(app, "DELETE", f"/api/links/{code}", 204)
    await answer(app, "DELETE", f"/api/links/{code}", 404)
    await answer(app, "GET", f"/l/{code}", 404)


async def test_pages(app: Application) -> None:
    codes = [await add(app, code=f"c{number}") for number in range(5)][::-1]
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        query = {"limit": "2"} | ({"after": after} if after else {})
        page, _ = await answer(app, "GET", "/api/links", 200, params=query)
        seen += [link["code"] for link in page["links"]]
        after = page["next"]
    assert seen == codes
    page, _ = await answer(app, "GET", f"/api/links?after={2**63 - 1}", 200)
    assert [link["code"] for link in page["links"]] == codes
    assert page["next"] is None
    page, _ = await answer(app, "GET", "/api/links?after=0", 200)
    assert page == {"links": [], "next": None}


async def test_numbers_that_cannot_be_taken(app: Application) -> None:
    for name, values in {
        "limit": ("0", "101", "x", "", "-1", "%EF%BC%91"),
        "after": ("-1", "x", str(2**63), "9" * 500),
    }.items():
        for value in values:
            problem, _ = await answer(app, "GET", f"/api/links?{name}={value}", 400)
            assert problem["field"] == name, value


async def test_a_request_with_a_key_is_done_once(app: Application, database: DatabaseServer) -> None:
    """However many send it at the same time, and again later."""
    headers = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    bodies = {"json": {"url": URL}, "headers": headers}
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(answer(app, "POST", "/api/links", 201, **bodies)) for _ in range(5)]
    first, response = await answer(app, "POST", "/api/links", 201, **bodies)
    assert all(one.result()[0] == first for one in sent)
    assert response.headers["Location"] == f"/api/links/{first['code']}"
    assert database.execute("SELECT code FROM links") == ((first["code"],),)
    body = {"url": URL, "code": "other"}
    problem, _ = await answer(app, "POST", "/api/links", 422, json=body, headers=headers)
    assert problem["field"] == "Idempotency-Key"


async def test_a_key_whose_link_is_refused_is_free(app: Application) -> None:
    """Nothing of a transaction stays."""
    await add(app, code="taken")
    headers = {"Idempotency-Key": "a-key"}
    await answer(app, "POST", "/api/links", 409, json={"url": URL, "code": "taken"}, headers=headers)
    await answer(app, "DELETE", "/api/links/taken", 204)
    await answer(app, "POST", "/api/links", 201, json={"url": URL, "code": "taken"}, headers=headers)


async def test_a_key_that_cannot_be_taken(app: Application) -> None:
    for key in ("", "a b", "x" * 256, '"a"b"'):
        headers = {"Idempotency-Key": key}
        problem, _ = await answer(app, "POST", "/api/links", 400, json={"url": URL}, headers=headers)
        assert problem["field"] == "Idempotency-Key", key


async def test_who_am_i(app: Application, database: DatabaseServer) -> None:
    who, _ = await answer(app, "GET", "/api/whoami", 200)
    assert who["application"]["name"] == app.name
    assert who["application"]["pid"] > 0
    assert who["client"] == {"address": "127.0.0.1"}
    assert who["database"]["engine"] == "mariadb"
    assert who["database"]["address"] == str(database.endpoint)
    assert who["database"]["connection"] > 0
    for said, believed in (
        ("198.51.100.7, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("203.0.113.9", "203.0.113.9"),
        ("nonsense", "127.0.0.1"),
    ):
        who, _ = await answer(app, "GET", "/api/whoami", 200, headers={"X-Forwarded-For": said})
        assert who["client"] == {"address": believed}


async def test_a_request_keeps_its_id_or_gets_one(app: Application) -> None:
    for kept in ("web1-7.a_b", "Root=1-67:a/b+c", "x" * 128):
        _, response = await answer(app, "GET", "/api/links/x", 404, headers={"X-Request-Id": kept})
        assert response.headers["X-Request-Id"] == kept
    own = []
    for given in ("", "a b", "x" * 129):
        _, response = await answer(app, "GET", "/healthz", 200, headers={"X-Request-Id": given})
        own.append(response.headers["X-Request-Id"])
    assert len(set(own)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in own)


async def test_what_breaks_http_is_answered_400_and_closed(app: Application) -> None:
    for request in (b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection(*app.address)
        writer.write(request)
        async with asyncio.timeout(AGAIN_SECONDS):
            assert re.match(rb"HTTP/1.[01] 400 ", await reader.read())
        writer.close()
        await writer.wait_closed()


async def test_it_says_so_while_the_database_hangs_and_recovers(
    app: Application, database: DatabaseServer
) -> None:
    """What it says was not done must not have been done; what it does not know it may not deny."""
    await add(app, code="known")
    began = time.monotonic()
    with database.paused():
        async with asyncio.TaskGroup() as group:
            read = group.create_task(answer(app, "GET", "/l/known", 503))
            ready = group.create_task(answer(app, "GET", "/readyz", 503))
            alive = group.create_task(answer(app, "GET", "/healthz", 200))
            write = group.create_task(answer(app, "POST", "/api/links", 503, json={"url": URL, "code": "w"}))
    assert time.monotonic() - began < 15
    assert alive.done()
    assert ready.done()
    assert read.result()[0]["outcome"] == "failed"
    outcome = write.result()[0]["outcome"]
    assert outcome in ("failed", "unknown")
    assert all(int(one.result()[1].headers["Retry-After"]) > 0 for one in (read, write))
    async with asyncio.timeout(AGAIN_SECONDS):
        while True:
            with contextlib.suppress(AssertionError):
                await answer(app, "GET", "/readyz", 200)
                break
    await answer(app, "GET", "/l/known", 302)
    await add(app, code="after")
    if outcome == "failed":
        await answer(app, "GET", "/api/links/w", 404)


@requires("mariadbd", "node", "npm")
async def test_they_stand_side_by_side(
    start: Callable[[str], tuple[str, int]], database: DatabaseServer
) -> None:
    """A link of one is every other's, and so is the answer to a key: a client is balanced over all of them."""
    async with contextlib.AsyncExitStack() as stack:
        apps = [
            await stack.enter_async_context(connect(name, start(name)))
            for name in ("scaleup", "express", "flask")
        ]
        for maker in apps:
            headers = {"Idempotency-Key": f"key-of-{maker.name}"}
            link, _ = await answer(maker, "POST", "/api/links", 201, json={"url": URL}, headers=headers)
            for other in apps:
                again, _ = await answer(other, "POST", "/api/links", 201, json={"url": URL}, headers=headers)
                assert again == link
                assert (await answer(other, "GET", f"/api/links/{link['code']}", 200))[0] == link
        pages = [(await answer(app, "GET", "/api/links", 200))[0] for app in apps]
        assert pages[0] == pages[1] == pages[2]
        assert len(pages[0]["links"]) == len(apps)
