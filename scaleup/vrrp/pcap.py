"""`--pcap FILE`: what was sent and heard, for Wireshark or tcpdump -r.

The format is libpcap's: a header of 24 bytes, then each packet with 16 bytes before it. The link type is raw IP.
Sockets hand out what follows the IP header, so each packet gets one anew from its addresses and TTL, and the
protocol number of VRRP even when it travelled by UDP. What was heard is recorded before it is judged.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scaleup.errors import StartupError
from scaleup.vrrp.network import TOS_INTERNETWORK_CONTROL, Datagram, Network
from scaleup.vrrp.packet import HOP_LIMIT, PROTOCOL, Address, ones_sum

log = logging.getLogger(__name__)

FILE_HEADER = struct.Struct(
    "<IHHiIII"
)  # magic, version (2 numbers), zone, accuracy, longest packet, link type
PACKET_HEADER = struct.Struct("<IIII")  # seconds, microseconds, bytes here, bytes on the wire
MAGIC, LINKTYPE_RAW, LONGEST = 0xA1B2C3D4, 101, 65535
MAX_FILE_BYTES = 100_000_000  # more than a million advertisements; a forgotten option must not fill a disk


class Recorded:
    """A network that writes down what goes through it. Raises StartupError."""

    def __init__(self, network: Network, path: Path, wall_clock: Callable[[], float]) -> None:
        self._network, self._wall_clock = network, wall_clock
        self.source, self.peers = network.source, network.peers
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise StartupError(f"--pcap {path}: {error.strerror}") from None
        self._room = MAX_FILE_BYTES
        self._write(FILE_HEADER.pack(MAGIC, 2, 4, 0, 0, LONGEST, LINKTYPE_RAW))

    def fileno(self) -> int:
        return self._network.fileno()

    def close(self) -> None:
        self._network.close()
        self._file.close()

    def send(self, message_to: Callable[[Address], bytes]) -> Sequence[tuple[Address, OSError]]:
        def recorded(destination: Address) -> bytes:
            message = message_to(destination)
            self._record(Datagram(message, self.source, destination, HOP_LIMIT))
            return message

        return self._network.send(recorded)

    def receive(self) -> Iterator[Datagram]:
        for datagram in self._network.receive():
            self._record(datagram)
            yield datagram

    def _record(self, datagram: Datagram) -> None:
        packet = ip_header(datagram) + datagram.data
        seconds, fraction = divmod(self._wall_clock(), 1)
        head = PACKET_HEADER.pack(int(seconds), int(fraction * 1e6), len(packet), len(packet))
        self._write(head + packet)

    def _write(self, data: bytes) -> None:
        """An election goes on when the disk is full, or the file too long: without the record."""
        if self._room <= 0:
            return
        self._room -= len(data)
        reason = f"it has {MAX_FILE_BYTES} bytes" if self._room <= 0 else None
        if reason is None:
            try:
                self._file.write(data)
            except OSError as error:
                reason, self._room = error.strerror or "it cannot be written", 0
        if reason is not None:
            log.warning("%s: no more packets are recorded: %s", self._file.name, reason)


def ip_header(datagram: Datagram) -> bytes:
    """The header, IPv4's or IPv6's, that the datagram has come or will go with."""
    addresses = datagram.source.packed + datagram.destination.packed
    hop_limit, length = datagram.hop_limit or 0, len(datagram.data)
    if datagram.source.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28 | TOS_INTERNETWORK_CONTROL << 20, length, PROTOCOL, hop_limit)
            + addresses
        )
    fields = (0x45, TOS_INTERNETWORK_CONTROL, 20 + length, 0, 0, hop_limit, PROTOCOL)
    unsummed = struct.pack("!BBHHHBB", *fields)
    checksum = -ones_sum(unsummed + addresses) % 0xFFFF
    return unsummed + struct.pack("!H", checksum) + addresses
