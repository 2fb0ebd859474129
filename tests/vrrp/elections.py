"""Elections on loopback: daemons with an owner that only remembers, and peers that say what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from bench.ports import free_port
from scaleup.vrrp.arrangement import Arrangement
from scaleup.vrrp.auth import Authenticator
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.election import Election
from scaleup.vrrp.instance import Instance
from scaleup.vrrp.network import UnicastUdp
from scaleup.vrrp.packet import HOP_LIMIT, Advertisement, decode, encode

VIP = ip_address("127.0.60.100")
KEY = b"k" * 32
PATIENCE_SECONDS = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Look again and again until it holds; nothing is inferred from how long that takes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions of any kind
            await asyncio.sleep(0.002)


class RecordingOwner:
    """Owns nothing, and remembers. While `refusal` is set, it cannot take."""

    def __init__(self, has: bool = False) -> None:
        self.has = has
        self.refusal: OSError | None = None
        self.attempts = 0
        self.announcements = self.reminders = 0

    def take(self) -> None:
        self.attempts += 1
        if self.refusal is not None:
            raise self.refusal
        self.has = True

    def announce(self) -> None:
        self.announcements += 1

    def release(self) -> None:
        self.has = False

    def remind(self) -> None:
        self.reminders += 1

    def watch(self, fault: Callable[[str, str], None], recover: Callable[[str], None]) -> None:
        self.fault, self.recover = fault, recover

    def close(self) -> None:
        self.release()


class Node:
    """A daemon at `address`, with its network, its owner and a wall clock that tests may step."""

    def __init__(self, address: str, *peers: str, port: int, auth: str = "none", **settings: Any) -> None:
        self.election = Election.model_validate(
            {"vip": [str(VIP)], "source": address, "peer": peers, "vrrp_port": port, "auth": auth, **settings}
        )
        self.network = UnicastUdp(ip_address(address), port, [ip_address(peer) for peer in peers])
        self.owner = RecordingOwner()
        self.roles: list[str] = []
        self.rules: list[str] = []
        self.honest = True
        self.wall = 1_800_000_000.0  # at loop time 0
        self.instance = Instance(self.election, self.network, self.owner, self._wall_clock)
        self.daemon = Daemon(
            [self.instance],
            Arrangement((self.election.policy(),), startup_delay=self.election.startup_delay),
            self._on_role,
        )

    async def becomes(self, role: str) -> None:
        await until(lambda: self.instance.role == role)

    def cut(self) -> None:
        """Its link: it says nothing to anybody, and what it hears is nobody's."""
        self._known, self.network.peers = self.network.peers, ()

    def heal(self) -> None:
        self.network.peers = self._known

    def close(self) -> None:
        self.daemon.stop()
        self.network.close()
        assert self.honest, "the address was not taken before, or released after, a role was told"

    def _on_role(self, _: str, role: str, rule: str) -> None:
        self.roles.append(role)
        self.rules.append(rule)
        self.honest = self.honest and self.owner.has == (role == "active")

    def _wall_clock(self) -> float:
        return self.wall + asyncio.get_running_loop().time()


class Peer:
    """A socket that says what a test wants, and hears what the daemon says."""

    def __init__(self, address: str, port: int, to: str, hears: bool = True) -> None:
        self.address, self._to, self._port = ip_address(address), ip_address(to), port
        self._socket = socket.socket(
            socket.AF_INET if self.address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM
        )
        self._socket.setblocking(False)
        self.hop_limit(HOP_LIMIT)
        self._socket.bind((address, port if hears else 0))

    def hop_limit(self, value: int) -> None:
        if self.address.version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, value)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, value)

    def message(self, priority: int = 200, **different: Any) -> bytes:
        fields: dict[str, Any] = {"vrid": 51, "interval_cs": 100, "addresses": (VIP,)}
        adv = Advertisement(priority=priority, **(fields | different))
        return encode(adv, self.address, self._to)

    def send(self, data: bytes) -> None:
        self._socket.sendto(data, (str(self._to), self._port))

    def advertise(self, priority: int = 200, **different: Any) -> None:
        self.send(self.message(priority, **different))

    def heard(self) -> list[Advertisement]:
        """What has come since the last look."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(4096)
                found.append(decode(data, self._to, self.address, hop_limit=None))
        return found

    async def hears(self, priority: int) -> Advertisement:
        """The next advertisement with this priority; others before it are passed over."""
        found: list[Advertisement] = []

        def look() -> bool:
            found.extend(adv for adv in self.heard() if adv.priority == priority)
            return bool(found)

        await until(look)
        return found[0]

    def close(self) -> None:
        self._socket.close()


def free_udp_port() -> int:
    """A UDP port that no address of this host uses."""
    return free_port("0.0.0.0", socket.SOCK_DGRAM)


class Stage:
    """What a test has put up on one port, to be taken down with it."""

    def __init__(self) -> None:
        self.port = free_udp_port()
        self._closing = contextlib.ExitStack()

    def node(self, address: str, *peers: str, start: bool = True, **settings: Any) -> Node:
        node = Node(address, *peers, port=self.port, **settings)
        self._closing.callback(node.close)
        if start:
            node.daemon.start()
        return node

    def peer(self, address: str, to: str) -> Peer:
        peer = Peer(address, self.port, to)
        self._closing.callback(peer.close)
        return peer

    def forger(self, address: str, to: str) -> Peer:
        """Speaks from the address of somebody else, on whose port it cannot hear."""
        forger = Peer(address, self.port, to, hears=False)
        self._closing.callback(forger.close)
        return forger

    def close(self) -> None:
        self._closing.close()


def authenticator(key: bytes = KEY, key_id: int = 1) -> Authenticator:
    return Authenticator({key_id: key}, key_id, 5.0)


def damaged(message: bytes, position: int, value: int) -> bytes:
    """With one byte changed, and the checksum made right again (RFC 1624: the sum stays the same)."""
    changed = bytearray(message)
    changed[position] = value
    changed[6:8] = b"\0\0"
    words = sum(struct.unpack(f"!{len(message) // 2}H", message))
    others = sum(struct.unpack(f"!{len(changed) // 2}H", changed))
    changed[6:8] = ((words - others) % 0xFFFF).to_bytes(2, "big")
    return bytes(changed)
