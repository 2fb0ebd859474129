"""How long the answer to a request is waited for: `X-Request-Timeout`, in seconds, by who sent it.

The web tier says so with each request (docs/web.md). A write gets no more time than that, be it for a connection,
the server's answer or another try: nobody would hear of it. What only reads is bounded by --database-timeout alone,
since one query may be for many requests.
"""

from __future__ import annotations

import asyncio
import math
import re
from contextvars import ContextVar

HEADER = "X-Request-Timeout"

_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", re.ASCII)
_current: ContextVar[float] = ContextVar("deadline", default=math.inf)
"""By the loop's clock."""


def begin(given: str | None) -> None:
    """A request begins. `given`: what its header says; what is no number of seconds bounds nothing."""
    if given and _SECONDS.fullmatch(given):
        _current.set(asyncio.get_running_loop().time() + float(given))
    else:
        _current.set(math.inf)


def left() -> float:
    """Seconds: below zero when it is over, inf when nobody said."""
    return _current.get() - asyncio.get_running_loop().time()
