"""The settings of one virtual router: for `python -m scaleup.vrrp` (`settings`) and for a load balancer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic.networks import IPvAnyAddress

from scaleup.config import Flag
from scaleup.vrrp.announce import Habits
from scaleup.vrrp.arrangement import RouterPolicy
from scaleup.vrrp.auth import KEY_MAX_BYTES, KEY_MIN_BYTES, Authenticator, default_window
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.legacy import PASSWORD_BYTES
from scaleup.vrrp.packet import Address


@dataclass(frozen=True, slots=True)
class VirtualAddress:
    """`10.0.0.100/24`, or keepalived's `10.0.0.100/24 dev eth1` for another interface than the election's."""

    interface: IPv4Interface | IPv6Interface
    device: str | None = None

    @property
    def ip(self) -> Address:
        return self.interface.ip

    def __str__(self) -> str:
        return f"{self.interface} dev {self.device}" if self.device else str(self.interface)


def _virtual(value: object) -> VirtualAddress:
    if isinstance(value, VirtualAddress):
        return value
    words = str(value).split()
    try:
        match words:
            case [address]:
                device = None
            case [address, "dev", device]:
                pass
            case _:
                raise ValueError
        interface = ip_interface(address)
        if isinstance(interface, IPv6Interface) and interface.scope_id:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{value!r} is not an address: write for example 10.0.0.100/24, or 10.0.0.100/24 dev eth1"
        ) from None
    return VirtualAddress(interface, device)


def _auth(value: object) -> str | None:
    if value is None or value == "none":
        return value
    text = str(value)
    kind, _, file = text.partition(":")
    match kind:
        case "hmac":
            read_key(Path(file))
        case "pass":
            read_password(Path(file))
        case _:
            raise ValueError(f'write "hmac:KEYFILE", "pass:FILE" (VRRPv2) or "none", not {text!r}')
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


def read_password(path: Path) -> bytes:
    """The password of VRRPv2 in a file, without white space around it. ValueError says what is wrong with it."""
    try:
        password = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"password file {path}: {error.strerror}") from None
    if not 1 <= len(password) <= PASSWORD_BYTES:
        raise ValueError(
            f"password file {path}: {len(password)} bytes; VRRPv2 has room for 1 to {PASSWORD_BYTES}"
        )
    return password


VirtualAddressField = Annotated[
    VirtualAddress,
    PlainValidator(_virtual, json_schema_input_type=str),
    PlainSerializer(str),
]


def _interval(seconds: float) -> float:
    if abs(seconds * 100 - round(seconds * 100)) > 1e-6:
        raise ValueError("an advertisement can only say hundredths of a second: write for example 0.05")
    return round(seconds, 2)


GROUP = "election (VRRP)"
ANNOUNCEMENTS = "announcing the virtual addresses"
AUTH_KEY_ID = 1
MAX_ADDRESSES = 255
"""That is what the count of an advertisement can say (RFC 9568 §5.2.5)."""


class RouterFields(BaseModel):
    """What can be said of a virtual router."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    vip: Annotated[tuple[VirtualAddressField, ...], Flag("ADDRESS[/PREFIX] [dev NAME]", GROUP)] = Field(
        (),
        max_length=MAX_ADDRESSES,
        description="virtual address that the nodes elect the owner of; repeatable",
    )
    vrid: Annotated[int, Flag("ID", GROUP)] = Field(
        51, ge=1, le=255, description="virtual router id, the same on all nodes of one election"
    )
    priority: Annotated[int, Flag("N", GROUP)] = Field(
        100,
        ge=1,
        le=255,
        description="1–254; among the living the highest is Active; 255: the owner of the addresses",
    )
    interval: Annotated[float, AfterValidator(_interval), Flag("SECONDS", GROUP)] = Field(
        1.0, ge=0.01, le=40.95, description="Adver_Interval, 0.01–40.95; take-over after 3 of them and a skew"
    )
    preempt: Annotated[bool, Flag(None, GROUP)] = Field(
        True, description="take over from a living Active of lower priority"
    )
    preempt_delay: Annotated[float, Flag("SECONDS", GROUP)] = Field(
        0.0, ge=0, le=1000, description="hear a living Active of lower priority for so long before that"
    )
    interface: Annotated[str | None, Flag("NAME", GROUP)] = Field(
        None,
        min_length=1,
        max_length=15,
        description="put the virtual addresses on this interface (CAP_NET_ADMIN, CAP_NET_RAW); "
        "without it, to own an address is to listen on it",
    )
    transport: Annotated[Literal["vrrp", "udp"] | None, Flag(None, GROUP)] = Field(
        None,
        description="how advertisements travel: as IP protocol 112 (the default with --interface), or by unicast "
        "UDP, which needs no privilege",
    )
    peer: Annotated[tuple[IPvAnyAddress, ...], Flag("ADDRESS", GROUP)] = Field(
        (), description="another node of the election, for unicast (without: multicast); repeatable"
    )
    source: Annotated[IPvAnyAddress | None, Flag("ADDRESS", GROUP)] = Field(
        None,
        description="this node's own address: advertisements and connections to servers come from it "
        "(default of advertisements: the interface's own)",
    )
    vrrp_port: Annotated[int, Flag("PORT", GROUP)] = Field(
        10112, ge=1, le=65535, description="UDP port of the election, the same on all nodes"
    )
    vrrp_version: Annotated[int, Flag("2|3", GROUP)] = Field(
        3, ge=2, le=3, description="of VRRP; 2 (IPv4, whole seconds) is what keepalived speaks by default"
    )
    auth: Annotated[str | None, PlainValidator(_auth), Flag("hmac:KEYFILE|pass:FILE|none", GROUP)] = Field(
        None,
        validate_default=False,
        description="how advertisements are authenticated; required with --peer",
    )
    auth_mode: Annotated[Literal["enforce", "permissive", "receive-only"], Flag(None, GROUP)] = Field(
        "enforce",
        description="to bring hmac into a running election: receive-only on every node, then permissive on "
        "every node, then enforce",
    )
    checksum: Annotated[Literal["pseudo-header", "rfc9568"], Flag(None, GROUP)] = Field(
        "pseudo-header",
        description="IPv4 checksum that is sent: as keepalived's, or as the RFC's; both are read",
    )
    strict: Annotated[bool, Flag(None, GROUP)] = Field(
        False, description="read only the checksum that is sent"
    )
    minimum_ttl: Annotated[int, Flag("N", GROUP)] = Field(
        255, ge=1, le=255, description="of what peers send; less than 255 only when they are behind a router"
    )
    pcap: Annotated[Path | None, Flag("FILE", GROUP)] = Field(
        None,
        description="record what is sent and heard, for Wireshark; where writing is fast: the election waits",
    )
    garp_master_repeat: Annotated[int, Flag("N", ANNOUNCEMENTS)] = Field(
        5, ge=1, le=100, description="gratuitous ARP (IPv6: neighbour advertisements) on taking an address"
    )
    garp_master_delay: Annotated[float, Flag("SECONDS", ANNOUNCEMENTS)] = Field(
        5.0, ge=0, le=60, description="until that is repeated once; 0: it is not"
    )
    garp_master_refresh: Annotated[float, Flag("SECONDS", ANNOUNCEMENTS)] = Field(
        0.0, ge=0, le=86400, description="between announcements while Active; 0: none"
    )
    garp_master_refresh_repeat: Annotated[int, Flag("N", ANNOUNCEMENTS)] = Field(
        1, ge=1, le=100, description="of them each time"
    )
    garp_lower_prio_repeat: Annotated[int, Flag("N", ANNOUNCEMENTS)] = Field(
        5, ge=0, le=100, description="on hearing a lower priority while Active, at most once a second"
    )
    garp_lower_prio_delay: Annotated[float, Flag("SECONDS", ANNOUNCEMENTS)] = Field(
        5.0, ge=0, le=60, description="until that is repeated once; 0: it is not"
    )


class Election(RouterFields):
    """A virtual router whose settings fit together, and what it has from the process that it runs in."""

    startup_delay: Annotated[float, Flag("SECONDS", GROUP)] = Field(
        0.0, ge=0, le=1000, description="from the start until this node takes part"
    )
    realtime: Annotated[bool, Flag(None, GROUP)] = Field(
        True, description="ask for real-time scheduling and locked memory, where that is allowed"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.vip:
            return self
        if self.transport == "vrrp" and self.interface is None:
            raise ValueError("--transport vrrp: say --interface NAME")
        if not self.raw and not self.peer:
            raise ValueError(
                "--vip: an election needs the other nodes: say --peer ADDRESS for each, or --interface NAME"
            )
        if not self.raw and self.source is None:
            raise ValueError("--vip: say --source ADDRESS, this node's own address that its peers know")
        if self.peer and self.auth is None:
            raise ValueError(
                '--peer: unicast is authenticated: say --auth hmac:KEYFILE, or "none" to go without'
            )
        if self.source in self.peer:
            raise ValueError(f"--peer {self.source} is --source: list the other nodes only")
        if self.minimum_ttl < 255 and not self.peer:
            raise ValueError("--minimum-ttl: only for unicast: multicast is not routed; say --peer")
        if self.interface is None and any(virtual.device for virtual in self.vip):
            raise ValueError("--vip … dev NAME: addresses are put on interfaces only with --interface")
        return self

    @model_validator(mode="after")
    def _of_one_family(self) -> Self:
        if not self.vip:
            return self
        virtual = [virtual.ip for virtual in self.vip]
        own = [self.source] if self.source is not None else []
        addresses = [ip_address(str(address)) for address in (*own, *self.peer, *virtual)]
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
        return self

    @model_validator(mode="after")
    def _of_one_version(self) -> Self:
        kind = (self.auth or "none").partition(":")[0]
        if self.vrrp_version == 3 and kind == "pass":
            raise ValueError(
                "--auth pass:…: only VRRPv2 has passwords: say --vrrp-version 2, or --auth hmac:KEYFILE"
            )
        if self.vrrp_version == 2:
            if self.vip and self.vip[0].ip.version == 6:
                raise ValueError("--vrrp-version 2: there is none for IPv6: say --vrrp-version 3")
            if self.interval != int(self.interval):
                raise ValueError(
                    f"--interval {self.interval:g}: VRRPv2 says whole seconds; or say --vrrp-version 3"
                )
            if kind == "hmac":
                raise ValueError(
                    "--auth hmac:…: VRRPv2 has none: say --vrrp-version 3, or --auth pass:FILE or none"
                )
        return self

    @property
    def router_name(self) -> str:
        """The virtual router's, in the log and in the state."""
        return f"VI_{self.vrid}"

    def policy(self, tracks: Mapping[str, int] | None = None) -> RouterPolicy:
        """What the policy is to know of it. `tracks`: check → weight."""
        return RouterPolicy(
            self.router_name, self.priority, self.preempt, self.preempt_delay, dict(tracks or {})
        )

    @property
    def raw(self) -> bool:
        """Whether advertisements travel as IP protocol 112."""
        return (self.transport or ("vrrp" if self.interface else "udp")) == "vrrp"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The virtual ones, as an advertisement lists them."""
        return tuple(virtual.ip for virtual in self.vip)

    def key(self) -> bytes | None:
        """The HMAC key, or None without."""
        kind, _, file = (self.auth or "none").partition(":")
        return read_key(Path(file)) if kind == "hmac" else None

    def password(self) -> bytes | None:
        """The password of VRRPv2, or None without."""
        kind, _, file = (self.auth or "none").partition(":")
        return read_password(Path(file)) if kind == "pass" else None

    def codec(self) -> Codec:
        """Raises ValueError when the key or the password cannot be read any more."""
        key, window = self.key(), default_window(self.interval)
        return Codec(
            vrid=self.vrid,
            interval_cs=round(self.interval * 100),
            addresses=self.addresses,
            version=2 if self.vrrp_version == 2 else 3,
            checksum=self.checksum,
            strict=self.strict,
            password=self.password(),
            authenticator=Authenticator({AUTH_KEY_ID: key}, AUTH_KEY_ID, window) if key else None,
            auth_mode=self.auth_mode,
            minimum_ttl=self.minimum_ttl,
        )

    def habits(self) -> Habits:
        return Habits(
            repeat=self.garp_master_repeat,
            delay=self.garp_master_delay,
            refresh=self.garp_master_refresh,
            refresh_repeat=self.garp_master_refresh_repeat,
            lower_prio_repeat=self.garp_lower_prio_repeat,
            lower_prio_delay=self.garp_lower_prio_delay,
        )
