"""How each proxy and web server is configured, at its best. Pure: a Plan in, an argument vector and a file out.

All listen on the same number of addresses, choose servers round-robin, have the same time-outs (connect 5 s,
inactivity 50 s) and as many workers; all but `streams` count what they relay. Ours and HAProxy connect to every
server every 2 s to see whether it lives; nginx has only its passive check, and streams none. Nobody writes a
log of connections unless that is what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SERVERS = 1000
"""Behind one proxy, at most."""


def maxconn(descriptors: int) -> int:
    """Connections at a time that each may have, given how many descriptors a process may open.

    HAProxy with splicing wants 2.5 for each and one for each server's check, and does not start with fewer.
    """
    return int((min(descriptors, MAX_DESCRIPTORS) - SERVERS - SPARE_DESCRIPTORS) / 2.5)


MAX_DESCRIPTORS = 100_000
"""Of what a machine allows; a larger limit only makes the peers' tables larger."""

SPARE_DESCRIPTORS = 100

KEPT = 64
"""Idle connections to its servers that nginx keeps: as many as there are clients here."""

Endpoints = tuple[str, ...]
"""HOST:PORT, each."""


@dataclass(frozen=True)
class Plan:
    """What a proxy is asked to do. `folder` is its own, for its files; `log`: of connections, into that folder.

    `root`: of a web server, which then serves what is below it and forwards nothing.
    """

    listen: Endpoints
    servers: Endpoints
    folder: Path
    maxconn: int
    workers: int = 1
    log: bool = False
    root: Path | None = None


@dataclass(frozen=True)
class Command:
    """What is run: the program and its arguments, the files it reads, by name in the plan's folder, and what it
    finds in its environment beside what is there already."""

    argv: tuple[str, ...]
    files: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)


def scaleup(plan: Plan, program: str) -> Command:
    flags = [flag for listen in plan.listen for flag in ("--listen", listen)]
    # From a file, as 1000 servers are too long to read in a list of processes.
    servers = "\n".join(f"  {server!r}," for server in plan.servers)
    limits = (
        "--workers",
        str(plan.workers),
        "--maxconn",
        str(plan.maxconn),
        "--log-level",
        "warning",
        "--drain",
        "0",
    )
    log = ("--log-connections",) if plan.log else ()
    config = ("--config", str(plan.folder / "cluster.toml"))
    return Command(
        (program, "-m", "scaleup.lb", *flags, *limits, *log, *config),
        {"cluster.toml": f"[lb]\nserver = [\n{servers}\n]\n"},
    )


def haproxy(plan: Plan, program: str) -> Command:
    binds = "\n".join(f"    bind {listen}" for listen in plan.listen)
    servers = "\n".join(
        f"    server s{number} {server} check inter 2s" for number, server in enumerate(plan.servers, 1)
    )
    log = (
        ("    log stdout format raw daemon\n", "    log global\n    option tcplog\n")
        if plan.log
        else ("", "")
    )
    text = f"""global
    nbthread {plan.workers}
    maxconn {plan.maxconn}
{log[0]}defaults
    mode tcp
{log[1]}    option splice-auto
    balance roundrobin
    timeout connect 5s
    timeout client 50s
    timeout server 50s
listen bench
    maxconn {plan.maxconn}
{binds}
{servers}
"""
    return Command((program, "-db", "-f", str(plan.folder / "haproxy.cfg")), {"haproxy.cfg": text})


def nginx_module(version_text: str) -> str | None:
    """Where the stream module is, given what `nginx -V` says: "" when built in, None when there is none to load."""
    words = version_text.split()
    if "--with-stream" in words:
        return ""
    if "--with-stream=dynamic" in words:
        folders = [word.partition("=")[2] for word in words if word.startswith("--modules-path=")]
        return f"{folders[0]}/ngx_stream_module.so" if folders else None
    return None


def nginx_stream(plan: Plan, program: str, module: str, as_root: bool) -> Command:
    listens = "\n".join(f"        listen {listen} reuseport backlog=4096;" for listen in plan.listen)
    servers = "\n".join(f"        server {server};" for server in plan.servers)
    text = f"""{f"load_module {module};" if module else ""}
{_nginx_process(plan.workers, plan.maxconn, as_root)}
stream {{
    upstream servers {{
{servers}
    }}
    server {{
{listens}
        proxy_connect_timeout 5s;
        proxy_timeout 50s;
        proxy_pass servers;
    }}
}}
"""
    return Command(_nginx_argv(program, plan.folder), {"nginx.conf": text})


def nginx_http(listen: Endpoints, folder: Path, maxconn: int, program: str, as_root: bool) -> Command:
    """The server behind: files named after their size, from memory. One worker."""
    listens = "\n".join(f"        listen {address} backlog=4096;" for address in listen)
    text = f"""{_nginx_process(1, maxconn, as_root)}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=16;
    open_file_cache_valid 1h;
    server {{
{listens}
        root {folder};
    }}
}}
"""
    return Command(_nginx_argv(program, folder), {"nginx.conf": text})


def scaleup_web(plan: Plan, program: str) -> Command:
    """One worker; files, or everything forwarded."""
    flags = [flag for listen in plan.listen for flag in ("--listen", listen)]
    if plan.root:
        flags += ["--root", str(plan.root)]
    else:
        flags += [flag for server in plan.servers for flag in ("--app", server)]
        flags += ["--prefix", "/", "--health-check", "tcp", "--inter", "2"]
    return Command((program, "-m", "scaleup.web", *flags, "--drain", "0"), {})


def nginx_web(plan: Plan, program: str, as_root: bool) -> Command:
    """One worker; files, whose descriptors it keeps and looks at anew each second, or everything forwarded."""
    listens = "\n".join(f"        listen {listen} backlog=4096;" for listen in plan.listen)
    servers = "\n".join(f"        server {server};" for server in plan.servers)
    upstream = f"""    upstream app {{
{servers}
        keepalive {KEPT};
        keepalive_requests 1000000000;
    }}
"""
    forward = """        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }"""
    text = f"""{_nginx_process(1, plan.maxconn, as_root)}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=16;
    open_file_cache_valid 1s;
{"" if plan.root else upstream}    server {{
{listens}
{f"        root {plan.root};" if plan.root else forward}
    }}
}}
"""
    return Command(_nginx_argv(program, plan.folder), {"nginx.conf": text})


def _nginx_argv(program: str, folder: Path) -> tuple[str, ...]:
    return (program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"))


def _nginx_process(workers: int, maxconn: int, as_root: bool) -> str:
    """Workers run as who started them, so that they can read a folder that nobody else can."""
    return f"""{"user root root;" if as_root else ""}
daemon off;
pid nginx.pid;
error_log stderr crit;
worker_processes {workers};
worker_rlimit_nofile {2 * maxconn + 100};
events {{
    worker_connections {2 * maxconn + 50};
}}"""


def streams(plan: Plan, program: str) -> Command:
    flags = [flag for listen in plan.listen for flag in ("--listen", listen)]
    flags += [flag for server in plan.servers for flag in ("--server", server)]
    return Command((program, "-m", "bench.streams", *flags, "--workers", str(plan.workers)), {})


Write = Callable[[Plan], Command]

NAMES = ("scaleup", "haproxy", "nginx", "streams")


def settings(name: str, maxconn: int) -> str:
    """In words, for the record."""
    return {
        "scaleup": f"--maxconn {maxconn}, otherwise defaults: a TCP check of each server every 2 s, counters on",
        "haproxy": f"mode tcp, nbthread = workers, maxconn {maxconn}, option splice-auto, check inter 2s",
        "nginx": "stream module, worker_processes = workers, listen … reuseport, passive checks only",
        "streams": "asyncio streams on uvloop (bench/streams.py), SO_REUSEPORT; no checks, no counters",
    }[name]


WEB_NAMES = ("scaleup", "nginx")


def web_settings(name: str) -> str:
    """In words, for the record."""
    return {
        "scaleup": "one worker; --prefix / with a TCP check of each server every 2 s, otherwise defaults",
        "nginx": f"one worker; sendfile, tcp_nopush, open_file_cache_valid 1s; keepalive {KEPT} to its servers",
    }[name]


PYTHON = sys.executable
