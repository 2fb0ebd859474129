"""How `status`, `start`, `stop` and `restart` reach a running stack.

A Unix socket of mode 600 in the run directory; one JSON object a line, a request and its answer:
`{"command": "stop", "name": "web1"}` → `{"error": "…"}` or the status as `status --json` prints it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from scaleup.errors import ScaleUpError, StartupError

MAX_LINE_BYTES = 64 * 1024
REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 90.0
"""A start may take as long as a part may (see part.START_SECONDS)."""

Handler = Callable[[str, str | None], Awaitable[dict[str, Any]]]


class ControlServer:
    """Answers requests with `handler(command, name)`; a ScaleUpError becomes `error`."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path, self._handler = path, handler
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises StartupError when the socket cannot be made."""
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=MAX_LINE_BYTES)
        except OSError as error:
            raise StartupError(f"{self._path}: {error.strerror or error}; see --run-dir") from None
        finally:
            os.umask(before)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(REQUEST_SECONDS):
                await writer.drain()
        except (TimeoutError, OSError):
            pass  # the asker has gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = json.loads(await reader.readline())
            command, name = str(request["command"]), request.get("name")
        except (ValueError, LookupError, TypeError, AttributeError, TimeoutError, OSError):
            return {"error": 'not a request: write {"command": …, "name": …} and a new line'}
        try:
            return await self._handler(command, name)
        except ScaleUpError as error:
            return {"error": str(error)}


def is_served(path: Path) -> bool:
    """Whether a stack listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(REQUEST_SECONDS)
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def ask(path: Path, command: str, name: str | None = None) -> dict[str, Any]:
    """Send one request. Raises StartupError when no stack runs, or when it says no."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps({"command": command, "name": name}).encode() + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
        except TimeoutError:
            raise StartupError(
                f"no answer within {ANSWER_SECONDS:g} s; see the logs in {path.parent}"
            ) from None
        except OSError:
            raise StartupError(
                f"no stack runs in {path.parent}: start one with `python -m scaleup up`, or say --run-dir"
            ) from None
    if not line:
        raise StartupError("the stack was stopped while it was asked")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise StartupError(answer["error"])
    return answer
