"""The HTTP interface, one method for each route.

    POST   /api/links              {"url": …, "code"?: …} → 201, Location, the link
    GET    /api/links?limit&after  {"links": [newest first], "next": what to send as `after`, or null}
    GET    /api/links/CODE         the link: {"code", "url", "short", "clicks", "created"}
    DELETE /api/links/CODE         204
    GET    /l/CODE                 302, and the click is counted (not for HEAD)
    GET    /api/whoami             which process, which client, which database
    GET    /healthz                this process answers; it says nothing of the database
    GET    /readyz                 this process can serve; else 503 with the reason

An error is a problem (see problems.py): 400 for a value that cannot be taken, 404, 405, 408, 409 for a code
that is taken, 413, 415, and 503 while the database is away.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from scaleup.app.address import DatabaseAddress
from scaleup.app.client import Network, client_address
from scaleup.app.links import Link, check_code, check_url, is_code, new_code
from scaleup.app.problems import RETRY, ProblemError
from scaleup.app.store import CodeTakenError, Store

BODY_SECONDS = 10.0
"""How long a client may take to send a body: it is a few kilobytes."""
PAGE_SIZE, MAX_PAGE_SIZE = 20, 100
MAX_ID = 2**63 - 1
NEW_CODE_TRIES = 5
"""Each meets a taken code with a chance of links / 2.2e12."""


class Views:
    """What the views need, and the views."""

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        database: DatabaseAddress,
        trusted: Sequence[Network],
        readiness: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._store, self._name, self._database = store, name, database
        self._trusted, self._readiness = trusted, readiness

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/links", self.create),
            web.get("/api/links", self.page),
            web.get("/api/links/{code}", self.show),
            web.delete("/api/links/{code}", self.delete),
            web.get("/l/{code}", self.follow),
            web.get("/api/whoami", self.whoami),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
        ]

    async def create(self, request: web.Request) -> web.Response:
        members = await _read_members(request, allowed=("url", "code"))
        url = check_url(members.get("url"))
        code = members.get("code")
        link = await (self._add_new(url) if code is None else self._add_chosen(check_code(code), url))
        location = {"Location": f"/api/links/{link.code}"}
        return web.json_response(link.as_json(), status=201, headers=location)

    async def _add_chosen(self, code: str, url: str) -> Link:
        try:
            return await self._store.add(code, url, _now())
        except CodeTakenError:
            raise ProblemError(409, f"the code {code!r} is taken", field="code") from None

    async def _add_new(self, url: str) -> Link:
        for _ in range(NEW_CODE_TRIES):
            try:
                return await self._store.add(new_code(secrets.randbelow), url, _now())
            except CodeTakenError:
                continue
        raise ProblemError(503, "no free code was found", headers=RETRY)

    async def page(self, request: web.Request) -> web.Response:
        limit = _number(request, "limit", 1, MAX_PAGE_SIZE) or PAGE_SIZE
        found = await self._store.page(limit + 1, after=_number(request, "after", 0, MAX_ID))
        links = found[:limit]
        following = str(links[-1].id) if len(found) > limit else None
        return web.json_response({"links": [link.as_json() for link in links], "next": following})

    async def show(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        link = await self._store.get(code) if is_code(code) else None
        if link is None:
            raise _no_link(code)
        return web.json_response(link.as_json())

    async def delete(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        if not is_code(code) or not await self._store.delete(code):
            raise _no_link(code)
        return web.Response(status=204)

    async def follow(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        url: str | None = None
        if is_code(code) and request.method == "HEAD":  # a preview, not a visit
            link = await self._store.get(code)
            url = link.url if link else None
        elif is_code(code):
            url = await self._store.visit(code)
        if url is None:
            raise _no_link(code)
        # Every visit is to be counted, so nobody may remember the answer.
        return web.Response(status=302, headers={"Location": url, "Cache-Control": "no-store"})

    async def whoami(self, request: web.Request) -> web.Response:
        server = await self._store.who()
        forwarded_for = request.headers.getall("X-Forwarded-For", [])
        return web.json_response(
            {
                "application": {"name": self._name, "pid": os.getpid()},
                "client": {"address": client_address(request.remote or "", forwarded_for, self._trusted)},
                "database": {
                    "engine": server.engine,
                    "version": server.version,
                    "address": str(self._database.endpoint),
                    "connection": server.connection,
                },
            }
        )

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        if (reason := await self._readiness()) is not None:
            raise ProblemError(503, reason)
        return web.Response(text="ready\n")


def _no_link(code: str) -> ProblemError:
    return ProblemError(404, f"there is no link {code!r}")


def _now() -> datetime:
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
        headers = {"Connection": "close"}  # RFC 9110 §15.5.9
        raise ProblemError(
            408, f"the body was not there within {BODY_SECONDS:g} s", headers=headers
        ) from None
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
