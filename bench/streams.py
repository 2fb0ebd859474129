"""The TCP proxy that asyncio's documentation leads to: two StreamReaders, two loops, on uvloop. A peer, not a
part.

    python -m bench.streams --listen HOST:PORT --server HOST:PORT [--workers N]

It is what people write first, made correct (half-close, a time-out of the connect, resets) but not fast. No
health checks, no counters: what those would cost comes on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket

import uvloop

from bench.flags import described, host_and_port

CHUNK_BYTES = 64 * 1024
CONNECT_SECONDS = 5.0
BACKLOG = 4096


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of `reader`, which is passed on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def serve(listeners: list[socket.socket], servers: list[tuple[str, int]]) -> None:
    turn = itertools.cycle(servers)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                server_reader, server_writer = await asyncio.open_connection(*next(turn))
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, server_writer))
                group.create_task(copy(server_reader, writer))
        except* OSError:
            writer.transport.abort()  # reset on one side resets the other
            server_writer.transport.abort()
        finally:
            writer.close()
            server_writer.close()

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        for listener in listeners:
            server = await asyncio.start_server(relay, sock=listener, backlog=BACKLOG)
            stack.callback(server.close)
        await stop.wait()


def listening(host: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--listen", type=host_and_port, action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--server", type=host_and_port, action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    children: list[int] = []
    for _ in range(arguments.workers - 1):
        if (pid := os.fork()) == 0:
            children = []
            break
        children.append(pid)
    try:
        uvloop.run(serve([listening(*address) for address in arguments.listen], arguments.server))
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
