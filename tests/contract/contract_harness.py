"""An application that runs, and questions to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from needs import requires

NAMES = [
    pytest.param("scaleup", marks=requires("mariadbd")),
    pytest.param("express", marks=requires("mariadbd", "node", "npm")),
    pytest.param("flask", marks=requires("mariadbd")),
]

URL = "https://example.org/?q=1"


@dataclass(frozen=True)
class Application:
    """`client` speaks to it."""

    name: str
    address: tuple[str, int]
    client: aiohttp.ClientSession


@contextlib.asynccontextmanager
async def connect(name: str, address: tuple[str, int]) -> AsyncIterator[Application]:
    async with aiohttp.ClientSession(f"http://{address[0]}:{address[1]}") as client:
        yield Application(name, address, client)


async def answer(
    app: Application, method: str, path: str, expected: int, **options: Any
) -> tuple[Any, aiohttp.ClientResponse]:
    """The JSON of a response, which must have that status; an error must be a problem (RFC 9457)."""
    async with app.client.request(method, path, allow_redirects=False, **options) as response:
        text = await response.text()
        assert response.status == expected, (options, text)
        assert response.headers["X-Served-By"] == app.name
        if expected >= 400 and method != "HEAD":
            assert response.content_type == "application/problem+json"
            problem = await response.json()
            assert problem["status"] == expected
            assert problem["type"] == "about:blank"
            assert problem["title"]
            assert problem["detail"]
            return problem, response
        is_json = response.content_type == "application/json" and method != "HEAD"
        return (await response.json() if is_json else None), response


async def add(app: Application, url: str = URL, **more: Any) -> str:
    link, _ = await answer(app, "POST", "/api/links", 201, json={"url": url} | more)
    code: str = link["code"]
    return code
