"""Protocol 112 between hosts: what one sends the other hears, whole, filtered, with its TTL and addresses."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from lan import DEVICE, PATIENCE_SECONDS, Host, Lan, lan_marks, until
from scapy.layers import inet, inet6, vrrp
from scapy.utils import rdpcap

from scaleup.errors import StartupError
from scaleup.vrrp import pcap as pcap_module
from scaleup.vrrp.bpf import MAX_FILTERED
from scaleup.vrrp.network import MAX_DATAGRAM_BYTES, Datagram, UnicastUdp
from scaleup.vrrp.packet import Address, Advertisement, encode
from scaleup.vrrp.pcap import Recorded, ip_header
from scaleup.vrrp.rawip import RawIp

pytestmark = lan_marks()

OURS, OTHER = b"\x31\x33", b"\x31\x34"  # version and VRID 51; 52


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("a", "b", "stranger") as lan:
        yield lan


def own(host: Host, family: int) -> Address:
    return ip_address(host.ipv4 if family == 4 else host.ipv6)


def opened(host: Host, family: int, *peers: Host) -> contextlib.closing[RawIp]:
    with host.entered():
        network = RawIp(DEVICE, own(host, family), 51, [own(peer, family) for peer in peers] or None)
    return contextlib.closing(network)


def hears(network: RawIp, count: int) -> list[Datagram]:
    found: list[Datagram] = []

    def look() -> bool:
        found.extend(network.receive())
        return len(found) >= count

    until(look, f"{count} datagrams")
    return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("cast", ["multicast", "unicast"])
def test_what_one_sends_the_other_hears(lan: Lan, family: int, cast: str) -> None:
    a, b = lan.host("a"), lan.host("b")
    peers = (a, b) if cast == "unicast" else (None, None)
    with (
        opened(a, family, *filter(None, peers[1:])) as speaker,
        opened(b, family, *filter(None, peers[:1])) as listener,
    ):
        assert speaker.send(lambda to: OURS + to.packed) == []
        (datagram,) = hears(listener, 1)
        group = ip_address("224.0.0.18" if family == 4 else "ff02::12")
        to = group if cast == "multicast" else own(b, family)
        assert datagram == Datagram(OURS + to.packed, own(a, family), to, 255)
        assert datagram.age > 0
        assert list(speaker.receive()) == [], "nobody hears himself"


def test_it_is_sent_as_routing_traffic(lan: Lan) -> None:
    with lan.host("b").entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        raw.bind((DEVICE, 0x0800))
    with raw, opened(lan.host("a"), 4) as speaker:
        raw.settimeout(PATIENCE_SECONDS)
        speaker.send(lambda to: OURS)
        packet = inet.IP(raw.recv(2048))
    assert (packet.tos, packet.ttl, packet.proto) == (0xC0, 255, 112)


def test_the_longest_advertisement_comes_whole(lan: Lan) -> None:
    with opened(lan.host("a"), 6) as speaker, opened(lan.host("b"), 6) as listener:
        speaker.send(lambda to: OURS + bytes(MAX_DATAGRAM_BYTES - 2))
        assert len(hears(listener, 1)[0].data) == MAX_DATAGRAM_BYTES


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_for_others_is_only_sampled(lan: Lan, family: int) -> None:
    a, b, stranger = map(lan.host, ("a", "b", "stranger"))
    with (
        opened(a, family, b) as peer,
        opened(stranger, family, b) as unknown,
        opened(b, family, a) as listener,
    ):
        for _ in range(400):
            unknown.send(lambda to: OURS + b"from a stranger")
            peer.send(lambda to: OTHER + b"of another router")
        peer.send(lambda to: OURS + b"the last")
        heard: list[bytes] = []

        def look() -> bool:
            heard.extend(datagram.data for datagram in listener.receive())
            return OURS + b"the last" in heard

        until(look, "the last")
        strange = heard.count(OURS + b"from a stranger"), heard.count(OTHER + b"of another router")
        assert all(0 < count < 100 for count in strange), "one in 16 of 400; the chance of none is 1e-11"


def test_all_of_many_peers_are_heard(lan: Lan) -> None:
    """The filter's jumps reach over as many as it takes; with more of them there is no filter."""
    a, b = lan.host("a"), lan.host("b")
    for family, others, count in itertools.product((4, 6), ("10.77.1.", "fd77::"), (MAX_FILTERED - 1, 40)):
        if (family == 6) != (":" in others):
            continue
        with b.entered():
            peers = [ip_address(f"{others}{number}") for number in range(1, count + 1)]
            listener = RawIp(DEVICE, own(b, family), 51, [own(a, family), *peers])
            reverse = RawIp(DEVICE, own(b, family), 51, [*peers, own(a, family)])
        with contextlib.closing(listener), contextlib.closing(reverse), opened(a, family, b) as speaker:
            for _ in range(50):
                speaker.send(lambda to: OURS)
            assert len(hears(listener, 50)) == len(hears(reverse, 50)) == 50


def test_a_flood_of_others_does_not_fill_the_buffer(lan: Lan) -> None:
    a, b, stranger = map(lan.host, ("a", "b", "stranger"))
    with opened(a, 4) as speaker, opened(stranger, 4) as loud, opened(b, 4) as listener:
        for _ in range(10_000):
            loud.send(lambda to: OTHER + bytes(30))
        speaker.send(lambda to: OURS)
        until(lambda: any(datagram.data == OURS for datagram in listener.receive()), "what is for it")


def test_what_cannot_be_opened(lan: Lan) -> None:
    with lan.host("a").entered():
        with pytest.raises(StartupError, match=r"--interface eth7: there is no such interface"):
            RawIp("eth7", ip_address("10.77.0.1"), 51)
        with pytest.raises(StartupError, match=r"source 10\.77\.0\.9: .*does not have the address"):
            RawIp(DEVICE, ip_address("10.77.0.9"), 51, [ip_address("10.77.0.2")])


# ----- the record ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_a_record_is_read_by_scapy(lan: Lan, family: int, tmp_path: Path) -> None:
    a, b = lan.host("a"), lan.host("b")
    vip = ip_address("10.77.0.100" if family == 4 else "fe80::100")
    advertisement = Advertisement(51, 200, 10, (vip,))
    file = tmp_path / "record.pcap"
    with opened(a, family) as speaker, opened(b, family) as listener:
        recorded = Recorded(listener, file, lambda: 1_800_000_000.25)
        with contextlib.closing(recorded):
            speaker.send(lambda to: encode(advertisement, speaker.source, to))
            until(lambda: list(recorded.receive()), "the advertisement")
            recorded.send(lambda to: encode(advertisement, recorded.source, to))
    heard, said = rdpcap(str(file))
    for packet, source in ((heard, a), (said, b)):
        header = packet[inet.IP if family == 4 else inet6.IPv6]
        assert header.src == str(own(source, family))
        message = vrrp.VRRPv3(bytes(header.payload))
        assert (message.vrid, message.priority, message.adv) == (51, 200, 10)
        assert float(packet.time) == 1_800_000_000.25
        if family == 4:
            ours, header.chksum = header.chksum, None
            assert inet.IP(bytes(header)).chksum == ours, "scapy computes the same"


def test_an_election_goes_on_without_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = ip_address("127.0.61.7")
    monkeypatch.setattr(pcap_module, "MAX_FILE_BYTES", 200)
    with contextlib.closing(Recorded(UnicastUdp(here, 0, []), tmp_path / "full", lambda: 0.0)) as network:
        network.peers = (here,)
        for _ in range(20):
            network._record(Datagram(bytes(20), here, here, 255))
    assert (tmp_path / "full").stat().st_size <= 200
    assert len(caplog.messages) == 1
    assert "no more packets are recorded: it has 200 bytes" in caplog.text

    caplog.clear()
    with contextlib.closing(Recorded(UnicastUdp(here, 0, []), Path("/dev/full"), lambda: 0.0)):
        assert "no more packets are recorded: No space left on device" in caplog.text


def test_a_record_that_cannot_be_begun(tmp_path: Path) -> None:
    here = ip_address("127.0.61.7")
    with (
        contextlib.closing(UnicastUdp(here, 0, [])) as network,
        pytest.raises(StartupError, match=r"--pcap .*: Is a directory"),
    ):
        Recorded(network, tmp_path, lambda: 0.0)
    assert ip_header(Datagram(b"", here, here, None))[8] == 0
