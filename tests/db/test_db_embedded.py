"""The embedded engine's protocol: what mysql-mimic leaves to us, and clients that misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pymysql
import pytest
from database_servers import DatabaseServer
from pymysql._auth import scramble_native_password

from scaleup.db.embedded import MAX_CONNECTIONS, MAX_PACKET_BYTES

COM_QUERY, COM_RESET_CONNECTION, COM_STMT_PREPARE, COM_FIELD_LIST, COM_PING = 3, 0x1F, 0x16, 4, 14
PROTOCOL_41_SECURE_PLUGIN = 0x200 | 0x8000 | 0x80000


class Wire:
    """The protocol by hand."""

    def __init__(self, server: DatabaseServer) -> None:
        self.socket = socket.create_connection((server.endpoint.host, server.endpoint.port), timeout=20)
        self.file = self.socket.makefile("rb")

    def read(self) -> bytes:
        """A packet, or nothing at the end."""
        header = self.file.read(4)
        return self.file.read(int.from_bytes(header[:3], "little")) if len(header) == 4 else b""

    def write(self, number: int, payload: bytes) -> None:
        self.socket.sendall(len(payload).to_bytes(3, "little") + bytes([number]) + payload)

    def log_in(self, user: str, password: bytes) -> bytes:
        greeting = self.read()
        version_end = greeting.index(b"\0", 1)
        salt = greeting[version_end + 5 : version_end + 13] + greeting[version_end + 32 : version_end + 44]
        scramble = scramble_native_password(password, salt)
        head = struct.pack("<IIB23x", PROTOCOL_41_SECURE_PLUGIN, 1 << 24, 45)
        answer = head + user.encode() + b"\0" + bytes([len(scramble)]) + scramble + b"mysql_native_password\0"
        self.write(1, answer)
        return self.read()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def wire(embedded: DatabaseServer) -> Iterator[Wire]:
    wire = Wire(embedded)
    yield wire
    wire.close()


def test_a_refused_client_cannot_go_on(wire: Wire) -> None:
    """With mysql-mimic alone, who ignores the refusal is let in."""
    assert wire.log_in("scaleup", b"wrong")[:3] == b"\xff" + struct.pack("<H", 1045)
    with contextlib.suppress(ConnectionError):
        wire.write(0, bytes([COM_QUERY]) + b"SELECT 1")
        assert wire.read() == b""


def test_an_unknown_user_is_told_what_a_known_one_is(embedded: DatabaseServer) -> None:
    answers = []
    for user in ("scaleup", "nosuch"):
        wire = Wire(embedded)
        answers.append(wire.log_in(user, b"wrong").replace(user.encode(), b"USER"))
        wire.close()
    assert answers[0] == answers[1]


def test_a_packet_may_arrive_byte_by_byte(wire: Wire) -> None:
    from database_servers import PASSWORD

    assert wire.log_in("scaleup", PASSWORD.encode())[:1] == b"\0"
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in (1).to_bytes(3, "little") + b"\0" + bytes([COM_PING]):
        wire.socket.sendall(bytes([byte]))
    assert wire.read()[:1] == b"\0"


def test_a_packet_that_is_too_long_ends_the_connection(wire: Wire) -> None:
    from database_servers import PASSWORD

    wire.log_in("scaleup", PASSWORD.encode())
    wire.socket.sendall((MAX_PACKET_BYTES + 1).to_bytes(3, "little") + b"\0")
    assert wire.read() == b""


@pytest.mark.parametrize(
    "greeting", [b"GET / HTTP/1.1\r\n\r\n", b"\1\0\0\1\0", b"\x20\0\0\1" + b"\xff" * 32, b"\0\0\0\1"]
)
def test_a_client_that_does_not_speak_mysql(embedded: DatabaseServer, greeting: bytes) -> None:
    wire = Wire(embedded)
    wire.read()
    wire.socket.sendall(greeting)
    wire.socket.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while wire.read():
            pass
    wire.close()
    assert embedded.execute("SELECT 1") == ((1,),)


@pytest.mark.parametrize("command", [COM_STMT_PREPARE, COM_FIELD_LIST])
def test_commands_that_are_refused(embedded: DatabaseServer, command: int) -> None:
    with embedded.connection() as connection:
        connection._execute_command(command, "SELECT ?")
        with pytest.raises(pymysql.err.NotSupportedError) as caught:
            connection._read_packet()
        assert caught.value.args[0] == 1235
        connection.ping(reconnect=False)  # it goes on


def test_resetting_a_connection(embedded: DatabaseServer) -> None:
    embedded.execute("CREATE TABLE links (id INT NOT NULL PRIMARY KEY)")
    with embedded.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('l', 0)")
        connection.autocommit(False)
        cursor.execute("INSERT INTO links (id) VALUES (1)")
        connection._execute_command(COM_RESET_CONNECTION, b"")
        connection._read_ok_packet()
        assert connection.get_autocommit()
        assert embedded.execute("SELECT GET_LOCK('l', 0)") == ((1,),)
        assert embedded.execute("SELECT COUNT(*) FROM links") == ((0,),)


def test_connections_have_a_limit(embedded: DatabaseServer) -> None:
    deadline = time.monotonic() + 20
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            while True:
                wire = Wire(embedded)
                stack.callback(wire.close)
                if wire.read()[:1] == b"\x0a":
                    break
                assert time.monotonic() < deadline, "fewer than there may be"  # or one of before goes late
        with pytest.raises(pymysql.err.OperationalError) as caught:
            embedded.execute("SELECT 1")
        assert caught.value.args[0] == 1040
    deadline = time.monotonic() + 20
    while True:  # until it has seen them go
        with contextlib.suppress(pymysql.err.OperationalError):
            embedded.execute("SELECT 1")
            return
        assert time.monotonic() < deadline, "the connections were not given back"


def test_an_open_transaction_does_not_stop_writers_for_ever(
    embedded: DatabaseServer, request: pytest.FixtureRequest
) -> None:
    embedded.execute("CREATE TABLE links (id INT NOT NULL PRIMARY KEY)")
    with embedded.connection() as connection, connection.cursor() as cursor:
        connection.begin()
        cursor.execute("INSERT INTO links (id) VALUES (1)")
        assert embedded.execute("SELECT COUNT(*) FROM links") == ((0,),)  # readers never wait
    embedded.execute("INSERT INTO links (id) VALUES (1)")


def test_several_statements_at_once_are_refused(embedded: DatabaseServer) -> None:
    with pytest.raises(pymysql.err.NotSupportedError):
        embedded.execute("SELECT 1; SELECT 2")
