"""A conversation with a MySQL or MariaDB server, as short as it can be: handshake, login, perhaps a question, QUIT.

Why a tcp check will not do: the server counts connections that end before a login as errors of the host, and after
max_connect_errors (100) of them refuses that host altogether. So the check logs in, as HAProxy's `option
mysql-check user` does: with a user that has no password and no rights, which is made like this:

    CREATE USER 'haproxy'@'10.0.0.%';

Further questions need no rights either: is the node part of a Galera cluster and in sync (wsrep_ready), and does it
take writes (read_only)?

Packets are a length of 3 bytes, a number, and a payload (MySQL's "Client/Server Protocol"). Whatever does not
look like one is Malformed; what the server refuses in its own words is Denied.
"""

from __future__ import annotations

import asyncio
import socket
from struct import Struct

MAX_PACKET_BYTES = 65_535
"""Far more than any answer to these questions."""
MAX_PACKETS = 32
"""Of one answer: two columns and a row take six."""

_LOGIN = Struct("<IIB23x")
_CAPABILITIES = 0x0000_0001 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000
"""CLIENT_LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH."""
_UTF8 = 33
_OK, _SWITCH, _EOF, _ERROR = 0x00, 0xFE, 0xFE, 0xFF
_QUIT, _QUERY = b"\x01", b"\x03"


class Malformed(ValueError):
    """It does not speak this protocol, or ended in the middle of it."""


class Denied(Exception):
    """The server's own error, with its number: "1045 Access denied for user …"."""


class Conversation:
    """Over a connected, non-blocking socket, which stays the caller's.

    Every call can raise Malformed, Denied and OSError.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._number = 0

    async def log_in(self, user: str) -> str:
        """Without a password. The server's version."""
        greeting = await self._packet()
        if greeting[:1] != b"\x0a" or b"\0" not in greeting:
            raise Malformed(f"not a MySQL greeting: {greeting[:20]!r}")
        version = greeting[1 : greeting.index(b"\0")].decode("latin-1")
        login = _LOGIN.pack(_CAPABILITIES, MAX_PACKET_BYTES, _UTF8) + user.encode() + b"\0"
        await self._send(login + b"\0" + b"mysql_native_password\0")  # an answer of no bytes: no password
        answer = await self._packet()
        if answer[0] == _SWITCH:  # to another way, in which no password is no bytes, too
            await self._send(b"")
            answer = await self._packet()
        if answer[0] != _OK:
            raise Malformed(f"not an answer to a login: {answer[:20]!r}")
        return version

    async def ask(self, query: str) -> list[str]:
        """The columns of the first row of the result; none: it has no rows."""
        self._number = 0
        await self._send(_QUERY + query.encode())
        row: list[str] = []
        ends = 0
        await self._packet()  # how many columns
        for _ in range(MAX_PACKETS):
            packet = await self._packet()
            if packet[0] == _EOF and len(packet) < 9:
                ends += 1
                if ends == 2:  # of the columns, of the rows
                    return row
            elif ends == 1 and not row:
                row = _texts(packet)
        raise Malformed(f"more than {MAX_PACKETS} packets in answer to {query!r}")

    async def quit(self) -> None:
        """Take leave, which makes the server close in order."""
        self._number = 0
        await self._send(_QUIT)

    async def _send(self, payload: bytes) -> None:
        header = len(payload).to_bytes(3, "little") + bytes([self._number])
        self._number = (self._number + 1) & 0xFF
        await self._loop.sock_sendall(self._socket, header + payload)

    async def _packet(self) -> bytes:
        """The next packet's payload, of at least a byte."""
        header = await self._exactly(4)
        length = int.from_bytes(header[:3], "little")
        if not 0 < length <= MAX_PACKET_BYTES:
            raise Malformed(f"not a MySQL packet: {header!r}")
        payload = await self._exactly(length)
        self._number = (header[3] + 1) & 0xFF
        if payload[0] == _ERROR:
            raise Denied(_error(payload))
        return payload

    async def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            more = await self._loop.sock_recv(self._socket, MAX_PACKET_BYTES)
            if not more:
                raise Malformed(f"closed after {len(self._received)} of {count} bytes")
            self._received += more
        taken, self._received = self._received[:count], self._received[count:]
        return taken


def _error(payload: bytes) -> str:
    """0xFF, number, and since 4.1 `#` with five characters, text."""
    number, text = int.from_bytes(payload[1:3], "little"), payload[3:]
    if text[:1] == b"#":
        text = text[6:]
    return f"{number} {text.decode(errors='replace')}"


def _texts(row: bytes) -> list[str]:
    texts, at = [], 0
    while at < len(row):
        length = row[at]
        if length == 251:  # NULL
            length = 0
        elif length > 251 or at + 1 + length > len(row):
            raise Malformed(f"not a row: {row[:20]!r}")
        texts.append(row[at + 1 : at + 1 + length].decode(errors="replace"))
        at += 1 + length
    return texts
