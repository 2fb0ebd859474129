"""What the differential suite asks for: a folder of files, and a few hundred requests for them."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

MODIFIED = 1704164645
"""Of all files, seconds since 1970."""

TEXT = bytes(range(32, 127)) + b"\r\nxyz"
"""100 bytes, no two neighbouring ranges alike."""


@dataclass(frozen=True)
class Case:
    """A request, byte for byte. `{etag PATH}` in it becomes the ETag that each server says of PATH."""

    name: str
    method: str
    request: bytes


def make_site(folder: Path) -> Path:
    """The files, with what lies beside them that nobody should get."""
    site = folder / "site"
    for name in ("folder/deep", "noindex", ".well-known", ".git", "link.d"):
        (site / name).mkdir(parents=True)
    (folder / "secret.txt").write_bytes(b"outside of the root")
    script = b"console.log('scaleup');\n" * 500
    large = b"".join(b"%07d\n" % number for number in range(50_000))
    for name, content in {
        "index.html": b"<!doctype html><title>front</title>\n",
        "folder/index.html": b"<!doctype html><title>folder</title>\n",
        "folder/page.html": b"<!doctype html><title>page</title>\n",
        "folder/.hidden": b"hidden\n",
        "noindex/page.html": b"<!doctype html><title>noindex</title>\n",
        "data.txt": TEXT,
        "empty.txt": b"",
        "large.bin": large,
        "app.js": script,
        "app.js.gz": gzip.compress(script, mtime=0),
        "app.js.br": b"these bytes stand for what brotli makes of it",
        "style.css": b"body { margin: 0 }\n" * 100,
        "style.css.gz": gzip.compress(b"body { margin: 0 }\n" * 100, mtime=0),
        "only.css.gz": gzip.compress(b"there is no only.css\n", mtime=0),
        "favicon.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>\n",
        "a.tar.gz": gzip.compress(b"no archive\n", mtime=0),
        "unknown.xyz": b"unknown\n",
        "noext": b"no extension\n",
        "with space.txt": b"with space\n",
        "plus+plus.txt": b"plus\n",
        "semi;colon.txt": b"semicolon\n",
        "100%.txt": b"percent\n",
        "ümlaut.txt": "ümlaut\n".encode(),
        "back\\slash.txt": b"backslash\n",
        "colon:colon.txt": b"colon\n",
        "tilde~.txt": b"tilde\n",
        ".hidden": b"hidden\n",
        ".git/config": b"hidden\n",
        ".well-known/security.txt": b"Contact: mailto:x@site.test\n",
        "...": b"three dots\n",
    }.items():
        (site / name).write_bytes(content)
    (site / "link-in.txt").symlink_to("data.txt")
    (site / "link-out.txt").symlink_to(folder / "secret.txt")
    (site / "link.d/out").symlink_to(folder)
    (site / "dangling.txt").symlink_to("nowhere")
    os.mkfifo(site / "fifo")
    for path in [*site.rglob("*"), folder / "secret.txt"]:
        if not path.is_symlink():
            os.utime(path, (MODIFIED, MODIFIED))
    return site


def _case(group: str, name: str, method: str, target: bytes, *fields: bytes, body: bytes = b"") -> Case:
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), b"Host: site.test", *fields]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return Case(f"{group}: {name}", method, b"\r\n".join(lines) + b"\r\n\r\n" + body)


def _readings(group: str, name: str, target: bytes, *fields: bytes) -> list[Case]:
    """GET, and HEAD, which is to say the same without the body."""
    return [_case(group, f"{method} {name}", method, target, *fields) for method in ("GET", "HEAD")]


def _date(seconds: int) -> bytes:
    return formatdate(MODIFIED + seconds, usegmt=True).encode()


def _methods() -> list[Case]:
    cases = []
    methods = (
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "PROPFIND",
        "TRACE",
        "CONNECT",
        "FROB",
    )
    for target in (b"/data.txt", b"/folder/", b"/folder", b"/missing"):
        cases += [_case("method", f"{one} {target.decode()}", one, target) for one in methods]
    for method in ("GET", "POST", "PUT", "DELETE"):
        cases.append(_case("method", f"{method} with a body", method, b"/data.txt", body=b"hello"))
    cases.append(_case("method", "lower case", "GET", b"/data.txt"))
    cases[-1] = Case(cases[-1].name, "GET", cases[-1].request.replace(b"GET", b"get", 1))
    cases.append(_case("method", "OPTIONS *", "OPTIONS", b"*"))
    cases.append(
        _case("method", "Expect with a body", "POST", b"/data.txt", b"Expect: 100-continue", body=b"hello")
    )
    return cases


def _conditions() -> list[Case]:
    etag, rfc850, asctime = (
        b"{etag /data.txt}",
        b"Tuesday, 02-Jan-24 03:04:05 GMT",
        b"Tue Jan  2 03:04:05 2024",
    )
    conditions: dict[str, tuple[bytes, ...]] = {
        "If-None-Match, the tag": (b"If-None-Match: " + etag,),
        "If-None-Match, weak": (b"If-None-Match: W/" + etag,),
        "If-None-Match, another": (b'If-None-Match: "other"',),
        "If-None-Match, in a list": (b'If-None-Match: "other", ' + etag,),
        "If-None-Match, in a list without spaces": (b'If-None-Match: "other",' + etag + b',"third"',),
        "If-None-Match, on a second line": (b'If-None-Match: "other"', b"If-None-Match: " + etag),
        "If-None-Match, star": (b"If-None-Match: *",),
        "If-None-Match, no quotes": (b"If-None-Match: other",),
        "If-None-Match, empty": (b"If-None-Match:",),
        "If-Match, the tag": (b"If-Match: " + etag,),
        "If-Match, weak": (b"If-Match: W/" + etag,),
        "If-Match, another": (b'If-Match: "other"',),
        "If-Match, in a list": (b'If-Match: "other", ' + etag,),
        "If-Match, star": (b"If-Match: *",),
        "If-Modified-Since, the date": (b"If-Modified-Since: " + _date(0),),
        "If-Modified-Since, later": (b"If-Modified-Since: " + _date(3600),),
        "If-Modified-Since, earlier": (b"If-Modified-Since: " + _date(-3600),),
        "If-Modified-Since, no date": (b"If-Modified-Since: yesterday",),
        "If-Modified-Since, RFC 850": (b"If-Modified-Since: " + rfc850,),
        "If-Modified-Since, asctime": (b"If-Modified-Since: " + asctime,),
        "If-Modified-Since, with a length": (b"If-Modified-Since: " + _date(0) + b"; length=100",),
        "If-Unmodified-Since, the date": (b"If-Unmodified-Since: " + _date(0),),
        "If-Unmodified-Since, later": (b"If-Unmodified-Since: " + _date(3600),),
        "If-Unmodified-Since, earlier": (b"If-Unmodified-Since: " + _date(-3600),),
        "If-Unmodified-Since, no date": (b"If-Unmodified-Since: yesterday",),
        "the tag, and modified since": (b"If-None-Match: " + etag, b"If-Modified-Since: " + _date(-3600)),
        "another tag, not modified since": (b'If-None-Match: "other"', b"If-Modified-Since: " + _date(0)),
        "the tag to match, modified since": (b"If-Match: " + etag, b"If-Unmodified-Since: " + _date(-3600)),
        "the tag to match and not to match": (b"If-Match: " + etag, b"If-None-Match: " + etag),
        "another to match, the tag not to": (b'If-Match: "other"', b"If-None-Match: " + etag),
        "the tag, and a range": (b"If-None-Match: " + etag, b"Range: bytes=0-9"),
        "another to match, and a range": (b'If-Match: "other"', b"Range: bytes=0-9"),
    }
    cases = []
    for name, fields in conditions.items():
        cases += _readings("condition", name, b"/data.txt", *fields)
    cases += _readings("condition", "If-None-Match, star, of nothing", b"/missing", b"If-None-Match: *")
    cases += _readings("condition", "If-Match, star, of nothing", b"/missing", b"If-Match: *")
    cases += _readings("condition", "If-None-Match, of a folder", b"/folder", b"If-None-Match: *")
    return cases


def _ranges() -> list[Case]:
    cases = []
    single = (
        *("0-0", "0-99", "0-", "50-", "50-59", "-1", "-100", "-1000", "-0", "99-", "99-99", "100-", "99-200"),
        *(
            "1000-2000",
            "5-4",
            "abc",
            "0-a",
            "",
            "-",
            "--1",
            "0",
            "0-99999999999999999999",
            "99999999999999999999-",
        ),
        *("0x0-5", "+1-5", " 0-5", "0 - 5", "0-5 ", "00000000000-5"),
    )
    several = (
        *(
            "0-0,2-3",
            "0-0, 98-99",
            "0-9,5-14",
            "10-19,0-9",
            "90-,-5",
            "0-0,200-300",
            "200-300,0-0",
            "200-300,400-",
        ),
        *("0-0,,2-2", "0-0,", ",0-0", "0-0,abc", "0-,0-", "0-99,0-99,0-99"),
        ",".join(f"{number}-{number}" for number in range(0, 100, 2)),
        ",".join("0-" for _ in range(50)),
    )
    for text in single:
        cases += _readings("range", text or "empty", b"/data.txt", b"Range: bytes=" + text.encode())
    for number, text in enumerate(several):
        name = text if len(text) < 40 else f"many, {number}"
        cases += _readings("ranges", name, b"/data.txt", b"Range: bytes=" + text.encode())
    for name, line in {
        "unit in upper case": b"Bytes=0-5",
        "another unit": b"lines=0-5",
        "no unit": b"0-5",
        "no equals sign": b"bytes 0-5",
        "space before the equals sign": b"bytes =0-5",
        "no value": b"",
    }.items():
        cases += _readings("range", name, b"/data.txt", b"Range: " + line)
    cases += _readings("range", "two lines", b"/data.txt", b"Range: bytes=0-0", b"Range: bytes=5-9")
    for text in ("0-0", "0-", "-1", "5-9"):
        cases += _readings(
            "range", f"{text} of an empty file", b"/empty.txt", b"Range: bytes=" + text.encode()
        )
    for text in ("0-0", "131071-131073", "399990-", "-10", "100000-299999", "0-131071", "400000-"):
        cases.append(
            _case("range", f"{text} of a large file", "GET", b"/large.bin", b"Range: bytes=" + text.encode())
        )
    cases.append(
        _case(
            "ranges",
            "0-7,200000-200007 of a large file",
            "GET",
            b"/large.bin",
            b"Range: bytes=0-7,200000-200007",
        )
    )
    gzipped = b"Accept-Encoding: gzip"
    cases.append(_case("range", "of a compressed sibling", "GET", b"/app.js", gzipped, b"Range: bytes=0-9"))
    cases.append(
        _case("ranges", "of a compressed sibling", "GET", b"/app.js", gzipped, b"Range: bytes=0-9,20-29")
    )
    cases.append(_case("range", "of nothing", "GET", b"/missing", b"Range: bytes=0-9"))
    cases.append(_case("range", "of a folder", "GET", b"/folder", b"Range: bytes=0-9"))
    return cases


def _if_ranges() -> list[Case]:
    cases = []
    for name, value in {
        "the tag": b"{etag /data.txt}",
        "the tag, weak": b"W/{etag /data.txt}",
        "another tag": b'"other"',
        "no quotes": b"other",
        "the date": _date(0),
        "an earlier date": _date(-3600),
        "a later date": _date(3600),
        "empty": b"",
    }.items():
        for ranges in (b"0-9", b"0-9,50-59", b"1000-"):
            fields = (b"If-Range: " + value, b"Range: bytes=" + ranges)
            cases.append(_case("if-range", f"{name}, {ranges.decode()}", "GET", b"/data.txt", *fields))
    cases.append(_case("if-range", "without a range", "GET", b"/data.txt", b'If-Range: "other"'))
    return cases


def _encodings() -> list[Case]:
    cases = _readings("encoding", "none", b"/app.js")
    for value in (
        *(
            "gzip",
            "br",
            "gzip, br",
            "br, gzip",
            "br;q=0",
            "gzip;q=0",
            "br;q=0, gzip",
            "gzip;q=0, br",
            "*",
            "*;q=0",
        ),
        *(
            "identity",
            "identity;q=0",
            "gzip;q=0.5, br;q=1.0",
            "br;q=0.1, gzip;q=0.9",
            "GZIP",
            "x-gzip",
            "deflate",
        ),
        *(
            "gzip2",
            "xgzip",
            "gzip;q=0.000",
            "gzip;q=0.001",
            "gzip;q=abc",
            "gzip; q=1",
            "gzip ;q=0",
            "*, gzip;q=0",
            "",
        ),
        "gzip, deflate, br, zstd",
    ):
        cases += _readings("encoding", value or "empty", b"/app.js", b"Accept-Encoding: " + value.encode())
    two = (b"Accept-Encoding: gzip", b"Accept-Encoding: br")
    cases += _readings("encoding", "two lines", b"/app.js", *two)
    for value in ("gzip", "br", "br, gzip"):
        line = b"Accept-Encoding: " + value.encode()
        cases += _readings("encoding", f"{value}, gzip alone is there", b"/style.css", line)
        cases += _readings("encoding", f"{value}, nothing compressed is there", b"/data.txt", line)
        cases.append(_case("encoding", f"{value}, the sibling alone is there", "GET", b"/only.css", line))
        cases.append(_case("encoding", f"{value}, of the sibling itself", "GET", b"/app.js.gz", line))
        cases.append(_case("encoding", f"{value}, missing", "GET", b"/missing.js", line))
    cases.append(_case("encoding", "an archive", "GET", b"/a.tar.gz", b"Accept-Encoding: gzip"))
    tag = b"If-None-Match: {etag /app.js}"
    cases += _readings("encoding", "gzip, with the tag of what is not compressed", b"/app.js", *two[:1], tag)
    cases += _readings(
        "encoding", "gzip, not modified since", b"/app.js", two[0], b"If-Modified-Since: " + _date(0)
    )
    return cases


def _paths() -> list[Case]:
    cases = []
    for target in (
        *(
            "/",
            "/index.html",
            "/folder",
            "/folder/",
            "/folder//",
            "/folder/.",
            "/folder/..",
            "/folder/./page.html",
        ),
        *(
            "/folder/../data.txt",
            "/folder/deep/../page.html",
            "/folder/deep",
            "/folder/deep/",
            "//data.txt",
            "///",
        ),
        *(
            "/./data.txt",
            "/.",
            "/..",
            "/../data.txt",
            "/%2e%2e/data.txt",
            "/folder/%2e%2e/data.txt",
            "/%2e/data.txt",
        ),
        *(
            "/folder/%2E%2E/%2E%2E/secret.txt",
            "/../secret.txt",
            "/..%2fsecret.txt",
            "/folder/..%2f..%2fsecret.txt",
        ),
        *(
            "/..%5csecret.txt",
            "/%252e%252e/secret.txt",
            "/folder%2fpage.html",
            "/folder%2Fpage.html",
            "/folder%2f",
        ),
        *(
            "/folder%5cpage.html",
            "/back%5Cslash.txt",
            "/back\\slash.txt",
            "/data.txt/",
            "/data.txt/x",
            "/DATA.TXT",
        ),
        *(
            "/data%2Etxt",
            "/%64ata.txt",
            "/%64%61%74%61%2e%74%78%74",
            "/data.txt%00",
            "/data.txt%00.html",
            "/%00",
        ),
        *("/data.txt?", "/data.txt?x=1", "/data.txt?a=/../..", "/data.txt?%00", "/data.txt??", "/?", "/?x"),
        *(
            "/data.txt#part",
            "/data.txt%23",
            "/data.txt;x",
            "/data.txt%3f",
            "/data.txt%20",
            "/data.txt.",
            "/data.txt~",
        ),
        *("/with%20space.txt", "/with+space.txt", "/%C3%BCmlaut.txt", "/%c3%bcmlaut.txt", "/%FCmlaut.txt"),
        *(
            "/semi;colon.txt",
            "/semi%3Bcolon.txt",
            "/100%25.txt",
            "/100%.txt",
            "/%",
            "/%4",
            "/%zz",
            "/%c0%ae%c0%ae/",
        ),
        *(
            "/plus+plus.txt",
            "/plus%2Bplus.txt",
            "/colon:colon.txt",
            "/tilde~.txt",
            "/tilde%7E.txt",
            "/...",
            "/.../",
        ),
        *(
            "/.hidden",
            "/%2ehidden",
            "/.git/config",
            "/.git",
            "/.git/",
            "/folder/.hidden",
            "/.well-known/security.txt",
        ),
        *("/link-in.txt", "/link-out.txt", "/link.d/out/secret.txt", "/link.d/out", "/dangling.txt"),
        *("/noindex", "/noindex/", "/missing", "/missing/", "/missing/x", "/index.html/", "/folder?x=1"),
        *("/folder/index.html", "/empty.txt", "/unknown.xyz", "/noext", "/a.tar.gz", "/app.js", "/style.css"),
        *("/favicon.svg", "/large.bin", "/app.js.gz", "/app.js.br"),
        *(
            "http://site.test/data.txt",
            "http://other.test/data.txt",
            "HTTP://site.test/data.txt",
            "http://site.test",
        ),
        *(
            "https://site.test/data.txt",
            "http://site.test?x",
            "http://site.test:80/data.txt",
            "http:/data.txt",
        ),
        *(
            "*",
            "data.txt",
            "?x",
            "#",
            "//site.test/data.txt",
            "http:///data.txt",
            "http://u:p@site.test/data.txt",
        ),
    ):
        cases += _readings("path", target, target.encode())
    for name, target in {
        "umlaut, not encoded": b"/\xc3\xbcmlaut.txt",
        "Latin-1, not encoded": b"/\xfcmlaut.txt",
        "a space": b"/with space.txt",
        "a tab": b"/data.txt\tx",
        "a control character": b"/data.txt\x01",
        "DEL": b"/data.txt\x7f",
        "NUL": b"/data.txt\x00",
        "quotes": b'/"data.txt"',
        "angle brackets": b"/<data.txt>",
        "braces": b"/{data}.txt",
        "a name of 255 bytes": b"/" + b"n" * 255,
        "a name of 256 bytes": b"/" + b"n" * 256,
        "4,000 bytes": b"/" + b"n/" * 2000,
        "4,000 bytes of query": b"/data.txt?" + b"n" * 4000,
        "9,000 bytes": b"/" + b"n/" * 4500,
        "40,000 bytes": b"/" + b"n/" * 20000,
    }.items():
        cases += _readings("path", name, target)
    cases.append(_case("path", "a fifo", "GET", b"/fifo"))
    return cases


def _connections() -> list[Case]:
    def case(name: str, *lines: bytes) -> Case:
        return Case(
            f"connection: {name}", lines[0].split(b" ")[0].decode(), b"\r\n".join(lines) + b"\r\n\r\n"
        )

    host = b"Host: site.test"
    return [
        case("1.0", b"GET /data.txt HTTP/1.0", host),
        case("1.0 without Host", b"GET /data.txt HTTP/1.0"),
        case("1.0, keep-alive", b"GET /data.txt HTTP/1.0", host, b"Connection: keep-alive"),
        case("1.0, keep-alive, missing", b"GET /missing HTTP/1.0", host, b"Connection: keep-alive"),
        case("1.0, a range", b"GET /data.txt HTTP/1.0", host, b"Range: bytes=0-9"),
        case("1.0, gzip", b"GET /app.js HTTP/1.0", host, b"Accept-Encoding: gzip"),
        case("1.0, a folder", b"GET /folder HTTP/1.0"),
        case("1.1, close", b"GET /data.txt HTTP/1.1", host, b"Connection: close"),
        case("1.1, Close", b"GET /data.txt HTTP/1.1", host, b"Connection: Close"),
        case("1.1, close among others", b"GET /data.txt HTTP/1.1", host, b"Connection: te, close"),
        case("1.1, keep-alive", b"GET /data.txt HTTP/1.1", host, b"Connection: keep-alive"),
        case("1.1, HEAD and close", b"HEAD /data.txt HTTP/1.1", host, b"Connection: close"),
        case(
            "1.1, an upgrade that nobody offers",
            b"GET /data.txt HTTP/1.1",
            host,
            b"Connection: upgrade",
            b"Upgrade: x",
        ),
        case("1.1 without Host", b"GET /data.txt HTTP/1.1"),
        case("1.1, an empty Host", b"GET /data.txt HTTP/1.1", b"Host:"),
        case("1.1, Host with a port", b"GET /data.txt HTTP/1.1", b"Host: site.test:8080"),
        case("1.1, Host in IPv6", b"GET /data.txt HTTP/1.1", b"Host: [::1]:8080"),
        case("1.1, another Host", b"GET /data.txt HTTP/1.1", b"Host: other.test"),
        case("1.1, an empty line before it", b"", b"GET /data.txt HTTP/1.1", host),
        case("1.1, fields in lower case", b"GET /data.txt HTTP/1.1", b"host: site.test", b"range: bytes=0-9"),
        case("1.1, spaces around a value", b"GET /data.txt HTTP/1.1", host, b"Range: \t bytes=0-9 \t"),
        case(
            "1.1, no space before a value", b"GET /data.txt HTTP/1.1", b"Host:site.test", b"Range:bytes=0-9"
        ),
        case("1.2", b"GET /data.txt HTTP/1.2", host),
        case("2.0", b"GET /data.txt HTTP/2.0", host),
        case("a field with an underscore", b"GET /data.txt HTTP/1.1", host, b"X_Field: x"),
        case("60 fields", b"GET /data.txt HTTP/1.1", host, *(b"X-%d: x" % number for number in range(60))),
        case("a cookie of 4,000 bytes", b"GET /data.txt HTTP/1.1", host, b"Cookie: a=" + b"x" * 4000),
    ]


CASES = [
    *_methods(),
    *_conditions(),
    *_ranges(),
    *_if_ranges(),
    *_encodings(),
    *_paths(),
    *_connections(),
]
