"""What this host says of a network interface: its index and its own addresses."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from scaleup.errors import StartupError
from scaleup.vrrp.packet import Address
from scaleup.vrrp.rtnetlink import Rtnetlink


def index_of(name: str) -> int:
    """Raises StartupError."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise StartupError(f"--interface {name}: there is no such interface; there are {known}") from None


def primary_address(name: str, family: int, virtual: Collection[Address]) -> Address:
    """Where advertisements come from: the first IPv4 address, or the link-local IPv6 one (§5.1.1.1, §5.1.2.1).

    `virtual`: addresses that are not the interface's own, even if it has them. Raises StartupError.
    """
    index = index_of(name)
    with Rtnetlink() as rtnetlink:
        own: Sequence[Address] = [
            found.ip
            for found in rtnetlink.addresses()
            if found.index == index and found.ip.version == family and found.ip not in virtual
        ]
    if family == 6:
        own = [address for address in own if address.is_link_local]
    if not own:
        kind = "IPv4" if family == 4 else "link-local IPv6"
        raise StartupError(f"--interface {name}: it has no {kind} address of its own to advertise from")
    return own[0]
