"""Tests on a network of their own (bench/lan.py): what they are marked with, and how they wait."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Any

import pytest
from needs import requires
from prometheus_client.parser import text_string_to_metric_families

from bench.lan import DEVICE, Host, Lan, ip, may_make_namespaces, signal_all

__all__ = ["ADMIN", "DEVICE", "Host", "Lan", "ip", "lan_marks", "metrics", "needs_lan", "signal_all", "until"]

ADMIN = "127.0.0.1:9112"  # of the one process that has it on a host

PATIENCE_SECONDS = 40.0
"""For what has no bound of its own: a machine under load starts processes slowly."""

TEST_SECONDS = 180
"""Instead of what is enough for a test that starts no processes. Of several such marks the lowest counts."""

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
    return [requires("ip", *programs), NAMESPACES, pytest.mark.timeout(TEST_SECONDS)]


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """Look again and again until it holds; returns how long that took, and fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not within {seconds:.2f} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - began


def metrics(host: Host) -> dict[tuple[str, str], float]:
    """The samples of the process that has ADMIN there, by name (less `scaleup_vrrp_`) and the labels' values."""
    connection = http.client.HTTPConnection(ADMIN, timeout=10)
    with host.entered():
        connection.connect()
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return {
        (sample.name.removeprefix("scaleup_vrrp_"), "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
