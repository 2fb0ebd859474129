from __future__ import annotations

from collections.abc import Iterator

import pytest
from machine import Machine, unit_of


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """The cluster, with one of each tier."""
    with Machine() as machine:
        for tier in ("db", "app", "web", "lb"):  # the order of need
            machine.run("systemctl", "start", unit_of(tier))
        yield machine
