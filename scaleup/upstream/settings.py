"""What the load balancer and the web tier can be told about the servers behind them.

A tier adds the fields of `UpstreamSettings` to its own by inheriting from it, and declares its servers as a
field of the type `Servers` (named `server` in lb and `app` in web).
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
)

from scaleup.config import Flag, Seconds, Settings
from scaleup.net.addresses import Endpoint
from scaleup.upstream.balance import ALGORITHMS, algorithm_class
from scaleup.upstream.healthcheck import HealthCheck, Method, Statuses, Tls
from scaleup.upstream.server_settings import Interval
from scaleup.upstream.stream import context_of

CHECKS = "health checks"
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{0,255}")


def _balance(name: str) -> str:
    algorithm_class(name)
    return name


def _health_check(value: object) -> HealthCheck:
    if isinstance(value, HealthCheck):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write "tcp", "http:PATH" or "mysql:USER", not {value!r}')
    return HealthCheck.parse(value)


def _statuses(value: object) -> Statuses:
    return value if isinstance(value, Statuses) else Statuses.parse(str(value))


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a Host: write a name or an address, with :PORT if need be")
    if text:
        Endpoint.parse(text, 80)
    return text


def _sni(text: str) -> str:
    if text and (endpoint := Endpoint.parse(text, 0)).port:
        raise ValueError(f"{text!r} has a port: write only {endpoint.host}")
    return text


# Declared apart from their defaults, because the web tier has others.
CheckMethod = Annotated[
    HealthCheck,
    PlainValidator(_health_check, json_schema_input_type=str),
    PlainSerializer(str),
    Flag("tcp|http:PATH|mysql:USER", CHECKS),
    Field(
        description="shows that a server is up: it accepts; it answers a request for PATH; or USER can log "
        "in to MySQL without a password (mysql:USER?wsrep_ready&read_only=0 asks more)"
    ),
]
Inter = Annotated[
    Interval,
    Flag("SECONDS", CHECKS),
    Field(description="from the start of a server's check to the next, ±10 %"),
]
Rise = Annotated[
    int,
    Flag("N", CHECKS),
    Field(ge=1, le=100, description="so many passed checks in a row bring a server up again"),
]
Fall = Annotated[
    int,
    Flag("N", CHECKS),
    Field(ge=1, le=100, description="so many failed checks in a row bring a server down"),
]


class UpstreamSettings(Settings):
    """How servers are chosen and watched; HAProxy's words, and its defaults."""

    balance: Annotated[str, AfterValidator(_balance), Flag("NAME", "servers")] = Field(
        "roundrobin",
        description=f"which server gets the next connection: {', '.join(ALGORITHMS)}, or your own MODULE:CLASS",
    )
    allbackups: Annotated[bool, Flag(None, "servers")] = Field(
        False, description="while no other server is up, use all backup servers and not only the first"
    )
    health_check: CheckMethod = HealthCheck("tcp")
    check_method: Annotated[Method, Flag(None, CHECKS)] = Field("GET", description="of an http check")
    check_host: Annotated[Annotated[str, AfterValidator(_host)], Flag("HOST[:PORT]", CHECKS)] = Field(
        "", description="the Host field of an http check (default: as the server is called)"
    )
    check_expect: Annotated[
        Statuses,
        PlainValidator(_statuses, json_schema_input_type=str),
        PlainSerializer(str),
        Flag("STATUS[,…]", CHECKS),
    ] = Field(Statuses.parse("2xx,3xx"), description="what an http check expects: 200, 2xx, 200-204,301")
    check_ssl: Annotated[bool, Flag(None, CHECKS)] = Field(False, description="check in TLS: tcp or http")
    check_sni: Annotated[Annotated[str, AfterValidator(_sni)], Flag("NAME", CHECKS)] = Field(
        "", description="whom to ask for in TLS (default: the Host of the check, or as the server is called)"
    )
    check_verify: Annotated[Literal["none", "required"], Flag(None, CHECKS)] = Field(
        "none", description="whether the server's certificate must be good for that name"
    )
    check_ca_file: Annotated[Path | None, Flag("FILE", CHECKS)] = Field(
        None, description="who may have signed it (default: whom this system trusts)"
    )
    inter: Inter = 2.0
    fastinter: Annotated[Interval | None, Flag("SECONDS", CHECKS)] = Field(
        None, description="the same, while results speak against what is known (default: as --inter)"
    )
    downinter: Annotated[Interval | None, Flag("SECONDS", CHECKS)] = Field(
        None, description="the same, while the server is down (default: as --inter)"
    )
    rise: Rise = 2
    fall: Fall = 3
    check_timeout: Annotated[Seconds, Flag("SECONDS", CHECKS)] = Field(
        2.0, description="a check that takes longer has failed"
    )

    def refuse_contradictions(self) -> None:
        """Raises ValueError. Not a validator: what a table says counts only together with what it is based on."""
        if self.check_ssl and self.health_check.kind == "mysql":
            raise ValueError(
                "--check-ssl is for tcp and http: the check of MySQL speaks before TLS would begin"
            )
        if self.check_verify == "required" and not self.check_ssl:
            raise ValueError("--check-verify required needs --check-ssl")
        if self.check_ca_file is not None:
            if self.check_verify != "required":
                raise ValueError("--check-ca-file needs --check-verify required")
            try:
                context_of(Tls("", True, self.check_ca_file))
            except OSError as error:
                reason = "it is not a file of certificates (PEM)"
                if not isinstance(error, ssl.SSLError):
                    reason = os.strerror(error.errno or 0)
                raise ValueError(f"--check-ca-file {self.check_ca_file}: {reason}") from None

    @property
    def check(self) -> HealthCheck:
        """The whole of it."""
        tls = (
            Tls(self.check_sni, self.check_verify == "required", self.check_ca_file)
            if self.check_ssl
            else None
        )
        return replace(
            self.health_check,
            method=self.check_method,
            host=self.check_host,
            expect=self.check_expect,
            tls=tls,
        )
