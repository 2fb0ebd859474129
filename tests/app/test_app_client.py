"""Which client: X-Forwarded-For is believed as far as our proxies wrote it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.app.client import client_address

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("::1/128")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("203.0.113.1", ["203.0.113.9"], "203.0.113.1"),  # a stranger may say what it likes
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the left one is the client's own word
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),  # two proxies of ours
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),  # in two headers
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all ours: the first of them asked
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:1234"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("", ["203.0.113.9"], ""),  # a Unix socket
    ],
)
def test_the_client_is_the_last_address_that_was_not_written_by_a_stranger(
    peer: str, forwarded_for: list[str], client: str
) -> None:
    assert client_address(peer, forwarded_for, TRUSTED) == client


@given(st.lists(st.text()))
def test_any_header_gives_an_address(forwarded_for: list[str]) -> None:
    client_address("10.0.0.1", forwarded_for, TRUSTED)


@given(st.lists(st.ip_addresses().map(str), max_size=5))
def test_nothing_is_believed_from_a_stranger(forwarded_for: list[str]) -> None:
    assert client_address("203.0.113.1", forwarded_for, TRUSTED) == "203.0.113.1"
