"""What a benchmark ran on: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PROGRAM_SECONDS = 10.0


def describe() -> dict[str, str]:
    """CPU, cores, memory, kernel, Python; what makes figures of two machines differ."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"Linux {platform.release()}",
        "Python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def commit() -> str:
    """Of the checkout; "+" says that scaleup/ or bench/ (its results apart) differ from it."""
    revision = _output("git", "rev-parse", "HEAD").strip()
    if not revision:
        return "unknown"
    changed = _output("git", "status", "--porcelain", "--", "scaleup", "bench/*.py")
    return revision + ("+" if changed else "")


def version(program: str, *arguments: str) -> str:
    """The first line that a program says of itself."""
    return (_output(program, *arguments).splitlines() or ["unknown"])[0]


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=CHECKOUT, timeout=PROGRAM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""


def raise_descriptor_limit() -> int:
    """Up to the hard limit, which processes that are started inherit. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
