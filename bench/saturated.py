"""Does the election hold while the load balancer uses all of the machine?

    python -m bench.saturated [--rounds 10] [--seconds 60] [--json FILE] [--plot FOLDER]

Two nodes, a client and a server are network namespaces on one machine. wrk asks through the Active node's virtual
address as fast as it can, so that every core is busy; nothing is broken meanwhile, so each take-over is a false
one. What counts is heard by the client's interface, with the kernel's time stamps: the longest time between two
advertisements of the Active, beside the Active_Down_Interval after which the Backup would have taken over. Beside
it stands how late the Active itself was, as its own metrics say: the rest of a silence is the kernel's, which
carries packets between the namespaces when it gets round to it, in competition with everything else on these cores.
It takes root.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import math
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench import peers
from bench.failover import installed, intervals, length
from bench.lan import ENVIRONMENT, Host, Lan
from bench.pairs import PORT, PRIORITY, SERVER_PORT, VIP, Ours, until
from bench.record import OURS, Case, Figures, Metric
from bench.render import number
from bench.running import BenchError, which
from bench.takeover import down
from bench.turns import Contest, Turns, finish, new_record, parser, script
from bench.wire import Advertisement, Announcement, Wire
from scaleup.vrrp.attached import STATISTICS_SECONDS

WORKS = {
    "realtime": "A saturated machine, the election under SCHED_RR",
    "ordinary": "A saturated machine, the election scheduled like everything else",
}
INTERVALS = {"realtime": (0.01, 0.1), "ordinary": (0.1,)}
METRICS = {
    "false": Metric("false fail-overs", "count", "lower"),
    "worst_ms": Metric("longest silence of the Active", "ms", "lower"),
    "own_ms": Metric("the Active's timer was late by at most", "ms", "lower"),
    "late_ms": Metric("99.9 % of advertisements are late by at most", "ms", "lower"),
    "busy": Metric("cores busy", "%", "higher"),
    "rate": Metric("requests", "per second", "higher"),
}
ROUNDS, SECONDS = 10, 60.0
ROOMY_SECONDS, FEWER = 0.1, 5
"""From this interval on there is ten times the room, and a fifth of the rounds is enough."""
WORKERS = 2
CONNECTIONS = 64
SLACK_SECONDS = 20.0
ADMIN = "127.0.0.1:9100"
LATENESS = "scaleup_vrrp_timer_lateness_seconds_bucket"


@dataclass(frozen=True)
class Cpu:
    """Ticks of all cores since the start of the machine, and how many of them were idle."""

    total: int
    idle: int

    @staticmethod
    def now() -> Cpu:
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return Cpu(sum(ticks), ticks[3] + ticks[4])

    def busy_since(self, before: Cpu) -> float:
        """Percent."""
        return 100 * (1 - (self.idle - before.idle) / max(1, self.total - before.total))


class Node(Ours):
    """One of ours that may be told to do without real-time scheduling."""

    def __init__(self, host: Host, server: str, interval: float, folder: Path, realtime: bool) -> None:
        super().__init__(host, server, interval, folder)
        self.more = ("--workers", str(WORKERS), "--admin", ADMIN, *(() if realtime else ("--no-realtime",)))

    def lateness(self) -> dict[float, float]:
        """How often its timer was late by more than each bound, in seconds, as it said within the last second."""
        connection = http.client.HTTPConnection(ADMIN, timeout=SLACK_SECONDS)
        with self.host.entered():
            connection.connect()
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        counts = {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == LATENESS
        }
        return {bound: counts[math.inf] - count for bound, count in counts.items()}


class Cluster:
    """Two nodes, of which `active` has the address, a server behind them and a client before them."""

    def __init__(self, lan: Lan, interval: float, realtime: bool, folder: Path) -> None:
        self.interval = interval
        self.client, server = lan.host("client"), lan.host("server")
        self.active, self.backup = (
            Node(lan.host(name), server.ipv4, interval, folder, realtime) for name in ("a", "b")
        )
        self._start_server(server, folder)
        self._holder = ""  # of the address, at the end of the last round
        self._wire = Wire(self.client)

    def _start_server(self, server: Host, folder: Path) -> None:
        program = which("nginx")
        if program is None:
            raise BenchError("nginx is not installed (Debian: apt-get install nginx)")
        listen = (f"{server.ipv4}:{SERVER_PORT}",)
        (folder / "1").write_bytes(b"x")
        command = peers.nginx_http(listen, folder, 1000, program, as_root=True)
        for name, text in command.files.items():
            (folder / name).write_text(text)
        server.start(*command.argv, log=folder / "nginx.log")

    def begin(self) -> None:
        self.active.start()
        until(lambda: self._senders() == {self.active.mac}, f"a node advertises; see {self.active.log}")
        self.backup.start()
        until(lambda: self.backup.times_backup, f"the other is Backup; see {self.backup.log}")

    def close(self) -> None:
        self._wire.close()

    def _senders(self) -> set[str]:
        return {one.sender for one in self._wire.heard() if isinstance(one, Advertisement)}

    def saturate(self, seconds: float) -> Figures:
        """Raises BenchError when wrk could not run."""
        self._wire.heard()
        late_before = self.active.lateness()
        before = Cpu.now()
        wrk = ("wrk", f"-t{WORKERS}", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s")
        try:
            done = subprocess.run(
                ["ip", "netns", "exec", self.client.namespace, *wrk, f"http://{VIP}:{PORT}/1"],
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + SLACK_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"wrk did not end; see {self.active.log}") from None
        busy = Cpu.now().busy_since(before)
        rate = re.search(r"Requests/sec: *([\d.]+)", done.stdout)
        if rate is None:
            raise BenchError(f"wrk: {(done.stderr or done.stdout).strip()[-300:]}")
        heard = [one for one in self._wire.heard() if isinstance(one, Advertisement)]
        figures = judged(heard, self._holder or self.active.mac, self.interval)
        self._holder = heard[-1].sender  # a take-over stands: it is counted once, not in each round after it
        time.sleep(STATISTICS_SECONDS)
        late = self.active.lateness()
        own = min(bound for bound in late if late[bound] == late_before[bound])
        return figures | {"own_ms": own * 1e3, "busy": busy, "rate": float(rate[1])}


def judged(heard: Sequence[Advertisement | Announcement], active: str, interval: float) -> Figures:
    """Of what was heard while nothing was broken. Whoever advertises after another took over from it.

    Raises BenchError when too little was heard to say anything.
    """
    said = [one for one in heard if isinstance(one, Advertisement)]
    changes = sum(before.sender != after.sender for before, after in pairwise(said))
    gaps = sorted((after.ns - before.ns) / 1e6 for before, after in pairwise(said))
    if not gaps:
        raise BenchError("no advertisements were heard")
    late = gaps[min(len(gaps) - 1, int(len(gaps) * 0.999))] - interval * 1e3
    return {"false": float(changes + (said[0].sender != active)), "worst_ms": gaps[-1], "late_ms": late}


def _wrk_version() -> str:
    """It says its version and then that it was not called as it should be."""
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return (said.splitlines() or ["unknown"])[0].partition(" [")[0]


def run(turns: Turns, work: str, interval: float) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scaleup-bench-")))
        lan = stack.enter_context(Lan("a", "b", "client", "server"))
        cluster = Cluster(lan, interval, work == "realtime", folder)
        stack.callback(cluster.close)
        cluster.begin()
        bound = down(interval, PRIORITY) * 1e3
        rounds = turns.rounds if interval < ROOMY_SECONDS else max(1, turns.rounds // FEWER)
        title = f"{length(interval)} (down interval {number(bound)} ms), {rounds} times"
        settings = {"interval": interval, "down_ms": bound}
        case = Case(work, title, settings)
        turns.run(case, {OURS: cluster}, lambda one, _: one.saturate(turns.seconds), rounds)


def main() -> None:
    with script():
        flags = parser("saturated", __doc__, ROUNDS, SECONDS, WORKS, pins=False)
        flags.add_argument(
            "--intervals",
            type=intervals,
            metavar="SECONDS,…",
            help="between advertisements (default: 0.01,0.1 under SCHED_RR, 0.1 without)",
        )
        arguments = flags.parse_args()
        run_all(arguments)


def run_all(arguments: argparse.Namespace) -> None:
    versions = installed()
    if which("wrk") is None:
        raise BenchError("wrk is not installed (Debian: apt-get install wrk)")
    settings = {"priority": PRIORITY, "workers": WORKERS, "connections": CONNECTIONS}
    record = new_record("saturated", Contest(), settings, METRICS, WORKS, arguments)
    record.versions |= {OURS: versions[OURS], "wrk": _wrk_version()}
    record.peers |= {OURS: f"two nodes of scaleup.lb, {WORKERS} workers each, on the same cores"}
    chosen = {work: arguments.intervals or INTERVALS[work] for work in arguments.only}
    if arguments.quick:
        chosen = {work: some[:1] for work, some in chosen.items()}
    with Turns(arguments, "saturated", Contest(), record) as turns:
        turns.expect(sum(map(len, chosen.values())))
        for work, some in chosen.items():
            for interval in some:
                run(turns, work, interval)
    finish(record, arguments)


if __name__ == "__main__":
    main()
