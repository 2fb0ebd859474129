"""Looking names up, with a name server that is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import dns.message as dns_message
import dns.rrset as dns_rrset
import pytest
from dns.exception import DNSException
from hypothesis import given
from hypothesis import strategies as st
from name_server import NameServer, name_server

from scaleup.net.addresses import Endpoint
from scaleup.upstream import host_names, name_servers, names
from scaleup.upstream.names import Answer, Resolver, Unanswered

WEB = Endpoint("web.internal", 8080)
SERVICE = Endpoint("_http._tcp.web.consul", 0)


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with name_server() as server:
        yield server


def endpoints(*hosts: str, port: int = 8080) -> frozenset[Endpoint]:
    return frozenset(Endpoint(host, port) for host in hosts)


async def test_all_addresses_of_a_name_and_for_how_long(dns: NameServer) -> None:
    dns.say("web.internal", "A", "10.0.0.1", "10.0.0.2")
    dns.ttl = 7
    assert await Resolver([dns.endpoint]).look_up(WEB) == Answer(endpoints("10.0.0.1", "10.0.0.2"), 7)
    assert dns.asked == [("web.internal", "A")]


async def test_through_an_alias(dns: NameServer) -> None:
    dns.say("web.internal", "CNAME", "real.internal.")
    dns.say("real.internal", "A", "10.0.0.1")
    assert (await Resolver([dns.endpoint]).look_up(WEB)).endpoints == endpoints("10.0.0.1")


@pytest.mark.parametrize(("ttl", "held"), [(0, names.MIN_TTL_SECONDS), (99999, names.MAX_TTL_SECONDS)])
async def test_neither_too_often_nor_too_rarely(dns: NameServer, ttl: int, held: float) -> None:
    dns.say("web.internal", "A", "10.0.0.1")
    dns.ttl = ttl
    assert (await Resolver([dns.endpoint]).look_up(WEB)).ttl == held


@pytest.mark.parametrize(
    ("prefer", "only", "found"),
    [
        (
            "ipv4",
            False,
            {"both.internal": "10.0.0.1", "four.internal": "10.0.0.4", "six.internal": "fd00::6"},
        ),
        ("ipv6", False, {"both.internal": "fd00::1", "four.internal": "10.0.0.4", "six.internal": "fd00::6"}),
        ("ipv4", True, {"both.internal": "10.0.0.1", "four.internal": "10.0.0.4", "six.internal": None}),
        ("ipv6", True, {"both.internal": "fd00::1", "four.internal": None, "six.internal": "fd00::6"}),
    ],
)
async def test_the_preferred_family(
    dns: NameServer, prefer: names.Family, only: bool, found: dict[str, str | None]
) -> None:
    dns.say("both.internal", "A", "10.0.0.1")
    dns.say("both.internal", "AAAA", "fd00:0::1")
    dns.say("four.internal", "A", "10.0.0.4")
    dns.say("six.internal", "AAAA", "fd00::6")
    resolver = Resolver([dns.endpoint], prefer, only=only)
    for name, host in found.items():
        answer = await resolver.look_up(Endpoint(name, 80))
        assert answer.endpoints == (endpoints(host, port=80) if host else frozenset())


async def test_what_cannot_be_connected_to_is_no_address(dns: NameServer) -> None:
    dns.say("web.internal", "A", "0.0.0.0", "10.0.0.1", "224.0.0.1")
    assert (await Resolver([dns.endpoint]).look_up(WEB)).endpoints == endpoints("10.0.0.1")


async def test_no_such_name_and_no_addresses_are_answers(dns: NameServer) -> None:
    resolver = Resolver([dns.endpoint])
    assert await resolver.look_up(WEB) == Answer(frozenset(), names.DENIED_TTL_SECONDS)
    assert dns.asked == [("web.internal", "A")], "what does not exist has no other addresses"
    dns.say("web.internal", "TXT", "hello")
    assert (await resolver.look_up(WEB)).endpoints == frozenset()


@pytest.mark.parametrize("mode", ["SERVFAIL", "REFUSED"])
async def test_an_error_says_nothing_about_the_name(dns: NameServer, mode: str) -> None:
    dns.mode = mode
    with pytest.raises(Unanswered, match=mode):
        await Resolver([dns.endpoint]).look_up(WEB)


@pytest.mark.parametrize("mode", ["silent", "garbage"])
async def test_nor_does_silence_or_what_is_no_dns(
    dns: NameServer, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_servers, "ATTEMPT_SECONDS", 0.1)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 0.3)
    dns.mode = mode
    with pytest.raises(Unanswered):
        await Resolver([dns.endpoint]).look_up(WEB)


async def test_nor_does_a_name_server_that_is_not_there(
    dns: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 0.3)
    with pytest.raises(Unanswered):
        await Resolver([Endpoint(dns.endpoint.host, 1)]).look_up(WEB)


async def test_one_name_server_of_several_is_enough(dns: NameServer) -> None:
    dns.say("web.internal", "A", "10.0.0.1")
    with name_server("127.0.53.2") as silent, name_server("127.0.53.3") as broken:
        silent.mode, broken.mode = "silent", "SERVFAIL"
        resolver = Resolver([silent.endpoint, broken.endpoint, dns.endpoint])
        assert (await resolver.look_up(WEB)).endpoints == endpoints("10.0.0.1")


async def test_a_name_server_that_is_silent_is_waited_for_once_in_a_look_up(
    dns: NameServer,
) -> None:
    """With a search list and both families there are many questions, and five seconds for all of them."""
    dns.say("web.internal", "AAAA", "fd00::1")
    with name_server("127.0.53.2") as silent:
        silent.mode = "silent"
        resolver = Resolver([silent.endpoint, dns.endpoint])
        assert (await resolver.look_up(WEB)).endpoints == endpoints("fd00::1")
    assert (len(silent.asked), len(dns.asked)) == (1, 2)


async def test_an_answer_that_is_too_long_for_udp_comes_by_tcp(dns: NameServer) -> None:
    dns.mode = "tcp"
    hosts = [f"10.0.{number}.1" for number in range(200)]
    dns.say("web.internal", "A", *hosts)
    assert (await Resolver([dns.endpoint]).look_up(WEB)).endpoints == endpoints(*hosts)
    assert dns.by_tcp == 1


@pytest.mark.parametrize("additional", [True, False])
async def test_services_have_ports_of_their_own(dns: NameServer, additional: bool) -> None:
    """Their hosts' addresses are in the same answer, or are asked for."""
    dns.additional = additional
    dns.say(SERVICE.host, "SRV", "1 1 8080 a.internal.", "1 1 8081 a.internal.", "9 1 80 b.internal.")
    dns.say("a.internal", "A", "10.0.0.1")
    dns.say("b.internal", "A", "10.0.0.2", "10.0.0.3")
    answer = await Resolver([dns.endpoint]).look_up(SERVICE)
    assert answer.endpoints == endpoints("10.0.0.1") | endpoints("10.0.0.1", port=8081) | endpoints(
        "10.0.0.2", "10.0.0.3", port=80
    )
    assert (len(dns.asked) == 1) == additional


async def test_a_service_without_hosts(dns: NameServer) -> None:
    """RFC 2782: a target of "." means that the service is decidedly not available."""
    resolver = Resolver([dns.endpoint])
    assert (await resolver.look_up(SERVICE)).endpoints == frozenset()
    dns.say(SERVICE.host, "SRV", "0 0 0 .")
    assert (await resolver.look_up(SERVICE)).endpoints == frozenset()
    dns.say(SERVICE.host, "SRV", "1 1 80 gone.internal.")
    assert (await resolver.look_up(SERVICE)).endpoints == frozenset()


async def test_an_error_about_one_host_is_one_about_the_service(
    dns: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of an answer would look as if the other servers had gone."""
    dns.additional = False
    dns.say(SERVICE.host, "SRV", "1 1 80 a.internal.")
    resolver = Resolver([dns.endpoint])

    def answer(wire: bytes, tcp: bool) -> bytes | None:
        dns.mode = "SERVFAIL" if dns.asked else ""
        return NameServer.answer(dns, wire, tcp)

    monkeypatch.setattr(dns, "answer", answer)
    with pytest.raises(Unanswered, match="SERVFAIL"):
        await resolver.look_up(SERVICE)


# ----- as this host is configured ---------------------------------------------------------------------


async def test_hosts_come_first(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.0.0.1 web.internal web # 10.9.9.9 web\nnonsense web\n"
    )
    resolver = Resolver(hosts=hosts)
    assert await resolver.look_up(Endpoint("WEB", 1)) == Answer(
        endpoints("10.0.0.1", port=1), names.HOSTS_TTL_SECONDS
    )
    assert (await resolver.look_up(Endpoint("localhost.", 1))).endpoints == endpoints("127.0.0.1", port=1)
    six = Resolver(prefer="ipv6", hosts=hosts)
    assert (await six.look_up(Endpoint("localhost", 1))).endpoints == endpoints("::1", port=1)
    assert (await six.look_up(Endpoint("web", 1))).endpoints == endpoints("10.0.0.1", port=1)


async def test_then_the_name_servers_of_resolv_conf_with_its_search_list(
    dns: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are at port 53 always: the test changes it."""
    configuration = tmp_path / "resolv.conf"
    configuration.write_text(f"nameserver {dns.endpoint.host}\nsearch other.internal default.internal\n")
    dns.say("web.default.internal", "A", "10.0.0.1")
    resolver = Resolver(hosts=tmp_path / "none", configuration=configuration)
    monkeypatch.setattr(host_names, "DNS_PORT", dns.endpoint.port)
    assert (await resolver.look_up(Endpoint("web", 80))).endpoints == endpoints("10.0.0.1", port=80)
    assert dns.asked == [("web.other.internal", "A"), ("web.default.internal", "A")]


async def test_without_any_the_cure_is_said(tmp_path: Path) -> None:
    resolver = Resolver(hosts=tmp_path / "none", configuration=tmp_path / "none")
    with pytest.raises(Unanswered, match="say --resolver"):
        await resolver.look_up(WEB)


async def test_with_name_servers_of_its_own_nothing_of_the_host_counts(
    dns: NameServer, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.9 web.internal\n")
    dns.say("web.internal", "A", "10.0.0.1")
    assert (await Resolver([dns.endpoint], hosts=hosts).look_up(WEB)).endpoints == endpoints("10.0.0.1")


async def test_a_look_up_that_is_cancelled_leaves_nothing(dns: NameServer) -> None:
    dns.mode = "silent"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Resolver([dns.endpoint]).look_up(WEB)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ----- what name servers can send ---------------------------------------------------------------------

QUERY = dns_message.make_query("web.internal.", "A")


def reply_with(*records: str) -> bytes:
    reply = dns_message.make_response(QUERY)
    reply.answer = [
        dns_rrset.from_text("web.internal.", 5, "IN", *record.split(" ", 1)) for record in records
    ]
    return reply.to_wire()


@given(
    st.sampled_from([reply_with("A 10.0.0.1"), reply_with("CNAME real.internal."), reply_with("TXT hello")]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4),
    st.integers(0, 5),
    st.binary(max_size=5),
)
def test_any_bytes_are_a_reply_or_none(
    wire: bytes, changes: list[tuple[int, int]], cut: int, more: bytes
) -> None:
    """And a reply can be followed to its end, or contradicts itself."""
    changed = bytearray(wire)
    for at, byte in changes:
        if at < len(changed):
            changed[at] = byte
    reply = name_servers._reply_to(QUERY, bytes(changed[: len(changed) - cut]) + more)
    if reply is not None:
        with contextlib.suppress(DNSException):
            chain = reply.resolve_chaining()
            assert chain.answer is None or all(ip_address(record.address) for record in chain.answer)


def test_what_answers_another_question_is_no_reply() -> None:
    """Somebody guesses: the number, the name, or both (RFC 5452)."""
    wire = reply_with("A 10.0.0.1")
    assert name_servers._reply_to(QUERY, wire) is not None
    assert name_servers._reply_to(QUERY, bytes([wire[0] ^ 1]) + wire[1:]) is None
    assert name_servers._reply_to(QUERY, wire.replace(b"\x03web", b"\x03wab")) is None
    assert name_servers._reply_to(QUERY, QUERY.to_wire()) is None, "a question is none either"
