"""What `doctor` looks at: this process's privileges, the clock, the interfaces, and the link for a few seconds.

Nothing is changed and no advertisement is sent. Who uses an address is asked with an ARP probe, which no cache
learns from (RFC 5227 §2.1), or a neighbour solicitation; the group is joined for as long as it listens.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import resource
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path

from scaleup.errors import StartupError
from scaleup.vrrp.announce import ARP, BROADCAST, NEIGHBOR_ADVERTISEMENT, OPTION_TARGET_LINK_LAYER
from scaleup.vrrp.announcer import SIOCGIFHWADDR
from scaleup.vrrp.doctor import own_addresses
from scaleup.vrrp.doctor_facts import Facts, Link, Packet
from scaleup.vrrp.election import Election
from scaleup.vrrp.network import MAX_DRAIN
from scaleup.vrrp.packet import Address
from scaleup.vrrp.rawip import RawIp
from scaleup.vrrp.rtnetlink import IFF_RUNNING, IFF_UP, Rtnetlink
from scaleup.vrrp.scheduling import REALTIME_PRIORITY
from scaleup.vrrp.tap import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, open_tap

CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14, "SYS_NICE": 23}  # capabilities(7)
SIOCGIFFLAGS, SIOCGIFMTU = 0x8913, 0x8921  # man 7 netdevice
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 512  # more than any struct timex

LEAST_SECONDS = 1.0
"""For answers to probes, and for the timers of another implementation."""

PROBES = 3  # RFC 5227 §1.1 PROBE_NUM; here a third of the time apart
PACKET_BYTES = 2048
SOLICIT = 135  # ICMPv6 type (RFC 4861)


def gather(election: Election) -> Facts:
    """Listens for three intervals and a skew, at least a second."""
    links = {link.name: link for link in all_links()}
    may = allowed()
    facts = Facts(
        allowed=may,
        realtime="SYS_NICE" in may or _limit(resource.RLIMIT_RTPRIO) >= REALTIME_PRIORITY,
        locks_memory="IPC_LOCK" in may or _limit(resource.RLIMIT_MEMLOCK) == math.inf,
        synchronised=synchronised(),
        links=links,
    )
    link = links.get(election.interface or "")
    if link is None or not link.up or "NET_RAW" not in facts.allowed:
        return facts
    return _listen(election, link, facts)


# ----- this host ---------------------------------------------------------------------------------------------


def _limit(which: int) -> float:
    soft, _ = resource.getrlimit(which)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def allowed() -> frozenset[str]:
    """Capabilities in effect, of those that matter."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if effective >> bit & 1)


def synchronised() -> bool:
    """The kernel's own opinion of its clock, which ntpd, chrony and systemd-timesyncd tell it."""
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)
    return ctypes.CDLL(None).adjtimex(buffer) not in (-1, TIME_ERROR)


def all_links() -> list[Link]:
    with Rtnetlink() as rtnetlink:
        addresses = rtnetlink.addresses()
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index, name in socket.if_nameindex():
            flags, mtu, mac = (_ask(sock, what, name) for what in (SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFHWADDR))
            own = tuple(ip_interface((one.ip, one.prefix)) for one in addresses if one.index == index)
            flags_set = int.from_bytes(flags[:2], "little")
            found.append(
                Link(
                    name=name,
                    up=bool(flags_set & IFF_UP),
                    running=bool(flags_set & IFF_RUNNING),
                    mtu=struct.unpack_from("@i", mtu)[0],
                    mac=mac[2:8].hex(":"),
                    addresses=own,
                )
            )
    return found


def _ask(sock: socket.socket, what: int, name: str) -> bytes:
    """The answer behind the name in struct ifreq (netdevice(7))."""
    return fcntl.ioctl(sock, what, name.encode().ljust(40, b"\0"))[16:]


def _sysctl(interface: str) -> dict[str, int]:
    """Of IPv4; the greater of the interface's and of all counts (Linux's ip-sysctl)."""
    found = {}
    for name in ("rp_filter", "arp_ignore", "arp_announce"):
        values = [Path(f"/proc/sys/net/ipv4/conf/{which}/{name}").read_text() for which in ("all", interface)]
        found[name] = max(map(int, values))
    return found


# ----- the link ----------------------------------------------------------------------------------------------


def _listen(election: Election, link: Link, facts: Facts) -> Facts:
    family = election.addresses[0].version
    own = own_addresses(election, link)
    peers = [ip_address(str(peer)) for peer in election.peer]
    asked = [
        *election.addresses,
        *(peer for peer in peers if any(peer in one.network for one in link.addresses)),
    ]
    seconds = max(LEAST_SECONDS, 4 * election.interval)
    refused = ""
    with ExitStack() as stack:
        tap = stack.enter_context(open_tap(link.name))
        probe: _Arp | _Neighbours = _Arp(link) if family == 4 else _Neighbours(link)
        stack.callback(probe.close)
        through: RawIp | None = None
        if own and election.raw:
            source = ip_address(str(election.source)) if election.source else own[0]
            try:
                through = RawIp(link.name, source, election.vrid, peers or None)
                stack.callback(through.close)
            except StartupError as error:
                refused = str(error)
        hearing = _Hearing(tap, probe, through, election.vrid)
        for _ in range(PROBES):
            probe.ask(asked)
            hearing.hear(seconds / PROBES)
    answers = {address: frozenset(probe.answers.get(address, ())) for address in asked}
    return replace(
        facts,
        seconds=seconds,
        refused=refused,
        packets=tuple(hearing.packets),
        through=hearing.through,
        answers=answers,
        sysctl=_sysctl(link.name) if family == 4 else {},
    )


class _Hearing:
    """Reads all sockets for a while. The tap brings ARP and advertisements; `through` what programs get."""

    def __init__(
        self, tap: socket.socket, probe: _Arp | _Neighbours, through: RawIp | None, vrid: int
    ) -> None:
        self._tap, self._probe, self._through, self._vrid = tap, probe, through, vrid
        self.packets: list[Packet] = []
        self.through = 0

    def hear(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        sockets = [self._tap, self._probe, *([self._through] if self._through else [])]
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select(sockets, [], [], left)
            if self._tap in readable:
                self._read_tap()
            if self._probe in readable:
                self._probe.read()
            if self._through and self._through in readable:
                self.through += sum(
                    len(one.data) > 1 and one.data[1] == self._vrid for one in self._through.receive()
                )

    def _read_tap(self) -> None:
        for _ in range(MAX_DRAIN):
            try:
                data, address = self._tap.recvfrom(PACKET_BYTES)
            except BlockingIOError:
                return
            _, protocol, kind, _, mac = address
            if protocol == ETH_P_ARP:
                self._probe.arp(data)
            elif len(self.packets) < MAX_PACKETS and (
                packet := _packet(protocol, data, mac.hex(":"), kind == socket.PACKET_OUTGOING)
            ):
                self.packets.append(packet)


MAX_PACKETS = 10_000
"""Of a flood no more is judged."""


def _packet(protocol: int, data: bytes, mac: str, sent: bool) -> Packet | None:
    wall = time.time()
    if protocol == ETH_P_IP and len(data) >= 20:
        header, total = (data[0] & 0x0F) * 4, int.from_bytes(data[2:4], "big")
        source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
        return Packet(mac, source, destination, data[8], data[header:total], sent, wall)
    if protocol == ETH_P_IPV6 and len(data) >= 40:
        total = 40 + int.from_bytes(data[4:6], "big")
        return Packet(
            mac, IPv6Address(data[8:24]), IPv6Address(data[24:40]), data[7], data[40:total], sent, wall
        )
    return None


class _Arp:
    """Asks who has an IPv4 address, without telling who asks. Answers are read from the tap."""

    def __init__(self, link: Link) -> None:
        self.answers: dict[Address, set[str]] = {}
        self._mac = bytes.fromhex(link.mac.replace(":", ""))
        self._to = (link.name, ETH_P_ARP, 0, 0, BROADCAST)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            probe = ARP.pack(1, ETH_P_IP, 6, 4, 1, self._mac, bytes(4), bytes(6), address.packed)
            with suppress(OSError):  # the link went down; that is a finding of its own
                self._socket.sendto(probe, self._to)

    def read(self) -> None:
        """It is bound to no protocol and so gets nothing."""

    def arp(self, data: bytes) -> None:
        if len(data) >= ARP.size:
            *_, mac, sender, _, _ = ARP.unpack_from(data)
            if sender != bytes(4) and mac != self._mac:
                self.answers.setdefault(IPv4Address(sender), set()).add(mac.hex(":"))


class _Neighbours:
    """Solicits the neighbour that has an IPv6 address (RFC 4861 §4.3)."""

    def __init__(self, link: Link) -> None:
        self.answers: dict[Address, set[str]] = {}
        self._mac = bytes.fromhex(link.mac.replace(":", ""))
        self._index = socket.if_nametoindex(link.name)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.name.encode())
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            solicited = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
            message = struct.pack("!BBHI", SOLICIT, 0, 0, 0) + address.packed + b"\x01\x01" + self._mac
            with suppress(OSError):  # without an address to ask from; that is a finding of its own
                self._socket.sendto(message, (str(solicited), 0, 0, self._index))

    def read(self) -> None:
        for _ in range(MAX_DRAIN):
            try:
                data = self._socket.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            if len(data) >= 32 and data[0] == NEIGHBOR_ADVERTISEMENT and data[24] == OPTION_TARGET_LINK_LAYER:
                self.answers.setdefault(IPv6Address(data[8:24]), set()).add(data[26:32].hex(":"))

    def arp(self, data: bytes) -> None:
        """Of no interest to IPv6."""
