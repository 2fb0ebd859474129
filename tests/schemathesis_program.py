"""schemathesis, as a program: it asks for all that an OpenAPI description promises, and much that it rules out."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

PROGRAM = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")

CONFIGURATION = """
[checks.positive_data_acceptance]
# A URL can match its pattern and still have a host that is none; a code can be taken, or lead to nothing.
expected-statuses = [201, 200, 204, 302, 304, 400, 404, 409, 422]
[checks.ensure_resource_availability]
# What is sent again with its Idempotency-Key is answered as the first time, even if the link was deleted since.
enabled = false
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 413, 415, 422]
"""


async def find_untruths(host: str, folder: Path, *, examples: int) -> str | None:
    """What is not as `http://host/api/openapi.json` says; None: nothing. `examples`: of each operation."""
    assert PROGRAM is not None
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "run", f"http://{host}/api/openapi.json", "--max-examples", str(examples), "--seed", "7"),
        *("--generation-database=none", "--request-timeout=20"),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(150):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return None if process.returncode == 0 and b"No issues found" in said else said.decode()
