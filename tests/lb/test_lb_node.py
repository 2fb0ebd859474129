"""Nodes as real processes, their parts killed in turn. Nothing may outlive them: see `Node.close`."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import PATIENCE_SECONDS, VRRP, WORKER, Gate, Node, eventually, first_answer, is_gone
from servers import Client, EchoServer, is_refused

from bench.ports import free_port
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import bound, endpoint_of, listening

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]  # each starts several interpreters

HOST, OTHER, VIP = "127.0.67.11", "127.0.67.12", "127.0.67.100"
INTERVAL = 0.1
TAKE_OVER_SECONDS = 1.0
"""Twice what the design promises at this interval: a machine may stall meanwhile."""

ASKS_PATIENTLY = """
import runpy, sys
from scaleup.lb import generation
generation.ASK_SECONDS = 60.0
del sys.argv[1]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""A node that waits for its workers' answers as long as a test may take."""

Start = Callable[..., Node]


@pytest.fixture
def web1() -> Iterator[EchoServer]:
    with contextlib.closing(EchoServer("web1", "127.0.67.21")) as server:
        yield server


@pytest.fixture
def web2() -> Iterator[EchoServer]:
    with contextlib.closing(EchoServer("web2", "127.0.67.22")) as server:
        yield server


@pytest.fixture
def plain() -> tuple[str, int]:
    """Where a node listens always."""
    return HOST, free_port(HOST)


@pytest.fixture
def virtual() -> tuple[str, int]:
    """Where the active node listens."""
    return VIP, free_port(VIP)


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, name: str = "lb1", host: str = HOST, **more: Any) -> Node:
            return stack.enter_context(contextlib.closing(Node(name, host, *arguments, **more)))

        yield start


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    folder = tmp_path / "gate"
    folder.mkdir()
    return Gate(folder)


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "key").write_bytes(b"k" * 32)
    return f"hmac:{tmp_path / 'key'}"


def servers(*servers: EchoServer) -> list[str]:
    return [word for server in servers for word in ("--server", f"{server.name}={server.address}")]


def listen(*addresses: tuple[str, int]) -> list[str]:
    return [word for host, port in addresses for word in ("--listen", f"{host}:{port}")]


class Cluster:
    """Two nodes that elect who owns `virtual`; lb1 has the higher priority."""

    def __init__(self, start: Start, virtual: tuple[str, int], key: str, gate: Gate, *arguments: str) -> None:
        self._start, self._virtual, self._arguments, self.gate = start, virtual, arguments, gate
        self._election = [
            "--vip",
            VIP,
            "--vrrp-port",
            str(free_port(HOST, socket.SOCK_DGRAM)),
            "--interval",
            str(INTERVAL),
        ]
        self._election += ["--auth", key]

    def lb1(self, *more: str) -> Node:
        return self._node("lb1", HOST, OTHER, "150", *more)

    def lb2(self, *more: str) -> Node:
        return self._node("lb2", OTHER, HOST, "100", *more)

    def _node(self, name: str, host: str, peer: str, priority: str, *more: str) -> Node:
        return self._start(
            *listen(self._virtual),
            *self._election,
            *("--peer", peer, "--priority", priority),
            *self._arguments,
            *more,
            name=name,
            host=host,
            environment=self.gate.environment,
        )


@pytest.fixture
def cluster(start: Start, virtual: tuple[str, int], key: str, gate: Gate, web1: EchoServer) -> Cluster:
    return Cluster(start, virtual, key, gate, *servers(web1))


# ----- a node without an election -----------------------------------------------------------------


def test_a_change_is_answered_when_the_workers_have_heard_of_it(
    start: Start, plain: tuple[str, int], web1: EchoServer, tmp_path: Path
) -> None:
    where = tmp_path / "runtime"
    arguments = (*listen(plain), *servers(web1), "--workers", "1", "--runtime-socket", str(where))
    node = start(*arguments, python=[sys.executable, "-c", ASKS_PATIENTLY]).ready()
    worker = node.child(WORKER)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        commands = {one: b"set server lb/web1 state drain\n", other: b"shutdown sessions server lb/web1\n"}
        for operator in commands:
            operator.connect(str(where))
        worker.suspend()
        try:
            for operator, command in commands.items():
                operator.sendall(command)
            assert select.select(list(commands), [], [], 0.4)[0] == []
        finally:
            worker.resume()
        for operator in commands:
            operator.settimeout(PATIENCE_SECONDS)
            assert operator.recv(1) == b"\n"
    with (
        contextlib.suppress(ConnectionResetError),
        Client(plain) as client,
    ):  # perhaps before it has connected
        assert client.is_reset(), "nobody is left to serve it"


def test_a_worker_that_dies_keeps_no_command_waiting(
    start: Start, plain: tuple[str, int], web1: EchoServer, tmp_path: Path
) -> None:
    where = tmp_path / "runtime"
    arguments = (*listen(plain), *servers(web1), "--workers", "2", "--runtime-socket", str(where))
    node = start(*arguments, python=[sys.executable, "-c", ASKS_PATIENTLY]).ready()
    worker, _ = node.children(WORKER)
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(str(where))
        worker.suspend()
        operator.sendall(b"show sess;set server lb/web1 weight 7;get weight lb/web1\n")
        operator.settimeout(0.1)
        with pytest.raises(TimeoutError):
            operator.recv(1)
        worker.kill()
        operator.settimeout(PATIENCE_SECONDS)
        with operator.makefile() as answer:
            assert answer.read() == "\n\n7 (initial 1)\n\n"
    assert not any("not all workers have answered" in line for line in node.log)
    node.replacement(WORKER)


def test_several_frontends_each_with_its_backend(
    start: Start, plain: tuple[str, int], web1: EchoServer, web2: EchoServer, tmp_path: Path
) -> None:
    other = plain[0], free_port(plain[0])
    file = tmp_path / "cluster.toml"
    file.write_text(f"""
        [[lb.frontend]]
        name = "www"
        listen = ["{plain[0]}:{plain[1]}"]
        backend = "first"
        [[lb.frontend]]
        name = "more"
        listen = ["{other[0]}:{other[1]}"]
        backend = "second"
        maxconn = 1
        [[lb.backend]]
        name = "first"
        server = ["web={web1.address}"]
        [[lb.backend]]
        name = "second"
        server = ["web={web2.address}"]
    """)
    node = start("--config", str(file), "--workers", "2").ready()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(Client(plain)).greeting() == "web1"
        with Client(other) as first:
            assert first.greeting() == "web2"
            assert node.metric("lb_frontend_current_sessions", proxy="www") == 3
            assert node.metric("lb_server_current_sessions", proxy="second", server="web") == 1
            waiting = stack.enter_context(Client(other))
            eventually(lambda: node.metric("lb_frontend_current_sessions", proxy="more") >= 1)
        assert waiting.greeting() == "web2", "there is room now"
    eventually(lambda: node.metric("lb_frontend_current_sessions", proxy="more") == 0)
    assert node.metric("lb_frontend_sessions_total", proxy="more") == 2
    assert node.metric("lb_backend_active_servers", proxy="first") == 1


def test_what_clients_cannot_reach_is_taken_out_before_its_check(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    with bound(Endpoint("127.0.67.24", 0), "--server") as sock:
        dead = endpoint_of(sock)
    node = start(
        *(*listen(plain), *servers(web1), "--server", f"dead={dead}", "--workers", "2", "--inter", "3600"),
        *("--error-limit", "3", "--on-error", "mark-down", "--redispatch", "1"),
    ).ready()
    for _ in range(20):
        assert first_answer(plain)[0] == "web1"
    node.says("server dead")
    eventually(lambda: node.metric("lb_backend_active_servers") == 1)


# ----- reloading --------------------------------------------------------------------------------------


def test_what_cannot_be_reloaded_changes_nothing(
    start: Start, plain: tuple[str, int], web1: EchoServer, web2: EchoServer, tmp_path: Path
) -> None:
    file = tmp_path / "cluster.toml"
    good = f'[lb]\nworkers = 1\nlisten = ["{plain[0]}:{plain[1]}"]\nserver = ["web={web1.address}"]\n'
    other = good.replace(web1.address, web2.address)
    file.write_text(good)
    node = start("--config", str(file)).ready()
    (worker,) = node.children(WORKER)
    with listening(Endpoint(HOST, 0), "--listen") as taken:
        for text, why in (
            (other.replace("[lb]", "[lb"), f"{file}:1: not TOML"),
            (other.replace("web=", "w b="), f"{file}:4: server: 'w b' is not a server name"),
            (other + 'vip = ["127.0.67.100"]\n', "--vip"),
            (other + 'log_level = "debug"\n', "a restart is needed for --log-level"),
            (
                other.replace("listen = [", f'listen = ["{endpoint_of(taken)}", '),
                f"--listen {endpoint_of(taken)}: Address already in use",
            ),
        ):
            known = len(node.log)
            file.write_text(text)
            node.process.send_signal(signal.SIGHUP)
            node.says(why, after=known)
            node.says("not reloaded: nothing was changed", after=known)
            assert first_answer(plain)[0] == "web1"
    assert node.children(WORKER) == [worker]


def test_addresses_come_and_go_with_reloads_and_what_is_known_of_servers_stays(
    start: Start, web1: EchoServer, tmp_path: Path
) -> None:
    first, second = ((HOST, free_port(HOST)) for _ in range(2))
    with bound(Endpoint("127.0.67.23", 0), "--server") as sock:
        dead = endpoint_of(sock)
    file = tmp_path / "cluster.toml"

    def configure(*where: tuple[str, int]) -> None:
        listens = ", ".join(f'"{host}:{port}"' for host, port in where)
        file.write_text(
            f'[[lb.frontend]]\nname = "www"\nlisten = [{listens}]\n[[lb.backend]]\nname = "web"\n'
            f'server = ["web1={web1.address}", "dead={dead}"]\n'
        )

    configure(first)
    node = start("--config", str(file)).ready()
    eventually(lambda: node.metric("lb_server_status", server="dead", state="DOWN") == 1)
    for where, gone in (((first, second), None), ((second,), first), ((first, second), None)):
        configure(*where)
        known = len(node.log)
        node.process.send_signal(signal.SIGHUP)
        node.says("reloaded", after=known)
        assert node.metric("lb_server_status", server="dead", state="DOWN") == 1, "known already"
        for address in where:
            assert first_answer(address)[0] == "web1"
        node.says("the workers under the old settings have ended", after=known)
        if gone:
            assert is_refused(gone)


# ----- what the metrics say ---------------------------------------------------------------------------


def test_sessions_and_checks_and_what_the_metrics_say_of_them(
    start: Start, plain: tuple[str, int], web1: EchoServer, web2: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1, web2), "--workers", "2").ready()
    node.says(f"listening on {plain[0]}:{plain[1]}")
    names = []
    for _ in range(10):
        with Client(plain) as client:
            names.append(client.greeting())
            client.echo(b"12345")
    assert set(names) == {"web1", "web2"}
    assert set(web1.clients) == set(web2.clients) == {HOST}, "sessions and checks come from --source"
    eventually(lambda: node.metric("lb_frontend_current_sessions") == 0)
    assert node.metric("lb_frontend_sessions_total", proxy="lb") == 10
    assert node.metric("lb_frontend_bytes_in_total") == 50
    assert node.metric("lb_frontend_bytes_out_total") == 100
    assert node.metric("lb_server_sessions_total", server="web1") == names.count("web1")
    assert node.metric("lb_backend_active_servers") == 2
    with pytest.raises(LookupError):
        node.metric("vrrp_state", state="active")
    assert node.stop() == 0
    assert is_refused(plain)


def test_servers_that_go_down_and_come_up_are_known_to_the_workers(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    web2 = EchoServer("web2", "127.0.67.22")
    port = web2.port
    try:
        node = start(*listen(plain), *servers(web1, web2), "--workers", "2").ready()
    finally:
        web2.close()
    node.says(f"server web2 (127.0.67.22:{port}) is DOWN")
    assert node.metric("lb_server_status", server="web2", state="DOWN") == 1
    failed = node.metric("lb_server_connection_errors_total", server="web2")
    for _ in range(6):
        with Client(plain) as client:
            assert client.greeting() == "web1"
    assert node.metric("lb_server_connection_errors_total", server="web2") == failed
    with contextlib.closing(EchoServer("web2", "127.0.67.22", port)):
        node.says(f"server web2 (127.0.67.22:{port}) is UP")
        eventually(lambda: first_answer(plain)[0] == "web2")


def serves(worker: psutil.Process) -> bool:
    return any(connection.status == "ESTABLISHED" for connection in worker.net_connections("tcp"))


def test_a_worker_that_is_killed_is_replaced(start: Start, plain: tuple[str, int], web1: EchoServer) -> None:
    node = start(*listen(plain), *servers(web1), "--workers", "2").ready()
    with Client(plain) as client:
        client.greeting()
        (victim,) = [worker for worker in node.children(WORKER) if serves(worker)]
        victim.kill()
        client.is_reset()  # or FIN: the kernel's choice, and the client's to notice
    node.says("died (killed by SIGKILL): starting it again")
    node.replacement(WORKER)
    eventually(lambda: len(node.children(WORKER)) == 2)
    eventually(lambda: node.metric("lb_frontend_current_sessions") == 0)
    for _ in range(20):  # both are served by somebody
        with Client(plain) as client:
            client.greeting()
    assert node.metric("lb_frontend_sessions_total") == 21


def test_connections_queued_while_a_worker_hangs_are_served_by_its_successor(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1)).ready()
    worker = node.child(WORKER)
    worker.suspend()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(plain)) for _ in range(20)]
        for client in clients:
            client.socket.sendall(b"early")
        worker.kill()
        for client in clients:
            assert client.greeting() == "web1"
            client.expect(b"early")


def test_a_worker_is_told_what_happened_while_it_was_being_replaced(
    start: Start, plain: tuple[str, int], web1: EchoServer, gate: Gate
) -> None:
    with contextlib.ExitStack() as held:
        with contextlib.closing(EchoServer("web2", "127.0.67.22")) as web2:
            node = start(*listen(plain), *servers(web1, web2), environment=gate.environment).ready()
            held.enter_context(gate.closed())
            node.child(WORKER).kill()
            node.replacement(WORKER)
        node.says(f"server web2 ({web2.address}) is DOWN")
    for _ in range(4):
        with Client(plain) as client:
            assert client.greeting() == "web1"
    assert node.metric("lb_server_connection_errors_total", server="web2") == 0


def test_a_worker_that_is_told_to_stop_by_others_than_its_node_goes_on(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    """As a service manager does that signals all processes at once."""
    node = start(*listen(plain), *servers(web1)).ready()
    with Client(plain) as client:
        client.greeting()
        node.child(WORKER).terminate()
        node.says("SIGTERM: left to the parent")
        client.echo()
    first_answer(plain)


# ----- stopping -----------------------------------------------------------------------------------


def test_a_stop_lets_sessions_finish_and_resets_what_is_left(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1), "--drain", "3").ready()
    with Client(plain) as first, Client(plain) as second:
        first.greeting()
        second.greeting()
        node.children()
        began = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_refused(plain))
        first.echo()
        first.socket.shutdown(socket.SHUT_WR)
        assert not first.is_reset(), "it finished in order"
        assert second.is_reset()
    assert node.process.wait(PATIENCE_SECONDS) == 0
    assert 3 <= time.monotonic() - began < 13
    node.says("resetting 1 connections: their time is over")


def test_a_soft_stop_waits_for_sessions_and_a_stop_after_it_does_not(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1), "--drain", "0.2").ready()
    with Client(plain) as one:
        one.greeting()
        with Client(plain) as other:
            other.greeting()
            node.process.send_signal(signal.SIGUSR1)
            node.says("SIGUSR1: stopping, when what is in progress has ended")
            eventually(lambda: is_refused(plain))
            node.process.send_signal(signal.SIGHUP)
            node.says("SIGHUP: not reloaded, since this process is stopping")
            other.echo(b"still here")
        eventually(lambda: node.metric("lb_frontend_current_sessions") == 1)
        node.process.send_signal(signal.SIGTERM)
        node.says("their time is over")
        assert node.process.wait(20) == 0

    again = start(*listen(plain), *servers(web1)).ready()
    with contextlib.ExitStack() as stack:
        with Client(plain) as old:
            old.greeting()
            again.process.send_signal(signal.SIGHUP)
            again.says("reloaded")
            again.children()
            last = stack.enter_context(Client(plain))
            last.greeting()
            again.process.send_signal(signal.SIGUSR1)
            again.says("SIGUSR1")
            old.echo(b"under the old settings")
        again.says("the workers under the old settings have ended")
        last.echo(b"the last one")
    assert again.process.wait(20) == 0, "it ends with its last session"


def test_a_second_signal_stops_at_once(start: Start, plain: tuple[str, int], web1: EchoServer) -> None:
    node = start(*listen(plain), *servers(web1), "--drain", "3600").ready()
    with Client(plain) as client:
        client.greeting()
        node.children()
        node.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_refused(plain))
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(PATIENCE_SECONDS) == 1
        client.is_reset()


def test_when_the_node_is_killed_its_workers_refuse_finish_and_end(
    start: Start, plain: tuple[str, int], web1: EchoServer
) -> None:
    node = start(*listen(plain), *servers(web1), "--drain", "3", "--workers", "2").ready()
    workers = node.children(WORKER)
    with Client(plain) as client:
        client.greeting()
        node.kill()
        eventually(lambda: is_refused(plain))
        client.echo()
        assert client.is_reset()
    eventually(lambda: all(is_gone(worker) for worker in workers))


@pytest.mark.parametrize("what", ["listen", "source", "vrrp"])
def test_a_node_that_cannot_start_says_why_in_one_line_and_leaves_nothing(
    start: Start, virtual: tuple[str, int], plain: tuple[str, int], web1: EchoServer, what: str
) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((HOST, 0))
        match what:
            case "listen":
                tcp.bind(plain)
                tcp.listen()
                arguments = listen(plain)
                said = f"--listen {plain[0]}:{plain[1]}: Address already in use; stop what uses it"
            case "source":
                arguments = [*listen(plain), "--source", "192.0.2.1"]
                said = "--source 192.0.2.1:0: Cannot assign requested address; no interface"
            case _:
                arguments = [*listen(virtual), "--vip", VIP, "--peer", OTHER, "--auth", "none"]
                arguments += ["--vrrp-port", str(udp.getsockname()[1])]
                said = f"--source {HOST}, UDP port {udp.getsockname()[1]}: Address already in use"
        node = start(*arguments, *servers(web1))
        assert node.process.wait(20) == 1
    node.says(said)
    assert not any("Traceback" in line for line in node.log)


# ----- a node with an election --------------------------------------------------------------------


def test_when_its_vrrp_process_is_killed_the_address_is_given_up_and_comes_back(
    cluster: Cluster, virtual: tuple[str, int]
) -> None:
    node = cluster.lb1().ready().becomes("active")
    with Client(virtual) as client:
        client.greeting()
        with cluster.gate.closed():
            node.child(VRRP).kill()
            assert client.is_reset()
            assert is_refused(virtual)
            assert node.role == "fault"
    node.becomes("active")
    first_answer(virtual)
    assert node.metric("lb_frontend_killed_sessions_total") == 1


def test_when_no_worker_accepts_the_node_leaves_the_election_until_one_does(
    cluster: Cluster, virtual: tuple[str, int]
) -> None:
    node = cluster.lb1().ready().becomes("active")
    with cluster.gate.closed():
        node.child(WORKER).kill()
        eventually(lambda: node.get("/readyz") == (503, "no worker accepts\n"))
        node.says("fault: no worker accepts")
        eventually(lambda: is_refused(virtual))
    node.becomes("active")
    first_answer(virtual)


def test_a_vrrp_process_that_starts_while_no_worker_accepts_is_told_so(
    cluster: Cluster, virtual: tuple[str, int]
) -> None:
    node = cluster.lb1().ready().becomes("active")
    with cluster.gate.closed():
        node.child(WORKER).kill()
        successor = node.replacement(WORKER)
        successor.suspend()
    node.says("fault: no worker accepts")
    seen = len(node.log)
    node.child(VRRP).kill()
    node.says("fault: no worker accepts", after=seen)
    successor.resume()
    node.becomes("active")
    first_answer(virtual)


def test_the_key_file_is_not_needed_to_replace_a_worker(
    cluster: Cluster, virtual: tuple[str, int], tmp_path: Path
) -> None:
    node = cluster.lb1("--workers", "2").ready().becomes("active")
    (tmp_path / "key").unlink()
    for worker in node.children(WORKER):
        worker.kill()
        node.replacement(WORKER)
    node.becomes("active")
    first_answer(virtual)


class Visitor:
    """Connects again and again, and notes each answer and each failure with its time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.answers: list[float] = []
        self.failures: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self._thread.start()

    def _visit(self) -> None:
        while not self._done.wait(0.005):
            began = time.monotonic()
            try:
                with Client(self._address, timeout=1.0) as client:
                    client.greeting()
            except (OSError, AssertionError):
                self.failures.append(began)
            else:
                self.answers.append(began)

    def since(self, moment: float) -> float:
        """Seconds from `moment` to the start of the first visit after the last one that failed."""
        failed = max((at for at in self.failures if at >= moment), default=moment)
        return next(at for at in self.answers if at > failed) - moment

    def close(self) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.alone
@pytest.mark.parametrize("victim", ["node", "vrrp", "everything"])
def test_when_the_active_node_dies_the_other_answers(
    cluster: Cluster, virtual: tuple[str, int], victim: str
) -> None:
    lb1, lb2 = cluster.lb1(), cluster.lb2()
    lb1.ready().becomes("active")
    lb2.ready().becomes("backup")
    first_answer(virtual)
    children = lb1.children()
    with contextlib.closing(Visitor(virtual)) as visitor, Client(virtual) as client:
        client.greeting()
        eventually(lambda: len(visitor.answers) > 5)
        killed = time.monotonic()
        if victim == "everything":  # suspended first, or those that live would still say goodbye
            for process in [psutil.Process(lb1.process.pid), *children]:
                process.suspend()
            for process in children:
                process.kill()
        if victim == "vrrp":
            lb1.child(VRRP).kill()
        else:
            lb1.process.kill()
        assert client.is_reset() or victim == "everything"  # there the kernel may say FIN
        lb2.becomes("active")
        answered = len(visitor.answers)
        eventually(lambda: len(visitor.answers) > answered + 5)
    gap = visitor.since(killed)
    assert gap < (TAKE_OVER_SECONDS if victim == "node" else 3 * INTERVAL + TAKE_OVER_SECONDS)
    print(f"{victim} killed: answered again after {gap:.3f} s")
    if victim == "vrrp":
        lb1.becomes("active")  # it comes back, and its priority is the higher one
        lb2.becomes("backup")


def test_an_active_node_that_was_paused_does_not_stay_active_beside_the_other(
    cluster: Cluster, virtual: tuple[str, int]
) -> None:
    """While it is paused, its kernel goes on accepting for it: what loopback cannot show is in the README."""
    lb1, lb2 = cluster.lb1().ready().becomes("active"), cluster.lb2().ready().becomes("backup")
    processes = [psutil.Process(lb1.process.pid), *lb1.children()]
    for process in processes:
        process.suspend()
    lb2.becomes("active")
    time.sleep(4 * INTERVAL)  # the pause: one that was shorter keeps its role by advertising at once
    for process in processes:
        process.resume()
    lb1.says("active → backup: woke")  # later than a Backup waits: another may be Active, as it is here
    lb1.becomes("active")  # its priority is the higher one
    lb2.becomes("backup")
    lb2.says("active → backup: higher priority heard (150 > 100)")
    first_answer(virtual)


@pytest.mark.alone
def test_a_stop_hands_over(cluster: Cluster, virtual: tuple[str, int]) -> None:
    lb1, lb2 = cluster.lb1("--drain", "1"), cluster.lb2()
    lb1.ready().becomes("active")
    lb2.ready().becomes("backup")
    first_answer(virtual)
    with contextlib.closing(Visitor(virtual)) as visitor:
        stopped = time.monotonic()
        assert lb1.stop() == 0
        lb2.becomes("active")
        answered = len(visitor.answers)
        eventually(lambda: len(visitor.answers) > answered + 5)
    gap = visitor.since(stopped)
    assert gap < TAKE_OVER_SECONDS, "no session was left to wait for"
    print(f"stopped: answered by the other after {gap:.3f} s")

    lb1 = cluster.lb1().ready().becomes("active")
    lb2.becomes("backup")
    first_answer(virtual)


def test_a_backup_that_stops_does_not_take_the_address_meanwhile(
    cluster: Cluster, virtual: tuple[str, int], plain: tuple[str, int]
) -> None:
    """It drains its plain address; if the active node dies now, nobody would serve what it took."""
    lb1 = cluster.lb1().ready().becomes("active")
    lb2 = cluster.lb2("--listen", f"{plain[0]}:{plain[1]}", "--drain", "5").ready().becomes("backup")
    with Client(plain) as client:
        client.greeting()
        lb2.children()
        lb2.process.send_signal(signal.SIGTERM)
        lb2.says("backup → initialize: draining")
        drains = len(lb2.log)
        lb1.kill()
        eventually(lambda: is_refused(virtual))
        client.echo()
        assert client.is_reset()
    assert lb2.process.wait(PATIENCE_SECONDS) == 0
    assert not any("→ active" in line for line in lb2.log[drains:])


def test_an_active_node_that_is_preempted_while_it_drains_does_not_take_the_address_back(
    cluster: Cluster, virtual: tuple[str, int], plain: tuple[str, int]
) -> None:
    lb2 = cluster.lb2("--listen", f"{plain[0]}:{plain[1]}", "--drain", "30").ready().becomes("active")
    with Client(plain) as client:
        client.greeting()
        lb2.children()
        lb2.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_refused(virtual))
        lb1 = cluster.lb1().ready().becomes("active")
        first_answer(virtual)
        lb2.says("backup → initialize: draining")
        drains = len(lb2.log)
        lb1.kill()
        eventually(lambda: is_refused(virtual))
        client.echo()
    assert lb2.process.wait(PATIENCE_SECONDS) == 0
    assert not any("→ active" in line for line in lb2.log[drains:])
