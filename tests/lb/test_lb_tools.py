"""What HAProxy's operators already have, at our runtime socket: hatop in a terminal, haproxyadmin in Python."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shutil
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from haproxyadmin import haproxy
from needs import SEARCH_PATH, requires
from nodes import PATIENCE_SECONDS, Node, eventually
from servers import Client, EchoServer

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), requires("haproxy", "hatop")]

HOST = "127.0.69.11"
DOWN_KEY, F9, F10 = b"\x1bOB", b"\x1b[20~", b"\x1b[21~"


class Terminal:
    """A program on a terminal of its own. `heard`: all that it has written there."""

    def __init__(self, *command: str) -> None:
        program = shutil.which(command[0], path=SEARCH_PATH)
        assert program is not None
        self.heard = b""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execve(program, command, {**os.environ, "TERM": "xterm"})
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))

    def press(self, *keys: bytes) -> None:
        for key in keys:
            os.write(self._terminal, key)

    def until(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text.encode() not in self.heard:
            assert time.monotonic() < deadline, self.heard
            if select.select([self._terminal], [], [], 0.1)[0]:
                self.heard += os.read(self._terminal, 65536)

    def close(self) -> None:
        self.press(b"q")
        with contextlib.suppress(OSError):  # it has closed the terminal
            while os.read(self._terminal, 65536):
                pass
        os.close(self._terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) == 0


@pytest.fixture
def web() -> Iterator[EchoServer]:
    with contextlib.closing(EchoServer("web1", "127.0.69.21")) as server:
        yield server


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    """A folder for Unix sockets."""
    return tmp_path


@pytest.fixture
def where() -> tuple[str, int]:
    return HOST, free_port(HOST)


@pytest.fixture
def node(sockets: Path, where: tuple[str, int], web: EchoServer) -> Iterator[Node]:
    words = ["--listen", f"{where[0]}:{where[1]}", "--runtime-socket", str(sockets / "ours")]
    words += ["--server", f"web1={web.address}", "--server", f"web2={web.address}"]
    with contextlib.closing(Node("lb1", HOST, *words)) as node:
        yield node.ready()


@pytest.fixture
def theirs(sockets: Path, web: EchoServer) -> Iterator[Path]:
    """The socket of a real HAProxy with the same proxies, of the same names."""
    config, path = sockets / "haproxy.cfg", sockets / "theirs"
    config.write_text(f"""
        global
            stats socket {path} mode 600 level admin
        defaults
            mode tcp
            timeout connect 5s
            timeout client 50s
            timeout server 50s
        listen lb
            bind {HOST}:{free_port(HOST)}
            server web1 {web.address} check
            server web2 {web.address} check\n""")
    program = shutil.which("haproxy", path=SEARCH_PATH)
    assert program is not None
    process = subprocess.Popen([program, "-db", "-f", str(config)])
    try:
        eventually(lambda: answers(path))
        yield path
    finally:
        process.kill()
        process.wait()


def answers(path: Path) -> bool:
    """There may be a socket before somebody listens on it."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def status(path: Path, server: str) -> str:
    (found,) = haproxy.HAProxy(socket_file=str(path)).server(server, backend="lb")
    return str(found.status)


def test_hatop_shows_the_node_and_takes_a_server_out_and_in(node: Node, sockets: Path) -> None:
    with contextlib.closing(Terminal("hatop", "-s", str(sockets / "ours"), "-i", "1")) as hatop:
        hatop.until("web2")
        hatop.until("BACKEND")
        hatop.press(DOWN_KEY, DOWN_KEY, DOWN_KEY, F10)  # past the heading and the frontend to web2
        eventually(lambda: status(sockets / "ours", "web2") == "MAINT")
        assert status(sockets / "ours", "web1") == "UP"
        hatop.until("MAINT")
        hatop.press(F9)
        eventually(lambda: status(sockets / "ours", "web2") == "UP")


def told(path: Path) -> dict[str, Any]:
    """What haproxyadmin makes of a socket."""
    it = haproxy.HAProxy(socket_file=str(path))
    frontend, backend, server = it.frontend("lb"), it.backend("lb"), it.server("web1", backend="lb")[0]
    facts: dict[str, Any] = {
        name: getattr(it, name)
        for name in ("maxconn", "nodename", "uptime", "uptimesec", "version", "totalrequests")
    }
    facts |= {"frontend": frontend.status, "backend": backend.status, "server": server.status}
    facts |= {"weight": server.weight, "address": server.address, "port": server.port, "sid": server.sid}
    facts |= {"check": (server.check_status, server.check_code, server.last_status)}
    facts |= {
        "servers": sorted(one.name for one in it.servers()),
        "iid": backend.iid,
        "process": it.processids,
    }
    of_all = "bin bout scur smax stot rate rate_max"
    for kind, one, names in (
        ("frontend", frontend, f"{of_all} ereq slim"),
        ("backend", backend, f"{of_all} econ wretr lastchg weight"),
        ("server", server, f"{of_all} econ wretr lastchg weight qcur chkfail chkdown downtime"),
    ):
        facts |= {f"{kind} {name}": one.metric(name) for name in names.split()}
    return facts


def test_haproxyadmin_reads_ours_as_it_reads_haproxy_s(node: Node, sockets: Path, theirs: Path) -> None:
    for each in (sockets / "ours", theirs):
        eventually(lambda each=each: status(each, "web1") == "UP")  # type: ignore[misc]
    ours, haproxys = told(sockets / "ours"), told(theirs)
    assert {key: type(value) for key, value in ours.items()} == {
        key: type(value) for key, value in haproxys.items()
    }
    same = ("frontend", "backend", "server", "weight", "address", "port", "sid", "servers", "backend weight")
    assert {key: ours[key] for key in same} == {key: haproxys[key] for key in same}
    assert ours["check"][:2] == haproxys["check"][:2] == ("L4OK", "")


def test_haproxyadmin_changes_what_can_be_changed(
    node: Node, sockets: Path, where: tuple[str, int], web: EchoServer
) -> None:
    it = haproxy.HAProxy(socket_file=str(sockets / "ours"))
    (web1,), (web2,) = it.server("web1", backend="lb"), it.server("web2", backend="lb")
    for state, shown in (("drain", "DRAIN"), ("maint", "MAINT"), ("ready", "UP")):
        assert web2.setstate(state)
        eventually(lambda: status(sockets / "ours", "web2") == shown)  # noqa: B023
    assert web1.setweight(40)
    assert it.server("web1", backend="lb")[0].weight == "40"
    assert it.frontend("lb").setmaxconn(123)
    assert it.frontend("lb").maxconn == 123
    with Client(where) as client:
        client.greeting()
        assert web1.shutdown()
        assert web2.shutdown()
        assert client.is_reset()
    assert it.clearcounters(all=True)
    eventually(lambda: it.frontend("lb").metric("stot") == 0)
