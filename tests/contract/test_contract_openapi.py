"""Each application is as /api/openapi.json says, which all of them serve."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract_harness import NAMES, Application
from schemathesis_program import PROGRAM, find_untruths

from scaleup.app import __file__ as scaleup_app

pytestmark = pytest.mark.timeout(240)  # the first one waits for a database, and of npm for what Express needs


async def test_it_is_the_same_description(app: Application) -> None:
    async with app.client.get("/api/openapi.json") as response:
        assert response.content_type == "application/json"
        assert await response.read() == Path(scaleup_app).with_name("openapi.json").read_bytes()


@pytest.mark.skipif(PROGRAM is None, reason="schemathesis is not installed (extra: test)")
@pytest.mark.parametrize("app", NAMES[1:], indirect=True)
async def test_it_is_true(app: Application, tmp_path: Path) -> None:
    """Of the stand-ins, a sample; tests/app asks ours for more."""
    host, port = app.address
    assert await find_untruths(f"{host}:{port}", tmp_path, examples=5) is None
