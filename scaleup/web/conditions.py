"""Conditional requests and ranges (RFC 9110 §13, §14): decisions about one file. ●

What a wrong answer costs decides the doubtful cases: a range that is ignored costs a download from the
start, a range of another version of the file costs a corrupted one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

_ETAG = re.compile(rb'(?:W/)?"[^"]*"')
# Possessive, so that nothing is tried twice: between optional digits, spaces would be tried in all divisions.
_RANGE = re.compile(rb"\s*+([0-9]{0,18}+)\s*+-\s*+([0-9]{0,18}+)\s*+")
MAX_RANGES = 16
"""More are ignored: nobody who reads a file needs them."""
CONDITIONAL = frozenset(b"if-match if-none-match if-modified-since if-unmodified-since range".split())
"""Fields (but If-Range, which means nothing alone) that may lead to another answer than 200."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a file. `etag`: strong, in quotes. `modified`: seconds since 1970, whole."""

    etag: bytes
    modified: int

    @property
    def last_modified(self) -> bytes:
        return formatdate(self.modified, usegmt=True).encode()


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start`, `length` of them."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class Unsatisfiable(Exception):
    """A range that lies outside of the file: 416."""


def precondition(named: Mapping[bytes, bytes], version: Version) -> int:
    """200 when the request may be served, 304 or 412 otherwise; in the order of RFC 9110 §13.2.2.

    `named`: see `syntax.RequestHead`.
    """
    if if_match := named.get(b"if-match"):
        if not _matches(if_match, version.etag, weakly=False):
            return 412
    elif (unmodified := _date(named.get(b"if-unmodified-since"))) and version.modified > unmodified:
        return 412
    if if_none_match := named.get(b"if-none-match"):
        if _matches(if_none_match, version.etag, weakly=True):
            return 304
    elif (since := _date(named.get(b"if-modified-since"))) and version.modified <= since:
        return 304
    return 200


def requested_spans(named: Mapping[bytes, bytes], version: Version, size: int) -> list[Span] | None:
    """The ranges that a GET asks for; None to send all. Raises Unsatisfiable.

    Ignored are ranges of an empty file or in another unit, malformed ones, too many, and those that come to more
    than the whole: "A server MAY ignore the Range header field" (§14.2).
    """
    unit, _, ranges = named.get(b"range", b"").partition(b"=")
    if unit.lower() != b"bytes" or not size:
        return None
    # §13.1.5: no date is strong enough (a file may change twice in a second), and all our files have tags.
    if named.get(b"if-range", version.etag) != version.etag:
        return None
    asked = [text for text in ranges.split(b",") if text.strip()]
    if not 0 < len(asked) <= MAX_RANGES:
        return None
    spans = []
    for text in asked:
        match = _RANGE.fullmatch(text)
        if match is None or not (match[1] or match[2]):
            return None
        first, last = match[1], match[2]
        if first and last and int(last) < int(first):
            return None
        if not first:
            length = min(int(last), size)
            start, end = size - length, size
        else:
            start, end = int(first), min(int(last) + 1, size) if last else size
        if start < end:
            spans.append(Span(start, end - start))
    if not spans:
        raise Unsatisfiable
    if sum(span.length for span in spans) > size:
        return None
    return spans


def _matches(listed: bytes, etag: bytes, *, weakly: bool) -> bool:
    """Whether an entity-tag list has this tag (§8.8.3.2)."""
    if listed.strip() == b"*":
        return True
    tags = _ETAG.findall(listed)
    return etag in tags or (weakly and b"W/" + etag in tags)


def _date(text: bytes | None) -> int | None:
    """An HTTP date in seconds since 1970; None when it is absent or not one, and so is ignored (§13.1.3)."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text.decode("ascii"))
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
