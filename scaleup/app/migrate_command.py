"""`python -m scaleup.app migrate`: bring the schema up to date, as who may change it, before applications start.

    SCALEUP_APP_DATABASE_PASSWORD=… python -m scaleup.app migrate --database mysql://admin@10.0.0.41/scaleup \\
        --make-user scaleup --make-user-password-file FILE

An application that finds its schema up to date needs no right to change it. So the user of `--make-user` gets
SELECT, INSERT, UPDATE and DELETE on this database and nothing else: whoever takes an application over can neither
drop a table nor make a user. `--status` changes nothing, says what is applied and what is missing, and exits
with 1 when something is.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, ClassVar, NoReturn

from pydantic import Field, SecretStr, model_validator
from pymysql.err import Error

from scaleup.app.migrate import applied, migrate, migrations
from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.app.settings import AppSettings
from scaleup.config import EnvironmentOnly, Flag, SecretFile, load, read_secret
from scaleup.errors import ScaleUpError, StartupError

CREATE_USER = "CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s"  # never without one, not for a moment
SET_PASSWORD = "ALTER USER %s@'%%' IDENTIFIED BY %s"
GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON `{}`.* TO %s@'%%'"


class MigrateSettings(AppSettings):
    """Bring the database's schema up to date, or say whether it is. Of an application's flags only those of the
    database count here.
    """

    command: ClassVar[str] = "migrate"
    examples: ClassVar[str] = """
example:
  SCALEUP_APP_DATABASE_PASSWORD=… python -m scaleup.app migrate --database mysql://admin@10.0.0.41/scaleup --status
"""

    status: Annotated[bool, Flag(None, "migrate")] = Field(
        False,
        description="change nothing; say what is applied and what is missing, and exit with 1 if something is",
    )
    make_user: Annotated[str | None, Flag("NAME", "migrate")] = Field(
        None,
        pattern=r"^[A-Za-z0-9_]{1,32}$",
        description="make this user, who may read and write rows, for applications",
    )
    make_user_password_file: Annotated[SecretFile, Flag("FILE", "migrate")] = Field(
        None,
        description="that user's password is the first line of this file (or SCALEUP_APP_MAKE_USER_PASSWORD)",
    )
    make_user_password: Annotated[SecretStr, EnvironmentOnly()] = Field(
        SecretStr(""), description="that user's password, if there is no file"
    )

    @model_validator(mode="after")
    def _guarded(self) -> MigrateSettings:
        if self.make_user is not None and not self.new_password():
            raise ValueError(
                f"--make-user {self.make_user}: without a password everybody could come in: put one into "
                "a file and say --make-user-password-file FILE, or into SCALEUP_APP_MAKE_USER_PASSWORD"
            )
        return self

    def new_password(self) -> str:
        if self.make_user_password_file is not None:
            return read_secret(self.make_user_password_file)
        return self.make_user_password.get_secret_value()


def main(argv: Sequence[str]) -> NoReturn:
    """Exits with 0, or 1 when the database cannot be asked or, with --status, is not up to date."""
    try:
        lines, is_current = asyncio.run(run(load(MigrateSettings, argv).settings))
    except ScaleUpError as error:
        print(f"scaleup: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    print("\n".join(lines))  # noqa: T201
    raise SystemExit(0 if is_current else 1)


async def run(settings: MigrateSettings) -> tuple[list[str], bool]:
    """What to tell, and whether the schema is up to date. Raises StartupError."""
    pool = Pool(
        settings.database,
        settings.password(),
        size=1,
        timeout=settings.database_timeout,
        ssl=settings.database_ssl(),
    )
    try:
        if settings.status:
            return report(await applied(pool))
        lines = [f"applied {it.version:04} {it.name}" for it in await migrate(pool)]
        if settings.make_user is not None:
            await make_user(pool, settings.make_user, settings.new_password())
            lines.append(
                f"the user {settings.make_user} may read and write rows of {settings.database.database}"
            )
        return lines or ["the schema is up to date"], True
    except (DatabaseAwayError, Error) as error:
        raise StartupError(
            f"the database cannot be migrated as {settings.database.user!r}: {error}"
        ) from None
    finally:
        await pool.close()


async def make_user(pool: Pool, name: str, password: str) -> None:
    """As a user who may CREATE USER and GRANT. One that is there gets the password; its rights only grow."""
    # In a GRANT, _ and % stand for any characters; execute() takes %% for %.
    pattern = pool.address.database.replace("`", "``").replace("_", r"\_").replace("%", r"\%%")
    async with pool.cursor() as cursor:
        await cursor.execute(CREATE_USER, (name, password))
        await cursor.execute(SET_PASSWORD, (name, password))
        await cursor.execute(GRANT.format(pattern), (name,))


def report(done: Mapping[int, tuple[str, datetime]]) -> tuple[list[str], bool]:
    """A line for each version, and whether none is missing."""
    return list(_lines(done)), all(it.version in done for it in migrations())


def _lines(done: Mapping[int, tuple[str, datetime]]) -> Iterator[str]:
    known = {it.version: it.name for it in migrations()}
    for version in sorted(known.keys() | done.keys()):
        name, when = done.get(version, (known.get(version, ""), None))
        state = "missing" if when is None else f"applied {when.isoformat(sep=' ', timespec='seconds')} UTC"
        newer = "" if version in known else ", newer than this program"
        yield f"{version:04} {name:<20} {state}{newer}"
