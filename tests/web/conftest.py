"""An application that records what it gets, for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from web.recorder import Recorder


@pytest.fixture(scope="module")
def application() -> Iterator[Recorder]:
    recorder = Recorder()
    with recorder.listening():
        yield recorder
