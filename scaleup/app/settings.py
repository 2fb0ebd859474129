"""What an application process can be told."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, ClassVar

from pydantic import Field, PlainSerializer, PlainValidator, SecretStr
from pydantic_core import PydanticCustomError

from scaleup.app.address import DatabaseAddress, PasswordInUrlError
from scaleup.config import (
    EndpointField,
    EnvironmentOnly,
    Flag,
    NetworkField,
    Seconds,
    SecretFile,
    TierSettings,
    read_secret,
)
from scaleup.net.addresses import Endpoint

PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
"""Loopback (RFC 1122, RFC 4291), private (RFC 1918), unique local (RFC 4193), link-local (RFC 4291)."""


def _address(value: object) -> DatabaseAddress:
    if isinstance(value, DatabaseAddress):
        return value
    try:
        return DatabaseAddress.parse(str(value))
    except PasswordInUrlError as error:
        raise PydanticCustomError("secret", "{reason}", {"reason": str(error)}) from None


DatabaseField = Annotated[
    DatabaseAddress, PlainValidator(_address, json_schema_input_type=str), PlainSerializer(str)
]


class AppSettings(TierSettings):
    """An application server: the link shortener's HTTP interface, in front of its database."""

    tier: ClassVar[str] = "app"
    examples: ClassVar[str] = """
example:
  SCALEUP_APP_DATABASE_PASSWORD=… python -m scaleup.app --listen 0.0.0.0:3000 \\
      --database mysql://scaleup@10.0.0.41:3306/scaleup
"""

    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", "traffic")] = Field(
        (Endpoint("0.0.0.0", 3000),), min_length=1, description="serve HTTP here; may be repeated"
    )
    trusted_proxy: Annotated[tuple[NetworkField, ...], Flag("NETWORK", "traffic")] = Field(
        PRIVATE_NETWORKS,
        description="believe X-Forwarded-For from peers in this network; may be repeated",
    )
    access_log: Annotated[bool, Flag(None, "traffic")] = Field(False, description="log every request")

    database: Annotated[DatabaseField, Flag("URL", "database")] = Field(
        DatabaseAddress("scaleup", Endpoint("127.0.0.1", 3306), "scaleup"),
        description="mysql://USER@HOST:PORT/DATABASE; the password comes from a file or "
        "SCALEUP_APP_DATABASE_PASSWORD",
    )
    database_password_file: Annotated[SecretFile, Flag("FILE", "database")] = Field(
        None, description="the password is the first line of this file"
    )
    database_password: Annotated[SecretStr, EnvironmentOnly()] = Field(
        SecretStr(""), description="the password, if there is no file"
    )
    database_connections: Annotated[int, Flag("NUMBER", "database")] = Field(
        10, ge=1, le=1000, description="the most connections to the database at a time"
    )
    database_timeout: Annotated[Seconds, Flag("SECONDS", "database")] = Field(
        1.5,
        description="what a request may spend on the database, waiting included, until it is answered 503",
    )

    def password(self) -> str:
        """The password; empty when there is none."""
        if self.database_password_file is not None:
            return read_secret(self.database_password_file)
        return self.database_password.get_secret_value()
