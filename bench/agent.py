"""CPU time of processes; as a program, an agent that answers it over HTTP for a benchmark on another host.

    python agent.py --listen 10.0.0.11:9999 --process scaleup=PID --process haproxy=PID

It stands alone: copy the file to the host of the proxy, nothing needs to be installed (Python ≥ 3.11, Linux).
It answers `GET /` with `{"processes": {"scaleup": {"PID": nanoseconds, …}}}` for the processes named on its
command line and their descendants, and for no others. Whoever reaches the port can read that, and no more.

The clock is the kernel's own clock of a process (clock_getcpuclockid(3)): user and system time of all its
threads, also of those that have ended, in nanoseconds. /proc/PID/stat counts in ticks of 10 ms, which is coarse
for a run of a second; /proc/PID/task/*/schedstat has nanoseconds, but forgets a thread that ends. Work that the
kernel does in interrupts counts for whoever was running; on loopback that is the sender, and it is the same for
all peers.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CPUCLOCK_SCHED = 2
"""include/linux/posix-timers.h: bits 0–2 of a process's clock id; above them ~pid."""

REQUEST_SECONDS = 10.0


def cpu_nanoseconds(pid: int) -> int:
    """User and system time of a process. Raises ProcessLookupError when it has ended."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        raise ProcessLookupError(f"process {pid} has ended") from None


def tree(pid: int) -> list[int]:
    """The process and its descendants. One that ends meanwhile may be missing."""
    found, unseen = [], [pid]
    while unseen:
        found.append(parent := unseen.pop())
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                unseen += map(int, task.read_text().split())
            except OSError:
                continue  # the thread ended
    return found


def cpu_of_tree(pid: int) -> dict[int, int]:
    """pid → nanoseconds, of the process and its descendants. Raises ProcessLookupError when `pid` has ended."""
    clocks = {pid: cpu_nanoseconds(pid)}
    for child in tree(pid)[1:]:
        try:
            clocks[child] = cpu_nanoseconds(child)
        except ProcessLookupError:
            continue
    return clocks


class _Agent(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    protocol_version = "HTTP/1.1"
    processes: dict[str, list[int]]

    def do_GET(self) -> None:
        try:
            answer = {
                name: {str(one): spent for pid in pids for one, spent in cpu_of_tree(pid).items()}
                for name, pids in self.processes.items()
            }
            status, body = 200, json.dumps({"processes": answer}).encode()
        except ProcessLookupError as error:
            status, body = 503, json.dumps({"error": str(error)}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads a line for each request."""


def serve(host: str, port: int, processes: dict[str, list[int]]) -> ThreadingHTTPServer:
    """A bound agent; `serve_forever` runs it. Raises OSError when it cannot bind."""
    handler = type("Agent", (_Agent,), {"processes": processes})
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    return server


def _process(text: str) -> tuple[str, int]:
    name, _, pid = text.partition("=")
    try:
        cpu_nanoseconds(int(pid))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=PID") from None
    except ProcessLookupError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, int(pid)


def main() -> None:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:9999")
    parser.add_argument(
        "--process",
        metavar="NAME=PID",
        action="append",
        type=_process,
        required=True,
        help="what is read out, with its descendants; repeatable, also with the same name",
    )
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    if not port.isdigit():
        parser.error(f"--listen {arguments.listen}: write HOST:PORT")
    processes: dict[str, list[int]] = {}
    for name, pid in arguments.process:
        processes.setdefault(name, []).append(pid)
    try:
        server = serve(host, int(port), processes)
    except OSError as error:
        raise SystemExit(f"--listen {arguments.listen}: {error.strerror}") from None
    with server:
        print(f"listening on {server.server_address[0]!s}:{server.server_address[1]}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
