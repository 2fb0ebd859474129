"""The generator, the transfer and the server behind, over real sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import load, transfer
from bench.generator import Generator, GeneratorError, percentiles
from bench.load import Load
from bench.ports import free_port
from bench.running import BenchError
from bench.server import Server

pytestmark = pytest.mark.slow  # real processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """bench.server as the process that it is."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.server", "--listen", f"127.0.0.1:{port}"], cwd=ROOT
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 10).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def answering(conversation: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                conversation(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(10)


def ask(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, 10) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(1 << 16):
            answer += data
        return answer


def run(generator: Generator, seconds: float) -> Generator:
    try:
        generator.warm_up()
        generator.run(seconds)
    finally:
        generator.close()
    return generator


def test_what_is_posted_comes_with_its_length() -> None:
    received = []

    def conversation(sock: socket.socket) -> None:
        for _ in range(2):  # to warm up, and one that counts
            received.append(sock.recv(1 << 16))
            sock.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    with answering(conversation) as address:
        generator = Generator(address, "/api/links", 1, 100.0, False, '{"url": "ä"}')
        assert run(generator, 0.01).answered == 1
    head, _, body = received[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/links HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\nContent-Length: 13" in head
    assert body.decode() == '{"url": "ä"}'


@pytest.mark.parametrize("size", [0, 1, 16384, 300_000])
def test_the_server_answers_as_many_bytes(server: tuple[str, int], size: int) -> None:
    header, _, body = ask(server, b"GET /%d HTTP/1.1\r\nConnection: close\r\n\r\n" % size).partition(
        b"\r\n\r\n"
    )
    assert header == b"HTTP/1.1 200 OK\r\nContent-Length: %d" % size
    assert len(body) == size


def test_the_server_takes_a_body_that_comes_with_its_header_and_one_that_comes_later(
    server: tuple[str, int],
) -> None:
    head = b"PUT / HTTP/1.1\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
    assert ask(server, head + b"hello") == b"HTTP/1.1 204 No Content\r\n\r\n"
    with socket.create_connection(server, 10) as sock:
        for part in (head[:10], head[10:], b"he", b"llo"):
            sock.sendall(part)
        assert sock.recv(100) == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_the_server_keeps_a_connection(server: tuple[str, int]) -> None:
    with socket.create_connection(server, 10) as sock, sock.makefile("rb") as answers:
        for _ in range(3):
            sock.sendall(b"GET /1 HTTP/1.1\r\n\r\n")
            assert answers.read(len(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")).endswith(b"x")


def test_an_address_that_is_taken_is_an_error(server: tuple[str, int]) -> None:
    with pytest.raises(OSError, match="in use"):
        Server([server])


@pytest.mark.parametrize("close", [False, True])
def test_a_closed_loop_counts_answers(server: tuple[str, int], close: bool) -> None:
    generator = run(Generator(server, "/1", 4, None, close), 1.0)
    assert generator.answered > 0
    assert generator.errors == 0
    assert generator.histogram.get_total_count() >= generator.answered


@pytest.mark.parametrize("close", [False, True])
def test_at_a_fixed_rate_every_request_is_asked(
    server: tuple[str, int], close: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.generator.DRAIN_SECONDS", 20.0)
    generator = run(Generator(server, "/16384", 4, 300, close), 0.2)
    assert (generator.answered, generator.errors) == (60, 0)


def test_latency_counts_from_the_intended_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stalls once, for 0.4 s, which 80 requests of 120 meet. Had the generator waited for it, one."""
    monkeypatch.setattr("bench.generator.DRAIN_SECONDS", 20.0)

    def stall_once(sock: socket.socket) -> None:
        number = 0
        while data := sock.recv(4096):
            number += data.count(b"\r\n\r\n")
            if number == 2:  # the first warms up
                threading.Event().wait(0.4)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with answering(stall_once) as address:
        generator = run(Generator(address, "/", 1, 200, False), 0.6)
    assert (generator.answered, generator.errors) == (120, 0)
    assert percentiles(generator.histogram)["p50_us"] > 50_000


def test_a_request_without_an_answer_is_an_error() -> None:
    def answer_once(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        sock.recv(4096)

    with answering(answer_once) as address:
        generator = run(Generator(address, "/", 1, 100, False), 0.01)
    assert (generator.answered, generator.errors) == (0, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(answer)

    with answering(serve) as address, pytest.raises(GeneratorError, match="expected 2xx or 3xx"):
        run(Generator(address, "/", 1, None, False), 0.1)


def test_several_generators_share_the_work_and_clocks_are_read_around_it(server: tuple[str, int]) -> None:
    looks = iter(["before", "after"])
    work = Load("/1", 5, 0.2, rate=300, generators=2)
    outcome = load.requests(server, work, lambda: next(looks))
    assert (outcome.done, outcome.before, outcome.after) == (60, "before", "after")
    assert 0 < outcome.latencies["p50_us"] <= outcome.latencies["p999_us"]


def test_nobody_there_is_said() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        with pytest.raises(BenchError, match="refused"):
            load.requests(address, Load("/1", 1, 0.1), lambda: None)


@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("streams", [1, 3])
def test_bulk_moves_each_way(server: tuple[str, int], direction: str, streams: int) -> None:
    outcome = load.bulk(direction, server, 5_000_001, streams, lambda: None)
    assert outcome.done == streams * 5_000_001
    assert outcome.seconds > 0


def test_a_download_that_ends_early_is_an_error() -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")

    with answering(serve) as address, pytest.raises(transfer.TransferError, match="999999 bytes too early"):
        transfer.transfer("download", address, 1_000_000, 1)
