"""The counters in shared memory, in one process and in several."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.lb.counters import Counters, Frontend, ServerColumn

ROWS, SERVERS = 3, 2


@pytest.fixture
def counters() -> Iterator[Counters]:
    with contextlib.closing(Counters.create(ROWS, SERVERS)) as counters:
        yield counters


def test_all_begin_at_0(counters: Counters) -> None:
    assert [counters.total(column) for column in Frontend] == [0] * len(Frontend)
    for server in range(SERVERS):
        assert [counters.total_server(server, column) for column in ServerColumn] == [0] * len(ServerColumn)


def test_each_number_has_a_place_of_its_own(counters: Counters) -> None:
    for number, (row, column) in enumerate(product(range(ROWS), Frontend)):
        counters.add(row, column, 2**number)
    for number, (server, row, server_column) in enumerate(product(range(SERVERS), range(ROWS), ServerColumn)):
        counters.add_server(row, server, server_column, 2**number)
    for number, (row, column) in enumerate(product(range(ROWS), Frontend)):
        assert counters.get(row, column) == 2**number
    for server, server_column in product(range(SERVERS), ServerColumn):
        numbers = [(server * ROWS + row) * len(ServerColumn) + server_column for row in range(ROWS)]
        assert counters.total_server(server, server_column) == sum(2**number for number in numbers)


@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 1000)), max_size=30))
def test_the_total_is_the_sum_over_the_rows(additions: list[tuple[int, int]]) -> None:
    with contextlib.closing(Counters.create(ROWS, SERVERS)) as counters:
        for row, amount in additions:
            counters.add(row, Frontend.BYTES_IN, amount)
            counters.add_server(row, 1, ServerColumn.BYTES_IN, amount)
        total = sum(amount for _, amount in additions)
        assert counters.total(Frontend.BYTES_IN) == counters.total_server(1, ServerColumn.BYTES_IN) == total
        assert counters.total_server(0, ServerColumn.BYTES_IN) == 0


def test_more_than_four_gigabytes_are_counted(counters: Counters) -> None:
    counters.add(0, Frontend.BYTES_OUT, 2**63)
    counters.add(1, Frontend.BYTES_OUT, 2**63)
    assert counters.total(Frontend.BYTES_OUT) == 2**64


def test_what_a_dead_worker_had_in_progress_is_cleared_and_its_totals_stay(counters: Counters) -> None:
    for row, column in product(range(ROWS), Frontend):
        counters.add(row, column, 5)
    for row, server, server_column in product(range(ROWS), range(SERVERS), ServerColumn):
        counters.add_server(row, server, server_column, 5)
    counters.clear_current(1)
    for column in Frontend:
        gone = column in (Frontend.CURRENT, Frontend.WAITING)
        assert counters.total(column) == (10 if gone else 15)
        assert counters.get(1, column) == (0 if gone else 5)
    for server, server_column in product(range(SERVERS), ServerColumn):
        assert counters.total_server(server, server_column) == (
            10 if server_column is ServerColumn.CURRENT else 15
        )


WORKER = """
import sys
from scaleup.lb.counters import Counters, Frontend, ServerColumn

descriptor, rows, servers, row, count = map(int, sys.argv[1:])
counters = Counters(descriptor, rows, servers)
for _ in range(count):
    counters.add(row, Frontend.TOTAL)
    counters.add(row, Frontend.CURRENT)
    counters.add_server(row, 1, ServerColumn.TOTAL, 2)
    counters.add(row, Frontend.CURRENT, -1)
counters.close()
"""


def test_several_processes_count_at_once_and_nothing_is_lost(counters: Counters) -> None:
    count = 20_000
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER]
            + [str(word) for word in (counters.descriptor, ROWS, SERVERS, row, count)],
            pass_fds=[counters.descriptor],
        )
        for row in range(ROWS)
    ]
    assert [worker.wait(30) for worker in workers] == [0] * ROWS
    assert counters.total(Frontend.TOTAL) == ROWS * count
    assert counters.total(Frontend.CURRENT) == 0
    assert counters.total_server(1, ServerColumn.TOTAL) == 2 * ROWS * count
