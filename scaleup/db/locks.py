"""Locks with names, owners and time-outs: GET_LOCK, and the right to write.

A connection is a thread here, so waiting is simply waiting. Whoever leaves gives up all that it holds, and
is woken when it waits.
"""

from __future__ import annotations

import threading

WRITING = ""
"""The name of the right to write: no lock of GET_LOCK can have it."""


class Locks:
    """Owners are any objects, compared by identity. Who takes a lock twice has to release it twice."""

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}
        self._times: dict[str, int] = {}
        self._gone: set[object] = set()
        self._changed = threading.Condition()

    def acquire(self, name: str, owner: object, timeout: float) -> bool:
        """Whether it was got within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._owners.get(name, owner) is owner or owner in self._gone, max(timeout, 0)
            )
            if self._owners.get(name, owner) is not owner or owner in self._gone:
                return False
            self._owners[name] = owner
            self._times[name] = self._times.get(name, 0) + 1
            return True

    def release(self, name: str, owner: object) -> bool | None:
        """None when nobody holds it, False when somebody else does."""
        with self._changed:
            if name not in self._owners:
                return None
            if self._owners[name] is not owner:
                return False
            self._times[name] -= 1
            if self._times[name] == 0:
                self._free(name)
            return True

    def interrupt(self, owner: object) -> None:
        """Let it wait no more, now or later: its client has gone."""
        with self._changed:
            self._gone.add(owner)
            self._changed.notify_all()

    def forget(self, owner: object) -> None:
        """Release all that it holds."""
        with self._changed:
            for name in [name for name, held_by in self._owners.items() if held_by is owner]:
                self._free(name)
            self._gone.discard(owner)

    def _free(self, name: str) -> None:
        del self._owners[name], self._times[name]
        self._changed.notify_all()
