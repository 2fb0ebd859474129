"""Ten reloads under 2,000 requests a second, half of them on connections of their own; ten deaths of workers."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nodes import WORKER, Node, eventually, free_port
from servers import Client, EchoServer

from bench.running import accepts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
HOST = "127.0.68.11"
TIMES = 10
RATE, CONNECTIONS = 1000, 16


class Stand:
    """A server, a node before it, and two clients: one with connections that stay, one with a new one each time."""

    def __init__(self, folder: Path) -> None:
        self.server = f"{HOST}:{free_port(HOST)}"
        self.listen = f"{HOST}:{free_port(HOST)}"
        self.file = folder / "cluster.toml"
        self.configure(workers=2)
        self._processes = [self._start("bench.server", "--listen", self.server)]
        host, _, port = self.server.partition(":")
        eventually(lambda: accepts((host, int(port))))
        self.node = Node("lb1", HOST, "--config", str(self.file)).ready()

    def configure(self, workers: int) -> None:
        self.file.write_text(
            f'[lb]\nworkers = {workers}\nlisten = ["{self.listen}"]\nserver = ["web={self.server}"]\n'
        )

    def clients(self, seconds: float) -> list[subprocess.Popen[str]]:
        """They ask for so long, and print what came of it."""
        flags = ["--path", "/1", "--connections", str(CONNECTIONS), "--seconds", str(seconds)]
        flags += ["--rate", str(RATE)]
        started = [self._start("bench.generator", self.listen, *flags, *more) for more in ((), ("--close",))]
        self._processes += started
        return started

    def close(self) -> None:
        self.node.close()
        for process in self._processes:
            process.kill()
            process.communicate()

    @staticmethod
    def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(tmp_path)
    try:
        yield stand
    finally:
        stand.close()


def results(clients: list[subprocess.Popen[str]]) -> list[tuple[int, int]]:
    """Of each: answered, failed."""
    found = []
    for client in clients:
        said = json.loads(client.communicate(timeout=60)[0].splitlines()[-1])
        found.append((said["requests"], said["errors"]))
    return found


def test_reloads_lose_no_request(stand: Stand) -> None:
    seconds = 25.0
    clients = stand.clients(seconds)
    began = time.monotonic()
    for turn in range(TIMES):
        known = len(stand.node.log)
        stand.configure(workers=1 + turn % 3)
        stand.node.process.send_signal(signal.SIGHUP)
        stand.node.says("reloaded", after=known)
    assert time.monotonic() - began < seconds, "the clients were there for all of it"
    for answered, failed in results(clients):
        assert failed == 0
        assert answered > seconds * RATE * 0.5


def test_the_death_of_a_worker_costs_only_the_connections_that_it_had(tmp_path: Path) -> None:
    """Those of others go on, and whoever connects meanwhile is served: its connection waits for the successor."""
    where = (HOST, free_port(HOST))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(EchoServer("web", HOST)))
        arguments = ("--listen", f"{where[0]}:{where[1]}", "--server", server.address, "--workers", "2")
        node = stack.enter_context(contextlib.closing(Node("lb1", HOST, *arguments))).ready()
        for _ in range(TIMES):
            with contextlib.ExitStack() as clients:
                opened = [clients.enter_context(Client(where)) for _ in range(CONNECTIONS)]
                for client in opened:
                    client.greeting()
                worker = node.children(WORKER)[0]
                held = {
                    connection.raddr.port
                    for connection in worker.net_connections("tcp")
                    if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == where[1]
                }
                known = len(node.log)
                worker.kill()
                meanwhile = [clients.enter_context(Client(where)) for _ in range(CONNECTIONS)]
                for client in opened:
                    if client.socket.getsockname()[1] in held:
                        client.is_reset()  # or FIN, as the kernel closes what a process leaves: it ends
                    else:
                        client.echo(b"goes on")
                node.says("starting it again", after=known)
                for client in meanwhile:
                    assert client.greeting() == "web"
