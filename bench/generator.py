"""Requests over HTTP/1.1: in a closed loop, or at a fixed rate. One thread, epoll; prints its result as JSON.

    python -m bench.generator HOST:PORT [--path /1] [--connections 64] [--seconds 2] [--rate 5000] [--close]

With --wait it connects, asks once on each connection, prints "ready" and waits for a line; it prints its result
before it closes its connections, and closes them when its input ends. So whoever reads CPU clocks at "ready"
and at the result has the requests alone, and several generators can begin at once.

At a fixed rate each request has an intended start, and its latency counts from there. When the other side
stalls, the requests that should have started meanwhile are late, and are seen to be: a generator that waits for
an answer before it goes on would leave them out ("coordinated omission", Gil Tene). In a closed loop every
connection asks again as soon as it is answered, and latency says little.

Not asyncio, because its timers (and uvloop's) are of 1 ms, which is more than most answers take: here select(2)
waits on the epoll descriptor with microseconds.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import cycle

from hdrh.histogram import HdrHistogram

from bench.flags import described, host_and_port

READ_BYTES = 256 * 1024
CONNECT_SECONDS = 5.0
DRAIN_SECONDS = 2.0
"""How long answers that are outstanding at the end are waited for; then they count as errors."""

LONGEST_US = 60_000_000
PERCENTILES = {"p50_us": 50.0, "p99_us": 99.0, "p999_us": 99.9}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class GeneratorError(Exception):
    """The other side cannot be reached, or answers what this generator does not read."""


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    began: float = 0.0  # intended start of the request under way
    received: bytes = b""
    missing: int = -1  # bytes of the answer; -1: its header has not ended
    asked: bool = False


class Generator:
    """`warm_up`, `run` once, `close`. `answered`, `errors` and `histogram` (µs) are the result.

    `path`: or several between spaces, asked for in turn. `rate`: requests per second, None for a closed loop.
    `close`: a connection for each request; it counts when the server has closed it as well. `post`: JSON that each
    request brings; without it they are GETs.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        connections: int,
        rate: float | None,
        close: bool,
        post: str | None = None,
    ) -> None:
        self._address, self._connections, self._rate, self._close = address, connections, rate, close
        header = "Connection: close\r\n" if close else ""
        body = (post or "").encode()
        if post is not None:
            header += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        method = "GET" if post is None else "POST"
        head = f" HTTP/1.1\r\nHost: {address[0]}\r\n{header}\r\n".encode()
        self._requests = cycle([f"{method} {one}".encode() + head + body for one in path.split()])
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._idle: deque[_Connection | None] = deque()  # None: a connection that is to be opened
        self._buffer = bytearray(READ_BYTES)
        self.answered = 0
        self.errors = 0
        self.histogram = HdrHistogram(1, LONGEST_US, 3)

    def close(self) -> None:
        for connection in self._open.values():
            connection.sock.close()
        self._open.clear()
        self._poll.close()

    def warm_up(self) -> None:
        """Connect, and ask once on each connection without counting. Raises GeneratorError."""
        if self._close:
            self._idle.extend([None] * self._connections)
            return
        try:
            for _ in range(self._connections):
                sock = socket.create_connection(self._address, CONNECT_SECONDS)
                sock.setblocking(False)
                self._add(sock, select.EPOLLIN)
        except OSError as error:
            raise GeneratorError(f"{self._address[0]}:{self._address[1]}: {error}") from None
        for connection in self._open.values():
            self._ask(connection, time.perf_counter())
        deadline = time.perf_counter() + CONNECT_SECONDS
        while len(self._idle) < self._connections:
            self._wait(deadline)
            if self.errors or time.perf_counter() > deadline:
                raise GeneratorError(f"{self._address[0]}:{self._address[1]} does not answer")
        self.answered = 0
        self.histogram.reset()

    def run(self, seconds: float) -> None:
        """Ask for so long, after `warm_up`. Raises GeneratorError when an answer cannot be read."""
        if self._rate is None:
            self._run_closed(time.perf_counter() + seconds)
        else:
            self._run_paced(self._rate, round(self._rate * seconds))

    def _run_closed(self, end: float) -> None:
        while (now := time.perf_counter()) < end:
            while self._idle:
                self._begin(self._idle.popleft(), now)
            self._wait(end)

    def _run_paced(self, rate: float, count: int) -> None:
        """`count` requests; those without an answer DRAIN_SECONDS after the last was due are errors."""
        began = time.perf_counter()
        deadline = began + count / rate + DRAIN_SECONDS
        late = deque[float]()  # whose time has come, and no connection was free
        planned = 0
        while (now := time.perf_counter()) < deadline:
            while planned < count and (intended := began + planned / rate) <= now:
                late.append(intended)
                planned += 1
            while late and self._idle:
                self._begin(self._idle.popleft(), late.popleft())
            if planned == count and not late and len(self._idle) == self._connections:
                return
            self._wait(began + planned / rate if planned < count else deadline)
        self.errors += count - planned + len(late) + self._connections - len(self._idle)

    def _add(self, sock: socket.socket, events: int) -> _Connection:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._open[sock.fileno()] = _Connection(sock)
        self._poll.register(sock, events)
        return connection

    def _begin(self, connection: _Connection | None, intended: float) -> None:
        if connection is not None:
            self._ask(connection, intended)
            return
        sock = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect_ex(self._address)  # its outcome comes as an event
        self._add(sock, select.EPOLLOUT).began = intended

    def _ask(self, connection: _Connection, intended: float) -> None:
        connection.began, connection.missing, connection.received = intended, -1, b""
        connection.asked = True
        try:
            connection.sock.send(next(self._requests))
        except OSError:
            self._failed(connection)

    def _wait(self, until: float) -> None:
        if (left := until - time.perf_counter()) > 0:
            select.select([self._poll.fileno()], [], [], left)
        for fd, mask in self._poll.poll(0):
            if connection := self._open.get(fd):
                if not connection.asked and not mask & (select.EPOLLERR | select.EPOLLHUP):
                    self._poll.modify(fd, select.EPOLLIN)
                    self._ask(connection, connection.began)
                else:
                    self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            count = connection.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            if self._close and connection.missing == 0:
                self._ended(connection)
            else:
                self._failed(connection)
            return
        if connection.missing < 0:
            data = connection.received + self._buffer[:count]
            end = data.find(b"\r\n\r\n")
            if end < 0:
                connection.received = data
                return
            found = _LENGTH.search(data, 0, end)
            if found is None or data[9:10] not in b"23":
                raise GeneratorError(
                    f"answered {data[:end].decode(errors='replace')!r}: expected 2xx or 3xx, Content-Length"
                )
            connection.missing = int(found[1]) - (len(data) - end - 4)
        else:
            connection.missing -= count
        if connection.missing <= 0:
            connection.missing = 0
            latency = round((time.perf_counter() - connection.began) * 1e6)
            self.histogram.record_value(min(max(latency, 1), LONGEST_US))
            if not self._close:
                self.answered += 1
                self._idle.append(connection)

    def _ended(self, connection: _Connection) -> None:
        """The server closed after its answer; with us as the second, TIME_WAIT stays with it, not with our port."""
        self.answered += 1
        self._drop(connection)
        self._idle.append(None)

    def _failed(self, connection: _Connection) -> None:
        """The request under way got no answer; another connection takes the place of this one."""
        self.errors += 1
        self._drop(connection)
        self._idle.append(None)

    def _drop(self, connection: _Connection) -> None:
        if self._open.pop(connection.sock.fileno(), None) is connection:
            connection.sock.close()


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("address", type=host_and_port, metavar="HOST:PORT")
    parser.add_argument("--path", default="/1", help="or several between spaces, asked for in turn")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, help="requests per second (default: a closed loop)")
    parser.add_argument("--close", action="store_true", help="a connection for each request")
    parser.add_argument("--post", metavar="JSON", help="send this with each request (default: GET)")
    parser.add_argument(
        "--wait", action="store_true", help="for a line, after connecting; and for the end of input"
    )
    arguments = parser.parse_args()
    generator = Generator(
        arguments.address,
        arguments.path,
        arguments.connections,
        arguments.rate,
        arguments.close,
        arguments.post,
    )
    try:
        generator.warm_up()
        if arguments.wait:
            print("ready", flush=True)
            if not sys.stdin.readline():
                return  # whoever started this has gone
        generator.run(arguments.seconds)
        outcome = {
            "requests": generator.answered,
            "errors": generator.errors,
            **percentiles(generator.histogram),
            "histogram": generator.histogram.encode().decode(),
        }
        print(json.dumps(outcome), flush=True)
        if arguments.wait:
            sys.stdin.read()
    except GeneratorError as error:
        raise SystemExit(str(error)) from None
    finally:
        generator.close()


def percentiles(histogram: HdrHistogram) -> dict[str, float]:
    """Latencies in µs, by the names of PERCENTILES."""
    return {name: histogram.get_value_at_percentile(part) for name, part in PERCENTILES.items()}


if __name__ == "__main__":
    main()
