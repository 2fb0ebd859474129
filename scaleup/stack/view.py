"""What people see of a stack: its progress, the table, and a line for each event that matters."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaleup.stack.part import Part

_COLOURS = {"active": "bold green", "up": "green", "backup": "cyan", "fault": "bold red", "down": "red"}


class ConsoleView:
    """Prints to a terminal in colour, to a file in plain text (rich minds NO_COLOR)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._serving = False

    def starting(self, names: list[str]) -> None:
        self._print(f"starting {' '.join(names)} …", "dim")

    def started(self, part: Part) -> None:
        detail = f"  {part.detail}" if part.detail else ""
        self._line(f"{part.spec.name} is ready", f"on {part.spec.endpoint}{detail}", "green")

    def serving(self, status: dict[str, Any], details: dict[str, str], urls: list[str], logs: str) -> None:
        """The table and the URLs, when everything runs. From now on events are told as well."""
        self._serving = True
        self._print(table(status, details))
        for url in urls:
            self._print(url, "bold")
        self._print(f"logs: {escape(logs)}    stop: Ctrl-C", "dim")

    def event(self, part: Part, event: str, fields: dict[str, Any]) -> None:
        if not self._serving:
            return
        name = part.spec.name
        match event:
            case "role":
                self._line(f"{name} is {fields['role']}", fields["rule"], _COLOURS[fields["role"]])
            case "server":
                state, colour = ("up", "green") if fields["up"] else ("down", "red")
                self._line(f"{name}: server {fields['server']} is {state}", fields["reason"], colour)
            case "worker":
                self._line(f"{name}: {fields['worker']} died", f"{fields['how']}; started again", "yellow")
            case "died":
                self._line(
                    f"{name} died", f"{fields['how']}; start it: python -m scaleup start {name}", "bold red"
                )
            case "stopped" | "started":
                self._line(f"{name} was {event}", "", "dim")

    def stopping(self) -> None:
        self._serving = False
        self._print("stopping …", "dim")

    def stopped(self) -> None:
        self._print("everything has stopped", "dim")

    def _line(self, what: str, why: str, colour: str) -> None:
        elapsed = time.monotonic() - self._began
        because = f"  [dim]({escape(why)})[/dim]" if why else ""
        self._print(f"[dim]{elapsed:8.2f} s[/dim]  [{colour}]{what}[/{colour}]{because}")

    def _print(self, what: str | Table, style: str = "") -> None:
        """Nobody may be looking any more (a closed terminal, `| head`); the stack goes on, and stops cleanly."""
        with contextlib.suppress(OSError, SystemExit):  # rich makes SystemExit of a broken pipe
            self._console.print(what, highlight=False, soft_wrap=isinstance(what, str), style=style)


def table(status: dict[str, Any], details: dict[str, str] | None = None) -> Table:
    """The processes, a row each; `details` by name."""
    result = Table(header_style="bold", pad_edge=False, box=None)
    for column in ("tier", "name", "address", "state"):
        result.add_column(column)
    result.add_column("pid", justify="right")
    if details:
        result.add_column("")
    for row in status["processes"]:
        colour = _COLOURS[row["state"]]
        cells = [row["tier"], row["name"], row["address"], f"[{colour}]{row['state']}[/{colour}]"]
        cells.append(str(row["pid"]) if row["pid"] is not None else "–")
        if details:
            cells.append(details.get(row["name"], ""))
        result.add_row(*cells)
    return result
