"""How does the cost grow: with servers, with connections, with workers?

    python -m bench.scale [--only servers] [--servers 1,10,100,1000] [--json FILE] [--plot FOLDER]

`servers`: behind each proxy so many addresses (of one process), every one of them watched. Quoted are the CPU
time of a new connection, which includes choosing a server, and the share of a core that the proxy spends on
health checks when no client is there. `connections`, `workers`: CPU time and rate of requests.

What a second host adds, and what the ceiling of one active node is, docs/benchmarks.md works out on paper from
these figures: on one machine it cannot be measured, as both nodes would share its cores.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial

from bench.load import Load
from bench.peers import SERVERS
from bench.proxy import METRICS as PROXY_METRICS
from bench.proxy import connections, counted, requests
from bench.record import Case, Figures, Metric
from bench.running import Lab, Running, spent
from bench.turns import Contest, Turns, add_generators, add_peers, finish, new_record, parser, script, sizes

WORKS = {
    "servers": "By number of servers: new connections, and health checks alone",
    "connections": "By number of connections: requests with a 1-byte body",
    "workers": "By number of workers: requests with a 1-byte body",
}
METRICS = {
    **{name: PROXY_METRICS[name] for name in ("cpu_us", "rate", "cpu_us_connection", "connection_rate")},
    "idle_percent": Metric("CPU without clients", "% of a core", "lower"),
}
CLIENTS = 64


def at_rest(running: Running, seconds: float) -> Figures:
    """What the proxy spends when nobody asks it for anything."""
    assert running.meter is not None
    before, began = running.meter(), time.perf_counter()
    time.sleep(seconds)
    return {"idle_percent": spent(before, running.meter()) / (time.perf_counter() - began) * 100}


class Scale:
    """The axes, each with everybody started afresh at each point where the proxies differ."""

    def __init__(self, turns: Turns, arguments: argparse.Namespace) -> None:
        self._turns, self._contest, self._arguments = turns, turns.contest, arguments

    def servers(self) -> None:
        for count in self._arguments.servers:
            with self._turns.lab() as lab:
                running = self._contest.start(lab, lab.server(count))
                case = Case("servers", counted(count, "server"), {"axis": "servers"}, x=count)
                self._turns.run(case, running, partial(self._watching, lab))

    def _watching(self, lab: Lab, running: Running, turn: int) -> Figures:
        rest = at_rest(running, self._turns.seconds)
        return connections(lab, running, turn, self._load(CLIENTS, close=True)) | rest

    def _load(self, clients: int, close: bool = False) -> Load:
        return Load("/1", clients, self._turns.seconds, close=close, generators=self._arguments.generators)

    def connections(self) -> None:
        with self._turns.lab() as lab:
            running = self._contest.start(lab, lab.server())
            for clients in self._arguments.connections:
                case = Case("connections", counted(clients, "connection"), {"axis": "connections"}, x=clients)
                self._busy(case, lab, running, clients)

    def workers(self) -> None:
        for workers in self._arguments.workers:
            with self._turns.lab(workers) as lab:
                running = self._contest.start(lab, lab.server(), workers)
                case = Case("workers", counted(workers, "worker"), {"axis": "workers"}, x=workers)
                self._busy(case, lab, running, CLIENTS)

    def _busy(self, case: Case, lab: Lab, running: dict[str, Running], clients: int) -> None:
        self._turns.run(case, running, partial(requests, lab, work=self._load(clients)))


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    flags = parser("scale", __doc__, rounds=3, seconds=2, works=WORKS)
    add_peers(flags)
    for axis, points in (
        ("servers", [1, 10, 100, 1000]),
        ("connections", [1, 16, 128, 1024, 4096]),
        ("workers", list(range(1, cores + 1))),
    ):
        default = ",".join(map(str, points))
        flags.add_argument(
            f"--{axis}", type=sizes, default=points, metavar="N,…", help=f"points (default: {default})"
        )
    add_generators(flags)
    arguments = flags.parse_args()
    if max(arguments.servers) > SERVERS:
        flags.error(f"--servers: at most {SERVERS}")
    with script():
        contest = Contest.of(arguments)
        axes = {axis: getattr(arguments, axis) for axis in arguments.only}
        record = new_record("scale", contest, axes, METRICS, WORKS, arguments)
        with Turns(arguments, "scale", contest, record) as turns:
            turns.expect(sum(map(len, axes.values())))
            scale = Scale(turns, arguments)
            for axis in axes:
                {"servers": scale.servers, "connections": scale.connections, "workers": scale.workers}[axis]()
        finish(record, arguments)


if __name__ == "__main__":
    main()
