"""What a request says of the time that it has."""

from __future__ import annotations

import math

import pytest

from scaleup.app import deadline


@pytest.mark.parametrize(("given", "least", "most"), [("1.5", 1.4, 1.5), ("30", 29, 30), ("0", -1, 0)])
async def test_seconds_from_now(given: str, least: float, most: float) -> None:
    deadline.begin(given)
    assert least < deadline.left() <= most


@pytest.mark.parametrize("given", [None, "", "soon", "-1", "1e3", "inf", "nan", "1.5 ", "٣", "1" * 7, "1,5"])
async def test_what_is_no_number_of_seconds_bounds_nothing(given: str | None) -> None:
    deadline.begin("1")
    deadline.begin(given)
    assert deadline.left() == math.inf
