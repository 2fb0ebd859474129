"""The schema and its versions: the files `migrations/NNNN_name.sql`, each applied once, in order.

Any number of applications may start at the same time: a lock in the database (GET_LOCK) lets one of them
work while the others wait. The database itself drops the lock when the one that holds it dies. In a Galera
cluster each node has locks of its own, so two that begin at different nodes may both apply a version, which one of
them records.

MySQL commits each CREATE or ALTER by itself, so a file cannot be applied as a whole or not at all. A
migration that failed half-way is applied again from its beginning: write statements that may be repeated
(IF NOT EXISTS), and one change for each file. In a file a statement ends with `;` at the end of a line, and
a comment takes a whole line.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

from pymysql.err import IntegrityError, ProgrammingError

from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.errors import StartupError

log = logging.getLogger(__name__)

LOCK = "scaleup.migrate"
LOCK_SECONDS = 10
"""How long an application waits for another one's migrations before it asks again."""
MIGRATION_SECONDS = 600.0
"""The longest that all migrations may take: an ALTER copies its table."""

_NO_SUCH_TABLE, _DUPLICATE = 1146, 1062

_CREATE_HISTORY = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version INT UNSIGNED NOT NULL PRIMARY KEY,
        name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        applied DATETIME(6) NOT NULL
    ) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
"""
_APPLIED = "SELECT version FROM schema_migrations ORDER BY version"
_HISTORY = "SELECT version, name, applied FROM schema_migrations ORDER BY version"
_RECORD = "INSERT INTO schema_migrations (version, name, applied) VALUES (%s, %s, UTC_TIMESTAMP(6))"


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    statements: tuple[str, ...]

    @classmethod
    def parse(cls, filename: str, text: str) -> Migration:
        """`filename`: `0001_links.sql`."""
        number, _, name = filename.removesuffix(".sql").partition("_")
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
        statements = (statement.strip() for statement in f"{code}\n".split(";\n"))
        return cls(int(number), name, tuple(filter(None, statements)))


def migrations() -> list[Migration]:
    """What this version of the code knows, in order."""
    found = (
        file for file in files("scaleup.app").joinpath("migrations").iterdir() if file.name.endswith(".sql")
    )
    return sorted(
        (Migration.parse(file.name, file.read_text()) for file in found), key=lambda each: each.version
    )


async def migrate(pool: Pool, known: Sequence[Migration] | None = None) -> list[Migration]:
    """Bring the schema up to date and return what was applied.

    Raises StartupError when the schema is newer than this code, DatabaseAwayError to be tried again.
    """
    known = migrations() if known is None else known
    if not await _missing(pool, known):
        return []  # without the lock, and without needing the right to create tables
    async with pool.cursor(MIGRATION_SECONDS) as cursor:
        await cursor.execute("SELECT GET_LOCK(%s, %s)", (LOCK, LOCK_SECONDS))
        if await cursor.fetchone() != (1,):
            raise DatabaseAwayError("another application is migrating the schema")
        try:
            await cursor.execute(_CREATE_HISTORY)
            return await _apply(cursor, known, pool.address.database)
        finally:
            if not cursor.connection.closed:  # else the lock has gone with the connection
                await cursor.execute("SELECT RELEASE_LOCK(%s)", (LOCK,))


async def applied(pool: Pool) -> dict[int, tuple[str, datetime]]:
    """The versions that the schema has, each with its name and when it was applied (UTC)."""
    async with pool.cursor() as cursor:
        try:
            await cursor.execute(_HISTORY)
        except ProgrammingError as error:
            if error.args[0] != _NO_SUCH_TABLE:
                raise
            return {}
        return {version: (name, when) for version, name, when in await cursor.fetchall()}


async def _missing(pool: Pool, known: Sequence[Migration]) -> list[Migration]:
    async with pool.cursor(watching=True) as cursor:  # requests may have taken all the others
        try:
            return await _compare(cursor, known, pool.address.database)
        except ProgrammingError as error:
            if error.args[0] != _NO_SUCH_TABLE:
                raise
            return list(known)


async def _apply(cursor: Any, known: Sequence[Migration], database: str) -> list[Migration]:
    missing = await _compare(cursor, known, database)  # again: the one before us may have done it
    for migration in missing:
        for statement in migration.statements:
            await cursor.execute(statement)
        try:
            await cursor.execute(_RECORD, (migration.version, migration.name))
        except IntegrityError as error:
            if error.args[0] != _DUPLICATE:
                raise
            log.info("version %d was applied at another node as well", migration.version)
            continue
        log.info("the schema of %s is now at version %d (%s)", database, migration.version, migration.name)
    return missing


async def _compare(cursor: Any, known: Sequence[Migration], database: str) -> list[Migration]:
    await cursor.execute(_APPLIED)
    done = {version for (version,) in await cursor.fetchall()}
    newest = max((migration.version for migration in known), default=0)
    if done and max(done) > newest:
        raise StartupError(
            f"the schema of the database {database} is at version {max(done)}, newer than this program, "
            f"which knows {newest}: start the newer version of scaleup, or use --database for another one"
        )
    return [migration for migration in known if migration.version not in done]
