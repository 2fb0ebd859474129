"""The PROXY protocol ●: who the client is, said by a proxy in front of its connection.

A relayed connection comes from the proxy's address. So the proxy begins it with a header that names both ends of
the client's own connection (doc/proxy-protocol.txt of HAProxy, whose sections are cited here):

    version 1   one line of text      PROXY TCP4 192.0.2.7 10.0.0.100 56324 443 CRLF
    version 2   binary                signature, command, family, length, addresses, TLVs

A header is believed by whoever reads it, so it is read only on listeners that expect one, and from senders that are
trusted. There it must come: a connection without one is refused, never guessed at (§2, "must not try to guess").

    writing     `v1(…)`, `v2(…)`; LOCAL for connections of our own, such as health checks
    reading     `parse(received)`, of all that came so far: None (more is needed), a Parsed, or Refused

The shell reads with MSG_PEEK and then takes `Parsed.length` bytes, or keeps the bytes beyond for the relay.
`parse` refuses at the first byte that cannot be right, and never asks for more than MAX_BYTES.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct

from scaleup.net.addresses import Endpoint

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""§2.2. It breaks every common protocol: none takes it for a request."""

V1_MAX_BYTES = 107
"""§2.1, "worst case", with CRLF."""

MAX_BYTES = 16_384
"""Of a whole header: what fits HAProxy's buffer. The format would allow 65,551."""


class Cause(StrEnum):
    """Why a header was refused: one counter each."""

    NOT_PROXY = "not_proxy"  # it begins with something else
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"  # a version, command or family that does not exist
    CHECKSUM = "checksum"
    TRUNCATED = "truncated"  # for the shell: the sender ended or was too slow before the header was whole


class Refused(ValueError):
    """It is not a PROXY header, or a broken one: close the connection (§2), and count `cause`."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class Tlv(IntEnum):
    """Types of TLVs that this module knows (§2.2.x); all others are kept as they are."""

    CRC32C = 0x03
    NOOP = 0x04


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    `source`, `destination`: both ends of the client's connection; both None: use the ends of this connection,
    because the sender speaks for itself (`local`) or of something that is not TCP. `tlvs`: (type, value), as
    they came.
    """

    source: Endpoint | None = None
    destination: Endpoint | None = None
    local: bool = False
    tlvs: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole header, the first `length` bytes of what was received."""

    header: Header
    length: int


# ----- writing ----------------------------------------------------------------------------------------


def v1(source: Endpoint, destination: Endpoint) -> bytes:
    """The line for a client at `source` that connected to `destination`.

    Raises ValueError unless both are addresses.
    """
    version, ours, theirs = _pair(source, destination)
    addresses = f"{_undotted(ours)} {_undotted(theirs)}"
    return f"PROXY TCP{version} {addresses} {source.port} {destination.port}\r\n".encode("ascii")


def v2(
    source: Endpoint,
    destination: Endpoint,
    tlvs: Sequence[tuple[int, bytes]] = (),
    *,
    checksum: bool = False,
) -> bytes:
    """The binary header, with `tlvs`. `checksum`: with CRC32C, too.

    Raises ValueError unless both are addresses and the whole is at most MAX_BYTES.
    """
    version, ours, theirs = _pair(source, destination)
    ports = _PORTS.pack(source.port, destination.port)
    return _binary(
        _PROXY, _TCP4 if version == 4 else _TCP6, ours.packed + theirs.packed + ports, tlvs, checksum
    )


def v2_local() -> bytes:
    """The header of a connection of our own: LOCAL, UNSPEC, no addresses (§2.2)."""
    return _binary(_LOCAL, _UNSPEC, b"", (), checksum=False)


def _pair(source: Endpoint, destination: Endpoint) -> tuple[int, _Address, _Address]:
    """Both addresses in one family, and its version: IPv6, unless both are IPv4 (perhaps seen through IPv6)."""
    ours, theirs = _address(source.host), _address(destination.host)
    if ours.version == theirs.version:
        return ours.version, ours, theirs
    return 6, _as_ipv6(ours), _as_ipv6(theirs)


_Address = IPv4Address | IPv6Address


@lru_cache(1024)  # reading an address costs more than all the rest of a header
def _address(host: str) -> _Address:
    address = ip_address(host.partition("%")[0])  # a zone means nothing on another host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _undotted(address: _Address) -> str:
    """An IPv6 address in hexadecimal digits and colons, as the specification wants it of a line.

    From Python 3.13 on `str` writes an IPv4 address in it with dots.
    """
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped) is not None:
        return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"
    return str(address)


def _as_ipv6(address: _Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(0xFFFF_0000_0000 | int(address))


def _binary(
    command: int, family: int, addresses: bytes, tlvs: Sequence[tuple[int, bytes]], checksum: bool
) -> bytes:
    if checksum:
        tlvs = [*tlvs, (Tlv.CRC32C, bytes(4))]
    following = addresses + b"".join([_TLV.pack(kind, len(value)) + value for kind, value in tlvs])
    if _V2.size + len(following) > MAX_BYTES:
        raise ValueError(
            f"a PROXY header of {_V2.size + len(following)} bytes: at most {MAX_BYTES} can be sent"
        )
    header = _V2.pack(SIGNATURE, command, family, len(following)) + following
    # The sum is over the whole header with zeros in its place, and its place is the end.
    return header[:-4] + crc32c(header).to_bytes(4) if checksum else header


# ----- reading ----------------------------------------------------------------------------------------


def parse(received: bytes) -> Parsed | None:
    """The header with which `received` begins; None: more bytes are needed. Raises Refused.

    `received`: everything that came so far, from the connection's first byte.
    """
    if received[:12] == SIGNATURE[: len(received)]:
        return _parse_v2(received)
    if received[:6] == b"PROXY "[: len(received)]:
        return _parse_v1(received)
    raise Refused(Cause.NOT_PROXY, f"it begins with {received[:12]!r}, not with a PROXY header")


_ADDRESS = rb"[0-9A-Fa-f.:]{2,39}"
_PORT = rb"0|[1-9][0-9]{0,4}"  # "Heading zeroes are not permitted"
_LINE = re.compile(rb"PROXY TCP([46]) (%b) (%b) (%b) (%b)" % (_ADDRESS, _ADDRESS, _PORT, _PORT))
_UNKNOWN_LINE = re.compile(rb"PROXY UNKNOWN( .*)?", re.DOTALL)


def _parse_v1(received: bytes) -> Parsed | None:
    line, found, _ = received[:V1_MAX_BYTES].partition(b"\r\n")
    # "The receiver must not tolerate a single CR or LF character to end the line"
    if b"\n" in line or b"\r" in (line if found else line[:-1]):
        raise Refused(Cause.MALFORMED, "its line does not end with CRLF")
    if not found:
        if len(received) >= V1_MAX_BYTES:
            raise Refused(Cause.TOO_LONG, f"no CRLF within {V1_MAX_BYTES} bytes")
        return None
    length = len(line) + 2
    if _UNKNOWN_LINE.fullmatch(line):  # "must ignore anything presented before the CRLF"
        return Parsed(Header(), length)
    fields = _LINE.fullmatch(line)
    if not fields:
        raise Refused(Cause.MALFORMED, f"{line!r} is not a PROXY line")
    version, source, destination, *ports = (field.decode("ascii") for field in fields.groups())
    return Parsed(Header(_read(version, source, ports[0]), _read(version, destination, ports[1])), length)


def _read(version: str, host: str, port: str) -> Endpoint:
    try:
        address = IPv4Address(host) if version == "4" else IPv6Address(host)
    except ValueError:
        raise Refused(Cause.MALFORMED, f"{host!r} is not an IPv{version} address") from None
    if int(port) > 65535:
        raise Refused(Cause.MALFORMED, f"{port} is not a port")
    return Endpoint(str(address), int(port))


_V2 = Struct("!12sBBH")
_PORTS = Struct("!HH")
_TLV = Struct("!BH")
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high half
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_ADDRESS_BYTES = {0: 0, 1: 12, 2: 36, 3: 216}
"""Of both addresses and ports, by family: UNSPEC, INET, INET6, UNIX."""
_TRANSPORTS = 3  # UNSPEC, STREAM, DGRAM


def _parse_v2(received: bytes) -> Parsed | None:
    if len(received) > 12 and received[12] not in (_LOCAL, _PROXY):
        raise Refused(Cause.UNKNOWN, f"version and command 0x{received[12]:02x}: only 0x20 and 0x21 exist")
    if len(received) < _V2.size:
        return None
    _, command, family, following = _V2.unpack_from(received)
    length = _V2.size + following
    if length > MAX_BYTES:
        raise Refused(Cause.TOO_LONG, f"{length} bytes long: at most {MAX_BYTES} are read")
    if len(received) < length:
        return None
    if command == _LOCAL:  # "discard the protocol block including the family which is ignored"
        return Parsed(Header(local=True), length)
    if family >> 4 not in _ADDRESS_BYTES or family & 15 >= _TRANSPORTS:
        raise Refused(Cause.UNKNOWN, f"family and transport 0x{family:02x} do not exist")
    header = received[:length]
    begin = _V2.size + _ADDRESS_BYTES[family >> 4]
    if family >> 4 == 0 or family & 15 == 0:
        # Of UNSPEC nobody knows how long its addresses are, so neither where TLVs would begin.
        return Parsed(Header(), length)
    if length < begin:
        raise Refused(
            Cause.MALFORMED, f"{following} bytes do not hold the addresses of family 0x{family:02x}"
        )
    tlvs = tuple(_tlvs(header, begin))
    if family not in (
        _TCP4,
        _TCP6,
    ):  # "falls back to the UNSPEC mode for the valid combinations [not supported]"
        return Parsed(Header(tlvs=tlvs), length)
    size = 4 if family == _TCP4 else 16
    kind = IPv4Address if family == _TCP4 else IPv6Address
    source, destination = header[16 : 16 + size], header[16 + size : 16 + 2 * size]
    source_port, destination_port = _PORTS.unpack_from(header, 16 + 2 * size)
    return Parsed(
        Header(
            Endpoint(str(kind(source)), source_port),
            Endpoint(str(kind(destination)), destination_port),
            tlvs=tlvs,
        ),
        length,
    )


def _tlvs(header: bytes, at: int) -> list[tuple[int, bytes]]:
    """Those from `at` to the end, which they must fill exactly; a checksum among them must be right."""
    found = []
    while at < len(header):
        if len(header) - at < _TLV.size:
            raise Refused(Cause.MALFORMED, f"{len(header) - at} bytes after the last TLV")
        kind, size = _TLV.unpack_from(header, at)
        at += _TLV.size
        value = header[at : at + size]
        if len(value) < size:
            raise Refused(Cause.MALFORMED, f"TLV 0x{kind:02x} of {size} bytes passes the end of the header")
        if kind == Tlv.CRC32C:
            if size != 4:
                raise Refused(Cause.MALFORMED, f"a checksum of {size} bytes: CRC32C has 4")
            if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value):
                raise Refused(Cause.CHECKSUM, "the checksum is wrong")
        found.append((kind, value))
        at += size
    return found


# ----- the checksum -----------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 §B.4). About 0.1 µs a byte: for headers, not for traffic."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(map(_crc_of_byte, range(256)))
