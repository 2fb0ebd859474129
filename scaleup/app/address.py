"""Where the database is: `mysql://USER@HOST:PORT/DATABASE`, or `…@HOST:PORT,HOST:PORT/…` for one of several. ●"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from scaleup.net.addresses import Endpoint

DEFAULT_PORT = 3306


class PasswordInUrlError(ValueError):
    """Every user of a host can read the arguments of its processes."""

    def __init__(self) -> None:
        super().__init__(
            "the URL must not contain a password: put it into a file and say --database-password-file FILE, "
            "or into the environment variable SCALEUP_APP_DATABASE_PASSWORD"
        )


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A user's way to a database; the password travels apart. `others`: further hosts that may be the primary."""

    user: str
    endpoint: Endpoint
    database: str
    others: tuple[Endpoint, ...] = ()

    @classmethod
    def parse(cls, text: str) -> DatabaseAddress:
        """Read `mysql://USER@HOST[:PORT][,HOST[:PORT]…]/DATABASE`.

        Raises ValueError that says what to write instead.
        """
        form = "write mysql://USER@HOST:PORT/DATABASE"
        parts = urlsplit(text)
        user, at, host = parts.netloc.rpartition("@")
        if ":" in user:
            raise PasswordInUrlError
        if parts.scheme != "mysql":
            raise ValueError(f"{text!r} does not begin with mysql://: {form}")
        if not user or not at or not host:
            raise ValueError(f"{text!r} names no user or no host: {form}")
        database = unquote(parts.path.removeprefix("/"))
        if not database or "/" in database:
            raise ValueError(f"{text!r} names no database: {form}")
        if parts.query or parts.fragment:
            raise ValueError(f"{text!r} has something after the database's name: {form}")
        first, *others = (Endpoint.parse(each, DEFAULT_PORT) for each in host.split(","))
        if len({first, *others}) <= len(others):
            raise ValueError(f"{text!r} names a host twice")
        return cls(unquote(user), first, database, tuple(others))

    def at(self, host: Endpoint) -> DatabaseAddress:
        """The same database at this host, whatever its role."""
        return DatabaseAddress(self.user, host, self.database)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All of them, in the order in which they are tried."""
        return (self.endpoint, *self.others)

    def __str__(self) -> str:
        return f"mysql://{self.user}@{','.join(map(str, self.endpoints))}/{self.database}"
