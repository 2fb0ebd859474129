"""What can be said at the runtime socket: one command line → the text that answers it ●.

The commands are those of HAProxy's management guide (§9.3) that mean something here, and so are the texts, since
tools compare some of them. What cannot be done changes nothing and is answered by one line that says why.

    control   what the node offers them
    shows     those that look
    changes   those that change something
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable

from scaleup.lb import changes, shows
from scaleup.lb.control import Control, Refused

Handler = Callable[[Control, Sequence[str]], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Command:
    usage: str
    help: str
    handler: Handler

    @property
    def line(self) -> str:
        return f"  {self.usage:<40}: {self.help}\n"


async def answer(line: str, control: Control) -> str:
    """Do what one command line says, without its `;` and newline. The answer ends with an empty line."""
    words = line.split()
    for length in range(len(words), 0, -1):
        if command := COMMANDS.get(" ".join(words[:length])):
            try:
                said = command.handler(control, words[length:])
                text = await said if isawaitable(said) else said
                if words[0] in CHANGE:
                    await control.heard()
            except Refused as error:
                text = str(error)
            return text + "\n" if not text or text.endswith("\n") else text + "\n\n"
    return unknown(words)


def unknown(words: Sequence[str]) -> str:
    """With the commands that begin alike."""
    while words and not any(_begins(name, words) for name in COMMANDS):
        words = words[:-1]
    if not words:
        return "Unknown command. Please enter one of the following commands only:\n" + _listed(COMMANDS)
    alike = [name for name in COMMANDS if _begins(name, words)]
    text = "Unknown command, but maybe one of the following ones is a better match:\n"
    return text + _listed([*alike, *(name for name in ALWAYS if name not in alike)])


def _begins(name: str, words: Sequence[str]) -> bool:
    return name.split()[: len(words)] == list(words)


def _listed(names: Sequence[str] | Mapping[str, Command]) -> str:
    return "".join(COMMANDS[name].line for name in names) + "\n"


def _help(control: Control, words: Sequence[str]) -> str:
    alike = [name for name in COMMANDS if _begins(name, words)] or list(COMMANDS)
    return "The following commands are valid at this level:\n" + _listed(alike)[:-1]


def _of_the_connection(control: Control, words: Sequence[str]) -> str:
    raise AssertionError("the socket answers this itself")


_TABLE: tuple[tuple[str, str, str, Handler], ...] = (
    ("clear counters", "[all]", "clear max statistics counters (or all counters)", changes.clear_counters),
    ("disable health", "<bk>/<srv>", "disable health checks", changes.checks(False)),
    ("disable server", "<bk>/<srv>", "put a server into maintenance", changes.on_server("state", "maint")),
    ("enable health", "<bk>/<srv>", "enable health checks", changes.checks(True)),
    ("enable server", "<bk>/<srv>", "end a server's maintenance", changes.enable_server),
    ("get weight", "<bk>/<srv>", "report a server's current weight", shows.get_weight),
    (
        "set maxconn frontend",
        "<frontend> <value>",
        "change a frontend's maxconn",
        changes.set_maxconn_frontend,
    ),
    ("set maxconn server", "<bk>/<srv> <value>", "change a server's maxconn", changes.on_server("maxconn")),
    ("set server", "<bk>/<srv> [opts]", "change a server's state, weight, address, …", changes.set_server),
    ("set timeout cli", "<delay>", "change how long this connection may be idle", _of_the_connection),
    ("set weight", "<bk>/<srv> <value>", "change a server's weight", changes.on_server("weight")),
    ("show backend", "", "list backends in the current running config", shows.show_backend),
    ("show errors", "[<px>]", "report last request errors: none, nothing is parsed", shows.show_errors),
    ("show info", "", "report information about the running node", shows.show_info),
    ("show servers conn", "[<backend>]", "dump server connections status", shows.show_servers_conn),
    ("show servers state", "[<backend>]", "dump volatile server information", shows.show_servers_state),
    ("show sess", "[id]", "report the list of current sessions, or this one", shows.show_sess),
    ("show stat", "[{<iid>|<px>} <type> <sid>]", "report counters; also [up|no-maint]", shows.show_stat),
    ("show version", "", "show version of the current process", shows.show_version),
    ("shutdown session", "[id]", "kill a specific session", changes.shutdown_session),
    ("shutdown sessions server", "<bk>/<srv>", "kill sessions on a server", changes.shutdown_sessions),
    ("help", "[<command>]", "list matching or all commands", _help),
    ("prompt", "", "toggle interactive mode with prompt", _of_the_connection),
    ("quit", "", "disconnect", _of_the_connection),
)
COMMANDS: Mapping[str, Command] = {
    name: Command(f"{name} {usage}".strip(), text, handler) for name, usage, text, handler in _TABLE
}
CHANGE = ("set", "enable", "disable", "shutdown")
"""What begins so is answered when the workers have heard of it: whoever drains a server and waits for the end of
its sessions must not find none because a worker has yet to hear that it drains.
"""
ALWAYS = ("help", "prompt", "quit")
"""Offered with every suggestion."""
