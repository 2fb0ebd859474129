"""The settings of an election: for `python -m scaleup.vrrp`, and for a load balancer that takes part."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, PlainValidator, model_validator
from pydantic.networks import IPvAnyAddress

from scaleup.config import Flag, TierSettings
from scaleup.vrrp.auth import KEY_MAX_BYTES, KEY_MIN_BYTES


def _virtual(value: object) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an address: write for example 10.0.0.100/24") from None


def _auth(value: object) -> str | None:
    if value is None or value == "none":
        return value
    text = str(value)
    if not text.startswith("hmac:"):
        raise ValueError(f'write "hmac:KEYFILE" or "none", not {text!r}')
    read_key(Path(text.removeprefix("hmac:")))
    return text


def read_key(path: Path) -> bytes:
    """The key in a file, without white space around it. ValueError says what is wrong with it."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"key file {path}: {error.strerror}") from None
    if not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
        raise ValueError(
            f"key file {path}: {len(key)} bytes; write {KEY_MIN_BYTES} to {KEY_MAX_BYTES}, "
            f"for example with: openssl rand -hex 32 > {path}"
        )
    return key


VirtualAddress = Annotated[
    IPv4Interface | IPv6Interface,
    PlainValidator(_virtual, json_schema_input_type=str),
    PlainSerializer(str),
]


def _interval(seconds: float) -> float:
    if abs(seconds * 100 - round(seconds * 100)) > 1e-6:
        raise ValueError("an advertisement can only say hundredths of a second: write for example 0.05")
    return round(seconds, 2)


GROUP = "election (VRRP)"
MAX_ADDRESSES = 255
"""That is what the count of an advertisement can say (RFC 9568 §5.2.5)."""


class Election(BaseModel):
    """The part that the vrrp process and the load balancer have in common."""

    vip: Annotated[tuple[VirtualAddress, ...], Flag("ADDRESS", GROUP)] = Field(
        (),
        max_length=MAX_ADDRESSES,
        description="virtual address that the nodes elect the owner of; repeatable",
    )
    vrid: Annotated[int, Flag("ID", GROUP)] = Field(
        51, ge=1, le=255, description="virtual router id, the same on all nodes of one election"
    )
    priority: Annotated[int, Flag("N", GROUP)] = Field(
        100, ge=1, le=254, description="1–254; among the living the highest is Active"
    )
    interval: Annotated[float, AfterValidator(_interval), Flag("SECONDS", GROUP)] = Field(
        1.0, ge=0.01, le=40.95, description="Adver_Interval, 0.01–40.95; take-over after 3 of them and a skew"
    )
    preempt: Annotated[bool, Flag(None, GROUP)] = Field(
        True, description="take over from a living Active of lower priority"
    )
    transport: Annotated[Literal["udp"], Flag(None, GROUP)] = Field(
        "udp", description="how advertisements travel: by unicast UDP, which needs no privilege"
    )
    peer: Annotated[tuple[IPvAnyAddress, ...], Flag("ADDRESS", GROUP)] = Field(
        (), description="another node of the election; repeatable"
    )
    source: Annotated[IPvAnyAddress | None, Flag("ADDRESS", GROUP)] = Field(
        None, description="this node's own address: advertisements and connections to servers come from it"
    )
    vrrp_port: Annotated[int, Flag("PORT", GROUP)] = Field(
        10112, ge=1, le=65535, description="UDP port of the election, the same on all nodes"
    )
    auth: Annotated[str | None, PlainValidator(_auth), Flag("hmac:KEYFILE|none", GROUP)] = Field(
        None, validate_default=False, description="how advertisements are authenticated; required with --peer"
    )
    checksum: Annotated[Literal["pseudo-header", "rfc9568"], Flag(None, GROUP)] = Field(
        "pseudo-header",
        description="IPv4 checksum that is sent: as keepalived's, or as the RFC's; both are read",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.vip:
            return self
        if not self.peer:
            raise ValueError("--vip: an election needs the other nodes: say --peer ADDRESS for each")
        if self.source is None:
            raise ValueError("--vip: say --source ADDRESS, this node's own address that its peers know")
        if self.auth is None:
            raise ValueError(
                '--peer: unicast is authenticated: say --auth hmac:KEYFILE, or "none" to go without'
            )
        virtual = [interface.ip for interface in self.vip]
        addresses = [ip_address(str(address)) for address in (self.source, *self.peer, *virtual)]
        for address in addresses:
            if address.is_unspecified or address.is_multicast:
                raise ValueError(f"{address} is no host's address, as --vip, --peer and --source have to be")
        if len({address.version for address in addresses}) > 1:
            raise ValueError("--vip, --peer and --source mix IPv4 and IPv6: an election is of one family")
        if virtual[0].version == 6 and not virtual[0].is_link_local:
            raise ValueError(
                f"--vip {virtual[0]}: the first one of IPv6 is link-local (RFC 9568 §5.2.9): "
                "say --vip fe80::… before it"
            )
        if self.source in self.peer:
            raise ValueError(f"--peer {self.source} is --source: list the other nodes only")
        return self

    def key(self) -> bytes | None:
        """The HMAC key, or None without authentication."""
        if self.auth is None or self.auth == "none":
            return None
        return read_key(Path(self.auth.removeprefix("hmac:")))


class VrrpSettings(Election, TierSettings):
    """Run the election for virtual addresses, as keepalived's VRRP does, over unicast UDP."""

    tier: ClassVar[str] = "vrrp"
    examples: ClassVar[str] = """
examples (two terminals; kill one and watch the other):
  openssl rand -hex 32 > key
  python -m scaleup.vrrp --node a --vip 127.0.0.100 --source 127.0.0.11 --peer 127.0.0.12 \\
                         --auth hmac:key --priority 150
  python -m scaleup.vrrp --node b --vip 127.0.0.100 --source 127.0.0.12 --peer 127.0.0.11 \\
                         --auth hmac:key --priority 100
"""

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if not self.vip:
            raise ValueError("--vip ADDRESS is missing: which address is the election about?")
        return self
