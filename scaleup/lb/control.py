"""What an operator can ask of a node and do to it ●: the interface between the commands and the node.

`operations` is the node's; tests have another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from scaleup.lb.stats import Row
from scaleup.upstream.server import Live, Server


class Refused(Exception):
    """A command that was not done. Its text is the answer."""


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """One that is in progress. `id`: while it lives. `age`: seconds. `server`: None: none was tried yet."""

    id: str
    client: str
    frontend: str
    backend: str
    server: str | None
    age: float


class Control(Protocol):
    """What the node can be asked, and told to do."""

    @property
    def servers(self) -> Mapping[str, Mapping[str, Server]]:
        """Of each backend, by their names."""

    def rows(self) -> Sequence[Row]: ...

    def info(self) -> Mapping[str, object]: ...

    def date(self) -> str:
        """Local time: 23/Nov/2026:06:27:22.295"""

    def change(self, backend: str, server: Server, live: Live) -> None:
        """Raises Refused."""

    def force(self, backend: str, server: Server, up: bool) -> None: ...

    def set_maxconn(self, frontend: str, maxconn: int) -> None: ...

    async def sessions(self) -> Sequence[SessionFacts]: ...

    async def shut_down(self, session: str) -> bool:
        """False: there is none of this id."""

    def shut_down_all(self, backend: str, server: Server) -> None: ...

    def clear(self, everything: bool) -> None: ...

    async def heard(self) -> None:
        """Until the workers know of all changes, or a moment has passed in which they should."""


def server_of(control: Control, words: Sequence[str]) -> tuple[str, Server]:
    """The backend's name and the server of `BACKEND/SERVER`, the first word. Raises Refused."""
    backend, slash, name = words[0].partition("/") if words else ("", "", "")
    if not slash:
        raise Refused("Require 'backend/server'.")
    if backend not in control.servers:
        raise Refused("No such backend.")
    server = control.servers[backend].get(name)
    if server is None:
        raise Refused("No such server.")
    return backend, server


def whole(text: str) -> int | None:
    """A whole number; None: it is not written as one."""
    return int(text) if re.fullmatch("-?[0-9]{1,9}", text) else None
