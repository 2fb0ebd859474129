"""How long does a fail-over take, beside keepalived?

    python -m bench.failover [--only host-death,…] [--intervals 1,0.1,0.01] [--json FILE] [--plot FOLDER]

Two nodes, a client and a server are network namespaces on a bridge; ours and keepalived (with HAProxy) have such a
network each and take turns. Faults: the Active's cable is cut (host-death), its balancer's process gets SIGKILL
(balancer-killed), its program gets SIGTERM (stop). The packets that the client's interface gets, with the kernel's
time stamps, say when it began (last advertisement of the old Active) and when it was over (first advertisement and
gratuitous ARP of the new one, whichever is later). The client tries to connect every millisecond and wants a byte
from the server; its gap is the longest time from the start of an attempt without an answer to the start of the next
one with one. It takes root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bench import bars, machine, peers
from bench.lan import ENVIRONMENT, Lan, may_make_namespaces
from bench.pairs import KEEPALIVED, PORT, PRIORITY, SLACK_SECONDS, VIP, Node, Pair, until
from bench.record import OURS, Case, Figures, Metric
from bench.render import number, on_terminal
from bench.running import BenchError, which
from bench.takeover import down, skew
from bench.turns import Contest, Turns, finish, new_record, parser, script

WORKS = {
    "host-death": "Host death: the Active's cable is cut",
    "balancer-killed": "Balancer killed: SIGKILL to the Active's proxy",
    "stop": "Graceful stop: SIGTERM to the Active",
}
METRICS = {
    "takeover_ms": Metric("last advertisement → take-over", "ms", "lower"),
    "fault_ms": Metric("fault → take-over", "ms", "lower"),
    "gap_ms": Metric("gap that a client sees", "ms", "lower"),
}
INTERVALS = (1.0, 0.1, 0.01)
ROUNDS = 20
AFTER_SECONDS = 0.3
"""The client goes on for so long after a take-over: a second gap would show."""

GOLDEN = 0.618
"""Its multiples spread the faults evenly over the interval."""


def host_death(pair: Pair, node: Node) -> Callable[[], None]:
    pair.lan.unplug(node.host)
    return lambda: pair.lan.plug(node.host)


def balancer_killed(pair: Pair, node: Node) -> Callable[[], None]:
    node.kill_balancer()
    return node.restart


def stop(pair: Pair, node: Node) -> Callable[[], None]:
    node.stop()
    return node.restart


FAULTS = {"host-death": host_death, "balancer-killed": balancer_killed, "stop": stop}
"""Each does it to a node and returns what heals the node."""


@contextlib.contextmanager
def client(pair: Pair) -> Iterator[subprocess.Popen[str]]:
    """Attempts every millisecond, the first of which was answered."""
    process = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            pair.client.namespace,
            sys.executable,
            "-m",
            "bench.attempts",
            f"{VIP}:{PORT}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=machine.CHECKOUT,
    )
    try:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], SLACK_SECONDS)[0] or not process.stdout.readline():
            raise BenchError(f"the client gets no answer from {VIP}:{PORT}")
        yield process
    finally:
        process.kill()
        process.communicate()


def gap_ms(outages: Sequence[tuple[int, int | None]], last: int) -> float | None:
    """The longest outage; None: that is the one that had not ended with the `last` attempt. Starts, nanoseconds."""
    if not outages:
        return 0.0
    lengths = [((last if end is None else end) - begin) / 1e6 for begin, end in outages]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    return None if outages[longest][1] is None else lengths[longest]


def fail_over(pair: Pair, fault: str, turn: int) -> Figures:
    """One; the node is whole again, and Backup, when it returns."""
    active, backup = pair.settled()
    # Cut off a moment ago, it may still wait for ARP, which asks again only after a second.
    until(lambda: backup.host.reaches(backup.server), "the Backup reaches the server")
    pair.heard.clear()
    times = active.times_backup
    with client(pair) as process:
        pair.wait_for_phase(active, (turn * GOLDEN) % 1)
        began = time.time_ns()
        heal = FAULTS[fault](pair, active)
        found = pair.await_take_over(active, backup, began)
        time.sleep(AFTER_SECONDS)
        said = json.loads(process.communicate(timeout=SLACK_SECONDS)[0])
    gap = gap_ms(said["outages"], said["last"])
    if gap is None:
        raise BenchError(
            f"a client of {type(backup).__name__} is not served again; it says:\n{backup.tail()}"
        )
    heal()
    until(lambda: active.times_backup > times, f"{active.host.name} is Backup again; see {active.log}")
    return {
        "takeover_ms": (found.complete - found.last) / 1e6,
        "fault_ms": (found.complete - began) / 1e6,
        "gap_ms": gap,
    }


def theory_ms(fault: str, interval: float) -> float:
    """Last advertisement → take-over, as the protocol has it: in silence, or after priority 0."""
    return 1e3 * (down if fault == "host-death" else skew)(interval, PRIORITY)


def bar_ms(fault: str, interval: float) -> float | None:
    """What ours may take beyond the theory, in the median."""
    return {"host-death": 2.0 if interval < 0.1 else 1.0, "balancer-killed": 5.0}.get(fault)


def installed() -> dict[str, str]:
    """The peers that can take part and their versions. Raises BenchError when nothing can be measured."""
    if not may_make_namespaces():
        raise BenchError("network namespaces take root, with CAP_NET_ADMIN and CAP_SYS_ADMIN")
    if which("ip") is None:
        raise BenchError("ip is not installed (Debian: apt-get install iproute2)")
    found = {OURS: machine.version(peers.PYTHON, "-m", "scaleup.lb", "--version")}
    if (keepalived := which("keepalived")) and (haproxy := which("haproxy")):
        versions = machine.version(keepalived, "--version"), machine.version(haproxy, "-v")
        found[KEEPALIVED] = ", ".join(versions)
    return found


def intervals(text: str) -> list[float]:
    """ "1,0.1" as numbers, for argparse."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0.01 <= one <= 40.95 for one in found):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write seconds from 0.01 to 40.95, for example 1,0.1,0.01"
        )
    return found


def length(interval: float) -> str:
    return f"{interval:g} s" if interval >= 1 else f"{interval * 1000:g} ms"


def title(fault: str, interval: float) -> str:
    return f"{length(interval)} (theory: {number(theory_ms(fault, interval))} ms)"


def run(turns: Turns, fault: str, interval: float, kinds: Sequence[str]) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scaleup-bench-")))
        pairs = {}
        for kind in kinds:
            lan = stack.enter_context(Lan("a", "b", "client", "server"))
            pairs[kind] = Pair(kind, interval, lan, folder)
            stack.callback(pairs[kind].close)
            pairs[kind].begin()
        settings = {
            "interval": interval,
            "theory_ms": theory_ms(fault, interval),
            "bar_ms": bar_ms(fault, interval),
        }
        turns.run(
            Case(fault, title(fault, interval), settings),
            pairs,
            lambda pair, turn: fail_over(pair, fault, turn),
        )


def main() -> None:
    with script():
        flags = parser("failover", __doc__, ROUNDS, 0, WORKS, pins=False)
        flags.add_argument(
            "--intervals",
            type=intervals,
            default=list(INTERVALS),
            metavar="SECONDS,…",
            help="between advertisements (default: 1,0.1,0.01)",
        )
        arguments = flags.parse_args()
        versions = installed()
        left_out = {} if KEEPALIVED in versions else {KEEPALIVED: "keepalived or haproxy is not installed"}
        chosen = [0.1] if arguments.quick else arguments.intervals
        record = new_record(
            "failover", Contest(left_out=left_out), {"priority": PRIORITY}, METRICS, WORKS, arguments
        )
        record.versions |= versions
        record.peers |= {name: SETTINGS[name] for name in versions}
        with Turns(arguments, "failover", Contest(), record) as turns:
            turns.expect(len(arguments.only) * len(chosen))
            for fault in arguments.only:
                for interval in chosen:
                    run(turns, fault, interval, list(versions))
        finish(record, arguments)
        Console(width=140).print(on_terminal(bars.table(record), "Medians beyond the theory"))


SETTINGS = {
    OURS: "scaleup.lb with 1 worker and its election: --drain 0, otherwise defaults",
    KEEPALIVED: "VRRPv3, vrrp_rt_priority 50, HAProxy watched by track_process without weight",
}

if __name__ == "__main__":
    main()
