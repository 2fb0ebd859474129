"""Filters in the kernel, so that what is not for this router cannot fill its socket's buffer. ●

Packets of our virtual router (and, in unicast, from a peer) pass. Of all others one in 16 passes by chance, in
multicast, where they are of other elections, one in 256: enough for the counters and the log to name a wrong VRID
or a forgotten peer, and too little to get in the way, be there hundreds of elections in this process.
What is too short to have a VRID does not pass.

Of rtnetlink's events an owner of addresses hears no additions: each renewal is one, and with N routers in a
process all N would be told of those of all.

They are programs of classic BPF (man 2 bpf; Linux's Documentation/networking/filter.rst): one accumulator A, one
index register X, jumps forward only; the value returned is how many bytes of the packet to keep.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from scaleup.vrrp.packet import Address

INSTRUCTION = struct.Struct("=HBBI")  # code, jump if true, jump if false, operand

LOAD_WORD, LOAD_HALF, LOAD_BYTE, LOAD_BYTE_AT_X = 0x20, 0x28, 0x30, 0x50
LOAD_X_IP_HEADER_LENGTH = 0xB1
JUMP, JUMP_EQUAL = 0x05, 0x15
AND, RETURN = 0x54, 0x06

NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from here on count from the IP header
RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
WHOLE = 0xFFFFFFFF
SAMPLE_OF_STRANGERS = 0xF  # one in 16
SAMPLE_OF_OTHERS = 0xFF  # one in 256

IPV4_SOURCE, IPV6_SOURCE = 12, 8  # offsets in the IP header
VRID = 1  # offset in the message
NETLINK_TYPE = 4  # offset in struct nlmsghdr, which is in the host's byte order


def only(vrid: int, family: int, peers: Sequence[Address] | None) -> bytes:
    """The program, as an array of struct sock_filter, for a raw socket of the `family` 4 or 6.

    `peers`: None, or at most MAX_FILTERED of them. A raw IPv4 socket filters from the IP header on, a raw
    IPv6 one from the message on.
    """
    vrid_load = [(LOAD_X_IP_HEADER_LENGTH, 0), (LOAD_BYTE_AT_X, VRID)] if family == 4 else [(LOAD_BYTE, VRID)]
    # Backwards, because a jump says how far it is to its target.
    mask = SAMPLE_OF_OTHERS if peers is None else SAMPLE_OF_STRANGERS
    sample = [(LOAD_WORD, RANDOM), (AND, mask), (JUMP_EQUAL, 0, 0, 1), (RETURN, WHOLE), (RETURN, 0)]
    passes = [(RETURN, WHOLE)]
    sources: list[tuple[int, ...]] = []
    for peer in reversed(peers or ()):
        sources = _is_from(peer, len(sources)) + sources
    if peers is not None:
        sources.append((JUMP, len(passes)))  # no peer: to the sample
    program = [*vrid_load, (JUMP_EQUAL, vrid, 0, len(sources) + len(passes)), *sources, *passes, *sample]
    return b"".join(_packed(*each) for each in program)


def but(kind: int) -> bytes:
    """Of a netlink socket: all messages but those of this type."""
    loaded = int.from_bytes(struct.pack("=H", kind), "big")  # as BPF reads what the host has written
    program = [(LOAD_HALF, NETLINK_TYPE), (JUMP_EQUAL, loaded, 0, 1), (RETURN, 0), (RETURN, WHOLE)]
    return b"".join(_packed(*each) for each in program)


MAX_FILTERED = 31
"""Peers: a jump reaches 255 instructions far, and an IPv6 address takes 8 of them less the last jump."""


def _is_from(peer: Address, following: int) -> list[tuple[int, ...]]:
    """Compares the source word by word; `following`: instructions of the comparisons after it.

    Equal: to what passes, which is one after the jump that ends the comparisons. Else: to the next comparison.
    """
    start = IPV4_SOURCE if peer.version == 4 else IPV6_SOURCE
    words = struct.unpack(f"!{len(peer.packed) // 4}I", peer.packed)
    program: list[tuple[int, ...]] = []
    for number, word in enumerate(words):
        rest = 2 * (len(words) - number - 1)
        to_pass = following + 1 if rest == 0 else 0
        program.append((LOAD_WORD, NETWORK_HEADER + start + 4 * number))
        program.append((JUMP_EQUAL, word, to_pass, rest))
    return program


def _packed(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return INSTRUCTION.pack(code, if_true, if_false, operand)
