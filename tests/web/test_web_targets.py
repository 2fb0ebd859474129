"""Request targets: what goes on byte for byte, and what it means here."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.web.problems import Problem
from scaleup.web.targets import parse


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/", b"/"),
        ("/a", b"/a"),
        ("/a/", b"/a/"),
        ("//a///b", b"/a/b"),
        ("/a/./b", b"/a/b"),
        ("/a/../b", b"/b"),
        ("/a/..", b"/"),
        ("/a/b/..", b"/a/"),
        ("/a/.", b"/a/"),
        ("/%61", b"/a"),
        ("/a%2Fb", b"/a/b"),
        ("/a/%2e%2e/b", b"/b"),
        ("/%252e", b"/%2e"),
        ("/a?%zz", b"/a"),
        ("/a\\b", b"/a\\b"),
        ("/%C3%A4", "/ä".encode()),
        ("/a?b/../..%00", b"/a"),
        ("http://h/a", b"/a"),
        ("HTTP://h:1", b"/"),
        ("https://h?x", b"/"),
    ],
)
def test_what_a_target_means(text: str, path: bytes) -> None:
    assert parse(text).path == path


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "a:b",
            "//",
            "http:/a",
            "http://",
            "http://u@h/",
            "ftp://h/",
            "/a b",
            "/ä",
            "/a#b",
            "/\x7f",
        ),
        *("/%", "/%zz", "/%2", "/a%2/b"),
        *("/..", "/a/../..", "/%2e%2e/a", "/a%00", "/%00", "http://h/a#b", "/a\r\nX: y"),
    ],
)
def test_what_is_no_target(text: str) -> None:
    if text == "//":
        assert parse(text).path == b"/"
        return
    with pytest.raises(Problem) as refused:
        parse(text)
    assert (refused.value.status, refused.value.close) == (400, True)


def test_the_absolute_form_names_the_host() -> None:
    target = parse("http://h:81/a?b")
    assert (target.raw, target.authority) == ("/a?b", b"h:81")
    assert parse("http://h?b").raw == "/?b"
    assert parse("/a").authority is None


@given(st.text("/.%2eEfF5cC0aA\\?;b", max_size=30).map(lambda text: "/" + text))
def test_a_target_never_means_something_above_the_root(text: str) -> None:
    try:
        target = parse(text)
    except Problem:
        return
    assert target.raw == text
    assert not {b"", b".", b".."} & set(target.segments)
    assert all(b"/" not in segment and b"\0" not in segment for segment in target.segments)


@given(st.text(max_size=20))
def test_anything_is_a_target_or_a_problem(text: str) -> None:
    with suppress(Problem):
        parse(text)
