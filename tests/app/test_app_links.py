"""What a link is. The parsers are fed whole, with every character that they must refuse, and fuzzed."""

from __future__ import annotations

import random
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.app.links import (
    MAX_URL_LENGTH,
    InvalidLinkError,
    Link,
    check_code,
    check_url,
    is_code,
    new_code,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "https://example.org/",
        "HTTPS://EXAMPLE.ORG/",
        "https://example.org:8443/a%2Fb/../c;p=1?q=a+b&r[]=%20#top",
        "http://192.0.2.1/",
        "http://[2001:db8::1]:8080/x",
        "https://xn--bcher-kva.example/",
        "https://example.org:/",
        "https://a_b.example/~x!$&'()*,=:@",
        "https://example.org/" + "x" * (MAX_URL_LENGTH - 20),
    ],
)
def test_urls_that_are_taken_as_they_are(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "must be a string"),
        (7, "must be a string"),
        ("", "must begin with"),
        ("example.org", "must begin with"),
        ("/path", "must begin with"),
        ("//example.org/", "must begin with"),
        ("ftp://example.org/", "must begin with"),
        ("javascript:alert(1)", "must begin with"),
        ("data:text/html,x", "must begin with"),
        ("http:///path", "must begin with"),
        ("http:example.org", "must begin with"),
        ("http://:80/", "has no host"),
        ("https://bank.example@evil.example/", "user name or password"),
        ("https://user:secret@example.org/", "user name or password"),
        ("https://example.org/" + "x" * MAX_URL_LENGTH, "longer than"),
        ("https://example.org:0/", "port 0"),
        ("https://example.org:65536/", "not a port"),
        ("https://example.org:80x/", "not a port"),
        ("http://10.0.0.256/", "bad host"),
        ("http://[::1/", "not a URL"),
        ("http://[192.0.2.1]/", "brackets"),
        ("http://a..b/", "bad host"),
        ("http://2001:db8::1/", "bad host"),
    ],
)
def test_urls_that_are_refused(url: object, why: str) -> None:
    with pytest.raises(InvalidLinkError, match=why) as caught:
        check_url(url)
    assert caught.value.field == "url"


@pytest.mark.parametrize(
    "character", [*map(chr, range(33)), *'"<>\\^`{|}', "\x7f", "\x85", "ä", "\u2028", "𝕏"]
)
def test_characters_that_no_url_has(character: str) -> None:
    for url in (
        f"https://example.org/a{character}b",
        f"https://example.org/{character}",
        f"{character}https://a/",
    ):
        with pytest.raises(InvalidLinkError):
            check_url(url)


@given(st.text() | st.text(alphabet="htps:/@[].%?#ae1\n\t\\ ", max_size=40).map("http://".__add__))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = check_url(text)
    except InvalidLinkError:
        return
    assert url == text
    assert url.isascii()
    assert url.isprintable()
    assert url.lower().startswith(("http://", "https://"))


@pytest.mark.parametrize("code", ["a", "Z", "0", "_", "-", "abc-DEF_123", "x" * 32])
def test_codes_that_are_taken(code: str) -> None:
    assert check_code(code) == code


@pytest.mark.parametrize("code", ["", "x" * 33, "a b", "a/b", "ä", "a\n", "a%20", ".", "٣", None, 7, ["a"]])
def test_codes_that_are_refused(code: object) -> None:
    with pytest.raises(InvalidLinkError) as caught:
        check_code(code)
    assert caught.value.field == "code"


@given(st.text(max_size=40))
def test_any_text_is_a_code_or_not(text: str) -> None:
    assert is_code(text) == (
        1 <= len(text) <= 32 and all(c.isascii() and (c.isalnum() or c in "_-") for c in text)
    )


def test_new_codes_are_codes_that_nobody_misreads() -> None:
    chance = random.Random(1)
    codes = [new_code(chance.randrange) for _ in range(1000)]
    assert all(is_code(code) and len(code) == 7 for code in codes)
    assert len(set(codes)) == 1000
    assert not set("".join(codes)) & set("0OIl")


def test_a_link_as_json() -> None:
    link = Link("abc", "https://example.org/", 3, datetime(2026, 1, 31, 12, 0, 0))
    assert link.as_json() == {
        "code": "abc",
        "url": "https://example.org/",
        "short": "/l/abc",
        "clicks": 3,
        "created": "2026-01-31T12:00:00.000000Z",
    }
