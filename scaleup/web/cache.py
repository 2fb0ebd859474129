"""Small files in memory, of a bounded size in all: what was used longest ago goes first. ●"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaleup.web.conditions import Version

OVERHEAD_BYTES = 2048
"""Of an entry beside its content, roughly."""


@dataclass(slots=True)
class Variant:
    """One representation: in one coding. `lines`: the fields of a response with it, but for its length."""

    version: Version
    content: bytes
    lines: bytes


@dataclass(slots=True)
class Entry:
    """`variants`: by coding. `fresh_until`: when it has to be looked at again, by the clock that is passed in."""

    variants: Mapping[bytes, Variant]
    content_type: bytes
    fresh_until: float

    @property
    def size(self) -> int:
        return OVERHEAD_BYTES + sum(len(variant.content) for variant in self.variants.values())


class Cache:
    """`capacity`: bytes. By the path, in the one spelling that `targets` would give it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._entries: dict[str, Entry] = {}

    def get(self, path: str, now: float) -> Entry | None:
        entry = self._entries.get(path)
        if entry is None or now >= entry.fresh_until:
            return None
        del self._entries[path]
        self._entries[path] = entry  # the last one now
        return entry

    def put(self, path: str, entry: Entry) -> None:
        self.drop(path)
        self._entries[path] = entry
        self._size += entry.size
        while self._size > self._capacity:
            self.drop(next(iter(self._entries)))

    def drop(self, path: str) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            self._size -= entry.size
