"""HTTPS from outside, where what is asked for takes its time: streams, tunnels, uploads, clients that are slow."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import signal
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from web.outside import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    Address,
    Process,
    answers,
    metrics,
    web,
)
from web.secure import Authority, rest, secure_port

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.keeps_connections]

BIG_BYTES = 10 * 1024 * 1024
STALLED = 20
KEEPALIVE_SECONDS = 4.0
PIECES = 200
PIECE = b"0123456789abcdef" * 256


class Talker(socketserver.StreamRequestHandler):
    """Answers one request, as its path says, and ends the connection."""

    server: Talkers

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = b""
            with contextlib.suppress(ConnectionResetError):  # a health check
                line = self.rfile.readline()
            if not line:
                return
            head += line
        path = head.split(b" ")[1].decode()
        self.connection.settimeout(ANSWER_SECONDS)
        getattr(self, path.removeprefix("/api/"))(head)

    def endless(self, head: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + PIECE * PIECES)

    def cut(self, head: bytes) -> None:
        """Within a chunk."""
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + PIECE + b"\r\n1000\r\nab"
        )

    def events(self, head: bytes) -> None:
        """The second when the first has been seen."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        if self.server.first_was_seen.wait(ANSWER_SECONDS):
            self.wfile.write(b"data: 2\n\n")

    def echo(self, head: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := self.connection.recv(65536):
            self.connection.sendall(data)

    def upload(self, head: bytes) -> None:
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        digest = hashlib.sha256(self.rfile.read(int(length[1]))).hexdigest().encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(digest), digest))


class Talkers(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Talker)
        self.first_was_seen = threading.Event()


def some(tls: ssl.SSLSocket) -> bytes:
    data = tls.recv(65536)
    assert data
    return data


class Site:
    def __init__(
        self, process: Process, tls: Address, admin: Address, authority: Authority, talkers: Talkers
    ) -> None:
        self.process, self.tls, self.authority, self.talkers = process, tls, authority, talkers
        self._admin = admin

    def metric(self, name: str) -> float:
        return metrics(self._admin).get(f"scaleup_web_{name}", 0.0)

    def peak_bytes(self) -> int:
        """The most memory that its worker ever had."""
        (worker,) = psutil.Process(self.process.process.pid).children()
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
        assert peak is not None
        return int(peak[1]) * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "root").mkdir()
    (folder / "root" / "big").write_bytes(os.urandom(BIG_BYTES))
    authority, tls, admin = Authority(folder), secure_port(), ("127.0.0.1", free_port())
    with Talkers() as talkers:
        thread = threading.Thread(target=talkers.serve_forever)
        thread.start()
        flags = (
            *("--listen-tls", f"127.0.0.1:{tls[1]}", "--tls", authority.pair("site", "site.test")),
            *("--admin", f"127.0.0.1:{admin[1]}", "--root", str(folder / "root")),
            *("--app", f"app1=127.0.0.1:{talkers.server_address[1]}", "--health-check", "tcp"),
            *("--keepalive", f"{KEEPALIVE_SECONDS:g}", "--send-timeout", "4", "--error-limit", "0"),
        )
        try:
            with web(*flags) as (process, _):
                yield Site(process, tls, admin, authority, talkers)
                assert not [said for said in process.log if "Traceback" in said], "".join(process.log)
        finally:
            talkers.shutdown()
            thread.join()


def test_an_answer_without_a_length_ends_with_a_close_notify(site: Site) -> None:
    """To HTTP/1.0 the end of the connection is the end of the body, and TLS says that it is no accident."""
    (answer,) = answers(site.authority.ask(site.tls, "GET /api/endless HTTP/1.0"), "GET")
    assert (answer.value("content-length"), answer.value("transfer-encoding")) == ("", "")
    assert answer.body == PIECE * PIECES


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_one_that_breaks_off_ends_without(site: Site, version: str) -> None:
    """An HTTP/1.0 client has nothing else to tell it from a whole one by."""
    with site.authority.connected(site.tls) as tls:
        tls.sendall(f"GET /api/cut HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        assert tls.recv(12) == b"HTTP/1.1 200"
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            rest(tls)


def test_events_come_one_by_one(site: Site) -> None:
    with site.authority.connected(site.tls) as tls:
        tls.sendall(b"GET /api/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while b"data: 1\n\n" not in received:
            received += some(tls)
        site.talkers.first_was_seen.set()
        (answer,) = answers(received + rest(tls), "GET")
    assert (answer.body, answer.is_complete) == (b"data: 1\n\ndata: 2\n\n", True)


def test_an_upgraded_connection_carries_bytes_both_ways(site: Site) -> None:
    message = os.urandom(300_000)
    with site.authority.connected(site.tls) as tls:
        tls.sendall(b"GET /api/echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += tls.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        for size in (1, 1000, 100_000):
            tls.sendall(message[:size])
            back = b""
            while len(back) < size:
                back += some(tls)
            assert back == message[:size]


def test_an_upload_arrives_as_it_is(site: Site) -> None:
    content = os.urandom(4 * 1024 * 1024)
    with site.authority.connected(site.tls) as tls:
        head = b"POST /api/upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        tls.sendall(head % len(content) + content)
        (answer,) = answers(rest(tls), "POST")
    assert answer.body.decode() == hashlib.sha256(content).hexdigest()


def was_reset(tls: ssl.SSLSocket) -> bool:
    """Waits for it, without reading what came before."""
    poll = select.poll()
    poll.register(tls, 0)
    return bool(poll.poll(PATIENCE_SECONDS * 1000))


def test_clients_that_do_not_read_cost_little_and_are_cut_off(site: Site) -> None:
    """Of 200 MiB that they have asked for, no tenth is ever in memory."""
    ask = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
    assert len(site.authority.ask(site.tls, "GET /big HTTP/1.1")) > BIG_BYTES
    before, cut_off = site.peak_bytes(), 0
    context = site.authority.context()
    stalled = []
    try:
        for _ in range(STALLED):
            sock = socket.create_connection(site.tls, ANSWER_SECONDS)
            stalled.append(context.wrap_socket(sock, server_hostname="site.test", suppress_ragged_eofs=False))
            stalled[-1].sendall(ask)
        assert len(site.authority.ask(site.tls, "GET /big HTTP/1.1")) > BIG_BYTES  # the others are served
        assert all(was_reset(tls) for tls in stalled)
        assert site.peak_bytes() - before < STALLED * BIG_BYTES / 10
        for tls in stalled:
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                rest(tls)
            cut_off += 1
    finally:
        for tls in stalled:
            tls.close()
    assert cut_off == STALLED


def test_a_handshake_that_trickles_has_a_deadline(site: Site) -> None:
    """As a whole: a byte now and then does not put it off."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        site.authority.context().wrap_bio(incoming, outgoing, server_hostname="site.test").do_handshake()
    hello, began = outgoing.read(), time.monotonic()
    with socket.create_connection(site.tls, ANSWER_SECONDS) as sock:
        sock.settimeout(0.1)
        for byte in hello:  # would be done in 50 s
            try:
                sock.sendall(bytes([byte]))
                assert sock.recv(100) == b""
                break
            except TimeoutError:
                assert time.monotonic() - began < KEEPALIVE_SECONDS + ANSWER_SECONDS
            except ConnectionError:
                break
        assert time.monotonic() - began > KEEPALIVE_SECONDS / 2


def test_clients_that_have_nothing_to_say_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """Idle connections of a program's pool: nobody reads there, so nobody answers our close_notify."""
    authority, tls = Authority(tmp_path), secure_port()
    flags = (
        "--listen-tls",
        f"127.0.0.1:{tls[1]}",
        "--tls",
        authority.pair("site", "site.test"),
        "--drain",
        "20",
    )
    with web(*flags) as (process, _), authority.connected(tls) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(ANSWER_SECONDS) == 0
