"""VRRPv2 (RFC 3768) on IPv4: what keepalived speaks unless it is told `vrrp_version 3`. ●

     0       4       8              16              24              31
    +-------+-------+---------------+---------------+---------------+
    |version| type  |     VRID      |   priority    | address count |
    +-------+-------+---------------+---------------+---------------+
    |   auth type   | Adver_Int, s  |           checksum            |
    +---------------+---------------+---------------+---------------+
    |        addresses, 4 bytes each                                |
    |        authentication data, 8 bytes                           |

The interval is in whole seconds and must be the receiver's own (§7.1), so it is not learned. The checksum covers
the message alone. The password of auth type 1 travels in clear text: it keeps apart what was put on one
network by mistake, and stops nobody else. There is no VRRPv2 for IPv6.
"""

from __future__ import annotations

import hmac
import struct

from scaleup.vrrp.packet import (
    CHECKSUM_OFFSET,
    TYPE_ADVERTISEMENT,
    Advertisement,
    PacketError,
    addresses_in,
    ones_sum,
    with_checksum,
)

VERSION = 2
HEADER = struct.Struct("!BBBBBBH")
PASSWORD_BYTES = 8
AUTH_NONE, AUTH_PASS = 0, 1  # RFC 2338 §5.3.6; RFC 3768 keeps the field and only 0


def encode(adv: Advertisement, password: bytes | None = None) -> bytes:
    """The message, without an IP header. `password`: up to 8 bytes. Raises ValueError on what does not fit."""
    if adv.family != 4:
        raise ValueError("VRRPv2 carries IPv4 addresses only")
    seconds, rest = divmod(adv.interval_cs, 100)
    if rest or not 1 <= seconds <= 255:
        raise ValueError(f"VRRPv2 says whole seconds, 1 to 255, not {adv.interval:g}")
    if password is not None and len(password) > PASSWORD_BYTES:
        raise ValueError(f"a password of VRRPv2 has at most {PASSWORD_BYTES} bytes, not {len(password)}")
    auth_type = AUTH_NONE if password is None else AUTH_PASS
    head = (VERSION << 4 | TYPE_ADVERTISEMENT, adv.vrid, adv.priority, len(adv.addresses), auth_type, seconds)
    addresses = b"".join(address.packed for address in adv.addresses)
    unsummed = HEADER.pack(*head, 0) + addresses + (password or b"").ljust(PASSWORD_BYTES, b"\0")
    return with_checksum(unsummed, -ones_sum(unsummed))


def decode(data: bytes, interval: float, password: bytes | None = None) -> Advertisement:
    """Read one message; the checks of RFC 3768 §7.1 but that of the TTL. `interval`: the receiver's own, seconds.

    Raises PacketError, and nothing else whatever the bytes.
    """
    if len(data) < HEADER.size:
        raise PacketError("short", f"{len(data)} bytes, where the header alone has {HEADER.size}")
    version_type, vrid, priority, count, auth_type, seconds, value = HEADER.unpack_from(data)
    if version_type >> 4 != VERSION:
        hint = "; keepalived: vrrp_version 2, or here --vrrp-version 3" if version_type >> 4 == 3 else ""
        raise PacketError("version", f"VRRP version {version_type >> 4}, where {VERSION} is spoken{hint}")
    if version_type & 0x0F != TYPE_ADVERTISEMENT:
        raise PacketError("type", f"type {version_type & 0x0F}, where only 1 (advertisement) is known")
    if count == 0:
        raise PacketError("no-addresses", "no virtual address in it")
    end = HEADER.size + 4 * count
    if len(data) < end + PASSWORD_BYTES:
        raise PacketError("short", f"{len(data)} bytes, where {count} addresses make {end + PASSWORD_BYTES}")
    if len(data) > end + PASSWORD_BYTES:
        raise PacketError("trailing", f"{len(data) - end - PASSWORD_BYTES} bytes after the message")
    _verify_checksum(data, value)
    _verify_password(auth_type, data[end:], password)
    if vrid == 0:
        raise PacketError("vrid", "VRID 0, where 1 to 255 are valid")
    if seconds != interval:
        raise PacketError(
            "interval", f"an interval of {seconds} s, where {interval:g} s is ours; see --interval"
        )
    return Advertisement(vrid, priority, seconds * 100, addresses_in(data[HEADER.size : end], 4))


def _verify_checksum(data: bytes, value: int) -> None:
    unsummed = data[:CHECKSUM_OFFSET] + b"\0\0" + data[CHECKSUM_OFFSET + 2 :]
    right = -ones_sum(unsummed) % 0xFFFF
    if value % 0xFFFF != right:
        raise PacketError("checksum", f"checksum {value:04x}, where {right:04x} is right: it was damaged")


def _verify_password(auth_type: int, theirs: bytes, password: bytes | None) -> None:
    wanted = AUTH_NONE if password is None else AUTH_PASS
    if auth_type != wanted:
        raise PacketError(
            "password", f"authentication of type {auth_type}, where {wanted} is ours; see --auth pass:FILE"
        )
    if password is not None and not hmac.compare_digest(theirs, password.ljust(PASSWORD_BYTES, b"\0")):
        raise PacketError("password", "another password; see --auth pass:FILE")
