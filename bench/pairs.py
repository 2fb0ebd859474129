"""Two nodes that share a virtual address, on hosts of their own: ours, or keepalived with HAProxy.

Both are a proxy and an election: our load balancer is both; HAProxy is watched by keepalived's `track_process`,
which hears of a death from the kernel at once. A server that says one byte to whoever comes stands behind both of
them. Priorities are equal, so whoever took over stays Active and the other one's fault can be next.
"""

from __future__ import annotations

import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from bench.lan import DEVICE, Host, Lan
from bench.record import OURS
from bench.running import BenchError, which
from bench.takeover import Heard, TakeOver, down, take_over
from bench.wire import Advertisement, Wire

VIP, PORT, SERVER_PORT = "10.77.0.100", 8080, 9000
VRID, PRIORITY = 51, 100
KEEPALIVED = "keepalived"
START_SECONDS = 30.0
END_SECONDS = 10.0
TAIL_CHARACTERS = 1500

QUIET_INTERVALS = 2
"""For so long only one of the two has advertised before it is given a fault."""

SLACK_SECONDS = 10.0
"""Beyond the theory, until a fail-over that does not come is a fault of the run."""

SERVER = """
import contextlib, socket
listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
while True:
    connection, _ = listener.accept()
    with contextlib.suppress(OSError), connection:
        connection.sendall(b"1")
""".replace("PORT", str(SERVER_PORT))


def until(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Look again and again. Raises BenchError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)


class Node(ABC):
    """One host's proxy and election. `backup_line`: what its log says whenever it becomes Backup."""

    backup_line: str

    def __init__(self, host: Host, server: str, interval: float, folder: Path) -> None:
        self.host, self.server, self.interval = host, server, interval
        self.folder = folder / host.namespace
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.mac = host.mac

    @abstractmethod
    def start(self) -> None:
        """Whatever of it does not run."""

    @abstractmethod
    def kill_balancer(self) -> None:
        """SIGKILL to the proxy's (first) process, and to nothing else."""

    @abstractmethod
    def stop(self) -> None:
        """SIGTERM to what holds the address."""

    @abstractmethod
    def restart(self) -> None:
        """What was killed or stopped, once it has ended."""

    def tail(self) -> str:
        """What it and its proxy said last."""
        logs = [log for log in sorted(self.folder.glob("*log")) if log.is_file()]
        return "\n".join(log.read_text(errors="replace")[-TAIL_CHARACTERS:] for log in logs)

    @property
    def times_backup(self) -> int:
        return self.log.read_text().count(self.backup_line) if self.log.exists() else 0


class Ours(Node):
    backup_line = "→ backup"
    more: tuple[str, ...] = ("--workers", "1")

    def start(self) -> None:
        self._balancer = self.host.python(
            *("-m", "scaleup.lb", "--listen", f"{VIP}:{PORT}", "--server", f"{self.server}:{SERVER_PORT}"),
            *("--vip", f"{VIP}/24", "--interface", DEVICE, "--vrid", str(VRID), "--priority", str(PRIORITY)),
            *("--interval", str(self.interval), "--drain", "0", *self.more),
            log=self.log,
        )

    def restart(self) -> None:
        self._balancer.wait(END_SECONDS)
        self.start()

    def kill_balancer(self) -> None:
        self._balancer.kill()

    def stop(self) -> None:
        self._balancer.terminate()


class Keepalived(Node):
    backup_line = "Entering BACKUP STATE"

    def __init__(self, host: Host, server: str, interval: float, folder: Path) -> None:
        super().__init__(host, server, interval, folder)
        # The kernel tells of all processes of this machine: a name makes this one known.
        self._name = host.namespace[-15:]
        self._program = self.folder / self._name
        self._program.symlink_to(which("haproxy") or "haproxy")
        (self.folder / "haproxy.cfg").write_text(
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 50s\n    timeout server 50s\n"
            f"listen bench\n    bind {VIP}:{PORT} transparent\n"
            f"    server s1 {server}:{SERVER_PORT} check inter 2s\n"
        )
        (self.folder / "keepalived.conf").write_text(
            f"net_namespace {host.namespace}\n"
            "global_defs {\n    vrrp_version 3\n    vrrp_rt_priority 50\n}\n"
            f"vrrp_track_process proxy {{\n    process {self._name}\n}}\n"
            f"vrrp_instance VI_1 {{\n    interface {DEVICE}\n    virtual_router_id {VRID}\n"
            f"    priority {PRIORITY}\n"
            f"    advert_int {interval:g}\n    virtual_ipaddress {{\n        {VIP}/24\n    }}\n"
            "    track_process {\n        proxy\n    }\n}\n"
        )

    def start(self) -> None:
        self._start_haproxy()
        self._start_keepalived()

    def restart(self) -> None:
        if self._killed:
            self._haproxy.wait(END_SECONDS)
            self._start_haproxy()
        else:
            self._keepalived.wait(END_SECONDS)
            self._start_keepalived()

    def _start_haproxy(self) -> None:
        argv = (str(self._program), "-db", "-f", str(self.folder / "haproxy.cfg"))
        self._haproxy = self.host.start(*argv, log=self.folder / "haproxy.log")

    def _start_keepalived(self) -> None:
        for left in self.folder.glob("*pid"):
            left.unlink()
        # It goes into the namespace by itself: only a socket made before that hears of processes.
        self._keepalived = self.host.start_outside(
            *("keepalived", "--dont-fork", "--log-console", "--vrrp"),
            f"--use-file={self.folder}/keepalived.conf",
            *(f"--pid={self.folder}/pid", f"--vrrp_pid={self.folder}/vrrp.pid"),
            log=self.log,
        )

    def kill_balancer(self) -> None:
        self._killed = True
        self._haproxy.kill()

    def stop(self) -> None:
        self._killed = False
        self._keepalived.terminate()


KINDS: dict[str, type[Node]] = {OURS: Ours, KEEPALIVED: Keepalived}


class Pair:
    """Two nodes of a kind on a network of their own, with a client and a server."""

    def __init__(self, kind: str, interval: float, lan: Lan, folder: Path) -> None:
        self.interval, self.lan = interval, lan
        self.client, server = lan.host("client"), lan.host("server")
        server.python("-c", SERVER)
        self.nodes = [KINDS[kind](lan.host(name), server.ipv4, interval, folder) for name in ("a", "b")]
        self.heard: list[Heard] = []
        self._wire = Wire(self.client)

    def begin(self) -> None:
        first, second = self.nodes
        first.start()
        until(lambda: self.advertised() == {first.mac}, f"the first node advertises; see {first.log}")
        second.start()
        until(lambda: second.times_backup, f"the second node is Backup; see {second.log}")

    def close(self) -> None:
        self._wire.close()

    def advertised(self, since_ns: int = 0) -> set[str]:
        """Who has, since then."""
        self.heard += self._wire.heard()
        return {one.sender for one in self.heard if isinstance(one, Advertisement) and one.ns >= since_ns}

    def settled(self) -> tuple[Node, Node]:
        """The Active and the Backup, once only one of them has spoken for a while."""
        while_ns = round(QUIET_INTERVALS * self.interval * 1e9)
        lately: set[str] = set()

        def alone() -> bool:
            lately.clear()
            lately.update(self.advertised(time.time_ns() - while_ns))
            return len(lately) == 1

        until(alone, "one node, and only one, advertises", SLACK_SECONDS + 10 * self.interval)
        (mac,) = lately
        first, second = self.nodes
        return (first, second) if first.mac == mac else (second, first)

    def wait_for_phase(self, active: Node, fraction: float) -> None:
        """Until that fraction of an interval after an advertisement of the Active."""
        since = time.time_ns()
        until(lambda: active.mac in self.advertised(since), "the Active advertises")
        last = max(one.ns for one in self.heard if isinstance(one, Advertisement))
        time.sleep(max(0.0, last / 1e9 + fraction * self.interval - time.time()))

    def await_take_over(self, old: Node, new: Node, since_ns: int) -> TakeOver:
        """Raises BenchError when it does not come."""
        deadline = time.monotonic() + down(self.interval, PRIORITY) + SLACK_SECONDS
        while True:
            self.advertised()
            now = [one for one in self.heard if one.ns >= since_ns - round(2 * self.interval * 1e9)]
            if found := take_over(now, old.mac, new.mac, VIP):
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise BenchError(f"no take-over by {type(new).__name__}; it says:\n{new.tail()}")
            select.select([self._wire], [], [], left)
