"""Telling the neighbours who has an address now: the frames, and when to send them. ●

IPv4: a gratuitous ARP request, to everybody, sender and target both the address (RFC 9568 §8.1.2, and as
keepalived sends it). IPv6: an unsolicited Neighbor Advertisement to all nodes with R = 1, S = 0, O = 1
(§6.4.2). They carry the interface's own hardware address: a virtual one, as the RFC wants, would need an
interface of its own.

A frame can be lost, and while the one that had the address before is stopped or cut off, its kernel goes on
answering for it, for at most the lifetime that `kernel` gives an address. So there is a burst on taking it, single
ones past that lifetime, and a second burst for those who were cut off. The names and defaults are keepalived's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from heapq import heappop, heappush
from ipaddress import IPv4Address, IPv6Address

from scaleup.vrrp.packet import Address, ones_sum

BROADCAST = b"\xff" * 6
ALL_NODES, ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")
ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ARP = struct.Struct("!HHBBH6s4s6s4s")
ICMPV6 = 58
NEIGHBOR_ADVERTISEMENT = 136
ROUTER, OVERRIDE = 0x80000000, 0x20000000
OPTION_TARGET_LINK_LAYER = 2

LINGER_SECONDS, LINGER_EVERY_SECONDS = 2.5, 0.5
"""Single announcements after the first burst: a little longer than a dead owner's kernel keeps the address."""
REMIND_EVERY_SECONDS = 1.0
"""A flood of lower priorities must not become one of ARP."""


def frame(hardware: bytes, address: Address) -> bytes:
    """An Ethernet frame that says that `address` is at `hardware` (6 bytes)."""
    if isinstance(address, IPv4Address):
        return _ethernet(BROADCAST, hardware, ETHERTYPE_ARP) + gratuitous_arp(hardware, address)
    return _ethernet(ALL_NODES_MAC, hardware, ETHERTYPE_IPV6) + unsolicited_advertisement(hardware, address)


def gratuitous_arp(hardware: bytes, address: IPv4Address) -> bytes:
    """RFC 826, from Ethernet (1) and IPv4 (0x0800): operation 1, request."""
    return ARP.pack(1, 0x0800, 6, 4, 1, hardware, address.packed, BROADCAST, address.packed)


def unsolicited_advertisement(hardware: bytes, address: IPv6Address) -> bytes:
    """The IPv6 packet of RFC 4861 §4.4, from the address itself, hop limit 255."""
    option = struct.pack("!BB6s", OPTION_TARGET_LINK_LAYER, 1, hardware)
    body = struct.pack("!I16s", ROUTER | OVERRIDE, address.packed) + option
    head = struct.pack("!BB", NEIGHBOR_ADVERTISEMENT, 0)
    length = len(head) + 2 + len(body)
    pseudo_header = address.packed + ALL_NODES.packed + struct.pack("!II", length, ICMPV6)
    checksum = (-ones_sum(pseudo_header + head + b"\0\0" + body)) % 0xFFFF
    header = struct.pack("!IHBB", 6 << 28, length, ICMPV6, 255) + address.packed + ALL_NODES.packed
    return header + head + struct.pack("!H", checksum) + body


def _ethernet(to: bytes, source: bytes, kind: int) -> bytes:
    return to + source + struct.pack("!H", kind)


@dataclass(frozen=True, slots=True)
class Habits:
    """keepalived's garp_master_*, garp_lower_prio_*: counts, and seconds. A delay or a refresh of 0: none."""

    repeat: int = 5
    delay: float = 5.0
    refresh: float = 0.0
    refresh_repeat: int = 1
    lower_prio_repeat: int = 5
    lower_prio_delay: float = 5.0


class Schedule:
    """When to announce. Each call returns how many announcements of every address are due now."""

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._due: list[tuple[float, int]] = []
        self._next_refresh: float | None = None
        self._reminded: float | None = None

    @property
    def deadline(self) -> float | None:
        """When `expired` is to be called."""
        times = [time for time, _ in self._due[:1]]
        if self._next_refresh is not None:
            times.append(self._next_refresh)
        return min(times, default=None)

    def taken(self, now: float) -> int:
        """The addresses are ours now."""
        habits = self._habits
        self.lost()
        for number in range(1, int(LINGER_SECONDS / LINGER_EVERY_SECONDS) + 1):
            heappush(self._due, (now + number * LINGER_EVERY_SECONDS, 1))
        if habits.delay:
            heappush(self._due, (now + habits.delay, habits.repeat))
        if habits.refresh:
            self._next_refresh = now + habits.refresh
        return habits.repeat

    def reminded(self, now: float) -> int:
        """Somebody of lower priority claimed them, who may have told the neighbours."""
        habits = self._habits
        if self._reminded is not None and now < self._reminded + REMIND_EVERY_SECONDS:
            return 0
        self._reminded = now
        if habits.lower_prio_delay and len(self._due) < MAX_DUE:
            heappush(self._due, (now + habits.lower_prio_delay, habits.lower_prio_repeat))
        return habits.lower_prio_repeat

    def expired(self, now: float) -> int:
        """`deadline` has come. What is overdue is sent once: neighbours need the newest word only."""
        count = 0
        while self._due and self._due[0][0] <= now:
            count = max(count, heappop(self._due)[1])
        if self._next_refresh is not None and self._next_refresh <= now:
            count = max(count, self._habits.refresh_repeat)
            self._next_refresh = now + self._habits.refresh
        return count

    def lost(self) -> None:
        """They are not ours any more."""
        self._due.clear()
        self._next_refresh = self._reminded = None


MAX_DUE = 64
"""Bursts that may wait: at one reminder a second and a delay of at most a minute, none is ever dropped."""
