"""What do files and forwarded requests cost the web tier, beside nginx?

    python -m bench.web [--only static] [--against nginx] [--json FILE] [--plot FOLDER]
    python -m bench.web --target scaleup=10.0.0.21:8080 --target nginx=10.0.0.22:8080 --agent 10.0.0.21:9999 …

One worker each, on keep-alive connections. As in bench.proxy, the CPU time of the server's processes for a request
is quoted first, and ours runs twice: a difference within what those two differ by is none. A file is asked for
without Accept-Encoding. Behind the forwarding ones stand eight addresses of one nginx, which spends less than
either of them.

On hosts of their own, serve files named after their size (0, 12, 19456, 307200, 10485760), or forward to
`python -m bench.server`, and say which by --only.
"""

from __future__ import annotations

import argparse
from functools import partial

from bench import peers
from bench.load import Load
from bench.proxy import METRICS, requests
from bench.record import Case
from bench.running import Lab, Running, find_web
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
)

WORKS = {
    "static": "Files, by size",
    "forward": "Requests forwarded to an application",
}

KIB = 1024
FILES = {"12 B": 12, "19 KiB": 19 * KIB, "300 KiB": 300 * KIB, "10 MiB": 10 * KIB * KIB}
FORWARDED_BYTES = 100
MOST_BYTES_IN_FLIGHT = 40 * KIB * KIB
"""Of all connections together. What was sent of answers that the end of a round cut off was paid for and does not
count, so it has to be little beside what a round carries, which is gigabytes."""


def connections(clients: int, size: int) -> int:
    """As many as wanted, fewer for large files."""
    return max(1, min(clients, MOST_BYTES_IN_FLIGHT // size))


def static(turns: Turns, clients: int) -> None:
    """Files of each size from the same root."""
    with turns.lab() as lab:
        running = turns.contest.start(lab, (), root=lab.files(list(FILES.values())))
        for title, size in FILES.items():
            case(turns, lab, running, "static", title, size, connections(clients, size))


def forward(turns: Turns, clients: int) -> None:
    """A small answer of an application, so that the forwarding is what costs."""
    with turns.lab() as lab:
        running = turns.contest.start(lab, () if turns.contest.remote else lab.server())
        title = f"{FORWARDED_BYTES}-byte answer"
        case(turns, lab, running, "forward", title, FORWARDED_BYTES, clients)


def case(
    turns: Turns, lab: Lab, running: dict[str, Running], work: str, title: str, size: int, clients: int
) -> None:
    load = Load(f"/{size}", clients, turns.seconds, generators=turns.arguments.generators)
    turns.run(Case(work, title, {"connections": clients}), running, partial(requests, lab, work=load))


def flags() -> argparse.ArgumentParser:
    result = parser("web", __doc__, rounds=7, seconds=2, works=WORKS)
    add_peers(result, peers.WEB_NAMES)
    add_targets(result)
    add_generators(result)
    result.add_argument(
        "--connections", type=int, default=64, metavar="N", help="fewer for large files (default: 64)"
    )
    return result


def main() -> None:
    arguments = flags().parse_args()
    with script():
        contest = Contest.of(arguments, find_web)
        metrics = {name: METRICS[name] for name in ("cpu_us", "rate")}
        settings = {"connections": arguments.connections}
        record = new_record("web", contest, settings, metrics, WORKS, arguments)
        with Turns(arguments, "web", contest, record) as turns:
            turns.expect(sum(len(FILES) if work == "static" else 1 for work in arguments.only))
            for work in arguments.only:
                {"static": static, "forward": forward}[work](turns, arguments.connections)
        finish(record, arguments)


if __name__ == "__main__":
    main()
