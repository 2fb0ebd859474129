"""The bond between a parent and its child: a pair of Unix sockets that keep message boundaries.

It carries three things: messages (JSON objects with a `kind`), descriptors (listening sockets handed
down), and the news of the other's death. For the last, nothing has to be sent: when a process ends, by
whatever signal, the kernel closes its end and the other one reads the end of the stream.

Sending never blocks. What the other side does not take waits in a bounded queue; when that is full, the
other side is not living any more in any useful sense, and the channel is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 128 * 1024  # below the default send buffer of Unix sockets, 208 KiB
MAX_DESCRIPTORS = 200  # the kernel's SCM_MAX_FD is 253
MAX_QUEUED_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One message. The receiver owns `descriptors` and closes them."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


class Channel:
    """One end. `on_message` is called for each message, `on_close` once when the other side is gone."""

    def __init__(
        self, sock: socket.socket, on_message: Callable[[Message], None], on_close: Callable[[], None]
    ) -> None:
        self._socket = sock
        self._on_message, self._on_close = on_message, on_close
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def send(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send, or queue, a message. The descriptors are duplicated: the caller keeps its own."""
        if not self._open:
            return
        data = json.dumps({"kind": kind, **fields}).encode()
        if len(data) > MAX_MESSAGE_BYTES or len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{kind}: {len(data)} bytes, {len(descriptors)} descriptors: too much")
        self._queue.append((data, [os.dup(descriptor) for descriptor in descriptors]))
        if len(self._queue) == 1:
            self._flush()
            if self._queue and self._open:
                self._loop.add_writer(self._socket, self._flush)
        elif len(self._queue) > MAX_QUEUED_MESSAGES:
            log.error("the other side of a channel has not read %d messages: giving it up", len(self._queue))
            self._lost()

    def finish(self) -> None:
        """Deliver what the other side, which has ended, has still said; then close."""
        try:
            self._readable()
        finally:
            self.close()

    def close(self) -> None:
        """Close our end; `on_close` is not called."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._discard_queue()

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._on_close()

    def _flush(self) -> None:
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                if descriptors:
                    socket.send_fds(self._socket, [data], descriptors)
                else:
                    self._socket.send(data)
            except BlockingIOError:
                return None
            except (BrokenPipeError, ConnectionResetError):
                self._discard_queue()  # nobody hears us; the reader finds the end, after what was said before
                break
            except OSError as error:
                log.error("a channel failed: %s", error)
                return self._lost()
            _close_all(descriptors)
            self._queue.popleft()
        self._loop.remove_writer(self._socket)
        return None

    def _discard_queue(self) -> None:
        for _, descriptors in self._queue:
            _close_all(descriptors)
        self._queue.clear()

    def _readable(self) -> None:
        # All at once: after an error libuv does not call us again (uv__poll_io).
        while self._open and self._receive():
            pass

    def _receive(self) -> bool:
        """Receive one message, or the end. False when there is nothing to receive now."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True  # the other side ended with messages of ours unread; what it said itself comes next
        except OSError as error:
            log.error("a channel failed: %s", error)
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds() does not pass MSG_CMSG_CLOEXEC on
        if data:
            fields = json.loads(data)
            self._on_message(Message(fields.pop("kind"), fields, tuple(descriptors)))
        else:
            self._lost()
        return True


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
