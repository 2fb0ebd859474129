"""Tests on a network of their own (bench/lan.py): what they are marked with, and how they wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from needs import requires

from bench.lan import DEVICE, Host, Lan, ip, may_make_namespaces, signal_all

__all__ = ["DEVICE", "Host", "Lan", "ip", "lan_marks", "needs_lan", "signal_all", "until"]

PATIENCE_SECONDS = 20.0
"""For what has no bound of its own: a machine under load starts processes slowly."""

NAMESPACES = pytest.mark.skipif(
    not may_make_namespaces(), reason="network namespaces need root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"
)


def needs_lan(*programs: str) -> Callable[[Any], Any]:
    """Marks a test that makes a Lan; `programs`: further ones that it runs."""

    def mark(test: Any) -> Any:
        for each in lan_marks(*programs):
            test = each(test)
        return test

    return mark


def lan_marks(*programs: str) -> list[pytest.MarkDecorator]:
    """The same for pytest.param and pytestmark."""
    return [requires("ip", *programs), NAMESPACES]


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """Look again and again until it holds; returns how long that took, and fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not within {seconds:.2f} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - began
