"""Servers for the tests of dialling, of workers and of nodes, and clients of the load balancer."""

from __future__ import annotations

import contextlib
import socket
import threading

PATIENCE_SECONDS = 30.0


class Backend:
    """A server by the kernel's hand: bound to a port of its own, and refusing until `listen()`.

    It is `silent` when its backlog is full: then the kernel drops every further SYN.
    """

    def __init__(self, host: str = "127.0.64.1") -> None:
        self._stack = contextlib.ExitStack()
        finder = self._stack.enter_context(socket.socket())
        self._socket = self._stack.enter_context(socket.socket())
        for sock in (finder, self._socket):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        finder.bind((host, 0))
        self._socket.bind(finder.getsockname())  # by number: one that the kernel chose goes with shutdown()
        finder.close()
        self._socket.setblocking(False)
        self.host, self.port = self._socket.getsockname()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def listen(self, backlog: int = 100) -> Backend:
        self._socket.listen(backlog)
        return self

    def refuse(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def silent(self) -> Backend:
        self.listen(0)
        for _ in range(2):
            client = self._stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((self.host, self.port))
        return self

    def accept(self) -> tuple[socket.socket, str]:
        """The connection that waits, and the client's address; BlockingIOError when there is none."""
        sock, (host, _) = self._socket.accept()
        return sock, host

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._stack.close()


class EchoServer:
    """Says its name and a line end to each client, then echoes until FIN; a thread for each. Blocking, for tests
    with real processes.
    """

    def __init__(self, name: str, host: str = "127.0.64.2", port: int = 0) -> None:
        self.name = name
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(1000)
        self.host, self.port = self._listener.getsockname()
        self.clients: list[str] = []  # the addresses that connections came from
        self.live: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # whom it has just accepted is among the live ones then
        for sock in list(self.live):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, (host, _) = self._listener.accept()
                self.clients.append(host)
                self.live.add(sock)
                thread = threading.Thread(target=self._echo, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _echo(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.sendall(self.name.encode() + b"\n")
            while data := sock.recv(65536):
                sock.sendall(data)
        self.live.discard(sock)


class Client:
    """A blocking client of a load balancer."""

    def __init__(self, address: tuple[str, int], timeout: float = PATIENCE_SECONDS) -> None:
        self.socket = socket.create_connection(address, timeout)

    def greeting(self) -> str:
        """The name of the server behind."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self.socket.recv(1)
            assert byte, f"FIN after {line!r}"
            line += byte
        return line.decode().rstrip()

    def echo(self, data: bytes = b"hello") -> None:
        self.socket.sendall(data)
        self.expect(data)

    def expect(self, data: bytes) -> None:
        """Exactly these bytes come next."""
        got = b""
        while len(got) < len(data):
            piece = self.socket.recv(len(data) - len(got))
            assert piece, f"FIN after {got!r}"
            got += piece
        assert got == data

    def is_reset(self) -> bool:
        """Wait for the end of the connection: True for RST, False for FIN."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        return False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def is_refused(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, PATIENCE_SECONDS):
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was in the queue when the socket stopped listening: ask again
        return False
