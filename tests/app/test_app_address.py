from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.app.address import DatabaseAddress, PasswordInUrlError
from scaleup.net.addresses import Endpoint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mysql://u@10.0.0.41:3307/d", DatabaseAddress("u", Endpoint("10.0.0.41", 3307), "d")),
        ("mysql://u@db.example/d", DatabaseAddress("u", Endpoint("db.example", 3306), "d")),
        ("mysql://u@[::1]:1/d", DatabaseAddress("u", Endpoint("::1", 1), "d")),
        (
            "mysql://u@a:1,[::1],b/d",
            DatabaseAddress("u", Endpoint("a", 1), "d", (Endpoint("::1", 3306), Endpoint("b", 3306))),
        ),
        ("mysql://a%40b@h/d", DatabaseAddress("a@b", Endpoint("h", 3306), "d")),
    ],
)
def test_the_parts_of_a_url(text: str, address: DatabaseAddress) -> None:
    assert DatabaseAddress.parse(text) == address
    assert str(Endpoint.parse(str(address.endpoint))) in str(address)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "mysql://"),
        ("10.0.0.41:3306", "mysql://"),
        ("postgres://u@h/d", "mysql://"),
        ("mysql://h/d", "no user"),
        ("mysql://u@/d", "no host"),
        ("mysql://u@h", "no database"),
        ("mysql://u@h/", "no database"),
        ("mysql://u@h/d/e", "no database"),
        ("mysql://u@h/d?ssl=1", "after the database"),
        ("mysql://u@h:x/d", "not a port"),
        ("mysql://u@h,h:3306/d", "twice"),
        ("mysql://u@h,/d", "."),
    ],
)
def test_what_is_wrong_with_a_url(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DatabaseAddress.parse(text)


@pytest.mark.parametrize("text", ["mysql://u:secret@h/d", "mysql://u:@h/d", "postgres://u:secret@h/d"])
def test_a_password_in_a_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(PasswordInUrlError, match="SCALEUP_APP_DATABASE_PASSWORD") as caught:
        DatabaseAddress.parse(text)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for candidate in (text, f"mysql://{text}"):
        with contextlib.suppress(ValueError):
            DatabaseAddress.parse(candidate)
