"""The same requests over the same files to nginx and to ours: each difference is wanted, and told in docs."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from needs import SEARCH_PATH, requires
from web_harness import running

ROOT = Path(__file__).parents[2]
MODIFIED = 1_000_000_000  # Sun, 09 Sep 2001 01:46:40 GMT
LAST_MODIFIED = b"Sun, 09 Sep 2001 01:46:40 GMT"
SCRIPT = b"let answer = 42;\n" * 100
BIG = bytes(range(256)) * 1024

CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 64; }}
http {{
    include /etc/nginx/mime.types;
    types {{ text/javascript js; }}
    default_type application/octet-stream;
    charset utf-8;
    charset_types text/html text/css text/plain text/javascript;
    access_log off;
    server_tokens off;
    gzip_static on;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        absolute_redirect off;
        disable_symlinks on;
        location ~ /\\.(?!well-known/) {{ return 404; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = Path(folder) / "site"
        (root / "sub" / "empty").mkdir(parents=True)
        (root / ".well-known").mkdir()
        files = {
            "index.html": b"<h1>front</h1>",
            "sub/index.html": b"<h1>sub</h1>",
            "digits": b"0123456789",
            "nothing.txt": b"",
            "a b.txt": b"space",
            "ü.txt": b"umlaut",
            "lib.js": SCRIPT,
            "lib.js.gz": gzip.compress(SCRIPT, mtime=0),
            "style.css": b"a{}",
            "image.png": b"\x89PNG",
            "page.svg": b"<svg/>",
            "data.json": b"{}",
            "big.bin": BIG,
            ".env": b"secret",
            ".well-known/acme": b"token",
        }
        for name, content in files.items():
            (root / name).write_bytes(content)
        for path in root.rglob("*"):
            os.utime(path, (MODIFIED, MODIFIED))
        yield root


@pytest.fixture(scope="module")
def nginx(root: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = CONFIGURATION.format(
            user="user root root;" if os.geteuid() == 0 else "", folder=folder, port=port, root=root
        )
        (folder / "nginx.conf").write_text(text)
        program = shutil.which("nginx", path=SEARCH_PATH)
        assert program is not None
        process = subprocess.Popen([program, "-p", name, "-e", "stderr", "-c", str(folder / "nginx.conf")])
        try:
            deadline = time.monotonic() + 20
            while True:
                assert process.poll() is None, "nginx did not start"
                with (
                    contextlib.suppress(ConnectionRefusedError),
                    socket.create_connection(("127.0.0.1", port)),
                ):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            process.wait(10)


# ----- what is asked ----------------------------------------------------------------------------------

FILES = (
    *(
        "/",
        "/digits",
        "/nothing.txt",
        "/lib.js",
        "/style.css",
        "/image.png",
        "/page.svg",
        "/data.json",
        "/big.bin",
    ),
    *("/sub/", "/a%20b.txt", "/%C3%BC.txt", "/.well-known/acme"),
)
PATHS = (
    *("/sub", "/sub?a=b", "/sub/empty/", "/sub/empty", "/missing", "/missing/", "/digits/", "/digits/x"),
    *("/./digits", "//digits", "/sub/../digits", "/sub/..", "/sub/.", "/%64igits", "/sub%2f..%2fdigits"),
    *("/digits?", "/digits?a=%00", "/digits?../..", "/digits;x", "/digits%3F", "/digits%20", "/DIGITS"),
    *("/.env", "/%2eenv", "/sub/../.env", "/.well-known/", "/.well-known/../.env", "/..well-known/acme"),
    *("/../digits", "/sub/../../digits", "/%2e%2e/digits", "/..%2fdigits", "/sub/%2e%2e/%2e%2e/digits"),
    *(
        "/digits%00",
        "/%00",
        "/%",
        "/%zz",
        "/%2",
        "/a b.txt",
        "/a+b.txt",
        "/\xfc.txt",
        "/%fc.txt",
        "/%c0%ae/digits",
    ),
    *("/digits#x", "*", "digits", "http://a/digits", "http://a", "HTTP://a/digits?x", "https://a/digits"),
    *("//a/../digits", "/" + "x" * 300, "/" + "x/" * 100, "/index.html", "/lib.js.gz", "/sub/index.html"),
)
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "PROPFIND",
    "TRACE",
    "CONNECT",
    "get",
    "FROB",
)
ETAG = "{etag}"  # in its place stands what the server has given the file
CONDITIONS = (
    *((f"If-None-Match: {tag}",) for tag in (ETAG, f"W/{ETAG}", '"other"', "*", f'"a", {ETAG}', "x")),
    *((f"If-Match: {tag}",) for tag in (ETAG, f"W/{ETAG}", '"other"', "*", f'"a", {ETAG}')),
    *(
        (f"If-Modified-Since: {date}",)
        for date in (
            "Sun, 09 Sep 2001 01:46:40 GMT",
            "Sun, 09 Sep 2001 01:46:39 GMT",
            "Sun, 09 Sep 2001 01:46:41 GMT",
            "Sunday, 09-Sep-01 01:46:40 GMT",
            "yesterday",
        )
    ),
    *(
        (f"If-Unmodified-Since: {date}",)
        for date in (
            "Sun, 09 Sep 2001 01:46:40 GMT",
            "Sun, 09 Sep 2001 01:46:39 GMT",
            "Sun, 09 Sep 2001 01:46:41 GMT",
            "yesterday",
        )
    ),
    (f"If-None-Match: {ETAG}", "If-Modified-Since: Sun, 09 Sep 2001 01:46:39 GMT"),
    ('If-None-Match: "other"', "If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT"),
    (f"If-Match: {ETAG}", f"If-None-Match: {ETAG}"),
)
RANGES = tuple(
    f"Range: {value}"
    for value in (
        *(
            "bytes=0-3",
            "bytes=7-",
            "bytes=-2",
            "bytes=-99",
            "bytes=5-99",
            "bytes=0-",
            "bytes=0-9",
            "bytes=9-9",
        ),
        *(
            "bytes=10-",
            "bytes=-0",
            "bytes=3-1",
            "bytes=a-b",
            "bytes=",
            "bytes=-",
            "bytes",
            "lines=0-1",
            "Bytes=0-1",
        ),
        *("bytes=0-1,3-4", "bytes=0-0,2-2,4-4", "bytes=0-1,20-30", "bytes=20-30,0-1", "bytes=20-,30-"),
        *("bytes=0-9,0-9", "bytes= 0-1", "bytes=0 - 1", "bytes=0-1, 3-4", "bytes=0-1,", "bytes=-1,-1"),
        "bytes=0-99999999999999999999",
    )
)
IF_RANGES = tuple(
    ("Range: bytes=2-3", f"If-Range: {value}")
    for value in (
        ETAG,
        f"W/{ETAG}",
        '"other"',
        "Sun, 09 Sep 2001 01:46:40 GMT",
        "Sun, 09 Sep 2001 01:46:41 GMT",
        "x",
    )
)
ENCODINGS = tuple(
    f"Accept-Encoding: {value}"
    for value in (
        "gzip",
        "gzip, br",
        "gzip;q=0",
        "gzip;q=0.5",
        "gzip;q=0.000",
        "*",
        "*;q=0",
        "identity",
        "deflate",
        "x-gzip",
        "GZIP",
        "identity;q=0.5, gzip;q=0.1",
        "",
    )
)


@dataclass(frozen=True)
class Ask:
    """One request; it is sent on a connection of its own."""

    method: str
    target: str
    fields: tuple[str, ...] = ()
    version: str = "1.1"

    def __str__(self) -> str:
        return " ".join(
            (self.method, self.target[:60], *self.fields, *([] if self.version == "1.1" else [self.version]))
        )

    def bytes(self, etag: str) -> bytes:
        lines = [
            f"{self.method} {self.target} HTTP/{self.version}",
            "Host: site.test",
            "Connection: close",
            *self.fields,
        ]
        return "\r\n".join([*lines, "", ""]).replace(ETAG, etag).encode("latin-1")


ASKED = [
    *(Ask("GET", path) for path in (*FILES, *PATHS)),
    *(Ask("HEAD", path) for path in (*FILES, "/missing", "/sub", "/.env")),
    *(Ask(method, path) for method, path in itertools.product(METHODS[2:], ("/digits", "/missing", "/sub/"))),
    *(Ask(method, "/digits", fields) for method, fields in itertools.product(METHODS[:2], CONDITIONS)),
    *(Ask(method, "/digits", (field,)) for method, field in itertools.product(METHODS[:2], RANGES)),
    *(Ask("GET", "/big.bin", (field,)) for field in RANGES),
    *(Ask("GET", "/nothing.txt", (field,)) for field in RANGES[:8]),
    *(Ask("GET", "/digits", fields) for fields in IF_RANGES),
    *(Ask("GET", path, (field,)) for path, field in itertools.product(("/lib.js", "/style.css"), ENCODINGS)),
    *(
        Ask("GET", "/lib.js", ("Accept-Encoding: gzip", more))
        for more in (f"If-None-Match: {ETAG}", "Range: bytes=0-3")
    ),
    *(Ask("GET", path, version="1.0") for path in ("/digits", "/big.bin", "/missing", "/sub")),
]


# ----- what is compared -------------------------------------------------------------------------------

COMPARED = (
    "content-type",
    "content-length",
    "content-range",
    "content-encoding",
    "location",
    "last-modified",
    "accept-ranges",
    "vary",
    "allow",
    "connection",
    "transfer-encoding",
    "www-authenticate",
    "set-cookie",
)


@dataclass(frozen=True)
class Told:
    """An answer, without what says nothing: dates, names, tags but that there is one."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def has(self, name: str) -> str | None:
        return dict(self.fields).get(name)


def read(data: bytes) -> Told:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split(" ")[1]) if first.startswith("HTTP/1.1 ") else 0
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    boundary = re.search("boundary=(.*)", fields.get("content-type", ""))
    if boundary:
        body = body.replace(boundary[1].encode(), b"B")
        fields["content-type"] = fields["content-type"].replace(boundary[1], "B")
        fields["content-length"] = "of its parts"
    if status >= 400:
        body = b""  # the text of an error is everybody's own
        for name in ("content-type", "content-length"):
            fields.pop(name, None)
    kept = [(name, fields[name]) for name in COMPARED if name in fields]
    return Told(status, (*kept, ("etag", "yes" if "etag" in fields else "no")), body)


def etag_in(data: bytes) -> str:
    found = re.search(rb'\r\nETag: (?:W/)?("[^"]*")', data)
    return found[1].decode() if found else '"none"'


# ----- what may differ --------------------------------------------------------------------------------

Differs = Callable[[Ask, Told, Told], bool]


def _asks(field: str) -> Differs:
    return lambda asked, nginx, ours: any(it.startswith(field) for it in asked.fields)


def _gains(**fields: str) -> Differs:
    """Ours has these fields in addition, and is the same otherwise."""

    def differs(asked: Ask, nginx: Told, ours: Told) -> bool:
        more = {(name.replace("_", "-"), value) for name, value in fields.items()}
        return nginx.status == ours.status and {*ours.fields} - more == {*nginx.fields} - more

    return differs


DIFFERENCES: dict[str, Differs] = {
    "POST to a file": lambda asked, nginx, ours: nginx.status in (404, 405) and ours.status == 405,
    "a folder without index.html": lambda asked, nginx, ours: (nginx.status, ours.status) == (403, 404),
    "a folder without its slash": lambda asked, nginx, ours: (
        nginx.status == ours.status == 301 and nginx.has("location") == ours.has("location")
    ),
    "bytes above 7F in a path": lambda asked, nginx, ours: ours.status == 400 and not asked.target.isascii(),
    "a fragment in the target": lambda asked, nginx, ours: ours.status == 400 and "#" in asked.target,
    "Vary": _gains(vary="Accept-Encoding"),
    "If-Modified-Since after the file's time": lambda asked, nginx, ours: (
        (nginx.status, ours.status) == (200, 304)
        and asked.fields == ("If-Modified-Since: Sun, 09 Sep 2001 01:46:41 GMT",)
    ),
    "If-None-Match beside If-Modified-Since": lambda asked, nginx, ours: (
        len(asked.fields) == 2 and asked.fields[1].startswith("If-Modified-Since")
    ),
    "a date that is none": _asks("If-Unmodified-Since: yesterday"),
    "a range that is malformed": lambda asked, nginx, ours: (
        (nginx.status, ours.status) == (416, 200) and asked.method == "GET"
    ),
    "HEAD with a range": lambda asked, nginx, ours: asked.method == "HEAD" and ours.status == 200,
    "If-Range with a date": _asks("If-Range: Sun, 09 Sep"),
    "Accept-Encoding: *": _asks("Accept-Encoding: *"),
    "identity above gzip": _asks("Accept-Encoding: identity;q=0.5"),
    "a range of a file with variants": lambda asked, nginx, ours: (
        (nginx.status, ours.status) == (200, 206) and "Accept-Encoding: gzip" in asked.fields
    ),
    "the type of .gz": lambda asked, nginx, ours: asked.target == "/lib.js.gz",
    "ranges of what was compressed": _gains(accept_ranges="bytes", vary="Accept-Encoding"),
}


@requires("nginx")
async def test_each_difference_is_wanted(root: Path, nginx: tuple[str, int]) -> None:
    seen: set[str] = set()
    async with running(root=root) as web:
        where = web.endpoint.host, web.endpoint.port
        for asked in ASKED:
            theirs, ours = await tell(nginx, asked), await tell(where, asked)
            if theirs != ours:
                reasons = [name for name, differs in DIFFERENCES.items() if differs(asked, theirs, ours)]
                assert reasons, f"{asked}: nginx {theirs}, ours {ours}"
                seen.update(reasons)
    assert seen == {*DIFFERENCES}, "those that do not occur any more are not to be told"
    assert len(ASKED) > 250


def test_each_difference_is_told() -> None:
    chapter = (ROOT / "docs" / "web.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| [^|]+ \|$", chapter, re.MULTILINE)
    assert [name.replace("`", "") for name in told if name not in ("difference", "---")] == list(DIFFERENCES)


async def tell(where: tuple[str, int], asked: Ask) -> Told:
    """What a server answers; its own tag stands where ETAG does."""
    tagged = Ask("GET", asked.target, tuple(f for f in asked.fields if f.startswith("Accept-Encoding")))
    etag = etag_in(await ask(where, tagged.bytes(""))) if any(ETAG in field for field in asked.fields) else ""
    return read(await ask(where, asked.bytes(etag)))


async def ask(where: tuple[str, int], request: bytes) -> bytes:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*where)
        writer.write(request)
        data = await reader.read()
        writer.close()
        return data
