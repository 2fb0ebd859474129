"""Several workers, and reloads: connections go on, whoever dies and whatever is changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from web.outside import ANSWER_SECONDS, Address, Process, answers, exchange, metrics, until
from web.secure import Authority, secure_port
from web.visiting import Ask, Visitors

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
on_one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])  # the visitors'; the processes have their own

WORKERS = 2
GET = b"GET /a.txt HTTP/1.1\r\nHost: a\r\n"
REQUESTS = 'scaleup_web_requests_total{code="2xx",kind="static"}'


class Running:
    def __init__(self, process: Process, address: Address, admin: Address, file: Path) -> None:
        self.process, self.address, self.admin, self._file = process, address, admin, file
        self._lines = file.read_text().splitlines()

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.process.pid).children()}

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://{self.admin[0]}:{self.admin[1]}/readyz", timeout=ANSWER_SECONDS
            ):
                return True
        except urllib.error.HTTPError:
            return False

    def reload(self, *changes: str) -> str:
        """With the file's lines, and these; returns what is said in the end."""
        said = len(self.process.log)
        keys = [change.partition(" = ")[0] for change in changes]
        lines = [line for line in self._lines if line.partition(" = ")[0] not in keys]
        self._file.write_text("\n".join([*lines, *changes]))
        self.process.process.send_signal(signal.SIGHUP)
        return self.process.said(r"\breloaded|not reloaded", after=said)[0]

    def reload_to_the_end(self, *changes: str) -> None:
        """Until those who served before have ended: for a moment after a reload they accept as well."""
        said = len(self.process.log)
        assert self.reload(*changes) == "reloaded"
        self.process.said("workers under the old settings have ended", after=said)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "a.txt").write_text("a" * 1000)
    (tmp_path / "big").write_bytes(bytes(8 * 1024 * 1024))
    address, admin = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    file = tmp_path / "cluster.toml"
    file.write_text(
        f'[web]\nlisten = ["127.0.0.1:{address[1]}"]\nadmin = "127.0.0.1:{admin[1]}"\nroot = "{tmp_path}"\n'
        f"drain = 1\nworkers = {WORKERS}\n"
    )
    with contextlib.closing(Process("scaleup.web", "--node", "web1", "--config", str(file))) as process:
        process.said("serving, with")
        yield Running(process, address, admin, file)
        assert not [said for said in process.log if "Traceback" in said], "".join(process.log)


def ask(address: Address) -> int:
    (answer,) = answers(exchange(address, GET + b"Connection: close\r\n\r\n"), "GET")
    return answer.status


def rest(sock: socket.socket) -> bytes:
    received = []
    while data := sock.recv(1 << 20):
        received.append(data)
    return b"".join(received)


def plan(number: int) -> Ask:
    return Ask("GET", "/a.txt", expected=b"a" * 1000)


def test_all_of_them_serve_and_are_counted_together(running: Running) -> None:
    assert len(running.workers()) == WORKERS
    socks = [socket.create_connection(running.address, ANSWER_SECONDS) for _ in range(50)]
    for sock in socks:
        sock.sendall(GET + b"\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    inodes = {pid: len(psutil.Process(pid).net_connections("tcp")) for pid in running.workers()}
    assert all(count > 1 for count in inodes.values()), inodes
    until(lambda: metrics(running.admin).get(REQUESTS) == 50, "the sum of all")
    until(lambda: metrics(running.admin).get("scaleup_web_connections") == 50, "the sum of all")
    for sock in socks:
        sock.close()


def test_one_that_is_killed_is_replaced_and_counters_stay(running: Running) -> None:
    for _ in range(20):
        assert ask(running.address) == 200
    until(lambda: metrics(running.admin).get(REQUESTS) == 20, "all are counted")
    for times, victim in enumerate(list(running.workers()), 1):
        os.kill(victim, signal.SIGKILL)
        until(
            lambda gone=victim: gone not in running.workers() and len(running.workers()) == WORKERS, "another"
        )  # type: ignore[misc]
        assert [ask(running.address) for _ in range(10)] == [200] * 10  # those that waited were not refused
        until(lambda n=times: metrics(running.admin).get(REQUESTS) == 20 + 10 * n, "no counter went back")  # type: ignore[misc]
    until(running.is_ready, "ready")


def test_one_that_is_killed_takes_only_its_own_connections_along(running: Running) -> None:
    socks = {}
    for _ in range(40):
        sock = socket.create_connection(running.address, ANSWER_SECONDS)
        socks[sock.getsockname()[1]] = sock
        sock.sendall(GET + b"\r\n")
        assert sock.recv(2000).startswith(b"HTTP/1.1 200 ")
    victim = min(running.workers())
    its = {
        one.raddr.port for one in psutil.Process(victim).net_connections("tcp") if one.raddr
    } & socks.keys()
    assert 0 < len(its) < len(socks)
    os.kill(victim, signal.SIGKILL)
    for port, sock in socks.items():
        with sock:
            if port in its:
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(1) == b""
            else:
                sock.sendall(GET + b"\r\n")
                assert sock.recv(2000).startswith(b"HTTP/1.1 200 ")
    assert running.is_ready()


def test_idle_connections_are_closed_by_a_reload_and_stalled_ones_after_the_drain(running: Running) -> None:
    before = running.workers()
    with (
        socket.create_connection(running.address, ANSWER_SECONDS) as idle,
        socket.create_connection(running.address, ANSWER_SECONDS) as stalled,
    ):
        idle.sendall(GET + b"\r\n")
        assert idle.recv(2000).startswith(b"HTTP/1.1 200 ")
        stalled.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert stalled.recv(15).startswith(b"HTTP/1.1 200 ")
        assert running.reload() == "reloaded"
        assert idle.recv(1) == b""
        until(lambda: not before & running.workers(), "the old ones have ended")
        with pytest.raises(ConnectionResetError):  # so that nobody takes it for all
            rest(stalled)
    assert running.process.said("still busy after 1 s and are cut off")


def test_what_was_asked_before_the_end_is_answered_by_all(running: Running) -> None:
    running.reload_to_the_end("drain = 20")
    socks = [socket.create_connection(running.address, ANSWER_SECONDS) for _ in range(10)]
    for sock in socks:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    running.process.process.send_signal(signal.SIGTERM)
    for sock in socks:
        with sock:
            assert rest(sock).endswith(bytes(8388608))
    assert running.process.process.wait(20) == 0


def test_a_worker_that_hangs_is_replaced(running: Running) -> None:
    victim = min(running.workers())
    os.kill(victim, signal.SIGSTOP)
    until(lambda: victim not in running.workers(), "it is replaced")
    until(lambda: len(running.workers()) == WORKERS, "it is replaced")
    assert [ask(running.address) for _ in range(10)] == [200] * 10


@on_one_loop
@pytest.mark.parametrize(
    ("secure", "times"),
    [(False, 10), pytest.param(True, 20, marks=pytest.mark.soak)],
    ids=["http", "https"],
)
async def test_reloads_under_load_fail_no_request(
    running: Running, tmp_path: Path, secure: bool, times: int
) -> None:
    address, rate, change, context = running.address, 200, (), None
    if secure:
        authority, address, rate = Authority(tmp_path), secure_port(), 100
        chain, key = authority.pair("site", "site.test").split(",")
        change = (f'listen_tls = ["127.0.0.1:{address[1]}"]', f'tls = ["{chain},{key}"]')
        context = authority.context()
        assert await asyncio.to_thread(running.reload, *change) == "reloaded"
    async with Visitors(address, rate, plan, connections=4, each=20, context=context) as visitors:
        before = running.workers()
        for _ in range(times):
            assert await asyncio.to_thread(running.reload, *change) == "reloaded"
            await asyncio.sleep(0.1)
        assert running.workers().isdisjoint(before)
    assert [str(attempt) for attempt in visitors.attempts if not attempt.ok] == []
    assert len(visitors.attempts) > 100
    await asyncio.to_thread(until, lambda: len(running.workers()) == WORKERS, "the old ones have ended")


@on_one_loop
async def test_a_download_outlasts_a_reload(running: Running) -> None:
    await asyncio.to_thread(running.reload_to_the_end, "drain = 20")
    reader, writer = await asyncio.open_connection(*running.address, limit=65536)
    writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Content-Length: 8388608" in head
    assert await asyncio.to_thread(running.reload, "drain = 20") == "reloaded"
    assert len(await reader.readexactly(8388608)) == 8388608
    assert await reader.read() == b""  # the old worker has ended the connection
    writer.close()


def test_what_is_changed_counts_and_addresses_come_and_go(running: Running) -> None:
    port = free_port()
    both = f'listen = ["127.0.0.1:{running.address[1]}", "127.0.0.1:{port}"]'
    assert running.reload(both, 'cache_control = ["/*=no-store"]') == "reloaded"
    (answer,) = answers(exchange(("127.0.0.1", port), GET + b"Connection: close\r\n\r\n"), "GET")
    assert answer.value("cache-control") == "no-store"
    assert ask(running.address) == 200
    assert running.reload() == "reloaded"
    assert ask(running.address) == 200

    def is_gone() -> bool:
        try:
            exchange(("127.0.0.1", port), b"")
        except ConnectionRefusedError:
            return True
        return False

    until(is_gone, "nobody listens there any more")
    assert running.reload(both) == "reloaded"
    assert ask(("127.0.0.1", port)) == 200


def test_a_bad_file_changes_nothing(running: Running) -> None:
    before = running.workers()
    for change, told in {
        'keepalive = "soon"': "keepalive",
        "no_such_key = 1": "no such key",
        'log_level = "debug"': "a restart is needed for --log-level",
        f'listen = ["127.0.0.1:{running.admin[1]}"]': "Address already in use",
    }.items():
        assert running.reload(change) == "not reloaded"
        assert running.process.said(told)
    assert running.workers() == before
    assert ask(running.address) == 200
    assert running.reload("workers = 3") == "reloaded"
    until(lambda: len(running.workers()) == 3, "three of them")
    assert running.reload("workers = 1") == "reloaded"
    until(lambda: len(running.workers()) == 1, "one of them")
    assert [ask(running.address) for _ in range(10)] == [200] * 10
    assert running.is_ready()


def test_nothing_is_left_of_it_when_the_parent_is_killed(running: Running) -> None:
    workers = running.workers()
    running.process.process.kill()
    until(lambda: not any(map(psutil.pid_exists, workers)), "its workers have ended, too")
