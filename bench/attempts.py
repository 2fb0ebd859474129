"""A client that tries to connect every millisecond, whatever came of the attempts before.

    python -m bench.attempts HOST:PORT

An attempt is answered when the server's first byte has come within 0.5 s of its start; TCP itself would ask again
after 1 s, which would hide the gap behind its own timer. It says "answered" when the first one was. It goes on
until the end of its input. Then it says as JSON the start of its last attempt, and the outages that it saw: the
start of the first attempt that was not answered, and of the first answered one after it (null: none); wall clock,
nanoseconds. So a gap does not depend on how long a client waits: during it, one that comes is not served.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.flags import described, host_and_port

EVERY_SECONDS = 0.001
ANSWER_SECONDS = 0.5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: no port is left in TIME_WAIT
IN_PROGRESS = 115

Outage = tuple[int, int | None]


@dataclass
class Attempt:
    """One attempt; `answered` None: not yet known."""

    ns: int
    started: float
    sock: socket.socket = field(default_factory=socket.socket)
    answered: bool | None = None


def outages(outcomes: Iterable[tuple[int, bool]]) -> list[Outage]:
    """Runs of attempts that were not answered: (start of the first, start of the next answered one)."""
    found: list[Outage] = []
    first: int | None = None
    for ns, answered in outcomes:
        if not answered and first is None:
            first = ns
        elif answered and first is not None:
            found.append((first, ns))
            first = None
    if first is not None:
        found.append((first, None))
    return found


class Client:
    """Attempts in the order of their starts; those that have been judged are in `outcomes`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.outcomes: list[tuple[int, bool]] = []
        self._told = False
        self._address = address
        self._poll = select.epoll()
        self._open: dict[int, Attempt] = {}
        self._order: deque[Attempt] = deque()

    def run(self) -> None:
        """Until standard input ends; then until the last attempt is judged."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        due, ending = time.monotonic(), False
        while self._order or not ending:
            now = time.monotonic()
            while not ending and due <= now:
                self._attempt(now)
                due += EVERY_SECONDS
            self._judge(now)
            select.select(
                [self._poll.fileno()], [], [], max(0.0, due - time.monotonic()) if not ending else 0.01
            )
            for descriptor, _ in self._poll.poll(0):
                if descriptor == sys.stdin.fileno():
                    ending = True
                    self._poll.unregister(descriptor)
                else:
                    self._read(self._open[descriptor])

    def _attempt(self, now: float) -> None:
        attempt = Attempt(time.time_ns(), now)
        attempt.sock.setblocking(False)
        attempt.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._order.append(attempt)
        if attempt.sock.connect_ex(self._address) == IN_PROGRESS:
            self._open[attempt.sock.fileno()] = attempt
            self._poll.register(attempt.sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        else:
            self._end(attempt, answered=False)

    def _read(self, attempt: Attempt) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = attempt.sock.recv(1)
        if data and not self._told:
            self._told = True
            print("answered", flush=True)
        self._end(attempt, answered=bool(data))

    def _judge(self, now: float) -> None:
        while self._order:
            first = self._order[0]
            if first.answered is None:
                if now - first.started < ANSWER_SECONDS:
                    return
                self._end(first, answered=False)
            self.outcomes.append((first.ns, bool(first.answered)))
            self._order.popleft()

    def _end(self, attempt: Attempt, answered: bool) -> None:
        attempt.answered = answered
        self._open.pop(attempt.sock.fileno(), None)
        attempt.sock.close()  # which takes it out of the epoll


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("address", type=host_and_port, metavar="HOST:PORT")
    client = Client(parser.parse_args().address)
    client.run()
    outcomes = client.outcomes
    last = outcomes[-1][0] if outcomes else None
    said = {"attempts": len(outcomes), "last": last, "outages": outages(outcomes)}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
