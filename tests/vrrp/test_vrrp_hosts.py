"""Two nodes and a client on a network of their own: real processes, real interfaces, keepalived as a peer.

Each case is a wire (version, family, multicast or unicast), a pair (ours or keepalived, preferred or not) and
faults of the preferred one. After each fault the other takes over within its bound, and after healing the
preferred one has the address again, alone. `make test` runs a sample, the same one for the same SCALEUP_SEED;
`make soak` runs all of it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lan import DEVICE, Host, Lan, needs_lan, signal_all, until

SLACK_SECONDS = 2.5
"""Beyond a protocol's bound: the test shares two cores with other tests, and looks through `ip` (10 ms a look)."""
LIFETIME_SECONDS = 2.0
PREFERRED, OTHER = 150, 100


@dataclass(frozen=True)
class Wire:
    version: int
    family: int
    cast: str
    password: bool = False

    @property
    def interval(self) -> float:
        return 0.3 if self.version == 3 else 1.0

    @property
    def addresses(self) -> list[str]:
        return ["10.77.0.100/24"] if self.family == 4 else ["fe80::100/64", "fd77::100/64"]

    @property
    def address(self) -> str:
        return self.addresses[0].partition("/")[0]

    def own(self, host: Host) -> str:
        return host.ipv4 if self.family == 4 else host.ipv6

    def skew(self, priority: int) -> float:
        return self.interval * (256 - priority) / 256

    def down(self, priority: int) -> float:
        return 3 * self.interval + self.skew(priority)

    def __str__(self) -> str:
        return f"v{self.version}-ipv{self.family}-{self.cast}" + ("-password" if self.password else "")


WIRES = [
    Wire(3, 4, "multicast"),
    Wire(3, 4, "unicast"),
    Wire(3, 6, "multicast"),
    Wire(3, 6, "unicast"),
    Wire(2, 4, "multicast", password=True),
    Wire(2, 4, "unicast"),
]
PAIRS = [("ours", "ours"), ("ours", "keepalived"), ("keepalived", "ours")]
FAULTS = ["kill", "term", "cut", "pause", "partition"]


class Node:
    """A program on a host, that can be started again. `in_the_log`: what it writes when it takes part."""

    cleans_up: bool
    in_the_log: str

    def __init__(self, host: Host, peer: Host, wire: Wire, priority: int, folder: Path) -> None:
        self.host, self.peer, self.wire, self.priority = host, peer, wire, priority
        self.folder = folder / host.name
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        raise NotImplementedError

    @property
    def listens(self) -> bool:
        return self.log.exists() and self.in_the_log in self.log.read_text()

    @property
    def holds(self) -> bool:
        return self.host.has(self.wire.address)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        signal_all(self.process, number)


class Ours(Node):
    cleans_up = True
    in_the_log = "initialize → backup"

    def start(self) -> None:
        wire = self.wire
        options = {
            "--interface": DEVICE,
            "--priority": str(self.priority),
            "--interval": str(wire.interval),
            "--vrrp-version": str(wire.version),
            "--auth": "none",
        }
        if wire.cast == "unicast":
            options |= {"--peer": wire.own(self.peer), "--source": wire.own(self.host)}
        if wire.cast == "unicast" and wire.family == 6:
            options["--minimum-ttl"] = "64"  # as keepalived 2.2.7 sends there
        if wire.password:
            (self.folder / "password").write_bytes(b"secret")
            options["--auth"] = f"pass:{self.folder}/password"
        words = [word for pair in options.items() for word in pair]
        words += [word for address in wire.addresses for word in ("--vip", address)]
        self.process = self.host.python("-m", "scaleup.vrrp", *words, log=self.log)


class Keepalived(Node):
    cleans_up = False
    """Killed or stopped, it leaves the address where it is."""
    in_the_log = "Entering BACKUP STATE (init)"

    def start(self) -> None:
        wire = self.wire
        unicast = f"unicast_src_ip {wire.own(self.host)}\nunicast_peer {{\n{wire.own(self.peer)}\n}}\n"
        password = "authentication {\nauth_type PASS\nauth_pass secret\n}\n"
        for left in self.folder.glob("*pid"):
            left.unlink()  # of a killed one, whose zombie would be taken for a running one
        file = self.folder / "keepalived.conf"
        file.write_text(
            f"global_defs {{\nrouter_id {self.host.name}\nvrrp_version {wire.version}\n}}\n"
            f"vrrp_instance VI_51 {{\ninterface {DEVICE}\nvirtual_router_id 51\npriority {self.priority}\n"
            f"advert_int {wire.interval:g}\n{unicast if wire.cast == 'unicast' else ''}"
            f"{password if wire.password else ''}"
            "virtual_ipaddress {\n" + "\n".join(wire.addresses) + "\n}\n}\n"
        )
        self.process = self.host.start(
            *("keepalived", "--dont-fork", "--log-console", "--vrrp", f"--use-file={file}"),
            *(f"--pid={self.folder}/pid", f"--vrrp_pid={self.folder}/vrrp.pid"),
            log=self.log,
        )


KINDS: dict[str, type[Ours] | type[Keepalived]] = {"ours": Ours, "keepalived": Keepalived}


class Drama:
    def __init__(self, lan: Lan, wire: Wire, pair: tuple[str, str], folder: Path) -> None:
        self.lan, self.wire = lan, wire
        a, b, self.client = lan.host("a"), lan.host("b"), lan.host("client")
        self.preferred = KINDS[pair[0]](a, b, wire, PREFERRED, folder)
        self.other = KINDS[pair[1]](b, a, wire, OTHER, folder)

    def begin(self) -> None:
        self.preferred.start()
        until(lambda: self.preferred.holds, "the preferred one has the address")
        self.other.start()
        until(lambda: self.other.listens, "the other one takes part")
        self.settled()

    def settled(self) -> None:
        """The preferred one has it, alone, for a while; the client reaches it there."""
        until(lambda: self.preferred.holds and not self.other.holds, "the preferred one has it alone")
        self.reached_at(self.preferred)
        end = time.monotonic() + 4 * self.wire.interval
        while time.monotonic() < end:
            assert (self.preferred.holds, self.other.holds) == (True, False), "it flapped"

    def reached_at(self, node: Ours | Keepalived) -> None:
        address = self.wire.address
        until(lambda: self.client.reaches(address), f"the client reaches {address}")
        until(lambda: self.client.neighbour(address) == node.host.mac, "its neighbour entry is right", 10.0)

    def play(self, fault: str) -> None:
        took: float = getattr(self, fault)()
        print(f"{self.wire} {fault}: taken over after {took * 1000:.0f} ms")
        self.settled()

    def taken_over(self, bound: float) -> float:
        took = until(lambda: self.other.holds, "the other one takes over", bound + SLACK_SECONDS)
        self.reached_at(self.other)
        return took

    def alone(self) -> None:
        bound = LIFETIME_SECONDS + SLACK_SECONDS
        if self.preferred.cleans_up:
            until(lambda: not self.preferred.holds, "the dead one's address is gone", bound)

    def kill(self) -> float:
        assert self.preferred.process is not None
        self.preferred.signal(signal.SIGKILL)
        self.preferred.process.wait(20)
        took = self.taken_over(self.wire.down(OTHER))
        self.alone()
        self.reached_at(self.other)
        self.preferred.start()
        return took

    def term(self) -> float:
        assert self.preferred.process is not None
        self.preferred.process.terminate()
        took = self.taken_over(self.wire.skew(OTHER))
        until(lambda: not self.preferred.holds, "the stopped one has given it up", SLACK_SECONDS)
        self.preferred.process.wait(20)
        self.preferred.start()
        return took

    def cut(self) -> float:
        self.lan.unplug(self.preferred.host)
        took = self.taken_over(self.wire.down(OTHER))
        until(lambda: not self.preferred.holds, "without a link the address is given up", SLACK_SECONDS)
        self.lan.plug(self.preferred.host)
        return took

    def pause(self) -> float:
        self.preferred.signal(signal.SIGSTOP)
        took = self.taken_over(self.wire.down(OTHER))
        self.alone()
        self.preferred.signal(signal.SIGCONT)
        return took

    def partition(self) -> float:
        self.lan.separate(self.preferred.host)
        took = until(lambda: self.other.holds, "it hears nobody", self.wire.down(OTHER) + SLACK_SECONDS)
        assert self.preferred.holds
        self.lan.join(self.preferred.host)
        healed = 2 * self.wire.interval + SLACK_SECONDS
        until(lambda: not self.other.holds, "one of the two gives way", healed)
        return took


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b", "client") as lan:
        yield lan


def perform(lan: Lan, wire: Wire, pair: tuple[str, str], faults: list[str], folder: Path) -> None:
    drama = Drama(lan, wire, pair, folder)
    try:
        drama.begin()
        for fault in faults:
            drama.play(fault)
    finally:
        for node in (drama.preferred, drama.other):
            print(
                f"--- {node.host.name}, {type(node).__name__}:\n{node.log.read_text() if node.log.exists() else ''}"
            )


def sample() -> list[tuple[Wire, tuple[str, str], str]]:
    """Each wire of version 3 and one of version 2, whose second is long; each pair, and each fault once."""
    chance = random.Random(os.environ.get("SCALEUP_SEED", "3768"))
    wires = [*WIRES[:4], chance.choice(WIRES[4:])]
    faults = chance.sample(FAULTS, k=len(wires))
    pairs = chance.sample([*PAIRS, *PAIRS[:2]], k=len(wires))
    return list(zip(wires, pairs, faults, strict=True))


def name(value: object) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


@needs_lan("keepalived")
@pytest.mark.parametrize(("wire", "pair", "fault"), sample(), ids=name)
def test_a_sample_of_fail_overs(
    lan: Lan, wire: Wire, pair: tuple[str, str], fault: str, tmp_path: Path
) -> None:
    perform(lan, wire, pair, [fault], tmp_path)


@pytest.mark.soak
@needs_lan("keepalived")
@pytest.mark.parametrize("pair", PAIRS, ids=name)
@pytest.mark.parametrize("wire", WIRES, ids=name)
@pytest.mark.timeout(600)
def test_every_fail_over(lan: Lan, wire: Wire, pair: tuple[str, str], tmp_path: Path) -> None:
    perform(lan, wire, pair, FAULTS, tmp_path)
