"""A network of its own: hosts that are network namespaces, on a bridge that is one more.

    with Lan("a", "b", "client") as lan:
        lan.host("a").start("python", …)

Everything is gone at its end, however that came. It takes root and `ip`. The tests of `vrrp` use it, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bench.agent import tree
from bench.running import SEARCH_PATH

CLONE_NEWNET = 0x40000000
DEVICE = "eth0"
LINK_SECONDS = 20.0
END_SECONDS = 30.0
ENVIRONMENT = {**os.environ, "PATH": SEARCH_PATH}

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # capabilities(7)


def may_make_namespaces() -> bool:
    """Root may, but for root in some containers."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return all(effective >> capability & 1 for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One namespace: `eth0` has 10.77.0.`number`/24 and fe80::`number`/64."""

    def __init__(self, name: str, namespace: str, number: int) -> None:
        self.name, self.namespace, self.number = name, namespace, number
        self.ipv4, self.ipv6 = f"10.77.0.{number}", f"fe80::{number}"
        self.processes: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets made in here belong to this host, for as long as they live."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as home, open(f"/run/netns/{self.namespace}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(home.fileno(), CLONE_NEWNET)

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """A process on this host; `log` gets what it writes."""
        return self.start_outside("ip", "netns", "exec", self.namespace, *command, log=log)

    def start_outside(self, *command: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """A process of this host's that goes into the namespace by itself."""
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
            process = subprocess.Popen(
                command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        return process

    def python(self, *arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, *arguments, log=log)

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.namespace, *arguments)

    def addresses(self, device: str = DEVICE) -> set[str]:
        (link,) = json.loads(self.ip("-j", "addr", "show", "dev", device))
        return {info["local"] for info in link["addr_info"]}

    def has(self, address: str) -> bool:
        return address in self.addresses()

    @property
    def mac(self) -> str:
        (link,) = json.loads(self.ip("-j", "link", "show", "dev", DEVICE))
        return str(link["address"])

    def neighbour(self, address: str) -> str | None:
        """The hardware address that this host believes another to have."""
        found = json.loads(self.ip("-j", "neigh", "show", "dev", DEVICE, "to", address) or "[]")
        return next((entry["lladdr"] for entry in found if "lladdr" in entry), None)

    def reaches(self, address: str) -> bool:
        """Somebody with that address answers: no port 9 is open anywhere, and to say so is an answer."""
        with self.entered():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            scope = (0, socket.if_nametoindex(DEVICE)) if ":" in address else ()
        with sock:
            sock.settimeout(1.0)
            try:
                sock.connect((address, 9, *scope))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return True

    def close(self) -> None:
        for process in self.processes:
            end(process)
        with contextlib.suppress(RuntimeError):
            ip("netns", "del", self.namespace)


class Lan:
    """Hosts by name, each with a cable to one bridge. A cut cable is a port of the bridge that is down."""

    _made = 0

    def __init__(self, *names: str) -> None:
        Lan._made += 1
        prefix = f"su{os.getpid()}-{Lan._made}"
        self._bridge = f"{prefix}-bridge"
        self._hosts = {
            name: Host(name, f"{prefix}-{name}", number) for number, name in enumerate(names, start=1)
        }

    def host(self, name: str) -> Host:
        return self._hosts[name]

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()
        with contextlib.suppress(RuntimeError):
            ip("netns", "del", self._bridge)

    def unplug(self, host: Host) -> None:
        """Its cable: both ends see that the link is down."""
        ip("-n", self._bridge, "link", "set", f"port{host.number}", "down")

    def plug(self, host: Host) -> None:
        ip("-n", self._bridge, "link", "set", f"port{host.number}", "up")

    def disconnect(self, host: Host) -> None:
        """Its interface is removed, and its cable."""
        host.ip("link", "del", DEVICE)

    def connect(self, host: Host) -> None:
        """It gets an interface, with its addresses: always the same MAC, as a VLAN or a bond that is made anew."""
        port, mac = f"port{host.number}", f"02:00:00:00:00:{host.number:02x}"
        end = ("peer", DEVICE, "address", mac, "netns", host.namespace)
        self._in_bridge("link", "add", port, "type", "veth", *end)
        self._in_bridge("link", "set", port, "master", "bridge0", "up")
        host.ip("link", "set", DEVICE, "addrgenmode", "none", "up")
        host.ip("addr", "add", f"{host.ipv4}/24", "dev", DEVICE)
        host.ip("addr", "add", f"{host.ipv6}/64", "dev", DEVICE, "nodad")
        self._await_link(host)

    def separate(self, host: Host) -> None:
        """It hears nobody, and nobody hears it, though all links are up."""
        ip("-n", self._bridge, "link", "set", f"port{host.number}", "nomaster")

    def join(self, host: Host) -> None:
        ip("-n", self._bridge, "link", "set", f"port{host.number}", "master", "bridge0")

    def _build(self) -> None:
        ip("netns", "add", self._bridge)
        self._in_bridge("link", "add", "bridge0", "type", "bridge", "mcast_snooping", "0")
        self._in_bridge("link", "set", "bridge0", "up")
        for host in self._hosts.values():
            ip("netns", "add", host.namespace)
            host.ip("link", "set", "lo", "up")
            self.connect(host)

    def _await_link(self, host: Host) -> None:
        """The kernel tells of a link, and has a port forward, a moment after both ends are up: what is sent before
        that is lost.
        """
        deadline = time.monotonic() + LINK_SECONDS
        while not self._has_link(host):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{host.name}: no link within {LINK_SECONDS:g} s")
            time.sleep(0.005)

    def _has_link(self, host: Host) -> bool:
        (port,) = json.loads(ip("-n", self._bridge, "-j", "-d", "link", "show", "dev", f"port{host.number}"))
        (link,) = json.loads(host.ip("-j", "link", "show", "dev", DEVICE))
        states = port["linkinfo"]["info_slave_data"]["state"], port["operstate"], link["operstate"]
        return states == ("forwarding", "UP", "UP")

    def _in_bridge(self, *arguments: str) -> None:
        ip("-n", self._bridge, *arguments)


def signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """The process and all its descendants."""
    for pid in tree(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        signal_all(process, signal.SIGKILL)
    process.wait(END_SECONDS)
