"""An operator's desk with two proxies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from desk import Desk


@pytest.fixture
def desk() -> Iterator[Desk]:
    with contextlib.closing(Desk()) as desk:
        yield desk
