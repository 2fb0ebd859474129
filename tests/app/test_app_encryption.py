"""TLS to the database: a real MariaDB with a certificate, and one without."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from app_harness import address_of, database_servers
from database_servers import PASSWORD, DatabaseServer
from needs import requires

from scaleup.app.encryption import SslMode, context
from scaleup.app.outcomes import DatabaseAwayError
from scaleup.app.pool import Pool
from scaleup.app.settings import AppSettings

pytestmark = requires("mariadbd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for this host's address and for another one's, by the same authority, which is in ca.pem."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    for name, address in {"here": "127.0.0.1", "elsewhere": "192.0.2.1"}.items():
        made = authority.issue_cert(address)
        made.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        (folder / f"{name}.key").chmod(0o600)
    return folder


@contextlib.contextmanager
def running(folder: Path, name: str) -> Iterator[DatabaseServer]:
    files = (f"--ssl-cert={folder}/{name}.pem", f"--ssl-key={folder}/{name}.key")
    server = database_servers.start_database("mariadb", arguments=files)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def here(folder: Path) -> Iterator[DatabaseServer]:
    with running(folder, "here") as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere(folder: Path) -> Iterator[DatabaseServer]:
    with running(folder, "elsewhere") as server:
        yield server


@contextlib.asynccontextmanager
async def pool_of(server: DatabaseServer, mode: SslMode, authorities: Path | None) -> AsyncIterator[Pool]:
    pool = Pool(address_of(server), PASSWORD, size=2, timeout=20.0, ssl=context(mode, authorities))
    try:
        yield pool
    finally:
        await pool.close()


async def cipher(server: DatabaseServer, mode: SslMode, authorities: Path | None = None) -> str:
    """Of a connection, as the server says; empty: none."""
    async with pool_of(server, mode, authorities) as pool, pool.cursor() as cursor:
        await cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        return str((await cursor.fetchone())[1])


async def test_it_is_encrypted_when_asked_for(here: DatabaseServer, folder: Path) -> None:
    assert await cipher(here, "disabled") == ""
    assert await cipher(here, "required") != ""
    assert await cipher(here, "verify_ca", folder / "ca.pem") != ""
    assert await cipher(here, "verify_identity", folder / "ca.pem") != ""


async def test_whose_certificate_it_is_counts_as_far_as_asked(
    elsewhere: DatabaseServer, folder: Path
) -> None:
    assert await cipher(elsewhere, "required") != ""
    assert await cipher(elsewhere, "verify_ca", folder / "ca.pem") != ""
    with pytest.raises(DatabaseAwayError, match=r"TLS: .*IP address mismatch"):
        await cipher(elsewhere, "verify_identity", folder / "ca.pem")
    for authorities in (folder / "other.pem", None):
        with pytest.raises(DatabaseAwayError, match=r"TLS: .*certificate verify failed"):
            await cipher(elsewhere, "verify_ca", authorities)


async def test_a_server_without_it_is_told_no_password(mariadb: DatabaseServer) -> None:
    """Of aiomysql alone it would be: it goes on as if nothing had been asked for."""
    for mode in ("required", "verify_ca", "verify_identity"):
        with pytest.raises(DatabaseAwayError, match="it offers no TLS, which --database-ssl-mode asks for"):
            await cipher(mariadb, mode)  # type: ignore[arg-type]


def test_settings_that_cannot_be_meant(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for given, told in (
        ({"database_ssl_ca": folder / "ca.pem"}, "nothing is verified"),
        ({"database_ssl_mode": "verify_ca", "database_ssl_ca": tmp_path / "none"}, "No such file"),
        ({"database_ssl_mode": "verify_ca", "database_ssl_ca": tmp_path / "empty"}, "database-ssl-ca"),
    ):
        with pytest.raises(ValueError, match=told):
            AppSettings.model_validate(given)
