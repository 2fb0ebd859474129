"""Endpoints: a host and a port, as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

SYSLOG_PORT = 514


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where something listens or is dialled.

    `host`: an IPv4 address, an IPv6 address without brackets, or a name. `port`: 0–65535 (0: the kernel chooses).
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Endpoint:
        """Read `HOST:PORT`, `[IPV6]:PORT`, or `:PORT` (every IPv4 address).

        With `default_port` the port may be missing. Raises ValueError that says what to write instead.
        """
        if not text.strip():
            raise ValueError("it is empty: write HOST:PORT, for example 10.0.0.1:8080")
        host, port = _split(text.strip())
        if port is None:
            if default_port is None:
                raise ValueError(f"{text!r} has no port: write HOST:PORT, for example 10.0.0.1:8080")
            number = default_port
        elif re.fullmatch("[0-9]{1,5}", port) and int(port) <= 65535:
            number = int(port)
        else:
            raise ValueError(f"{port!r} in {text!r} is not a port: write a number from 0 to 65535")
        canonical = _canonical(host or "0.0.0.0")  # as nginx and HAProxy read ":80"
        if canonical is None:
            raise ValueError(f"{host!r} in {text!r} is neither an IP address nor a host name")
        return cls(canonical, number)

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The IP address, or None when the host is a name that has to be resolved."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def unmapped(host: str) -> str:
    """The address, an IPv4 one also where it was seen through IPv6 (::ffff:192.0.2.1, RFC 4291 §2.5.5.2)."""
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or host)


def is_in(host: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether an address is in one of these networks; what is no address is in none."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in networks)


def syslog_address(text: str) -> Path | Endpoint:
    """Read where a syslog daemon listens: the path of its socket, or ADDRESS[:PORT] for UDP.

    Raises ValueError that says what to write instead.
    """
    if text.startswith("/"):
        return Path(text)
    endpoint = Endpoint.parse(text, SYSLOG_PORT)
    if endpoint.address is None or endpoint.port == 0:  # a name would have to be waited for
        raise ValueError(
            f"{text!r} is no place for a log: write /dev/log, or an address such as 10.0.0.9:514"
        )
    return endpoint


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an endpoint: write [IPV6]:PORT")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        raise ValueError(f"{text!r} is ambiguous: write an IPv6 address in brackets, [IPV6]:PORT")
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _canonical(host: str) -> str | None:
    """One address has one spelling, so that nodes that write it differently agree; None: not a host."""
    try:
        return str(ip_address(host))
    except ValueError:
        labels = host.removesuffix(".").split(".")
        looks_numeric = all(label.isdigit() for label in labels)  # 10.0.0.256 is a mistake, not a name
        is_name = not looks_numeric and len(host) <= 253 and all(map(_is_label, labels))
        return host if is_name else None


def _is_label(label: str) -> bool:
    """RFC 1123 §2.1, and the underscore that container networks use."""
    return (
        0 < len(label) <= 63
        and label.isascii()
        and label.replace("-", "").replace("_", "").isalnum()
        and not label.startswith("-")
        and not label.endswith("-")
    )
