"""What the programs of the benchmarks have in common on their command lines."""

from __future__ import annotations

import argparse


def described(doc: str | None) -> argparse.ArgumentParser:
    """A program whose docstring is its help text."""
    summary, _, rest = (doc or "").partition("\n")
    return argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def host_and_port(text: str) -> tuple[str, int]:
    """Of a flag that takes HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: write HOST:PORT")
    return host, int(port)
