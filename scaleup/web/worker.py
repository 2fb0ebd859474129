"""One of the processes that serve; started by the web tier's parent, which hands it sockets and certificates."""

from __future__ import annotations

from itertools import chain

from scaleup.processes import Message, Process, run_child
from scaleup.processes.worker import Orders, reporting, sockets_of
from scaleup.web.serve import serve
from scaleup.web.settings import WebSettings
from scaleup.web.tls import context


async def work(init: Message, process: Process) -> None:
    settings = WebSettings.model_validate(init.fields["settings"])
    orders = Orders(process, settings.drain)
    sockets = sockets_of(init)
    plain, tls = sockets[: len(settings.listen)], sockets[len(settings.listen) :]
    certificates = init.descriptors[: init.fields["certificates"]]
    made = context([f"/proc/self/fd/{number}" for number in certificates]) if certificates else None
    async with reporting(process, "scaleup_web_"):
        await serve(
            settings, process, orders, list(chain(*plain)), list(chain(*tls)), made, init.fields["hsts"]
        )


if __name__ == "__main__":
    run_child(work)
