"""How advertisements travel: the interface, and its form for nodes that may not open raw sockets, unicast UDP.

The payload of the datagrams is what would follow the IP header of protocol 112, so packets, checksum and
authentication are the same as on the wire of RFC 9568 (see `rawip`). TTL 255 is sent and required, as there:
nothing that was routed is believed.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

from scaleup.errors import StartupError
from scaleup.net.sockets import IP_RECVTTL
from scaleup.vrrp.auth import TRAILER_BYTES
from scaleup.vrrp.packet import HEADER, HOP_LIMIT, Address

TOS_INTERNETWORK_CONTROL = 0xC0  # as keepalived sends, so that queues treat it as routing traffic
MAX_DATAGRAM_BYTES = HEADER.size + 255 * 16 + TRAILER_BYTES  # 255 IPv6 addresses, authenticated
MAX_DRAIN = 500
"""Datagrams taken at once: more than a socket's buffer holds by default (about 280 advertisements), so that
a late reader reads all that waited for it; bounded, so that a flood cannot keep the timer from its turn."""


SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>
TIMESPEC = struct.Struct("@ll")
STAMP_ROOM = socket.CMSG_SPACE(TIMESPEC.size)
MAX_AGE_SECONDS = 0.005
"""Arrivals are stamped by the wall clock: if that is set just then, an interval may not suffer more than this."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """`data`: what follows the IP header, or UDP's. `destination`: as the IP header says it. `age`: seconds that it
    waited for us, MAX_AGE_SECONDS at most.
    """

    data: bytes
    source: Address
    destination: Address
    hop_limit: int | None
    age: float = field(default=0.0, compare=False)


def stamp_arrivals(sock: socket.socket) -> None:
    """So that `age_of` can tell of each; where the kernel does not, nothing has an age."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def age_of(ancillary: Sequence[tuple[int, int, bytes]]) -> float:
    """`Datagram.age`, from what recvmsg tells beside the data; 0 when it tells nothing of that."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(value)
            arrived: int = seconds * 10**9 + nanoseconds
            age = (time.clock_gettime_ns(time.CLOCK_REALTIME) - arrived) / 1e9
            return min(max(age, 0.0), MAX_AGE_SECONDS)
    return 0.0


class Network(Protocol):
    """`source`: this node's own address. `peers`: whom to believe; None: whoever is on the link."""

    source: Address
    peers: tuple[Address, ...] | None

    def fileno(self) -> int: ...

    def close(self) -> None: ...

    def send(self, message_to: Callable[[Address], bytes]) -> Sequence[tuple[Address, OSError]]:
        """Send to each destination what `message_to(destination)` gives; the checksum covers the destination.

        Returns the destinations that could not be reached, with the reason. Never blocks.
        """
        ...

    def receive(self) -> Iterator[Datagram]:
        """What has arrived, at most MAX_DRAIN datagrams."""
        ...


class UnicastUdp:
    """A socket on `source`:`port` that talks to the same port of each peer. Raises StartupError."""

    def __init__(self, source: Address, port: int, peers: Sequence[Address]) -> None:
        self.source = source
        self.peers: tuple[Address, ...] | None = tuple(peers)
        self._port = port
        family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise StartupError(f"--source {source}: {error.strerror}") from None
        try:
            self._set_options()
            self._socket.bind((str(source), port))
        except OSError as error:
            self._socket.close()
            cure = _CURES.get(error.errno or 0, "")
            raise StartupError(f"--source {source}, UDP port {port}: {error.strerror}{cure}") from None

    def _set_options(self) -> None:
        self._socket.setblocking(False)
        stamp_arrivals(self._socket)
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TOS_INTERNETWORK_CONTROL)
            self._socket.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TOS_INTERNETWORK_CONTROL)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message_to: Callable[[Address], bytes]) -> Sequence[tuple[Address, OSError]]:
        failed = []
        for peer in self.peers or ():
            try:
                self._socket.sendto(message_to(peer), (str(peer), self._port))
            except OSError as error:
                failed.append((peer, error))
        return failed

    def receive(self) -> Iterator[Datagram]:
        for _ in range(MAX_DRAIN):
            try:
                data, ancillary, _, address = self._socket.recvmsg(MAX_DATAGRAM_BYTES, _ANCILLARY_ROOM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for something sent earlier (ECONNREFUSED)
            hop_limit = None
            for level, kind, value in ancillary:
                if (level, kind) in _HOP_LIMITS:
                    hop_limit = int.from_bytes(value[:4], sys.byteorder)
            yield Datagram(data, ip_address(address[0]), self.source, hop_limit, age_of(ancillary))


_HOP_LIMITS = (
    (socket.IPPROTO_IP, socket.IP_TTL),
    (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
)
_ANCILLARY_ROOM = socket.CMSG_SPACE(4) + STAMP_ROOM
_CURES = {
    errno.EADDRINUSE: "; end the other election there, or choose another --vrrp-port on all nodes",
    errno.EADDRNOTAVAIL: "; no interface of this host has the address",
}
