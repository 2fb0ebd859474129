"""Requests that break HTTP, or that two parsers may read differently: refused and closed, and never forwarded.

Each goes to the real process whole, byte by byte, with a second request behind it that nobody may answer, and
behind one that is answered; and once more through the load balancer. The application behind records every byte: it
must see no whole request that was not meant, and of those whose head is at fault not a byte.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from web.outside import ANSWER_SECONDS, Address, Answer, Process, answers, exchange, ready, web
from web.recorder import ANSWER, Recorder, whole

from bench.ports import free_port

pytestmark = [pytest.mark.timeout(120), pytest.mark.keeps_connections]

SMUGGLED = b"GET /api/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
GOOD = b"GET /api/good HTTP/1.1\r\nHost: a\r\n\r\n"
HOST = b"Host: a\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = [b"POST /api/ HTTP/" + version, b"Host: a", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(*fields: bytes, target: bytes = b"/api/", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"GET " + target + b" " + version, *fields]) + b"\r\n\r\n"


def line(text: bytes) -> bytes:
    """A request with this first line."""
    return text + b"\r\n" + HOST + b"\r\n"


def chunked(body: bytes, *fields: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


CATALOGUE: dict[str, tuple[bytes, *tuple[int, ...]]] = {
    # the request line
    "version 0.9": (get(HOST[:-2], version=b"HTTP/0.9"), 400, 505),
    "version 1.2": (get(HOST[:-2], version=b"HTTP/1.2"), 400, 505),
    "trap 11: version 2.0": (get(HOST[:-2], version=b"HTTP/2.0"), 400, 505),
    "version 3.0": (get(HOST[:-2], version=b"HTTP/3.0"), 400, 505),
    "version in lower case": (get(HOST[:-2], version=b"http/1.1"), 400),
    "version of another protocol": (get(HOST[:-2], version=b"ICY/1.1"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "method in lower case": (b"get /api/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, 405, 501),
    "no method": (b"/api/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, 405, 501),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400, 505),
    "relative target": (get(HOST[:-2], target=b"api/"), 400),
    "star for GET": (get(HOST[:-2], target=b"*"), 400),
    "star for OPTIONS": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "fragment": (get(HOST[:-2], target=b"/api/#x"), 400),
    "space in the target": (get(HOST[:-2], target=b"/api/ x"), 400),
    "byte above 7F in the target": (get(HOST[:-2], target=b"/api/\xc3\xa4"), 400),
    "control character in the target": (get(HOST[:-2], target=b"/api/\x01"), 400),
    "NUL in the target": (get(HOST[:-2], target=b"/api/\0"), 400),
    "encoded NUL in the target": (get(HOST[:-2], target=b"/api/%00"), 400),
    "above the root": (get(HOST[:-2], target=b"/api/../../x"), 400, 404),
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
    "TE.TE": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
        400,
        501,
    ),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400, 501),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "chunked is not last": (post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400, 501),
    "identity": (post(b"Transfer-Encoding: identity", body=b"hello"), 400, 501),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400, 501),
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
    "length over 64 bits": (post(b"Content-Length: 99999999999999999999", body=b"hello"), 400, 413),
    "large length": (post(b"Content-Length: 999999999999", body=b"hello"), 413),
    # chunks
    "chunk size that is no number": (post(b"Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
    "chunk size with a sign": (post(b"Transfer-Encoding: chunked", body=b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size in 0x": (post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size over 64 bits": (post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n"), 400, 413),
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
    # more first lines
    "HTTP/0.9": (b"GET /api/\r\n\r\n", 400),
    "HTTP/0.9 with fields": (line(b"GET /api/"), 400),
    "version 1": (line(b"GET /api/ HTTP/1"), 400, 505),
    "version 1.": (line(b"GET /api/ HTTP/1."), 400, 505),
    "version 01.1": (line(b"GET /api/ HTTP/01.1"), 400, 505),
    "version 1.10": (line(b"GET /api/ HTTP/1.10"), 400, 505),
    "version 11": (line(b"GET /api/ HTTP/11"), 400, 505),
    "space in the version": (line(b"GET /api/ HTTP/ 1.1"), 400),
    "space behind the version": (line(b"GET /api/ HTTP/1.1 "), 400),
    "word behind the version": (line(b"GET /api/ HTTP/1.1 x"), 400),
    "two versions": (line(b"GET /api/ HTTP/1.1 HTTP/1.1"), 400),
    "space before the method": (line(b" GET /api/ HTTP/1.1"), 400),
    "two spaces before the target": (line(b"GET  /api/ HTTP/1.1"), 400),
    "two spaces before the version": (line(b"GET /api/  HTTP/1.1"), 400),
    "tabs for spaces": (line(b"GET\t/api/\tHTTP/1.1"), 400),
    "CR in the first line": (line(b"GET /api/\r HTTP/1.1"), 400),
    "NUL in the method": (line(b"G\0T /api/ HTTP/1.1"), 400, 501),
    "method of 5,000 bytes": (line(b"G" * 5000 + b" /api/ HTTP/1.1"), 400, 405, 414, 431, 501),
    "a response": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
    "absolute form without Host": (get(target=b"http://a/api/"), 400),
    "absolute form with a bad port": (get(b"Host: a", target=b"http://a:b/api/"), 400),
    "absolute form with a NUL": (get(b"Host: a", target=b"http://a\0/api/"), 400),
    "authority for GET": (get(b"Host: a", target=b"a:80"), 400),
    "star for HEAD": (line(b"HEAD * HTTP/1.1"), 400),
    # more of fields
    "bare CR for line ends": (b"GET /api/ HTTP/1.1\rHost: a\r\r", 400),
    "bare LF for line ends": (b"GET /api/ HTTP/1.1\nHost: a\n\n", 400),
    "bare LF before the empty line": (b"GET /api/ HTTP/1.1\r\nHost: a\r\n\n", 400),
    "LF CR": (b"GET /api/ HTTP/1.1\n\rHost: a\n\r\n\r", 400),
    "CR in a name": (get(b"Host: a", b"X\rY: a"), 400),
    "NUL in a name": (get(b"Host: a", b"X\0: a"), 400),
    "tab before the colon": (get(b"Host: a", b"X\t: a"), 400),
    "folding with a tab": (get(b"Host: a", b"X: a", b"\tb"), 400),
    "folding of a length": (post(b"Content-Length:", b" 5", body=b"hello"), 400),
    "folding of a coding": (post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), 400),
    "vertical tab in a value": (get(b"Host: a", b"X: a\x0bb"), 400),
    "DEL in a value": (get(b"Host: a", b"X: \x7f"), 400),
    "parentheses in a name": (get(b"Host: a", b"X(y): a"), 400),
    "two Hosts, another case": (get(b"Host: a", b"hOST: b"), 400),
    "Host with a NUL": (get(b"Host: a\0"), 400),
    "Host with a bad port": (get(b"Host: a:b"), 400),
    "Host with two ports": (get(b"Host: a:1:2"), 400),
    "Host with half a bracket": (get(b"Host: [::1"), 400),
    "a cookie of 40,000 bytes": (get(b"Host: a", b"Cookie: " + b"a" * 40_000), 431),
    # more of framing
    "space before the colon of a length": (post(b"Content-Length : 5", body=b"hello"), 400),
    "space before the colon of a coding": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    "Transfer_Encoding": (post(b"Transfer_Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "vertical tab before chunked": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400, 501),
    "chunked with a parameter": (post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), 400, 501),
    "chunked in quotes": (post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400, 501),
    "chunked with a NUL": (post(b"Transfer-Encoding: chunked\0", body=b"0\r\n\r\n"), 400, 501),
    "empty coding": (post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), 400, 501),
    "comma for a coding": (post(b"Transfer-Encoding: ,", body=b"0\r\n\r\n"), 400, 501),
    "a coding behind a bare LF": (post(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "a coding behind a bare CR": (post(b"X: y\rTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "CL.TE in another case": (
        post(b"content-length: 6", b"TRANSFER-ENCODING: chunked", body=b"0\r\n\r\nG"),
        400,
    ),
    "TE.TE with an unknown one": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=b"0\r\n\r\n"),
        400,
        501,
    ),
    "GET with a length and a coding": (
        get(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        400,
    ),
    "length with a comma": (post(b"Content-Length: 5,", body=b"hello"), 400),
    "length with a semicolon": (post(b"Content-Length: 5;", body=b"hello"), 400),
    "length with a point": (post(b"Content-Length: 5.0", body=b"hello"), 400),
    "length with an exponent": (post(b"Content-Length: 5e0", body=b"hello"), 400),
    "length with an underscore": (post(b"Content-Length: 1_0", body=b"hellohello"), 400),
    "length in other digits": (post("Content-Length: ٥".encode(), body=b"hello"), 400),
    "length with a vertical tab": (post(b"Content-Length: 5\x0b", body=b"hello"), 400),
    "length in quotes": (post(b'Content-Length: "5"', body=b"hello"), 400),
    "lengths that differ in case of name": (
        post(b"Content-Length: 5", b"content-length: 6", body=b"hello"),
        400,
    ),
    # more of chunks
    "empty chunk size": (chunked(b"\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with a minus": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with an underscore": (chunked(b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n"), 400),
    "chunk size behind a space": (chunked(b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size ended by a bare CR": (chunked(b"5\rhello\r\n0\r\n\r\n"), 400),
    "chunk extension with a bare LF": (chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk extension with a bare CR": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk extension of 100,000 bytes": (
        chunked(b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
        400,
        413,
        431,
    ),
    "chunk data without an end": (chunked(b"5\r\nhelloworld\r\n0\r\n\r\n"), 400),
    "last chunk ended by a bare LF": (chunked(b"0\n\n"), 400),
    "trailer that is folded": (chunked(b"0\r\nX: a\r\n b\r\n\r\n"), 400),
    "trailer with a bare LF": (chunked(b"0\r\nX: a\nY: b\r\n\r\n"), 400),
    "trailer with a space before the colon": (chunked(b"0\r\nX : a\r\n\r\n"), 400),
    "trailer of 100,000 bytes": (chunked(b"0\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"), 400, 413, 431),
    "trailers without end": (chunked(b"0\r\n" + b"X: a\r\n" * 10_000 + b"\r\n"), 400, 413, 431),
}


IN_THE_BODY = re.compile("chunk(?!ed)|trailer|extension")
"""Whose head is good: it may be forwarded before its body is read, and then the application gets half a request."""

LONG_BYTES = 300
"""Longer ones are not sent byte by byte."""


@dataclass
class Tier:
    """The web tier at `address`, alone or behind the load balancer, and the application behind it."""

    address: Address
    application: Recorder
    _numbers = count()

    def refuses(self, request: bytes, *before: str, statuses: tuple[int, ...], parts: list[bytes]) -> None:
        """Send the parts; the last answer is a refusal, and the application has seen nothing of it."""
        self.application.forget()
        method = "HEAD" if request.startswith(b"HEAD") else "GET"
        found = answers(exchange(self.address, *parts), *before, method)
        assert len(found) == len(before) + 1, found
        assert all(answer.status == 200 for answer in found[:-1]), found
        refusal = found[-1]
        assert refusal.status in statuses, refusal
        assert refusal.value("connection").lower() == "close"
        assert refusal.is_complete

    def seen(self) -> list[bytes]:
        """All that came to the application, but what says good. A request of our own comes last, so nothing is
        on its way any more."""
        mark = b"/api/mark-%d" % next(self._numbers)
        request = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % mark
        (answer,) = answers(exchange(self.address, request), "GET")
        assert answer.body == b"hello"
        recorded = self.application.recorded()
        assert sum(mark in data for data in recorded) == 1
        meant = re.compile(rb"GET (/api/mark-\d+|/api/good) HTTP/1\.1\r\n(?:[^\r\n]+\r\n)+\r\n")
        return [rest for data in recorded if (rest := meant.sub(b"", data))]


@pytest.fixture(scope="module")
def alone() -> Iterator[Tier]:
    application = Recorder()
    behind = ("--app", f"app1={application.address}", "--health-check", "tcp")
    with application.listening(), web(*behind) as (process, address):
        yield Tier(address, application)
        assert not [said for said in process.log if "Traceback" in said], "".join(process.log)


@pytest.fixture(scope="module")
def behind_the_balancer(alone: Tier) -> Iterator[Tier]:
    port, admin = free_port(), free_port()
    flags = ("--listen", f"127.0.0.1:{port}", "--server", ":".join(map(str, alone.address)), "--workers", "1")
    flags += ("--admin", f"127.0.0.1:{admin}")
    with contextlib.closing(Process("scaleup.lb", "--node", "lb1", "--drain", "1", *flags)):
        ready(("127.0.0.1", admin))
        yield Tier(("127.0.0.1", port), alone.application)


def assert_refused(tier: Tier, name: str) -> None:
    request, *statuses = CATALOGUE[name]
    for parts in ([request], [request + SMUGGLED]):
        tier.refuses(request, statuses=tuple(statuses), parts=parts)
        assert_unseen(tier, name)


def assert_unseen(tier: Tier, name: str) -> None:
    seen = tier.seen()
    assert not [one for data in seen for one in whole(data)], seen
    assert not any(b"smuggled" in data for data in seen), seen
    if not IN_THE_BODY.search(name):
        assert seen == []


@pytest.mark.parametrize("name", CATALOGUE)
def test_malformed(alone: Tier, name: str) -> None:
    assert_refused(alone, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_malformed_behind_a_good_one(alone: Tier, name: str) -> None:
    request, *statuses = CATALOGUE[name]
    alone.refuses(request, "GET", statuses=tuple(statuses), parts=[GOOD + request + SMUGGLED])
    assert_unseen(alone, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_malformed_through_the_load_balancer(behind_the_balancer: Tier, name: str) -> None:
    assert_refused(behind_the_balancer, name)


@pytest.mark.parametrize("name", [name for name, (sent, *_) in CATALOGUE.items() if len(sent) < LONG_BYTES])
def test_malformed_byte_by_byte(alone: Tier, name: str) -> None:
    request, *statuses = CATALOGUE[name]
    parts = [request[number : number + 1] for number in range(len(request))]
    alone.refuses(request, statuses=tuple(statuses), parts=parts)
    assert_unseen(alone, name)


def test_there_are_enough() -> None:
    assert len(CATALOGUE) >= 60


WELL_FORMED = {
    "method that nobody knows": line(b"PROPFIND /api/ HTTP/1.1"),
    "length": post(b"Content-Length: 5", body=b"hello"),
    "chunk": chunked(b"5\r\nhello\r\n0\r\n\r\n"),
    "extension and trailer": chunked(b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    "absolute form": get(b"Host: a", target=b"http://a/api/"),
    "no space behind the colon, tabs around a value": get(b"Host:a", b"X:\t y \t"),
    "value that is not UTF-8": get(b"Host: a", b"X: \xe4\xff"),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_what_is_well_formed_is_seen(alone: Tier, name: str) -> None:
    """Or nothing above would say anything."""
    request = WELL_FORMED[name]
    alone.application.forget()
    sent = request.replace(b"Host", b"Connection: close\r\nHost", 1)
    (answer,) = answers(exchange(alone.address, sent), "GET")
    assert answer.status == 200
    (seen,) = [one for data in alone.seen() for one in whole(data)]
    assert seen.line == request.split(b"\r\n")[0].replace(b"http://a", b"")
    assert (b"hello" in seen.body) == (b"hello" in request)


def test_a_body_that_looks_like_a_request_is_a_body(alone: Tier) -> None:
    alone.application.forget()
    request = post(b"Connection: close", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED)
    (answer,) = answers(exchange(alone.address, request), "POST")
    assert answer.status == 200
    (seen,) = [one for data in alone.seen() for one in whole(data)]
    assert (seen.line, seen.body) == (b"POST /api/ HTTP/1.1", SMUGGLED)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_0_cl_a_length_that_the_application_ignores_does_not_leave_its_body_behind(
    alone: Tier, method: bytes
) -> None:
    """The application answers without reading: what it did not read must not become its next request."""
    request = post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED).replace(b"POST", method, 1)
    alone.application.forget()
    alone.application.eager = True
    try:
        with socket.create_connection(alone.address, ANSWER_SECONDS) as sock:
            sock.sendall(request[:-5])
            while ANSWER[-5:] not in sock.recv(65536):
                pass
            sock.sendall(request[-5:])
        assert exchange(alone.address, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    finally:
        alone.application.eager = False
    first = [data for data in alone.application.recorded() if data.startswith(method + b" /api/ ")]
    others = [data for data in alone.application.recorded() if data not in first]
    assert len(first) == 1, "what came later came on the connection of the first"
    assert b"/api/good" not in first[0]
    assert len(others) == 1
    assert others[0].startswith(b"GET /api/good ")


@pytest.mark.parametrize("protocol", [b"websocket", b"tcp", b"h2c"])
def test_what_follows_a_declined_upgrade_is_no_part_of_it(alone: Tier, protocol: bytes) -> None:
    """CVE-2026-69243: the application declines; what follows is the next request, or nothing; never its bytes."""
    alone.application.forget()
    upgrade = post(b"Connection: upgrade", b"Upgrade: " + protocol, b"Content-Length: 5", body=b"hello")
    next_one = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    found: list[Answer] = answers(exchange(alone.address, upgrade + next_one), "POST", "GET")
    assert {answer.status for answer in found} == {200}
    (seen,) = [one for data in alone.seen() for one in whole(data)]
    assert (seen.line, seen.body) == (b"POST /api/ HTTP/1.1", b"hello")


def test_half_a_head_is_not_waited_for_longer_than_the_keepalive_time(tmp_path: Path) -> None:
    with web("--root", str(tmp_path), "--keepalive", "0.2") as (_, address):
        received = exchange(address, b"GET / HTTP/1.1\r\nHost:")
        assert not received or answers(received, "GET")[0].status == 408
