"""How many connections there may be, at the real process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from web.outside import ANSWER_SECONDS, Address, answers, exchange, metrics, until, web
from web.secure import Authority, secure_port

from bench.ports import free_port
from scaleup.net.addresses import Endpoint
from scaleup.net.proxy_protocol import v2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

GET = b"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = GET.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n")


def connect(address: Address, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(address, ANSWER_SECONDS, source_address=(host, 0))


def is_served(sock: socket.socket) -> bool:
    sock.sendall(GET)
    return sock.recv(2000).startswith(b"HTTP/1.1 200 ")


class Limited:
    def __init__(self, plain: Address, tls: Address, admin: Address, authority: Authority) -> None:
        self.plain, self.tls, self.admin, self.authority = plain, tls, admin, authority

    def count(self, name: str) -> float:
        return metrics(self.admin).get(f"scaleup_web_{name}", 0.0)


@pytest.fixture
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Limited]:
    (tmp_path / "a.txt").write_text("12345")
    tls, admin, authority = secure_port(), ("127.0.0.1", free_port()), Authority(tmp_path)
    flags = (
        *("--root", str(tmp_path), "--admin", f"127.0.0.1:{admin[1]}"),
        *("--listen-tls", f"127.0.0.1:{tls[1]}", "--tls", authority.pair("site", "site.test")),
    )
    with web(*flags, *request.param) as (process, plain):
        yield Limited(plain, tls, admin, authority)
        assert not [said for said in process.log if "Traceback" in said], "".join(process.log)


@pytest.mark.parametrize("limited", [("--source-maxconn", "2")], indirect=True)
def test_more_than_its_share_of_one_source_is_refused(limited: Limited) -> None:
    first, second = connect(limited.plain), connect(limited.plain)
    assert is_served(first)
    assert is_served(second)
    (refused,) = answers(exchange(limited.plain, LAST), "GET")
    assert (refused.status, refused.value("retry-after")) == (503, "1")
    with pytest.raises(OSError, match=r"reset|EOF"):
        limited.authority.ask(limited.tls, "GET /a.txt HTTP/1.1")
    with connect(limited.plain, "127.0.0.2") as other:
        assert is_served(other)
    first.close()
    until(lambda: exchange(limited.plain, LAST).startswith(b"HTTP/1.1 200 "), "there is room again")
    assert is_served(second)
    second.close()
    until(
        lambda: limited.count('connections_refused_total{reason="source_maxconn"}') >= 2, "they are counted"
    )
    until(lambda: limited.count("connections") == 0, "nobody is left")


@pytest.mark.parametrize("limited", [("--source-maxconn", "2", "--accept-proxy", "127.0.0.1")], indirect=True)
def test_behind_a_proxy_the_source_is_the_client(limited: Limited) -> None:
    """IPv6: whoever has one address of a /64 has them all."""
    here, here6 = Endpoint("198.51.100.1", 80), Endpoint("2001:db8::1", 80)
    one, other = v2(Endpoint("192.0.2.7", 1), here), v2(Endpoint("192.0.2.8", 1), here)
    six = [
        v2(Endpoint(f"2001:db8:0:{net}::{host}", 1), here6) for net, host in ((1, 1), (1, 2), (1, 3), (2, 1))
    ]
    there = []
    for header in (one, one, other, other, six[0], six[1], six[3]):
        there.append(connect(limited.plain))
        there[-1].sendall(header)
        assert is_served(there[-1])
    for header in (one, other, six[2]):
        assert exchange(limited.plain, header, LAST).startswith(b"HTTP/1.1 503 ")
    for sock in there:
        sock.close()
    until(lambda: exchange(limited.plain, one, LAST).startswith(b"HTTP/1.1 200 "), "there is room again")
    until(lambda: limited.count("connections") == 0, "nobody is left")


@pytest.mark.parametrize("limited", [("--maxconn", "3")], indirect=True)
def test_beyond_maxconn_they_wait_for_those_that_are_there(limited: Limited) -> None:
    there = [connect(limited.plain) for _ in range(3)]
    assert all(map(is_served, there))
    with connect(limited.plain) as waits:
        waits.sendall(LAST)
        waits.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waits.recv(1)
        assert is_served(there[1])
        there[0].close()
        waits.settimeout(ANSWER_SECONDS)
        assert waits.recv(2000).startswith(b"HTTP/1.1 200 ")
    for sock in there:
        sock.close()
    until(lambda: limited.count("connections_limit") == 3, "it is told")


@pytest.mark.parametrize("limited", [("--keepalive", "1", "--body-timeout", "1")], indirect=True)
def test_whoever_says_nothing_is_closed(limited: Limited) -> None:
    assert exchange(limited.plain) == b""
    assert exchange(limited.plain, b"GET / HTT") == b""
    assert exchange(limited.tls) == b""
    (late,) = answers(
        exchange(limited.plain, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"), "POST"
    )
    assert late.status in (405, 408)
    until(lambda: limited.count("connections") == 0, "nobody is left")
