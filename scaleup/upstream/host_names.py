"""What this host is configured to know of names ●: the texts of /etc/hosts and of /etc/resolv.conf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaleup.net.addresses import Endpoint

DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class Configuration:
    """`servers`: of names, in the order in which to ask them. `search`: in which domains to look for a name, before
    it is taken as it is if it has fewer than `ndots` dots, or else after.
    """

    servers: tuple[Endpoint, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1

    def candidates(self, name: str) -> Sequence[str]:
        """Which names it may stand for, in the order in which to ask for them."""
        if name.endswith("."):
            return [name]
        longer = [f"{name}.{domain.strip('.')}." for domain in self.search]
        return [f"{name}.", *longer] if name.count(".") >= self.ndots else [*longer, f"{name}."]


def resolv_conf(text: str) -> Configuration:
    """As resolv.conf(5) says; what we do not understand is passed over."""
    servers: list[Endpoint] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for word, *rest in _lines(text):
        match word:
            case "nameserver" if rest and (endpoint := Endpoint(rest[0], DNS_PORT)).address:
                servers.append(endpoint)
            case "search" | "domain":
                search = tuple(domain for domain in rest if domain.strip("."))
            case "options":
                said = [option.removeprefix("ndots:") for option in rest if option.startswith("ndots:")]
                ndots = min(int(said[-1]), 15) if said and said[-1].isdecimal() else ndots
    return Configuration(tuple(servers), search, ndots)


def addresses_in_hosts(text: str, host: str) -> list[str]:
    """Of a host, as hosts(5) says."""
    wanted = host.removesuffix(".").lower()
    return [line[0] for line in _lines(text) if wanted in (name.lower() for name in line[1:])]


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if words := line.partition("#")[0].partition(";")[0].split():
            yield words
