"""The frames of `announce` onto the link, through a packet socket.

One socket, whatever the number of routers and interfaces, for as long as this process lives: to close a packet
socket is to wait until the kernel has finished with it on all CPUs (12.6 ms were measured), and so long no
advertisement could be sent.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from scaleup.errors import StartupError
from scaleup.vrrp.announce import frame
from scaleup.vrrp.packet import Address

SIOCGIFNAME, SIOCGIFHWADDR = 0x8910, 0x8927  # man 7 netdevice
IFREQ_INDEX, IFREQ_ADDRESS = struct.Struct("@16si20x"), struct.Struct("@16sH6s16x")


class Announcer:
    """For sending only: of protocol 0, so that it receives nothing."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """May be repeated. Raises StartupError."""
        if self._socket is not None:
            return
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            cure = "; grant CAP_NET_RAW" if error.errno == errno.EPERM else ""
            raise StartupError(f"a packet socket for gratuitous ARP: {error.strerror}{cure}") from None

    def announce(self, address: Address, index: int) -> None:
        """That the interface of this index has the address. Raises OSError."""
        assert self._socket is not None  # see `open`
        name, _ = IFREQ_INDEX.unpack(fcntl.ioctl(self._socket, SIOCGIFNAME, IFREQ_INDEX.pack(b"", index)))
        asked = IFREQ_ADDRESS.pack(name, 0, b"")
        _, _, hardware = IFREQ_ADDRESS.unpack(fcntl.ioctl(self._socket, SIOCGIFHWADDR, asked))
        self._socket.sendto(frame(hardware, address), (name.rstrip(b"\0").decode(), 0))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
