"""Looking names up, as settings: whom to ask, and for how long what it said holds (`names`, `slots`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from scaleup.config import Flag, Settings
from scaleup.net.addresses import Endpoint
from scaleup.upstream.host_names import DNS_PORT

NAMES = "servers by name"

MAX_HOLD_SECONDS = 86400


def _server(value: object) -> Endpoint:
    endpoint = value if isinstance(value, Endpoint) else Endpoint.parse(str(value), DNS_PORT)
    if endpoint.address is None or endpoint.port == 0:
        raise ValueError(f"{value!r} is no address: write that of a name server, such as 10.0.0.53")
    return endpoint


ServerField = Annotated[Endpoint, PlainValidator(_server, json_schema_input_type=str), PlainSerializer(str)]
"""ADDRESS or ADDRESS:PORT."""


class ResolverSettings(Settings):
    """HAProxy's section `resolvers`."""

    resolver: Annotated[tuple[ServerField, ...], Flag("ADDRESS[:PORT]", NAMES)] = Field(
        (),
        description="ask this name server (default: /etc/hosts, then those of /etc/resolv.conf); repeatable",
    )
    resolve_prefer: Annotated[Literal["ipv4", "ipv6"], Flag(None, NAMES)] = Field(
        "ipv4", description="of a name that has addresses of both kinds; with --source only its kind counts"
    )
    hold_nx: Annotated[float, Flag("SECONDS", NAMES)] = Field(
        30.0,
        ge=0,
        le=MAX_HOLD_SECONDS,
        description="how long servers keep their addresses when the name has none any more",
    )
    hold_obsolete: Annotated[float, Flag("SECONDS", NAMES)] = Field(
        0.0,
        ge=0,
        le=MAX_HOLD_SECONDS,
        description="how long a server keeps an address that is not among the name's any more",
    )
