"""`python -m scaleup.vrrp doctor`: facts in, findings out. ●

What was seen of this host and of its link (`doctor_look`) is judged here, with the settings that the election
would run with. A finding is a line: ok, warning or error, and with the latter two what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scaleup.vrrp import packet
from scaleup.vrrp.auth import TRAILER_BYTES
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.doctor_facts import Facts, Finding, Link
from scaleup.vrrp.doctor_heard import Voice, hearing, plain, read
from scaleup.vrrp.packet import Address

if TYPE_CHECKING:
    from scaleup.vrrp.election import Election


HEADERS_BYTES = {4: 20, 6: 40}
IPV6_LEAST_MTU = 1280  # RFC 8200 §5
STRICT_REVERSE_PATH = 1


def judge(election: Election, codec: Codec, facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are best mended."""
    findings = [*_privileges(election, facts), _clock(election, facts)]
    if election.interface is None:
        return [*findings, Finding("warning", "interface", "none is named", "say --interface NAME")]
    link = facts.links.get(election.interface)
    findings += _link(election, link, facts)
    if link is not None and facts.answers is not None:
        heard = read(codec, facts.packets)
        findings += [
            *hearing(election, codec, facts, heard),
            *_holders(election, link, facts, heard),
            *_peers(election, link, facts),
            *_kernel(election, link, facts),
        ]
    return findings


# ----- this host ---------------------------------------------------------------------------------------------


def _privileges(election: Election, facts: Facts) -> Iterator[Finding]:
    wanted = {"NET_RAW": "send advertisements and ARP", "NET_ADMIN": "put addresses on the interface"}
    for name, purpose in wanted.items() if election.raw else ():
        if name in facts.allowed:
            yield Finding("ok", "privileges", f"CAP_{name}: may {purpose}")
        else:
            cure = f"grant CAP_{name} (systemd: AmbientCapabilities=, a container: --cap-add {name})"
            yield Finding("error", "privileges", f"may not {purpose}", cure)
    if not election.realtime:
        return
    if facts.realtime:
        yield Finding("ok", "privileges", "real-time scheduling is allowed")
    else:
        cure = "grant CAP_SYS_NICE, or LimitRTPRIO=50; or keep --interval at 0.1 and more"
        yield Finding("warning", "privileges", "no real-time scheduling: a busy host may be late", cure)
    if facts.locks_memory:
        yield Finding("ok", "privileges", "memory may be locked")
    else:
        cure = "grant CAP_IPC_LOCK, or LimitMEMLOCK=infinity"
        yield Finding("warning", "privileges", "memory may be swapped out, and a node then be late", cure)


def _clock(election: Election, facts: Facts) -> Finding:
    if facts.synchronised:
        return Finding("ok", "clock", "synchronised")
    cure = "run chrony, ntpd or systemd-timesyncd on every node"
    if (election.auth or "").startswith("hmac:"):
        return Finding("error", "clock", "not synchronised: peers refuse packets that seem old", cure)
    return Finding("warning", "clock", "not synchronised; --auth hmac would depend on it", cure)


def _link(election: Election, link: Link | None, facts: Facts) -> Iterator[Finding]:
    name = election.interface
    if link is None:
        known = ", ".join(facts.links)
        yield Finding("error", "interface", f"there is no {name}", f"name one of {known} with --interface")
        return
    family = election.addresses[0].version
    if not link.up:
        yield Finding("error", "interface", f"{name} is down", f"ip link set {name} up")
    elif not link.running:
        yield Finding(
            "error", "interface", f"{name} has no carrier", "look at its cable and at the switch's port"
        )
    else:
        yield Finding("ok", "interface", f"{name} is up")
    least = HEADERS_BYTES[family] + packet.HEADER.size + len(election.addresses) * (4 if family == 4 else 16)
    least = max(least + TRAILER_BYTES, IPV6_LEAST_MTU if family == 6 else 0)
    if link.mtu < least:
        says, cure = (
            f"MTU {link.mtu}, less than an advertisement's {least} bytes",
            f"ip link set {name} mtu 1500",
        )
        yield Finding("error", "interface", says, cure)
    else:
        yield Finding("ok", "interface", f"MTU {link.mtu}")
    if own := own_addresses(election, link):
        yield Finding("ok", "interface", f"its own address is {own[0]}")
    else:
        kind = "IPv4 address" if family == 4 else "link-local IPv6 address"
        cure = f"give it one: ip address add … dev {name}"
        yield Finding("error", "interface", f"{name} has no {kind} of its own to advertise from", cure)
    if facts.refused:
        yield Finding("error", "interface", facts.refused, "without that socket nothing is sent or heard")


def own_addresses(election: Election, link: Link) -> list[Address]:
    """Those that advertisements can come from (§5.1.1.1, §5.1.2.1)."""
    family = election.addresses[0].version
    own = [one.ip for one in link.addresses if one.version == family and one.ip not in election.addresses]
    return [one for one in own if family == 4 or one.is_link_local]


# ----- the link ----------------------------------------------------------------------------------------------


def _holders(election: Election, link: Link, facts: Facts, heard: dict[Address, Voice]) -> Iterator[Finding]:
    assert facts.answers is not None
    active = {voice.packet.mac for voice in heard.values()}
    here = {one.ip for one in link.addresses}
    for address in election.addresses:
        strange = facts.answers.get(address, frozenset()) - active - {link.mac}
        if strange:
            says = f"{address} is used by {', '.join(sorted(strange))}, which does not advertise it"
            yield Finding("error", "address", says, "take it off that host, or elect another address")
        elif address in here and link.mac not in active:
            says = f"{address} is on {link.name}, and this host does not advertise it"
            yield Finding("warning", "address", says, "a node that starts removes it; or: ip address del")
        else:
            yield Finding("ok", "address", f"{address} is used by nobody else")


def _peers(election: Election, link: Link, facts: Facts) -> Iterator[Finding]:
    assert facts.answers is not None
    for peer in map(plain, election.peer):
        if not any(peer in one.network for one in link.addresses):
            says = f"{peer} is not on the link of {link.name}: it was not asked"
            yield Finding("warning", "peer", says, "routers in between lower the TTL: say --minimum-ttl")
        elif facts.answers.get(peer):
            yield Finding("ok", "peer", f"{peer} answers")
        else:
            says = f"{peer} does not answer on {link.name}"
            yield Finding("error", "peer", says, "is it up, on the same network, and is the address right?")


def _kernel(election: Election, link: Link, facts: Facts) -> Iterator[Finding]:
    sysctl = facts.sysctl or {}
    if election.addresses[0].version == 6:
        return
    beside = [
        other.name
        for other in facts.links.values()
        if other.name != link.name
        and any(virtual in one.network for one in other.addresses for virtual in election.addresses)
    ]
    if beside and not (sysctl.get("arp_ignore", 0) >= 1 and sysctl.get("arp_announce", 0) >= 2):
        says = f"{beside[0]} is in the same network, and each interface answers ARP for the other's addresses"
        cure = "sysctl net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
        yield Finding("warning", "kernel", says, cure)
    else:
        yield Finding("ok", "kernel", "ARP is answered by the right interface")
    routed = [
        peer for peer in map(plain, election.peer) if not any(peer in one.network for one in link.addresses)
    ]
    if routed and sysctl.get("rp_filter", 0) == STRICT_REVERSE_PATH:
        says = f"rp_filter is strict: what {routed[0]} sends is dropped if the route back is another"
        yield Finding("warning", "kernel", says, f"sysctl net.ipv4.conf.{link.name}.rp_filter=2")
    else:
        yield Finding("ok", "kernel", "rp_filter lets peers through")
