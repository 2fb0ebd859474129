"""The HTTP interface, one method for each route.

    POST   /api/links              {"url": …, "code"?: …} → 201, Location, the link; with an Idempotency-Key it may
                                   be sent again, and is done once
    GET    /api/links?limit&after  {"links": [newest first], "next": what to send as `after`, or null}
    GET    /api/links/CODE         the link: {"code", "url", "short", "clicks", "created"}, with an ETag
    DELETE /api/links/CODE         204
    GET    /l/CODE                 302, and the click is counted (not for HEAD), within a second
    GET    /api/whoami             which process, which client, which database
    GET    /api/openapi.json       all of this, for programs
    GET    /healthz                this process answers; it says nothing of the database
    GET    /readyz                 this process can serve; else 503 with the reason

An error is a problem (see problems.py): 400 for a value that cannot be taken, 404, 405, 408, 409 for a code
that is taken, 413, 415, 422 for a key that came with another request before, and 503 while the database is away
or overloaded. A 503 says in `outcome` whether a change was made: `failed` (it was not) or `unknown`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, TypeVar

from aiohttp import web
from pydantic_core import to_json

from scaleup.app.client import Network, client_address
from scaleup.app.idempotency import KeyReusedError, read_key
from scaleup.app.links import Link, check_code, check_url, is_code, new_code
from scaleup.app.problems import RETRY, ProblemError
from scaleup.app.store import CodeTakenError, Store
from scaleup.app.upkeep import Clicks
from scaleup.net.addresses import Endpoint

T = TypeVar("T")

BODY_SECONDS = 10.0
"""How long a client may take to send a body: it is a few kilobytes."""
PAGE_SIZE, MAX_PAGE_SIZE = 20, 100
MAX_ID = 2**63 - 1
NEW_CODE_TRIES = 5
"""Each meets a taken code with a chance of links / 2.2e12."""
JSON = {"Content-Type": "application/json; charset=utf-8"}
_DESCRIPTION = files("scaleup.app").joinpath("openapi.json").read_bytes()


class Views:
    """What the views need, and the views."""

    def __init__(
        self,
        store: Store,
        clicks: Clicks,
        *,
        name: str,
        database: Callable[[], Endpoint],
        trusted: Sequence[Network],
        readiness: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._store, self._clicks, self._name, self._database = store, clicks, name, database
        self._trusted, self._readiness = trusted, readiness

    def routes(self) -> list[web.RouteDef]:
        return [  # of those that begin alike, what is asked for most often first: aiohttp tries one after the other
            web.get("/l/{code}", self.follow),
            web.get("/api/links/{code}", self.show),
            web.delete("/api/links/{code}", self.delete),
            web.post("/api/links", self.create),
            web.get("/api/links", self.page),
            web.get("/api/whoami", self.whoami),
            web.get("/api/openapi.json", self.describe),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
        ]

    async def create(self, request: web.Request) -> web.Response:
        members = await _read_members(request, allowed=("url", "code"))
        url = check_url(members.get("url"))
        code = members.get("code")
        if code is not None:
            check_code(code)
        if (header := request.headers.get("Idempotency-Key")) is None:
            link = await self._add(code, lambda code, now: self._store.add(code, url, now))
            return _created(to_json(link.as_json()).decode())
        key = read_key(header, {"url": url, "code": code})

        async def add_once(code: str, now: datetime) -> str:
            response = to_json(Link(code, url, 0, now).as_json()).decode()
            return await self._store.add_once(key, response, code, url, now)

        try:
            return _created(await self._add(code, add_once))
        except KeyReusedError:
            detail = "this key came with another request before: use a new one for each"
            raise ProblemError(422, detail, field="Idempotency-Key") from None

    async def _add(self, code: str | None, add: Callable[[str, datetime], Awaitable[T]]) -> T:
        """Call `add` with the code that was chosen, or with new ones until one is free."""
        for _ in range(NEW_CODE_TRIES if code is None else 1):
            try:
                return await add(code or new_code(secrets.randbelow), now())
            except CodeTakenError:
                continue
        if code is not None:
            raise ProblemError(409, f"the code {code!r} is taken", field="code")
        raise ProblemError(503, "no free code was found", outcome="failed", headers=RETRY)

    async def page(self, request: web.Request) -> web.Response:
        limit = _number(request, "limit", 1, MAX_PAGE_SIZE) or PAGE_SIZE
        found = await self._store.page(limit + 1, after=_number(request, "after", 0, MAX_ID))
        links = found[:limit]
        following = str(links[-1][0]) if len(found) > limit else None
        return _answer(to_json({"links": [link.as_json() for _, link in links], "next": following}))

    async def show(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        link = await self._store.get(code) if is_code(code) else None
        if link is None:
            raise _no_link(code)
        body = to_json(link.as_json())
        tag = hashlib.blake2b(body, digest_size=16).hexdigest()
        headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}  # to be asked for again: the clicks grow
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return _answer(body, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        if not is_code(code) or not await self._store.delete(code):
            raise _no_link(code)
        return web.Response(status=204)

    async def follow(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        url = await self._store.url(code) if is_code(code) else None
        if url is None:
            raise _no_link(code)
        if request.method != "HEAD":  # a preview is not a visit
            self._clicks.count(code)
        # Every visit is to be counted, so nobody may remember the answer.
        return web.Response(status=302, headers={"Location": url, "Cache-Control": "no-store"})

    async def whoami(self, request: web.Request) -> web.Response:
        server = await self._store.who()
        forwarded_for = request.headers.getall("X-Forwarded-For", [])
        told = {
            "application": {"name": self._name, "pid": os.getpid()},
            "client": {"address": client_address(request.remote or "", forwarded_for, self._trusted)},
            "database": {
                "engine": server.engine,
                "version": server.version,
                "address": str(self._database()),
                "connection": server.connection,
            },
        }
        return _answer(to_json(told))

    async def describe(self, _request: web.Request) -> web.Response:
        return _answer(_DESCRIPTION)

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        if (reason := await self._readiness()) is not None:
            raise ProblemError(503, reason)
        return web.Response(text="ready\n")


def _created(link: str) -> web.Response:
    """`link`: as JSON, of this request or of the first one with its key."""
    headers = {"Location": f"/api/links/{json.loads(link)['code']}"}
    return _answer(link.encode(), status=201, headers=headers)


def _answer(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=JSON if headers is None else {**JSON, **headers})


def _no_link(code: str) -> ProblemError:
    return ProblemError(404, f"there is no link {code!r}")


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _number(request: web.Request, name: str, least: int, most: int) -> int | None:
    """A number of the query string, or None when it is not there."""
    text = request.query.get(name)
    if text is None:
        return None
    # isdigit() alone takes digits of every script; the length bounds what int() has to do.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise ProblemError(400, f"{name} must be a number from {least} to {most}", field=name)
    return int(text)


async def _read_members(request: web.Request, allowed: Sequence[str]) -> dict[str, Any]:
    """The body as a JSON object that has no other members than those."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        headers = {"Accept-Post": "application/json", "Accept-Encoding": "identity"}  # RFC 9110 §15.5.16
        raise ProblemError(415, "send application/json, not compressed", headers=headers)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            members = json.loads(await request.read())
    except TimeoutError:
        detail = f"the body was not there within {BODY_SECONDS:g} s"
        raise ProblemError(408, detail, closes=True) from None  # RFC 9110 §15.5.9
    except (web.RequestPayloadError, ConnectionError) as error:
        raise ProblemError(400, f"the body breaks off: {error}") from None
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested by the thousand
        raise ProblemError(400, f"the body is not JSON: {error}") from None
    if not isinstance(members, dict):
        raise ProblemError(400, "the body must be a JSON object")
    for name in members:
        if name not in allowed:
            raise ProblemError(400, f"there is no member {name!r}; known: {', '.join(allowed)}", field=name)
    return members
