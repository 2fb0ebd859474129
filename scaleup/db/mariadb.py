"""A private MariaDB or MySQL: a data directory of its own, nothing read from the system's configuration.

Before it accepts anybody it reads an init-file, which makes the database, its one user, and that user's
password as we were told this time. The server's root is local-only: MariaDB's logs in through the socket in
the data directory, as the system user that runs the server; MySQL's gets a password that nobody knows.

As root the server runs as somebody else: who owns the data, or `mysql`, or `nobody`.

MySQL (`mysqld`) is written by its manual and has not been tried: Debian does not have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiomysql
from pymysql.err import Error

from scaleup.db.directory import DataDirectory
from scaleup.db.engines import PROGRAMS, Choice
from scaleup.db.program import Program
from scaleup.db.settings import DbSettings
from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import endpoint_of, listening

POLL_SECONDS = 0.05
LOGIN_SECONDS = 2.0
# Debian puts servers where an unprivileged user's PATH does not look.
MORE_PATHS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")

RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES"
"""What an application needs for its data and its migrations."""

_SMALL = (
    "--innodb-buffer-pool-size=32M",
    "--key-buffer-size=1M",
    "--max-connections=200",
    "--table-open-cache=400",
    "--performance-schema=OFF",
    "--skip-name-resolve",
)
_SMALL_MARIADB = ("--innodb-log-file-size=8M", "--aria-pagecache-buffer-size=1M")
_THROW_AWAY = ("--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0")
"""A temporary directory goes with the machine, but servers that share it with others are started again when they
die: what they had committed is in the kernel's hands then, and has to be on no disk."""
_COPIED = "copied"
"""A file in the data: of a copy with which no server has run yet."""


def find(name: str) -> str | None:
    """The path of a program."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *MORE_PATHS)))


def installed() -> dict[str, str]:
    """The servers that are there, with their paths. MariaDB's link named mysqld is not MySQL."""
    found = {name: path for name in PROGRAMS.values() if (path := find(name)) is not None}
    if "mysqld" in found and "mariadb" in Path(found["mysqld"]).resolve().name:
        del found["mysqld"]
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """What a server has to do among others. `before`, `statements`: of its init-file, around those that make the
    user. `makes_user`: else there is no init-file, and it gets its user from another server.
    """

    arguments: tuple[str, ...] = ("--skip-log-bin",)
    before: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    makes_user: bool = True


ALONE = Part()


class ServerEngine:
    """mariadbd or mysqld; the methods are explained in __main__.Engine. `data`: if not the engine's directory."""

    def __init__(
        self, choice: Choice, settings: DbSettings, directory: DataDirectory, data: Path | None = None
    ) -> None:
        assert choice.program is not None
        self._program_path, self._is_mariadb = choice.program, choice.engine == "mariadb"
        self._settings, self._directory = settings, directory
        self._password = settings.user_password()
        self.data = data or directory.of(choice.engine)
        self.endpoint = settings.listen
        self.part = ALONE
        self._user: str | None = None
        self._server: Program | None = None

    async def start(self, sock: socket.socket) -> str:
        await self.install()
        self.take(sock)
        return await self.launch()

    async def install(self) -> None:
        """Make the data, if there are none. Raises StartupError."""
        if os.geteuid() == 0:
            self._user = _somebody_else(self.data)
            self._directory.give_to(self._user)
        if not self.data.exists():
            async with self._in_time():
                await self._install()

    def take(self, sock: socket.socket) -> None:
        """Serve where `sock` listens, which closes it: the address was free, and is the server's now."""
        self.endpoint = endpoint_of(sock)
        sock.close()

    async def launch(self, part: Part | None = None) -> str:
        """Start the server, for `part` this time, or as always; its version. Raises StartupError, OSError."""
        part = part or self.part
        async with self._in_time():
            init_file = self._write(self.data / "init.sql", self._init_statements(part))
            more = [f"--init-file={init_file}"] if part.makes_user else []
            try:
                self._server = await Program.start(
                    [*self._arguments(part), *more], user=self._user, directory=self.data
                )
                version = await self._until_it_accepts()
                (self.data / _COPIED).unlink(missing_ok=True)
                return version
            finally:
                init_file.unlink(missing_ok=True)  # it has the password

    async def copy_from(self, other: ServerEngine) -> None:
        """The data of another, which is not running."""
        unfinished = await self._begun()
        self._write(unfinished / _COPIED, "")
        await self._make(["cp", "--archive", f"{other.data}/.", str(unfinished)], unfinished)

    @property
    def is_copied(self) -> bool:
        """Its data are another's, and it has not run since."""
        return (self.data / _COPIED).exists()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        seconds = self._settings.start_timeout
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            reason = f"{self._program_path} is not ready after {seconds:g} s; see --start-timeout"
            raise StartupError(reason) from None

    @property
    def is_running(self) -> bool:
        return self._server is not None and not self._server.ended

    async def check(self) -> str | None:
        try:
            await self._ask_version()
        except (Error, TimeoutError) as error:
            return f"it does not accept SQL: {error!r}"
        return None

    async def wait(self) -> None:
        assert self._server is not None
        code = await self._server.wait()
        raise StartupError(f"{self._server.name} has ended (code {code}):\n{self._server.tail}")

    async def stop(self, grace: float) -> None:
        if self._server is not None:
            await self._server.stop(grace)

    async def recovered(self) -> int:
        """The number of the last transaction that a Galera node which crashed still has. Raises StartupError."""
        async with self._in_time():
            program = await Program.start(
                [*self._arguments(self.part), "--wsrep-recover"], user=self._user, directory=self.data
            )
            try:
                await program.wait()
            finally:
                await program.stop(0)
        found = re.search(r"Recovered position: [^:]*:(-?\d+)", program.tail)
        if found is None:
            raise StartupError(f"{self.data}: it does not say how far it has got:\n{program.tail}")
        return int(found[1])

    async def _install(self) -> None:
        unfinished = await self._begun()
        await self._make(self._install_arguments(unfinished), unfinished)

    async def _begun(self) -> Path:
        """A data directory under another name, until it is whole."""
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._own(unfinished)
        return unfinished

    async def _make(self, command: Sequence[str], unfinished: Path) -> None:
        maker = await Program.start(command, user=self._user, directory=unfinished)
        try:
            code = await maker.wait()
        finally:
            await maker.stop(0)
        if code != 0:
            raise StartupError(f"{maker.name} failed (code {code}) in {unfinished}:\n{maker.tail}")
        os.rename(unfinished, self.data)

    def _install_arguments(self, path: Path) -> Sequence[str]:
        if not self._is_mariadb:
            return (self._program_path, "--no-defaults", "--initialize-insecure", f"--datadir={path}")
        script = find("mariadb-install-db")
        if script is None:
            raise StartupError("mariadb-install-db is not installed; on Debian: apt install mariadb-server")
        return (
            script,
            "--no-defaults",
            f"--datadir={path}",
            f"--tmpdir={path}",  # in /tmp another server that starts would remove our temporary tables
            "--auth-root-authentication-method=socket",
            f"--auth-root-socket-user={self._user or pwd.getpwuid(os.geteuid()).pw_name}",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=8M",
        )

    def _arguments(self, part: Part) -> list[str]:
        return [
            self._program_path,
            "--no-defaults",
            f"--datadir={self.data}",
            "--socket=server.sock",  # in the data directory; a whole path may be too long for a socket
            f"--pid-file={self.data / 'server.pid'}",
            f"--tmpdir={self.data}",
            f"--bind-address={self.endpoint.host}",
            f"--port={self.endpoint.port}",
            *self._tls(),
            *part.arguments,
            *_SMALL,
            *(_SMALL_MARIADB if self._is_mariadb else ("--mysqlx=OFF",)),
            *(() if self._directory.keep else _THROW_AWAY),
        ]

    def _tls(self) -> list[str]:
        """The files as copies that the server's user can read."""
        arguments = []
        for option, path in (("ssl-cert", self._settings.ssl_cert), ("ssl-key", self._settings.ssl_key)):
            if path is not None:
                try:
                    text = path.read_text()
                except OSError as error:
                    raise StartupError(f"--{option} {path}: {error.strerror}") from None
                arguments.append(f"--{option}={self._write(self.data / f'{option}.pem', text)}")
        return arguments

    def _init_statements(self, part: Part) -> str:
        """One statement a line, as an init-file wants it."""
        settings = self._settings
        user, password = f"'{settings.user}'@'%'", _quoted(self._password)
        pattern = settings.database.replace("_", r"\_")  # in a GRANT, _ stands for any character
        statements = [
            *part.before,
            f"CREATE DATABASE IF NOT EXISTS `{settings.database}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            f"CREATE USER IF NOT EXISTS {user}",
            f"ALTER USER {user} IDENTIFIED BY {password}",
            f"GRANT {RIGHTS} ON `{pattern}`.* TO {user}",
            *part.statements,
        ]
        if not self._is_mariadb:
            statements.append(f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{secrets.token_hex()}'")
        return "".join(f"{statement};\n" for statement in statements)

    async def _until_it_accepts(self) -> str:
        assert self._server is not None
        while not self._server.ended:
            try:
                return await self._ask_version()
            except (Error, TimeoutError):
                await asyncio.sleep(POLL_SECONDS)
        code = await self._server.wait()
        raise StartupError(f"{self._server.name} did not start (code {code}):\n{self._server.tail}")

    async def _ask_version(self) -> str:
        ((version,),) = await self.ask("SELECT VERSION()")
        return str(version).partition("-")[0]

    async def ask(self, query: str) -> Sequence[tuple[object, ...]]:
        """As the application's user. Raises pymysql's Error, TimeoutError."""
        settings = self._settings
        async with asyncio.timeout(LOGIN_SECONDS):
            connection = await aiomysql.connect(
                host=reachable(self.endpoint.host),
                port=self.endpoint.port,
                user=settings.user,
                password=self._password.encode().decode("latin1"),  # aiomysql encodes it as latin1
                db=settings.database,
            )
            try:
                async with connection.cursor() as cursor:
                    await cursor.execute(query)
                    rows: Sequence[tuple[object, ...]] = await cursor.fetchall()
                await connection.ensure_closed()
            finally:
                connection.close()
        return rows

    def _write(self, path: Path, text: str) -> Path:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        self._own(path)
        return path

    def _own(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, self._user)


def reachable(host: str) -> str:
    """Where one is found that listens there: everywhere is not an address to connect to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def socket_beside(first: Endpoint, number: int, option: str) -> socket.socket:
    """That of a further server: so many ports after the first one's, or at any."""
    return listening(Endpoint(first.host, first.port + number if first.port else 0), option)


def _somebody_else(data: Path) -> str:
    """Whom a server that is started by root runs as."""
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return pwd.getpwuid(owner).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("mysql", "nobody") if name in known), "nobody")


def _quoted(text: str) -> str:
    """A string literal of MySQL's, on one line."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"
