"""The web tier from outside: the real process, raw bytes to it, and what comes back, read strictly.

Nothing here knows what it is made of: whatever `python -m scaleup.web` runs has to pass.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PATIENCE_SECONDS = 30.0
ANSWER_SECONDS = 15.0
"""No answer that a test waits for takes longer, unless it hangs."""

LOOK_SECONDS = 0.005  # between two looks; nothing is inferred from it

Address = tuple[str, int]


def ready(admin: Address) -> None:
    """Wait until a tier says so there: the kernel takes connections before there is a worker to serve them."""

    def is_ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://{admin[0]}:{admin[1]}/readyz", timeout=ANSWER_SECONDS):
                return True
        except urllib.error.URLError:  # nobody listens there yet, or it is not ready
            return False

    until(is_ready, f"{admin} is not ready")


class Process:
    """`python -m MODULE …` until `close`; `log` grows as it speaks."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def said(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait for a line that `pattern` is found in, not among the first so many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            ended = not self._reader.is_alive()  # so that all it said is in the log
            for line in self.log[after:]:
                if found := re.search(pattern, line):
                    return found
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"never said {pattern}:\n{''.join(self.log)}")
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()


@contextlib.contextmanager
def web(*arguments: str) -> Iterator[tuple[Process, Address]]:
    """The web tier on a port that the kernel chose."""
    flags = ("--listen", "127.0.0.1:0", "--node", "web1", "--drain", "1", *arguments)
    with contextlib.closing(Process("scaleup.web", *flags)) as process:
        port = process.said(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.said("serving, with")
        yield process, ("127.0.0.1", int(port))


@dataclass
class Answer:
    """A response. `fields`: as they came. `is_complete`: its body ended as its framing says."""

    status: int
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_complete: bool = True

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name: str) -> str:
        """Of the field; its lines joined as RFC 9110 §5.3 has it, empty when it is absent."""
        return ", ".join(self.values(name))


def exchange(address: Address, *parts: bytes) -> bytes:
    """Send the parts, then read up to the end of the connection. Raises TimeoutError when it does not end.

    A reset after an answer is no answer's fault: whoever refuses a request need not read what follows it.
    """
    received = b""
    with socket.create_connection(address, ANSWER_SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(65536):
                received += data
    return received


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that tells nobody when it has come to pass."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(LOOK_SECONDS)


def metrics(admin: Address) -> dict[str, float]:
    """By name and labels, as they stand in /metrics."""
    with urllib.request.urlopen(f"http://{admin[0]}:{admin[1]}/metrics", timeout=ANSWER_SECONDS) as response:
        lines = response.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}


def answers(received: bytes, *methods: str) -> list[Answer]:
    """The responses in `received`, to requests with these methods. Raises ValueError for what is none.

    Their framing is RFC 9112 §6.3's. Interim responses are left out. Bytes behind the last answer are a fault.
    """
    found: list[Answer] = []
    while received:
        if len(found) == len(methods):
            raise ValueError(f"more than was asked for: {received[:200]!r}")
        head, separator, received = received.partition(b"\r\n\r\n")
        if not separator:
            raise ValueError(f"half a head: {head[:200]!r}")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) [^\r\n]*", first)
        if match is None:
            raise ValueError(f"no status line: {first[:200]!r}")
        answer = Answer(int(match[1]))
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise ValueError(f"no field: {line[:200]!r}")
            answer.fields.append((name, value.strip(" \t")))
        if answer.status < 200:
            continue
        received = _body(answer, methods[len(found)], received)
        found.append(answer)
    return found


def _body(answer: Answer, method: str, received: bytes) -> bytes:
    """Read the body into the answer; returns what follows it."""
    if method == "HEAD" or answer.status in (204, 304):
        return received
    lengths = answer.values("content-length")
    if codings := answer.values("transfer-encoding"):
        if codings != ["chunked"] or lengths:
            raise ValueError(f"framed twice: {answer.fields}")
        return _chunks(answer, received)
    if not lengths:
        answer.body = received
        return b""
    if len(lengths) != 1 or not lengths[0].isdigit():
        raise ValueError(f"lengths {lengths}")
    length = int(lengths[0])
    answer.body, rest = received[:length], received[length:]
    answer.is_complete = len(answer.body) == length
    return rest


def _chunks(answer: Answer, received: bytes) -> bytes:
    answer.is_complete = False
    while True:
        size, separator, received = received.partition(b"\r\n")
        if not separator:
            return b""
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            _, separator, rest = (b"\r\n" + received).partition(b"\r\n\r\n")
            answer.is_complete = bool(separator)
            return rest
        answer.body += received[:length]
        if received[length : length + 2] != b"\r\n":
            return b""
        received = received[length + 2 :]
