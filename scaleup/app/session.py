"""What a client has seen of the database, which it carries along: its reads never go back in time.

    X-Database-Position: 0-1-57          with each response that asked a database which has replicas
    Set-Cookie: database-position=…      with those of writes, and of a client that sent one

Either comes back with the next request, which is then read from a server that has got as far. The cookie is for
browsers; a program that forwards the header can hand it on to others, who then see what it saw.
"""

from __future__ import annotations

from contextvars import ContextVar

from aiohttp import web

from scaleup.app.position import START, Position

HEADER = "X-Database-Position"
COOKIE = "database-position"
COOKIE_SECONDS = 3600
"""Longer than a replica that is read from can be behind."""


class Session:
    """Of one request. `needed`: what must be seen. `seen`: what was seen or done since."""

    def __init__(self, needed: Position = START, *, keeps: bool = False) -> None:
        self.needed, self._keeps = needed, keeps
        self.seen: Position | None = None

    def tell(self, response: web.StreamResponse) -> None:
        if self.seen is None:
            return
        position = str(self.needed.with_(self.seen) if not self.needed.is_newest else self.seen)
        response.headers[HEADER] = position
        if self._keeps:
            response.set_cookie(
                COOKIE, position, max_age=COOKIE_SECONDS, path="/", httponly=True, samesite="Lax"
            )


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def begin(request: web.Request) -> Session:
    """A request begins. What it sends that is no position counts as none."""
    needed, cookie = START, request.cookies.get(COOKIE)
    for text in (cookie, request.headers.get(HEADER)):
        if text:
            try:
                needed = needed.with_(Position.parse(text))
            except ValueError:
                continue
    session = Session(needed, keeps=cookie is not None or request.method not in ("GET", "HEAD"))
    _current.set(session)
    return session


def needed() -> Position:
    """What the current request must see."""
    session = _current.get()
    return START if session is None else session.needed


def saw(position: Position) -> None:
    """The current request has seen so much, at most; or done it."""
    if (session := _current.get()) is not None:
        session.seen = position if session.seen is None else session.seen.with_(position)
