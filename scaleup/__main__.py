"""`python -m scaleup`: the whole stack on this machine. Each tier has a `python -m scaleup.TIER` of its own."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version

from rich_argparse import RawDescriptionRichHelpFormatter

COMMANDS = {
    "up": "start the whole stack on this machine; Ctrl-C stops it",
    "status": "show its processes and who owns the virtual address",
    "start": "start one of its processes: start web1",
    "stop": "stop one of its processes",
    "restart": "stop and start one of its processes",
}

_TIERS = """one tier, one process, on a host of its own (each has --help):
  python -m scaleup.lb      load balancer
  python -m scaleup.vrrp    the election by itself
  python -m scaleup.web     web server: static files, and requests forwarded to applications
  python -m scaleup.app     application: a link shortener
  python -m scaleup.db      database: a private MariaDB, or the embedded engine"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scaleup",
        description=__doc__,
        epilog=_TIERS,
        formatter_class=RawDescriptionRichHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scaleup {version('scaleup')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    arguments, rest = parser.parse_args(sys.argv[1:2]), sys.argv[2:]
    from scaleup.stack.commands import guarded, up  # after --help, which should not have to load it all

    if arguments.command == "up":
        up(rest)
    raise SystemExit(guarded(arguments.command, rest))


if __name__ == "__main__":
    main()
