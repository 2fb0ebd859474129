"""What does relaying cost, beside HAProxy, nginx and the proxy of the asyncio tutorial?

    python -m bench.proxy [--only requests,latency] [--against haproxy] [--json FILE] [--plot FOLDER]
    python -m bench.proxy --target scaleup=10.0.0.11:80 --target haproxy=10.0.0.12:80 --agent 10.0.0.11:9999 …

Quoted first is the CPU time of the proxy's processes (user and system) for a unit of work: on a shared machine
it holds better than a rate. Ours runs twice; a difference within what those two differ by is none.

On hosts of their own: start `python -m bench.server --listen HOST:PORT` as the server behind the proxy, and
`python bench/agent.py --process scaleup=PID` beside the proxy; --target then names the proxy.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

from bench import load
from bench.load import Load, Outcome
from bench.record import Case, Figures, Metric
from bench.running import Clocks, Lab, Running, spent
from bench.turns import (
    Contest,
    Turns,
    add_generators,
    add_peers,
    add_targets,
    finish,
    new_record,
    parser,
    script,
    sizes,
)

WORKS = {
    "requests": "Requests on keep-alive connections, by size of the body",
    "concurrency": "Requests on keep-alive connections, by number of connections",
    "connections": "New connections: one for each request",
    "bulk": "Bulk: one stream",
    "latency": "Latency at the same rate for all, from the intended start of a request",
    "workers": "Requests on keep-alive connections, by number of workers",
}

METRICS = {
    "cpu_us": Metric("CPU", "µs per request", "lower"),
    "rate": Metric("requests", "per second", "higher"),
    "cpu_us_connection": Metric("CPU", "µs per connection", "lower"),
    "connection_rate": Metric("connections", "per second", "higher"),
    "cpu_s_gb": Metric("CPU", "seconds per GB", "lower"),
    "gb_s": Metric("throughput", "GB/s", "higher"),
    "p50_us": Metric("p50", "µs", "lower"),
    "p99_us": Metric("p99", "µs", "lower"),
    "p999_us": Metric("p99.9", "µs", "lower"),
}

BODIES = (0, 1, 16384)
QUICK_BYTES = 1 << 27


def clocks(running: Running) -> Clocks:
    """Of the proxy; empty when nobody measures it."""
    return running.meter() if running.meter else {}


def cpu(outcome: Outcome[Clocks], name: str, unit: float) -> Figures:
    """CPU time for each unit of work, in units of a second; nothing when nobody measured it."""
    if not outcome.before:
        return {}
    return {name: spent(outcome.before, outcome.after) / outcome.done / unit}


def requests(lab: Lab, running: Running, turn: int, work: Load) -> Figures:
    """One round of a closed loop on keep-alive connections."""
    with lab.load():
        outcome = load.requests(running.address(turn), work, partial(clocks, running))
    return cpu(outcome, "cpu_us", 1e-6) | {"rate": outcome.done / outcome.seconds}


def connections(lab: Lab, running: Running, turn: int, work: Load) -> Figures:
    """One round with a connection for each request."""
    with lab.load():
        outcome = load.requests(running.address(turn), work, partial(clocks, running))
    return cpu(outcome, "cpu_us_connection", 1e-6) | {"connection_rate": outcome.done / outcome.seconds}


def latency(lab: Lab, running: Running, turn: int, work: Load) -> Figures:
    """One round at a fixed rate."""
    with lab.load():
        outcome = load.requests(running.address(turn), work, partial(clocks, running))
    return outcome.latencies | cpu(outcome, "cpu_us", 1e-6)


def bulk(lab: Lab, running: Running, turn: int, direction: str, size: int) -> Figures:
    """One stream of `size` bytes."""
    with lab.load():
        outcome = load.bulk(direction, running.address(turn), size, 1, partial(clocks, running))
    return cpu(outcome, "cpu_s_gb", 1e-9) | {"gb_s": outcome.done / outcome.seconds / 1e9}


class Proxy:
    """The works. Those that need nothing particular of the proxies share one set of them."""

    def __init__(self, turns: Turns, arguments: argparse.Namespace) -> None:
        self._turns, self._contest, self._arguments = turns, turns.contest, arguments
        self._clients: int = arguments.connections[len(arguments.connections) // 2]
        self._known: dict[tuple[int, int, int], Case] = {}  # by body, connections, workers

    def run(self, works: list[str]) -> None:
        plain = {
            "requests": self._requests,
            "concurrency": self._concurrency,
            "connections": self._connections,
            "latency": self._latency,
        }
        if chosen := [work for work in works if work in plain]:
            with self._turns.lab() as lab:
                running = self._contest.start(lab, self._servers(lab))
                for work in chosen:
                    plain[work](lab, running)
        if "bulk" in works:
            self._bulk()
        if "workers" in works:
            self._workers()

    def cases(self, works: list[str]) -> int:
        """How many cases there are in those works."""
        counts = {
            "requests": len(BODIES),
            "concurrency": len(self._arguments.connections),
            "bulk": 2,
            "workers": len(self._arguments.workers),
        }
        return sum(counts.get(work, 1) for work in works)

    def _requests(self, lab: Lab, running: dict[str, Running]) -> None:
        for body in BODIES:
            case = Case("requests", f"{body:,}-byte body", {"connections": self._clients})
            self._busy(case, lab, running, body, self._clients)

    def _concurrency(self, lab: Lab, running: dict[str, Running]) -> None:
        for clients in self._arguments.connections:
            case = Case("concurrency", counted(clients, "connection"), {"axis": "connections"}, x=clients)
            self._busy(case, lab, running, 1, clients)

    def _connections(self, lab: Lab, running: dict[str, Running]) -> None:
        work = self._load(1, self._clients, close=True)
        case = Case("connections", f"{self._clients} clients")
        self._turns.run(case, running, partial(connections, lab, work=work))

    def _latency(self, lab: Lab, running: dict[str, Running]) -> None:
        rate = self._arguments.rate
        work = self._load(1, self._clients, rate=rate)
        case = Case("latency", f"{rate:,.0f} requests/s", {"connections": self._clients})
        self._turns.run(case, running, partial(latency, lab, work=work))

    def _bulk(self) -> None:
        with self._turns.lab() as lab:
            running = self._contest.start(lab, self._servers(lab, bulk=True))
            size = QUICK_BYTES if self._arguments.quick else self._arguments.bytes
            for direction in ("download", "upload"):
                case = Case("bulk", f"{direction}, {size / 2**20:,.0f} MiB")
                self._turns.run(case, running, partial(bulk, lab, direction=direction, size=size))

    def _workers(self) -> None:
        for workers in self._arguments.workers:
            case = Case("workers", counted(workers, "worker"), {"axis": "workers"}, x=workers)
            if (1, self._clients, workers) in self._known:
                self._busy(case, None, {}, 1, self._clients, workers)
                continue
            with self._turns.lab(workers) as lab:
                running = self._contest.start(lab, self._servers(lab), workers)
                self._busy(case, lab, running, 1, self._clients, workers)

    def _servers(self, lab: Lab, bulk: bool = False) -> tuple[str, ...]:
        """Behind targets that run elsewhere, the servers do too."""
        return () if self._contest.remote else lab.server(bulk=bulk)

    def _load(self, body: int, clients: int, rate: float | None = None, close: bool = False) -> Load:
        path, generators = f"/{body}", self._arguments.generators
        return Load(path, clients, self._turns.seconds, rate, close, generators)

    def _busy(
        self,
        case: Case,
        lab: Lab | None,
        running: dict[str, Running],
        body: int,
        clients: int,
        workers: int = 1,
    ) -> None:
        """Measured once: a case that another work has in common with this one is taken from there."""
        if known := self._known.get((body, clients, workers)):
            self._turns.take(case, known.rounds)
            return
        assert lab is not None
        self._turns.run(case, running, partial(requests, lab, work=self._load(body, clients)))
        self._known[body, clients, workers] = case


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def main() -> None:
    flags = parser("proxy", __doc__, rounds=5, seconds=2, works=WORKS)
    add_peers(flags)
    add_targets(flags)
    cores = len(os.sched_getaffinity(0))
    flags.add_argument(
        "--connections",
        type=sizes,
        default=[16, 64, 512],
        metavar="N,…",
        help="of the work concurrency; the middle one is used elsewhere (default: 16,64,512)",
    )
    flags.add_argument(
        "--workers",
        type=sizes,
        default=list(range(1, cores + 1)),
        metavar="N,…",
        help="of the work workers (default: 1 to as many as cores)",
    )
    flags.add_argument(
        "--rate", type=float, default=5000, help="requests/s of the work latency (default: 5000)"
    )
    flags.add_argument(
        "--bytes", type=int, default=1 << 30, metavar="N", help="of the work bulk (default: 1 GiB)"
    )
    add_generators(flags)
    arguments = flags.parse_args()
    with script():
        contest = Contest.of(arguments)
        works = [work for work in arguments.only if not (contest.remote and work == "workers")]
        settings = {
            "connections": arguments.connections,
            "rate": arguments.rate,
            "workers": arguments.workers,
        }
        record = new_record("proxy", contest, settings, METRICS, WORKS, arguments)
        with Turns(arguments, "proxy", contest, record) as turns:
            proxy = Proxy(turns, arguments)
            turns.expect(proxy.cases(works))
            proxy.run(works)
        finish(record, arguments)


if __name__ == "__main__":
    main()
