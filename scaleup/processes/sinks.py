"""What lines of a log are written to, each in a way that does not wait for the reader.

Not to wait is a property of the open file and not of the descriptor, and the file behind stderr belongs to others,
too: a shell, our children. So it is not set there. A pipe and a terminal are opened once more, for us alone;
sockets have MSG_DONTWAIT. A write to a regular file cannot be told not to wait, and does not as long as the disk
answers: the log of a process that must outlive a hanging disk belongs to a pipe or to syslog.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from pathlib import Path
from typing import Protocol, TextIO

from scaleup.net.addresses import Endpoint
from scaleup.net.sockets import family_of

CHUNK_BYTES = select.PIPE_BUF
"""Up to here a write to a pipe is whole, so that lines of several processes do not mix (pipe(7))."""

SYSLOG_BYTES = 8192
"""Of one datagram, as much as rsyslog takes; the rest of a longer line is cut off."""


class Sink(Protocol):
    chunk_bytes: int
    """Lines are joined up to this size; 0: one by one."""

    def write(self, data: bytes) -> int:
        """Returns how many bytes were taken, ≥ 1. Raises BlockingIOError rather than wait, or another OSError."""

    def wait(self, seconds: float) -> None:
        """Until it may take more, or the time is over."""

    def close(self) -> None:
        """Nothing can be written any more: OSError."""


class Descriptor:
    """An open file, by the number that somebody else owns (stderr)."""

    chunk_bytes = CHUNK_BYTES

    def __init__(self, fd: int) -> None:
        self._socket: socket.socket | None = None
        self._asks = False
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):  # journald's
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd = self._socket.fileno()
        elif stat.S_ISREG(mode):
            self._fd = os.dup(fd)
        else:
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = os.open(f"/proc/self/fd/{fd}", flags)
            except OSError:
                # It is another user's (we were started by su, or in a container). Asking first is as good, unless
                # several processes write to one pipe and all were told of the same last free page.
                self._fd = os.dup(fd)
                self._asks = True

    def write(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._asks:
            if not _takes(self._fd, 0):
                raise BlockingIOError
            data = data[:CHUNK_BYTES]
        return os.write(self._fd, data)

    def wait(self, seconds: float) -> None:
        _takes(self._fd, seconds)

    def close(self) -> None:
        fd, self._fd, self._asks = self._fd, -1, False
        if self._socket is not None:
            self._socket.close()
        elif fd >= 0:
            os.close(fd)


class LogFile:
    """A file that is appended to, and opened again on request, after logrotate has moved it away.

    Raises OSError, as `reopen` does; then the old one stays.
    """

    chunk_bytes = CHUNK_BYTES

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = self._open()

    def reopen(self) -> None:
        old, self._fd = self._fd, self._open()
        os.close(old)

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def wait(self, seconds: float) -> None:
        _takes(self._fd, seconds)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(self.path, flags, 0o666)


class Syslog:
    """A syslog daemon: at a path (a Unix datagram socket) or an address (UDP). A line is a datagram.

    Raises OSError when nobody is there; one that comes back later is found again.
    """

    chunk_bytes = 0

    def __init__(self, where: Path | Endpoint) -> None:
        self._address: str | tuple[str, int]
        if isinstance(where, Path):
            family, self._address = socket.AF_UNIX, str(where)
        else:
            family, self._address = family_of(where), (where.host, where.port)
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(self._address)
        except OSError:
            self._socket.close()
            raise

    def write(self, data: bytes) -> int:
        datagram = data.rstrip(b"\n")[:SYSLOG_BYTES]
        try:
            self._socket.send(datagram)
        except BlockingIOError:
            raise
        except OSError:  # it was restarted, or an ICMP message told of an earlier one
            self._socket.connect(self._address)
            self._socket.send(datagram)
        return len(data)

    def wait(self, seconds: float) -> None:
        _takes(self._socket.fileno(), seconds)

    def close(self) -> None:
        self._socket.close()


class Text:
    """A stderr that is no file: a program that embeds us has put its own in its place."""

    chunk_bytes = CHUNK_BYTES

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        self._stream.write(data.decode(errors="replace"))
        self._stream.flush()
        return len(data)

    def wait(self, seconds: float) -> None:
        """It takes everything."""

    def close(self) -> None:
        """It is not ours."""


def of_stderr(stream: TextIO | None) -> Sink:
    """The sink for a `sys.stderr`, which is None in a process that was started without one."""
    if stream is None:
        return LogFile(Path(os.devnull))
    try:
        fd = stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return Text(stream)
    return Descriptor(fd)


def _takes(fd: int, seconds: float) -> bool:
    """Whether it can be written to, at the latest after so long. Also true when it is broken: writing tells how."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))
