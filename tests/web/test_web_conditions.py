"""Conditions and ranges: the decisions, without a file."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.web.conditions import Span, Unsatisfiable, Version, precondition, requested_spans

VERSION = Version(b'"v1"', 1_000_000_000)
MODIFIED = b"Sun, 09 Sep 2001 01:46:40 GMT"
EARLIER = b"Sun, 09 Sep 2001 01:46:39 GMT"
LATER = b"Sun, 09 Sep 2001 01:46:41 GMT"


def test_last_modified() -> None:
    assert VERSION.last_modified == MODIFIED


def lower(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in fields.items()}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({b"If-Match": b'"v1"'}, 200),
        ({b"If-Match": b'"v0", "v1"'}, 200),
        ({b"If-Match": b"*"}, 200),
        ({b"If-Match": b'"v0"'}, 412),
        ({b"If-Match": b'W/"v1"'}, 412),  # strong comparison
        ({b"If-Unmodified-Since": MODIFIED}, 200),
        ({b"If-Unmodified-Since": EARLIER}, 412),
        ({b"If-Unmodified-Since": b"yesterday"}, 200),
        (
            {b"If-Match": b'"v1"', b"If-Unmodified-Since": EARLIER},
            200,
        ),  # §13.2.2: the latter is not looked at
        ({b"If-None-Match": b'"v1"'}, 304),
        ({b"If-None-Match": b'W/"v1"'}, 304),  # weak comparison
        ({b"If-None-Match": b"*"}, 304),
        ({b"If-None-Match": b'"v0"'}, 200),
        ({b"If-Modified-Since": MODIFIED}, 304),
        ({b"If-Modified-Since": LATER}, 304),
        ({b"If-Modified-Since": EARLIER}, 200),
        ({b"If-Modified-Since": b"Sunday, 09-Sep-01 01:46:40 GMT"}, 304),  # RFC 850's date
        ({b"If-Modified-Since": b"Sun Sep  9 01:46:40 2001"}, 304),  # asctime's
        ({b"If-None-Match": b'"v0"', b"If-Modified-Since": LATER}, 200),
    ],
)
def test_preconditions(fields: dict[bytes, bytes], status: int) -> None:
    assert precondition(lower(fields), VERSION) == status


def spans(text: bytes, size: int = 10, **fields: bytes) -> list[Span] | None:
    extra = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    return requested_spans(lower({b"Range": text} | extra), VERSION, size)


def span(text: bytes, size: int = 10, **fields: bytes) -> Span | None:
    found = spans(text, size, **fields)
    if found is None:
        return None
    (one,) = found
    return one


def test_spans() -> None:
    assert span(b"bytes=2-3") == Span(2, 2)
    assert span(b"BYTES=2 - 3") == Span(2, 2)
    assert span(b"bytes=2-") == Span(2, 8)
    assert span(b"bytes=-3") == Span(7, 3)
    assert span(b"bytes=-99") == Span(0, 10)
    for ignored in (
        b"",
        b"bytes",
        b"bytes=",
        b"bytes=-",
        b"bytes=2",
        b"bytes=3-2",
        b"x=1-2",
        b"bytes =2-3",
    ):
        assert span(ignored) is None
    for outside in (b"bytes=10-", b"bytes=10-11", b"bytes=-0"):
        with pytest.raises(Unsatisfiable):
            span(outside)
    assert span(b"bytes=0-", 0) is None, "of nothing there is no part"
    assert span(b"bytes=0-" + b"9" * 100) is None  # no number that anybody means


def test_several() -> None:
    assert spans(b"bytes=0-1, 4-5 ,-1") == [Span(0, 2), Span(4, 2), Span(9, 1)]
    assert spans(b"bytes=0-1,10-") == [Span(0, 2)], "one that lies outside is left out"
    assert spans(b"bytes=,0-1,,4-5,") == [Span(0, 2), Span(4, 2)], (
        "§5.6.1: empty members of a list are nothing"
    )
    assert spans(b"bytes=0-1,x") is None
    assert spans(b"bytes=0-,0-") is None, "more than the whole"
    assert spans(b"bytes=" + b",".join([b"0-0"] * 17), 100) is None
    with pytest.raises(Unsatisfiable):
        spans(b"bytes=10-,20-")


def test_if_range_is_the_very_same_version() -> None:
    assert span(b"bytes=2-3", If_Range=b'"v1"') == Span(2, 2)
    for other in (b'"v0"', b'W/"v1"', MODIFIED, b"nonsense"):
        assert span(b"bytes=2-3", If_Range=other) is None


@given(st.integers(0, 20), st.integers(0, 25), st.integers(0, 25))
def test_a_span_lies_within_the_file(size: int, first: int, last: int) -> None:
    content = bytes(range(size))
    try:
        found = span(b"bytes=%d-%d" % (first, last), size)
    except Unsatisfiable:
        assert first >= size > 0
        return
    if found is not None:
        assert content[first : last + 1] == content[found.start : found.start + found.length] != b""


@given(st.binary(max_size=30))
def test_any_range_is_a_span_none_or_unsatisfiable(text: bytes) -> None:
    try:
        found = spans(text)
    except Unsatisfiable:
        return
    assert all(0 <= one.start < one.end <= 10 for one in found or ())


@pytest.mark.parametrize(
    "text", [b" " * 8000 + b"x", b"-" + b" " * 8000 + b"x", b" " * 4000 + b"1" + b" " * 4000]
)
def test_the_time_for_a_range_grows_with_its_length_only(text: bytes) -> None:
    """A head of 32 KiB took the better part of a second, in which nobody else was served."""
    seconds = []
    for _ in range(3):
        began = time.thread_time()
        assert span(b"bytes=" + text) is None
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.005
