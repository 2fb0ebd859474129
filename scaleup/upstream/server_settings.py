"""A server as a setting. It is written in one line,

    web1=10.0.0.21:8080,weight=2,maxconn=100        or just        10.0.0.21:8080
    spare=10.0.0.29:8080,backup,slowstart=30
    db1=10.0.0.41:3306,port=8008,inter=0.5          checked at another port, and more often

or, in cluster.toml, as a table: { name = "web1", address = "10.0.0.21:8080", weight = 2 }. A server
without a name is called by its address: that is the same on every node, as `balance = "source"` needs it
to be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from scaleup.config import EndpointField
from scaleup.config.faults import did_you_mean
from scaleup.net.addresses import Endpoint
from scaleup.upstream.server import CheckOptions, Live, Server

_EXAMPLE = "web1=10.0.0.21:8080,weight=2,maxconn=100"
_WORDS: Mapping[str, tuple[str, str]] = {
    "backup": ("backup", "true"),
    "disabled": ("disabled", "true"),
    "check": ("check", "true"),
    "no-check": ("check", "false"),
}
"""Options that stand alone in the one-line form, as in HAProxy, and which key has which value then."""
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}")  # as in HAProxy: logs, headers and CSV take it without quotes
MAX_WEIGHT = 256
"""As in HAProxy."""
MAX_MAXCONN = 1_000_000
"""More than the descriptors of any process: a slip of the finger."""
MAX_SLOWSTART_SECONDS = 3600
MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 0.01, 3600
MAX_IN_A_ROW = 100
"""Of checks, to change what is known of a server."""


def _named(name: str, what: str) -> WrapValidator:
    """An error that names the number: in the one-line form its key would not be seen otherwise."""

    def explain(value: object, validate: Callable[[object], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"{name} is {value!r}: write {what}") from None

    return WrapValidator(explain)


def _whole_number(name: str, low: int, top: int) -> WrapValidator:
    return _named(name, f"a whole number from {low} to {top}")


def _seconds(name: str, low: float, top: int) -> WrapValidator:
    return _named(name, f"seconds from {low} to {top}, without a unit")


def _interval(name: str) -> WrapValidator:
    return _seconds(name, MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS)


Interval = Annotated[float, Field(ge=MIN_INTERVAL_SECONDS, le=MAX_INTERVAL_SECONDS, allow_inf_nan=False)]
"""Seconds between two checks."""
_InARow = Annotated[int, Field(ge=1, le=MAX_IN_A_ROW)]


def _dialable(endpoint: Endpoint) -> Endpoint:
    if endpoint.port == 0 or (endpoint.address is not None and endpoint.address.is_unspecified):
        raise ValueError(f"{endpoint} cannot be connected to: write the server's own address and port")
    return endpoint


class ServerSettings(BaseModel):
    """One server, from its line or its table. Of its checks: None is as for all servers."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    address: Annotated[EndpointField, AfterValidator(_dialable)]
    name: str = Field("", validate_default=True)
    weight: Annotated[int, Field(ge=0, le=MAX_WEIGHT), _whole_number("weight", 0, MAX_WEIGHT)] = 1
    maxconn: Annotated[int, Field(ge=0, le=MAX_MAXCONN), _whole_number("maxconn", 0, MAX_MAXCONN)] = 0

    backup: bool = False
    disabled: bool = False
    slowstart: Annotated[
        float,
        Field(ge=0, le=MAX_SLOWSTART_SECONDS, allow_inf_nan=False),
        _seconds("slowstart", 0, MAX_SLOWSTART_SECONDS),
    ] = 0.0
    check: bool = True
    addr: str | None = None
    port: Annotated[Annotated[int, Field(ge=1, le=65535)] | None, _whole_number("port", 1, 65535)] = None
    inter: Annotated[Interval | None, _interval("inter")] = None
    fastinter: Annotated[Interval | None, _interval("fastinter")] = None
    downinter: Annotated[Interval | None, _interval("downinter")] = None
    rise: Annotated[_InARow | None, _whole_number("rise", 1, MAX_IN_A_ROW)] = None
    fall: Annotated[_InARow | None, _whole_number("fall", 1, MAX_IN_A_ROW)] = None

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

    @field_validator("addr")
    @classmethod
    def _is_address(cls, addr: str | None) -> str | None:
        try:
            return None if addr is None else str(ip_address(addr))
        except ValueError:
            raise ValueError(f"addr is {addr!r}: write the IP address that is to be checked") from None

    def __str__(self) -> str:
        """The line, without what is the default."""
        words = [f"{self.name}={self.address}" if self.name != str(self.address) else str(self.address)]
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key in ("address", "name") or value == field.default:
                continue
            if isinstance(value, bool):
                words.append(key if value else f"no-{key}")
            else:
                words.append(f"{key}={value}")
        return ",".join(words)

    @model_serializer
    def _as_line(self) -> str:
        return str(self)

    @property
    def live(self) -> Live:
        """With which its Server begins."""
        return Live(
            self.address, self.weight, self.maxconn, "maint" if self.disabled else "ready", self.check
        )

    def server(self) -> Server:
        """A new Server, for a Pool."""
        options = CheckOptions(
            self.inter, self.fastinter, self.downinter, self.rise, self.fall, self.addr, self.port
        )
        endpoint, weight, maxconn, admin, checked = self.live
        return Server(
            self.name,
            endpoint,
            weight,
            maxconn,
            backup=self.backup,
            slowstart=self.slowstart,
            admin=admin,
            checked=checked,
            options=options,
        )


def _table_of(text: str) -> dict[str, Any]:
    first, *options = (part.strip() for part in text.split(","))
    name, equals, address = first.rpartition("=")
    table: dict[str, Any] = {"address": address.strip()}
    if equals:
        table["name"] = name.strip()
    for option in options:
        key, equals, number = (part.strip() for part in option.partition("="))
        if not equals and key in _WORDS:
            key, number = _WORDS[key]
        elif not equals:
            raise ValueError(f"{option!r} in {text!r} has no value: write for example {_EXAMPLE}")
        if key in table:
            raise ValueError(f"{key} stands twice in {text!r}: keep one")
        table[key] = number
    return table


def distinct_servers(servers: tuple[ServerSettings, ...]) -> tuple[ServerSettings, ...]:
    """Them. Raises ValueError when two have one name."""
    seen: set[str] = set()
    for server in servers:
        if server.name in seen:
            raise ValueError(
                f"two servers are called {server.name!r}: give one of them another name, NAME=HOST:PORT"
            )
        seen.add(server.name)
    return servers


Servers = Annotated[tuple[ServerSettings, ...], AfterValidator(distinct_servers)]
"""Several servers, each with a name of its own. Add `Field(min_length=1)` where there must be one."""
