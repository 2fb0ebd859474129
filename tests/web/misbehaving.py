"""An application server of few words that misbehaves on order; a process, so that it can be killed and stopped.

    python tests/web/misbehaving.py NAME PORT

It prints its port once it listens. A line of input is an order, which it repeats when it is followed: one of
BEHAVIOURS, or `posts`, which is answered with how often each POST came, as JSON. `GET /api/ID` has a body that ID
determines; /readyz is always fine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections import Counter

BODY_BYTES = 20_000
BEHAVIOURS = ("fine", "silent", "slow", "reset", "short", "chunk", "garbage", "framing")
SLOW_SECONDS = 0.2


def body_of(path: str) -> bytes:
    """No two paths' alike, and no part of it like another."""
    line = path.encode() + b" %05d\n"
    return b"".join(line % number for number in range(BODY_BYTES // len(line) + 1))[:BODY_BYTES]


class Application:
    def __init__(self, name: str) -> None:
        self._name = name
        self._behaviour = "fine"
        self._posts: Counter[str] = Counter()
        self._stopped = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                method, path, _ = head.split("\r\n")[0].split(" ")
                lengths = [line for line in head.split("\r\n") if line.startswith("content-length:")]
                await reader.readexactly(int(lengths[0].partition(":")[2]) if lengths else 0)
                if path == "/readyz":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    break
                if method == "post":
                    self._posts[path] += 1
                await self._answer(writer, method, path)
                await writer.drain()
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, path: str) -> None:
        """Misbehaviour ends the connection, as far as the client can tell."""
        status = b"201 Created" if method == "post" else b"200 OK"
        body, head = body_of(path), b"HTTP/1.1 %b\r\nX-Application: %b\r\n" % (status, self._name.encode())
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        half = len(body) // 2
        match self._behaviour:
            case "fine":
                writer.write(head + body)
            case "silent":
                await self._stopped.wait()
            case "slow":
                await asyncio.sleep(SLOW_SECONDS)
                writer.write(head + body[:half])
                await writer.drain()
                await asyncio.sleep(SLOW_SECONDS)
                writer.write(body[half:])
            case "reset":
                writer.write(head + body[:half])
                await writer.drain()
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                raise ConnectionError
            case "short":
                writer.write(head + body[:half])
                raise ConnectionError
            case "chunk":
                chunked = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
                writer.write(chunked + b"%x\r\n%b\r\n" % (half, body[:half]))
                raise ConnectionError
            case "garbage":
                writer.write(b"\x15\x03\x01\x00\x02\x02\x28 this is not HTTP\r\n\r\n")
                raise ConnectionError
            case "framing":
                writer.write(head.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + body)
                raise ConnectionError

    async def obey(self, orders: asyncio.StreamReader) -> None:
        while line := (await orders.readline()).decode().strip():
            if line == "posts":
                print(json.dumps(self._posts), flush=True)
                continue
            assert line in BEHAVIOURS
            self._behaviour = line
            if line == "fine":
                self._stopped.set()
                self._stopped = asyncio.Event()
            print(line, flush=True)


async def main(name: str, port: int) -> None:
    application = Application(name)
    await asyncio.start_server(application.serve, "127.0.0.1", port, backlog=1000)
    print(port, flush=True)
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    await application.obey(orders)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
