"""An application that keeps every byte it gets, and answers what is a whole request and nothing else.

One thread reads all that has arrived before it answers anything. So when a request has been answered that was sent
after everything else, everything else has been read: a test that finds nothing recorded knows that nothing came.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@dataclass(frozen=True)
class Request:
    """A whole one, as this application understands it. `line`: the request line."""

    line: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


def whole(received: bytes) -> list[Request]:
    """The requests in it, up to the first that is not whole; framed as RFC 9112 §6.3 says."""
    found = []
    while b"\r\n\r\n" in received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        fields = tuple((one.partition(b":")[0].lower(), one.partition(b":")[2].strip()) for one in lines)
        named = dict(fields)
        if b"transfer-encoding" in named:
            match = re.match(
                rb"((?:[0-9a-fA-F]+[^\r\n]*\r\n.*?\r\n)*?)0\r\n(?:[^\r\n]+\r\n)*\r\n", rest, re.DOTALL
            )
            if match is None:
                break
            body, received = match[1], rest[match.end() :]
        else:
            length = int(named.get(b"content-length", b"0"))
            if len(rest) < length:
                break
            body, received = rest[:length], rest[length:]
        found.append(Request(line, fields, body))
    return found


class Recorder:
    """`listening` runs it. `eager`: it ignores lengths, so that each empty line ends a request to it (0.CL)."""

    def __init__(self) -> None:
        self.eager = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._received: dict[socket.socket, bytes] = {}
        self._answered: dict[socket.socket, int] = {}
        self._history: list[bytes] = []  # of connections that have ended
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()

    def forget(self) -> None:
        """What was recorded so far. Connections stay, as those that wait for a next request do."""
        with self._lock:
            self._history.clear()
            for sock in self._received:
                self._received[sock], self._answered[sock] = b"", 0

    def recorded(self) -> list[bytes]:
        """What came on each connection that anything came on."""
        with self._lock:
            return [data for data in (*self._history, *self._received.values()) if data]

    @contextlib.contextmanager
    def listening(self) -> Iterator[Recorder]:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._wake.close()
            thread.join()
            for sock in (*self._received, self._listener, self._woken):
                sock.close()
            self._selector.close()

    def _run(self) -> None:
        while True:
            if self._woken in [key.fileobj for key, _ in self._selector.select()]:
                return
            with self._lock:
                while self._sweep():  # once more than something came: what came before that has been read too
                    pass
                for sock in list(self._received):
                    self._answer(sock)

    def _sweep(self) -> bool:
        """Takes all connections, and what came on each. Whether there was anything."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self._selector.register(sock, selectors.EVENT_READ)
                self._received[sock], self._answered[sock] = b"", 0
                found = True
        return sum(self._read(sock) for sock in list(self._received)) > 0 or found

    def _read(self, sock: socket.socket) -> bool:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._received[sock] += data
            return True
        self._selector.unregister(sock)
        self._history.append(self._received.pop(sock))
        del self._answered[sock]
        sock.close()
        return True

    def _answer(self, sock: socket.socket) -> None:
        received = self._received[sock]
        due = received.count(b"\r\n\r\n") if self.eager else len(whole(received))
        with contextlib.suppress(OSError):
            sock.send(ANSWER * (due - self._answered[sock]))
        self._answered[sock] = due
