"""Which client sent a request: the peer, or what a proxy that we trust says of it. ●

Anybody can write an X-Forwarded-For. So it is believed only as far as it was written by proxies that we
trust: from the right, where the nearest proxy appended its peer, each address is believed because the one
to its right is trusted, until the first that is not a trusted proxy: that is the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """The client's address.

    `peer`: the address of the connection. `forwarded_for`: the values of every X-Forwarded-For header, in
    order. `trusted`: the networks of our proxies. Where the header is not an address, believing ends.
    """
    believed = _parse(peer)
    if believed is None:
        return peer
    for text in reversed([entry.strip() for value in forwarded_for for entry in value.split(",")]):
        if not any(believed in network for network in trusted):
            break
        said = _parse(text)
        if said is None:
            break
        believed = said
    return str(believed)


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
