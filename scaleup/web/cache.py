"""Files that are ready to be sent, of a bounded size in all: what was used longest ago goes first. ●

What nobody has asked for goes as well, after a while: a large file is open, and takes its space on the disk for so
long, also when it was deleted. Whoever has the cache asks for that now and then (`expire`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from scaleup.web.conditions import Version

OVERHEAD_BYTES = 2048
"""Of an entry beside its content, roughly."""
OPEN_FILE_BYTES = 256 * 1024
"""What an open file counts for: descriptors are few."""

UNUSED_SECONDS = 60.0
"""As nginx's `open_file_cache … inactive`."""

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
    """`variants`: by coding. `made_of`: differs when the files do. `fresh_until`: when they have to be looked at
    again, by the clock that is passed in.
    """

    content_type: bytes
    variants: Mapping[bytes, Variant[Open]]
    made_of: Hashable
    fresh_until: float = 0.0

    @property
    def size(self) -> int:
        return OVERHEAD_BYTES + sum(
            len(variant.content) if isinstance(variant.content, bytes) else OPEN_FILE_BYTES
            for variant in self.variants.values()
        )


class Cache(Generic[Open]):
    """`capacity`: bytes. By the path, in the one spelling that `targets` would give it, or what is no path."""

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

    def stale(self, path: str) -> Entry[Open] | None:
        """What is there, however old it is."""
        return self._entries.get(path)

    def put(self, path: str, entry: Entry[Open], now: float) -> None:
        self.drop(path)
        self._entries[path] = entry
        self._size += entry.size
        self.expire(now)

    def expire(self, now: float) -> bool:
        """Let go of what is too old or too much; whether anything is left."""
        while self._entries:
            oldest = next(iter(self._entries))
            if self._size <= self._capacity and self._entries[oldest].fresh_until + UNUSED_SECONDS > now:
                return True
            self.drop(oldest)
        return False

    def clear(self) -> None:
        self._entries.clear()
        self._size = 0

    def drop(self, path: str) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            self._size -= entry.size
