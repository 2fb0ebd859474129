"""Which server gets the next connection: the algorithms by name ●.

    roundrobin   in turn, by weight, and smoothly (`turns`)
    leastconn    the fewest sessions for its weight; in turn among equals (`ranking`)
    first        the first that is not full, in the order of the configuration (`ranking`)
    random       two drawn by weight, the less loaded of them wins (`draws`)
    source       by the client's address: the same client, the same server, on every node alike (`ring`)

or one of your own, `MODULE:CLASS` (`algorithm` says what it has to be).

What a choice costs hardly depends on how many servers there are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import isabstract
from ipaddress import IPv6Address, ip_address

from scaleup.upstream.algorithm import Algorithm
from scaleup.upstream.draws import Random
from scaleup.upstream.ranking import First, LeastConn
from scaleup.upstream.ring import Source
from scaleup.upstream.turns import RoundRobin

ALGORITHMS: dict[str, type[Algorithm]] = {
    "roundrobin": RoundRobin,
    "leastconn": LeastConn,
    "first": First,
    "random": Random,
    "source": Source,
}


def algorithm(name: str, randrange: Callable[[int], int]) -> Algorithm:
    """A new instance of the algorithm called `name`. Raises ValueError that says what to write instead.

    `randrange(n)`: a random whole number, 0 ≤ it < n.
    """
    return algorithm_class(name)(randrange)


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of the algorithm called `name`, which for `MODULE:CLASS` is imported. Raises ValueError."""
    if known := ALGORITHMS.get(name):
        return known
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"{name!r} is not a balance algorithm: choose one of {', '.join(ALGORITHMS)}, or MODULE:CLASS"
        )
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise ValueError(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)) or isabstract(found):
        raise ValueError(
            f"{name!r} is not an algorithm: write a subclass of scaleup.upstream.algorithm.Algorithm with `pick`"
        )
    return found


def client_key(host: str) -> bytes:
    """The `key` of a client's IP address: 4 or 16 bytes. Raises ValueError when it is not an address.

    An IPv4 client seen through an IPv6 socket (::ffff:10.0.0.1) has the key of its IPv4 address.
    """
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed
