"""Counters that several workers share, without locks.

An array of unsigned 64-bit numbers in anonymous shared memory (a memfd, handed down to the workers). Each
worker owns a row and is the only one to write it; everybody reads all rows. What is true of the node is
the sum over the rows. A read may be a moment old: that is what makes locks unnecessary, and why maxconn
may be overshot by workers − 1 for a moment. The node clears the row of a worker that has died.

    row:  [ frontend columns … | server 0 columns … | server 1 columns … | … ]
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum


class Frontend(IntEnum):
    """Columns of the frontend, and of the backend as a whole."""

    CURRENT = 0  # connections now
    TOTAL = 1
    BYTES_IN = 2  # from clients
    BYTES_OUT = 3
    WAITING = 4  # in the queue for a slot
    REFUSED = 5  # no server: reset
    KILLED = 6  # closed because the virtual address left, or at the end of the drain
    PAUSES = 7  # times that reading stopped because the other side did not take the bytes
    ABANDONED = 8  # reset by the client before a server was reached


class ServerColumn(IntEnum):
    """Columns of each server."""

    CURRENT = 0
    TOTAL = 1
    BYTES_IN = 2  # to the server
    BYTES_OUT = 3
    CONNECT_ERRORS = 4
    RETRIES = 5
    REDISPATCHES = 6


WORD_BYTES = 8
FRONTEND_COLUMNS, SERVER_COLUMNS = len(Frontend), len(ServerColumn)


class Counters:
    """The array. `create` makes it; a worker maps the descriptor that it was handed."""

    def __init__(self, descriptor: int, rows: int, servers: int) -> None:
        self.descriptor, self.rows, self.servers = descriptor, rows, servers
        self._width = FRONTEND_COLUMNS + servers * SERVER_COLUMNS
        self._map = mmap.mmap(descriptor, rows * self._width * WORD_BYTES)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, rows: int, servers: int) -> Counters:
        descriptor = os.memfd_create("scaleup-counters", os.MFD_CLOEXEC)
        width = FRONTEND_COLUMNS + servers * SERVER_COLUMNS
        os.ftruncate(descriptor, rows * width * WORD_BYTES)
        return cls(descriptor, rows, servers)

    def add(self, row: int, column: Frontend, amount: int = 1) -> None:
        self._words[row * self._width + column] += amount

    def add_server(self, row: int, server: int, column: ServerColumn, amount: int = 1) -> None:
        word = row * self._width + FRONTEND_COLUMNS + server * SERVER_COLUMNS + column
        self._words[word] += amount

    def get(self, row: int, column: Frontend) -> int:
        return self._words[row * self._width + column]

    def total(self, column: Frontend) -> int:
        return sum(self._words[column :: self._width])

    def total_server(self, server: int, column: ServerColumn) -> int:
        return sum(self._words[self._server(0, server, column) :: self._width])

    def clear_current(self, row: int) -> None:
        """A worker has died: its connections are gone; what it has counted in all stays true."""
        self._words[row * self._width + Frontend.CURRENT] = 0
        self._words[row * self._width + Frontend.WAITING] = 0
        for server in range(self.servers):
            self._words[self._server(row, server, ServerColumn.CURRENT)] = 0

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

    def _server(self, row: int, server: int, column: ServerColumn) -> int:
        return row * self._width + FRONTEND_COLUMNS + server * SERVER_COLUMNS + column
