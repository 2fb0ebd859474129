"""What does a request cost the application, beside Express and Flask on the same database?

    python -m bench.app [--only redirect] [--against express] [--workers 1,2] [--json FILE] [--plot FOLDER]

All three keep one contract (tests/contract) and work on one MariaDB, which is started here. As in bench.proxy, the
CPU time of the application's processes for a request is quoted first, and ours runs twice: a difference within what
those two differ by is none. The database's time and the generator's are left out. A redirect counts a click, and
each of them writes its clicks once a second. Before each case everybody is asked for a round that does not count,
in which Node compiles what runs often.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import urllib.request
from collections.abc import Sequence
from functools import partial

from bench import applications
from bench.load import Load
from bench.proxy import METRICS, counted, requests
from bench.record import Case, Figures
from bench.running import Address, BenchError, Lab, Running
from bench.turns import Contest, Turns, add_generators, add_peers, finish, new_record, parser, script, sizes

WORKS = {
    "redirect": "GET /l/CODE: 302, one row by its key",
    "read": "GET /api/links/CODE: the link as JSON, with an ETag",
    "create": "POST /api/links: one row stored, with a commit",
}
LINKS = 100
"""That are asked for in turn."""
ANSWER_SECONDS = 10.0
NEW_LINK = json.dumps({"url": "https://example.org/a/page?of=some&length=1"})


def new_code(address: Address) -> str:
    """Of a link made there. Raises BenchError."""
    request = urllib.request.Request(
        f"http://{address[0]}:{address[1]}/api/links",
        data=NEW_LINK.encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return str(json.load(answer)["code"])
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"POST /api/links at {address[0]}:{address[1]}: {error}") from None


def work_load(work: str, codes: Sequence[str], clients: int, seconds: float, generators: int) -> Load:
    if work == "create":
        return Load("/api/links", clients, seconds, generators=generators, post=NEW_LINK)
    before = {"redirect": "/l/", "read": "/api/links/"}[work]
    return Load(" ".join(before + code for code in codes), clients, seconds, generators=generators)


def measure(turns: Turns, lab: Lab, running: dict[str, Running], workers: int) -> None:
    """Each work in turn, of applications that have so many workers."""
    codes = [new_code(next(iter(running.values())).address(0)) for _ in range(LINKS)]
    clients: int = turns.arguments.connections
    for work in turns.arguments.only:
        load = work_load(work, codes, clients, turns.seconds, turns.arguments.generators)
        ask = partial(asked, lab, load)
        for one in running.values():
            ask(one, 0)
        case = Case(work, counted(workers, "worker"), {"workers": workers, "connections": clients})
        turns.run(case, running, ask)


def asked(lab: Lab, load: Load, running: Running, turn: int) -> Figures:
    """One round. They listen on one address: connections are few and live, so that none is in TIME_WAIT."""
    return requests(lab, running, 0, load)


def flags() -> argparse.ArgumentParser:
    result = parser("app", __doc__, rounds=5, seconds=1.2, works=WORKS)
    add_peers(result, applications.NAMES)
    add_generators(result)
    result.add_argument("--connections", type=int, default=32, metavar="N", help="default: 32")
    cores = list(range(1, min(2, len(os.sched_getaffinity(0))) + 1))
    result.add_argument(
        "--workers",
        type=sizes,
        default=cores,
        metavar="N,…",
        help=f"processes of each that serve (default: {','.join(map(str, cores))})",
    )
    return result


def main() -> None:
    arguments = flags().parse_args()
    with script():
        contest = Contest.of(arguments, applications.find)
        metrics = {name: METRICS[name] for name in ("cpu_us", "rate")}
        settings = {"connections": arguments.connections, "workers": arguments.workers}
        record = new_record("app", contest, settings, metrics, WORKS, arguments)
        with Turns(arguments, "app", contest, record) as turns, contextlib.ExitStack() as stack:
            database = stack.enter_context(applications.database())
            turns.expect(len(arguments.workers) * len(arguments.only))
            for workers in arguments.workers:
                with turns.lab(workers) as lab:
                    running = contest.start(lab, (database,), workers)
                    measure(turns, lab, running, workers)
        finish(record, arguments)


if __name__ == "__main__":
    main()
