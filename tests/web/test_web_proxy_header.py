"""The PROXY header with which connections from listed proxies begin, at the real process."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from web.outside import (
    ANSWER_SECONDS,
    Address,
    Process,
    answers,
    exchange,
    metrics,
    ready,
    until,
    web,
)
from web.recorder import Recorder, whole
from web.secure import Authority, secure_port

from bench.ports import free_port
from scaleup.net.addresses import Endpoint
from scaleup.net.proxy_protocol import v1, v2, v2_local

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.keeps_connections]

CLIENT, HERE = Endpoint("192.0.2.7", 4711), Endpoint("198.51.100.1", 80)
CLIENT6, HERE6 = Endpoint("2001:db8::7", 4711), Endpoint("2001:db8::1", 80)
GET = b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Behind:
    """A web server that takes 127.0.0.0/30 for proxies."""

    def __init__(self, plain: Address, tls: Address, admin: Address, log: Path) -> None:
        self.plain, self.tls, self.admin, self._log = plain, tls, admin, log

    def clients(self) -> list[str]:
        """In the access log."""
        return [line.partition(" ")[0] for line in self._log.read_text().splitlines()]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def _running(
    tmp_path_factory: pytest.TempPathFactory, application: Recorder, authority: Authority
) -> Iterator[tuple[Process, Behind]]:
    log = tmp_path_factory.mktemp("log") / "access"
    tls, admin = secure_port(), ("127.0.0.1", free_port())
    flags = (
        *("--accept-proxy", "127.0.0.0/30", "--app", f"app1={application.address}", "--health-check", "tcp"),
        *("--listen-tls", f"127.0.0.1:{tls[1]}", "--tls", authority.pair("site", "site.test")),
        *("--access-log", "common", "--access-log-file", str(log), "--keepalive", "3"),
        *("--admin", f"127.0.0.1:{admin[1]}"),
    )
    with web(*flags) as (process, plain):
        yield process, Behind(plain, tls, admin, log)
        assert not [said for said in process.log if "Traceback" in said], "".join(process.log)


@pytest.fixture
def behind(_running: tuple[Process, Behind], application: Recorder) -> Behind:
    application.forget()
    return _running[1]


def told(application: Recorder) -> list[bytes]:
    """The clients that the application was told of."""
    requests = [one for data in application.recorded() for one in whole(data) if b"/api/x" in one.line]
    return [dict(request.fields)[b"x-forwarded-for"] for request in requests]


@pytest.mark.parametrize(
    ("header", "client"),
    {
        "v1": (v1(CLIENT, HERE), CLIENT.host),
        "v1 of IPv6": (v1(CLIENT6, HERE6), CLIENT6.host),
        "v2": (v2(CLIENT, HERE), CLIENT.host),
        "v2 of IPv6": (v2(CLIENT6, HERE6), CLIENT6.host),
        "v2 with much else": (v2(CLIENT, HERE, [(0xEA, bytes(2000))], checksum=True), CLIENT.host),
        "v2 LOCAL": (v2_local(), "127.0.0.1"),
        "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    }.values(),
    ids=lambda value: None,
)
@pytest.mark.parametrize("pieces", ["at once", "byte by byte"])
def test_the_client_is_who_the_header_names(
    behind: Behind, application: Recorder, header: bytes, client: str, pieces: str
) -> None:
    some = header[:300]
    parts = [header + GET] if pieces == "at once" else [bytes([b]) for b in some] + [header[300:] + GET]
    (answer,) = answers(exchange(behind.plain, *parts), "GET")
    assert answer.body == b"hello"
    assert told(application) == [client.encode()]
    until(lambda: behind.clients()[-1:] == [client], "it is logged")


def test_tls_comes_behind_it(behind: Behind, application: Recorder, authority: Authority) -> None:
    received = authority.ask(behind.tls, "GET /api/x HTTP/1.1", first=v2(CLIENT, HERE))
    assert answers(received, "GET")[0].body == b"hello"
    assert told(application) == [CLIENT.host.encode()]


def test_it_counts_for_all_requests_of_the_connection(behind: Behind, application: Recorder) -> None:
    exchange(behind.plain, v2(CLIENT, HERE) + GET.replace(b"Connection: close\r\n", b"") + GET)
    assert told(application) == [CLIENT.host.encode()] * 2


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (GET, "not_proxy"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 0471 80\r\n" + GET, "malformed"),
        (v2(CLIENT, HERE, checksum=True)[:-1] + b"x" + GET, "checksum"),
        (b"PROXY TCP4 192.0.2.7", "truncated"),
        (b"", "truncated"),
    ],
)
def test_without_a_good_one_nobody_is_served(
    behind: Behind, application: Recorder, said: bytes, cause: str
) -> None:
    name = f'scaleup_web_connections_refused_total{{reason="proxy_{cause}"}}'
    before = metrics(behind.admin).get(name, 0)
    assert exchange(behind.plain, said) == b""
    until(lambda: metrics(behind.admin).get(name, 0) == before + 1, "it is counted")
    assert told(application) == []


def test_from_others_it_is_no_http(behind: Behind, application: Recorder) -> None:
    with socket.create_connection(behind.plain, ANSWER_SECONDS, source_address=("127.0.0.9", 0)) as sock:
        sock.sendall(v1(CLIENT, HERE) + GET)
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection(behind.plain, ANSWER_SECONDS, source_address=("127.0.0.9", 0)) as sock:
        sock.sendall(GET)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    assert told(application) == [b"127.0.0.9"]


def test_half_a_header_and_then_the_end(behind: Behind) -> None:
    with socket.create_connection(behind.plain, ANSWER_SECONDS) as sock:
        sock.sendall(v2(CLIENT, HERE)[:20])
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # what was sent was not read
            assert sock.recv(100) == b""


def test_many_at_once_are_told_apart(behind: Behind, application: Recorder) -> None:
    hosts = [f"192.0.2.{number}" for number in range(1, 30)]
    socks = [socket.create_connection(behind.plain, ANSWER_SECONDS) for _ in hosts]
    for sock, host in zip(socks, hosts, strict=True):
        sock.sendall(v2(Endpoint(host, 1), HERE)[:15])
    for sock, host in zip(socks, hosts, strict=True):
        sock.sendall(v2(Endpoint(host, 1), HERE)[15:] + GET)
    for sock in socks:
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        sock.close()
    assert sorted(told(application)) == sorted(host.encode() for host in hosts)


@pytest.mark.parametrize(("told_by", "secure"), [("v1", False), ("v2", True)])
def test_the_client_is_known_behind_our_load_balancer(
    behind: Behind, application: Recorder, authority: Authority, told_by: str, secure: bool
) -> None:
    """Which is 127.0.0.77; to the web tier all come from the load balancer."""
    (host, port), admin = behind.tls if secure else behind.plain, ("127.0.0.1", free_port())
    flags = ("--listen", "127.0.0.1:0", "--server", f"web={host}:{port}", "--send-proxy", told_by)
    flags += ("--admin", f"127.0.0.1:{admin[1]}")
    with contextlib.closing(
        Process("scaleup.lb", *flags, "--health-check", "tcp", "--source", "127.0.0.2")
    ) as lb:
        front = ("127.0.0.1", int(lb.said(r"listening on 127\.0\.0\.1:(\d+)")[1]))
        ready(admin)
        with socket.create_connection(front, ANSWER_SECONDS, source_address=("127.0.0.77", 0)) as sock:
            client = authority.context().wrap_socket(sock, server_hostname="site.test") if secure else sock
            client.sendall(GET)
            received = b""
            while data := client.recv(65536):
                received += data
            client.close()
    assert answers(received, "GET")[0].body == b"hello"
    assert told(application) == [b"127.0.0.77"]
    until(lambda: behind.clients()[-1:] == ["127.0.0.77"], "it is logged")
