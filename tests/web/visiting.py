"""Clients that ask at a fixed rate whether or not they are answered, on connections that are kept.

A request has failed when it has no complete response within its time; a GET is asked once more when its connection
was closed before the first byte of a response came, as browsers and proxies do (RFC 9110 §9.2.2), a POST never.
What is answered is read strictly: a body that is shorter than was said is no complete one.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from web.outside import Address, Answer, answers

REQUEST_SECONDS = 10.0
PIECE_BYTES = 65536

IDEMPOTENT = ("GET", "HEAD")


@dataclass(frozen=True)
class Ask:
    """What to ask. `expected`: the body of a good answer; None: any."""

    method: str
    path: str
    body: bytes = b""
    expected: bytes | None = None
    good: tuple[int, ...] = (200,)

    @property
    def request(self) -> bytes:
        length = f"Content-Length: {len(self.body)}\r\n" if self.method == "POST" else ""
        return f"{self.method} {self.path} HTTP/1.1\r\nHost: site.test\r\n{length}\r\n".encode() + self.body


@dataclass
class Attempt:
    """`answer` is None when there is none at all; `error` says why."""

    ask: Ask
    began: float  # of the loop's clock
    seconds: float = 0.0
    answer: Answer | None = None
    error: str = ""
    retried: bool = False

    @property
    def ok(self) -> bool:
        return self.answer is not None and self.answer.is_complete and self.answer.status in self.ask.good

    @property
    def lied(self) -> bool:
        """A good and complete answer whose content is another's, or a part of what it should be."""
        return self.ok and self.ask.expected is not None and self.answer.body != self.ask.expected

    def __str__(self) -> str:
        what = self.error or (f"{self.answer.status}" if self.answer else "nothing")
        if self.answer and not self.answer.is_complete:
            what += f" cut off after {len(self.answer.body)}"
        return f"{self.ask.method} {self.ask.path}: {what} in {self.seconds:.3f} s"


class Closed(Exception):
    """Before the first byte of a response."""


class Connection:
    """Kept as long as both sides say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.asked = 0

    async def ask(self, ask: Ask) -> tuple[Answer, bool]:
        """The answer, and whether the connection can be used again. Raises Closed, OSError and ValueError."""
        received = b""
        self.asked += 1
        try:
            self._writer.write(ask.request)
            while not _is_whole(received, ask.method):
                data = await self._reader.read(PIECE_BYTES)
                if not data:
                    break
                received += data
        except ConnectionError:
            if received:
                return _cut_off(received, ask.method), False
            raise Closed from None
        if not received:
            raise Closed
        if not _is_whole(received, ask.method):
            return _cut_off(received, ask.method), False
        answer = answers(received, ask.method)[0]
        return answer, answer.value("connection").lower() != "close"

    def close(self) -> None:
        self._writer.close()


def _is_whole(received: bytes, method: str) -> bool:
    """By its framing; an answer that only its end ends is never whole before."""
    head, separator, _ = received.partition(b"\r\n\r\n")
    if not separator or (b"\r\ncontent-length:" not in head.lower() and b"\r\ntransfer-" not in head.lower()):
        return False
    found = answers(received, method)
    return bool(found) and found[0].is_complete


def _cut_off(received: bytes, method: str) -> Answer:
    """What a client makes of an answer whose connection has ended: without a length that is its end."""
    if b"\r\n\r\n" not in received:
        return Answer(0, is_complete=False)
    return answers(received, method)[0]


class Visitors:
    """`async with Visitors(address, rate, plan) as visitors:` asks `plan(number)` all the while.

    They take turns on so many connections at least, with `each` requests on one (0: as many as it can have).
    `context`: they come by TLS.
    """

    def __init__(
        self,
        address: Address,
        rate: float,
        plan: Callable[[int], Ask],
        connections: int = 1,
        each: int = 0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._address, self._rate, self._plan = address, rate, plan
        self._least, self._each = connections, each
        self._tls = {} if context is None else {"ssl": context, "server_hostname": "site.test"}
        self._open = 0
        self._idle: deque[Connection] = deque()
        self.attempts: list[Attempt] = []

    async def __aenter__(self) -> Visitors:
        self._loop = asyncio.get_running_loop()
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._clock = self._group.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Asks no more; those under way are waited for."""
        self._clock.cancel()
        await self._group.__aexit__(None, None, None)
        for connection in self._idle:
            connection.close()

    @property
    def now(self) -> float:
        return self._loop.time()

    def between(self, first: float, last: float) -> list[Attempt]:
        """Those that began then, in order."""
        return sorted((a for a in self.attempts if first <= a.began < last), key=lambda a: a.began)

    async def _run(self) -> None:
        began = self.now
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / self._rate - self.now))
            self._group.create_task(self._attempt(self._plan(number)))

    async def _attempt(self, ask: Ask) -> None:
        attempt = Attempt(ask, self.now)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                try:
                    attempt.answer = await self._once(ask)
                except Closed:
                    if ask.method not in IDEMPOTENT:
                        raise
                    attempt.retried = True
                    attempt.answer = await self._once(ask, fresh=True)
        except (OSError, ValueError, Closed) as error:  # TimeoutError is an OSError
            attempt.error = repr(error)
        attempt.seconds = self.now - attempt.began
        self.attempts.append(attempt)

    async def _once(self, ask: Ask, fresh: bool = False) -> Answer:
        """`fresh`: on a new connection, as those that wait may have been closed with the one that was."""
        if self._idle and not fresh and self._open >= self._least:
            connection = self._idle.popleft()
        else:
            try:
                connection = Connection(*await asyncio.open_connection(*self._address, **self._tls))
            except ConnectionResetError:  # it stood, and was closed before the loop looked at it
                raise Closed from None
            self._open += 1
        is_kept = False
        try:
            answer, is_kept = await connection.ask(ask)
        finally:
            if is_kept and connection.asked != self._each:
                self._idle.append(connection)
            else:
                self._open -= 1
                connection.close()
        return answer


def longest_gap(attempts: list[Attempt]) -> float:
    """The longest time in which no request that was asked came to a good end, seconds."""
    ends = sorted(a.began + a.seconds for a in attempts if a.ok)
    return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=float("inf"))


def percentile(attempts: list[Attempt], percent: float) -> float:
    """Of their seconds; by nearest rank."""
    seconds = sorted(a.seconds for a in attempts)
    return seconds[min(len(seconds) - 1, int(len(seconds) * percent / 100))]
