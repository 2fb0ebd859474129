"""Looking names up: which addresses, and ports, are behind a name now, and for how long that holds.

The DNS is asked (docs/decisions/0009), by A or AAAA records, or by SRV records for a name with port 0. When nobody
has said which name servers to ask, those of /etc/resolv.conf are, with its search list, after /etc/hosts: as the
system's own resolver does it on most hosts. That one cannot be used, as it does not tell for how long its answer
holds.

Three things come of it: an Answer with endpoints; an Answer without any, when the DNS says that there is no such
name or that it has no addresses; and Unanswered, which says nothing about the name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from scaleup.net.addresses import Endpoint
from scaleup.upstream.host_names import Configuration, addresses_in_hosts, resolv_conf
from scaleup.upstream.name_servers import Unanswered, ask

__all__ = ["Answer", "Family", "Resolver", "Unanswered"]

Family = Literal["ipv4", "ipv6"]

LOOKUP_SECONDS = 5.0
"""For all that one look-up asks."""
MIN_TTL_SECONDS, MAX_TTL_SECONDS = 1.0, 3600.0
"""However short or long the DNS says: a name is asked for at most once a second, and at least once an hour."""
HOSTS_TTL_SECONDS = 10.0
"""What /etc/hosts says is looked up again so often."""
DENIED_TTL_SECONDS = 5.0
"""So long a name that does not exist is not asked for again; name servers remember it for longer."""
MAX_TARGETS = 1000
"""Of SRV records: as many as a template has servers."""

_TYPES: dict[Family, dns.rdatatype.RdataType] = {"ipv4": dns.rdatatype.A, "ipv6": dns.rdatatype.AAAA}


@dataclass(frozen=True, slots=True)
class Answer:
    """`endpoints`: none: it does not exist, or has no addresses. `ttl`: seconds."""

    endpoints: frozenset[Endpoint]
    ttl: float


@dataclass(frozen=True, slots=True)
class _Records:
    """`found`: none: the name exists and has none of them."""

    found: dns.rrset.RRset | None
    ttl: float
    reply: dns.message.QueryMessage


class Resolver:
    """`servers`: of names, to ask; none: as this host is configured. `prefer`: only if a name has no such address,
    the other ones are taken; `only`: they are not.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint] = (),
        prefer: Family = "ipv4",
        *,
        only: bool = False,
        hosts: Path = Path("/etc/hosts"),
        configuration: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._servers = tuple(servers)
        self._hosts, self._configuration = hosts, configuration
        other: Family = "ipv6" if prefer == "ipv4" else "ipv4"
        self._families: tuple[Family, ...] = (prefer,) if only else (prefer, other)

    async def look_up(self, name: Endpoint) -> Answer:
        """Raises Unanswered."""
        silent: set[Endpoint] = set()  # name servers, for this look-up
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                if name.port == 0:
                    answer = await self._services(name.host, silent)
                else:
                    answer = await self._addresses(name.host, name.port, silent)
        except TimeoutError:
            raise Unanswered(f"not done within {LOOKUP_SECONDS:g} s") from None
        except dns.exception.DNSException as error:  # a reply that contradicts itself
            raise Unanswered(str(error) or type(error).__name__) from None
        ttl = min(max(answer.ttl, MIN_TTL_SECONDS), MAX_TTL_SECONDS)
        return Answer(answer.endpoints, ttl)

    async def _addresses(self, host: str, port: int, silent: set[Endpoint]) -> Answer:
        known = [] if self._servers else addresses_in_hosts(_text_of(self._hosts) or "", host)
        for family in self._families:
            if texts := [text for text in known if (":" in text) == (family == "ipv6")]:
                return Answer(_endpoints(texts, port), HOSTS_TTL_SECONDS)
        for family in self._families:
            records = await self._ask(host, _TYPES[family], silent)
            if records is None:
                break  # there is no such name, whatever the type
            if records.found is not None:
                return Answer(_endpoints(_texts(records.found), port), records.ttl)
        return Answer(frozenset(), DENIED_TTL_SECONDS)

    async def _services(self, name: str, silent: set[Endpoint]) -> Answer:
        """By SRV records (RFC 2782): their priorities and weights are not looked at."""
        records = await self._ask(name, dns.rdatatype.SRV, silent)
        if records is None or records.found is None:
            return Answer(frozenset(), DENIED_TTL_SECONDS)
        endpoints: frozenset[Endpoint] = frozenset()
        ttl = records.ttl
        for record in list(records.found)[:MAX_TARGETS]:
            if record.target == dns.name.root:
                continue  # "the service is decidedly not available at this domain"
            # What the name server has said without being asked.
            known = records.reply.get_rrset(
                records.reply.additional, record.target, dns.rdataclass.IN, _TYPES[self._families[0]]
            )
            if known is not None:
                found = Answer(_endpoints(_texts(known), record.port), known.ttl)
            else:
                found = await self._addresses(record.target.to_text(), record.port, silent)
            endpoints |= found.endpoints
            ttl = min(ttl, found.ttl)
        return Answer(endpoints, ttl)

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, silent: set[Endpoint]) -> _Records | None:
        """None: there is no such name. Raises Unanswered."""
        exists = None
        configured = self._configured()
        for candidate in configured.candidates(name):
            reply = await ask(configured.servers, candidate, kind, silent)
            if reply.rcode() == dns.rcode.NXDOMAIN:
                continue
            chain = reply.resolve_chaining()
            exists = _Records(chain.answer, chain.minimum_ttl, reply)
            if chain.answer is not None:
                break
        return exists

    def _configured(self) -> Configuration:
        """Read each time: resolv.conf changes while we run, where DHCP writes it."""
        if self._servers:
            return Configuration(self._servers)
        text = _text_of(self._configuration)
        if text is None or not (found := resolv_conf(text)).servers:
            raise Unanswered(f"{self._configuration} says no name server; say --resolver")
        return found


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _texts(records: dns.rrset.RRset) -> list[str]:
    return [record.address for record in records]


def _endpoints(addresses: Iterable[str], port: int) -> frozenset[Endpoint]:
    """Without what cannot be connected to: 0.0.0.0 is what some name servers say of names that they block."""
    endpoints = set()
    for text in addresses:
        try:
            address = ip_address(text)
        except ValueError:
            continue  # a slip in /etc/hosts
        if not address.is_unspecified and not address.is_multicast:
            endpoints.add(Endpoint(str(address), port))
    return frozenset(endpoints)
