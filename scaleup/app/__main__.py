"""`python -m scaleup.app`: the application; `… migrate`: the schema's versions, by hand."""

from __future__ import annotations

import sys

from scaleup.app.settings import AppSettings
from scaleup.net.sockets import listening
from scaleup.processes import Process, run


async def serve(settings: AppSettings, process: Process) -> None:
    if settings.workers > 1:
        from scaleup.app import workers

        await workers.serve(settings, process)
    else:
        from scaleup.app.serve import serve

        await serve(settings, process, [listening(endpoint, "--listen") for endpoint in settings.listen])


if __name__ == "__main__":
    if sys.argv[1:2] == ["migrate"]:
        from scaleup.app.migrate_command import main

        main(sys.argv[2:])
    run(AppSettings, serve)
