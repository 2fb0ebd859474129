"""Authentication: the HMAC trailer of draft-cassen-vrrp-auth-hmac, which is keepalived's `auth_hmac`.

Where advertisements are routed, or a neighbour is not to be trusted, a TTL of 255 proves nothing. A trailer
of 28 bytes after the message proves that the sender has the key, that nothing was changed, and that it was
sent now:

     0               8              16                              31
    +---------------+---------------+-------------------------------+
    |   type = 1    |    key id     |         reserved = 0          |
    +---------------+---------------+-------------------------------+
    |                 sequence: seconds since 1970                  |
    +-------------------------------+-------------------------------+
    |    1/65536ths of a second     |            counter            |
    +-------------------------------+-------------------------------+
    |        HMAC-SHA256, its first 16 bytes                        |

The HMAC covers a pseudo-header (family 4 or 6, VRRP version, VRID, 0, and the source address in 16 bytes,
IPv4's followed by zeros), the message with its checksum taken as 0, and the trailer with its HMAC taken as
0. So neither another virtual router's nor another sender's packet can be passed off with the same key, and a
packet is the same for every destination. The checksum of IPv4 ends with the message; the one of IPv6 covers
the trailer too, because there the kernel computes it over all that is sent.

**Clocks.** The sequence is the sender's wall clock, made to grow with every packet, compared by RFC 1982
(it may wrap). The receiver refuses what is further than `window` from its own clock, either way (stale), and
what is not newer than the newest authentic packet of that sender (replay). A wrong clock thus costs
advertisements, and a pair that does not hear each other is Active twice. What must not happen is that this
outlasts the wrong clock:

- The clock stands, or steps back by up to `window`: the sender counts on from its last sequence, which
  the receivers still find fresh, until the clock has caught up.
- It steps back by more: the last sequence now lies in a future that every right clock refuses as stale.
  Counting on would last until that future comes, so the sender starts again from its clock.
- Receivers that had the same wrong clock hold a mark in that future. A mark further than `window` from the
  receiver's clock is ignored: it could only order packets that are stale anyway. So this heals at once.
- A sender that starts anew has forgotten its last sequence. If its clock stepped back in between, receivers
  refuse it until the clock has passed their mark, which is at most `window` ahead: a bounded time.

So when the clocks are right again, a sender is refused for at most `window`, counted from its first packet.
The price: a receiver whose clock stepped back can be replayed what it heard when its clock showed that time
before, each packet once.

Reading order: `Authenticator.seal` and `.open`; the rest is arithmetic on sequences.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from typing import Literal, get_args

from scaleup.vrrp.packet import CHECKSUM_OFFSET, HEADER, Address, cover, message_length, uncover

AuthCause = Literal["missing", "malformed", "stale", "key", "mac", "replay"]
AUTH_CAUSES: tuple[AuthCause, ...] = get_args(AuthCause)
"""Every cause of an AuthError, in the order of the checks."""

TYPE_HMAC_SHA256_128 = 1
TRAILER = struct.Struct("!BBHQ16s")  # type, key id, reserved, sequence, HMAC
TRAILER_BYTES = TRAILER.size
MAC_BYTES = 16
KEY_MIN_BYTES, KEY_MAX_BYTES = 32, 64  # as keepalived's: 128 bits of strength even against a quantum search
WINDOW_MIN_SECONDS = 5.0  # keepalived's default: two hosts' clocks differ by more than a few short intervals
MAX_MARKS = 64  # senders remembered; an election has a handful, and only holders of a key get in

MODULUS = 1 << 64


class AuthError(Exception):
    """A packet that is not authentic, or not for the first time. `cause` is one of AUTH_CAUSES.

    `from_future`: it is authentic, and was sent at a time that our clock has not reached (see `clock`).
    """

    def __init__(self, cause: AuthCause, detail: str, *, from_future: bool = False) -> None:
        super().__init__(detail)
        self.cause: AuthCause = cause
        self.from_future = from_future


def default_window(interval: float) -> float:
    """How far clocks may differ when nothing else is said, in seconds. `interval`: between advertisements."""
    return max(3 * interval, WINDOW_MIN_SECONDS)


class Authenticator:
    """Seals what one router sends, and opens what it receives. `now_wall`: seconds since 1970.

    `keys`: key id (1–255) → 32 to 64 bytes; several of them while keys are being exchanged. `key_id`: the one
    to send with. `window`: seconds, see the theory. Raises ValueError when they do not fit.
    """

    def __init__(self, keys: Mapping[int, bytes], key_id: int, window: float) -> None:
        for number, key in keys.items():
            if not 1 <= number <= 255:
                raise ValueError(f"key id {number} is not from 1 to 255")
            if not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
                raise ValueError(f"key {number} has {len(key)} bytes, not {KEY_MIN_BYTES} to {KEY_MAX_BYTES}")
        if key_id not in keys:
            raise ValueError(f"there is no key {key_id} to send with")
        if not window > 0:
            raise ValueError(f"a window of {window} s accepts nothing")
        self._keys = dict(keys)
        self._key_id = key_id
        self._window = window
        self._last_sent: int | None = None
        # (source, VRID) → newest sequence; who has been silent for longest comes first
        self._marks: dict[tuple[Address, int], int] = {}

    def __eq__(self, other: object) -> bool:
        """Whether they seal and open alike, whatever each has sent and heard."""
        if not isinstance(other, Authenticator):
            return NotImplemented
        mine, its = ((one._keys, one._key_id, one._window) for one in (self, other))
        return mine == its

    __hash__ = None  # type: ignore[assignment]  # it changes with what it hears

    def follow(self, before: Authenticator) -> None:
        """It takes the place of `before`, with other keys: sequences go on, nothing is heard twice."""
        self._last_sent, self._marks = before._last_sent, before._marks

    def seal(self, message: bytes, source: Address, now_wall: float) -> bytes:
        """The message with its trailer, for sending from `source`. Each call has a sequence of its own."""
        self._last_sent = sequence = self._next_sequence(now_wall)
        unsigned = TRAILER.pack(TYPE_HMAC_SHA256_128, self._key_id, 0, sequence, bytes(MAC_BYTES))
        mac = _mac(self._keys[self._key_id], source, message, unsigned)
        trailer = unsigned[:-MAC_BYTES] + mac
        return (cover(message, trailer) if source.version == 6 else message) + trailer

    def open(self, data: bytes, source: Address, now_wall: float) -> bytes:
        """The message without its trailer, when it is authentic, fresh and new; `decode` comes next.

        Raises AuthError. The order of the checks: what is cheap comes first, so that a flood of captured
        packets costs no digest; what remembers comes last, so that a forged packet moves nothing.
        """
        message, trailer = _split(data, source)
        kind, key_id, reserved, sequence, _ = TRAILER.unpack(trailer)
        if kind != TYPE_HMAC_SHA256_128 or reserved != 0:
            raise AuthError("malformed", f"a trailer of type {kind}, where only 1 (HMAC-SHA256-128) is known")
        ahead = _seconds_ahead(sequence, _sequence_of(now_wall))
        if abs(ahead) > self._window:
            where = "ahead of" if ahead > 0 else "behind"
            raise AuthError(
                "stale",
                f"{abs(ahead):.1f} s {where} our clock: a replay, or a clock without NTP",
                from_future=ahead > 0 and self._is_authentic(key_id, source, message, trailer),
            )
        if key_id not in self._keys:
            raise AuthError("key", f"signed with key {key_id}, which we do not have")
        if not self._is_authentic(key_id, source, message, trailer):
            raise AuthError("mac", "the HMAC is wrong: another key, or a forgery")
        self._advance_mark((source, message[1]), sequence, now_wall)
        return uncover(message, trailer) if source.version == 6 else message

    def _is_authentic(self, key_id: int, source: Address, message: bytes, trailer: bytes) -> bool:
        key = self._keys.get(key_id)
        mac = trailer[-MAC_BYTES:]
        return key is not None and hmac.compare_digest(mac, _mac(key, source, message, trailer))

    def _next_sequence(self, now_wall: float) -> int:
        clock = _sequence_of(now_wall)
        if self._last_sent is None:
            return clock
        ahead = _seconds_ahead(self._last_sent, clock)
        if ahead < 0 or ahead > self._window:  # the clock has moved on, or it was put back
            return clock
        return (self._last_sent + 1) % MODULUS

    def _advance_mark(self, sender: tuple[Address, int], sequence: int, now_wall: float) -> None:
        mark = self._marks.get(sender)
        if mark is not None and abs(_seconds_ahead(mark, _sequence_of(now_wall))) > self._window:
            mark = None
        if mark is not None and _seconds_ahead(sequence, mark) <= 0:
            raise AuthError("replay", "not newer than what this sender sent before: a replay, or reordered")
        self._marks.pop(sender, None)
        self._marks[sender] = sequence
        if len(self._marks) > MAX_MARKS:
            del self._marks[next(iter(self._marks))]


def _split(data: bytes, source: Address) -> tuple[bytes, bytes]:
    length = message_length(data, source.version) if len(data) >= HEADER.size else len(data)
    if len(data) <= length:
        raise AuthError("missing", f"{len(data)} bytes without a trailer: the sender does not authenticate")
    if len(data) != length + TRAILER_BYTES:
        raise AuthError("malformed", f"{len(data) - length} bytes follow the message, not {TRAILER_BYTES}")
    return data[:length], data[length:]


def _mac(key: bytes, source: Address, message: bytes, trailer: bytes) -> bytes:
    """`message`: with any checksum. `trailer`: with any HMAC."""
    pseudo_header = bytes((source.version, message[0] >> 4, message[1], 0)) + source.packed.ljust(16, b"\0")
    unsummed = message[:CHECKSUM_OFFSET] + b"\0\0" + message[CHECKSUM_OFFSET + 2 :]
    signed = pseudo_header + unsummed + trailer[:-MAC_BYTES] + bytes(MAC_BYTES)
    return hmac.digest(key, signed, "sha256")[:MAC_BYTES]


def _sequence_of(now_wall: float) -> int:
    """Seconds in the upper 32 bits, 1/65536ths in the next 16; the counter below them starts at 0."""
    return (int(now_wall * 65536) << 16) % MODULUS


def _seconds_ahead(sequence: int, other: int) -> float:
    """By how much `sequence` is after `other`: the shorter way round the circle (RFC 1982), in seconds."""
    difference = (sequence - other + MODULUS // 2) % MODULUS - MODULUS // 2
    return difference / (1 << 32)
