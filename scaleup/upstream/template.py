"""Several servers of one name, HAProxy's `server-template`: slots for what a resolver finds.

    web 1-5 web.internal:8080,weight=2              web1 … web5, at the addresses of web.internal
    web 5 _http._tcp.web.service.consul             the same at what SRV records say: addresses and ports

After the name come the options that a server has (`server_settings`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, ValidationError

from scaleup.net.addresses import Endpoint
from scaleup.upstream.server_settings import ServerSettings

MAX_SLOTS = 1000
_EXAMPLE = "web 1-5 web.internal:8080,weight=2"
_LINE = re.compile(r"([A-Za-z0-9._:-]{1,200}) +([0-9]{1,9})(?:-([0-9]{1,9}))? +([^ ,=]+) *(,.*)?")


@dataclass(frozen=True)
class ServerTemplate:
    """`name`: what is to be looked up, with port 0 if by SRV records. `model`: what is said of each server."""

    prefix: str
    first: int
    last: int
    name: Endpoint
    model: ServerSettings

    @classmethod
    def parse(cls, text: str) -> ServerTemplate:
        """Read `PREFIX N|FIRST-LAST NAME:PORT[,…]`. Raises ValueError that says what to write instead."""
        found = _LINE.fullmatch(text.strip())
        if not found:
            raise ValueError(f"{text!r} is not a template of servers: write for example {_EXAMPLE}")
        prefix, low, high, host, options = found.groups()
        first, last = (int(low), int(high)) if high else (1, int(low))
        if not first <= last < first + MAX_SLOTS:
            raise ValueError(
                f"{low}{'-' * bool(high)}{high or ''} in {text!r}: write 1 to {MAX_SLOTS} servers"
            )
        is_srv = host.startswith("_") and ":" not in host
        name = Endpoint.parse(host, 0 if is_srv else None)
        if name.address is not None:
            raise ValueError(
                f"{name.host} in {text!r} is an address, and needs no template: say it as a server"
            )
        try:
            model = ServerSettings.model_validate(
                f"{prefix}={name.host}:{1 if is_srv else name.port}{options or ''}"
            )
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return cls(prefix, first, last, name, model.model_copy(update={"address": name}))

    @cached_property
    def servers(self) -> tuple[ServerSettings, ...]:
        numbers = range(self.first, self.last + 1)
        return tuple(self.model.model_copy(update={"name": f"{self.prefix}{number}"}) for number in numbers)

    def __str__(self) -> str:
        _, comma, options = str(self.model).partition(",")
        host = str(self.name) if self.name.port else self.name.host
        return f"{self.prefix} {self.first}-{self.last} {host}{comma}{options}"


def _template(value: object) -> ServerTemplate:
    if isinstance(value, ServerTemplate):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write "{_EXAMPLE}", not {value!r}')
    return ServerTemplate.parse(value)


ServerTemplates = tuple[
    Annotated[ServerTemplate, PlainValidator(_template, json_schema_input_type=str), PlainSerializer(str)],
    ...,
]
