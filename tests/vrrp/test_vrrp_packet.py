"""The parser is fed whole, byte by byte, with trailing data, and with noise; scapy and keepalived are oracles."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.vrrp.packet import (
    CAUSES,
    GROUP_IPV4,
    GROUP_IPV6,
    MAX_INTERVAL_CS,
    Address,
    Advertisement,
    PacketError,
    cover,
    decode,
    encode,
    message_length,
    uncover,
)

# keepalived 2.2.7: VRID 51, priority 200, 10.77.0.100, 10 cs, from 10.77.0.1; with its IP header
GOLDEN_IP = bytes.fromhex("45c0002000110000ff70d03c0a4d0001e0000012 3133c801000a11330a4d0064")
GOLDEN = GOLDEN_IP[20:]
GOLDEN_RFC = bytes.fromhex("3133c801000afc0f0a4d0064")  # the same without the pseudo-header in the checksum
SOURCE, GROUP = IPv4Address(GOLDEN_IP[12:16]), IPv4Address(GOLDEN_IP[16:20])
GOLDEN_ADVERTISEMENT = Advertisement(51, 200, 10, (IPv4Address("10.77.0.100"),))

SOURCE6 = IPv6Address("fe80::1")
ADVERTISEMENT6 = Advertisement(51, 200, 10, (IPv6Address("fe80::100"), IPv6Address("2001:db8::100")))


def read(data: bytes, **options: Any) -> Advertisement:
    return decode(data, SOURCE, GROUP, **{"hop_limit": 255, **options})


def read6(data: bytes) -> Advertisement:
    return decode(data, SOURCE6, GROUP_IPV6, hop_limit=255)


def cause(data: bytes, **options: Any) -> str:
    with pytest.raises(PacketError) as caught:
        read(data, **options)
    assert caught.value.cause in CAUSES
    return caught.value.cause


def resummed(data: bytes) -> bytes:
    """With a right checksum (RFC 9568), so that the checks behind it are reached."""
    words = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2) if at != 6)
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return data[:6] + (words ^ 0xFFFF).to_bytes(2, "big") + data[8:]


def changed(at: int, value: int, data: bytes = GOLDEN) -> bytes:
    return resummed(data[:at] + bytes([value]) + data[at + 1 :])


class TestGolden:
    def test_keepalived_s_packet_is_read(self) -> None:
        assert read(GOLDEN, hop_limit=GOLDEN_IP[8]) == GOLDEN_ADVERTISEMENT

    def test_what_we_send_is_keepalived_s_packet(self) -> None:
        assert encode(GOLDEN_ADVERTISEMENT, SOURCE, GROUP) == GOLDEN

    def test_what_we_send_by_the_rfc(self) -> None:
        assert encode(GOLDEN_ADVERTISEMENT, SOURCE, GROUP, checksum="rfc9568") == GOLDEN_RFC

    def test_groups(self) -> None:
        assert GROUP == GROUP_IPV4
        assert GROUP_IPV6.is_multicast

    def test_the_interval_is_in_seconds_too(self) -> None:
        assert GOLDEN_ADVERTISEMENT.interval == 0.1


class TestThreeWays:
    def test_whole(self) -> None:
        assert read(GOLDEN) == GOLDEN_ADVERTISEMENT

    def test_byte_by_byte_only_the_last_completes_it(self) -> None:
        assert {cause(GOLDEN[:length]) for length in range(len(GOLDEN))} == {"short"}

    @pytest.mark.parametrize("trailer", [b"\0", b"\0" * 4, GOLDEN])
    def test_with_trailing_data(self, trailer: bytes) -> None:
        assert cause(GOLDEN + trailer) == "trailing"

    def test_message_length_tells_where_the_trailer_begins(self) -> None:
        assert message_length(GOLDEN + b"trailer", 4) == len(GOLDEN)
        packet6 = encode(ADVERTISEMENT6, SOURCE6, GROUP_IPV6)
        assert message_length(packet6 + b"trailer", 6) == len(packet6) == 8 + 2 * 16

    def test_message_length_needs_a_header(self) -> None:
        with pytest.raises(PacketError) as caught:
            message_length(GOLDEN[:7], 4)
        assert caught.value.cause == "short"


class TestReceipt:
    """§7.1: what MUST be verified, sentence by sentence."""

    def test_must_verify_that_the_ttl_is_255(self) -> None:
        assert cause(GOLDEN, hop_limit=254) == "ttl"
        assert cause(GOLDEN, hop_limit=0) == "ttl"

    def test_an_unknown_ttl_is_not_judged(self) -> None:
        assert read(GOLDEN, hop_limit=None) == GOLDEN_ADVERTISEMENT

    @pytest.mark.parametrize("version", [0, 1, 2, 4, 15])
    def test_must_verify_that_the_version_is_3(self, version: int) -> None:
        assert cause(changed(0, version << 4 | 1)) == "version"

    def test_keepalived_s_default_version_is_named_with_the_cure(self) -> None:
        with pytest.raises(PacketError, match="vrrp_version 3"):
            read(changed(0, 0x21))

    @pytest.mark.parametrize("kind", [0, 2, 15])
    def test_must_verify_that_the_type_is_1(self, kind: int) -> None:
        assert cause(changed(0, 3 << 4 | kind)) == "type"

    def test_must_verify_that_the_packet_is_complete(self) -> None:
        assert cause(changed(3, 2)) == "short"
        assert cause(changed(3, 255)) == "short"

    def test_must_verify_the_checksum(self) -> None:
        assert cause(GOLDEN[:6] + b"\x11\x34" + GOLDEN[8:]) == "checksum"

    def test_must_verify_that_the_count_is_not_0(self) -> None:
        assert cause(changed(3, 0)[:8]) == "no-addresses"

    def test_must_verify_that_the_interval_is_not_0(self) -> None:
        assert cause(changed(5, 0)) == "interval"

    def test_vrid_0_belongs_to_nobody(self) -> None:
        assert cause(changed(1, 0)) == "vrid"

    def test_the_reserved_field_is_ignored_on_reception(self) -> None:
        assert read(changed(4, 0xF0)) == GOLDEN_ADVERTISEMENT

    def test_the_first_ipv6_address_is_link_local(self) -> None:
        packet = encode(ADVERTISEMENT6, SOURCE6, GROUP_IPV6)
        swapped = packet[:8] + packet[24:40] + packet[8:24]  # the same sum
        with pytest.raises(PacketError) as caught:
            read6(swapped)
        assert caught.value.cause == "link-local"

    @pytest.mark.parametrize("interval_cs", [1, 255, 256, MAX_INTERVAL_CS])
    @pytest.mark.parametrize("priority", [0, 1, 255])
    def test_the_limits_are_valid(self, interval_cs: int, priority: int) -> None:
        advertisement = Advertisement(255, priority, interval_cs, GOLDEN_ADVERTISEMENT.addresses)
        assert read(encode(advertisement, SOURCE, GROUP)) == advertisement

    @pytest.mark.parametrize("count", [2, 20, 255])
    def test_many_addresses(self, count: int) -> None:
        addresses = tuple(IPv4Address("10.0.0.0") + number for number in range(count))
        advertisement = Advertisement(1, 100, 100, addresses)
        assert read(encode(advertisement, SOURCE, GROUP)) == advertisement


class TestChecksum:
    def test_either_is_accepted(self) -> None:
        assert read(GOLDEN) == read(GOLDEN_RFC) == GOLDEN_ADVERTISEMENT

    def test_a_mismatch_prints_both_sums_and_the_likely_cause(self) -> None:
        with pytest.raises(PacketError) as caught:
            read(GOLDEN[:6] + b"\xab\xcd" + GOLDEN[8:])
        for text in ["abcd", "1133", "fc0f", "damaged"]:
            assert text in str(caught.value)

    def test_ipv6_has_only_one(self) -> None:
        packet = encode(ADVERTISEMENT6, SOURCE6, GROUP_IPV6)
        assert packet == encode(ADVERTISEMENT6, SOURCE6, GROUP_IPV6, checksum="rfc9568")
        assert read6(packet) == ADVERTISEMENT6

    def test_with_unicast_the_pseudo_header_has_the_real_destination(self) -> None:
        peer, nobody = IPv4Address("10.77.0.2"), IPv4Address("10.77.0.3")
        packet = encode(GOLDEN_ADVERTISEMENT, SOURCE, peer)
        assert packet != GOLDEN
        assert decode(packet, SOURCE, peer, hop_limit=255) == GOLDEN_ADVERTISEMENT
        with pytest.raises(PacketError, match="NAT"):
            decode(packet, SOURCE, nobody, hop_limit=255)

    def test_every_flipped_bit_is_noticed(self) -> None:
        for bit in range(8 * len(GOLDEN)):
            flipped = bytearray(GOLDEN)
            flipped[bit // 8] ^= 1 << bit % 8
            cause(bytes(flipped))

    def test_0_and_ffff_are_the_same_sum(self) -> None:
        # An address chosen so that all the words add up to 0xffff, which makes the checksum 0.
        base = encode(GOLDEN_ADVERTISEMENT, SOURCE, GROUP, checksum="rfc9568")
        low = (int.from_bytes(base[10:12], "big") + int.from_bytes(base[6:8], "big")) % 0xFFFF
        address = IPv4Address(base[8:10] + low.to_bytes(2, "big"))
        packet = encode(Advertisement(51, 200, 10, (address,)), SOURCE, GROUP, checksum="rfc9568")
        assert packet[6:8] == b"\0\0"
        assert read(packet) == read(packet[:6] + b"\xff\xff" + packet[8:])

    @given(st.binary(min_size=2, max_size=64).filter(lambda trailer: len(trailer) % 2 == 0))
    def test_covering_a_trailer_and_back(self, trailer: bytes) -> None:
        packet = encode(ADVERTISEMENT6, SOURCE6, GROUP_IPV6)
        assert uncover(cover(packet, trailer), trailer) == packet


class TestWhatTheFormatCannotCarry:
    @pytest.mark.parametrize(
        ("vrid", "priority", "interval_cs", "addresses"),
        [
            (0, 100, 100, ["10.0.0.1"]),
            (256, 100, 100, ["10.0.0.1"]),
            (1, -1, 100, ["10.0.0.1"]),
            (1, 256, 100, ["10.0.0.1"]),
            (1, 100, 0, ["10.0.0.1"]),
            (1, 100, MAX_INTERVAL_CS + 1, ["10.0.0.1"]),
            (1, 100, 100, []),
            (1, 100, 100, ["10.0.0.1"] * 256),
            (1, 100, 100, ["10.0.0.1", "fe80::1"]),
            (1, 100, 100, ["2001:db8::1", "fe80::1"]),
        ],
    )
    def test_it_is_a_value_error(
        self, vrid: int, priority: int, interval_cs: int, addresses: list[str]
    ) -> None:
        with pytest.raises(ValueError, match=r"not|fit|need|link-local"):
            Advertisement(vrid, priority, interval_cs, tuple(map(ip_address, addresses)))

    def test_families_do_not_mix(self) -> None:
        with pytest.raises(ValueError, match="family"):
            encode(GOLDEN_ADVERTISEMENT, SOURCE6, GROUP_IPV6)
        with pytest.raises(ValueError, match="family"):
            encode(GOLDEN_ADVERTISEMENT, SOURCE, GROUP_IPV6)


KINDS = ["pseudo-header", "rfc9568"]

advertisements4 = st.builds(
    Advertisement,
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(1, MAX_INTERVAL_CS),
    st.lists(st.ip_addresses(v=4), min_size=1, max_size=8).map(tuple),
)
link_local = st.integers(0, 2**64 - 1).map(lambda number: IPv6Address("fe80::") + number)
advertisements6 = st.builds(
    Advertisement,
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(1, MAX_INTERVAL_CS),
    st.tuples(link_local, st.lists(st.ip_addresses(v=6), max_size=4)).map(lambda pair: (pair[0], *pair[1])),
)


class TestFuzz:
    """A value or a PacketError, nothing else."""

    @given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda data: b"\x31" + data)))
    def test_noise(self, data: bytes) -> None:
        for source, destination in ((SOURCE, GROUP), (SOURCE6, GROUP_IPV6)):
            with contextlib.suppress(PacketError):
                decode(data, source, destination, hop_limit=None)

    @given(advertisements4, st.data())
    def test_noise_with_a_right_checksum(self, advertisement: Advertisement, data: st.DataObject) -> None:
        packet = bytearray(encode(advertisement, SOURCE, GROUP))
        for _ in range(data.draw(st.integers(1, 3))):
            packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(PacketError):
            seen = read(resummed(bytes(packet)))
            assert read(encode(seen, SOURCE, GROUP)) == seen

    @given(
        advertisements4,
        st.ip_addresses(v=4),
        st.ip_addresses(v=4),
        st.sampled_from(["pseudo-header", "rfc9568"]),
    )
    def test_there_and_back(
        self, advertisement: Advertisement, source: Address, peer: Address, kind: Any
    ) -> None:
        packet = encode(advertisement, source, peer, checksum=kind)
        assert decode(packet, source, peer, hop_limit=255) == advertisement

    @given(advertisements6, st.ip_addresses(v=6), st.ip_addresses(v=6))
    def test_there_and_back_ipv6(self, advertisement: Advertisement, source: Address, peer: Address) -> None:
        assert decode(encode(advertisement, source, peer), source, peer, hop_limit=255) == advertisement


def built_by_scapy(advertisement: Advertisement, source: Address, destination: Address) -> bytes:
    """An independent implementation, whose IPv4 checksum has the pseudo-header."""
    from scapy.layers import inet, inet6, vrrp

    fields: dict[str, Any] = {"src": str(source), "dst": str(destination)}
    header = inet.IP(proto=112, **fields) if source.version == 4 else inet6.IPv6(nh=112, **fields)
    message = vrrp.VRRPv3(
        vrid=advertisement.vrid,
        priority=advertisement.priority,
        adv=advertisement.interval_cs,
        addrlist=[str(address) for address in advertisement.addresses],
    )
    return bytes(header / message)[len(header) :]


class TestScapy:
    @pytest.mark.parametrize(
        ("advertisement", "source", "destination"),
        [
            (GOLDEN_ADVERTISEMENT, SOURCE, GROUP),
            (Advertisement(7, 0, 4095, (GROUP, SOURCE) * 4), SOURCE, IPv4Address("10.77.0.2")),
            (ADVERTISEMENT6, SOURCE6, GROUP_IPV6),
            (ADVERTISEMENT6, SOURCE6, IPv6Address("fe80::2")),
        ],
    )
    def test_builds_the_same_bytes(
        self, advertisement: Advertisement, source: Address, destination: Address
    ) -> None:
        assert built_by_scapy(advertisement, source, destination) == encode(
            advertisement, source, destination
        )

    def test_reads_our_bytes(self) -> None:
        from scapy.layers import inet, vrrp

        packet = inet.IP(GOLDEN_IP[:20] + encode(GOLDEN_ADVERTISEMENT, SOURCE, GROUP))[vrrp.VRRPv3]
        assert (packet.version, packet.type, packet.vrid, packet.priority) == (3, 1, 51, 200)
        assert (packet.adv, packet.ipcount, packet.addrlist) == (10, 1, ["10.77.0.100"])
