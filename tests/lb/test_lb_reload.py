"""Under 2,000 requests a second, with keep-alive and not: reloads, restarts of servers, deaths of workers."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import WORKER, Node, eventually
from servers import Client, EchoServer

from bench.ports import free_port
from bench.running import accepts

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
HOST = "127.0.68.11"
TIMES = 10
RATE, CONNECTIONS = 1000, 16
BUSY = 0.5
"""Of the rate: a machine that does other things as well may not reach it."""


class Web:
    """A server, at the same address whenever it runs."""

    def __init__(self) -> None:
        self.address = HOST, free_port(HOST)
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", "--listen", str(self)], cwd=ROOT
        )
        eventually(lambda: accepts(self.address))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Visitors:
    """A process of them (see visitors.py), `each` requests on a connection; they come until `result`."""

    def __init__(self, where: str, each: int) -> None:
        program = str(Path(__file__).with_name("visitors.py"))
        flags = ["--rate", str(RATE), "--connections", str(CONNECTIONS), "--each", str(each)]
        self._process = subprocess.Popen(
            [sys.executable, program, where, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def result(self) -> dict[str, Any]:
        said, _ = self._process.communicate(timeout=60)
        found: dict[str, Any] = json.loads(said)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Stand:
    """Two servers, a node before them, and visitors."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._stack = contextlib.ExitStack()
        self.webs = [Web(), Web()]
        self.listen = f"{HOST}:{free_port(HOST)}"
        self.file = folder / "cluster.toml"
        self.configure(workers=2)
        for web in self.webs:
            self._stack.callback(web.stop)
            web.start()
        self.node = Node("lb1", HOST, "--config", str(self.file), *arguments)
        self._stack.callback(self.node.close)
        self.node.ready()

    def configure(self, workers: int) -> None:
        servers = ", ".join(f'"web{number}={web}"' for number, web in enumerate(self.webs))
        self.file.write_text(
            f'[lb]\nworkers = {workers}\nlisten = ["{self.listen}"]\nserver = [{servers}]\n'
            "hard_stop_after = 600\n"
        )

    def visitors(self, each: int) -> Visitors:
        return self._stack.enter_context(contextlib.closing(Visitors(self.listen, each)))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with contextlib.closing(Stand(tmp_path)) as stand:
        yield stand


def test_reloads_lose_no_request(stand: Stand) -> None:
    """Of those on connections that stay, either: their workers serve them to the end."""
    visitors = [stand.visitors(each) for each in (0, 1)]
    asked = 0.0
    for turn in range(TIMES):
        eventually(lambda: stand.node.metric("lb_frontend_sessions_total") > asked + RATE / 4)  # noqa: B023
        known = len(stand.node.log)
        stand.configure(workers=1 + turn % 3)
        stand.node.process.send_signal(signal.SIGHUP)
        stand.node.says("reloaded", after=known)
        asked = stand.node.metric("lb_frontend_sessions_total")
    for result in (visitor.result() for visitor in visitors):
        assert (result["failed"], result["retried"]) == ({}, 0)
        assert result["rate"] > RATE * BUSY


def test_a_rolling_restart_by_drain_loses_no_request(tmp_path: Path) -> None:
    """Each server in turn: drain, until it has no session; stop, start; ready, and up before it is the next one's
    turn: on a busy machine a restart takes longer than the checks that find the server down.
    """
    where = tmp_path / "runtime"
    with contextlib.closing(Stand(tmp_path, "--runtime-socket", str(where))) as stand:
        visitors = [stand.visitors(each) for each in (1, 50)]
        for turn in range(TIMES):
            number = turn % len(stand.webs)
            web, server = stand.webs[number], f"lb/web{number}"
            served = sessions(where, number)["stot"]
            eventually(lambda: sessions(where, number)["stot"] > served + RATE / 20)  # noqa: B023
            assert command(where, f"set server {server} state drain") == "\n"
            eventually(lambda: sessions(where, number)["scur"] == 0)  # noqa: B023
            web.stop()
            web.start()
            assert command(where, f"set server {server} state ready") == "\n"
            eventually(lambda: is_up(where, number))  # noqa: B023
        for result in (visitor.result() for visitor in visitors):
            assert (result["failed"], result["retried"]) == ({}, 0)
            assert result["rate"] > RATE * BUSY


def command(where: Path, line: str) -> str:
    """What the runtime socket answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(where))
        sock.sendall(f"{line}\n".encode())
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def statistics(where: Path, number: int) -> dict[str, str]:
    """Of a server."""
    table = csv.DictReader(command(where, "show stat").removeprefix("# ").splitlines())
    return next(row for row in table if row["svname"] == f"web{number}")


def sessions(where: Path, number: int) -> dict[str, int]:
    """The current ones of a server, `scur`, and how many it has had, `stot`."""
    return {name: int(statistics(where, number)[name]) for name in ("scur", "stot")}


def is_up(where: Path, number: int) -> bool:
    return statistics(where, number)["status"].startswith("UP")


def test_deaths_of_workers_under_load_cost_no_more_than_they_held(stand: Stand) -> None:
    """Whoever was not answered asks again and is; who connects meanwhile waits for the successor."""
    visitors = [stand.visitors(each) for each in (0, 1)]
    held = 0
    for _ in range(TIMES):
        sessions = stand.node.metric("lb_frontend_sessions_total")
        eventually(lambda: stand.node.metric("lb_frontend_sessions_total") > sessions + RATE / 4)  # noqa: B023
        known = len(stand.node.log)
        worker = stand.node.children(WORKER)[0]
        worker.suspend()  # so that it can be counted
        eventually(lambda: worker.status() == psutil.STATUS_STOPPED)  # noqa: B023
        held += len(held_by(worker, int(stand.listen.rpartition(":")[2])))
        worker.kill()
        stand.node.says("starting it again", after=known)
        eventually(lambda: len(stand.node.children(WORKER)) == 2 and stand.node.get("/readyz")[0] == 200)
    results = [visitor.result() for visitor in visitors]
    assert 0 < sum(result["retried"] for result in results) <= held
    assert [result["failed"] for result in results] == [{}, {}]
    assert (
        min(result["answered"] for result in results) > TIMES * RATE / 4
    )  # they, too, wait for the successors


def held_by(worker: psutil.Process, port: int) -> set[int]:
    """The ports of the clients whose connections it holds."""
    return {
        connection.raddr.port
        for connection in worker.net_connections("tcp")
        if connection.laddr.port == port and connection.status != psutil.CONN_LISTEN
    }


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
                held = held_by(worker, where[1])
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
