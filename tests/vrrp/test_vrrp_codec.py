"""VRRPv2, the choice between the checksums, and the modes of authentication; scapy and os-ken are oracles."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from elections import KEY
from hypothesis import given
from hypothesis import strategies as st
from os_ken.lib.packet import vrrp as os_ken_vrrp
from scapy.layers import inet, inet6
from scapy.layers import vrrp as scapy_vrrp

from scaleup.vrrp import legacy
from scaleup.vrrp.auth import Authenticator, AuthError
from scaleup.vrrp.codec import Codec
from scaleup.vrrp.packet import Advertisement, PacketError, encode

SOURCE, GROUP = IPv4Address("10.77.0.1"), IPv4Address("224.0.0.18")
SOURCE6, GROUP6 = IPv6Address("fe80::1"), IPv6Address("ff02::12")
VIP, VIP6 = IPv4Address("10.77.0.100"), IPv6Address("fe80::100")
NOW = 1_800_000_000.0

addresses4 = st.lists(st.ip_addresses(v=4), min_size=1, max_size=8).map(tuple)
link_local = st.integers(0, 2**64 - 1).map(lambda number: IPv6Address("fe80::") + number)
addresses6 = st.tuples(link_local, st.lists(st.ip_addresses(v=6), max_size=4)).map(
    lambda pair: (pair[0], *pair[1])
)
v2_advertisements = st.builds(
    Advertisement,
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(1, 40).map(lambda seconds: seconds * 100),
    addresses4,
)
v3_advertisements = st.builds(
    Advertisement,
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(1, 4095),
    addresses4 | addresses6,
)
passwords = st.none() | st.binary(min_size=1, max_size=8).filter(lambda text: not text.endswith(b"\0"))


def codec(**different: Any) -> Codec:
    return Codec(**{"vrid": 51, "interval_cs": 100, "addresses": (VIP,), **different})


def authenticator() -> Authenticator:
    return Authenticator({1: KEY}, 1, 5.0)


def read(reader: Codec, data: bytes, hop_limit: int | None = 255) -> Advertisement:
    return reader.read(data, SOURCE, GROUP, hop_limit, NOW)


def cause(reader: Codec, data: bytes, hop_limit: int | None = 255) -> str:
    with pytest.raises((PacketError, AuthError)) as caught:
        read(reader, data, hop_limit)
    error = caught.value
    assert isinstance(error, PacketError | AuthError)
    return error.cause


# ----- version 2 ------------------------------------------------------------------------------------


@given(v2_advertisements, passwords)
def test_version_2_there_and_back(adv: Advertisement, password: bytes | None) -> None:
    assert legacy.decode(legacy.encode(adv, password), adv.interval, password) == adv


@given(v2_advertisements, passwords)
def test_scapy_builds_the_same_version_2(adv: Advertisement, password: bytes | None) -> None:
    data = (password or b"").ljust(8, b"\0")
    message = scapy_vrrp.VRRP(
        vrid=adv.vrid,
        priority=adv.priority,
        adv=adv.interval_cs // 100,
        addrlist=[str(address) for address in adv.addresses],
        authtype=0 if password is None else 1,
        auth1=int.from_bytes(data[:4], "big"),
        auth2=int.from_bytes(data[4:], "big"),
    )
    assert same_but_for_zero(bytes(message), legacy.encode(adv, password))


@given(v3_advertisements, st.data())
def test_scapy_builds_the_same_version_3(adv: Advertisement, data: st.DataObject) -> None:
    source, destination = data.draw(st.tuples(*[st.ip_addresses(v=adv.family)] * 2))
    fields: dict[str, Any] = {"src": str(source), "dst": str(destination)}
    header = inet.IP(proto=112, **fields) if adv.family == 4 else inet6.IPv6(nh=112, **fields)
    message = scapy_vrrp.VRRPv3(
        vrid=adv.vrid,
        priority=adv.priority,
        adv=adv.interval_cs,
        addrlist=[str(address) for address in adv.addresses],
    )
    theirs = bytes(header / message)[len(header) :]
    assert same_but_for_zero(theirs, encode(adv, source, destination))


@given(v3_advertisements)
def test_os_ken_builds_the_same_version_3(adv: Advertisement) -> None:
    source = SOURCE if adv.family == 4 else SOURCE6
    packet = os_ken_vrrp.vrrpv3.create(
        os_ken_vrrp.VRRP_TYPE_ADVERTISEMENT,
        adv.vrid,
        adv.priority,
        adv.interval_cs,
        [str(address) for address in adv.addresses],
    ).create_packet(str(source))
    packet.serialize()
    ours = encode(adv, source, GROUP if adv.family == 4 else GROUP6)
    head = 14 + (20 if adv.family == 4 else 40)  # Ethernet and IP
    assert same_but_for_zero(bytes(packet.data[head : head + len(ours)]), ours)


def same_but_for_zero(theirs: bytes, ours: bytes) -> bool:
    """In one's complement arithmetic a sum of 0 can be written as 0 or as ffff."""
    sums = [int.from_bytes(data[6:8], "big") % 0xFFFF for data in (theirs, ours)]
    return theirs[:6] + theirs[8:] == ours[:6] + ours[8:] and sums[0] == sums[1]


V2 = legacy.encode(Advertisement(51, 200, 100, (VIP,)))
GOOD = encode(Advertisement(51, 200, 100, (VIP,)), SOURCE, GROUP)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (V2[:7], "short"),
        (V2[:-1], "short"),
        (V2 + b"\0", "trailing"),
        (GOOD, "version"),
        (b"\x22" + V2[1:], "type"),
        (V2[:3] + b"\0" + V2[4:], "no-addresses"),
        (V2[:2] + b"\1" + V2[3:], "checksum"),
        (V2[:1] + b"\x34" + V2[2:], "vrid"),
        (GOOD[:1] + b"\x34" + GOOD[2:], "vrid"),
        (legacy.encode(Advertisement(51, 200, 200, (VIP,))), "interval"),
        (legacy.encode(Advertisement(51, 200, 100, (VIP,)), b"secret"), "password"),
    ],
)
def test_what_version_2_refuses(data: bytes, expected: str) -> None:
    assert cause(codec(version=2), data) == expected


def test_version_2_reads_no_other_password() -> None:
    speaker = codec(version=2, password=b"secret")
    said = speaker.write(200, SOURCE, GROUP, NOW)
    assert read(speaker, said).priority == 200
    assert cause(codec(version=2, password=b"Secret"), said) == "password"
    assert cause(speaker, V2) == "password"


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"\x21\x33" + data))
def test_version_2_fed_with_noise(data: bytes) -> None:
    with contextlib.suppress(PacketError):
        legacy.decode(data, 1.0, b"secret")


@pytest.mark.parametrize(
    ("adv", "password", "said"),
    [
        (Advertisement(51, 1, 150, (VIP,)), None, "whole seconds"),
        (Advertisement(51, 1, 10, (VIP,)), None, "whole seconds"),
        (Advertisement(51, 1, 100, (VIP6,)), None, "IPv4"),
        (Advertisement(51, 1, 100, (VIP,)), b"ninebytes", "at most 8 bytes"),
    ],
)
def test_what_version_2_cannot_carry(adv: Advertisement, password: bytes | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        legacy.encode(adv, password)


# ----- what is believed -------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["pseudo-header", "rfc9568"])
@pytest.mark.parametrize("ours", ["pseudo-header", "rfc9568"])
def test_either_checksum_is_read_unless_strict(sent: Any, ours: Any) -> None:
    data = codec(checksum=sent).write(200, SOURCE, GROUP, NOW)
    assert read(codec(checksum=ours), data).priority == 200
    strict = codec(checksum=ours, strict=True)
    if sent == ours:
        assert read(strict, data).priority == 200
        return
    assert cause(strict, data) == "checksum"
    with pytest.raises(PacketError, match=r"1[0-9a-f]{3}.*change --checksum .* or leave --strict out"):
        read(strict, data)


@pytest.mark.parametrize(("hop_limit", "minimum", "passes"), [(255, 255, 1), (254, 255, 0), (64, 64, 1)])
def test_the_minimum_of_the_ttl(hop_limit: int, minimum: int, passes: int) -> None:
    reader = codec(minimum_ttl=minimum)
    if passes:
        assert read(reader, GOOD, hop_limit).priority == 200
    else:
        assert cause(reader, GOOD, hop_limit) == "ttl"
    assert cause(reader, GOOD, None) == "ttl"


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        ("enforce", "enforce", None),
        ("permissive", "enforce", None),
        ("receive-only", "enforce", "missing"),
        ("receive-only", "permissive", None),
        ("receive-only", "receive-only", None),
        ("enforce", "receive-only", None),
        ("enforce", "permissive", None),
    ],
)
def test_each_step_of_bringing_in_authentication(sender: Any, receiver: Any, expected: str | None) -> None:
    data = codec(authenticator=authenticator(), auth_mode=sender).write(200, SOURCE, GROUP, NOW)
    reader = codec(authenticator=authenticator(), auth_mode=receiver)
    if expected is None:
        assert read(reader, data).priority == 200
    else:
        assert cause(reader, data) == expected


@pytest.mark.parametrize("mode", ["enforce", "permissive", "receive-only"])
def test_a_trailer_that_is_there_has_to_be_right(mode: Any) -> None:
    other = Authenticator({1: b"x" * 32}, 1, 5.0)
    data = codec(authenticator=other).write(255, SOURCE, GROUP, NOW)
    assert cause(codec(authenticator=authenticator(), auth_mode=mode), data) == "mac"


def test_what_is_cheap_to_see_is_seen_before_the_digest() -> None:
    reader = codec(authenticator=authenticator())
    for number, expected in ((1, "version"), (4, "version"), (15, "version")):
        assert cause(reader, bytes([number << 4 | 1]) + GOOD[1:]) == expected
    assert cause(reader, GOOD[:-1]) == "short"
    assert cause(reader, b"\x31\x34" + GOOD[2:]) == "vrid"
    assert cause(reader, b"\x21\x34" + GOOD[2:]) == "vrid"  # another election, whatever version it speaks
    assert cause(reader, GOOD) == "missing"


@pytest.mark.parametrize(
    ("ahead", "key", "from_future"), [(60, KEY, True), (60, b"x" * 32, False), (-60, KEY, False)]
)
def test_only_what_is_authentic_comes_from_the_future(ahead: float, key: bytes, from_future: bool) -> None:
    data = codec(authenticator=Authenticator({1: key}, 1, 5.0)).write(200, SOURCE, GROUP, NOW + ahead)
    with pytest.raises(AuthError) as caught:
        read(codec(authenticator=authenticator()), data)
    assert (caught.value.cause, caught.value.from_future) == ("stale", from_future)
