"""What the doctor makes of what it was told: one fault at a time, on a host that is otherwise well."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from scaleup.vrrp.auth import Authenticator
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.doctor import judge
from scaleup.vrrp.doctor_facts import Facts, Finding, Link, Packet
from scaleup.vrrp.election import Election
from scaleup.vrrp.packet import GROUP_IPV4, Address

VIP, OWN, OTHER, THIRD = map(ip_address, ("10.0.0.100", "10.0.0.11", "10.0.0.12", "10.0.0.13"))
MAC, OTHER_MAC, STRANGE_MAC = "02:00:00:00:00:11", "02:00:00:00:00:12", "02:00:00:00:00:99"
WALL = 1_800_000_000.0
LINK = Link("eth0", True, True, 1500, MAC, (ip_interface("10.0.0.11/24"),))


def election(**settings: Any) -> Election:
    return Election.model_validate({"vip": [f"{VIP}/24"], "interface": "eth0", **settings})


def said(
    by: Address = OTHER, mac: str = OTHER_MAC, sent: bool = False, priority: int = 150, **different: Any
) -> Packet:
    """An advertisement on the wire."""
    fields: dict[str, Any] = {"vrid": 51, "interval_cs": 100, "addresses": (VIP,)}
    data = Codec(**(fields | different)).write(priority, by, GROUP_IPV4, WALL)
    return Packet(mac, by, GROUP_IPV4, 255, data, sent, WALL)


WELL = Facts(
    allowed=frozenset({"NET_RAW", "NET_ADMIN"}),
    realtime=True,
    locks_memory=True,
    synchronised=True,
    links={"eth0": LINK},
    seconds=4.0,
    packets=(said(),),
    through=4,
    answers={VIP: frozenset({OTHER_MAC})},
    sysctl={"rp_filter": 0, "arp_ignore": 0, "arp_announce": 0},
)


def complaints(facts: Facts, codec: Codec | None = None, **settings: Any) -> list[Finding]:
    chosen = election(**settings)
    return [one for one in judge(chosen, codec or chosen.codec(), facts) if one.level != "ok"]


def test_a_host_that_is_well_is_told_what_was_looked_at() -> None:
    findings = judge(election(), election().codec(), WELL)
    assert {one.level for one in findings} == {"ok"}
    assert "10.0.0.12 is Active with priority 150" in [one.says for one in findings]
    assert {one.check for one in findings} == {
        *("privileges", "clock", "interface", "election", "firewall", "address", "kernel")
    }


SILENT = replace(WELL, packets=(), answers={})


def with_link(**different: Any) -> Facts:
    return replace(WELL, links={"eth0": replace(LINK, **different)})


SECOND = replace(LINK, name="eth1", addresses=(ip_interface("10.0.0.21/24"),))


@pytest.mark.parametrize(
    ("facts", "level", "check", "says", "cure"),
    [
        (
            replace(WELL, allowed=WELL.allowed - {"NET_ADMIN"}),
            "error",
            "privileges",
            "put addresses",
            "CAP_NET_ADMIN",
        ),
        (
            replace(WELL, allowed=WELL.allowed - {"NET_RAW"}),
            "error",
            "privileges",
            "advertise",
            "CAP_NET_RAW",
        ),
        (
            replace(WELL, realtime=False),
            "warning",
            "privileges",
            "real-time",
            "CAP_SYS_NICE",
        ),
        (replace(WELL, locks_memory=False), "warning", "privileges", "swapped", "MEMLOCK"),
        (replace(WELL, synchronised=False), "warning", "clock", "not synchronised", "chrony"),
        (replace(WELL, links={"lo": LINK}), "error", "interface", "there is no eth0", "name one of lo"),
        (with_link(up=False), "error", "interface", "eth0 is down", "ip link set eth0 up"),
        (with_link(running=False), "error", "interface", "no carrier", "cable"),
        (with_link(mtu=48), "error", "interface", "MTU 48", "mtu 1500"),
        (with_link(addresses=()), "error", "interface", "no IPv4 address of its own", "ip address add"),
        (replace(WELL, refused="a raw socket: no"), "error", "interface", "a raw socket: no", "socket"),
        (SILENT, "warning", "election", "no advertisement of VRID 51", "--peer"),
        (replace(WELL, through=0), "error", "firewall", "not the programs", "protocol 112"),
        (
            replace(WELL, packets=(said(), said(THIRD, STRANGE_MAC))),
            *("error", "election", "do not hear each other", "--peer"),
        ),
        (
            replace(WELL, packets=(said(), said(OWN, MAC, sent=True))),
            *("error", "election", "10.0.0.12 and 10.0.0.11 advertise", "multicast"),
        ),
        (
            replace(WELL, packets=(replace(said(), hop_limit=254),)),
            "error",
            "election",
            "TTL 254",
            "10.0.0.12",
        ),
        (replace(WELL, packets=(said(version=2),)), "error", "election", "VRRP version 2", "agree"),
        (replace(WELL, packets=(said(addresses=(THIRD,)),)), "error", "election", "for 10.0.0.13", "--vrid"),
        (replace(WELL, packets=(said(interval_cs=10),)), "warning", "election", "every 0.1 s", "--interval"),
        (
            replace(WELL, packets=(said(checksum="rfc9568"),)),
            *("warning", "election", "the checksum rfc9568", "--checksum rfc9568"),
        ),
        (
            replace(WELL, answers={VIP: frozenset({STRANGE_MAC})}),
            "error",
            "address",
            STRANGE_MAC,
            "take it off",
        ),
        (
            replace(with_link(addresses=(*LINK.addresses, ip_interface(f"{VIP}/24"))), answers={}),
            *("warning", "address", "does not advertise it", "ip address del"),
        ),
        (
            replace(WELL, links={"eth0": LINK, "eth1": SECOND}),
            *("warning", "kernel", "eth1 is in the same network", "arp_ignore=1"),
        ),
    ],
)
def test_one_fault_gives_one_complaint_with_its_cure(
    facts: Facts, level: str, check: str, says: str, cure: str
) -> None:
    (found,) = complaints(facts)
    assert (found.level, found.check) == (level, check)
    assert says in found.says
    assert cure in found.cure


def test_other_routers_may_share_the_link() -> None:
    assert complaints(replace(WELL, packets=(*WELL.packets, said(THIRD, vrid=52)))) == []


def test_one_that_hands_over_is_not_active_at_the_same_time() -> None:
    assert complaints(replace(WELL, packets=(said(priority=0), said(THIRD, STRANGE_MAC)))) == []


def test_interfaces_in_one_network_that_answer_for_themselves_are_well() -> None:
    sysctl = {"arp_ignore": 1, "arp_announce": 2}
    assert complaints(replace(WELL, links={"eth0": LINK, "eth1": SECOND}, sysctl=sysctl)) == []


def test_an_unsynchronised_clock_is_an_error_where_packets_carry_the_time(tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    facts = replace(SILENT, synchronised=False)
    found = complaints(facts, auth=f"hmac:{key}")
    assert [one.level for one in found if one.check == "clock"] == ["error"]


@pytest.mark.parametrize(("seconds", "believed"), [(0, True), (3600, False)])
def test_packets_that_are_too_old_speak_of_clocks(seconds: float, believed: bool) -> None:
    sealed = Authenticator({1: b"k" * 32}, 1, 5.0)
    codec = replace(election().codec(), authenticator=Authenticator({1: b"k" * 32}, 1, 5.0))
    packet = replace(said(authenticator=sealed), wall=WALL + seconds)
    found = complaints(replace(WELL, packets=(packet,)), codec)
    assert ([one.cure for one in found] == []) is believed
    assert believed or found[0].cure == "synchronise both clocks"


def test_of_unicast_each_peer_is_asked_for_and_others_are_strangers() -> None:
    facts = replace(WELL, packets=(said(THIRD),), answers={VIP: frozenset({STRANGE_MAC}), OTHER: frozenset()})
    found = {(one.check, one.level): one for one in complaints(facts, peer=[str(OTHER)], auth="none")}
    assert "10.0.0.12 does not answer" in found["peer", "error"].says
    assert "is no --peer" in found["election", "error"].says


@pytest.mark.parametrize("peers", [[], [str(OTHER)]])
def test_multicast_and_unicast_do_not_hear_each_other(peers: list[str]) -> None:
    unicast = replace(said(), destination=OWN)
    facts = replace(WELL, packets=(said() if peers else unicast,), through=0)
    answers = {VIP: frozenset({OTHER_MAC}), OTHER: frozenset({OTHER_MAC})}
    (found,) = complaints(replace(facts, answers=answers), peer=peers, auth="none")
    assert (found.level, found.cure) == ("error", "say --peer on all nodes, or on none")


def test_a_peer_behind_a_router_and_a_strict_reverse_path() -> None:
    facts = replace(SILENT, sysctl={"rp_filter": 1})
    found = {one.check: one for one in complaints(facts, peer=["192.0.2.9"], auth="none")}
    assert "--minimum-ttl" in found["peer"].cure
    assert "rp_filter=2" in found["kernel"].cure


def test_without_an_interface_there_is_little_to_say() -> None:
    loopback = {"vip": ["127.0.0.100"], "source": "127.0.0.11", "peer": ["127.0.0.12"], "auth": "none"}
    chosen = Election.model_validate(loopback)
    found = judge(chosen, chosen.codec(), WELL)
    assert [one.cure for one in found if one.level != "ok"] == ["say --interface NAME"]
