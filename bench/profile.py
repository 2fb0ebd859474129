"""Where does the CPU time of relaying go: how much is the kernel's, and which system calls are made?

    python -m bench.profile [--only calls] [--against haproxy] [--json FILE]

Two looks at the same work. First the time of the proxy's processes in user mode and in the kernel, from
/proc/PID/stat, whose ticks of 10 ms are fine enough for a measurement of seconds. Then how many system calls a
unit of work takes, as strace counts them: a proxy that is traced is slower, but asks the kernel for the same, only
in larger batches (fewer waits, and fewer accepts that find nobody).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import load
from bench.agent import tree
from bench.load import Load
from bench.record import Case, Figures, Metric
from bench.running import BenchError, Lab, Running, which
from bench.turns import Contest, Turns, add_peers, finish, new_record, parser, script

WORKS = {
    "time": "CPU time by who spends it",
    "calls": "System calls",
}
METRICS = {
    "user_us": Metric("user mode", "µs", "lower", "CPU time"),
    "system_us": Metric("kernel", "µs", "lower", "CPU time"),
}
UNITS = {
    "a request on a keep-alive connection": False,
    "a new connection, one request, and its end": True,
}
"""What is measured, and whether each request has a connection of its own."""
CLIENTS = 64
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
STRACE_SECONDS = 10.0
LEAST_CALLS = 0.1
"""For each unit of work; what is rarer belongs to something else: a check, or the clients' connecting."""


def user_and_system(pids: Sequence[int]) -> tuple[float, float]:
    """Seconds, of the processes. Raises BenchError when one has ended."""
    user = system = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            raise BenchError(f"process {pid} has ended, while it was measured") from None
        user += int(fields[11])  # utime and stime, the 14th and 15th of proc_pid_stat(5)
        system += int(fields[12])
    return user * TICK_SECONDS, system * TICK_SECONDS


def split(lab: Lab, running: Running, turn: int, work: Load) -> Figures:
    """CPU time of a unit of work, by who spends it."""
    assert running.pid is not None
    pids = tree(running.pid)
    with lab.load():
        outcome = load.requests(running.address(turn), work, partial(user_and_system, pids))
    (user, system), (user_after, system_after) = outcome.before, outcome.after
    return {
        "user_us": (user_after - user) / outcome.done * 1e6,
        "system_us": (system_after - system) / outcome.done * 1e6,
    }


def calls(lab: Lab, running: Running, turn: int, work: Load) -> Figures:
    """System calls of a unit of work, by name: "recvfrom" → 2.0."""
    assert running.pid is not None
    with lab.load(), tempfile.TemporaryDirectory(prefix="scaleup-bench-") as folder:
        summary = Path(folder, "strace")
        with traced(tree(running.pid), summary):
            outcome = load.requests(running.address(turn), work, lambda: None)
        counted = in_summary(summary.read_text())
    often = {name: n / outcome.done for name, n in counted.items() if n / outcome.done >= LEAST_CALLS}
    return often | {"in all": sum(often.values())}


@contextlib.contextmanager
def traced(pids: Sequence[int], summary: Path) -> Iterator[None]:
    """Their system calls are counted until the end of the block, then the summary is there. Raises BenchError."""
    program = which("strace")
    if program is None:
        raise BenchError("strace is not installed (Debian: apt-get install strace)")
    argv = [program, "-f", "-c", "-U", "calls,name", "-o", str(summary)]
    argv += [flag for pid in pids for flag in ("-p", str(pid))]
    strace = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    try:
        attached = 0
        while attached < len(pids):  # a line for each, and for each of their threads
            line = strace.stderr.readline()
            if not line:
                raise BenchError(f"strace ended with {strace.wait(STRACE_SECONDS)}: is tracing allowed?")
            attached += "attached" in line
        yield
        strace.send_signal(signal.SIGINT)
        strace.wait(STRACE_SECONDS)
    finally:
        strace.kill()
        strace.wait()
        strace.stderr.close()


def in_summary(text: str) -> dict[str, int]:
    """How often each was called, from strace's table of the columns calls and syscall."""
    found = re.findall(r"^ *(\d+) +(\w+)$", text, re.MULTILINE)
    return {name: int(count) for count, name in found if name != "total"}


def main() -> None:
    flags: argparse.ArgumentParser = parser("profile", __doc__, rounds=5, seconds=3, works=WORKS)
    add_peers(flags)
    arguments = flags.parse_args()
    with script():
        contest = Contest.of(arguments)
        record = new_record("profile", contest, {"connections": CLIENTS}, METRICS, WORKS, arguments)
        with Turns(arguments, "profile", contest, record) as turns, turns.lab() as lab:
            turns.expect(len(UNITS) * len(arguments.only))
            running = contest.start(lab, lab.server())
            for work in arguments.only:
                measure = split if work == "time" else calls
                for unit, close in UNITS.items():
                    one = Load("/1", CLIENTS, turns.seconds, close=close)
                    turns.run(Case(work, unit), running, partial(measure, lab, work=one))
        names = dict.fromkeys(name for case in record.of("calls") for name in case.metrics())
        record.metrics |= {name: Metric(name, "calls", "lower", "system calls") for name in names}
        finish(record, arguments)


if __name__ == "__main__":
    main()
