"""Cutting literals: what the driver escapes, comes out again."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.converters import escape_string

from scaleup.db.literals import check_comments, cut_literals
from scaleup.db.sqlerror import SqlError


@pytest.mark.parametrize(
    ("text", "shape", "values"),
    [
        ("a = 'x'", "a = :p1", ["x"]),
        ("a = '' AND b = 'it''s'", "a = :p1 AND b = :p2", ["", "it's"]),
        (r"a = 'it\'s \\ \n\t\0\Z\%\_\q'", "a = :p1", ["it's \\ \n\t\0\x1a\\%\\_q"]),
        ('a = "say ""it\'s"""', "a = :p1", ['say "it\'s"']),
        ("a=1 AND b<-20", "a=:p1 AND b<-:p2", [1, 20]),
        ("t1.c2 = 3", "t1.c2 = :p1", [3]),
        ("`a'b` = 1", "`a'b` = :p1", [1]),
        ("a -- 'x'\n = 1 # 2\n /* 3 */", "a  \n = :p1  \n  ", [1]),
        ("a --\n= 1", "a  \n= :p1", [1]),
        ("a = 1.5 OR a = 0x1F OR a = 2e3", "a = 1.5 OR a = 0x1F OR a = 2e3", []),  # for translate to refuse
    ],
)
def test_shape_and_values(text: str, shape: str, values: list[object]) -> None:
    cut, parameters = cut_literals(text)
    assert cut.split() == shape.split()
    assert list(parameters.values()) == values


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(("a = 'x", 1064), ('a = "x', 1064), ("a = 'x\\'", 1064), ("a = :p1", 1064)),
        *(("_binary'x'", 1235), ("x'41'", 1235), ("N'x'", 1235), ("/*! x */", 1235)),
    ],
)
def test_what_is_refused(text: str, code: int) -> None:
    with pytest.raises(SqlError) as caught:
        cut_literals(text)
    assert caught.value.code == code


@given(st.lists(st.text(), max_size=4))
def test_what_the_driver_escapes_comes_out_again(values: list[str]) -> None:
    text = "SELECT " + ", ".join(f"'{escape_string(value)}'" for value in values)
    shape, parameters = cut_literals(text)
    assert list(parameters.values()) == values
    assert shape == "SELECT " + ", ".join(f":p{number}" for number in range(1, len(values) + 1))


@given(st.text(alphabet="'\"\\`:#-/*! \n\0a1é_"))
def test_any_text_is_cut_or_refused(text: str) -> None:
    for function in (cut_literals, check_comments):
        with contextlib.suppress(SqlError):
            function(text)
