"""What the parent makes of the settings for its workers: it opens the sockets, and reads the certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scaleup.errors import ConfigurationError
from scaleup.processes.logs import Destination
from scaleup.processes.workers import Plan
from scaleup.web.settings import WebSettings
from scaleup.web.tls import Certificate, read

STOP_GRACE_SECONDS = 1.0
"""Beyond the drain, until a worker is killed."""


def plan(settings: WebSettings, certificates: Sequence[Certificate]) -> Plan:
    """Of those settings. Raises OSError."""
    with ExitStack() as files:
        descriptors = []
        for number, certificate in enumerate(certificates):
            descriptors.append(os.memfd_create(f"certificate{number}"))
            files.callback(os.close, descriptors[-1])
            _write(descriptors[-1], certificate.pem)
        return Plan(
            "scaleup.web.worker",
            settings.name,
            settings.workers,
            (*settings.listen, *settings.listen_tls),
            Destination.of(settings),
            {
                "settings": {**_for_workers(settings), "node": settings.name},
                "certificates": len(descriptors),
                "hsts": settings.hsts,
            },
            drain=settings.drain,
            grace=STOP_GRACE_SECONDS,
            descriptors=descriptors,
            close=files.pop_all().close,
        )


def certificates_of(settings: WebSettings) -> list[Certificate]:
    """Raises ConfigurationError."""
    try:
        return [read(pair) for pair in settings.tls]
    except ValueError as error:
        raise ConfigurationError(f"--tls {error}") from None


class CertificatesCollector(Collector):
    """When the certificates that are shown expire. `certificates`: asked at each scrape."""

    def __init__(self, certificates: Callable[[], Iterable[Certificate]]) -> None:
        self._certificates = certificates

    def collect(self) -> Iterable[Metric]:
        text = "When a certificate expires, in seconds since the epoch, by its names"
        family = GaugeMetricFamily("scaleup_web_certificate_not_after_seconds", text, labels=["names"])
        for certificate in self._certificates():
            family.add_metric([" ".join(certificate.names)], certificate.not_after.timestamp())
        yield family


def _for_workers(settings: WebSettings) -> dict[str, Any]:
    """Without the files that they do not need, and that may be gone."""
    return {**settings.table(), "tls": [], "listen_tls": [], "hsts": 0}


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
