"""Load on an address, from processes of its own: bench.generator or bench.transfer.

wrk is not used, though it is the usual tool: it has no fixed rate, it takes every connection that a server
closes for an error, and its connecting cannot be told apart from its requests, which at 4,096 connections and a
second would be most of what is measured. On two cores, which client, proxy and server share,
bench.generator stays about a tenth below its rate.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hdrh.histogram import HdrHistogram

from bench.generator import LONGEST_US, percentiles
from bench.peers import PYTHON
from bench.running import Address, BenchError

SPARE_SECONDS = 60.0
"""What a generator may take beyond the seconds that it was given; then it hangs."""

Look = TypeVar("Look")
"""What is read before and after the load: CPU clocks."""


@dataclass(frozen=True)
class Load:
    """What is asked for. `rate`: requests a second in all (None: as fast as they are answered, each connection);
    `close`: a connection for each request; `generators`: processes that share the connections; `post`: JSON that is
    sent with each; `path`: or several between spaces, asked for in turn."""

    path: str
    connections: int
    seconds: float
    rate: float | None = None
    close: bool = False
    generators: int = 1
    post: str | None = None


@dataclass(frozen=True)
class Outcome(Generic[Look]):
    """Units of work done in `seconds`, latencies by percentile (µs), and what was read before and after."""

    done: int
    seconds: float
    latencies: dict[str, float]
    before: Look
    after: Look


def requests(address: Address, load: Load, look: Callable[[], Look]) -> Outcome[Look]:
    """`look` is called when all connections stand, and again when the last answer has come, before they close.

    Raises BenchError when a request fails.
    """
    with contextlib.ExitStack() as stack:
        generators = [
            stack.enter_context(_Generator(address, load, number)) for number in range(processes(load))
        ]
        for generator in generators:
            generator.line(SPARE_SECONDS)
        before = look()
        for generator in generators:
            generator.go()
        results = [json.loads(generator.line(load.seconds + SPARE_SECONDS)) for generator in generators]
        after = look()
    errors = sum(result["errors"] for result in results)
    done = sum(result["requests"] for result in results)
    if errors or not done:
        raise BenchError(f"{errors} requests to {address[0]}:{address[1]} failed, {done} were answered")
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for result in results:
        histogram.decode_and_add(result["histogram"])
    return Outcome(done, load.seconds, percentiles(histogram), before, after)


def processes(load: Load) -> int:
    """Each generator has a connection at least."""
    return min(load.generators, load.connections)


def bulk(
    direction: str, address: Address, size: int, streams: int, look: Callable[[], Look]
) -> Outcome[Look]:
    """`done` are bytes; direction is "download" or "upload", seen from the client. Raises BenchError."""
    argv = (PYTHON, "-m", "bench.transfer", direction, f"{address[0]}:{address[1]}")
    before = look()
    try:
        done = subprocess.run(
            [*argv, "--bytes", str(size), "--streams", str(streams)],
            capture_output=True,
            text=True,
            timeout=SPARE_SECONDS + size / 1e7,  # 10 MB/s is slow for whoever benchmarks
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"did not end: {' '.join(argv)}") from None
    after = look()
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}:\n{(done.stdout + done.stderr)[-2000:]}")
    return Outcome(size * streams, json.loads(done.stdout)["seconds"], {}, before, after)


class _Generator:
    """A bench.generator with --wait; ended with its block."""

    def __init__(self, address: Address, load: Load, number: int) -> None:
        count = processes(load)
        connections = load.connections // count + (number < load.connections % count)
        flags = ["--path", load.path, "--connections", str(connections), "--seconds", f"{load.seconds:g}"]
        if load.rate is not None:
            flags += ["--rate", f"{load.rate / count:g}"]
        if load.close:
            flags.append("--close")
        if load.post is not None:
            flags += ["--post", load.post]
        self._name = f"bench.generator {address[0]}:{address[1]} {' '.join(flags)}"
        self._process = subprocess.Popen(
            [PYTHON, "-m", "bench.generator", f"{address[0]}:{address[1]}", *flags, "--wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> _Generator:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        try:
            self._process.wait(SPARE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def line(self, seconds: float) -> str:
        """The next that it prints. Raises BenchError when it ends, or says nothing for so long."""
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], seconds)[0]:
            raise BenchError(f"{self._name}: said nothing for {seconds:.0f} s")
        text = output.readline()
        if not text.startswith(("ready", "{")):
            raise BenchError(f"{self._name}:\n{(text + output.read())[-2000:]}")
        return text
