"""`python -m scaleup.app migrate`: by hand, with the rights for it; and a user for applications who has few."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest
from app_harness import run_app
from database_servers import PASSWORD, DatabaseServer
from needs import requires

from scaleup.app.address import DatabaseAddress
from scaleup.app.migrate import Migration, migrate, migrations
from scaleup.app.migrate_command import make_user, report
from scaleup.app.outcomes import DatabaseRefusesError
from scaleup.app.pool import Pool
from scaleup.app.watch import Watch
from scaleup.errors import StartupError

WHEN = datetime(2026, 1, 31, 12, 0, 0)
NEW_PASSWORD = "n%w'pä\\ss"


def test_the_report() -> None:
    done = {1: ("links", WHEN), 99: ("future", WHEN)}
    lines, is_current = report(done)
    assert not is_current
    assert lines[0] == f"0001 {'links':<20} applied 2026-01-31 12:00:00 UTC"
    assert lines[1].endswith(" missing")
    assert lines[-1] == f"0099 {'future':<20} applied 2026-01-31 12:00:00 UTC, newer than this program"
    assert report({it.version: (it.name, WHEN) for it in migrations()})[1]


def command(server: DatabaseServer, *arguments: str, user: str = "scaleup", **more: str) -> tuple[int, str]:
    url = f"mysql://{user}@{server.endpoint}/scaleup"
    result = subprocess.run(
        [sys.executable, "-m", "scaleup.app", "migrate", *arguments, "--database", url],
        env={**os.environ, "SCALEUP_APP_DATABASE_PASSWORD": PASSWORD, **more},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


@pytest.mark.slow
def test_by_hand(database: DatabaseServer) -> None:
    code, said = command(database, "--status")
    assert (code, said.count("missing")) == (1, len(migrations()))
    assert command(database) == (0, "".join(f"applied {it.version:04} {it.name}\n" for it in migrations()))
    assert command(database) == (0, "the schema is up to date\n")
    code, said = command(database, "--status")
    assert (code, said.count("applied 20")) == (0, len(migrations()))
    code, said = command(database, "--make-user", "x")
    assert code == 78
    assert "SCALEUP_APP_MAKE_USER_PASSWORD" in said
    code, said = command(database, SCALEUP_APP_DATABASE_PASSWORD="wrong")
    assert code == 1
    assert "cannot be migrated as 'scaleup'" in said


@pytest.fixture
def administered(mariadb: DatabaseServer) -> Iterator[DatabaseServer]:
    """A database with a user `admin` who may make users. Only who owns the data can make that one."""
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    mariadb.as_owner(
        f"CREATE USER admin@'%' IDENTIFIED BY '{quoted}'; GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION"
    )
    yield mariadb
    mariadb.as_owner("DROP USER admin@'%'; DROP USER IF EXISTS few@'%'")


@requires("mariadbd", "mariadb")
async def test_a_user_is_never_without_a_password(administered: DatabaseServer) -> None:
    administered.as_owner(
        "INSTALL SONAME 'simple_password_check'"
    )  # the server refuses one, and those of children
    pool = Pool(DatabaseAddress("admin", administered.endpoint, "scaleup"), PASSWORD, size=1, timeout=20.0)
    try:
        await make_user(pool, "few", "Long enough, 1")
    finally:
        administered.as_owner("UNINSTALL SONAME 'simple_password_check'")
        await pool.close()


@pytest.mark.slow
@requires("mariadbd", "mariadb")
async def test_an_application_needs_few_rights(administered: DatabaseServer) -> None:
    made = await asyncio.to_thread(
        command, administered, "--make-user", "few", user="admin", SCALEUP_APP_MAKE_USER_PASSWORD=NEW_PASSWORD
    )
    assert made[0] == 0, made
    address = DatabaseAddress("few", administered.endpoint, "scaleup")
    async with run_app(administered, database=address, database_password=NEW_PASSWORD) as app:
        await app.until_ready()
        code = await app.add()
        async with app.client.delete(f"/api/links/{code}") as response:
            assert response.status == 204
    pool = Pool(address, NEW_PASSWORD, size=1, timeout=20.0)
    try:
        for sql in (
            "DROP TABLE links",
            "CREATE TABLE x (a INT)",
            "CREATE USER y",
            "ALTER TABLE links ADD x INT",
        ):
            with pytest.raises(DatabaseRefusesError):
                async with pool.cursor() as cursor:
                    await cursor.execute(sql)
        with pytest.raises(DatabaseRefusesError):
            await migrate(pool, [*migrations(), Migration(99, "more", ("CREATE TABLE x (a INT)",))])
        administered.empty()
        with pytest.raises(StartupError, match=r"python -m scaleup\.app migrate"):
            await Watch(pool).run()
    finally:
        await pool.close()
