"""`python -m scaleup.vrrp status`: how the routers of a running process stand, as it says itself."""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich_argparse import RichHelpFormatter

from scaleup.errors import ScaleUpError, StartupError
from scaleup.vrrp.events import STATES

PATIENCE_SECONDS = 5.0
READ_BYTES = 65536
COLOURS = {"active": "green", "backup": "cyan", "fault": "red"}


def main(argv: Sequence[str]) -> NoReturn:
    """Exits with 0, or 1 when nobody answers."""
    arguments = _parser().parse_args(argv)
    try:
        routers = asked(arguments.event_socket) if arguments.event_socket else read(arguments.state_file)
    except ScaleUpError as error:
        print(f"scaleup: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    if arguments.json:
        print(json.dumps(routers, indent=1))  # noqa: T201
    else:
        Console().print(table(routers, time.time()))
    raise SystemExit(0)


def asked(path: Path) -> list[dict[str, Any]]:
    """What the event stream says of the present; it ends when it hears our end. Raises StartupError."""
    said = b""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_SECONDS)
            sock.connect(str(path))
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(READ_BYTES):
                said += part
        routers = [json.loads(line) for line in said.splitlines()]
    except OSError as error:
        raise StartupError(f"--event-socket {path}: {error.strerror or error}") from None
    except ValueError:
        raise StartupError(f"--event-socket {path}: its answer was cut short") from None
    if not routers:
        raise StartupError(f"--event-socket {path}: no answer; it has as many readers as it takes") from None
    return routers


def read(path: Path) -> list[dict[str, Any]]:
    """What stands in a state file, at the last change or SIGUSR1. Raises StartupError."""
    try:
        return [router["data"] for router in json.loads(path.read_text())]
    except OSError as error:
        raise StartupError(f"--state-file {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise StartupError(f"--state-file {path}: it holds no state") from None


def table(routers: Sequence[dict[str, Any]], now: float) -> Table:
    """`now`: seconds since 1970."""
    shown = Table(box=None, pad_edge=False)
    for column in ("router", "VRID", "state", "priority", "since", "rule"):
        shown.add_column(column, no_wrap=column != "rule")
    for router in routers:
        state = router.get("condition") or _name_of(router["state"])
        base, effective = router["base_priority"], router["effective_priority"]
        shown.add_row(
            router["iname"],
            str(router["vrid"]),
            state,
            str(base) if base == effective else f"{effective} (of {base})",
            _ago(now - router["last_transition"]) if router["last_transition"] else "the start",
            router.get("rule", ""),
            style=COLOURS.get(state, ""),
        )
    return shown


def _name_of(state: int) -> str:
    return next((condition.value for condition, number in STATES.items() if number == state), str(state))


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scaleup.vrrp status",
        description="How the virtual routers of a running process stand.",
        formatter_class=RichHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--event-socket", metavar="FILE", type=Path, help="as given to the process: it is asked, and answers"
    )
    where.add_argument(
        "--state-file",
        metavar="FILE",
        type=Path,
        help="as given to the process: what it has written there last",
    )
    parser.add_argument("--json", action="store_true", help="for programs, with keepalived's names")
    return parser
