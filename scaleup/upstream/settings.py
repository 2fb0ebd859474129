"""What the load balancer and the web tier can be told about the servers behind them.

A tier adds the fields of `UpstreamSettings` to its own by inheriting from it, and declares its servers as a
field of the type `Servers` (named `server` in lb and `app` in web). A server is written in one line,

    web1=10.0.0.21:8080,weight=2,maxconn=100        or just        10.0.0.21:8080
    spare=10.0.0.29:8080,backup,slowstart=30

or, in cluster.toml, as a table: { name = "web1", address = "10.0.0.21:8080", weight = 2 }. A server
without a name is called by its address: that is the same on every node, as `balance = "source"` needs it
to be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from scaleup.config import EndpointField, Flag, Seconds
from scaleup.config.faults import did_you_mean
from scaleup.net.addresses import Endpoint
from scaleup.upstream.balance import ALGORITHMS, algorithm_class
from scaleup.upstream.probe import HealthCheck
from scaleup.upstream.server import Live, Server

_EXAMPLE = "web1=10.0.0.21:8080,weight=2,maxconn=100"
_FLAGS = {"backup"}
"""Options that stand alone in the one-line form."""
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}")  # as in HAProxy: logs, headers and CSV take it without quotes
MAX_WEIGHT = 256
"""As in HAProxy."""
MAX_MAXCONN = 1_000_000
"""More than the descriptors of any process: a slip of the finger."""
MAX_SLOWSTART_SECONDS = 3600


def _whole_number(name: str, top: int) -> WrapValidator:
    """An error that names the number: in the one-line form its key would not be seen otherwise."""

    def explain(value: object, validate: Callable[[object], int]) -> int:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"{name} is {value!r}: write a whole number from 0 to {top}") from None

    return WrapValidator(explain)


def _seconds(name: str) -> WrapValidator:
    def explain(value: object, validate: Callable[[object], float]) -> float:
        try:
            return validate(value)
        except ValidationError:
            top = MAX_SLOWSTART_SECONDS
            raise ValueError(f"{name} is {value!r}: write seconds from 0 to {top}, without a unit") from None

    return WrapValidator(explain)


def _dialable(endpoint: Endpoint) -> Endpoint:
    if endpoint.port == 0 or (endpoint.address is not None and endpoint.address.is_unspecified):
        raise ValueError(f"{endpoint} cannot be connected to: write the server's own address and port")
    return endpoint


class ServerSettings(BaseModel):
    """One server, from its line or its table."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    address: Annotated[EndpointField, AfterValidator(_dialable)]
    name: str = Field("", validate_default=True)
    weight: Annotated[int, Field(ge=0, le=MAX_WEIGHT), _whole_number("weight", MAX_WEIGHT)] = 1
    maxconn: Annotated[int, Field(ge=0, le=MAX_MAXCONN), _whole_number("maxconn", MAX_MAXCONN)] = 0

    backup: bool = False
    slowstart: Annotated[
        float, Field(ge=0, le=MAX_SLOWSTART_SECONDS, allow_inf_nan=False), _seconds("slowstart")
    ] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if isinstance(value, ServerSettings):
            return value
        table = _table_of(value) if isinstance(value, str) else value
        if not isinstance(table, Mapping) or "address" not in table:
            raise ValueError(f"a server needs an address: write for example {_EXAMPLE}")
        for key in table:
            if key not in cls.model_fields:
                hint = did_you_mean(str(key), cls.model_fields)
                raise ValueError(f"a server has no {key!r}{hint or ', only ' + ', '.join(cls.model_fields)}")
        return table

    @field_validator("name")
    @classmethod
    def _name_or_address(cls, name: str, info: ValidationInfo) -> str:
        if not name:
            return str(info.data.get("address", ""))  # missing when it is a fault of its own
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a server name: use only letters, digits and . _ - :")
        return name

    def __str__(self) -> str:
        """The line, without what is the default."""
        name = f"{self.name}=" if self.name != str(self.address) else ""
        weight = f",weight={self.weight}" if self.weight != 1 else ""
        maxconn = f",maxconn={self.maxconn}" if self.maxconn else ""
        backup = ",backup" if self.backup else ""
        slowstart = f",slowstart={self.slowstart!r}" if self.slowstart else ""
        return f"{name}{self.address}{weight}{maxconn}{backup}{slowstart}"

    @model_serializer
    def _as_line(self) -> str:
        return str(self)

    @property
    def live(self) -> Live:
        """With which its Server begins."""
        return Live(self.address, self.weight, self.maxconn)

    def server(self) -> Server:
        """A new Server, for a Pool."""
        return Server(self.name, *self.live[:3], backup=self.backup, slowstart=self.slowstart)


def _table_of(text: str) -> dict[str, Any]:
    first, *options = (part.strip() for part in text.split(","))
    name, equals, address = first.rpartition("=")
    table: dict[str, Any] = {"address": address.strip()}
    if equals:
        table["name"] = name.strip()
    for option in options:
        key, equals, number = (part.strip() for part in option.partition("="))
        if not equals and key in _FLAGS:
            number = "true"
        elif not equals:
            raise ValueError(f"{option!r} in {text!r} has no value: write for example {_EXAMPLE}")
        if key in table:
            raise ValueError(f"{key} stands twice in {text!r}: keep one")
        table[key] = number
    return table


def _distinct(servers: tuple[ServerSettings, ...]) -> tuple[ServerSettings, ...]:
    seen: set[str] = set()
    for server in servers:
        if server.name in seen:
            raise ValueError(
                f"two servers are called {server.name!r}: give one of them another name, NAME=HOST:PORT"
            )
        seen.add(server.name)
    return servers


Servers = Annotated[tuple[ServerSettings, ...], AfterValidator(_distinct)]
"""Several servers, each with a name of its own. Add `Field(min_length=1)` where there must be one."""


def _balance(name: str) -> str:
    algorithm_class(name)
    return name


def _health_check(value: object) -> HealthCheck:
    if isinstance(value, HealthCheck):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write "tcp", "http:PATH" or "mysql:USER", not {value!r}')
    return HealthCheck.parse(value)


# Declared apart from their defaults, because the web tier has others.
CheckMethod = Annotated[
    HealthCheck,
    PlainValidator(_health_check, json_schema_input_type=str),
    PlainSerializer(str),
    Flag("tcp|http:PATH|mysql:USER", "servers"),
    Field(
        description="shows that a server is up: it accepts; it answers GET PATH with 2xx or 3xx; or USER can log "
        "in to MySQL without a password (mysql:USER?wsrep_ready&read_only=0 asks more)"
    ),
]
Interval = Annotated[float, Field(ge=0.01, le=3600, allow_inf_nan=False)]
Inter = Annotated[
    Interval,
    Flag("SECONDS", "servers"),
    Field(description="from the start of a server's check to the next, ±10 %"),
]
Rise = Annotated[
    int,
    Flag("N", "servers"),
    Field(ge=1, le=100, description="so many passed checks in a row bring a server up again"),
]
Fall = Annotated[
    int,
    Flag("N", "servers"),
    Field(ge=1, le=100, description="so many failed checks in a row bring a server down"),
]


class UpstreamSettings(BaseModel):
    """How servers are chosen and watched; HAProxy's words, and its defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True
    )

    balance: Annotated[str, AfterValidator(_balance), Flag("NAME", "servers")] = Field(
        "roundrobin",
        description=f"which server gets the next connection: {', '.join(ALGORITHMS)}, or your own MODULE:CLASS",
    )
    allbackups: Annotated[bool, Flag(None, "servers")] = Field(
        False, description="while no other server is up, use all backup servers and not only the first"
    )
    health_check: CheckMethod = HealthCheck("tcp")
    inter: Inter = 2.0
    fastinter: Annotated[Interval | None, Flag("SECONDS", "servers")] = Field(
        None, description="the same, while results speak against what is known (default: as --inter)"
    )
    downinter: Annotated[Interval | None, Flag("SECONDS", "servers")] = Field(
        None, description="the same, while the server is down (default: as --inter)"
    )
    rise: Rise = 2
    fall: Fall = 3
    check_timeout: Annotated[Seconds, Flag("SECONDS", "servers")] = Field(
        2.0, description="a check that takes longer has failed"
    )
