"""What a node has counted in all, over reloads: the counters of its living generations, and what ended ones left.

A frontend, backend or server is known by its name. Those of the same name count on; what the newest settings do not
know is not shown any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scaleup.lb.counters import (
    IN_PROGRESS,
    BackendColumn,
    Column,
    Counters,
    FrontendColumn,
    ServerColumn,
)
from scaleup.lb.settings import LbSettings

Names = tuple[str, ...]
"""Of a frontend or a backend, or of a backend and a server of it."""


def names_of(settings: LbSettings, columns: type[Column]) -> Sequence[Names]:
    """Of all that have such columns, in the order of their tallies."""
    if columns is FrontendColumn:
        return [(frontend.name,) for frontend in settings.frontends]
    if columns is BackendColumn:
        return [(backend.name,) for backend in settings.backends]
    return [(backend.name, server.name) for backend in settings.backends for server in backend.server]


class Totals:
    def __init__(self) -> None:
        self._living: dict[Counters, dict[type[Column], dict[Names, int]]] = {}
        self._ended: Counter[tuple[type[Column], int, Names]] = Counter()
        self._cleared: Counter[tuple[type[Column], int, Names]] = Counter()

    def begin(self, settings: LbSettings, counters: Counters) -> None:
        """Of a generation that is about to serve."""
        self._living[counters] = {
            columns: {names: index for index, names in enumerate(names_of(settings, columns))}
            for columns in (FrontendColumn, BackendColumn, ServerColumn)
        }

    def end(self, counters: Counters) -> None:
        """Its workers have ended: what it has counted stays."""
        for columns, indices in self._living.pop(counters, {}).items():
            for names, index in indices.items():
                for column in columns:
                    if not _is_in_progress(column):
                        self._ended[columns, column, names] += counters.total(column, index)

    def clear(self) -> None:
        """Count from 0 again. Only workers write their counters: what they have counted by now is taken off."""
        known = {(columns, names) for columns, _, names in self._ended}
        for living in self._living.values():
            known |= {(columns, names) for columns, indices in living.items() for names in indices}
        self._cleared.clear()
        for columns, names in known:
            for column in columns:
                if not _is_in_progress(column):
                    self._cleared[columns, column, names] = self.total(column, names)

    def total(self, column: Column, names: Names) -> int:
        columns = type(column)
        ended = self._ended[columns, column, names] - self._cleared[columns, column, names]
        return ended + sum(
            counters.total(column, index)
            for counters, indices in self._living.items()
            if (index := indices[columns].get(names)) is not None
        )


def _is_in_progress(column: Column) -> bool:
    return any(column is it for it in IN_PROGRESS)  # as numbers, they are equal to others
