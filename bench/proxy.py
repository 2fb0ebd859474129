"""How much CPU does relaying a request cost, beside HAProxy?

    python bench/proxy.py [--rounds 5] [--seconds 3] [--connections 64] [--json FILE]

wrk asks a small server through each proxy in turn (ours, HAProxy, ours again, …), a keep-alive connection
for each of --connections. Quoted is the CPU time of the proxy's processes (user and system) per request: on a
shared machine it holds better than requests per second. Ours runs twice a round; the ratio of the two (A/A) is
the noise floor: a difference within it is none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

SERVER = "127.0.0.1"
WRK_REQUESTS = re.compile(r"(\d+) requests in")
HAPROXY = """
global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 50s
    timeout server 50s
listen bench
    bind {listen}
    server s1 {server} check
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((SERVER, 0))
        return int(sock.getsockname()[1])


def serve(port: int) -> None:
    """The server behind: answers whatever comes with a fixed response. Runs in a process of its own."""
    import uvloop

    body = b"ok\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: text/plain\r\n\r\n%s" % (
        len(body),
        body,
    )

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._transport = transport

        def data_received(self, data: bytes) -> None:
            self._transport.write(answer * data.count(b"\r\n\r\n"))

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, SERVER, port)
        await server.serve_forever()

    uvloop.run(main())


@contextlib.contextmanager
def running(*arguments: str, port: int) -> Iterator[psutil.Process]:
    """A process that listens on `port`, ended afterwards."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection((SERVER, port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"did not start: {' '.join(arguments)}")
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of the process and its children."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        times = one.cpu_times()
        total += times.user + times.system
    return total


def measure(process: psutil.Process, port: int, seconds: float, connections: int) -> tuple[float, float]:
    """CPU µs per request, and requests per second."""
    before = cpu_seconds(process)
    output = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", f"http://{SERVER}:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    spent = cpu_seconds(process) - before
    found = WRK_REQUESTS.search(output)
    requests = int(found[1]) if found else 0
    if not requests or "Socket errors" in output:
        raise SystemExit(f"wrk saw errors:\n{output}")
    return spent / requests * 1e6, requests / seconds


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}  ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian: apt-get install wrk)")
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")

    ports = {"server": free_port(), "ours": free_port(), "haproxy": free_port()}
    results: dict[str, list[tuple[float, float]]] = {"ours": [], "haproxy": [], "ours again": []}
    with contextlib.ExitStack() as stack:
        me = str(Path(__file__).resolve())
        stack.enter_context(running(sys.executable, me, "serve", str(ports["server"]), port=ports["server"]))
        server = f"{SERVER}:{ports['server']}"
        listen = f"{SERVER}:{ports['ours']}"
        ours = [sys.executable, "-m", "scaleup.lb", "--listen", listen, "--server", server]
        proxies = {"ours": (stack.enter_context(running(*ours, port=ports["ours"])), ports["ours"])}
        if haproxy:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            configuration = folder / "haproxy.cfg"
            configuration.write_text(HAPROXY.format(listen=f"{SERVER}:{ports['haproxy']}", server=server))
            process = running(haproxy, "-f", str(configuration), port=ports["haproxy"])
            proxies["haproxy"] = (stack.enter_context(process), ports["haproxy"])
        else:
            results.pop("haproxy")
        proxies["ours again"] = proxies["ours"]
        for _ in track(range(arguments.rounds), "rounds", console=Console(stderr=True)):
            for name in results:
                process, port = proxies[name]
                results[name].append(measure(process, port, arguments.seconds, arguments.connections))

    table = Table(box=None, header_style="bold")
    for column in ("", "CPU µs per request", "requests/s", "CPU ÷ ours"):
        table.add_column(column)
    base = [cpu for cpu, _ in results["ours"]]
    for name, figures in results.items():
        ratios = [cpu / own for (cpu, _), own in zip(figures, base, strict=True)]
        rates = statistics.median(rate for _, rate in figures)
        table.add_row(name, spread([cpu for cpu, _ in figures]), f"{rates:,.0f}", spread(ratios))
    Console().print(table)
    if arguments.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout
        record = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit.strip(),
            "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
            "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds}
            | {"connections": arguments.connections, "workers": 1, "nbthread": 1, "body bytes": 3},
            "cpu_us_and_requests_per_second": results,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    else:
        main()
