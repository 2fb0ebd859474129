"""How much memory does a connection take that does nothing?

    python -m bench.idle [--connections N] [--against haproxy] [--json FILE] [--plot FOLDER]

Each peer is started afresh in each round. So many clients connect through it and ask once, so that both halves
of every connection exist; then nothing moves, and memory is read. PSS and RSS are of the proxy's processes (PSS
shares out what several map; it is the fairer one with workers). The kernel's part is the growth of its slab: it
holds four sockets a connection, as clients and servers are on this machine too, and is counted apart because no
proxy can do much about it. "Kept" is what the processes still hold when all connections have closed.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import machine, peers
from bench.agent import tree
from bench.record import Case, Figures, Metric
from bench.running import Address, BenchError, Peer, Running
from bench.turns import Contest, Turns, add_peers, finish, new_record, parser, script

WORKS = {"idle": "Memory of idle proxied connections"}
METRICS = {
    "pss_kib": Metric("PSS", "KiB per connection", "lower"),
    "rss_kib": Metric("RSS", "KiB per connection", "lower"),
    "kernel_kib": Metric("kernel, four sockets", "KiB per connection", "lower"),
    "empty_mib": Metric("PSS without connections", "MiB", "lower"),
    "kept_kib": Metric("kept after closing", "KiB per connection", "lower"),
}

OWN_DESCRIPTORS = 100
"""What this process needs beside its connections."""

ANSWER_SECONDS = 20.0
CLOSE_SECONDS = 20.0
QUICK_CONNECTIONS = 300


def memory(pid: int) -> tuple[int, int]:
    """PSS and RSS of the process and its descendants, KiB."""
    pss = rss = 0
    for one in tree(pid):
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
        pss += int(fields["Pss"].split()[0])
        rss += int(fields["Rss"].split()[0])
    return pss, rss


def slab() -> int:
    """What the kernel's objects take, sockets among them, KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


@contextlib.contextmanager
def connections(addresses: Sequence[Address], count: int) -> Iterator[None]:
    """So many, each of which has been answered once. Raises BenchError when one is not."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            address = addresses[number % len(addresses)]
            try:
                sock = stack.enter_context(socket.create_connection(address, ANSWER_SECONDS))
                sock.sendall(b"GET /0 HTTP/1.1\r\nHost: bench\r\n\r\n")
                answered = sock.recv(4096).startswith(b"HTTP/1.1 200")
            except OSError as error:
                raise BenchError(f"connection {number + 1} of {count}: {error}; see --connections") from None
            if not answered:
                raise BenchError(f"connection {number + 1} of {count} was not answered; see --connections")
        yield


def descriptors(pid: int) -> int:
    """Open in the process and its descendants."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            total += sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
    return total


def await_closed(pid: int, before: int, count: int) -> None:
    """Until the proxy has closed its sides of the connections. Raises BenchError when it does not."""
    deadline = time.monotonic() + CLOSE_SECONDS
    while descriptors(pid) > before + count // 10:  # it may keep some pipes in a pool
        if time.monotonic() > deadline:
            raise BenchError("the proxy has not closed its connections after the clients did")
        time.sleep(0.1)


def measure(running: Running, count: int) -> Figures:
    """Before, with `count` idle connections, and after them."""
    assert running.pid is not None
    open_before = descriptors(running.pid)
    kernel = slab()
    pss, rss = memory(running.pid)
    with connections(running.addresses, count):
        pss_with, rss_with = memory(running.pid)
        kernel_with = slab()
    await_closed(running.pid, open_before, count)
    return {
        "pss_kib": (pss_with - pss) / count,
        "rss_kib": (rss_with - rss) / count,
        "kernel_kib": (kernel_with - kernel) / count,
        "empty_mib": pss / 1024,
        "kept_kib": (memory(running.pid)[0] - pss) / count,
    }


def started_and_measured(turns: Turns, peer: Peer, count: int) -> Figures:
    with turns.lab() as lab:
        return measure(lab.proxy(peer, lab.server(bulk=True)), count)


def most_connections() -> int:
    """As many as the peers are configured for, and this process has descriptors for."""
    limit = machine.raise_descriptor_limit()
    return min(peers.maxconn(limit) - 1, limit - OWN_DESCRIPTORS)


def main() -> None:
    with script():
        most = most_connections()
        flags = parser("idle", __doc__, rounds=3, seconds=0, works={})
        add_peers(flags)
        flags.add_argument(
            "--connections",
            type=int,
            default=most,
            metavar="N",
            help=f"at most what descriptors and the peers' settings allow (here, and the default: {most})",
        )
        arguments = flags.parse_args()
        if not 1 <= arguments.connections <= most:
            flags.error(f"--connections {arguments.connections}: 1 to {most}; see ulimit -n")
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    count = min(arguments.connections, QUICK_CONNECTIONS) if arguments.quick else arguments.connections
    contest = Contest.of(arguments)
    record = new_record("idle", contest, {"connections": count}, METRICS, WORKS, arguments)
    with Turns(arguments, "idle", contest, record) as turns:
        turns.expect(1)
        turns.run(
            Case("idle", f"{count:,} connections"),
            {peer.name: peer for peer in contest.peers},
            lambda peer, _: started_and_measured(turns, peer, count),
        )
    finish(record, arguments)


if __name__ == "__main__":
    main()
