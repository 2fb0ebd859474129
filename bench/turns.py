"""What the scripts have in common: their flags, the peers that take part, the turns they take, the end of a run."""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich_argparse import RawDescriptionRichHelpFormatter

from bench import machine
from bench.flags import host_and_port
from bench.peers import NAMES, Endpoints
from bench.record import AGAIN, OURS, Case, Figures, Metric, Record, order
from bench.render import grid, on_terminal
from bench.running import (
    Address,
    BenchError,
    Cores,
    Lab,
    Peer,
    Running,
    find,
    remote_clocks,
)

QUICK_SECONDS = 0.25


def parser(
    script: str, doc: str | None, rounds: int, seconds: float, works: Mapping[str, str], pins: bool = True
) -> argparse.ArgumentParser:
    """The flags of every script; its docstring is the help text. `seconds` 0: it measures no stretches of time.

    `pins`: whether proxies and load can be told apart.
    """
    summary, _, rest = (doc or "").partition("\n")
    result = argparse.ArgumentParser(
        prog=f"python -m bench.{script}",
        usage="%(prog)s [OPTION ...]",
        description=summary,
        epilog=rest.strip("\n"),
        formatter_class=RawDescriptionRichHelpFormatter,
    )
    result.add_argument("--rounds", type=_at_least(1), default=rounds, metavar="N", help=f"default: {rounds}")
    if seconds:
        result.add_argument(
            "--seconds",
            type=float,
            default=seconds,
            metavar="S",
            help=f"of each measurement (default: {seconds:g})",
        )
    else:
        result.set_defaults(seconds=0.0)
    result.add_argument("--quick", action="store_true", help="one round, short: shows that it works, no more")
    if works:
        listed = "; ".join(f"{name}: {what}" for name, what in works.items())
        result.add_argument(
            "--only", type=_some_of(list(works)), default=list(works), metavar="WORK,…", help=listed
        )
    result.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
    result.add_argument("--plot", type=Path, metavar="FOLDER", help="draw there, SVG and PNG")
    if pins:
        result.add_argument(
            "--pin",
            action="store_true",
            help="the proxies on the first cores, one for each worker; generator and servers on the others. "
            "Off by default: on two cores small requests lost a third of their rate, and the control was "
            "no steadier",
        )
    else:
        result.set_defaults(pin=False)
    return result


def add_peers(result: argparse.ArgumentParser, names: Sequence[str] = NAMES) -> None:
    """The flags of scripts that compare. `names`: who there is, ours among them."""
    against = [name for name in names if name != OURS]
    result.add_argument(
        "--against",
        type=_some_of(against),
        default=against,
        metavar="PEER,…",
        help=f"which of {', '.join(against)} take part, when installed (default: all); '' for none",
    )


def add_generators(result: argparse.ArgumentParser) -> None:
    """The flag of scripts that ask for something all the time."""
    result.add_argument(
        "--generators",
        type=_at_least(1),
        default=1,
        metavar="N",
        help="processes that share the connections; one asks some 50,000 times a second (default: 1)",
    )


def add_targets(result: argparse.ArgumentParser) -> None:
    """The flags for proxies on other hosts."""
    result.add_argument(
        "--target",
        type=_target,
        action="append",
        default=[],
        metavar="[NAME=]HOST:PORT",
        help="measure what runs there instead of starting anything; repeatable, the first is the one compared with",
    )
    result.add_argument(
        "--agent",
        type=host_and_port,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where bench/agent.py runs beside a --target and knows its CPU time, under the same NAME; repeatable",
    )


def _at_least(least: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: write a number from {least}")
        return int(text)

    return check


def _some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        chosen = [one for one in text.split(",") if one]
        if unknown := [one for one in chosen if one not in names]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: choose from {', '.join(names)}")
        return chosen

    return check


def _target(text: str) -> tuple[str, Address]:
    name, found, rest = text.rpartition("=")
    return (name if found else OURS), host_and_port(rest)


@dataclass
class Contest:
    """Who takes part. Local peers are started by `start`; a target runs already and `start` gives its address."""

    peers: list[Peer] = field(default_factory=list)
    targets: list[tuple[str, Address]] = field(default_factory=list)
    agents: list[Address] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(arguments: argparse.Namespace, find: Callable[[str], Peer | str] = find) -> Contest:
        """Ours first, the chosen peers that are installed, ours again. Who is left out is said at once."""
        if targets := getattr(arguments, "target", []):
            name, address = targets[0]
            return Contest(targets=[*targets, (name + AGAIN, address)], agents=arguments.agent)
        contest = Contest()
        for name in (OURS, *arguments.against, OURS + AGAIN):
            if isinstance(found := find(name), Peer):
                contest.peers.append(found)
            else:
                contest.left_out[name] = found
                Console(stderr=True).print(f"left out: {found}", style="yellow", highlight=False)
        return contest

    @property
    def remote(self) -> bool:
        return bool(self.targets)

    @property
    def names(self) -> list[str]:
        return [peer.name for peer in self.peers] or [name for name, _ in self.targets]

    def start(
        self,
        lab: Lab,
        servers: Endpoints,
        workers: int = 1,
        log: bool = False,
        root: Path | None = None,
    ) -> dict[str, Running]:
        """Everybody, with the same servers behind, or the same files."""
        running = {peer.name: lab.proxy(peer, servers, workers, log, root) for peer in self.peers}
        for name, address in self.targets:
            running[name] = Running((address,), self._remote_meter(name))
        return running

    def _remote_meter(self, name: str) -> Callable[[], dict[str, int]] | None:
        return (lambda: remote_clocks(self.agents, name.removesuffix(AGAIN))) if self.agents else None


Contender = TypeVar("Contender")
"""What takes a turn: a proxy that runs, a peer that is yet to be started, a tier's address."""


class Turns:
    """Runs cases, the peers in turn, and shows how far it is."""

    def __init__(self, arguments: argparse.Namespace, script: str, contest: Contest, record: Record) -> None:
        self.arguments, self.contest, self.record = arguments, contest, record
        self.rounds: int = 1 if arguments.quick else arguments.rounds
        self.seconds: float = min(arguments.seconds, QUICK_SECONDS) if arguments.quick else arguments.seconds
        self._script = script
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(script, total=0)

    def __enter__(self) -> Turns:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def lab(self, workers: int = 1) -> Lab:
        return Lab(Cores.split(self.arguments.pin, workers))

    def expect(self, cases: int) -> None:
        """How many cases come, for the bar."""
        self._progress.update(self._task, total=cases * self.rounds)

    def run(
        self,
        case: Case,
        running: Mapping[str, Contender],
        measure: Callable[[Contender, int], Figures],
        rounds: int | None = None,
    ) -> None:
        """`measure(contender, round)` for everybody in every round; then the case joins the record."""
        case.rounds = {name: [] for name in running}
        self._progress.update(self._task, description=f"{self._script}: {case.title}")
        for turn in range(rounds or self.rounds):
            for name in order(list(running), turn):
                case.rounds[name].append(measure(running[name], turn))
            self._progress.advance(self._task)
        self.record.cases.append(case)

    def take(self, case: Case, rounds: Mapping[str, list[Figures]]) -> None:
        """A case whose rounds were measured already, as part of another work."""
        case.rounds = dict(rounds)
        self._progress.advance(self._task, self.rounds)
        self.record.cases.append(case)


def new_record(
    script: str,
    contest: Contest,
    settings: dict[str, Any],
    metrics: dict[str, Metric],
    works: dict[str, str],
    arguments: argparse.Namespace,
) -> Record:
    """With all that a reader needs to judge the figures."""
    return Record(
        script=script,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=machine.commit(),
        machine=machine.describe(),
        settings={
            "rounds": 1 if arguments.quick else arguments.rounds,
            "seconds": min(arguments.seconds, QUICK_SECONDS) if arguments.quick else arguments.seconds,
            "pinned": arguments.pin,
            **settings,
        },
        versions={peer.name: peer.version for peer in contest.peers if not peer.name.endswith(AGAIN)},
        peers={peer.name: peer.settings for peer in contest.peers if not peer.name.endswith(AGAIN)}
        | {name: f"at {host}:{port}" for name, (host, port) in contest.targets if not name.endswith(AGAIN)},
        left_out=contest.left_out,
        metrics=metrics,
        works=works,
    )


def finish(record: Record, arguments: argparse.Namespace) -> None:
    """The tables; JSON and pictures where wanted. Raises BenchError when they cannot be written."""
    console = Console() if sys.stdout.isatty() else Console(width=200)
    for work, title in record.works.items():
        if cases := record.of(work):
            console.print(on_terminal(grid(record, cases), title))
            console.print()
    try:
        if arguments.json:
            arguments.json.write_text(record.to_json())
        if arguments.plot:
            from bench.plot import draw

            draw(record, arguments.plot)
    except ImportError as error:
        raise BenchError(f"--plot: {error}; install it: pip install -e '.[bench]'") from None
    except OSError as error:
        raise BenchError(f"{error.filename}: {error.strerror}") from None


@contextlib.contextmanager
def script() -> Iterator[None]:
    """SIGTERM ends a script as Ctrl-C does, so that nothing is left behind; a fault ends it with its text."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine.raise_descriptor_limit()
    try:
        yield
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def sizes(text: str) -> list[int]:
    """ "16,64,512" as numbers, for argparse."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers with commas, for example 16,64,512")
    return [int(one) for one in text.split(",")]
