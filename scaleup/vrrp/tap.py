"""A socket for every advertisement, and all ARP, of an interface: before any firewall, and what leaves, too."""

from __future__ import annotations

import socket

from scaleup.vrrp.bpf import INSTRUCTION, JUMP_EQUAL, LOAD_BYTE, RETURN, WHOLE
from scaleup.vrrp.packet import PROTOCOL
from scaleup.vrrp.rawip import attach_filter

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
LOAD_HALF, LINK_PROTOCOL = 0x28, 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL
IPV4_PROTOCOL, IPV6_NEXT_HEADER = 9, 6  # offsets in the IP header

_VRRP_AND_ARP = [
    (LOAD_HALF, LINK_PROTOCOL, 0, 0),
    (JUMP_EQUAL, ETH_P_ARP, 6, 0),
    (JUMP_EQUAL, ETH_P_IP, 0, 2),
    (LOAD_BYTE, IPV4_PROTOCOL, 0, 0),
    (JUMP_EQUAL, PROTOCOL, 3, 4),
    (JUMP_EQUAL, ETH_P_IPV6, 0, 3),
    (LOAD_BYTE, IPV6_NEXT_HEADER, 0, 0),
    (JUMP_EQUAL, PROTOCOL, 0, 1),
    (RETURN, WHOLE, 0, 0),
    (RETURN, 0, 0, 0),
]


def open_tap(interface: str) -> socket.socket:
    """Whose packets come from the IP or ARP header on. Raises OSError; it takes CAP_NET_RAW."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        program = b"".join(
            INSTRUCTION.pack(code, if_true, if_false, operand)
            for code, operand, if_true, if_false in _VRRP_AND_ARP
        )
        attach_filter(tap, program)
        tap.setblocking(False)
        tap.bind((interface, ETH_P_ALL))
    except BaseException:
        tap.close()
        raise
    return tap
