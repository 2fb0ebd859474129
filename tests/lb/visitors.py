"""Clients that ask at a fixed rate until their input ends, and then say what they got, as JSON.

    python tests/lb/visitors.py HOST:PORT --rate 1000 --connections 16 --each 1

Each of them asks in turn, one request at a time, `--each` on a connection (0: all). A request has failed when it
has no complete response within its time, after one retry if its connection was closed before the first byte of a
response: so browsers and proxies treat a GET. A server that closes an idle connection, as it may at any time, costs
such a retry. A connection that is refused is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter
from dataclasses import dataclass, field

import uvloop

REQUEST_SECONDS = 10.0
BODY = b"x" * 1000
REQUEST = b"GET /1000 HTTP/1.1\r\nHost: shop\r\n\r\n"


class Closed(Exception):
    """Before the first byte of a response."""


@dataclass
class Result:
    answered: int = 0
    retried: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By reason."""


class Visitor:
    def __init__(self, address: tuple[str, int], each: int, result: Result) -> None:
        self._address, self._each, self._result = address, each, result
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked = 0  # on this connection

    async def visit(self, first: float, every: float, enough: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due = first
        while not enough.is_set():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += every
            await self._request()
        self._leave()

    async def _request(self) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                try:
                    await self._ask()
                except Closed:
                    self._result.retried += 1
                    self._leave()
                    await self._ask()
        except (OSError, EOFError, Closed) as error:
            self._result.failed[repr(error)] += 1
            self._leave()
        else:
            self._result.answered += 1

    async def _ask(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
            self._asked = 0
        reader, writer = self._streams
        writer.write(REQUEST)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if getattr(error, "partial", b""):
                raise
            raise Closed from error
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert await reader.readexactly(len(BODY)) == BODY
        self._asked += 1
        if self._asked == self._each:
            self._leave()

    def _leave(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def main(arguments: argparse.Namespace) -> None:
    host, _, port = arguments.address.rpartition(":")
    result = Result()
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    loop.add_reader(sys.stdin, enough.set)
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(arguments.connections):
            visitor = Visitor((host, int(port)), arguments.each, result)
            first = began + number / arguments.rate
            group.create_task(visitor.visit(first, arguments.connections / arguments.rate, enough))
    loop.remove_reader(sys.stdin)
    rate = (result.answered + result.failed.total()) / (loop.time() - began)
    print(json.dumps({**vars(result), "rate": rate}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, required=True, help="requests per second, of all together")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--each", type=int, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(parser.parse_args()))
