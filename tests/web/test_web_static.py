"""Files on a real socket: what is served, what is not, and what must not get out."""

import asyncio
import email
import errno
import gzip
import os
import resource
import time
from pathlib import Path
from typing import Any, cast

import pytest
from web_harness import Answer, Application, running, until

from scaleup.web import cache, disk, static
from scaleup.web.conditions import Span
from scaleup.web.disk import Disk, File
from scaleup.web.problems import Problem
from scaleup.web.reply import Broken
from scaleup.web.static import _Parts
from scaleup.web.stream import Stream

BIG = bytes(range(256)) * 4096  # 1 MiB: several pieces


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / ".well-known").mkdir()
    (root / "index.html").write_text("<h1>front</h1>")
    (root / "sub" / "index.html").write_text("<h1>sub</h1>")
    (root / "empty").mkdir()
    (root / "app.js").write_text("let plain")
    (root / "digits").write_bytes(b"0123456789")
    (root / "nothing.txt").write_bytes(b"")
    (root / "big").write_bytes(BIG)
    (root / "ä b.txt").write_text("umlaut")
    (root / ".env").write_text("secret")
    (root / ".well-known" / "acme").write_text("token")
    (tmp_path / "outside").write_text("secret")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "digits")
    os.mkfifo(root / "pipe")
    return root


async def test_an_index_a_type_and_the_security_headers(root: Path) -> None:
    async with running(root=root) as web:
        answer = await web.get("/")
        assert (answer.status, answer.body) == (200, b"<h1>front</h1>")
        assert answer.value("content-type") == "text/html; charset=utf-8"
        assert answer.value("x-content-type-options") == "nosniff"
        assert answer.value("referrer-policy") == "same-origin"
        assert "frame-ancestors 'none'" in (answer.value("content-security-policy") or "")
        assert answer.value("x-served-by") == "web1"
        assert answer.value("server") == "scaleup"
        assert answer.value("content-length") == "14"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/sub/", 200, b"<h1>sub</h1>"),
        ("/sub/../digits", 200, b"0123456789"),
        ("/./digits", 200, b"0123456789"),
        ("//digits", 200, b"0123456789"),
        ("/%64igits", 200, b"0123456789"),
        ("/sub%2f..%2fdigits", 200, b"0123456789"),
        ("/digits?a=%00b", 200, b"0123456789"),
        ("/in", 200, b"0123456789"),
        ("/%C3%A4%20b.txt", 200, b"umlaut"),
        ("/nothing.txt", 200, b""),
        ("/.well-known/acme", 200, b"token"),
        ("http://elsewhere.test/digits", 200, b"0123456789"),
    ],
)
async def test_what_is_served(root: Path, path: str, status: int, body: bytes) -> None:
    async with running(root=root) as web:
        answer = await web.get(path)
        assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    "path",
    [
        *("/../outside", "/sub/../../outside", "/%2e%2e/outside", "/..%2foutside", "/%2e%2e%2foutside"),
        *("/..\\outside", "/..%5coutside", "/%5c..%5coutside", "/....//outside", "/%252e%252e/outside"),
        *("/out", "/up/outside", "/up/site/digits/../../outside", "/..;/outside", "/%c0%ae%c0%ae/outside"),
        *("/.env", "/%2eenv", "/sub/.env", "/.git/config", "/.", "/.."),
        *("/digits%00.html", "/%00", "/digits/", "/digits/x", "/empty/", "/pipe", "/missing"),
        "/" + "a" * 300,
    ],
)
async def test_what_is_not_served(root: Path, path: str) -> None:
    async with running(root=root) as web:
        answer = await web.get(path)
        if path == "/.":
            assert answer.body == b"<h1>front</h1>"  # the root itself
            return
        assert answer.status in (400, 404)
        assert b"secret" not in answer.body
        assert answer.value("content-type") == "application/problem+json"


async def test_an_error_for_a_person_is_a_page(root: Path) -> None:
    async with running(root=root) as web:
        answer = await web.get("/missing", b"Accept: text/html,*/*")
        assert answer.status == 404
        assert answer.value("content-type") == "text/html; charset=utf-8"
        assert b"<h1>404 Not Found</h1>" in answer.body


async def test_a_folder_without_its_slash_is_redirected_within_the_site(root: Path) -> None:
    (root / "evil.test").mkdir()
    async with running(root=root) as web:
        answer = await web.get("/sub?a=b")
        assert (answer.status, answer.value("location")) == (301, "/sub/?a=b")
        answer = await web.get("//evil.test")
        assert answer.value("location") == "/evil.test/"  # not //evil.test/, which is another host


async def test_files_can_only_be_read(root: Path) -> None:
    async with running(root=root) as web:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            answer = await web.get("/digits", method=method, body=b"x")
            assert (answer.status, answer.value("allow")) == (405, "GET, HEAD")


async def test_head_is_get_without_a_body(root: Path) -> None:
    async with running(root=root) as web:
        get, head = await web.get("/big"), await web.get("/big", method="HEAD")
        assert head.body == b""
        assert [f for f in head.fields if f[0] != "Date"] == [f for f in get.fields if f[0] != "Date"]
        assert (await web.get("/missing", method="HEAD")).body == b""


async def test_a_large_file_arrives_whole(root: Path) -> None:
    async with running(root=root) as web:
        assert (await web.get("/big")).body == BIG


async def test_a_file_that_shrinks_while_it_is_sent_does_not_look_complete(root: Path) -> None:
    (root / "huge").write_bytes(bytes(64 * 1024 * 1024))  # more than any socket buffer takes
    async with running(root=root) as web:
        client = await web.connect()
        client.writer.write(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        os.truncate(root / "huge", 1024 * 1024)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        client.writer.close()


async def test_not_modified_and_precondition_failed(root: Path) -> None:
    async with running(root=root) as web:
        first = await web.get("/digits")
        etag, modified = (first.value(name) or "" for name in ("etag", "last-modified"))
        for condition in (
            f"If-None-Match: {etag}",
            f"If-None-Match: W/{etag}",
            f"If-Modified-Since: {modified}",
        ):
            answer = await web.get("/digits", condition.encode())
            assert (answer.status, answer.body) == (304, b"")
            assert answer.value("etag") == etag
            assert answer.value("content-length") is None
        assert (await web.get("/digits", b'If-None-Match: "other"')).status == 200
        assert (await web.get("/digits", b'If-Match: "other"')).status == 412
        assert (await web.get("/digits", b"If-Match: *")).status == 200


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        (b"bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        (b"bytes=7-", 206, b"789", "bytes 7-9/10"),
        (b"bytes=-2", 206, b"89", "bytes 8-9/10"),
        (b"bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        (b"bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        (b"bytes=0-", 206, b"0123456789", "bytes 0-9/10"),
        (b"bytes=10-", 416, None, "bytes */10"),
        (b"bytes=-0", 416, None, "bytes */10"),
        (b"bytes=3-1", 200, b"0123456789", None),
        (b"lines=0-1", 200, b"0123456789", None),
        (b"bytes=a-b", 200, b"0123456789", None),
    ],
)
async def test_ranges(
    root: Path, asked: bytes, status: int, body: bytes | None, content_range: str | None
) -> None:
    async with running(root=root) as web:
        answer = await web.get("/digits", b"Range: " + asked)
        assert answer.status == status
        assert answer.value("content-range") == content_range
        if body is not None:
            assert answer.body == body


@pytest.mark.parametrize("name", ["digits", "big"])
async def test_several_ranges_are_parts(root: Path, name: str) -> None:
    """RFC 9110 §14.6; a mail parser is the judge."""
    content = (root / name).read_bytes()
    async with running(root=root) as web:
        answer = await web.get(f"/{name}", b"Range: bytes=0-1, 3-4,-2")
    kind = answer.value("content-type") or ""
    assert (answer.status, kind.partition(";")[0]) == (206, "multipart/byteranges")
    assert answer.value("content-length") == str(len(answer.body))
    assert answer.value("content-range") is None
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + answer.body)
    parts = message.get_payload()
    size = len(content)
    assert [part["Content-Range"] for part in parts] == [
        f"bytes {first}-{last}/{size}" for first, last in ((0, 1), (3, 4), (size - 2, size - 1))
    ]
    assert [part["Content-Type"] for part in parts] == ["application/octet-stream"] * 3
    assert [part.get_payload(decode=True) for part in parts] == [content[:2], content[3:5], content[-2:]]


async def test_ranges_of_a_large_file_put_together_are_the_file(root: Path) -> None:
    async with running(root=root) as web:
        starts = range(0, len(BIG), 300_000)
        parts = [await web.get("/big", b"Range: bytes=%d-%d" % (i, i + 299_999)) for i in starts]
        assert b"".join(part.body for part in parts) == BIG


async def test_trap_if_range_with_another_etag_answers_200(root: Path) -> None:
    """aiohttp's FileResponse answers 206, and a resumed download gets corrupted."""
    async with running(root=root) as web:
        first = await web.get("/digits")
        etag, modified = (first.value(name) or "" for name in ("etag", "last-modified"))
        for condition, status in [
            ('"other"', 200),
            (f"W/{etag}", 200),  # weak: not for ranges
            (etag, 206),
            (modified, 200),  # a file may change twice in a second
            ("nonsense", 200),
        ]:
            answer = await web.get("/digits", b"Range: bytes=2-3", f"If-Range: {condition}".encode())
            assert answer.status == status, condition
            assert answer.body == (b"23" if status == 206 else b"0123456789")


async def test_without_descriptors_a_file_is_not_absent(root: Path) -> None:
    async with running(root=root) as web:
        client = await web.connect()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            client.writer.write(b"GET /digits HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await client.answer()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (answer.status, answer.value("retry-after")) == (503, "1")
        client.writer.close()


async def test_a_connection_is_kept_for_the_next_request(root: Path) -> None:
    async with running(root=root) as web:
        client = await web.connect()
        for _ in range(3):
            client.writer.write(b"GET /digits HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.answer()).body == b"0123456789"
        client.writer.close()


async def test_pipelined_requests_are_answered_in_order(root: Path) -> None:
    async with running(root=root) as web:
        request = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
        client = await web.connect()
        client.writer.write(request % b"digits" + request % b"missing" + request % b"sub/")
        assert [(await client.answer()).status for _ in range(3)] == [200, 404, 200]
        client.writer.close()


async def test_a_client_that_leaves_during_a_download_leaves_nothing_behind(root: Path) -> None:
    (root / "huge").write_bytes(bytes(64 * 1024 * 1024))
    async with running(root=root) as web:
        clients = [await web.connect() for _ in range(10)]
        for client in clients:
            client.writer.write(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.head()
        for client in clients:
            client.reset()


async def test_a_client_that_takes_nothing_is_cut_off(root: Path) -> None:
    (root / "huge").write_bytes(bytes(64 * 1024 * 1024))
    async with running(root=root, send_timeout=0.2) as web:
        client = await web.connect()
        client.writer.write(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        client.writer.transport.pause_reading()
        await until(lambda: web.metric("connections") == 0)
        client.writer.transport.resume_reading()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        client.writer.close()


async def test_http_1_0_is_answered_and_closed(root: Path) -> None:
    async with running(root=root) as web:
        answer = Answer.parse(await web.ask(b"GET /digits HTTP/1.0\r\n\r\n"))
        assert (answer.status, answer.body, answer.value("connection")) == (200, b"0123456789", "close")
        client = await web.connect()
        client.writer.write(b"GET /digits HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.answer()).value("connection") == "keep-alive"
        client.writer.close()


async def test_without_a_root_there_is_nothing() -> None:
    async with running() as web:
        assert (await web.get("/")).status == 404
        assert (await web.get("/healthz")).body == b"ok\n"
        assert (await web.get("/readyz")).body == b"ok\n"


# ----- variants, caching, fallbacks -------------------------------------------------------------------

SCRIPT = b"let answer = 42;\n" * 100


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"gzip", "gzip"),
        (b"br, gzip", "br"),
        (b"gzip;q=1.0, br;q=0.5", "gzip"),
        (b"br;q=0, gzip;q=0.1", "gzip"),
        (b"*", "br"),
        (b"*;q=0", None),
        (b"identity, gzip;q=0.5", None),
        (b"deflate", None),
        (b"", None),
    ],
)
async def test_variants_are_chosen_by_weight(root: Path, accepted: bytes, coding: str | None) -> None:
    """aiohttp served `br;q=0` as br."""
    (root / "lib.js").write_bytes(SCRIPT)
    (root / "lib.js.br").write_bytes(b"brotli")
    async with running(root=root) as web:
        plain = await web.get("/lib.js")
        assert (plain.body, plain.value("vary"), plain.value("content-encoding")) == (
            *(SCRIPT, "Accept-Encoding", None),
        )
        answer = await web.get("/lib.js", b"Accept-Encoding: " + accepted)
        assert answer.value("content-encoding") == coding
        assert answer.value("vary") == "Accept-Encoding"
        assert answer.value("content-type") == "text/javascript; charset=utf-8"
        if coding == "br":
            assert answer.body == b"brotli"
        elif coding == "gzip":
            assert gzip.decompress(answer.body) == SCRIPT
        tags = {plain.value("etag"), answer.value("etag")}
        assert len(tags) == (1 if coding is None else 2), "each is a representation of its own"
        again = await web.get(
            "/lib.js",
            b"Accept-Encoding: " + accepted,
            b"If-None-Match: " + (answer.value("etag") or "").encode(),
        )
        assert again.status == 304


async def test_a_sibling_that_is_older_than_its_file_is_of_another_version(root: Path) -> None:
    (root / "lib.js").write_bytes(SCRIPT)
    (root / "lib.js.br").write_bytes(b"brotli of before")
    os.utime(root / "lib.js.br", (1, 1))
    async with running(root=root) as web:
        assert (await web.get("/lib.js", b"Accept-Encoding: br")).value("content-encoding") is None


async def test_siblings_of_large_files(root: Path) -> None:
    (root / "big.gz").write_bytes(b"smaller")
    async with running(root=root) as web:
        answer = await web.get("/big", b"Accept-Encoding: gzip")
        assert (answer.body, answer.value("content-encoding")) == (b"smaller", "gzip")
        assert (await web.get("/big")).value("vary") == "Accept-Encoding"


async def test_a_range_is_of_what_would_have_been_sent_without_it(root: Path) -> None:
    """Who has a part of the compressed file must not get the rest of the other one (RFC 9110 §14.2)."""
    (root / "big.gz").write_bytes(b"smaller")
    asked = (b"Accept-Encoding: gzip", b"Range: bytes=0-3")
    async with running(root=root) as web:
        plain, coded = await web.get("/big"), await web.get("/big", asked[0])
        assert (plain.value("accept-ranges"), coded.value("accept-ranges")) == ("bytes", None)
        etags = [(answer.value("etag") or "").encode() for answer in (plain, coded)]
        for fields, status, body, coding in (
            (asked, 200, b"smaller", "gzip"),
            ((*asked, b"If-Range: " + etags[1]), 200, b"smaller", "gzip"),
            ((*asked, b"If-Range: " + etags[0]), 206, BIG[:4], None),
            ((b"Accept-Encoding: br", asked[1]), 206, BIG[:4], None),
            ((asked[1],), 206, BIG[:4], None),
        ):
            answer = await web.get("/big", *fields)
            assert (answer.status, answer.body, answer.value("content-encoding")) == (status, body, coding)


async def test_a_file_that_changes_is_served_anew_within_a_second(root: Path) -> None:
    async with running(root=root) as web:
        assert (await web.get("/digits")).body == b"0123456789"
        (root / "digits").write_bytes(b"other")
        async with asyncio.timeout(6):
            while (await web.get("/digits")).body != b"other":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (root / "digits").unlink()
        async with asyncio.timeout(6):
            while (await web.get("/digits")).status != 404:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_cache_control_by_pattern(root: Path) -> None:
    rules = ("/sub/*=public, max-age=31536000, immutable", "/*.js=max-age=60", "/app*=no-store")
    async with running(root=root, cache_control=rules) as web:
        for path, value in [
            ("/sub/", "public, max-age=31536000, immutable"),
            ("/app.js", "max-age=60"),
            ("/digits", "no-cache"),
            ("/big", "no-cache"),
        ]:
            assert (await web.get(path)).value("cache-control") == value


async def test_a_site_of_one_page(root: Path) -> None:
    caching = ("/index.html=max-age=9",)
    async with running(root=root, fallback="/index.html", cache_control=caching) as web:
        for path in ("/deep/link", "/missing", "/empty/"):
            answer = await web.get(path)
            assert (answer.status, answer.body) == (200, b"<h1>front</h1>")
            assert answer.value("cache-control") == "max-age=9"
        assert (await web.get("/.env")).body == b"<h1>front</h1>"
        assert (await web.get("/digits")).body == b"0123456789"


async def test_error_pages_are_for_people(root: Path) -> None:
    (root / "404.html").write_text("<h1>nothing here</h1>")
    async with running(root=root, error_page=("404=/404.html", "405=/absent.html")) as web:
        page = await web.get("/missing", b"Accept: text/html")
        assert (page.status, page.body) == (404, b"<h1>nothing here</h1>")
        assert page.value("content-type") == "text/html; charset=utf-8"
        assert (await web.get("/missing")).value("content-type") == "application/problem+json"
        absent = await web.get("/digits", b"Accept: text/html", method="PUT")
        assert (absent.status, b"<h1>405" in absent.body) == (405, True)


@pytest.mark.parametrize(
    ("setting", "missing", "method"),
    [({"fallback": "/app/page"}, "/missing", "GET"), ({"error_page": ("405=/app/page",)}, "/app/", "TRACE")],
)
async def test_a_file_that_a_setting_names_takes_no_path_away_from_the_application(
    root: Path, setting: dict[str, Any], missing: str, method: str
) -> None:
    (root / "app").mkdir()
    (root / "app" / "page").write_text("nothing here")
    async with running(Application(), root=root, prefix=("/app/",), **setting) as web:
        for _ in range(2):
            assert (await web.get(missing, b"Accept: text/html", method=method)).body == b"nothing here"
            assert (await web.get("/app/page")).body == b"hello"


async def test_a_file_is_looked_at_once_a_second_for_all_and_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(disk, "TICK_NS", 0)  # not again because it has just been written
    file = tmp_path / "a.txt"
    file.write_text("one")
    found: list[int] = []
    read: list[int] = []
    find, pread = Disk.find, File.read

    def counted_find(*given: Any, **named: Any) -> Any:
        found.append(1)
        return find(*given, **named)

    def counted_read(*given: Any) -> bytes:
        read.append(1)
        return pread(*given)

    monkeypatch.setattr(Disk, "find", counted_find)
    monkeypatch.setattr(File, "read", counted_read)
    async with running(root=tmp_path) as web:
        for text, times in (("one", 1), ("two", 2)):
            file.write_text(text)
            os.utime(file, ns=(0, 0))  # the time alone does not tell them apart, nor does the size
            for _ in range(3):
                assert (await web.get("/a.txt")).body == text.encode()
            assert len(read) == times
        assert len(found) == 6
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(web.get("/a.txt")) for _ in range(20)]
        assert {answer.result().body for answer in answers} == {b"two"}
        assert 7 <= len(found) < 26


async def test_a_file_that_nobody_asks_for_does_not_stay_open(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (static, cache):
        monkeypatch.setattr(module, "UNUSED_SECONDS", 0.01)
    monkeypatch.setattr(static, "FRESH_SECONDS", 0.0)

    def is_open() -> bool:
        return any(os.path.realpath(link) == str(root / "big") for link in Path("/proc/self/fd").iterdir())

    async with running(root=root) as web:
        assert (await web.get("/big")).status == 200
        await until(lambda: not is_open())


@pytest.mark.parametrize("size", [10, 100_000])
async def test_of_two_versions_with_one_time_each_has_its_own_tag(tmp_path: Path, size: int) -> None:
    """As reproducible builds make them. In memory a file has the same tag wherever it is."""
    etags = []
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(content * size)
        os.utime(tmp_path / name / "file", (1 if name != "c" else time.time(), 1))
        async with running(root=tmp_path / name) as web:
            etags.append((await web.get("/file")).value("etag"))
    assert etags[0] != etags[1]
    assert (etags[0] == etags[2]) == (size == 10)


async def test_what_has_changed_a_moment_ago_is_not_known_by_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again before the kernel's clock for files ticks."""
    monkeypatch.setattr(static, "FRESH_SECONDS", 0.0)
    (tmp_path / "file").write_bytes(b"1")
    reads: list[int] = []
    read = File.read

    def counted(*given: Any) -> bytes:
        reads.append(1)
        return read(*given)

    monkeypatch.setattr(File, "read", counted)
    async with running(root=tmp_path) as web:
        for tick, count in ((10**18, 2), (0, 3)):
            monkeypatch.setattr(disk, "TICK_NS", tick)
            for _ in range(2):
                await web.get("/file")
            assert len(reads) == count


async def test_what_is_in_memory_is_answered_as_the_first_time(root: Path) -> None:
    """A target that is no URL is refused, and an error is counted as the files'."""
    async with running(root=root) as web:
        for _ in range(2):
            assert (await web.get("/digits?part#one")).status == 400
            assert (await web.get("/digits", b'If-Match: "other"')).status == 412
        assert web.metric("requests_total", kind="static", code="4xx") == 2


def test_a_folder_that_becomes_a_link_after_it_was_looked_at_leads_nowhere(root: Path) -> None:
    class Raced(Disk):
        def _contained(self, segments: tuple[bytes, ...]) -> bytes:
            path = super()._contained(segments)
            (root / "sub").rename(root / "was")  # at the worst moment
            (root / "sub").symlink_to(root.parent)
            return path

    (root / "sub" / "outside").write_text("inside")
    with pytest.raises(Problem, match="404"):
        Raced(root).find((b"sub", b"outside"), is_folder=False)


async def test_a_disk_that_fails_is_not_taken_for_a_client_that_has_left(root: Path) -> None:
    class Client:
        is_plain = True

        async def send_file(self, *arguments: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    (root / "file").write_bytes(b"12345")
    parts = _Parts(File(bytes(root / "file")), [Span(0, 5)])
    with pytest.raises(Broken, match="the file cannot be read: Input/output error") as broken:
        await parts.send(cast(Stream, Client()), lambda piece: piece, 1.0)
    assert broken.value.status == 500
