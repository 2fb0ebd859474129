"""The declaration of a tier's settings: a frozen pydantic model whose fields know their flags."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from scaleup.errors import ConfigurationError
from scaleup.net.addresses import Endpoint, syslog_address


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field appears on the command line: its value's name and the group of --help it stands in."""

    metavar: str | None = None
    group: str = "settings"


@dataclass(frozen=True, slots=True)
class EnvironmentOnly:
    """Marks a secret: it comes from the environment or the file, never from argv, which every user can read.

    It is not repeated in errors and not part of `table()`. A validator that finds a secret in another field
    raises PydanticCustomError("secret", …), so that its value is not repeated either.
    """


@dataclass(frozen=True, slots=True)
class FileOnly:
    """Marks a list of tables, [[TIER.NAME]]: it comes from the file, as no flag and no variable could hold it."""


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write "HOST:PORT", not {value!r}')
    return Endpoint.parse(value)


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        return ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is not a network: write for example 10.0.0.0/8") from None


EndpointField = Annotated[
    Endpoint, PlainValidator(_endpoint, json_schema_input_type=str), PlainSerializer(str)
]
"""HOST:PORT."""

NetworkField = Annotated[
    IPv4Network | IPv6Network, PlainValidator(_network, json_schema_input_type=str), PlainSerializer(str)
]
"""ADDRESS or ADDRESS/PREFIX."""

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
"""A time-out or interval: more than 0, at most a day (nothing waits for ever)."""


class Settings(BaseModel):
    """What can be set, whole or in part: a tier's own model inherits from several. An unknown key is a fault."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True
    )


class TierSettings(Settings):
    """What every tier can be told. A tier's own model adds its fields and its `tier` name."""

    tier: ClassVar[str]
    """Names the tables `[tier]` and `[tier.node.NAME]` and the environment variables `SCALEUP_TIER_…`."""

    command: ClassVar[str] = ""
    """The word behind `python -m scaleup.TIER`, of a command beside the tier itself."""

    examples: ClassVar[str] = ""
    """Shown below --help."""

    node: Annotated[str, Flag("NAME", "this process")] = Field(
        "",
        max_length=63,
        pattern=r"^[A-Za-z0-9_-]*$",
        description="name of this process, in logs and headers; picks [TIER.node.NAME] of the file "
        "(default: the tier's name)",
    )
    admin: Annotated[EndpointField | None, Flag("HOST:PORT", "this process")] = Field(
        None, description="serve /healthz, /readyz and /metrics here; anybody who reaches it can read them"
    )
    drain: Annotated[float, Flag("SECONDS", "this process")] = Field(
        2.0, ge=0, le=3600, description="on SIGTERM, how long requests in progress may take to finish"
    )
    log_format: Annotated[Literal["text", "json"], Flag(None, "this process")] = Field(
        "text", description="text for people, in colour on a terminal; json for collectors, a line each"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Flag(None, "this process")] = Field(
        "info", description="the least important messages that are written"
    )
    log_file: Annotated[Path | None, Flag("FILE", "this process")] = Field(
        None, description="append the log to this file, opened again on SIGUSR2 (default: stderr)"
    )
    log_syslog: Annotated[str | None, Flag("ADDRESS[:PORT]|PATH", "this process")] = Field(
        None,
        description="send the log to syslog: UDP, port 514 by default, or a Unix socket such as /dev/log",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _of_the_right_kind(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic reads `true` as the number 1, and does not say what to write instead of one string."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("this is not a yes-or-no setting")
        if isinstance(value, str) and is_repeatable(field):
            raise ValueError(f'write a list, ["{value}"]')
        if value == "" and _is_path(field.annotation):
            raise ValueError("it is empty, which would mean the current directory: write a path")
        return value

    @field_validator("log_file")
    @classmethod
    def _can_be_written(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError("it cannot be written: is its folder there, and may we?")
        return path

    @field_validator("log_syslog")
    @classmethod
    def _is_a_place(cls, text: str | None) -> str | None:
        if text is not None:
            syslog_address(text)
        return text

    @model_validator(mode="after")
    def _logs_to_one_place(self) -> Self:
        if self.log_file is not None and self.log_syslog is not None:
            raise ValueError("--log-file and --log-syslog: a log goes to one place, keep one of them")
        return self

    @property
    def name(self) -> str:
        """The name of this process: `node`, or the tier's name."""
        return self.node or self.tier

    def table(self) -> dict[str, Any]:
        """The values as TOML or JSON would hold them, without secrets. `model_validate` reads it back."""
        secrets = {name for name, info in type(self).model_fields.items() if is_secret(info)}
        return self.model_dump(mode="json", exclude=secrets)


def refuse_changes(
    old: TierSettings, new: TierSettings, names: Container[str], others: Iterable[str] = ()
) -> None:
    """Of a reload: raises ConfigurationError when these fields differ, or for `others` that the caller found."""
    changed = [
        option_name(name)
        for name in type(old).model_fields
        if name in names and getattr(new, name) != getattr(old, name)
    ]
    if changed := [*changed, *others]:
        raise ConfigurationError(f"a restart is needed for {', '.join(changed)}")


def _is_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_is_path, get_args(annotation)))


def flag_of(info: FieldInfo) -> Flag | None:
    """The field's flag; None when it has none, because it is a secret or only the file can hold it."""
    if is_secret(info) or is_file_only(info):
        return None
    return next((item for item in info.metadata if isinstance(item, Flag)), Flag())


def is_secret(info: FieldInfo) -> bool:
    return any(isinstance(item, EnvironmentOnly) for item in info.metadata)


def is_file_only(info: FieldInfo) -> bool:
    return any(isinstance(item, FileOnly) for item in info.metadata)


def is_repeatable(info: FieldInfo) -> bool:
    """Whether the field takes several values: a repeated flag, a list in TOML."""
    return getattr(info.annotation, "__origin__", None) is tuple


def option_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def variable_name(tier: str, field: str) -> str:
    return f"SCALEUP_{tier}_{field}".upper()
