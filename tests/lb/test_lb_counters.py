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

from scaleup.lb.counters import (
    IN_PROGRESS,
    BackendColumn,
    Column,
    Counters,
    FrontendColumn,
    ServerColumn,
    Sizes,
)

ROWS, SIZES = 3, Sizes(2, 1, 2)
ALL: list[tuple[Column, int]] = [
    *product(FrontendColumn, range(2)),
    *product(BackendColumn, range(1)),
    *product(ServerColumn, range(2)),
]


@pytest.fixture
def counters() -> Iterator[Counters]:
    with contextlib.closing(Counters.create(ROWS, SIZES)) as counters:
        yield counters


def add(counters: Counters, row: int, column: Column, index: int, amount: int) -> None:
    counters.tally(row, type(column), index)[column] += amount


def test_all_begin_at_0(counters: Counters) -> None:
    assert {counters.total(column, index) for column, index in ALL} == {0}


def test_each_number_has_a_place_of_its_own(counters: Counters) -> None:
    places = list(product(range(ROWS), ALL))
    for number, (row, (column, index)) in enumerate(places):
        add(counters, row, column, index, number)
    for number, (row, (column, index)) in enumerate(places):
        assert counters.tally(row, type(column), index)[column] == number
        assert counters.rows_of(column, index)[row] == number


@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 1000)), max_size=30))
def test_the_total_is_the_sum_over_the_rows(additions: list[tuple[int, int]]) -> None:
    with contextlib.closing(Counters.create(ROWS, SIZES)) as counters:
        for row, amount in additions:
            add(counters, row, FrontendColumn.BYTES_IN, 0, amount)
            add(counters, row, ServerColumn.BYTES_IN, 1, amount)
        total = sum(amount for _, amount in additions)
        assert counters.total(FrontendColumn.BYTES_IN, 0) == counters.total(ServerColumn.BYTES_IN, 1) == total
        assert counters.total(ServerColumn.BYTES_IN, 0) == 0


def test_more_than_four_gigabytes_are_counted(counters: Counters) -> None:
    add(counters, 0, FrontendColumn.BYTES_OUT, 0, 2**63)
    add(counters, 1, FrontendColumn.BYTES_OUT, 0, 2**63)
    assert counters.total(FrontendColumn.BYTES_OUT, 0) == 2**64


def test_what_a_dead_worker_had_in_progress_is_cleared_and_its_totals_stay(counters: Counters) -> None:
    for row, (column, index) in product(range(ROWS), ALL):
        add(counters, row, column, index, 5)
    counters.clear_current(1)
    for column, index in ALL:
        rows = [5, 0, 5] if any(column is ends for ends in IN_PROGRESS) else [5, 5, 5]
        assert list(counters.rows_of(column, index)) == rows


WORKER = """
import sys
from scaleup.lb.counters import Counters, FrontendColumn, ServerColumn, Sizes

descriptor, rows, frontends, backends, servers, row, count = map(int, sys.argv[1:])
counters = Counters(descriptor, rows, Sizes(frontends, backends, servers))
frontend, server = counters.tally(row, FrontendColumn, 0), counters.tally(row, ServerColumn, 1)
for _ in range(count):
    frontend[FrontendColumn.TOTAL] += 1
    frontend[FrontendColumn.CURRENT] += 1
    server[ServerColumn.TOTAL] += 2
    frontend[FrontendColumn.CURRENT] -= 1
counters.close()
"""


def test_several_processes_count_at_once_and_nothing_is_lost(counters: Counters) -> None:
    count = 20_000
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER]
            + [str(word) for word in (counters.descriptor, ROWS, *SIZES, row, count)],
            pass_fds=[counters.descriptor],
        )
        for row in range(ROWS)
    ]
    assert [worker.wait(30) for worker in workers] == [0] * ROWS
    assert counters.total(FrontendColumn.TOTAL, 0) == ROWS * count
    assert counters.total(FrontendColumn.CURRENT, 0) == 0
    assert counters.total(ServerColumn.TOTAL, 1) == 2 * ROWS * count
