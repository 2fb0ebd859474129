"""What does a request cost the web tier, beside nginx?

    python -m bench.web [--only static,forward] [--json FILE] [--plot FOLDER]

Quoted first is the CPU time of the server's processes (user and system) for a request: on a shared machine it holds
better than a rate. Ours runs twice; a difference within what those two differ by is none. Both have one worker and
write no access log; nginx keeps open files (`open_file_cache`) and connections to the application (`keepalive`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from bench import load
from bench.load import Load
from bench.machine import version
from bench.peers import PYTHON, Command, Plan, nginx_argv, nginx_process
from bench.proxy import clocks, cpu
from bench.record import AGAIN, OURS, Case, Figures, Metric
from bench.running import BenchError, Lab, Peer, Running, which
from bench.turns import Contest, Turns, add_generators, finish, new_record, parser, script

WORKS = {
    "static": "Files, by size",
    "forward": "Forwarded to an application (nginx, with a file of 100 bytes)",
}
METRICS = {
    "cpu_us": Metric("CPU", "µs per request", "lower"),
    "rate": Metric("requests", "per second", "higher"),
}
FILES = {12: 64, 19 * 1024: 64, 300 * 1024: 16, 10 * 1024 * 1024: 4}
"""Sizes, and how many connections ask for them."""
ANSWER_BYTES = 100
CONNECTIONS = 64


def scaleup(plan: Plan, root: Path | None) -> Command:
    flags = [flag for listen in plan.listen for flag in ("--listen", listen)]
    if root is not None:
        flags += ["--root", str(root)]
    else:
        flags += ["--prefix", "/", *(flag for server in plan.servers for flag in ("--app", server))]
    more = ("--health-check", "tcp", "--log-level", "warning", "--drain", "0")
    return Command((PYTHON, "-m", "scaleup.web", *flags, *more), {})


def nginx(plan: Plan, root: Path | None, program: str, as_root: bool) -> Command:
    listens = "\n".join(f"        listen {listen} backlog=4096;" for listen in plan.listen)
    servers = "\n".join(f"        server {server};" for server in plan.servers)
    upstream = (
        f"    upstream applications {{\n{servers}\n        keepalive 64;\n    }}" if plan.servers else ""
    )
    location = f"root {root};"
    if root is None:
        location = """location / {
            proxy_pass http://applications;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $host;
            proxy_set_header X-Request-Id $request_id;
        }"""
    text = f"""{nginx_process(1, plan.maxconn, as_root)}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=16;
    open_file_cache_valid 1s;
{upstream}
    server {{
{listens}
        {location}
    }}
}}
"""
    return Command(nginx_argv(program, plan.folder), {"nginx.conf": text})


def contest(root: Path | None) -> Contest:
    """Ours, nginx, ours again; they serve the files below `root`, or forward."""
    said = version(PYTHON, "-m", "scaleup.web", "--version")
    ours = partial(scaleup, root=root)
    it = Contest(peers=[Peer(OURS, said, "defaults, no access log", ours)])
    program = which("nginx")
    if program is None:
        it.left_out["nginx"] = "nginx is not installed (Debian: apt-get install nginx)"
    else:
        theirs = partial(nginx, root=root, program=program, as_root=os.geteuid() == 0)
        settings = "worker_processes 1, access_log off, sendfile, open_file_cache, upstream keepalive"
        it.peers.append(Peer("nginx", version(program, "-v"), settings, theirs))
    it.peers.append(Peer(OURS + AGAIN, said, "defaults, no access log", ours))
    return it


def requests(lab: Lab, running: Running, turn: int, work: Load) -> Figures:
    """One round of a closed loop on keep-alive connections."""
    with lab.load():
        outcome = load.requests(running.address(turn), work, partial(clocks, running))
    return cpu(outcome, "cpu_us", 1e-6) | {"rate": outcome.done / outcome.seconds}


def static(turns: Turns, generators: int) -> None:
    with tempfile.TemporaryDirectory(prefix="scaleup-bench-") as folder, turns.lab() as lab:
        root = Path(folder)
        for size in (0, *FILES):
            (root / str(size)).write_bytes(os.urandom(size))
        running = contest(root).start(lab, ())
        for size, connections in FILES.items():
            case = Case("static", f"{size:,} bytes", {"connections": connections})
            work = Load(f"/{size}", connections, turns.seconds, generators=generators)
            turns.run(case, running, partial(requests, lab, work=work))


def forward(turns: Turns, generators: int) -> None:
    with turns.lab() as lab:
        running = contest(None).start(lab, lab.server(sizes=(0, ANSWER_BYTES)))
        case = Case("forward", f"{ANSWER_BYTES} bytes", {"connections": CONNECTIONS})
        work = Load(f"/{ANSWER_BYTES}", CONNECTIONS, turns.seconds, generators=generators)
        turns.run(case, running, partial(requests, lab, work=work))


def main() -> None:
    flags = parser("web", __doc__, rounds=5, seconds=2, works=WORKS)
    add_generators(flags)
    arguments: argparse.Namespace = flags.parse_args()
    with script():
        if which("nginx") is None:
            raise BenchError("nginx is not installed (Debian: apt-get install nginx)")
        record = new_record("web", contest(None), {}, METRICS, WORKS, arguments)
        with Turns(arguments, "web", contest(None), record) as turns:
            turns.expect(len(FILES) * ("static" in arguments.only) + ("forward" in arguments.only))
            if "static" in arguments.only:
                static(turns, arguments.generators)
            if "forward" in arguments.only:
                forward(turns, arguments.generators)
        finish(record, arguments)


if __name__ == "__main__":
    main()
