"""The PROXY protocol: the manual's bytes, each way to be wrong, and that reading undoes writing.

Every header is fed whole, byte by byte, and with the client's first bytes behind it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint
from scaleup.net.proxy_protocol import (
    MAX_BYTES,
    SIGNATURE,
    Cause,
    Header,
    Parsed,
    Refused,
    Tlv,
    crc32c,
    parse,
    v1,
    v2,
    v2_local,
)

CLIENT, VIRTUAL = Endpoint("192.168.0.1", 56324), Endpoint("192.168.0.11", 443)
CLIENT6, VIRTUAL6 = Endpoint("2001:db8::7", 56324), Endpoint("2001:db8::100", 443)
MANUAL_LINE = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
"""§2.1's example."""
TCP4_BYTES = b"\xc0\xa8\0\x01\xc0\xa8\0\x0b\xdc\x04\x01\xbb"

addresses4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
addresses6 = (
    st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda address: address.ipv4_mapped is None).map(str)
)
ports = st.integers(0, 65535)
pairs = st.one_of(
    st.tuples(st.builds(Endpoint, some, ports), st.builds(Endpoint, some, ports))
    for some in (addresses4, addresses6)
)
tlv_lists = st.lists(st.tuples(st.integers(5, 255), st.binary(max_size=40)), max_size=5)


def binary(command: int, family: int, following: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(following).to_bytes(2) + following


def read(header: bytes) -> Header:
    """Whole, with what follows, and byte by byte: all the same."""
    expected = parse(header)
    assert expected is not None
    assert expected.length == len(header)
    assert parse(header + b"\r\nGET / HTTP/1.1\r\n") == expected
    assert [parse(header[:end]) for end in range(len(header))] == [None] * len(header)
    return expected.header


def refused(received: bytes) -> tuple[Cause, str]:
    with pytest.raises(Refused) as caught:
        parse(received)
    return caught.value.cause, str(caught.value)


class TestVersion1:
    def test_the_manuals_example(self) -> None:
        assert v1(CLIENT, VIRTUAL) == MANUAL_LINE
        assert read(MANUAL_LINE) == Header(CLIENT, VIRTUAL)

    @pytest.mark.parametrize(
        "line",
        [
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
        ],
        ids=["56 bytes", "104 bytes"],
    )
    def test_the_longest_lines(self, line: bytes) -> None:
        assert len(line) in (56, 104)
        header = read(line)
        assert header.source is not None
        assert header.source.port == 65535

    @pytest.mark.parametrize(
        "line",
        [
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
            b"PROXY UNKNOWN \xff\0 anything\r\n",
        ],
    )
    def test_of_unknown_everything_is_ignored(self, line: bytes) -> None:
        assert len(line) <= 107
        assert read(line) == Header()

    def test_ipv6_in_any_spelling(self) -> None:
        assert read(b"PROXY TCP6 2001:DB8:0:0::7 ::1 0 1\r\n") == Header(
            Endpoint("2001:db8::7", 0), Endpoint("::1", 1)
        )

    @pytest.mark.parametrize(
        "line",
        [
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
            b"PROXY  TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            b"PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
            b"PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
            b"PROXY TCP4 192.168.00.1 192.168.0.11 56324 443\r\n",
            b"PROXY TCP4 192.168.0 192.168.0.11 56324 443\r\n",
            b"PROXY TCP4 ::1 ::1 56324 443\r\n",
            b"PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
            b"PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            b"PROXY TCP6 1::2::3 ::1 56324 443\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 +56324 443\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 -1 443\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 00\r\n",
            b"PROXY UDP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            b"PROXY tcp4 192.168.0.1 192.168.0.11 56324 443\r\n",
            b"PROXY UNKNOWNX\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4 \xd9\xa1.0.0.1 192.168.0.11 56324 443\r\n",  # a digit, but not ASCII's
        ],
    )
    def test_what_does_not_match_exactly_is_refused(self, line: bytes) -> None:
        cause, detail = refused(line)
        assert cause == Cause.MALFORMED
        assert detail

    @pytest.mark.parametrize(
        "received",
        [
            b"PROXY UNKNOWN\n",
            b"PROXY UNKNOWN\rX",
            b"PROXY UNKNOWN\r\r\n",
            b"PROXY UNKNOWN \n\r\n",
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n\r\n",
        ],
    )
    def test_a_single_cr_or_lf_does_not_end_the_line(self, received: bytes) -> None:
        assert refused(received) == (Cause.MALFORMED, "its line does not end with CRLF")

    def test_crlf_must_come_within_107_bytes(self) -> None:
        longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
        assert len(longest) == 107
        assert read(longest) == Header()
        too_long = longest[:-2] + b"x\r\n"
        assert parse(too_long[:106]) is None
        assert refused(too_long[:107]) == (Cause.TOO_LONG, "no CRLF within 107 bytes")
        assert refused(too_long)[0] == Cause.TOO_LONG

    @given(pairs)
    def test_reading_undoes_writing(self, pair: tuple[Endpoint, Endpoint]) -> None:
        line = v1(*pair)
        assert len(line) <= 104
        assert read(line) == Header(*pair)


class TestVersion2:
    def test_the_manuals_layout_of_tcp_over_ipv4(self) -> None:
        expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c" + TCP4_BYTES
        assert v2(CLIENT, VIRTUAL) == expected
        assert read(expected) == Header(CLIENT, VIRTUAL)

    def test_the_manuals_layout_of_tcp_over_ipv6(self) -> None:
        following = (
            IPv6Address("2001:db8::7").packed + IPv6Address("2001:db8::100").packed + b"\xdc\x04\x01\xbb"
        )
        assert v2(CLIENT6, VIRTUAL6) == binary(0x21, 0x21, following)
        assert read(binary(0x21, 0x21, following)) == Header(CLIENT6, VIRTUAL6)

    def test_local_has_no_addresses(self) -> None:
        assert v2_local() == binary(0x20, 0x00, b"")
        assert read(v2_local()) == Header(local=True)

    @pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0xFF])
    def test_of_local_the_block_and_the_family_are_discarded(self, family: int) -> None:
        assert read(binary(0x20, family, b"whatever this is")) == Header(local=True)

    @pytest.mark.parametrize("family", [0x00, 0x01, 0x10, 0x20, 0x30])
    def test_of_unspec_the_addresses_are_ignored(self, family: int) -> None:
        assert read(binary(0x21, family, b"whatever this is")) == Header()

    @pytest.mark.parametrize(("family", "size"), [(0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)])
    def test_what_is_not_tcp_falls_back_to_unspec_and_keeps_its_tlvs(self, family: int, size: int) -> None:
        assert read(binary(0x21, family, bytes(size) + b"\x02\0\x01a")) == Header(tlvs=((2, b"a"),))

    @pytest.mark.parametrize("family", [0x41, 0xF1, 0x13, 0x1F])
    def test_a_family_or_transport_that_does_not_exist_is_refused(self, family: int) -> None:
        assert refused(binary(0x21, family, TCP4_BYTES))[0] == Cause.UNKNOWN

    @pytest.mark.parametrize("command", [0x22, 0x2F, 0x11, 0x31, 0x01])
    def test_another_version_or_command_is_refused_at_its_byte(self, command: int) -> None:
        cause, detail = refused(SIGNATURE + bytes([command]))
        assert cause == Cause.UNKNOWN
        assert f"0x{command:02x}" in detail

    @pytest.mark.parametrize(("family", "size"), [(0x11, 11), (0x21, 35), (0x21, 12), (0x31, 215), (0x11, 0)])
    def test_addresses_must_fit_the_length(self, family: int, size: int) -> None:
        assert refused(binary(0x21, family, bytes(size)))[0] == Cause.MALFORMED

    @pytest.mark.parametrize("tlvs", [b"\x01", b"\x01\0", b"\x01\0\x02a", b"\x01\xff\xffa", b"\x04\0\0\x04"])
    def test_tlvs_must_fill_the_length_exactly(self, tlvs: bytes) -> None:
        assert refused(binary(0x21, 0x11, TCP4_BYTES + tlvs))[0] == Cause.MALFORMED

    def test_no_more_is_waited_for_than_is_ever_read(self) -> None:
        """The length alone says so: nobody makes us buffer it."""
        fits = binary(0x21, 0x11, TCP4_BYTES + b"\x04" + (MAX_BYTES - 31).to_bytes(2) + bytes(MAX_BYTES - 31))
        assert len(fits) == MAX_BYTES
        assert parse(fits[:-1]) is None
        assert isinstance(parse(fits), Parsed)
        assert refused(SIGNATURE + b"\x21\x11" + (MAX_BYTES - 15).to_bytes(2))[0] == Cause.TOO_LONG
        with pytest.raises(ValueError, match=f"at most {MAX_BYTES}"):
            v2(CLIENT, VIRTUAL, [(Tlv.NOOP, bytes(MAX_BYTES - 30))])

    def test_tlvs_are_kept_in_their_order(self) -> None:
        tlvs = ((0x02, b"example.org"), (Tlv.NOOP, b""), (0xEA, b"\x01vpce-1"), (0x02, b""))
        assert read(v2(CLIENT, VIRTUAL, tlvs)) == Header(CLIENT, VIRTUAL, tlvs=tlvs)

    @given(pairs, tlv_lists, st.booleans())
    def test_reading_undoes_writing(
        self, pair: tuple[Endpoint, Endpoint], tlvs: list[tuple[int, bytes]], checksum: bool
    ) -> None:
        header = read(v2(*pair, tlvs, checksum=checksum))
        assert (header.source, header.destination) == pair
        sums = [tlv for tlv in header.tlvs if tlv[0] == Tlv.CRC32C]
        assert len(sums) == checksum
        assert [tlv for tlv in header.tlvs if tlv not in sums] == tlvs


class TestChecksum:
    @pytest.mark.parametrize(
        ("data", "crc"),
        [
            (b"123456789", 0xE3069283),
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
        ],
    )
    def test_crc32c_of_rfc_3720_and_of_the_catalogue(self, data: bytes, crc: int) -> None:
        assert crc32c(data) == crc

    @given(st.data())
    def test_one_flipped_bit_is_found(self, data: st.DataObject) -> None:
        """Anywhere behind the length, whatever it turns the header into."""
        header = v2(CLIENT, VIRTUAL, [(0x02, b"example.org")], checksum=True)
        bit = data.draw(st.integers(16 * 8, len(header) * 8 - 1))
        broken = bytearray(header)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            parsed = parse(bytes(broken))
        except Refused:
            return
        assert parsed is not None
        assert Tlv.CRC32C not in dict(parsed.header.tlvs)  # it was turned into a TLV of another type

    def test_a_wrong_checksum_is_refused(self) -> None:
        header = v2(CLIENT, VIRTUAL, checksum=True)
        assert refused(header[:-1] + bytes([header[-1] ^ 1])) == (Cause.CHECKSUM, "the checksum is wrong")

    def test_a_checksum_of_another_size_is_malformed(self) -> None:
        assert refused(binary(0x21, 0x11, TCP4_BYTES + b"\x03\0\x02ab"))[0] == Cause.MALFORMED

    def test_it_may_stand_before_other_tlvs(self) -> None:
        zeros = binary(0x21, 0x11, TCP4_BYTES + b"\x03\0\x04\0\0\0\0\x04\0\x01\0")
        header = zeros[:31] + crc32c(zeros).to_bytes(4) + zeros[35:]
        assert [kind for kind, _ in read(header).tlvs] == [Tlv.CRC32C, Tlv.NOOP]


class TestFamilies:
    """What a dual-stack listener sees."""

    def test_an_ipv4_client_of_an_ipv6_socket_is_ipv4(self) -> None:
        mapped = Endpoint("::ffff:192.168.0.1", 56324), Endpoint("::ffff:192.168.0.11", 443)
        assert v1(*mapped) == MANUAL_LINE
        assert v2(*mapped) == v2(CLIENT, VIRTUAL)

    def test_different_families_are_both_written_as_ipv6(self) -> None:
        assert v1(CLIENT, VIRTUAL6) == b"PROXY TCP6 ::ffff:c0a8:1 2001:db8::100 56324 443\r\n"
        header = read(v2(CLIENT6, VIRTUAL))
        assert header.destination is not None
        assert IPv6Address(header.destination.host).ipv4_mapped == IPv4Address(VIRTUAL.host)

    def test_a_zone_is_not_sent(self) -> None:
        zoned = Endpoint("fe80::1%eth0", 1)
        assert v1(zoned, VIRTUAL6) == b"PROXY TCP6 fe80::1 2001:db8::100 1 443\r\n"
        assert v2(zoned, VIRTUAL6) == v2(Endpoint("fe80::1", 1), VIRTUAL6)

    def test_a_name_cannot_be_sent(self) -> None:
        with pytest.raises(ValueError, match="web1"):
            v1(Endpoint("web1", 80), VIRTUAL)


class TestAnythingElse:
    @pytest.mark.parametrize(
        "received",
        [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n\r\n\r\n", b"PROXX", b"proxy TCP4 ", b"PROXY\r\n"],
    )
    def test_no_header_is_refused_at_the_first_wrong_byte(self, received: bytes) -> None:
        assert refused(received)[0] == Cause.NOT_PROXY
        wrong = next(end for end in range(1, len(received) + 1) if not _could_begin(received[:end]))
        assert refused(received[:wrong])[0] == Cause.NOT_PROXY
        assert parse(received[: wrong - 1]) is None

    def test_nothing_yet_is_not_wrong(self) -> None:
        assert parse(b"") is None

    @given(
        st.one_of(
            st.binary(max_size=60),
            st.binary(max_size=120).map(lambda rest: b"PROXY " + rest),
            st.text("PROXYTCP46UNKW 0123456789.:abf\r\n", max_size=110).map(
                lambda rest: b"PROXY " + rest.encode()
            ),
            st.builds(binary, st.sampled_from([0x20, 0x21]), st.integers(0, 255), st.binary(max_size=80)),
        )
    )
    def test_any_bytes_are_a_header_or_too_few_or_the_one_error(self, received: bytes) -> None:
        try:
            parsed = parse(received)
        except Refused:
            for more in (b"\n", b"\0", b"x"):  # and stay refused, whatever comes
                with pytest.raises(Refused):
                    parse(received + more)
        else:
            assert len(received) < MAX_BYTES if parsed is None else parsed.length <= len(received)


def _could_begin(received: bytes) -> bool:
    return any(start.startswith(received[: len(start)]) for start in (SIGNATURE, b"PROXY "))
