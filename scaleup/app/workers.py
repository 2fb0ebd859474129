"""Several application processes behind one address; the mechanism is processes/workers.py."""

from __future__ import annotations

from scaleup.app.settings import AppSettings
from scaleup.processes import Process
from scaleup.processes.logs import Destination
from scaleup.processes.workers import Plan, Workers

STOP_GRACE_SECONDS = 2.0
"""After the drain, until a worker is killed: the time-out of its last flush of clicks."""


async def serve(settings: AppSettings, process: Process) -> None:
    """Until the process is told to stop. Raises StartupError."""
    plan = Plan(
        "scaleup.app.worker",
        settings.name,
        settings.workers,
        settings.listen,
        Destination.of(settings),
        {
            # The password, not its file: read once, it is the same for all.
            "settings": {
                **settings.table(),
                "node": settings.name,
                "database_password": settings.password(),
                "database_password_file": None,
            }
        },
        drain=settings.drain,
        grace=settings.database_timeout + STOP_GRACE_SECONDS,
    )
    await Workers(process).serve(plan)
