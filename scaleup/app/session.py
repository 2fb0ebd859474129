"""What a client has seen of the database, which it carries along: its reads never go back in time.

    X-Database-Position: 0-1-57            with each response that asked a database which has replicas
    Set-Cookie: database-position-1f=…     with those of writes, and of a client that sent one

Either comes back with the next request, which is then read from a server that has got as far. The cookie is for
browsers; a program that forwards the header can hand it on to others, who then see what it saw.

A browser sends requests beside each other, and of two cookies with one name it keeps the one that came last, which
may be the older one. So each cookie has a name of its own, and a response removes those that its request brought,
since its own covers them. What came meanwhile stays: what a browser has is always all that it has seen.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar

from aiohttp import web

from scaleup.app.position import NEWEST, START, Position

HEADER = "X-Database-Position"
COOKIE = "database-position"
"""How its name begins."""
_OURS = re.compile(rf"{COOKIE}(-[0-9a-f]{{1,8}})?", re.ASCII)
"""A client may send names that no answer may have, as with brackets, so that they could not even be removed."""
COOKIE_SECONDS = 3600
"""Who comes back later is somebody else: it is longer than a replica may be behind while the primary is there."""
MAX_COOKIES = 32
"""Of a request that are looked at; one more, and it is read from the primary."""


class Session:
    """Of one request. `needed`: what must be seen. `seen`: what was seen or done since. `cookies`: that it sent."""

    def __init__(
        self, needed: Position = START, *, cookies: tuple[str, ...] = (), keeps: bool = False
    ) -> None:
        self.needed, self._cookies, self._keeps = needed, cookies, keeps
        self.seen: Position | None = None

    def tell(self, response: web.StreamResponse) -> None:
        if self.seen is None:
            return
        told = self.seen if self.needed.is_newest else self.needed.with_(self.seen)
        response.headers[HEADER] = str(told)
        if not self._keeps or (len(self._cookies) == 1 and told == self.needed):
            return
        for name in self._cookies:
            response.del_cookie(name, path="/", httponly=True, samesite="Lax")
        response.set_cookie(
            f"{COOKIE}-{random.getrandbits(32):x}",
            str(told),
            max_age=COOKIE_SECONDS,
            path="/",
            httponly=True,
            samesite="Lax",
        )


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def begin(request: web.Request) -> Session:
    """A request begins. What it sends that is no position is taken for one that only the primary has."""
    cookies = {}
    if "Cookie" in request.headers:  # else aiohttp would look for them all the same
        cookies = {name: text for name, text in request.cookies.items() if _OURS.fullmatch(name)}
    needed = START if len(cookies) <= MAX_COOKIES else NEWEST
    for text in (*cookies.values(), *request.headers.getall(HEADER, ())):
        needed = needed.with_(_read(text))
    session = Session(
        needed, cookies=tuple(cookies), keeps=bool(cookies) or request.method not in ("GET", "HEAD")
    )
    _current.set(session)
    return session


def _read(text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError:
        return NEWEST


def needed() -> Position:
    """What the current request must see."""
    session = _current.get()
    return START if session is None else session.needed


def saw(position: Position) -> None:
    """The current request has seen so much, at most; or done it."""
    if (session := _current.get()) is not None:
        session.seen = position if session.seen is None else session.seen.with_(position)
