"""What goes wrong in proxies, as test_lb_faults.py: the faults of processes, with nodes as they are run."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from nodes import WORKER, Node, eventually, first_answer
from servers import Client, EchoServer
from test_lb_node import Start, listen, plain, servers, start, web1, web2

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, endpoint_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]  # each starts several interpreters

__all__ = ["plain", "start", "web1", "web2"]  # fixtures


def reload(node: Node) -> None:
    known = len(node.log)
    node.process.send_signal(signal.SIGHUP)
    node.says("reloaded", after=known)


# ----- reloads ----------------------------------------------------------------------------------------


class Steady(threading.Thread):
    """A client that connects again and again, and asks once each time. What fails is kept."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self.address = address
        self.names: list[str] = []
        self.failed: list[str] = []
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.is_set():
            try:
                with Client(self.address) as client:
                    name = client.greeting()
                    client.echo(b"12345")
                    self.names.append(name)
            except (OSError, AssertionError) as error:
                self.failed.append(repr(error))

    def __enter__(self) -> Steady:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        self.join()


def test_a_reload_drops_no_connection(
    start: Start, plain: tuple[str, int], web1: EchoServer, web2: EchoServer, tmp_path: Path
) -> None:
    file = tmp_path / "cluster.toml"

    def configure(server: EchoServer, workers: int) -> None:
        file.write_text(f'[lb]\nworkers = {workers}\nserver = ["web={server.address}"]\n')

    configure(web1, 2)
    node = start(*listen(plain), "--config", str(file)).ready()
    with Client(plain) as before, contextlib.ExitStack() as stack:
        assert before.greeting() == "web1"
        clients = [stack.enter_context(Steady(plain)) for _ in range(4)]
        for turn, workers in enumerate((1, 3, 2)):
            seen = len(clients[0].names)
            configure(web2 if turn % 2 == 0 else web1, workers)
            reload(node)
            wanted = "web2" if turn % 2 == 0 else "web1"
            eventually(lambda: len(clients[0].names) > seen and clients[0].names[-1] == wanted)  # noqa: B023
            eventually(lambda: node.metric("lb_server_status", server="web", state="UP") == 1)
        before.echo(b"those of before go on")
    node.says("the workers under the old settings have ended")
    assert [client.failed for client in clients] == [[]] * 4
    asked = sum(len(client.names) for client in clients)
    eventually(lambda: node.metric("lb_frontend_current_sessions") == 0)
    assert node.metric("lb_frontend_sessions_total") == asked + 1
    eventually(lambda: len(node.children(WORKER)) == 2)


def test_after_a_reload_what_was_known_of_servers_is_known(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    """haproxy #918. No check comes in time to find it out again."""
    with bound(Endpoint("127.0.67.24", 0), "--server") as sock:
        dead = endpoint_of(sock)
    node = start(
        *(*listen(plain), *servers(web1), "--server", f"dead={dead}", "--workers", "2", "--inter", "3600"),
        *("--error-limit", "1", "--on-error", "mark-down"),
    ).ready()
    while node.metric("lb_server_status", server="dead", state="UP"):
        assert first_answer(plain)[0] == "web1"
    failed = node.metric("lb_server_connection_errors_total", server="dead")
    reload(node)
    for _ in range(8):
        assert first_answer(plain)[0] == "web1"
    assert node.metric("lb_server_status", server="dead", state="DOWN") == 1
    assert node.metric("lb_server_connection_errors_total", server="dead") == failed


def test_after_a_reload_the_old_workers_end_by_hard_stop_after(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1), "--hard-stop-after", "3").ready()
    old = node.child(WORKER)
    with Client(plain) as stays:
        stays.greeting()
        reload(node)
        stays.echo(b"not yet")
        assert stays.is_reset()
    eventually(lambda: not old.is_running())
    assert first_answer(plain)[0] == "web1"


def test_fewer_workers_after_a_reload_lose_nobody_who_is_queued(
    start: Start, plain: tuple[str, int], web1: EchoServer, tmp_path: Path
) -> None:
    """To close one of several SO_REUSEPORT sockets resets who waits there."""
    file = tmp_path / "cluster.toml"
    file.write_text("[lb]\nworkers = 3\n")
    node = start(*listen(plain), *servers(web1), "--config", str(file)).ready()
    old = node.children(WORKER)
    for worker in old:
        worker.suspend()
    with contextlib.ExitStack() as stack:
        queued = [stack.enter_context(Client(plain)) for _ in range(40)]
        file.write_text("[lb]\nworkers = 1\n")
        reload(node)
        for client in queued:
            assert client.greeting() == "web1"
    for worker in old:
        with contextlib.suppress(psutil.NoSuchProcess):  # taken for one that hangs, where a reload takes long
            worker.resume()


# ----- sockets ----------------------------------------------------------------------------------------


def test_workers_get_even_shares(start: Start, plain: tuple[str, int], web1: EchoServer) -> None:
    """Of one socket that all accept from, one gets 70 % (uvicorn-worker #34): each has its own (SO_REUSEPORT)."""
    node = start(*listen(plain), *servers(web1), "--workers", "2").ready()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Client(plain)).greeting()
        own, shares = set(), []
        for worker in node.children(WORKER):
            there = [one for one in worker.net_connections("tcp") if one.laddr.port == plain[1]]
            listening = [one for one in there if one.status == psutil.CONN_LISTEN]
            own |= {os.readlink(f"/proc/{worker.pid}/fd/{one.fd}") for one in listening}
            shares.append(len(there) - len(listening))
    assert len(own) == 2
    assert sum(shares) == 200
    assert min(shares) >= 60  # 100 ± 7, if chance decides


def test_a_standby_binds_an_address_that_it_does_not_have(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    """The virtual one, which keepalived moves."""
    node = start(*listen(("192.0.2.1", 8080), plain), *servers(web1)).ready()
    node.says("no interface of this host has 192.0.2.1 yet")
    first_answer(plain)
    assert not any(f"has {plain[0]} yet" in line for line in node.log)


def test_accepting_without_descriptors_does_not_spin(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1)).ready()
    worker = node.child(WORKER)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(plain))
        first.greeting()
        soft, hard = worker.rlimit(resource.RLIMIT_NOFILE)
        worker.rlimit(resource.RLIMIT_NOFILE, (worker.num_fds(), hard))
        clients = [stack.enter_context(Client(plain)) for _ in range(10)]
        node.says("cannot accept: Too many open files")
        busy, began = sum(worker.cpu_times()[:2]), time.monotonic()
        first.echo()
        time.sleep(0.5)
        assert (sum(worker.cpu_times()[:2]) - busy) / (time.monotonic() - began) < 0.2
        first.echo()
        worker.rlimit(resource.RLIMIT_NOFILE, (soft, hard))
        began = time.monotonic()
        for client in clients:
            client.greeting()
        assert time.monotonic() - began < 10
    assert sum("cannot accept" in line for line in node.log) == 1
