"""One of several application processes; started by its parent (workers.py), which hands it its sockets."""

from __future__ import annotations

from itertools import chain

from scaleup.app.serve import serve
from scaleup.app.settings import AppSettings
from scaleup.processes import Message, Process, run_child
from scaleup.processes.worker import Orders, reporting, sockets_of


async def work(init: Message, process: Process) -> None:
    settings = AppSettings.model_validate(init.fields["settings"])
    Orders(process, settings.drain)
    async with reporting(process, "scaleup_app_"):
        await serve(settings, process, list(chain(*sockets_of(init))))


if __name__ == "__main__":
    run_child(work)
