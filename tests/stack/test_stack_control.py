"""The control socket: requests, refusals, rubbish."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scaleup.errors import StartupError
from scaleup.net.addresses import Endpoint
from scaleup.stack.control import ControlServer, ask, is_served
from scaleup.stack.part import Part
from scaleup.stack.plan import Spec
from scaleup.stack.rundir import RunDir


async def handler(command: str, name: str | None) -> dict[str, Any]:
    if command == "stop":
        raise StartupError(f"{name} does not run")
    return {"command": command, "name": name}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(tmp_path / "control.sock", handler)
    await server.start()
    yield tmp_path / "control.sock"
    await server.stop()


async def test_answers(path: Path) -> None:
    assert await asyncio.to_thread(ask, path, "start", "web1") == {"command": "start", "name": "web1"}


async def test_refuses_with_the_reason(path: Path) -> None:
    with pytest.raises(StartupError, match="web1 does not run"):
        await asyncio.to_thread(ask, path, "stop", "web1")


async def test_an_error_of_ours_is_not_blamed_on_the_asker(tmp_path: Path) -> None:
    """A part whose log cannot be written, because somebody has removed the run directory."""
    spec = Spec("web", "web1", Endpoint("127.0.0.1", 1), ("scaleup.web",))
    part = Part(spec, RunDir(tmp_path / "removed"), lambda _part, _event, _fields: None)

    async def start(_command: str, _name: str | None) -> dict[str, Any]:
        await part.start()
        return {}

    server = ControlServer(tmp_path / "control.sock", start)
    await server.start()
    with pytest.raises(StartupError, match=r"web1 cannot be started: .*No such file"):
        await asyncio.to_thread(ask, tmp_path / "control.sock", "start", "web1")
    await server.stop()


async def test_only_the_owner_may_connect(path: Path) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize("rubbish", [b"\n", b"{}\n", b"[]\n", b"\xff\n", b'"x"\n', b"x" * 100_000 + b"\n"])
async def test_rubbish_is_answered_and_does_no_harm(path: Path, rubbish: bytes) -> None:
    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.settimeout(20)
            with contextlib.suppress(ConnectionError):  # what is too long is answered before it has all come
                sock.sendall(rubbish)
            return sock.recv(65536)

    assert b"not a request" in await asyncio.to_thread(talk)
    assert await asyncio.to_thread(ask, path, "status") == {"command": "status", "name": None}


async def test_who_hangs_up_does_no_harm(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    assert await asyncio.to_thread(is_served, path)


def test_nobody_there(tmp_path: Path) -> None:
    assert not is_served(tmp_path / "control.sock")
    with pytest.raises(StartupError, match="no stack runs in"):
        ask(tmp_path / "control.sock", "status")
