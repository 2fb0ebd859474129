"""What a health check does, and what of the answer is good ●.

    tcp        the server accepts a connection
    http:PATH  it answers a request with a status that is expected
    mysql      it lets a user without a password log in (`mysql`); with ?wsrep_ready a Galera node is in sync,
               with ?read_only=0 it takes writes

Of http more can be said than fits in a word: method, Host, the statuses. And tcp and http may be spoken inside
TLS, in which the server's certificate counts only if somebody says so: a check protects nothing that an attacker
would want. (MySQL's TLS is part of its own protocol, and its check needs none.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

Kind = Literal["tcp", "http", "mysql"]
Method = Literal["GET", "HEAD", "OPTIONS", "POST"]

MYSQL_USER = "haproxy"
"""As HAProxy's manual calls the user for its check: so it is there already."""

_MYSQL = re.compile(
    r"mysql(?::([A-Za-z0-9_.-]{1,32}))?(?:\?((?:wsrep_ready|read_only=[01])(?:&(?:wsrep_ready|read_only=[01]))*))?"
)
_STATUSES = re.compile(r"([1-5])xx|([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


@dataclass(frozen=True, slots=True)
class Statuses:
    """The HTTP statuses that a check expects. `ranges`: from and to, both of them included."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `200`, `2xx`, `200-204`, or several with commas.

        Raises ValueError that says what to write instead.
        """
        ranges: list[tuple[int, int]] = []
        for part in text.split(","):
            found = _STATUSES.fullmatch(part.strip())
            if not found:
                raise ValueError(
                    f"{part.strip()!r} is not a status: write for example 200, 2xx or 200-204,301"
                )
            family, first, last = found.groups()
            low, high = (
                (int(family) * 100, int(family) * 100 + 99) if family else (int(first), int(last or first))
            )
            if low > high:
                raise ValueError(f"{part.strip()!r} goes from more to less: write {high}-{low}")
            ranges.append((low, high))
        return cls(tuple(ranges))

    def __contains__(self, status: int) -> bool:
        return any(low <= status <= high for low, high in self.ranges)

    def __str__(self) -> str:
        return ",".join(_range(low, high) for low, high in self.ranges)


def _range(low: int, high: int) -> str:
    if low % 100 == 0 and high == low + 99:
        return f"{low // 100}xx"
    return str(low) if low == high else f"{low}-{high}"


@dataclass(frozen=True, slots=True)
class Tls:
    """`sni`: whom to ask for, empty: as the server is called. `verify`: whether its certificate has to be that
    name's, and signed by one of `ca_file`, None: by one whom this system trusts.
    """

    sni: str = ""
    verify: bool = False
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """For http, `path`: "/healthz", "/ready?deep=1"; `host`: of the Host field, empty: as the server is called.

    For mysql, `user`: who logs in; `wsrep_ready`: it has to be ON; `read_only`: what it has to be, None: either.
    `tls`: None: without.
    """

    kind: Kind
    path: str = ""
    user: str = ""
    wsrep_ready: bool = False
    read_only: bool | None = None
    method: Method = "GET"
    host: str = ""
    expect: Statuses = Statuses(((200, 399),))
    tls: Tls | None = None

    @classmethod
    def parse(cls, text: str) -> HealthCheck:
        """Read `tcp`, `http:PATH` or `mysql[:USER][?wsrep_ready][&read_only=0|1]`.

        Raises ValueError that says what to write instead.
        """
        kind, colon, path = text.strip().partition(":")
        if kind == "tcp" and not colon:
            return cls("tcp")
        if kind.partition("?")[0] == "mysql":
            return cls._parse_mysql(text.strip())
        if kind != "http":
            raise ValueError(
                f"{text!r} is not a health check: write tcp, http:PATH or mysql:USER, for example http:/healthz"
            )
        if not path.startswith("/"):
            raise ValueError(
                f"{text!r} has no path: write http:PATH with a leading slash, for example http:/healthz"
            )
        if not path.isascii() or not path.isprintable() or set(path) & set(" #"):
            raise ValueError(
                f"the path in {text!r} cannot be sent: write spaces, # and non-ASCII letters as %XX"
            )
        return cls("http", path)

    @classmethod
    def _parse_mysql(cls, text: str) -> HealthCheck:
        found = _MYSQL.fullmatch(text)
        wanted = found[2].split("&") if found and found[2] else []
        if not found or len(set(wanted)) < len(wanted) or {"read_only=0", "read_only=1"} <= set(wanted):
            raise ValueError(
                f"{text!r} is not a check of MySQL: write mysql, mysql:USER or mysql:USER?wsrep_ready&read_only=0"
            )
        read_only = "read_only=1" in wanted if any("read_only" in one for one in wanted) else None
        return cls("mysql", "", found[1] or MYSQL_USER, "wsrep_ready" in wanted, read_only)

    def __str__(self) -> str:
        """The word that `parse` reads; method, host, statuses and TLS are no part of it."""
        if self.kind == "http":
            return f"http:{self.path}"
        if self.kind == "tcp":
            return "tcp"
        wanted = ["wsrep_ready"] * self.wsrep_ready
        wanted += [] if self.read_only is None else [f"read_only={self.read_only:d}"]
        return f"mysql:{self.user}{'?' if wanted else ''}{'&'.join(wanted)}"
