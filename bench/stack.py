"""What does the whole stack carry through its virtual address, and which tier spends the CPU time?

    python -m bench.stack [--rounds 5] [--json FILE] [--plot FOLDER] [-- --webs 3 --engine embedded …]
    python -m bench.stack --target 10.0.0.100:80 --agent 10.0.0.11:9999 --agent 10.0.0.21:9999 …

Starts `python -m scaleup up` on loopback addresses of its own (what follows -- goes to it), then asks through
the virtual address for a static file, and for a short link, which the application looks up in the database.
Once in a closed loop, for CPU time and throughput, and once at a fixed rate, for latency. Each is measured
twice a round; by what the two differ, a difference means nothing.

On hosts of their own, give the virtual address as --target and run bench/agent.py on each, with the tiers as
names: `--process lb=PID --process web=PID`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import load
from bench.load import Load
from bench.peers import PYTHON
from bench.record import AGAIN, Case, Figures, Metric
from bench.running import Address, BenchError, Clocks, local_clocks, remote_clocks, spent
from bench.turns import Contest, Turns, add_generators, add_targets, finish, new_record, parser, script

TIERS = ("lb", "web", "app", "db")
WORKS = {
    "cpu": "CPU time by tier, keep-alive connections that ask as fast as they are answered",
    "latency": "Latency at a fixed rate, from the intended start of a request",
}
METRICS = {
    "rate": Metric("requests", "per second", "higher"),
    **{
        f"cpu_us_{tier}": Metric(f"CPU of {tier}", "µs per request", "lower", "CPU by tier") for tier in TIERS
    },
    "p50_us": Metric("p50", "µs", "lower"),
    "p99_us": Metric("p99", "µs", "lower"),
    "p999_us": Metric("p99.9", "µs", "lower"),
}
STACK = "stack"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Stack:
    """Where it answers, and how the CPU clocks of a tier are read (None: nobody does)."""

    address: Address
    pids: dict[str, list[int]]
    agents: list[Address]

    def clocks(self) -> dict[str, Clocks]:
        """By tier; empty when nobody measures. Raises BenchError."""
        if self.agents:
            return {tier: remote_clocks(self.agents, tier) for tier in TIERS}
        return {tier: local_clocks(pids) for tier, pids in self.pids.items()}


@contextlib.contextmanager
def up(flags: list[str]) -> Iterator[Stack]:
    """`python -m scaleup up`, gone when the block ends. Raises BenchError when it does not start."""
    with tempfile.TemporaryDirectory(prefix="scaleup-bench-") as folder:
        run_dir, output = (
            Path(f"{folder}-run"),
            Path(folder, "output"),
        )  # the database may not be let into ours
        network = ("--network", f"127.{64 + os.getpid() % 64}.200.0/24")
        argv = (PYTHON, "-m", "scaleup", "up", "--run-dir", str(run_dir), *network, *flags)
        with output.open("wb") as printed:
            child = subprocess.Popen(argv, stdout=printed, stderr=printed, start_new_session=True)
        try:
            status = settled(child, run_dir, output)
            virtual = status["virtual_ip"]
            pids: dict[str, list[int]] = {}
            for process in status["processes"]:
                pids.setdefault(process["tier"], []).append(process["pid"])
            yield Stack((virtual["address"], virtual["port"]), pids, [])
        finally:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()  # its parts see their parent go
                child.wait()


def settled(child: subprocess.Popen[bytes], run_dir: Path, output: Path) -> dict[str, Any]:
    """The status, once everything is up and somebody owns the virtual address."""
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        asked = subprocess.run(
            [PYTHON, "-m", "scaleup", "status", "--json", "--run-dir", str(run_dir)],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if asked.returncode == 0:
            status: dict[str, Any] = json.loads(asked.stdout)
            states = [process["state"] for process in status["processes"]]
            if set(states) <= {"up", "active", "backup"} and states.count("active") == 1:
                return status
        time.sleep(0.1)
    raise BenchError(f"the stack did not start:\n{output.read_text(errors='replace')[-3000:]}")


def short_link(address: Address) -> str:
    """Make one; its path. Raises BenchError when the stack does not."""
    request = urllib.request.Request(
        f"http://{address[0]}:{address[1]}/api/links",
        data=b'{"url": "http://example.org/"}',
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return str(json.load(answer)["short"])
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"POST /api/links at {address[0]}:{address[1]}: {error}") from None


def busy(stack: Stack, turn: int, work: Load) -> Figures:
    """One round of a closed loop: the rate, and each tier's CPU time for a request."""
    outcome = load.requests(stack.address, work, stack.clocks)
    figures = {"rate": outcome.done / outcome.seconds}
    for tier, before in outcome.before.items():
        figures[f"cpu_us_{tier}"] = spent(before, outcome.after[tier]) / outcome.done * 1e6
    return figures


def latency(stack: Stack, turn: int, work: Load) -> Figures:
    return load.requests(stack.address, work, lambda: None).latencies


def measure(stack: Stack, turns: Turns, clients: int, rate: float, generators: int) -> None:
    """Each path, busy and at the fixed rate."""
    paths = {"static file": "/", "short link": short_link(stack.address)}
    turns.expect(2 * len(paths))
    twice = {STACK: stack, STACK + AGAIN: stack}
    for title, path in paths.items():
        case = Case("cpu", title, {"path": path, "connections": clients})
        work = Load(path, clients, turns.seconds, generators=generators)
        turns.run(case, twice, partial(busy, work=work))
    for title, path in paths.items():
        case = Case("latency", f"{title}, {rate:,.0f} requests/s", {"path": path, "connections": clients})
        work = Load(path, clients, turns.seconds, rate=rate, generators=generators)
        turns.run(case, twice, partial(latency, work=work))


def main() -> None:
    flags = parser("stack", __doc__, rounds=5, seconds=3, works={}, pins=False)
    add_targets(flags)
    flags.add_argument("--connections", type=int, default=64, metavar="N", help="default: 64")
    flags.add_argument("--rate", type=float, default=500, help="requests/s for the latency (default: 500)")
    add_generators(flags)
    flags.add_argument("up", nargs="*", metavar="-- FLAG", help="for `scaleup up`, after --: --webs 3 …")
    arguments = flags.parse_args()
    with script():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    if len(arguments.target) > 1:
        raise BenchError("one --target: the virtual address")
    with contextlib.ExitStack() as stack:
        if arguments.target:
            running = Stack(arguments.target[0][1], {}, arguments.agent)
        else:
            running = stack.enter_context(up(arguments.up))
        settings = {
            "connections": arguments.connections,
            "rate": arguments.rate,
            "up": " ".join(arguments.up),
        }
        record = new_record("stack", Contest(), settings, METRICS, WORKS, arguments)
        with Turns(arguments, "stack", Contest(), record) as turns:
            measure(running, turns, arguments.connections, arguments.rate, arguments.generators)
    finish(record, arguments)


if __name__ == "__main__":
    main()
