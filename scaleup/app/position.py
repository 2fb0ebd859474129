"""How far a database has got: MariaDB's GTID positions, `DOMAIN-SERVER-SEQUENCE[,…]`. ●

Commits of a domain are numbered in one order on all servers (gtid_strict_mode sees to it). So a server that has
got to a number has all before it, and whether it has what a client has seen is a comparison. That holds as long as
there is one history. Two servers that have given the same number have two, of which neither covers the other; and
that a replica has a number which its primary has not is for replicas.py to notice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

MAX_DOMAINS = 8
"""Of a position that a client sends: it bounds what we compare."""
MAX_ID, MAX_SEQUENCE = 2**32 - 1, 2**64 - 1
"""Of a domain or server, and of a number there. What is beyond is none to MariaDB: it answers with an error."""
_NUMBER = r"(0|[1-9][0-9]{0,19})"
_GTID = re.compile(rf"{_NUMBER}-{_NUMBER}-{_NUMBER}", re.ASCII)
_NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Position:
    """By domain: which server, and its number there. `is_newest`: nobody knows, so only the primary covers it."""

    domains: Mapping[int, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    is_newest: bool = False

    @classmethod
    def parse(cls, text: str) -> Position:
        """What `str` made, the server said, or several of them joined as HTTP does. Raises ValueError."""
        parts = text.split(",", MAX_DOMAINS) if text else []
        if len(parts) > MAX_DOMAINS:
            raise ValueError(f"{text!r} has more than {MAX_DOMAINS} domains")
        position = START
        for part in parts:
            if (part := part.strip(" \t")) == _NEWEST:
                return NEWEST
            if (found := _GTID.fullmatch(part)) is None:
                raise ValueError(f"{part!r} is no DOMAIN-SERVER-SEQUENCE")
            domain, server, sequence = map(int, found.groups())
            if max(domain, server) > MAX_ID or sequence > MAX_SEQUENCE:
                raise ValueError(f"{part!r} has a number that is too great")
            position = position.with_(cls({domain: (server, sequence)}))
        return position

    def covers(self, other: Position) -> bool:
        """Whether who has got here has also got there."""
        if self.is_newest or other.is_newest:
            return self.is_newest
        return all(
            (mine := self.domains.get(domain)) is not None and (mine[1] > theirs[1] or mine == theirs)
            for domain, theirs in other.domains.items()
        )

    def with_(self, other: Position) -> Position:
        """The least that covers both. Of two histories that is only the primary, whichever it is."""
        if self.covers(other):
            return self
        if other.covers(self):
            return other
        merged = dict(self.domains)
        for domain, theirs in other.domains.items():
            mine = merged.setdefault(domain, theirs)
            if mine[1] == theirs[1] and mine != theirs:
                return NEWEST
            if mine[1] < theirs[1]:
                merged[domain] = theirs
        return Position(merged)

    def __str__(self) -> str:
        if self.is_newest:
            return _NEWEST
        return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in self.domains.items())


START = Position()
"""Which every server covers."""
NEWEST = Position(is_newest=True)
