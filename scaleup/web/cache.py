"""Files that are ready to be sent, of a bounded size in all: what was used longest ago goes first. ●"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from scaleup.web.conditions import Version

OVERHEAD_BYTES = 2048
"""Of an entry beside its content, roughly."""
OPEN_FILE_BYTES = 256 * 1024
"""What an open file counts for: descriptors are few."""

Open = TypeVar("Open")
"""An open file."""


@dataclass(frozen=True, slots=True)
class Variant(Generic[Open]):
    """One representation of a file, in one coding; in memory, or open.

    The fields of a response, but for its length: `whole` with all of it, `part` with a range of it, `unchanged` for
    304 (RFC 9110 §15.4.5).
    """

    version: Version
    whole: bytes
    part: bytes
    unchanged: bytes
    size: int
    content: bytes | Open


@dataclass(slots=True)
class Entry(Generic[Open]):
    """`variants`: by coding. `fresh_until`: when it has to be looked at again, by the clock that is passed in."""

    content_type: bytes
    variants: Mapping[bytes, Variant[Open]]
    fresh_until: float = 0.0

    @property
    def size(self) -> int:
        return OVERHEAD_BYTES + sum(
            len(variant.content) if isinstance(variant.content, bytes) else OPEN_FILE_BYTES
            for variant in self.variants.values()
        )


class Cache(Generic[Open]):
    """`capacity`: bytes. By the path, in the one spelling that `targets` would give it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._entries: dict[str, Entry[Open]] = {}

    def get(self, path: str, now: float) -> Entry[Open] | None:
        entry = self._entries.get(path)
        if entry is None or now >= entry.fresh_until:
            return None
        del self._entries[path]
        self._entries[path] = entry  # the last one now
        return entry

    def put(self, path: str, entry: Entry[Open]) -> None:
        self.drop(path)
        self._entries[path] = entry
        self._size += entry.size
        while self._size > self._capacity:
            self.drop(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self._size = 0

    def drop(self, path: str) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            self._size -= entry.size
