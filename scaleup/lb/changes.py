"""The commands that change something ●. Each is given the words that follow it; most are answered by nothing.

Whatever is changed of a server is one new `Live` value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

from scaleup.lb.control import Control, Refused, server_of, whole
from scaleup.lb.stats import FrontendRow
from scaleup.net.addresses import Endpoint
from scaleup.upstream.server import Server

MAX_WEIGHT = 256
MAX_MAXCONN = 1_000_000


def set_server(control: Control, words: Sequence[str]) -> str:
    backend, server = server_of(control, words)
    what, rest = (words[1], words[2:]) if len(words) > 1 else ("", [])
    setting = _SETTINGS.get(what)
    if setting is None:
        raise Refused(f"usage: set server <backend>/<server> {' | '.join(_SETTINGS)}")
    return setting(control, backend, server, rest)


def _set_state(control: Control, backend: str, server: Server, words: Sequence[str]) -> str:
    match list(words[:1]):
        case ["ready" | "drain" | "maint" as admin]:
            control.change(backend, server, server.live._replace(admin=admin))
            return ""
    raise Refused("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")


def _set_weight(control: Control, backend: str, server: Server, words: Sequence[str]) -> str:
    if not words:
        raise Refused("Require <weight> or <weight%>.")
    found = re.fullmatch(r"(-?[0-9]{1,9})(%?)", words[0])
    if not found:
        text = "Trailing garbage in weight string" if words[0][0].isdigit() else None
        raise Refused(text or "Empty weight string empty or preceded by garbage")
    weight = int(found[1])
    if found[2]:
        if not 0 <= weight <= 100:
            raise Refused("Relative weight can only be between 0 and 100% inclusive.")
        weight = server.configured.weight * weight // 100
    elif not 0 <= weight <= MAX_WEIGHT:
        raise Refused(f"Absolute weight can only be between 0 and {MAX_WEIGHT} inclusive.")
    control.change(backend, server, server.live._replace(weight=weight))
    return ""


def _set_address(control: Control, backend: str, server: Server, words: Sequence[str]) -> str:
    if not words:
        raise Refused("set server <b>/<s> addr requires an address and optionally a port.")
    try:
        host = str(ip_address(words[0]))
    except ValueError:
        raise Refused(f"Invalid addr '{words[0]}' by 'stats socket command'") from None
    before = server.endpoint
    port: int | None = before.port if before else None
    if words[1:2] == ["port"]:
        port = whole(words[2]) if len(words) > 2 else None
        if port is None or not 0 < port < 65536:
            raise Refused(f"problem converting port '{words[2] if len(words) > 2 else ''}' to an int")
    elif port is None:
        raise Refused("The server has no address yet: say its port, too.")
    control.change(backend, server, server.live._replace(endpoint=Endpoint(host, port)))
    said = [
        f"IP changed from '{before.host if before else '-'}' to '{host}'"
        if before is None or before.host != host
        else "no need to change the addr"
    ]
    if words[1:2] == ["port"]:
        said.append(
            f"port changed from '{before.port if before else 0}' to '{port}'"
            if before is None or before.port != port
            else "no need to change the port"
        )
    return ", ".join(said) + " by 'stats socket command'"


def _set_health(control: Control, backend: str, server: Server, words: Sequence[str]) -> str:
    if words[:1] not in (["up"], ["down"]):
        raise Refused("'set server <srv> health' expects 'up' or 'down'; for 'stopping' say state drain.")
    control.force(backend, server, words[0] == "up")
    return ""


def _set_server_maxconn(control: Control, backend: str, server: Server, words: Sequence[str]) -> str:
    if not words:
        raise Refused("Require <maxconn>.")
    maxconn = whole(words[0])
    if maxconn is None:
        raise Refused("Integer value expected.")
    if not 0 <= maxconn <= MAX_MAXCONN:
        raise Refused("Value out of range.")
    control.change(backend, server, server.live._replace(maxconn=maxconn))
    return ""


_SETTINGS: Mapping[str, Callable[[Control, str, Server, Sequence[str]], str]] = {
    "addr": _set_address,
    "health": _set_health,
    "maxconn": _set_server_maxconn,
    "state": _set_state,
    "weight": _set_weight,
}


def on_server(setting: str, *fixed: str) -> Callable[[Control, Sequence[str]], str]:
    """`set weight b/s …` for `set server b/s weight …`."""

    def handler(control: Control, words: Sequence[str]) -> str:
        backend, server = server_of(control, words)
        return _SETTINGS[setting](control, backend, server, [*fixed, *words[1:]])

    return handler


def enable_server(control: Control, words: Sequence[str]) -> str:
    """Out of maintenance; one that drains goes on draining, as in HAProxy."""
    backend, server = server_of(control, words)
    if server.admin == "maint":
        control.change(backend, server, server.live._replace(admin="ready"))
    return ""


def checks(on: bool) -> Callable[[Control, Sequence[str]], str]:
    def handler(control: Control, words: Sequence[str]) -> str:
        backend, server = server_of(control, words)
        control.change(backend, server, server.live._replace(checked=on))
        return ""

    return handler


def set_maxconn_frontend(control: Control, words: Sequence[str]) -> str:
    if not words:
        raise Refused("A frontend name is expected.")
    frontends = {row.pxname for row in control.rows() if isinstance(row, FrontendRow)}
    if words[0] not in frontends:
        raise Refused("No such frontend.")
    maxconn = whole(words[1]) if len(words) > 1 else None
    if maxconn is None:
        raise Refused("Integer value expected.")
    if not 1 <= maxconn <= MAX_MAXCONN:
        raise Refused("Value out of range.")
    control.set_maxconn(words[0], maxconn)
    return ""


async def shutdown_session(control: Control, words: Sequence[str]) -> str:
    if not words or not re.fullmatch("0x[0-9a-f]+", words[0]):
        raise Refused("Session pointer expected (use 'show sess').")
    if not await control.shut_down(words[0]):
        raise Refused("No such session (use 'show sess').")
    return ""


def shutdown_sessions(control: Control, words: Sequence[str]) -> str:
    control.shut_down_all(*server_of(control, words))
    return ""


def clear_counters(control: Control, words: Sequence[str]) -> str:
    control.clear(words[:1] == ["all"])
    return ""
