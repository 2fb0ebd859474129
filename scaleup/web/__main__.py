"""`python -m scaleup.web`: the parent of the workers that serve."""

from __future__ import annotations

import logging
import sys

from scaleup.config import TierSettings, load
from scaleup.config.model import refuse_changes
from scaleup.processes import Process, run
from scaleup.processes.workers import Workers
from scaleup.web.plan import CertificatesCollector, certificates_of, plan
from scaleup.web.settings import WebSettings

log = logging.getLogger(__name__)

UNCHANGEABLE = set(TierSettings.model_fields) - {"drain"}
"""Settings that a reload cannot change: what concerns the process itself."""


async def serve(settings: WebSettings, process: Process) -> None:
    workers = Workers(process, least=["scaleup_web_upstream_up"])
    certificates = certificates_of(settings)

    async def reload(new: WebSettings) -> None:
        nonlocal certificates
        refuse_changes(settings, new, UNCHANGEABLE)
        read = certificates_of(new)
        await workers.take(plan(new, read))
        certificates = read
        warn()

    def warn() -> None:
        for certificate in certificates:
            if certificate.has_expired:
                log.warning("--tls: the certificate of %s has expired", ", ".join(certificate.names))

    process.registry.register(CertificatesCollector(lambda: certificates))
    process.reloads(lambda: load(WebSettings, sys.argv[1:]).settings, reload)
    warn()
    await workers.serve(plan(settings, certificates))


if __name__ == "__main__":
    run(WebSettings, serve)
