"""Endpoints: what is read, what is refused with a cure, and that reading undoes writing."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint, is_in, syslog_address, unmapped


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:80", "10.0.0.1", 80),
        (" 10.0.0.1:80\n", "10.0.0.1", 80),
        ("10.0.0.1:0", "10.0.0.1", 0),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("10.0.0.1:00080", "10.0.0.1", 80),
        (":80", "0.0.0.0", 80),
        ("[::1]:80", "::1", 80),
        ("[::]:80", "::", 80),
        ("[2001:DB8:0:0::1]:80", "2001:db8::1", 80),  # one address, one spelling
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("db:3306", "db", 3306),
        ("my_db.internal.:3306", "my_db.internal.", 3306),
        ("xn--bcher-kva.example:1", "xn--bcher-kva.example", 1),
        ("3com.example:1", "3com.example", 1),
        (f"{'a' * 63}.b:1", f"{'a' * 63}.b", 1),
    ],
)
def test_what_is_read(text: str, host: str, port: int) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port)


@pytest.mark.parametrize(("text", "host"), [("db", "db"), ("10.0.0.1", "10.0.0.1"), ("[::1]", "::1")])
def test_a_default_port(text: str, host: str) -> None:
    assert Endpoint.parse(text, 3306) == Endpoint(host, 3306)
    assert Endpoint.parse(f"{text}:1", 3306) == Endpoint(host, 1)
    with pytest.raises(ValueError, match=r"has no port: write HOST:PORT, for example 10\.0\.0\.1:8080"):
        Endpoint.parse(text)


NO_PORT = "is not a port: write a number from 0 to 65535"
NO_HOST = "is neither an IP address nor a host name"
NO_BRACKETS = "is not an endpoint: write [IPV6]:PORT"


@pytest.mark.parametrize("default_port", [None, 80])
@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "it is empty: write HOST:PORT"),
        (" ", "it is empty: write HOST:PORT"),
        ("10.0.0.1:", NO_PORT),
        ("10.0.0.1:http", NO_PORT),
        ("10.0.0.1:65536", NO_PORT),
        ("10.0.0.1:-1", NO_PORT),
        ("10.0.0.1:+1", NO_PORT),
        ("10.0.0.1:1_0", NO_PORT),
        ("10.0.0.1: 80", NO_PORT),
        ("10.0.0.1:٨٠", NO_PORT),
        pytest.param("10.0.0.1:" + "1" * 5000, NO_PORT, id="5000 digits"),
        ("10.0.0.256:80", NO_HOST),
        ("10.0.0:80", NO_HOST),
        ("010.0.0.1:80", NO_HOST),
        ("10.0.0.1 :80", NO_HOST),
        ("10.0.0.0/8:80", NO_HOST),
        ("a..b:80", NO_HOST),
        ("a..:80", NO_HOST),
        (".:80", NO_HOST),
        ("-a:80", NO_HOST),
        ("a-:80", NO_HOST),
        ("a b:80", NO_HOST),
        ("bücher.example:80", NO_HOST),
        ("user@host:80", NO_HOST),
        (f"{'a' * 64}:80", NO_HOST),
        (f"{'a.' * 127}:80", NO_HOST),
        ("http://10.0.0.1:80", "is ambiguous: write an IPv6 address in brackets, [IPV6]:PORT"),
        ("::1", "is ambiguous: write an IPv6 address in brackets, [IPV6]:PORT"),
        ("::1:80", "is ambiguous: write an IPv6 address in brackets, [IPV6]:PORT"),
        ("[::1:80", NO_BRACKETS),
        ("[::1]80", NO_BRACKETS),
        ("[]:80", NO_BRACKETS),
        ("[10.0.0.1]:80", NO_BRACKETS),
        ("[name]:80", NO_BRACKETS),
        ("[::g]:80", NO_HOST),
        ("[::1]:", NO_PORT),
        ("[::1]:80:80", NO_PORT),
    ],
)
def test_what_is_refused_and_what_to_write_instead(text: str, cure: str, default_port: int | None) -> None:
    with pytest.raises(ValueError, match=re.escape(cure)):
        Endpoint.parse(text, default_port)


names = st.from_regex(
    r"[a-z]([a-z0-9_-]{0,9}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,9}[a-z0-9])?){0,3}", fullmatch=True
)
hosts = st.ip_addresses().map(str) | names
ports = st.integers(0, 65535)


@given(hosts, ports)
def test_reading_undoes_writing(host: str, port: int) -> None:
    assert Endpoint.parse(str(Endpoint(host, port))) == Endpoint(host, port)


@given(st.text("0123456789.:[]abf%-_ \n", max_size=30) | st.text(max_size=30), st.none() | ports)
@example("[::1%]:80", None)
def test_anything_is_an_endpoint_or_a_value_error(text: str, default_port: int | None) -> None:
    try:
        endpoint = Endpoint.parse(text, default_port)
    except ValueError:
        return
    assert 0 <= endpoint.port <= 65535
    assert endpoint.host
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(st.ip_addresses(v=6))
def test_one_address_has_one_spelling(address: IPv6Address) -> None:
    assert Endpoint.parse(f"[{address.exploded.upper()}]:1") == Endpoint.parse(f"[{address}]:1")


@given(st.ip_addresses(), ports)
def test_the_address_of_an_endpoint(address: IPv4Address | IPv6Address, port: int) -> None:
    assert Endpoint(str(address), port).address == ip_address(str(address))


def test_a_name_has_no_address_yet() -> None:
    assert Endpoint("localhost", 80).address is None


def test_endpoints_are_values() -> None:
    assert len({Endpoint("a", 1), Endpoint("a", 1), Endpoint("a", 2)}) == 2
    assert sorted([Endpoint("b", 1), Endpoint("a", 2), Endpoint("a", 1)])[0] == Endpoint("a", 1)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        *(
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("0:0:0:0:0:FFFF:c000:201", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
        ),
        *(("::ffff:0:192.0.2.1", "::ffff:0:192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("::1", "::1")),
    ],
)
def test_an_ipv4_address_that_was_seen_through_ipv6(host: str, plain: str) -> None:
    assert unmapped(host) == plain


def test_who_is_in_a_network() -> None:
    networks = (ip_network("192.0.2.0/24"), ip_network("fe80::/64"))
    assert [is_in(host, networks) for host in ("192.0.2.7", "fe80::1%eth0", "192.0.3.7", "::1", "", "a")] == [
        *(True, True, False, False, False, False)
    ]


# ----- where syslog listens ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/log", Path("/dev/log")),
        ("10.0.0.9", Endpoint("10.0.0.9", 514)),
        ("10.0.0.9:5140", Endpoint("10.0.0.9", 5140)),
        ("[2001:db8::9]:514", Endpoint("2001:db8::9", 514)),
    ],
)
def test_syslog_is_at_a_path_or_an_address(text: str, expected: Path | Endpoint) -> None:
    assert syslog_address(text) == expected


@pytest.mark.parametrize("text", ["", "logs.example.org", "logs.example.org:514", "10.0.0.9:0"])
def test_a_name_is_no_place_for_a_log(text: str) -> None:
    with pytest.raises(ValueError, match=r"write .*10\.0\.0\."):
        syslog_address(text)
