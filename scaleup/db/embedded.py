"""The embedded engine: MySQL's protocol (mysql-mimic) in front of SQLite, for trying things out.

    client ── TCP ── MysqlStream ── _Connection (protocol) ── a thread ── sqlite.Connection

It accepts one user and one database. What it cannot do as MySQL would, it refuses with error 1235.

What mysql-mimic 3.0.5 leaves to us, each with a test:
- a client whose password was refused could go on all the same: here the connection ends;
- rows affected, ids made and the state of the transaction were not reported;
- a packet's header that arrives in two parts broke the connection; packets had no limit in size, and
  logging in none in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import socket
import sqlite3
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mysql_mimic.auth import IdentityProvider, NativePasswordAuthPlugin, User
from mysql_mimic.connection import Connection
from mysql_mimic.control import LocalControl
from mysql_mimic.errors import MysqlError
from mysql_mimic.packets import parse_com_query
from mysql_mimic.results import ResultColumn, ResultSet, infer_type
from mysql_mimic.session import BaseSession
from mysql_mimic.stream import ConnectionClosed, MysqlStream
from mysql_mimic.types import ColumnType, ServerStatus
from mysql_mimic.variables import SYSTEM_VARIABLES, GlobalVariables, SessionVariables

from scaleup.db import sqlerror, sqlite
from scaleup.db.locks import Locks
from scaleup.db.sqlerror import SqlError, refused
from scaleup.errors import StartupError

log = logging.getLogger(__name__)
logging.getLogger("mysql_mimic").setLevel(logging.WARNING)  # it tells of every connection
logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of what we refuse anyway

MAX_CONNECTIONS = 200
MAX_PACKET_BYTES = 1024 * 1024
LOGIN_SECONDS = 10.0
"""How long a client may take to log in (MySQL's connect_timeout)."""


_GARBAGE = (ValueError, LookupError, AssertionError, struct.error, MysqlError)
"""What mysql-mimic raises about a greeting that is not MySQL's."""


class _Reader(asyncio.StreamReader):
    """Reads as mysql-mimic believes that asyncio does, and not without limit."""

    async def read(self, n: int = -1) -> bytes:
        """Exactly `n` bytes, or none at the end: mysql-mimic asks for a header's four."""
        try:
            return await self.readexactly(n)
        except asyncio.IncompleteReadError:
            return b""

    async def readexactly(self, n: int) -> bytes:
        if n > MAX_PACKET_BYTES:
            raise ConnectionClosed(f"a packet of {n} bytes")
        return await super().readexactly(n)


class _OneUser(IdentityProvider):  # type: ignore[misc] # mysql-mimic has no types
    """Unknown users have a password that nobody knows, so that they are told what the known one would be."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password

    async def get_user(self, username: str) -> User:
        password = self._password if username == self._user else secrets.token_hex()
        stored = NativePasswordAuthPlugin.create_auth_string(password) if password else None
        return User(name=username, auth_string=stored, auth_plugin=NativePasswordAuthPlugin.name)


class _Session(BaseSession):  # type: ignore[misc]
    """What mysql-mimic wants to remember of a connection."""

    def __init__(self) -> None:
        schema = SYSTEM_VARIABLES | {"version": (str, sqlite.VERSION, False)}
        self.variables = SessionVariables(GlobalVariables(schema))
        self.username: str | None = None
        self.database: str | None = None


class _Connection(Connection):  # type: ignore[misc]
    """One client."""

    def __init__(self, engine: EmbeddedEngine, stream: MysqlStream, number: int) -> None:
        super().__init__(stream, _Session(), LocalControl(), _OneUser(engine.user, engine.password))
        self.connection_id = number
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"connection {number}")
        self._sqlite: sqlite.Connection | None = None

    async def serve(self) -> None:
        """From the greeting to the end."""
        self.status_flags = ServerStatus.SERVER_STATUS_AUTOCOMMIT
        async with asyncio.timeout(LOGIN_SECONDS):
            await self.connection_phase()
        self._sqlite = await self._do(self._engine.connect, self.connection_id)
        await self.command_phase()

    async def authenticate(self, *args: Any, **kwargs: Any) -> None:
        if not self._is_ours(self.session.database):
            await self._refuse(self._unknown_database())
            raise ConnectionClosed
        await super().authenticate(*args, **kwargs)
        if self.session.username is None:  # mysql-mimic has told the client, and would go on
            raise ConnectionClosed

    async def close(self) -> None:
        """Roll back, release the locks, end the thread."""
        if self._sqlite is not None:
            self._engine.locks.interrupt(self._sqlite)
            await self._do(self._sqlite.close)
        self._thread.shutdown(wait=False)

    async def handle_query(self, data: bytes) -> None:
        text = parse_com_query(self.capabilities, self.client_charset, data).sql
        assert self._sqlite is not None
        try:
            result = await self._do(self._sqlite.execute, text)
        except SqlError as error:
            await self._refuse(error)
            return
        self._set_status()
        if result.columns:
            await self.write_text_resultset(_result_set(result))
        else:
            await self.stream.write(self.ok(affected_rows=result.affected, last_insert_id=result.last_id))

    async def handle_reset_connection(self, data: bytes) -> None:
        assert self._sqlite is not None
        await self._do(self._sqlite.reset)
        self._set_status()
        await self.stream.write(self.ok())

    async def handle_init_db(self, data: bytes) -> None:
        if self._is_ours(self.client_charset.decode(data)):
            await self.stream.write(self.ok())
        else:
            await self._refuse(self._unknown_database())

    async def handle_stmt_prepare(self, data: bytes) -> None:
        await self._refuse(refused("prepared statements"))

    async def handle_change_user(self, data: bytes) -> None:
        await self._refuse(refused("a change of the user"))

    async def handle_field_list(self, data: bytes) -> None:
        await self._refuse(refused("COM_FIELD_LIST"))

    async def _do(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _refuse(self, error: SqlError) -> None:
        await self.stream.write(error.packet())

    def _is_ours(self, database: str | None) -> bool:
        return not database or database == self._engine.database

    def _unknown_database(self) -> SqlError:
        return SqlError(sqlerror.UNKNOWN_DATABASE, f"Unknown database; there is {self._engine.database!r}")

    def _set_status(self) -> None:
        assert self._sqlite is not None
        self.status_flags = ServerStatus(0)
        if self._sqlite.autocommit:
            self.status_flags |= ServerStatus.SERVER_STATUS_AUTOCOMMIT
        if self._sqlite.in_transaction:
            self.status_flags |= ServerStatus.SERVER_STATUS_IN_TRANS


def _result_set(result: sqlite.Result) -> ResultSet:
    """A column has the type of its first value that is not NULL, since a row of SQLite has no other."""
    columns = []
    for index, name in enumerate(result.columns):
        value = next((row[index] for row in result.rows if row[index] is not None), None)
        columns.append(ResultColumn(name, ColumnType.NULL if value is None else infer_type(value)))
    return ResultSet(result.rows, columns)


class EmbeddedEngine:
    """The server; its methods are explained in __main__.Engine.

    `path`: where the data are. `durable`: whether they are to survive a loss of power.
    """

    def __init__(self, path: Path, *, database: str, user: str, password: str, durable: bool) -> None:
        self.database, self.user, self.password = database, user, password
        self.locks = Locks()
        self._path, self._durable = path, durable
        self._numbers = itertools.count(1)
        self._clients: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> str:
        try:
            sqlite.prepare(self._path)
        except sqlite3.Error as error:
            sock.close()
            raise StartupError(f"{self._path}: {error}") from None
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_Reader(limit=MAX_PACKET_BYTES), self._serve)

        self._server = await loop.create_server(protocol, sock=sock)
        return f"SQLite {sqlite3.sqlite_version}, for trials"

    async def check(self) -> str | None:
        return None

    async def wait(self) -> None:
        await asyncio.Event().wait()  # it ends with us

    def connect(self, number: int) -> sqlite.Connection:
        """A connection to SQLite for the thread that asks."""
        return sqlite.Connection(
            self._path, self.locks, number=number, database=self.database, durable=self._durable
        )

    async def stop(self, grace: float) -> None:
        """What is not committed is rolled back. `grace` is not needed: no statement takes long."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CONNECTIONS:
            packet = SqlError(sqlerror.TOO_MANY_CONNECTIONS, "Too many connections").packet()
            writer.write(len(packet).to_bytes(3, "little") + b"\0" + packet)
            writer.close()
            return
        self._clients.add(task)
        connection = _Connection(self, MysqlStream(reader, writer), next(self._numbers))
        try:
            await connection.serve()
        except (ConnectionClosed, OSError, EOFError, *_GARBAGE) as error:
            log.debug("connection %d ended: %r", connection.connection_id, error)
        except sqlite3.Error as error:
            log.warning("connection %d: %s", connection.connection_id, error)
        finally:
            writer.close()
            with contextlib.suppress(asyncio.CancelledError):
                await connection.close()
            self._clients.discard(task)
