"""What `doctor` makes of the advertisements that it heard. ●"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, get_args

from scaleup.vrrp import packet
from scaleup.vrrp.auth import AuthError
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.doctor_facts import Facts, Finding, Packet
from scaleup.vrrp.packet import Address, Advertisement, Checksum, PacketError

if TYPE_CHECKING:
    from scaleup.vrrp.election import Election


@dataclass(frozen=True)
class Voice:
    """The last that a sender said: an advertisement, or why it is none for us."""

    packet: Packet
    said: Advertisement | PacketError | AuthError


def read(codec: Codec, packets: Sequence[Packet]) -> dict[Address, Voice]:
    """By source. Packets of other virtual routers are left out: several may share a link."""
    voices = {}
    for one in packets:
        if len(one.data) > 1 and one.data[1] != codec.vrid:
            continue
        said: Advertisement | PacketError | AuthError
        try:
            said = codec.read(one.data, one.source, one.destination, one.hop_limit, one.wall)
        except (PacketError, AuthError) as error:
            said = error
        voices[one.source] = Voice(one, said)
    return voices


def hearing(election: Election, codec: Codec, facts: Facts, heard: dict[Address, Voice]) -> Iterator[Finding]:
    others = {source: voice for source, voice in heard.items() if not voice.packet.sent}
    for source, voice in others.items():
        yield from _voice(election, codec, source, voice)
    if any(_same_cast(election, voice.packet) for voice in others.values()) and not facts.through:
        cure = "look for a firewall's rule (nft list ruleset) and accept IP protocol 112; then at rp_filter"
        says = "advertisements reach the interface, but not the programs of this host"
        yield Finding("error", "firewall", says, cure)
    elif others:
        yield Finding("ok", "firewall", "what the interface hears reaches the programs")
    active = [
        source
        for source, voice in heard.items()
        if isinstance(voice.said, Advertisement) and voice.said.priority > 0  # 0: it has just stopped
    ]
    if len(active) > 1:
        says = f"{' and '.join(map(str, active))} advertise at the same time: they do not hear each other"
        cure = "ask doctor on each: its firewall, the switch's multicast filter; or use unicast, --peer"
        yield Finding("error", "election", says, cure)
    elif not heard:
        says = f"no advertisement of VRID {election.vrid} in {facts.seconds:.1f} s"
        cure = "start a node elsewhere and ask again; if it stays silent, multicast is blocked: use --peer"
        yield Finding("warning", "election", says, cure if not election.peer else "start a node on a peer")
    elif any(voice.packet.sent for voice in heard.values()):
        yield Finding("ok", "election", "this host is Active")


def _voice(election: Election, codec: Codec, source: Address, voice: Voice) -> Iterator[Finding]:
    if election.peer and source not in {*map(plain, election.peer)}:
        cure = "list it with --peer, or give one of the two elections another --vrid"
        yield Finding("error", "election", f"{source} advertises VRID {codec.vrid} and is no --peer", cure)
        return
    if not _same_cast(election, voice.packet):
        theirs, ours = ("multicast", "unicast") if election.peer else ("unicast", "multicast")
        says = f"{source} advertises by {theirs}, this node would by {ours}"
        yield Finding("error", "election", says, "say --peer on all nodes, or on none")
        return
    if not isinstance(voice.said, Advertisement):
        cure = f"make it agree with {source}" if voice.said.cause != "stale" else "synchronise both clocks"
        yield Finding("error", "election", f"{source} is not believed: {voice.said}", cure)
        return
    said = voice.said
    if set(said.addresses) != set(codec.addresses):
        says = f"{source} advertises VRID {said.vrid} for {', '.join(map(str, said.addresses))}"
        yield Finding("error", "election", says, "give one of the two another --vrid, or both the same --vip")
        return
    yield Finding("ok", "election", f"{source} is Active with priority {said.priority}")
    if said.interval_cs != codec.interval_cs:
        says = f"{source} advertises every {said.interval:g} s, this node would every {codec.interval_cs / 100:g} s"
        yield Finding("warning", "election", says, "give all nodes the same --interval")
    sums = checksums_of(voice.packet)
    if codec.version == 3 and sums and codec.checksum not in sums:
        says = f"{source} sends the checksum {sums[0]}, this node would send {codec.checksum}"
        yield Finding("warning", "election", says, f"if it is not one of ours, say --checksum {sums[0]}")


def _same_cast(election: Election, one: Packet) -> bool:
    """Whether it travels as this node's would, and so can be heard."""
    return one.destination.is_multicast is not bool(election.peer)


def plain(address: object) -> Address:
    return ip_address(str(address))


def checksums_of(one: Packet) -> list[Checksum]:
    """The readings of the checksum with which it is right; a trailer is left out."""
    found: list[Checksum] = []
    for reading in get_args(Checksum):
        try:
            packet.decode(one.data, one.source, one.destination, hop_limit=None, checksums=[reading])
        except PacketError:
            continue
        found.append(reading)
    return found
