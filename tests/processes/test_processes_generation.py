"""The workers of one configuration, as real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes_harness import PROGRAMS, until

from scaleup.processes import keeper
from scaleup.processes.generation import Generation
from scaleup.processes.logs import Destination

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_factories=["uvloop"])]


class Kids(Generation):
    def __init__(self, folder: Path) -> None:
        super().__init__("attached", ["kid1", "kid2"], 1.0)
        self._log = Destination(file=str(folder / "log"))

    def _init(self, row: int) -> tuple[Sequence[int], dict[str, Any]]:
        return [], {"log": self._log, "greeting": "hello"}


async def test_a_worker_that_cannot_be_started_again_is_a_fault_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sockets go on getting connections, and nobody takes them: others should have those."""
    monkeypatch.setenv("PYTHONPATH", PROGRAMS["PYTHONPATH"])
    monkeypatch.setattr(keeper, "SHORT_LIFE_SECONDS", 0.05)
    kids = Kids(tmp_path)
    try:
        assert kids.fault == "no worker accepts"
        await kids.start()
        assert kids.fault is None
        monkeypatch.setenv("PYTHONHOME", str(tmp_path / "none"))  # as if it was removed
        os.kill(kids.serving()[0].pid, signal.SIGKILL)
        await until(lambda: kids.fault == "kid1 cannot be started again")
        assert list(kids.serving()) == [1]
        monkeypatch.delenv("PYTHONHOME")
        await until(lambda: kids.fault is None)
    finally:
        await kids.end()
