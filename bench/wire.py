"""What is said on a network: advertisements of VRRP and gratuitous ARP, with the kernel's time of arrival.

The socket is on a third host, so the same packets at the same place tell of every peer. Times are the wall
clock's, in nanoseconds: that is the clock of the kernel's stamps (SO_TIMESTAMPNS).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from bench.lan import DEVICE, Host
from scaleup.vrrp.tap import ETH_P_ARP, ETH_P_IP, open_tap

SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35
TIMESPEC = struct.Struct("@ll")
PACKET_BYTES = 2048
BUFFER_BYTES = 4 << 20
"""Minutes of two nodes that say 100 things a second each."""


@dataclass(frozen=True)
class Advertisement:
    ns: int
    sender: str
    priority: int


@dataclass(frozen=True)
class Announcement:
    """Gratuitous ARP: `sender`, a hardware address, has `address`."""

    ns: int
    sender: str
    address: str


class Wire:
    """What `host` hears from now on. `sender` is a hardware address in both kinds."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self._socket = open_tap(DEVICE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[Advertisement | Announcement]:
        """What has come since the last call, in order."""
        found: list[Advertisement | Announcement] = []
        while True:
            try:
                data, ancillary, _, address = self._socket.recvmsg(
                    PACKET_BYTES, socket.CMSG_SPACE(TIMESPEC.size)
                )
            except BlockingIOError:
                return found
            ns = next(
                seconds * 10**9 + rest
                for _, kind, value in ancillary
                if kind == SO_TIMESTAMPNS
                for seconds, rest in [TIMESPEC.unpack(value)]
            )
            sender = address[4].hex(":")
            if address[1] == ETH_P_IP:
                header = (data[0] & 0x0F) * 4
                found.append(Advertisement(ns, sender, data[header + 2]))
            elif (
                address[1] == ETH_P_ARP and data[14:18] == data[24:28]
            ):  # sender and target are the same address: it is gratuitous
                found.append(Announcement(ns, sender, str(IPv4Address(data[14:18]))))
