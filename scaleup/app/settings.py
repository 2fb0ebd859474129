"""What an application process can be told."""

from __future__ import annotations

import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, PlainSerializer, PlainValidator, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from scaleup.app import encryption
from scaleup.app.address import DatabaseAddress, PasswordInUrlError
from scaleup.app.encryption import SslMode
from scaleup.app.replicas import LOOK_SECONDS, MAX_LAG_SECONDS
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

a command beside it, with the same flags and some of its own:
  python -m scaleup.app migrate …        bring the database's schema up to date, or say whether it is
"""

    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", "traffic")] = Field(
        (Endpoint("0.0.0.0", 3000),), min_length=1, description="serve HTTP here; may be repeated"
    )
    workers: Annotated[int, Flag("N", "traffic")] = Field(
        1,
        ge=1,
        le=256,
        description="processes that serve; one for each core, each with connections of its own",
    )
    trusted_proxy: Annotated[tuple[NetworkField, ...], Flag("NETWORK", "traffic")] = Field(
        PRIVATE_NETWORKS,
        description="believe X-Forwarded-For from peers in this network; may be repeated",
    )
    access_log: Annotated[bool, Flag(None, "traffic")] = Field(False, description="log every request")

    database: Annotated[DatabaseField, Flag("URL", "database")] = Field(
        DatabaseAddress("scaleup", Endpoint("127.0.0.1", 3306), "scaleup"),
        description="mysql://USER@HOST:PORT[,HOST:PORT…]/DATABASE; of several hosts the primary is used; "
        "the password comes from a file or SCALEUP_APP_DATABASE_PASSWORD",
    )
    database_replica: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", "database")] = Field(
        (),
        max_length=16,
        description="read links from this replica of it (MariaDB, by GTID); may be repeated",
    )
    database_max_lag: Annotated[float, Flag("SECONDS", "database")] = Field(
        2.0,
        ge=LOOK_SECONDS,
        le=MAX_LAG_SECONDS,
        description="leave out a replica that is more than this behind the primary",
    )
    database_password_file: Annotated[SecretFile, Flag("FILE", "database")] = Field(
        None, description="the password is the first line of this file"
    )
    database_password: Annotated[SecretStr, EnvironmentOnly()] = Field(
        SecretStr(""), description="the password, if there is no file"
    )
    database_connections: Annotated[int, Flag("NUMBER", "database")] = Field(
        10, ge=1, le=1000, description="the most connections to the database at a time, of each worker"
    )
    database_timeout: Annotated[Seconds, Flag("SECONDS", "database")] = Field(
        1.5,
        description="what a request may spend on the database, waiting included, until it is answered 503 (when a "
        "replica hangs, a third more)",
    )

    database_ssl_mode: Annotated[SslMode, Flag(None, "database")] = Field(
        "disabled",
        description="TLS to the database, as MySQL's --ssl-mode: required encrypts, verify_ca and verify_identity "
        "look whose certificate it is as well",
    )
    database_ssl_ca: Annotated[Path | None, Flag("FILE", "database")] = Field(
        None, description="certificates, in PEM, of those who may have signed it (default: the system's)"
    )

    @model_validator(mode="after")
    def _can_verify(self) -> Self:
        if self.database_ssl_ca is not None and not self.database_ssl_mode.startswith("verify"):
            raise ValueError(
                "--database-ssl-ca: nothing is verified; say --database-ssl-mode verify_ca or verify_identity"
            )
        try:
            self.database_ssl()
        except OSError as error:
            raise ValueError(f"--database-ssl-ca {self.database_ssl_ca}: {error.strerror or error}") from None
        return self

    def database_ssl(self) -> ssl.SSLContext | None:
        """Made anew, which takes some 20 ms."""
        return encryption.context(self.database_ssl_mode, self.database_ssl_ca)

    def password(self) -> str:
        """The password; empty when there is none."""
        if self.database_password_file is not None:
            return read_secret(self.database_password_file)
        return self.database_password.get_secret_value()
