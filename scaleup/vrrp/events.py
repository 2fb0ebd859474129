"""What happens in the elections, as JSON lines on a Unix socket, for whoever wants to follow it.

    $ socat - UNIX-CONNECT:/run/scaleup/vrrp.sock
    {"iname": "VI_1", "state": 1, "vrid": 51, "base_priority": 150, "effective_priority": 150, …}

Each line is the whole state of one router, with keepalived's names and numbers for it (state 0: init, 1:
backup, 2: master, 3: fault) and the rule that brought it about. A reader is first sent a line for each
router, which is the present, and then one for each change.

A reader is never waited for: what it has not read yet lies in its socket, and when that is full, it is
dropped. The socket is for the user that runs this process (mode 600).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from scaleup.errors import StartupError
from scaleup.vrrp.decisions import Condition

log = logging.getLogger(__name__)

MAX_READERS = 32
MODE = 0o600
IGNORED_BYTES = 4096

STATES = {
    Condition.WAITING: 0,
    Condition.STOPPED: 0,
    Condition.BACKUP: 1,
    Condition.ACTIVE: 2,
    Condition.FAULT: 3,
}
"""keepalived's numbers."""


@dataclass(frozen=True, slots=True)
class Status:
    """A router, in keepalived's words; `rule` and `condition` are ours.

    `vipset`: it has the virtual addresses. `adver_int`, `master_adver_int`: its own interval, and the Active's as
    last learned, seconds. `last_transition`: seconds since 1970, 0.0 before the first.
    """

    iname: str
    state: int
    vrid: int
    base_priority: int
    effective_priority: int
    vipset: bool
    adver_int: float
    master_adver_int: float
    last_transition: float
    condition: Condition
    rule: str

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class EventStream:
    """`present()`: the status of each router now."""

    def __init__(self, path: Path, present: Callable[[], Iterable[Status]]) -> None:
        self._path, self._present = path, present
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._inode = 0
        self._readers: set[socket.socket] = set()

    def start(self) -> None:
        """Listen. Raises StartupError. What is left of a process that died is removed."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _remove_if_nobody_listens(self._path)
            sock.bind(os.fspath(self._path))
            self._path.chmod(MODE)  # nobody can have connected yet
            self._inode = self._path.stat().st_ino
            sock.listen()
        except OSError as error:
            sock.close()
            raise StartupError(f"event socket {self._path}: {error.strerror}") from None
        self._socket = sock
        self._loop.add_reader(sock, self._accept, sock)

    def stop(self) -> None:
        for reader in list(self._readers):
            self._drop(reader)
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:  # not that of a successor
                    self._path.unlink()

    def tell(self, status: Status) -> None:
        """A router has changed."""
        line = status.line()
        for reader in list(self._readers):
            self._send(reader, line)

    def _accept(self, listener: socket.socket) -> None:
        try:
            reader, _ = listener.accept()
        except OSError:  # it has gone again, or no descriptor is left
            return
        reader.setblocking(False)
        if len(self._readers) >= MAX_READERS:
            log.warning("event stream: %d readers already: one more is refused", MAX_READERS)
            reader.close()
            return
        self._readers.add(reader)
        self._loop.add_reader(reader, self._readable, reader)
        self._send(reader, b"".join(status.line() for status in self._present()))

    def _readable(self, reader: socket.socket) -> None:
        """It has nothing to say; what matters is the end."""
        try:
            if reader.recv(IGNORED_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(reader)

    def _send(self, reader: socket.socket, data: bytes) -> None:
        try:
            sent = reader.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(reader)
            return
        if sent < len(data):
            log.warning("event stream: a reader was too slow and is dropped")
            self._drop(reader)

    def _drop(self, reader: socket.socket) -> None:
        self._readers.discard(reader)
        self._loop.remove_reader(reader)
        reader.close()


def _remove_if_nobody_listens(path: Path) -> None:
    """Raises OSError (EADDRINUSE) when somebody does, and leaves everything that is no socket alone."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "it exists, and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise OSError(errno.EADDRINUSE, "another process listens there")
