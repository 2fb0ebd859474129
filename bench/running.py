"""Starting proxies and the servers behind them, and stopping all of it.

Everything stays on 127.0.0.0/8. A peer listens on eight addresses of its own and has eight servers, whose addresses
lie with one process. Each pair of addresses has ports of its own, and the generator lets the server close first, so
that connections closed a moment ago (TIME_WAIT) do not make the next ones slow: with 131,072 of them, the kernel's
limit, a connection cost ours and HAProxy about what it had cost with the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.agent import cpu_of_tree, tree
from bench.machine import raise_descriptor_limit, version
from bench.peers import Command, Endpoints, Plan
from bench.ports import free_port
from bench.record import AGAIN, OURS

START_SECONDS = 30.0
STOP_SECONDS = 10.0
AGENT_SECONDS = 10.0
ADDRESSES = 8
"""Listening addresses of a peer, and servers behind it."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

Address = tuple[str, int]
Clocks = dict[str, int]
"""Process → nanoseconds of CPU time. The key is a pid, on a remote host with the agent's address before it."""

Meter = Callable[[], Clocks]


class BenchError(Exception):
    """The run cannot go on; the text says what to do. It ends the script with one line."""


@dataclass(frozen=True)
class Running:
    """A proxy that runs: where it listens, its CPU clocks (None: nobody measures it), its first process."""

    addresses: tuple[Address, ...]
    meter: Meter | None
    pid: int | None = None

    def address(self, turn: int) -> Address:
        """Another one each time, so that ports in TIME_WAIT are not met again soon."""
        return self.addresses[turn % len(self.addresses)]


@dataclass(frozen=True)
class Peer:
    """A proxy that is installed here. `path`: what it answers with 200 once it is up."""

    name: str
    version: str
    settings: str
    command: Callable[[Plan], Command]
    path: str = "/0"


def find(name: str) -> Peer | str:
    """The peer of that name, or why there is none: what is missing and how to get it."""
    kind = name.removesuffix(AGAIN)
    program = which(kind)
    settings = peers.settings(kind, peers.maxconn(raise_descriptor_limit()))
    if kind == OURS:
        said = version(peers.PYTHON, "-m", "scaleup.lb", "--version")
        return Peer(name, said, settings, lambda plan: peers.scaleup(plan, peers.PYTHON))
    if kind == "streams":
        said = version(peers.PYTHON, "-c", "import uvloop; print('uvloop', uvloop.__version__)")
        return Peer(name, said, settings, lambda plan: peers.streams(plan, peers.PYTHON))
    if program is None:
        return _not_installed(kind)
    if kind == "haproxy":
        return Peer(name, version(program, "-v"), settings, lambda plan: peers.haproxy(plan, program))
    told = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stderr
    module = peers.nginx_module(told)
    if module is None or (module and not Path(module).exists()):
        return "nginx has no stream module (Debian: apt-get install libnginx-mod-stream)"
    as_root = os.geteuid() == 0
    return Peer(
        name,
        version(program, "-v"),
        settings,
        lambda plan: peers.nginx_stream(plan, program, module, as_root),
    )


def find_web(name: str) -> Peer | str:
    """As `find`, the web server of that name."""
    kind = name.removesuffix(AGAIN)
    settings = peers.web_settings(kind)
    if kind == OURS:
        said = version(peers.PYTHON, "-m", "scaleup.web", "--version")
        return Peer(name, said, settings, lambda plan: peers.scaleup_web(plan, peers.PYTHON))
    if (program := which(kind)) is None:
        return _not_installed(kind)
    as_root = os.geteuid() == 0
    said = version(program, "-v")
    return Peer(name, said, settings, lambda plan: peers.nginx_web(plan, program, as_root))


def _not_installed(kind: str) -> str:
    return f"{kind} is not installed (Debian: apt-get install {kind})"


def which(program: str) -> str | None:
    return shutil.which(program, path=SEARCH_PATH)


@dataclass(frozen=True)
class Cores:
    """Which cores the proxies have and which everything else; the same when nothing is pinned."""

    proxy: frozenset[int]
    rest: frozenset[int]

    @staticmethod
    def split(pin: bool, workers: int) -> Cores:
        """Raises BenchError when no core would be left for the generator and the servers."""
        every = sorted(os.sched_getaffinity(0))
        if not pin:
            return Cores(frozenset(every), frozenset(every))
        if len(every) <= workers:
            raise BenchError(f"--pin: {workers} cores for the proxy leave none of {len(every)} for the rest")
        return Cores(frozenset(every[:workers]), frozenset(every[workers:]))


@contextlib.contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """What is started inside runs on these cores only, with its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def process(command: Command, folder: Path, ready: Address) -> Iterator[int]:
    """Run it until the block ends; inside the block it accepts on `ready`. Raises BenchError when it never does.

    What it prints goes to `output` in its folder, whose end a failure quotes.
    """
    for name, text in command.files.items():
        (folder / name).write_text(text)
    output = folder / "output"
    with output.open("wb") as printed:
        child = subprocess.Popen(  # a session of its own: Ctrl-C is for us, and we end it
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not accepts(ready):
            if child.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(errors="replace")[-2000:]
                raise BenchError(f"did not start: {' '.join(command.argv)[:300]}\n{said}")
            time.sleep(0.02)
        yield child.pid
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM; later SIGKILL, for it and for every descendant that it has left."""
    with contextlib.ExitStack() as stack:
        family = []
        for pid in tree(child.pid)[1:]:
            with contextlib.suppress(ProcessLookupError):
                family.append(descriptor := os.pidfd_open(pid))  # a pid may soon be somebody else's
                stack.callback(os.close, descriptor)
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        deadline = time.monotonic() + STOP_SECONDS
        for descriptor in family:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def accepts(address: Address) -> bool:
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


def endpoints(hosts: Sequence[str]) -> tuple[Address, ...]:
    """The hosts with one port that is free on the first of them."""
    port = free_port(hosts[0])
    return tuple((host, port) for host in hosts)


def written(addresses: Sequence[Address]) -> Endpoints:
    return tuple(f"{host}:{port}" for host, port in addresses)


class Lab:
    """Folders and processes of one run, all gone when the block ends."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._stack = contextlib.ExitStack()
        self._net = 64 + os.getpid() % 64  # of 127.net.x.y, so that two runs rarely meet
        self._rows = 0
        self._maxconn = peers.maxconn(raise_descriptor_limit())

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def server(self, count: int = ADDRESSES, bulk: bool = False) -> Endpoints:
        """One that listens on `count` addresses: nginx for requests when installed, else bench.server."""
        addresses = endpoints([f"127.{self._net}.{100 + n // 250}.{n % 250 + 1}" for n in range(count)])
        folder = self._folder()
        program = which("nginx")
        if program and not bulk:
            _fill(folder, (0, 1, 100, 16384))
            command = peers.nginx_http(written(addresses), folder, self._maxconn, program, os.geteuid() == 0)
        else:
            flags = [flag for address in written(addresses) for flag in ("--listen", address)]
            command = Command((peers.PYTHON, "-m", "bench.server", *flags), {})
        with on(self._cores.rest):
            self._stack.enter_context(process(command, folder, addresses[0]))
        return written(addresses)

    def files(self, sizes: Sequence[int]) -> Path:
        """A folder with files named after their size, and an empty one for whoever asks whether it is served."""
        folder = self._folder()
        _fill(folder, (0, *sizes))
        return folder

    def proxy(
        self,
        peer: Peer,
        servers: Endpoints,
        workers: int = 1,
        log: bool = False,
        root: Path | None = None,
    ) -> Running:
        """The peer, listening and asked once."""
        self._rows += 1
        addresses = endpoints([f"127.{self._net}.{self._rows}.{n + 1}" for n in range(ADDRESSES)])
        plan = Plan(written(addresses), servers, self._folder(), self._maxconn, workers, log, root)
        with on(self._cores.proxy):
            pid = self._stack.enter_context(process(peer.command(plan), plan.folder, addresses[0]))
        await_answer(addresses[0], peer.path)
        return Running(addresses, lambda: local_clocks([pid]), pid)

    def load(self) -> contextlib.AbstractContextManager[None]:
        """Where the generator is started."""
        return on(self._cores.rest)

    def _folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="scaleup-bench-")))


def _fill(folder: Path, sizes: Sequence[int]) -> None:
    for size in sizes:
        (folder / str(size)).write_bytes(b"x" * size)


def await_answer(address: Address, path: str) -> None:
    """Until a request comes back: a proxy may first have to see that its servers live. Raises BenchError."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address, 2) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            if sock.recv(4096).startswith(b"HTTP/1.1 200"):
                return
        if time.monotonic() > deadline:
            raise BenchError(f"{address[0]}:{address[1]}: GET {path} is not answered with 200")
        time.sleep(0.02)


def local_clocks(pids: Sequence[int]) -> Clocks:
    """Of the processes and their descendants. Raises BenchError when one of `pids` has ended."""
    try:
        return {str(one): spent for pid in pids for one, spent in cpu_of_tree(pid).items()}
    except ProcessLookupError as error:
        raise BenchError(f"{error}, while it was measured") from None


def remote_clocks(agents: Sequence[Address], name: str) -> Clocks:
    """What the agents say about `name`. Raises BenchError when none knows it, or one cannot be asked."""
    clocks: Clocks = {}
    for host, port in agents:
        url = f"http://{host}:{port}/"
        try:
            with urllib.request.urlopen(url, timeout=AGENT_SECONDS) as answer:
                processes = json.load(answer)["processes"]
        except (OSError, ValueError, KeyError) as error:
            raise BenchError(f"--agent {host}:{port}: {error}; is bench/agent.py running there?") from None
        clocks |= {f"{host}:{port} {pid}": int(spent) for pid, spent in processes.get(name, {}).items()}
    if not clocks:
        raise BenchError(f"no --agent knows {name!r}; start it with --process {name}=PID")
    return clocks


def spent(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Seconds of CPU between two looks. Raises BenchError when a process ended, as its time is then lost."""
    if ended := set(before) - set(after):
        raise BenchError(f"process {', '.join(sorted(ended))} ended while it was measured")
    return sum(after[one] - before.get(one, 0) for one in after) / 1e9
