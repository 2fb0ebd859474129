"""Which request a line of the log is about, and the client's way to ask for it: `X-Request-Id`.

A proxy's or client's own id is kept when it is harmless, so that one request has one id in every tier; else it
gets a new one. It goes back with the response, into the access log, and into what is logged on the request's way.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar

HEADER = "X-Request-Id"

NONE = "-"
"""For what we do of our own accord."""
current: ContextVar[str] = ContextVar("request id", default=NONE)

# As the web tier's; nothing that a line of a log could be faked with.
_HARMLESS = re.compile(r"[0-9A-Za-z._:/+=-]{1,128}")


def begin(given: str | None) -> None:
    """A request begins. `given`: its id, by who sent it."""
    current.set(given if given and _HARMLESS.fullmatch(given) else f"{random.getrandbits(64):016x}")


def begin_once(given: str | None) -> None:
    """As `begin`, unless it has begun."""
    if current.get() == NONE:
        begin(given)
