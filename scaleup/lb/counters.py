"""Counters that several workers share, without locks.

An array of unsigned 64-bit numbers in anonymous shared memory (a memfd, handed down to the workers). Each
worker owns a row and is the only one to write it; everybody reads all rows. What is true of the node is
the sum over the rows. A read may be a moment old: that is what makes locks unnecessary, and why a maxconn
may be overshot by workers − 1 for a moment. The node clears the row of a worker that has died.

    row:  [ frontend 0 | frontend 1 | … | backend 0 | … | server 0 of backend 0 | server 1 | … ]

Each of these is a tally: its columns are those of `FrontendColumn`, `BackendColumn` or `ServerColumn`.
Whoever counts holds tallies of its row, and counts with `tally[FrontendColumn.TOTAL] += 1`.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from typing import NamedTuple


class FrontendColumn(IntEnum):
    """Columns of each frontend."""

    CURRENT = 0  # connections now
    TOTAL = 1
    BYTES_IN = 2  # from clients
    BYTES_OUT = 3
    KILLED = 4  # closed because the virtual address left, or at the end of the drain
    PAUSES = 5  # times that reading stopped because the other side did not take the bytes
    ABANDONED = 6  # reset by the client before a server was reached
    DENIED = 7  # refused because of its address
    UNGREETED = 8  # refused for want of a PROXY header


class BackendColumn(IntEnum):
    """Columns of each backend."""

    WAITING = 0  # in the queue for a slot
    REFUSED = 1  # no server: reset
    ABANDONED = 2  # reset by the client before a server was reached


class ServerColumn(IntEnum):
    """Columns of each server."""

    CURRENT = 0
    TOTAL = 1
    BYTES_IN = 2  # to the server
    BYTES_OUT = 3
    CONNECT_ERRORS = 4
    RETRIES = 5
    REDISPATCHES = 6
    CLIENT_ABORTS = 7  # sessions that the client reset, or did not go on with in time
    SERVER_ABORTS = 8  # … the server


Column = FrontendColumn | BackendColumn | ServerColumn
IN_PROGRESS: tuple[Column, ...] = (FrontendColumn.CURRENT, BackendColumn.WAITING, ServerColumn.CURRENT)
"""What ends with a worker."""

WORD_BYTES = 8

Tally = memoryview
"""Words, indexed by column."""


class Sizes(NamedTuple):
    """How many there are of each."""

    frontends: int
    backends: int
    servers: int


class Counters:
    """The array. `create` makes it; a worker maps the descriptor that it was handed."""

    def __init__(self, descriptor: int, rows: int, sizes: Sizes) -> None:
        self.descriptor, self.rows = descriptor, rows
        self._counts = _by_kind(sizes)
        self._starts: dict[type[Column], int] = {}
        width = 0
        for columns, count in self._counts.items():
            self._starts[columns] = width
            width += len(columns) * count
        self._width = width
        self._map = mmap.mmap(descriptor, rows * width * WORD_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._views: list[memoryview] = []

    @classmethod
    def create(cls, rows: int, sizes: Sizes) -> Counters:
        descriptor = os.memfd_create("scaleup-counters", os.MFD_CLOEXEC)
        width = sum(len(columns) * count for columns, count in _by_kind(sizes).items())
        os.ftruncate(descriptor, rows * width * WORD_BYTES)
        return cls(descriptor, rows, sizes)

    def tally(self, row: int, columns: type[Column], index: int) -> Tally:
        """Of one frontend, backend or server, in one row."""
        start = row * self._width + self._starts[columns] + index * len(columns)
        return self._view(self._words[start : start + len(columns)])

    def rows_of(self, column: Column, index: int) -> memoryview:
        """That number in every row: their sum is what is true of the node."""
        start = self._starts[type(column)] + index * len(type(column)) + column
        return self._view(self._words[start :: self._width])

    def total(self, column: Column, index: int) -> int:
        start = self._starts[type(column)] + index * len(type(column)) + column
        return sum(self._words[start :: self._width])

    def clear_current(self, row: int) -> None:
        """A worker has died: its connections are gone; what it has counted in all stays true."""
        for column in IN_PROGRESS:
            for index in range(self._counts[type(column)]):
                start = self._starts[type(column)] + index * len(type(column)) + column
                self._words[row * self._width + start] = 0

    def close(self) -> None:
        """No tally can be used any more."""
        for view in self._views:
            view.release()
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

    def _view(self, view: memoryview) -> memoryview:
        self._views.append(view)
        return view


def _by_kind(sizes: Sizes) -> dict[type[Column], int]:
    return {FrontendColumn: sizes.frontends, BackendColumn: sizes.backends, ServerColumn: sizes.servers}
