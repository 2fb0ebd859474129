"""The part of rtnetlink (man 7 rtnetlink) that owning an address takes: add, remove, promote, list, watch.

    16 bytes  nlmsghdr   length, type, flags, sequence, port (here: 0, the kernel fills it in)
     8 bytes  ifaddrmsg  family, prefix length, flags, scope, index
    then attributes, each with 2 bytes of length and 2 of type, padded to 4

Calls are synchronous on purpose: the kernel answers inside the system call (0.05 ms), and a router that takes
an address has to have it before it says so. The libraries at hand run an event loop of their own for this,
which cannot run inside ours, or have to be awaited.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import Self

from scaleup.vrrp.packet import Address

# <linux/rtnetlink.h>, <linux/netlink.h>, <linux/if_addr.h>, <linux/if_link.h>, <linux/ip.h>, <linux/if.h>
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_DUMP, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x300, 0x400
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8
IFLA_IFNAME, IFLA_AF_SPEC, IFLA_INET_CONF = 3, 26, 1
IPV4_DEVCONF_PROMOTE_SECONDARIES = 20
IFA_F_NODAD = 0x02
IFF_UP, IFF_RUNNING = 0x1, 0x40
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100

HEADER = struct.Struct("=IHHII")
IFADDRMSG = struct.Struct("=BBBBI")
IFINFOMSG = struct.Struct("=BxHiII")
ATTRIBUTE = struct.Struct("=HH")
CACHEINFO = struct.Struct("=IIII")  # preferred, valid, created, changed

READ_BYTES = 65536  # more than any message of a dump; the kernel uses 32 KiB at most
ANSWER_SECONDS = 1.0  # the kernel answers at once, or something is very wrong
FOREVER = 0xFFFFFFFF  # a lifetime, <linux/if_addr.h> INFINITY_LIFE_TIME
MAX_DRAIN = 1000
"""Messages read at once by `events`, so that a flood of them cannot keep the timer from its turn."""


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """An interface has (`present`), or has lost, an address. `lifetime`: seconds that it is still valid for."""

    ip: Address
    prefix: int
    index: int
    present: bool
    lifetime: int = FOREVER


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """`running`: up, and the link too; `exists`: False when the interface was removed."""

    name: str
    index: int
    running: bool
    exists: bool


@dataclass(frozen=True, slots=True)
class Overrun:
    """Events came faster than they were read, and some are lost: look again."""


Event = AddressEvent | LinkEvent | Overrun


class Rtnetlink:
    """A netlink socket for requests, in the network namespace of the caller."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(ANSWER_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def add(self, address: IPv4Interface | IPv6Interface, index: int, lifetime: int) -> None:
        """Put the address on the interface, or renew its lifetime, in whole seconds. Raises OSError.

        An IPv6 address is usable at once (no duplicate address detection), and deprecated from the start: answered
        for, but not chosen as the source of what this host sends by itself. An IPv4 one is not chosen either,
        while the interface has an older one in that network.
        """
        preferred = 0 if address.version == 6 else lifetime
        attributes = (
            _attribute(IFA_LOCAL, address.ip.packed)
            + _attribute(IFA_ADDRESS, address.ip.packed)
            + _attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD if address.version == 6 else 0))
            + _attribute(IFA_CACHEINFO, CACHEINFO.pack(preferred, lifetime, 0, 0))
        )
        self._request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _ifaddrmsg(address, index) + attributes)

    def remove(self, address: IPv4Interface | IPv6Interface, index: int) -> None:
        """Take the address off the interface. Raises OSError; FileNotFoundError when it is not there."""
        body = _ifaddrmsg(address, index) + _attribute(IFA_LOCAL, address.ip.packed)
        try:
            self._request(RTM_DELADDR, 0, body)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise FileNotFoundError(errno.ENOENT, f"{address} is not there") from None
            raise

    def promote_secondaries(self, index: int) -> None:
        """From now on an IPv4 address that is removed leaves the others of its network there. Raises OSError.

        By default the kernel removes with the first address of a network all that came after it.
        """
        setting = _attribute(IPV4_DEVCONF_PROMOTE_SECONDARIES, struct.pack("=I", 1))
        family = _attribute(socket.AF_INET, _attribute(IFLA_INET_CONF, setting))
        body = IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _attribute(IFLA_AF_SPEC, family)
        self._request(RTM_SETLINK, 0, body)

    def addresses(self) -> list[AddressEvent]:
        """Every address of every interface, in the order of the kernel: primary ones first."""
        found = self._dump(RTM_GETADDR, IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return [event for event in found if isinstance(event, AddressEvent)]

    def links(self) -> list[LinkEvent]:
        """Every interface."""
        found = self._dump(RTM_GETLINK, IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return [event for event in found if isinstance(event, LinkEvent)]

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
        for answer, payload in self._answers():
            if answer == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", payload)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return

    def _dump(self, kind: int, body: bytes) -> list[Event]:
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
        found: list[Event] = []
        for answer, payload in self._answers():
            if answer == NLMSG_DONE:
                break
            found.extend(_events(answer, payload))
        return found

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._socket.sendto(header + body, (0, 0))

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """What answers the last request; what came too late for an earlier one is passed over."""
        while True:
            for kind, sequence, payload in _messages(self._socket.recv(READ_BYTES)):
                if sequence == self._sequence:
                    yield kind, payload


class Watch:
    """A socket that hears of every change of links and addresses, for a loop's add_reader."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self.socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self.socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        except OSError:
            self.socket.close()
            raise

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def events(self) -> Iterator[Event]:
        """What has changed since the last call."""
        for _ in range(MAX_DRAIN):
            try:
                data = self.socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield Overrun()
                continue
            for kind, _, payload in _messages(data):
                yield from _events(kind, payload)


def _ifaddrmsg(address: IPv4Interface | IPv6Interface, index: int) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)


def _attribute(kind: int, value: bytes) -> bytes:
    data = ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value
    return data + bytes(-len(data) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence and what follows the header of each message."""
    while len(data) >= HEADER.size:
        length, kind, _, sequence, _ = HEADER.unpack_from(data)
        yield kind, sequence, data[HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _events(kind: int, payload: bytes) -> Sequence[Event]:
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        _, prefix, _, _, index = IFADDRMSG.unpack_from(payload)
        attributes = _attributes(payload[IFADDRMSG.size :])
        raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)  # IPv6 has the latter alone
        if raw is not None:
            info = attributes.get(IFA_CACHEINFO)
            lifetime = FOREVER if info is None else CACHEINFO.unpack(info)[1]
            return [AddressEvent(ip_address(raw), prefix, index, kind == RTM_NEWADDR, lifetime)]
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        family, _, index, flags, _ = IFINFOMSG.unpack_from(payload)
        name = _attributes(payload[IFINFOMSG.size :]).get(IFLA_IFNAME, b"").rstrip(b"\0").decode()
        if family != socket.AF_UNSPEC:
            return []  # a bridge's word about its port, which is no removal of it
        up = flags & IFF_UP and flags & IFF_RUNNING
        return [LinkEvent(name, index, bool(up), kind == RTM_NEWLINK)]
    return []


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if length < ATTRIBUTE.size:
            break
        found[kind] = data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found
