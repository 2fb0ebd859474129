"""VRRPv3 advertisements as bytes, and back (RFC 9568 §5.2, and the checks of §7.1).

     0       4       8              16              24              31
    +-------+-------+---------------+---------------+---------------+
    |version| type  |     VRID      |   priority    | address count |
    +-------+-------+---------------+---------------+---------------+
    | rsvd  | Max_Advertise_Interval|           checksum            |
    +-------+-----------------------+-------------------------------+
    |        addresses, 4 bytes each in IPv4, 16 in IPv6            |

The IP header is not part of it; its addresses and its hop limit are arguments. `decode` wants exactly one
message. Where something follows it (the trailer of `auth`), `message_length` says where it ends.

The checksum is the one thing on which implementations disagree. Over IPv6 it covers a pseudo-header, as UDP's
does. Over IPv4 the RFC wants the message alone (§5.2.8), but keepalived and FRR go on adding a pseudo-header,
as they read RFC 5798. So we send what the setting says and accept both, unless told to be strict. The reserved
bits are ignored, as the RFC wants. Whether VRID and addresses are the receiver's own is for the receiver to judge.
Version 2, which differs in its last 8 bytes and in the unit of its interval, is in `legacy`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, get_args

Address = IPv4Address | IPv6Address

Checksum = Literal["pseudo-header", "rfc9568"]
"""What the checksum of an IPv4 packet covers besides the message: see the theory above."""

Cause = Literal[
    "ttl",
    "short",
    "version",
    "type",
    "no-addresses",
    "trailing",
    "checksum",
    "vrid",
    "interval",
    "link-local",
    "password",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Every cause of a PacketError, for metrics that want to start at 0."""

PROTOCOL = 112  # IP protocol number, §5.1.1.4 and §5.1.2.4
HOP_LIMIT = 255  # §5.1.1.3 and §5.1.2.3
GROUP_IPV4 = IPv4Address("224.0.0.18")  # §5.1.1.2
GROUP_IPV6 = IPv6Address("ff02::12")  # §5.1.2.2

VERSION = 3
TYPE_ADVERTISEMENT = 1

HEADER = struct.Struct("!BBBBHH")  # version and type, VRID, priority, count, reserved and interval, checksum
CHECKSUM_OFFSET = 6
INTERVAL_MASK = 0x0FFF  # the upper 4 bits are reserved, §5.2.6
MAX_INTERVAL_CS = 4095


class PacketError(Exception):
    """What arrived is no advertisement to act on. `cause` is one of CAUSES; its text is for a person."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause: Cause = cause


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One advertisement. Raises ValueError on what the format cannot carry.

    `vrid`: 1–255. `priority`: 0–255; 0 means "I stop", 255 "I own the addresses". `interval_cs`: hundredths
    of a second between advertisements, 1–4095 (Max_Advertise_Interval, §5.2.7). `addresses`: 1–255 of one
    family; the first of IPv6 is link-local (§5.2.9).
    """

    vrid: int
    priority: int
    interval_cs: int
    addresses: tuple[Address, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.vrid <= 255:
            raise ValueError(f"VRID {self.vrid} is not from 1 to 255")
        if not 0 <= self.priority <= 255:
            raise ValueError(f"priority {self.priority} is not from 0 to 255")
        if not 1 <= self.interval_cs <= MAX_INTERVAL_CS:
            raise ValueError(f"an interval of {self.interval_cs / 100} s is not from 0.01 to 40.95 s")
        if not 1 <= len(self.addresses) <= 255:
            raise ValueError(f"{len(self.addresses)} virtual addresses, where 1 to 255 fit")
        if len({address.version for address in self.addresses}) > 1:
            raise ValueError("virtual addresses of IPv4 and IPv6 need a virtual router each")
        first = self.addresses[0]
        if isinstance(first, IPv6Address) and not first.is_link_local:
            raise ValueError(f"the first virtual address of IPv6 is link-local (fe80::/10), not {first}")

    @property
    def interval(self) -> float:
        """Seconds between advertisements."""
        return self.interval_cs / 100

    @property
    def family(self) -> Literal[4, 6]:
        return self.addresses[0].version


def encode(
    adv: Advertisement, source: Address, destination: Address, *, checksum: Checksum = "pseudo-header"
) -> bytes:
    """The VRRP message, without an IP header. `source`, `destination`: those of the IP header it will get.

    Raises ValueError when the three are not of one family.
    """
    if not source.version == destination.version == adv.family:
        raise ValueError(f"{source}, {destination} and {adv.addresses[0]} are not of one family")
    version_type = VERSION << 4 | TYPE_ADVERTISEMENT
    count = len(adv.addresses)
    addresses = b"".join(address.packed for address in adv.addresses)
    unsummed = HEADER.pack(version_type, adv.vrid, adv.priority, count, adv.interval_cs, 0) + addresses
    value = _checksums(unsummed, source, destination)[checksum]
    return with_checksum(unsummed, value)


def decode(
    data: bytes,
    source: Address,
    destination: Address,
    *,
    hop_limit: int | None,
    checksums: Sequence[Checksum] = get_args(Checksum),
) -> Advertisement:
    """Read one message that came from `source` to `destination`; the checks of §7.1 in a useful order.

    `hop_limit`: the TTL or hop limit that it arrived with; None: unknown, and not judged. `checksums`: the
    readings of the checksum that are believed. Raises PacketError, and nothing else whatever the bytes.
    """
    if hop_limit is not None and hop_limit != HOP_LIMIT:
        raise PacketError("ttl", f"TTL {hop_limit}, not {HOP_LIMIT}: it has crossed a router")
    verify_head(data, source.version)
    _, vrid, priority, _, interval_cs, value = HEADER.unpack_from(data)
    interval_cs &= INTERVAL_MASK
    length = message_length(data, source.version)
    if len(data) > length:
        raise PacketError(
            "trailing", f"{len(data) - length} bytes after the message: does the sender use --auth?"
        )
    _verify_checksum(data, value, source, destination, checksums)
    if vrid == 0:
        raise PacketError("vrid", "VRID 0, where 1 to 255 are valid")
    if interval_cs == 0:
        raise PacketError("interval", "an interval of 0")
    addresses = addresses_in(data[HEADER.size :], source.version)
    if isinstance(addresses[0], IPv6Address) and not addresses[0].is_link_local:
        raise PacketError("link-local", f"the first address is {addresses[0]}, which is not link-local")
    return Advertisement(vrid, priority, interval_cs, addresses)


def verify_head(data: bytes, family: int) -> None:
    """What can be judged of a message without its sums, and whatever follows it. Raises PacketError."""
    if len(data) < HEADER.size:
        raise PacketError("short", f"{len(data)} bytes, where the header alone has {HEADER.size}")
    version, kind, count = data[0] >> 4, data[0] & 0x0F, data[3]
    if version != VERSION:
        hint = "; keepalived: vrrp_version 3, or here --vrrp-version 2" if version == 2 else ""
        raise PacketError("version", f"VRRP version {version}, where {VERSION} is spoken{hint}")
    if kind != TYPE_ADVERTISEMENT:
        raise PacketError("type", f"type {kind}, where only 1 (advertisement) is known")
    if count == 0:
        raise PacketError("no-addresses", "no virtual address in it")
    length = message_length(data, family)
    if len(data) < length:
        raise PacketError("short", f"{len(data)} bytes, where {count} addresses make {length}")


def message_length(data: bytes, family: int) -> int:
    """The length in bytes that the message at the start of `data` says it has. `family`: 4 or 6.

    Raises PacketError when `data` is too short to hold the count of addresses.
    """
    if len(data) < HEADER.size:
        raise PacketError("short", f"{len(data)} bytes, where the header alone has {HEADER.size}")
    return HEADER.size + data[3] * _width(family)


def cover(message: bytes, trailer: bytes) -> bytes:
    """The message with its checksum changed to cover `trailer` too, of an even length.

    That needs no address: the sum grows by the trailer and, in the pseudo-header, by its length (RFC 1624).
    """
    return with_checksum(message, _checksum_in(message) - ones_sum(trailer) - len(trailer))


def uncover(message: bytes, trailer: bytes) -> bytes:
    """The inverse of `cover`."""
    return with_checksum(message, _checksum_in(message) + ones_sum(trailer) + len(trailer))


def _verify_checksum(
    data: bytes, value: int, source: Address, destination: Address, believed: Sequence[Checksum]
) -> None:
    right = _checksums(data, source, destination)
    # 0x0000 and 0xffff are the same number in one's complement arithmetic, hence the remainder.
    if value % 0xFFFF in [right[reading] for reading in believed]:
        return
    sums = f"checksum {value:04x}, where {right['pseudo-header']:04x} is right"
    if source.version == 4:
        sums += f" with a pseudo-header and {right['rfc9568']:04x} without (RFC 9568)"
    if value % 0xFFFF in right.values():
        cure = "the sender reads the RFC differently: change --checksum there or here, or leave --strict out"
    else:
        cure = "it was damaged, or a NAT changed its addresses"
    raise PacketError("checksum", f"{sums}: {cure}")


def _checksums(data: bytes, source: Address, destination: Address) -> dict[Checksum, int]:
    """Both ideas of the checksum of a message, whatever its checksum field says. IPv6 has only one."""
    message = ones_sum(data) - _checksum_in(data)
    # RFC 768 for IPv4 and RFC 8200 §8.1 for IPv6 order the fields differently, which no sum can tell.
    pseudo_header = ones_sum(source.packed) + ones_sum(destination.packed) + len(data) + PROTOCOL
    with_pseudo_header = -(message + pseudo_header) % 0xFFFF
    plain = -message % 0xFFFF if source.version == 4 else with_pseudo_header
    return {"pseudo-header": with_pseudo_header, "rfc9568": plain}


def ones_sum(data: bytes) -> int:
    """The one's complement sum of the 16-bit words (RFC 1071), up to a multiple of 65535.

    2^16 leaves 1 when divided by 2^16 − 1, so the digits of a number in base 2^16 add up to its remainder.
    """
    return int.from_bytes(data, "big") % 0xFFFF


def _checksum_in(message: bytes) -> int:
    return int.from_bytes(message[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 2], "big")


def with_checksum(message: bytes, value: int) -> bytes:
    field = (value % 0xFFFF).to_bytes(2, "big")
    return message[:CHECKSUM_OFFSET] + field + message[CHECKSUM_OFFSET + 2 :]


def addresses_in(data: bytes, family: int) -> tuple[Address, ...]:
    kind = IPv4Address if family == 4 else IPv6Address
    width = _width(family)
    return tuple(kind(data[start : start + width]) for start in range(0, len(data), width))


def _width(family: int) -> int:
    return 4 if family == 4 else 16
