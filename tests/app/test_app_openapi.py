"""/api/openapi.json is true: schemathesis asks for all that it promises, and for much that it rules out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from app_harness import App
from schemathesis_program import PROGRAM, find_untruths

from scaleup.app.views import Views


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(PROGRAM is None, reason="schemathesis is not installed (extra: test)")
async def test_schemathesis_finds_it_true(app: App, tmp_path: Path) -> None:
    assert await find_untruths(str(app.endpoint), tmp_path, examples=25) is None


async def test_it_describes_every_route_and_no_other(app: App) -> None:
    async with app.client.get("/api/openapi.json") as response:
        assert response.content_type == "application/json"
        described = json.loads(await response.text())["paths"]
    told = {
        (path, method.upper())
        for path, item in described.items()
        for method in item
        if method != "parameters"
    }
    assert told == served() - {
        *((path, "GET") for path in ("/healthz", "/readyz")),  # for who runs it, not for who uses it
        ("/api/openapi.json", "GET"),
    }


def served() -> set[tuple[str, str]]:
    views: Any = Views.__new__(Views)
    return {(route.path, route.method) for route in Views.routes(views)}
