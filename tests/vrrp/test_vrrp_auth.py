"""The trailer against the draft's own vectors and an HMAC computed here; then clocks that stand, step and lie."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleup.vrrp.auth import (
    AUTH_CAUSES,
    MAX_MARKS,
    TRAILER_BYTES,
    Authenticator,
    AuthError,
    default_window,
)
from scaleup.vrrp.packet import GROUP_IPV4, Address, Advertisement, PacketError, decode, encode

KEY, OTHER_KEY = bytes(range(32)), bytes(range(64))
WINDOW = 5.0
SOURCE = IPv4Address("198.51.100.10")
SOURCE6 = IPv6Address("fe80::10")
NOW = 1_750_000_000.25

# The wire images in the appendix of draft-cassen-vrrp-auth-hmac, as keepalived's own test has them: key 00…1f with
# id 1, sequence 0x6800000080000000. The IPv6 one was sent to fe80::20, and its checksum covers the trailer.
DRAFT_NOW = 0x68000000 + 0.5
DRAFT_IPV4 = bytes.fromhex(
    "3133c80100644402c0000264 010100006800000080000000 1b84bc4e8e43892dc6d98448f8ee2265"
)
DRAFT_IPV6 = bytes.fromhex(
    "3133c8010064a2e9fe800000000000000000000000000100"
    "010100006800000080000000 c8c56146ebfd66ee10ec4d8186461b78"
)
DRAFT_PEER6 = IPv6Address("fe80::20")

MESSAGE = DRAFT_IPV4[:12]


def authenticator(**changes: object) -> Authenticator:
    arguments: dict[str, object] = {"keys": {1: KEY}, "key_id": 1, "window": WINDOW}
    return Authenticator(**{**arguments, **changes})  # type: ignore[arg-type]


def refusal(receiver: Authenticator, data: bytes, source: Address = SOURCE, now: float = NOW) -> str:
    with pytest.raises(AuthError) as caught:
        receiver.open(data, source, now)
    assert caught.value.cause in AUTH_CAUSES
    return caught.value.cause


def sealed(now: float = NOW, source: Address = SOURCE, message: bytes = MESSAGE) -> bytes:
    return authenticator().seal(message, source, now)


def hears(receiver: Authenticator, sender: Authenticator, sent_at: float, received_at: float) -> bool:
    try:
        return receiver.open(sender.seal(MESSAGE, SOURCE, sent_at), SOURCE, received_at) == MESSAGE
    except AuthError:
        return False


def sequence(packet: bytes) -> int:
    return int.from_bytes(packet[-24:-16], "big")


class TestVectors:
    def test_the_draft_s_ipv4_packet_is_opened(self) -> None:
        message = authenticator().open(DRAFT_IPV4, SOURCE, DRAFT_NOW)
        advertisement = decode(message, SOURCE, GROUP_IPV4, hop_limit=None)
        assert advertisement == Advertisement(51, 200, 100, (IPv4Address("192.0.2.100"),))

    def test_the_draft_s_ipv4_packet_is_what_we_send(self) -> None:
        advertisement = Advertisement(51, 200, 100, (IPv4Address("192.0.2.100"),))
        message = encode(advertisement, SOURCE, GROUP_IPV4, checksum="rfc9568")
        assert sealed(DRAFT_NOW, SOURCE, message) == DRAFT_IPV4

    def test_the_draft_s_ipv6_packet_is_opened(self) -> None:
        message = authenticator().open(DRAFT_IPV6, SOURCE6, DRAFT_NOW)
        advertisement = decode(message, SOURCE6, DRAFT_PEER6, hop_limit=255)
        assert advertisement == Advertisement(51, 200, 100, (IPv6Address("fe80::100"),))

    def test_the_draft_s_ipv6_packet_is_what_we_send(self) -> None:
        message = encode(Advertisement(51, 200, 100, (IPv6Address("fe80::100"),)), SOURCE6, DRAFT_PEER6)
        assert sealed(DRAFT_NOW, SOURCE6, message) == DRAFT_IPV6

    def test_an_hmac_computed_here(self) -> None:
        packet = authenticator(keys={9: OTHER_KEY}, key_id=9).seal(MESSAGE, SOURCE, NOW)
        pseudo_header = struct.pack("!BBBB4s12x", 4, 3, 51, 0, SOURCE.packed)
        prefix = struct.pack("!BBHIHH", 1, 9, 0, int(NOW), 0x4000, 0)
        zeroed = MESSAGE[:6] + b"\0\0" + MESSAGE[8:]
        mac = hmac.new(OTHER_KEY, pseudo_header + zeroed + prefix + bytes(16), hashlib.sha256).digest()
        assert packet == MESSAGE + prefix + mac[:16]

    def test_the_trailer_has_28_bytes(self) -> None:
        assert TRAILER_BYTES == 28
        assert len(sealed()) == len(MESSAGE) + 28

    def test_the_checksum_is_not_signed_so_that_peers_may_have_different_ones(self) -> None:
        packet = sealed()
        resummed = packet[:6] + b"\xab\xcd" + packet[8:]
        assert authenticator().open(resummed, SOURCE, NOW) == resummed[: len(MESSAGE)]


class TestOrderOfChecks:
    def test_missing(self) -> None:
        for length in range(len(MESSAGE) + 1):
            assert refusal(authenticator(), MESSAGE[:length]) == "missing"

    def test_malformed_length(self) -> None:
        packet = sealed()
        for length in range(len(MESSAGE) + 1, len(packet)):
            assert refusal(authenticator(), packet[:length]) == "malformed"
        assert refusal(authenticator(), packet + b"\0") == "malformed"

    @pytest.mark.parametrize("at", [-28, -26, -25])
    def test_malformed_type_and_reserved(self, at: int) -> None:
        packet = bytearray(sealed())
        packet[at] ^= 2
        assert refusal(authenticator(), bytes(packet)) == "malformed"

    @pytest.mark.parametrize("late", [-5.1, 5.1, 3600, -3600])
    def test_stale_comes_before_the_key(self, late: float) -> None:
        assert refusal(authenticator(keys={2: KEY}, key_id=2), sealed(), now=NOW + late) == "stale"

    @pytest.mark.parametrize("late", [-5.0, -1.0, 0.0, 1.0, 5.0])
    def test_fresh_within_the_window(self, late: float) -> None:
        assert authenticator().open(sealed(), SOURCE, NOW + late) == MESSAGE

    def test_unknown_key_comes_before_the_mac(self) -> None:
        assert refusal(authenticator(keys={2: OTHER_KEY}, key_id=2), sealed()) == "key"

    def test_wrong_key(self) -> None:
        assert refusal(authenticator(keys={1: OTHER_KEY}), sealed()) == "mac"

    def test_replay_comes_last(self) -> None:
        receiver, packet = authenticator(), sealed()
        receiver.open(packet, SOURCE, NOW)
        assert refusal(receiver, packet[:-1] + bytes([packet[-1] ^ 1])) == "mac"
        assert refusal(receiver, packet) == "replay"

    def test_a_key_can_be_exchanged_without_a_gap(self) -> None:
        receiver = authenticator(keys={1: KEY, 2: OTHER_KEY})
        sender = authenticator(keys={1: KEY, 2: OTHER_KEY}, key_id=2)
        receiver.open(sealed(), SOURCE, NOW)
        assert receiver.open(sender.seal(MESSAGE, SOURCE, NOW + 1), SOURCE, NOW + 1) == MESSAGE


class TestForgery:
    def test_every_flipped_bit_but_the_checksum_s_is_noticed(self) -> None:
        packet = sealed()
        for bit in range(8 * len(packet)):
            if bit // 8 in (6, 7):
                continue
            flipped = bytearray(packet)
            flipped[bit // 8] ^= 1 << bit % 8
            refusal(authenticator(), bytes(flipped))

    def test_the_source_is_signed(self) -> None:
        assert refusal(authenticator(), sealed(), source=SOURCE + 1) == "mac"

    def test_the_vrid_is_signed(self) -> None:
        packet = bytearray(sealed())
        packet[1] = 52
        assert refusal(authenticator(), bytes(packet)) == "mac"

    def test_the_family_is_signed(self) -> None:
        """The same bytes, from an IPv6 address that begins like the IPv4 one, with a count that fits."""
        message = MESSAGE[:3] + b"\0" + MESSAGE[4:8]
        packet = sealed(message=message)
        lookalike = IPv6Address(SOURCE.packed + bytes(12))
        assert refusal(authenticator(), packet, source=lookalike) == "mac"

    def test_forged_packets_do_not_move_the_mark(self) -> None:
        receiver = authenticator()
        forger = authenticator(keys={1: OTHER_KEY})
        assert refusal(receiver, forger.seal(MESSAGE, SOURCE, NOW + 4)) == "mac"
        assert receiver.open(sealed(), SOURCE, NOW) == MESSAGE

    @given(st.binary(max_size=100))
    def test_noise_is_an_auth_error(self, data: bytes) -> None:
        for source in (SOURCE, SOURCE6):
            with pytest.raises(AuthError):
                authenticator().open(data, source, NOW)

    @given(st.binary(min_size=8, max_size=60))
    def test_authentic_noise_is_a_packet_error_or_a_value(self, message: bytes) -> None:
        message = (
            message[:3] + bytes([(len(message) - 8) // 4]) + message[4 : 8 + (len(message) - 8) // 4 * 4]
        )
        opened = authenticator().open(sealed(message=message), SOURCE, NOW)
        assert opened == message
        with contextlib.suppress(PacketError):
            decode(opened, SOURCE, GROUP_IPV4, hop_limit=255)


class TestReplay:
    def test_marks_are_kept_per_source_and_vrid(self) -> None:
        receiver = authenticator()
        other = MESSAGE[:1] + bytes([52]) + MESSAGE[2:]
        for source in (SOURCE, SOURCE + 1):
            for message in (MESSAGE, other):
                receiver.open(sealed(NOW, source, message), source, NOW)
                assert refusal(receiver, sealed(NOW, source, message), source) == "replay"

    def test_an_older_packet_is_a_replay(self) -> None:
        receiver = authenticator()
        receiver.open(sealed(NOW), SOURCE, NOW)
        assert refusal(receiver, sealed(NOW - 1)) == "replay"

    def test_the_table_is_bounded_and_forgets_who_was_silent_for_longest(self) -> None:
        receiver = authenticator()
        sources = [SOURCE + number for number in range(MAX_MARKS + 1)]
        for source in sources[:MAX_MARKS]:
            receiver.open(sealed(NOW, source), source, NOW)
        receiver.open(sealed(NOW + 1, sources[0]), sources[0], NOW)  # heard again
        receiver.open(sealed(NOW, sources[-1]), sources[-1], NOW)  # one too many
        assert refusal(receiver, sealed(NOW, sources[0]), sources[0]) == "replay"
        assert receiver.open(sealed(NOW, sources[1]), sources[1], NOW) == MESSAGE  # forgotten
        assert len(receiver._marks) == MAX_MARKS


class TestClocks:
    def test_with_other_keys_the_sequence_goes_on_and_nothing_is_heard_twice(self) -> None:
        """A reload: the clock was set back a little before it, and somebody has captured a packet."""
        before, receiver = authenticator(), authenticator(keys={1: KEY, 2: OTHER_KEY})
        last = before.seal(MESSAGE, SOURCE, NOW)
        receiver.open(last, SOURCE, NOW)
        after = authenticator(keys={1: KEY, 2: OTHER_KEY}, key_id=2)
        after.follow(before)
        receiver.open(after.seal(MESSAGE, SOURCE, NOW - 1), SOURCE, NOW)
        again = authenticator(keys={2: OTHER_KEY, 1: KEY}, window=2 * WINDOW)
        again.follow(receiver)
        assert refusal(again, last) == "replay"

    def test_a_standing_clock_still_makes_the_sequence_grow(self) -> None:
        sender = authenticator()
        packets = [sender.seal(MESSAGE, SOURCE, NOW) for _ in range(1000)]
        receiver = authenticator()
        for packet in packets:
            assert receiver.open(packet, SOURCE, NOW) == MESSAGE

    def test_the_counter_carries_into_the_time(self) -> None:
        sender = authenticator()
        sender.seal(MESSAGE, SOURCE, NOW)
        sender._last_sent = (int(NOW) << 32) | 0xFFFFFFFF
        assert sequence(sender.seal(MESSAGE, SOURCE, NOW)) == (int(NOW) + 1) << 32

    @settings(max_examples=50)
    @given(st.lists(st.floats(-WINDOW / 2, WINDOW / 2), min_size=2, max_size=20))
    def test_steps_within_the_window_are_not_noticed(self, errors: list[float]) -> None:
        sender, receiver = authenticator(), authenticator()
        for tick, error in enumerate(errors):
            now = NOW + tick * 0.1
            assert receiver.open(sender.seal(MESSAGE, SOURCE, now + error), SOURCE, now) == MESSAGE

    def test_a_sender_from_the_future_is_heard_as_soon_as_its_clock_is_set(self) -> None:
        sender, receiver = authenticator(), authenticator()
        assert refusal(receiver, sender.seal(MESSAGE, SOURCE, NOW + 3600)) == "stale"
        assert receiver.open(sender.seal(MESSAGE, SOURCE, NOW), SOURCE, NOW) == MESSAGE

    def test_a_pair_from_the_future_hears_each_other_as_soon_as_both_clocks_are_set(self) -> None:
        sender, receiver = authenticator(), authenticator()
        receiver.open(sender.seal(MESSAGE, SOURCE, NOW + 3600), SOURCE, NOW + 3600)
        assert receiver.open(sender.seal(MESSAGE, SOURCE, NOW), SOURCE, NOW) == MESSAGE
        assert receiver.open(sender.seal(MESSAGE, SOURCE, NOW), SOURCE, NOW) == MESSAGE

    def test_a_restarted_sender_is_heard_at_once(self) -> None:
        receiver = authenticator()
        receiver.open(sealed(NOW), SOURCE, NOW)
        assert receiver.open(sealed(NOW + 0.01), SOURCE, NOW + 0.01) == MESSAGE

    @pytest.mark.parametrize("back", [0.1, 1.0, 4.9])
    def test_a_sender_restarted_in_its_own_past_is_refused_for_at_most_the_window(self, back: float) -> None:
        receiver = authenticator()
        receiver.open(sealed(NOW), SOURCE, NOW - back)
        assert refusal(receiver, sealed(NOW - back), now=NOW - back) == "replay"
        later = NOW - back + WINDOW
        assert receiver.open(sealed(later), SOURCE, later) == MESSAGE

    @given(
        st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.booleans()), max_size=12),
    )
    def test_once_the_clocks_are_right_a_sender_is_refused_for_at_most_the_window(
        self, history: list[tuple[float, float, bool]]
    ) -> None:
        """Whatever the two clocks did before, restarts of the sender among it."""
        sender, receiver = authenticator(), authenticator()
        now = NOW
        for sender_error, receiver_error, restarted in history:
            now += 0.5
            sender = authenticator() if restarted else sender
            hears(receiver, sender, now + sender_error, now + receiver_error)
        right_since = now
        heard = [
            hears(receiver, sender, right_since + tick / 10, right_since + tick / 10)
            for tick in range(1, 100)
        ]
        refused = heard.index(True) / 10
        assert refused <= WINDOW + 0.1
        assert all(heard[heard.index(True) :])

    def test_the_seconds_may_wrap(self) -> None:
        """RFC 1982, on 7 February 2106."""
        wrap = float(1 << 32)
        sender, receiver = authenticator(), authenticator()
        for now in (wrap - 1, wrap - 0.01, wrap, wrap + 1):
            assert receiver.open(sender.seal(MESSAGE, SOURCE, now), SOURCE, now) == MESSAGE

    @pytest.mark.parametrize(("interval", "window"), [(0.01, 5.0), (1.0, 5.0), (2.0, 6.0), (40.0, 120.0)])
    def test_default_window(self, interval: float, window: float) -> None:
        assert default_window(interval) == window


class TestSettings:
    @pytest.mark.parametrize(
        "changes",
        [
            {"keys": {1: bytes(31)}},
            {"keys": {1: bytes(65)}},
            {"keys": {0: KEY}, "key_id": 0},
            {"keys": {256: KEY}, "key_id": 256},
            {"keys": {1: KEY}, "key_id": 2},
            {"window": 0.0},
            {"window": float("nan")},
        ],
    )
    def test_what_cannot_work_is_a_value_error(self, changes: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"key|window"):
            authenticator(**changes)

    def test_no_key_shows_in_the_repr_or_the_error(self) -> None:
        assert KEY.hex() not in repr(authenticator())
        with pytest.raises(ValueError, match="31 bytes") as caught:
            authenticator(keys={1: b"secret" + bytes(25)})
        assert "secret" not in str(caught.value)
