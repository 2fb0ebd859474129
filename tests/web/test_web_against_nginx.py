"""The same requests over the same files, to nginx as deploy/nginx.conf runs it and to ours.

Whatever differs, in status, in a field that matters or in the bytes, stands in the table of docs/web.md with its
reason: the test reads that table, and nothing else allows a difference. Behind each request goes a second one on
the same connection: where it is answered, the connection was kept, and both agreed on where the first one ended.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from needs import SEARCH_PATH, requires
from web.catalogue_of_files import CASES, Case, make_site
from web.outside import PATIENCE_SECONDS, Address, Answer, answers, exchange, web

from bench.ports import free_port

ROOT = Path(__file__).parents[2]
MODULE = "/usr/lib/nginx/modules/ngx_http_brotli_static_module.so"
pytestmark = [pytest.mark.timeout(120), requires("nginx", MODULE)]

AS_OURS = """
    gzip_static   on;  # the precompressed siblings
    brotli_static on;
    gzip_vary     on;
    charset       utf-8;
    charset_types text/css text/javascript text/plain;
"""
"""What deploy/nginx.conf leaves out, as its site needs none of it."""

NEXT = b"GET /data.txt HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n"

FIELDS = (
    *("content-length", "content-type", "content-encoding", "content-range", "accept-ranges"),
    *("last-modified", "vary", "location", "allow", "cache-control", "expires", "transfer-encoding"),
)
"""Compared word by word. ETags are each server's own: compared is whether there is one, and of what strength."""

ABSENT = "–"
"""How the table says that a field is not there."""


@dataclass(frozen=True)
class Row:
    """A difference that is meant: of the answers to `requests`, `what`, at nginx and at ours; patterns all."""

    requests: str
    what: str
    nginx: str
    ours: str

    def allows(self, name: str, found: Difference) -> bool:
        pairs = ((name, self.requests), (found.nginx, self.nginx), (found.ours, self.ours))
        matches = (
            any(fnmatchcase(value, one) for one in patterns.split(" or ")) for value, patterns in pairs
        )
        return self.what in (found.what, "*") and all(matches)


@dataclass(frozen=True)
class Difference:
    what: str
    nginx: str
    ours: str


def table() -> list[Row]:
    """The rows of docs/web.md that say what differs: five columns, the last is the reason."""
    text = (ROOT / "docs" / "web.md").read_text().partition("<!-- differences -->")[2]
    rows = []
    for line in text.partition("<!-- end -->")[0].splitlines():
        cells = [re.sub(r"^`|`$", "", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and not set(cells[0]) <= {"-"} and cells[0] != "requests":
            assert cells[4], f"no reason: {line}"
            rows.append(Row(*(cell.replace("`", "") for cell in cells[:4])))
    return rows


def _configuration(site: Path, folder: Path, port: int) -> str:
    """The shipped file on another address and folder, with what ours does by itself."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for before, after in (
        ("listen 127.0.0.29:8080;", f"listen 127.0.0.1:{port};"),
        ("root   site;", f"root {site};"),
        ("/tmp/scaleup-nginx", f"{folder}/nginx"),
        ("    access_log   off;", f"    access_log off;\n{AS_OURS}"),
        ("        text/css         css;", "        text/css css; text/plain txt; application/gzip gz;"),
    ):
        assert before in text
        text = text.replace(before, after)
    return f"load_module {MODULE};\n{text}"


@contextlib.contextmanager
def _nginx(site: Path, folder: Path) -> Iterator[Address]:
    address = ("127.0.0.1", free_port())
    path = folder / "nginx.conf"
    path.write_text(_configuration(site, folder, address[1]))
    also = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(path), "-g", also],
        env={"PATH": SEARCH_PATH},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(ConnectionError):
                exchange(address, NEXT)
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield address
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()


@dataclass
class Pair:
    """Both servers, and the ETags that each has said."""

    nginx: Address
    ours: Address

    def ask(self, address: Address, case: Case) -> list[Answer]:
        request = case.request
        for name in re.findall(rb"\{etag ([^}]+)\}", request):
            get = b"GET %b HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n" % name
            etag = answers(exchange(address, get), "GET")[0].value("etag")
            assert etag.startswith('"'), f"no strong ETag for {name!r}"
            request = request.replace(b"{etag %b}" % name, etag.encode())
        return answers(exchange(address, request + NEXT), case.method, "GET")

    def differences(self, case: Case) -> list[Difference]:
        nginx = self.ask(self.nginx, case)
        try:
            ours = self.ask(self.ours, case)
        except ValueError as error:
            return [Difference("framing", "as RFC 9112 has it", str(error))]
        return list(compare(case, nginx, ours))


def compare(case: Case, nginx: list[Answer], ours: list[Answer]) -> Iterator[Difference]:
    """Both ways; when the status differs that is the difference, and the rest follows from it."""
    if not nginx or not ours:
        if nginx != ours:
            yield Difference("status", *(str(one[0].status) if one else "none" for one in (nginx, ours)))
        return
    a, b = nginx[0], ours[0]
    if a.status != b.status:
        yield Difference("status", str(a.status), str(b.status))
        return
    assert a.is_complete, f"nginx: {a}"
    assert b.is_complete, f"ours: {b}"
    if len(nginx) != len(ours):
        yield Difference("connection", *("kept" if len(one) == 2 else "closed" for one in (nginx, ours)))
    if a.status >= 300 and a.status != 304:
        # Each has pages of its own: compared is of what type they are, not what they say.
        fields: tuple[str, ...] = ("location", "content-range", "allow")
        if page(a) != page(b):
            yield Difference("page", page(a), page(b))
    else:
        fields = FIELDS
        if content(a) != content(b):
            yield Difference("body", repr(a.body[:40]), repr(b.body[:40]))
        if strength(a) != strength(b):
            yield Difference("ETag", strength(a), strength(b))
    for name in fields:
        if said(a, name) != said(b, name):
            yield Difference(name.title(), said(a, name), said(b, name))


def page(answer: Answer) -> str:
    return (answer.value("content-type") or ABSENT).partition(";")[0]


def said(answer: Answer, name: str) -> str:
    value = answer.value(name)
    if name == "content-type":
        value = re.sub("(?<=boundary=).*", "…", value)
    if name == "content-length" and boundary(answer):
        return "of the parts"  # whose boundaries are each server's own
    return value or ABSENT


def boundary(answer: Answer) -> str:
    return answer.value("content-type").partition("boundary=")[2]


def content(answer: Answer) -> bytes:
    """The body; of several ranges, with a boundary that is nobody's."""
    mark = boundary(answer).encode()
    return answer.body.replace(mark, b"BOUNDARY") if mark else answer.body


def strength(answer: Answer) -> str:
    etag = answer.value("etag")
    return "weak" if etag.startswith("W/") else "strong" if re.fullmatch('"[^"]+"', etag) else etag or ABSENT


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("against-nginx")
    site = make_site(folder)
    with _nginx(site, folder) as nginx, web("--root", str(site)) as (_, ours):
        yield Pair(nginx, ours)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_answers_as_nginx_does_or_says_why_not(pair: Pair, case: Case) -> None:
    rows = table()
    found = [one for one in pair.differences(case) if not any(row.allows(case.name, one) for row in rows)]
    assert not found, f"{case.request[:1000]!r}; what is meant belongs into docs/web.md"


def test_the_table_says_nothing_that_is_not_so(pair: Pair) -> None:
    """A row that no request bears out is a promise that nobody checks."""
    found = [(case.name, one) for case in CASES for one in pair.differences(case)]
    stale = [row for row in table() if not any(row.allows(name, one) for name, one in found)]
    assert not stale


def test_a_few_hundred_requests_with_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 300
    assert len(names) == len(set(names))


def test_the_parts_of_several_ranges_are_compared() -> None:
    """As nginx 1.22 writes them; a part with another offset is a difference."""

    def parts(mark: bytes, last: bytes) -> Answer:
        body = b"\r\n--%b\r\nContent-Range: bytes 0-0/9\r\n\r\na\r\n--%b--\r\n%b" % (mark, mark, last)
        kind = f"multipart/byteranges; boundary={mark.decode()}"
        return Answer(206, [("Content-Type", kind), ("ETag", '"x"')], body)

    case = Case("", "GET", b"")
    assert list(compare(case, [parts(b"00001", b"")], [parts(b"0042", b"")])) == []
    (found,) = compare(case, [parts(b"00001", b"")], [parts(b"0042", b"b")])
    assert found.what == "body"


def test_compressed_siblings_are_what_they_say(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert gzip.decompress((site / "app.js.gz").read_bytes()) == (site / "app.js").read_bytes()
