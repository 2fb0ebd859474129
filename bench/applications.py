"""The applications that keep one contract: ours, and two on other people's frameworks that can stand in for it.

    scaleup     python -m scaleup.app
    express     tests/contract/express: Express and mysql2, on Node
    flask       tests/contract/flask: Flask and PyMySQL, on gunicorn's threads

Each is as its own world would have it, with connections kept alive, a pool of DATABASE_CONNECTIONS to the
database for each worker, and no access log. The tests in tests/contract start them by the same commands.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench.machine import CHECKOUT, version
from bench.peers import PYTHON, Command, Plan
from bench.ports import free_port
from bench.record import AGAIN, OURS
from bench.running import START_SECONDS, BenchError, Peer, process, which

NAMES = (OURS, "express", "flask")
DATABASE_CONNECTIONS = 10
FLASK_THREADS = 10
"""As many as there are connections: more would only wait."""
KEEPALIVE_SECONDS = 30
PASSWORD = "bench"
READY = "/readyz"
INSTALL_SECONDS = 120.0
STAND_INS = CHECKOUT / "tests" / "contract"


@dataclass(frozen=True)
class Application:
    """What one is told. `listen`: HOST:PORT; `database`: mysql://USER@HOST:PORT/DATABASE with its tables."""

    listen: str
    database: str
    password: str
    name: str
    workers: int = 1


def scaleup(told: Application) -> Command:
    return Command(
        (
            *(PYTHON, "-m", "scaleup.app", "--listen", told.listen, "--node", told.name),
            *("--database", told.database, "--database-connections", str(DATABASE_CONNECTIONS)),
            *("--workers", str(told.workers), "--log-level", "warning", "--drain", "0"),
        ),
        {},
        {"SCALEUP_APP_DATABASE_PASSWORD": told.password},
    )


def express(told: Application) -> Command:
    return Command(
        (
            *("node", str(STAND_INS / "express" / "app.js"), "--listen", told.listen, "--name", told.name),
            *("--database", told.database, "--connections", str(DATABASE_CONNECTIONS)),
            *("--workers", str(told.workers)),
        ),
        {},
        {"DATABASE_PASSWORD": told.password, "NODE_ENV": "production"},
    )


def flask(told: Application) -> Command:
    return Command(
        (
            *(PYTHON, "-m", "gunicorn", "--bind", told.listen, "--workers", str(told.workers)),
            *("--worker-class", "gthread", "--threads", str(FLASK_THREADS)),
            *("--keep-alive", str(KEEPALIVE_SECONDS), "--log-level", "warning", "--graceful-timeout", "2"),
            *("--chdir", str(STAND_INS / "flask"), "app:make_app()"),
        ),
        {},
        {"DATABASE": told.database, "DATABASE_PASSWORD": told.password, "APP_NAME": told.name},
    )


COMMANDS = {OURS: scaleup, "express": express, "flask": flask}

_SETTINGS = {
    OURS: f"--database-connections {DATABASE_CONNECTIONS}, otherwise defaults",
    "express": f"NODE_ENV=production, mysql2's pool of {DATABASE_CONNECTIONS}, prepared statements, cluster",
    "flask": f"gthread, {FLASK_THREADS} threads, a pool of {DATABASE_CONNECTIONS}",
}


def find(name: str) -> Peer | str:
    """The application of that name, installed if need be; or why there is none."""
    kind = name.removesuffix(AGAIN)
    if (why := missing(kind)) is not None:
        return why

    def command(plan: Plan) -> Command:
        return COMMANDS[kind](Application(plan.listen[0], plan.servers[0], PASSWORD, kind, plan.workers))

    return Peer(name, _version(kind), _SETTINGS[kind], command, READY)


def missing(name: str) -> str | None:
    """What keeps an application from being started; Express and mysql2 are installed if they can be."""
    if name == "express":
        return _install_express()
    if name == "flask":
        try:
            metadata.version("flask"), metadata.version("gunicorn")
        except metadata.PackageNotFoundError as error:
            return f"{error.name} is not installed (pip install -e '.[test]')"
    return None


def _install_express() -> str | None:
    """By the lock file, beside it, once."""
    folder = STAND_INS / "express"
    installed = folder / "node_modules" / ".package-lock.json"
    lock = folder / "package-lock.json"
    if not which("node") or not which("npm"):
        return "node or npm is not installed (Debian: apt-get install nodejs npm)"
    with _alone(folder):
        if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return None
        try:
            done = subprocess.run(
                ["npm", "ci", "--omit=dev", "--ignore-scripts"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"npm ci in {folder} did not end"
    return f"npm ci in {folder} failed: {done.stderr[-500:].strip()}" if done.returncode else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else installs there meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _version(kind: str) -> str:
    if kind == OURS:
        return version(PYTHON, "-m", "scaleup.app", "--version")
    if kind == "flask":
        return ", ".join(f"{name} {metadata.version(name)}" for name in ("Flask", "gunicorn", "PyMySQL"))
    packages = json.loads((STAND_INS / "express" / "node_modules" / ".package-lock.json").read_text())[
        "packages"
    ]
    own = ", ".join(f"{name} {packages[f'node_modules/{name}']['version']}" for name in ("express", "mysql2"))
    return f"{own}, Node {version('node', '--version')}"


@contextlib.contextmanager
def database() -> Iterator[str]:
    """A MariaDB with the tables: its URL for applications. Raises BenchError."""
    host, port, admin = "127.0.0.1", free_port(), free_port()
    url = f"mysql://scaleup@{host}:{port}/scaleup"
    start = Command(
        (
            *(PYTHON, "-m", "scaleup.db", "--engine", "mariadb"),
            *("--listen", f"{host}:{port}", "--admin", f"{host}:{admin}"),
        ),
        {},
        {"SCALEUP_DB_PASSWORD": PASSWORD},
    )
    with (
        tempfile.TemporaryDirectory(prefix="scaleup-bench-") as folder,
        process(start, Path(folder), (host, admin)),
    ):
        _until_ready(f"http://{host}:{admin}/readyz")
        done = subprocess.run(
            [PYTHON, "-m", "scaleup.app", "migrate", "--database", url],
            env={**os.environ, "SCALEUP_APP_DATABASE_PASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"the database did not take the tables:\n{done.stderr[-2000:]}")
        yield url


def _until_ready(url: str) -> None:
    """A port that accepts is not enough: scaleup.db holds it until its server takes it. Raises BenchError."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:  # 503 as well
            if time.monotonic() > deadline:
                raise BenchError(f"{url}: not ready after {START_SECONDS:g} s: {error}") from None
        time.sleep(0.02)
