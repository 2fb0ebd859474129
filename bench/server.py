"""The server behind the proxies: cheap, so that what is measured is the proxy. One thread, epoll.

    python -m bench.server --listen HOST:PORT [--listen …]

`GET /N` answers N bytes, `PUT` takes a body and answers 204, each with or without keep-alive. Bulk is not
copied here: a large body leaves by sendfile(2), and one that arrives is dropped inside the kernel (recv with
MSG_TRUNC, tcp(7)). A connection that says nothing costs a socket and a dictionary entry.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from dataclasses import dataclass

from bench.flags import described, host_and_port

BACKLOG = 4096
CHUNK_BYTES = 1 << 20
SMALL_BYTES = 64 * 1024
"""Bodies up to here are sent with their header in one call, from memory."""

MAX_REQUEST_BYTES = 16 * 1024
"""Of a request's header; more is no benchmark's, and ends the connection."""


@dataclass(slots=True)
class _Client:
    sock: socket.socket
    received: bytes = b""
    unsent: bytes = b""
    to_send: int = 0  # of a large body, after `unsent`
    to_drop: int = 0  # of a body that is arriving
    closing: bool = False  # after the answer
    writing: bool = False  # epoll waits for room


class Server:
    """`step` serves what is ready. Raises OSError when an address cannot be bound."""

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._answers: dict[int, bytes] = {}
        self._waste = bytearray(CHUNK_BYTES)
        self._file = os.memfd_create("body")
        os.truncate(self._file, CHUNK_BYTES)
        for address in addresses:
            listener = socket.create_server(address, backlog=BACKLOG)
            listener.setblocking(False)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited
            self._listeners[listener.fileno()] = listener
            self._poll.register(listener, select.EPOLLIN)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [listener.getsockname() for listener in self._listeners.values()]

    def step(self) -> None:
        for fd, mask in self._poll.poll():
            if listener := self._listeners.get(fd):
                self._accept(listener)
            elif client := self._clients.get(fd):
                try:
                    done = self._send(client) if mask == select.EPOLLOUT else self._receive(client)
                except BlockingIOError:
                    continue
                except OSError:
                    done = True
                if done:
                    del self._clients[fd]
                    client.sock.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._clients[sock.fileno()] = _Client(sock)
        self._poll.register(sock, select.EPOLLIN)

    def _receive(self, client: _Client) -> bool:
        """Read what has come; whether the connection is over."""
        if client.to_drop:
            dropped = client.sock.recv_into(
                self._waste, min(client.to_drop, CHUNK_BYTES), socket.MSG_TRUNC | socket.MSG_DONTWAIT
            )
            return not dropped or self._took(client, dropped)
        data = client.sock.recv(SMALL_BYTES)
        if not data:
            return True
        client.received += data
        while (end := client.received.find(b"\r\n\r\n")) >= 0:
            header, client.received = client.received[:end].lower(), client.received[end + 4 :]
            client.closing = b"connection: close" in header
            if header.startswith(b"put"):
                client.to_drop = int(header.partition(b"content-length:")[2].split()[0])
                early, client.received = len(client.received), b""
                if self._took(client, early):
                    return True
            elif self._answer(client, int(header.split(maxsplit=2)[1][1:])):
                return True
        return len(client.received) > MAX_REQUEST_BYTES

    def _took(self, client: _Client, count: int) -> bool:
        client.to_drop -= count
        if client.to_drop > 0:
            return False
        client.unsent += b"HTTP/1.1 204 No Content\r\n\r\n"
        return self._send(client)

    def _answer(self, client: _Client, size: int) -> bool:
        if size <= SMALL_BYTES:
            if size not in self._answers:
                self._answers[size] = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
            client.unsent += self._answers[size]
        else:
            client.unsent += b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
            client.to_send = size
        return self._send(client)

    def _send(self, client: _Client) -> bool:
        """Send what is left; whether the connection is over."""
        try:
            if client.unsent:
                client.unsent = client.unsent[client.sock.send(client.unsent) :]
            while client.to_send and not client.unsent:
                client.to_send -= os.sendfile(
                    client.sock.fileno(), self._file, 0, min(client.to_send, CHUNK_BYTES)
                )
        except BlockingIOError:
            pass
        waiting = bool(client.unsent or client.to_send)
        if waiting != client.writing:
            client.writing = waiting
            self._poll.modify(client.sock, select.EPOLLOUT if waiting else select.EPOLLIN)
        return client.closing and not waiting

    def close(self) -> None:
        for sock in [*self._listeners.values(), *(client.sock for client in self._clients.values())]:
            sock.close()
        self._poll.close()
        os.close(self._file)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--listen", type=host_and_port, action="append", required=True, metavar="HOST:PORT")
    server = Server(parser.parse_args().listen)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            server.step()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()
