"""Advertisements as RFC 9568 has them: IP protocol 112 on an interface, to the group or to each peer.

Sent with TTL 255 from `source`, on `interface` whatever the routing table says. A raw IPv4 socket is given the
IP header too, from which come the source, the destination and the TTL; a raw IPv6 one is told them beside the
data. Both see every packet of protocol 112 on the interface, so the kernel filters (see `bpf`).
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from scaleup.errors import StartupError
from scaleup.vrrp import bpf
from scaleup.vrrp.interface import index_of
from scaleup.vrrp.network import (
    MAX_DATAGRAM_BYTES,
    MAX_DRAIN,
    STAMP_ROOM,
    TOS_INTERNETWORK_CONTROL,
    Datagram,
    age_of,
    stamp_arrivals,
)
from scaleup.vrrp.packet import GROUP_IPV4, GROUP_IPV6, HOP_LIMIT, PROTOCOL, Address

SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER_BYTES = 1 << 20
"""About 1,300 advertisements as the kernel counts them: 5 s of the shortest interval from two peers."""

MAX_IP_HEADER_BYTES = 60


class RawIp:
    """`peers`: unicast to them; None: multicast, to whoever is on the link. Raises StartupError."""

    def __init__(
        self, interface: str, source: Address, vrid: int, peers: Sequence[Address] | None = None
    ) -> None:
        self.source = source
        self.peers = None if peers is None else tuple(peers)
        self._index = index_of(interface)
        family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW, PROTOCOL)
        except OSError as error:
            cure = "; grant CAP_NET_RAW, or say --transport udp" if error.errno == errno.EPERM else ""
            raise StartupError(f"a raw socket for VRRP: {error.strerror}{cure}") from None
        try:
            self._filter(vrid)
            self._set_options(interface)
            if peers is None:
                self._join()
            if (
                peers is not None or source.version == 6
            ):  # a bound IPv4 one hears what is sent to `source` alone
                self._socket.bind(self._to(source))
        except OSError as error:
            self._socket.close()
            raise StartupError(
                f"--interface {interface}, source {source}: {error.strerror}{_CURES.get(error.errno or 0, '')}"
            ) from None

    def _filter(self, vrid: int) -> None:
        """First of all: what came before it would be read unfiltered, but harmlessly."""
        if self.peers is not None and len(self.peers) > bpf.MAX_FILTERED:
            return
        attach_filter(self._socket, bpf.only(vrid, self.source.version, self.peers))

    def _set_options(self, interface: str) -> None:
        sock = self._socket
        sock.setblocking(False)
        stamp_arrivals(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:  # it takes CAP_NET_ADMIN to go beyond net.core.rmem_max
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if self.source.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TOS_INTERNETWORK_CONTROL)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TOS_INTERNETWORK_CONTROL)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def _join(self) -> None:
        """The group, on this interface; the socket's end is the membership's, too."""
        if self.source.version == 4:
            mreqn = struct.pack("=4s4si", GROUP_IPV4.packed, self.source.packed, self._index)
            self._socket.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn
            )  # and the source with it
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
        else:
            mreq = struct.pack("=16si", GROUP_IPV6.packed, self._index)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, mreq)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message_to: Callable[[Address], bytes]) -> Sequence[tuple[Address, OSError]]:
        failed = []
        for destination in self._destinations():
            try:
                self._socket.sendto(message_to(destination), self._to(destination))
            except OSError as error:
                failed.append((destination, error))
        return failed

    def receive(self) -> Iterator[Datagram]:
        receive = self._receive_ipv4 if self.source.version == 4 else self._receive_ipv6
        for _ in range(MAX_DRAIN):
            try:
                datagram = receive()
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for something sent earlier, or the interface went down
            if datagram is not None:
                yield datagram

    def _destinations(self) -> Sequence[Address]:
        if self.peers is not None:
            return self.peers
        return (GROUP_IPV4 if self.source.version == 4 else GROUP_IPV6,)

    def _to(self, address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
        if address.version == 4:
            return (str(address), 0)
        return (str(address), 0, 0, self._index if address.is_link_local or address.is_multicast else 0)

    def _receive_ipv4(self) -> Datagram | None:
        packet, ancillary, _, _ = self._socket.recvmsg(MAX_IP_HEADER_BYTES + MAX_DATAGRAM_BYTES, STAMP_ROOM)
        header_bytes = (packet[0] & 0x0F) * 4
        source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        return Datagram(packet[header_bytes:], source, destination, packet[8], age_of(ancillary))

    def _receive_ipv6(self) -> Datagram | None:
        room = socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4) + STAMP_ROOM
        data, ancillary, _, address = self._socket.recvmsg(MAX_DATAGRAM_BYTES, room)
        told = {kind: value for level, kind, value in ancillary if level == socket.IPPROTO_IPV6}
        if socket.IPV6_PKTINFO not in told or socket.IPV6_HOPLIMIT not in told:
            return None
        hop_limit = int.from_bytes(told[socket.IPV6_HOPLIMIT][:4], sys.byteorder)
        source = ip_address(address[0].partition("%")[0])
        destination = IPv6Address(told[socket.IPV6_PKTINFO][:16])
        return Datagram(data, source, destination, hop_limit, age_of(ancillary))


_CURES = {
    errno.EADDRNOTAVAIL: "; the interface does not have the address (yet: duplicate address detection?)",
    errno.ENODEV: "; there is no such interface, or it does not do multicast",
    errno.EPERM: "; grant CAP_NET_RAW",
}


def attach_filter(sock: socket.socket, program: bytes) -> None:
    """A program as `bpf` makes it. Raises OSError."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // bpf.INSTRUCTION.size, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
