"""Heads and framing: what is read, and what is refused."""

import contextlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.web.access_log import _escaped
from scaleup.web.encoding import accepted
from scaleup.web.framing import Chunks, chunk, goes_on, has_body, last_chunk, request_length, response_length
from scaleup.web.syntax import (
    MAX_FIELDS,
    MAX_RESPONSE_FIELDS,
    Field,
    SyntaxFault,
    members,
    read_request,
    read_response,
    read_trailers,
    refuse_beginning,
)
from scaleup.web.targets import parse


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return request(*fields, line=line)


def test_a_request() -> None:
    head = read_request(request(b"Host: a", b"X:\t b \t", b"x:c", b"Y:", line=b"PATCH-2 /a?b HTTP/1.0"))
    assert (head.method, head.target, head.is_http11) == ("PATCH-2", "/a?b", False)
    assert head.fields.all == [(b"Host", b"a"), (b"X", b"b"), (b"x", b"c"), (b"Y", b"")]
    assert head.named == {b"host": b"a", b"x": b"b, c", b"y": b""}
    assert read_request(request()).fields.all == []


def test_a_response() -> None:
    for line in (b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.1 200 \xff\x01"):
        head = read_response(response(b"A: b", line=line))
        assert (head.status, head.is_http11, head.named) == (200, True, {b"a": b"b"})
    for line in (b"HTTP/1.1 20", b"HTTP/1.1 600 x", b"HTTP/2 200 OK", b"HTTP/1.1  200 OK", b"ICY 200 OK"):
        with pytest.raises(SyntaxFault):
            read_response(response(line=line))
    assert read_response(response(b"X_Own: 1")).named == {b"x_own": b"1"}
    with pytest.raises(SyntaxFault):
        read_response(response(b"Bad Name: 1"))
    with pytest.raises(SyntaxFault):
        read_response(response(b"X: a\x01b"))


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    for read in (read_request, read_response):
        with contextlib.suppress(SyntaxFault):
            read(data + b"\r\n\r\n")


LINES = [b"GET /a HTTP/1.1", b"POST * HTTP/1.0", b"M-SEARCH http://a/ HTTP/1.1"]


@given(st.integers(1, 100), st.sampled_from(LINES))
def test_the_beginning_of_a_request_is_none_to_be_refused(count: int, line: bytes) -> None:
    refuse_beginning(request(b"Host: a", b"X: y", line=line)[:count])


@pytest.mark.parametrize(
    "beginning",
    [b"get", b"\x16\x03\x01", b"GET\n", b"GET / HTTP/1.1\n", b"GET  \r\n", b"GET / x\r\n", b" GET"],
)
def test_beginnings_that_lead_nowhere(beginning: bytes) -> None:
    with pytest.raises(SyntaxFault):
        refuse_beginning(beginning)


def test_the_time_that_a_head_takes_grows_with_its_length_only() -> None:
    """Catastrophic backtracking would not end here."""
    for head in (request(b"a:" * 15_000, b"\x01"), b"A" * 30_000 + b" ", b"GET /" + b"a" * 30_000 + b"\0"):
        with pytest.raises(SyntaxFault):
            read_request(head + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        ([b"content-LENGTH: 12"], 12),
        ([b"Content-Length: 0"], 0),
        ([b"Transfer-Encoding: chunked"], None),
        ([b"transfer-encoding:  Chunked ,"], None),
    ],
)
def test_request_length(fields: list[bytes], length: int | None) -> None:
    assert request_length(read_request(request(b"Host: a", *fields))) == length


@pytest.mark.parametrize("host", [b"", b"a", b"a.b:80", b"[::1]:80", b"10.0.0.1", b"a_b:", b"xn--ls8h.la"])
def test_hosts_that_are_taken(host: bytes) -> None:
    request_length(read_request(request(b"Host: " + host)))


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        ("GET", 200, [b"Content-Length: 5"], 5),
        ("GET", 200, [b"Content-Length: 5", b"content-length: 5"], 5),
        ("GET", 200, [b"Transfer-Encoding: chunked"], None),
        ("GET", 200, [], None),
        ("GET", 204, [], 0),
        ("HEAD", 200, [b"Content-Length: 5"], 5),
        ("HEAD", 200, [b"Transfer-Encoding: chunked", b"Content-Length: 5"], None),
        ("GET", 304, [], None),
    ],
)
def test_response_length(method: str, status: int, fields: list[bytes], length: int | None) -> None:
    head = read_response(response(*fields, line=b"HTTP/1.1 %d x" % status))
    assert response_length(method, head) == length


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 6"],
        *([b"Content-Length: " + value] for value in (b"", b"+5", b"-5", b"0x5", b"\xb2", b"9" * 5000)),
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    ],
)
def test_ambiguous_framing_of_a_response_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(SyntaxFault):
        response_length("GET", read_response(response(*fields)))


@pytest.mark.parametrize(
    ("line", "connection", "goes_on_so"),
    [
        *((b"HTTP/1.1 200 OK", value, value != b"close") for value in (b"", b"keep-alive", b"close")),
        *((b"HTTP/1.0 200 OK", value, value == b"Keep-Alive") for value in (b"", b"Keep-Alive", b"close")),
        *((b"HTTP/1.%d 200 OK" % minor, b"close, keep-alive", False) for minor in (0, 1)),
    ],
)
def test_whether_a_connection_is_kept(line: bytes, connection: bytes, goes_on_so: bool) -> None:
    """RFC 9112 §9.3: "If the "close" connection option is present … the connection will not persist"."""
    fields = [b"Connection: " + connection] if connection else []
    assert goes_on(read_response(response(*fields, line=line))) == goes_on_so


def test_what_has_no_body() -> None:
    assert has_body("GET", 200)
    assert has_body("POST", 404)
    assert not any(has_body("GET", status) for status in (100, 103, 204, 304))
    assert not has_body("HEAD", 200)


def taken(data: bytes, cuts: list[int]) -> tuple[bytes, bytes, list[Field]]:
    """Content, what was left over, trailers; with the data arriving in pieces."""
    chunks, content, waiting = Chunks(), b"", b""
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        waiting += data[begin:end]
        piece, done = chunks.take(waiting)
        content, waiting = content + piece, waiting[done:]
    assert chunks.is_complete
    return content, waiting, chunks.trailers


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=20))
def test_chunks_however_they_arrive(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(chunk, pieces)) + last_chunk() + b"next"
    assert taken(data, sorted(min(cut, len(data)) for cut in cuts)) == (b"".join(pieces), b"next", [])


@given(st.lists(st.integers(0, 60), max_size=10))
def test_extensions_are_dropped_and_trailers_are_read(cuts: list[int]) -> None:
    data = b'3 \t;a=b;c="d\t"\r\nabc\r\n000\r\nX: y\r\nZ:\r\n\r\nnext'
    assert taken(data, sorted(cuts)) == (b"abc", b"next", [(b"X", b"y"), (b"Z", b"")])


@pytest.mark.parametrize(
    "data",
    [
        *(b"zz\r\n", b"\r\n", b"+5\r\n", b"0x5\r\n", b" 5\r\n", b"5 \r\n", b"5\n", b"f" * 16 + b"\r\n"),
        *(b"3\r\nabcd\r\n", b"3\r\nabc\n", b"3\r\nabc\rx", b"5;a\0\r\n", b"5;" + b"a" * 300),
        *(
            b"0\r\nX\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\n X: y\r\n\r\n",
            b"0\r\nX: " + b"y" * 9000,
            b"0\r\nX: y\n",
        ),
    ],
)
def test_what_is_no_chunk(data: bytes) -> None:
    with pytest.raises(SyntaxFault):
        Chunks().take(data)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (parse, "/%d" + "/a" * 4000),
        (members, b"%d" + b",ab" * 2700),
        (accepted, b"%d" + b",ab" * 2700),
        (_escaped, b"%d" + b"\xff" * 8000),
    ],
)
def test_what_is_made_of_long_values_is_not_kept(read: Callable[[Any], object], value: Any) -> None:
    read(value % 0)
    tracemalloc.start()
    for number in range(1, 20):
        read(value % number)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20_000
    assert read(value[:99] % 0) is read(value[:99] % 0), "short ones are"


def test_so_many_fields_and_no_more() -> None:
    for count, read, message in (
        (MAX_FIELDS, read_request, request),
        (MAX_RESPONSE_FIELDS, read_response, response),
        (MAX_FIELDS, read_trailers, lambda *fields: request(*fields, line=b"X: y").partition(b"\r\n")[2]),
    ):
        read(message(*[b"A: b"] * count))
        with pytest.raises(SyntaxFault, match="too many"):
            read(message(*[b"A: b"] * (count + 1)))


def test_too_many_fields_are_refused_before_they_are_taken_apart() -> None:
    """Which took 9 ms and more where counting takes 0.1 and the grammar 0.6, and so long nobody else had a turn."""
    seconds = []
    for _ in range(10):
        began = time.thread_time()
        with pytest.raises(SyntaxFault, match="too many"):
            read_request(request(*[b"a:"] * 7990))
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.005


def test_a_head_that_comes_in_small_pieces_costs_little_for_each() -> None:
    """All of it is looked at again at every arrival: at 0.4 ms, 2500 bytes a second kept a worker busy.

    That was twice what it takes to take the lines apart, on whatever machine; now it is a quarter of that.
    """
    head = (b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 6000)[: 32 * 1024]
    seconds, to_take_apart = [], []
    for _ in range(10):
        began = time.thread_time()
        refuse_beginning(head)
        looked = time.thread_time()
        head.split(b"\r\n")
        seconds.append(looked - began)
        to_take_apart.append(time.thread_time() - looked)
    assert min(seconds) < min(to_take_apart)
