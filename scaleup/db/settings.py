"""What the database process can be told."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr, model_validator

from scaleup.config import (
    EndpointField,
    EnvironmentOnly,
    Flag,
    Seconds,
    SecretFile,
    TierSettings,
    read_secret,
)
from scaleup.net.addresses import Endpoint

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,32}$")]
"""A name that needs no quoting in SQL, and that MySQL takes as a user's (32 characters)."""


class DbSettings(TierSettings):
    """A database server: a private MariaDB (or MySQL) with one database and one user, or, where none is
    installed, an embedded engine for trying things out."""

    tier: ClassVar[str] = "db"
    examples: ClassVar[str] = """
examples:
  python -m scaleup.db                                            on loopback, for trying things out
  SCALEUP_DB_PASSWORD=… python -m scaleup.db --listen 0.0.0.0:3306 --data /srv/scaleup
  python -m scaleup.db --replicas 2                               two more that follow it, on 3307 and 3308
  python -m scaleup.db --galera 3                                 three of which each takes writes
"""

    listen: Annotated[EndpointField, Flag("ADDRESS:PORT", "traffic")] = Field(
        Endpoint("127.0.0.1", 3306), description="accept clients here"
    )
    engine: Annotated[Literal["auto", "mariadb", "mysql", "embedded"], Flag(None, "database")] = Field(
        "auto", description="auto: the one whose data are there, else MariaDB, MySQL, embedded, as installed"
    )
    data: Annotated[Path | None, Flag("DIR", "database")] = Field(
        None, description="keep the data here (default: a temporary directory, removed at the end)"
    )
    replicas: Annotated[int, Flag("NUMBER", "several servers")] = Field(
        0,
        ge=0,
        le=9,
        description="MariaDB servers that follow this one, asynchronously by GTID, read-only, on the next ports",
    )
    galera: Annotated[int, Flag("NUMBER", "several servers")] = Field(
        0,
        ge=0,
        le=9,
        description="so many MariaDB servers in all that agree on each commit, on this and the next ports",
    )
    database: Annotated[Name, Flag("NAME", "database")] = Field(
        "scaleup", description="this database is made if it is not there"
    )
    user: Annotated[Name, Flag("NAME", "database")] = Field(
        "scaleup", description="this user is made, and may do everything with the database and nothing else"
    )
    password_file: Annotated[SecretFile, Flag("FILE", "database")] = Field(
        None, description="the user's password is the first line of this file (or SCALEUP_DB_PASSWORD)"
    )
    password: Annotated[SecretStr, EnvironmentOnly()] = Field(
        SecretStr(""), description="the user's password, if there is no file"
    )
    ssl_cert: Annotated[Path | None, Flag("FILE", "traffic")] = Field(
        None, description="offer TLS with this certificate and its chain, in PEM (MariaDB and MySQL)"
    )
    ssl_key: Annotated[Path | None, Flag("FILE", "traffic")] = Field(
        None, description="the certificate's key, in PEM"
    )
    start_timeout: Annotated[Seconds, Flag("SECONDS", "database")] = Field(
        60.0, description="how long the server may take to start; after a crash it repairs its data first"
    )
    drain: Annotated[float, Flag("SECONDS", "this process")] = Field(
        3.0, ge=0, le=3600, description="on SIGTERM, how long the server may take to end before it is killed"
    )

    @model_validator(mode="after")
    def _guarded(self) -> DbSettings:
        address = self.listen.address
        if address is None:
            raise ValueError(f"--listen {self.listen}: write an IP address, not a name")
        if (self.ssl_cert is None) != (self.ssl_key is None):
            raise ValueError("--ssl-cert and --ssl-key: a certificate needs its key; say both")
        for option, number in (("--replicas", self.replicas), ("--galera", self.galera)):
            if number and self.engine in ("embedded", "mysql"):
                raise ValueError(f"{option}: this is MariaDB's; --engine {self.engine} has none of it")
        if self.galera and (self.replicas or self.galera < 2):
            raise ValueError("--galera: from 2 to 9 nodes, 3 as a rule, and no --replicas beside them")
        if self.ssl_cert is not None and self.engine == "embedded":
            raise ValueError("--ssl-cert: the embedded engine speaks no TLS")
        if not self.user_password() and not ipaddress.ip_address(address).is_loopback:
            raise ValueError(
                f"--listen {self.listen}: other hosts can connect, so the user needs a password: put one into a "
                "file and say --password-file FILE, or into SCALEUP_DB_PASSWORD; or listen on 127.0.0.1"
            )
        return self

    def user_password(self) -> str:
        """The password; empty when there is none."""
        return read_secret(self.password_file) if self.password_file else self.password.get_secret_value()
