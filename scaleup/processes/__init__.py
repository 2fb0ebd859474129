"""What the process of every tier shares, once: from its first line to its last.

A tier gives `run` its settings' model and one coroutine:

    async def serve(settings, process):
        ...start...
        process.ready()
        await process.stopping.wait()
        ...finish what is in progress, at most `settings.drain` seconds...

and gets, in reading order:

    process    signals (SIGTERM and SIGINT drain, a second one forces), readiness, the parent
    channel    the socket between parent and child: messages, descriptors, and news of death
    children   starting, watching and stopping child processes
    keeper     a child that is started again when it dies
    sockets    the listening sockets of several workers, opened by their parent
    generation the workers of one configuration; a reload makes another one
    workers    a parent of workers that serve side by side, each as if alone; `worker`, their side of it;
               `summed`, what they count
    accept     when connections are taken from the sockets
    tether     the same bond for foreign programs (mariadbd): the kernel kills them with us
    privileges becoming a user who may do less
    admin      /healthz, /readyz, /metrics, and `pages` of a tier's own
    logs       text in colour, or JSON, to stderr, a file or syslog; files opened again on SIGUSR2
    lines      what a line of them looks like
    outlet     where the lines leave, without waiting for the reader: bounded, drops counted
    sinks      what they are written to: pipes, terminals, files, syslog
    notify     what systemd is told
    tasks      who owns a background task

Invariants: a child runs in a process group of its own, so that a terminal's Ctrl-C reaches only the
parent, who decides the order. Parent and child each see the other die, however it dies, because the
kernel closes their ends of the channel. Nothing outlives its parent. Every stop has a deadline. Whoever reads
the log, or does not, holds nobody up.
"""

from scaleup.processes.channel import Message
from scaleup.processes.children import Child
from scaleup.processes.process import Process, run, run_child
from scaleup.processes.tasks import Tasks

__all__ = ["Child", "Message", "Process", "Tasks", "run", "run_child"]
