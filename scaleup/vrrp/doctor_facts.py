"""What `doctor` judges, and what it says. ●"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal

from scaleup.vrrp.packet import Address

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """`check`: what was looked at. `cure`: empty when it is ok."""

    level: Level
    check: str
    says: str
    cure: str = ""


@dataclass(frozen=True)
class Link:
    """An interface. `running`: it has a carrier."""

    name: str
    up: bool
    running: bool
    mtu: int
    mac: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


@dataclass(frozen=True)
class Packet:
    """A packet of protocol 112 that passed the interface, and the hardware address that it came from.

    `sent`: by this host. `wall`: when, seconds since 1970.
    """

    mac: str
    source: Address
    destination: Address
    hop_limit: int
    data: bytes
    sent: bool
    wall: float


@dataclass(frozen=True)
class Facts:
    """What was seen.

    `allowed`: capabilities in effect, without CAP_. `realtime`, `locks_memory`: whether that may be asked for.
    `synchronised`: the clock. `links`: all interfaces, by name. What follows was had by listening for `seconds`.
    `refused`: why the socket of advertisements could not be had, or "". `packets`: on the wire; `through`: how
    many of our VRID came through the host's IP stack. `answers`: the hardware addresses that answered for an
    address; None: nobody listened. `sysctl`: of the interface.
    """

    allowed: frozenset[str]
    realtime: bool
    locks_memory: bool
    synchronised: bool
    links: dict[str, Link]
    seconds: float = 0.0
    refused: str = ""
    packets: tuple[Packet, ...] = ()
    through: int = 0
    answers: dict[Address, frozenset[str]] | None = None
    sysctl: dict[str, int] | None = None
