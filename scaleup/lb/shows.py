"""The commands that look: `show …`, `get …` ●. Each is given the words that follow it, and returns the answer."""

from __future__ import annotations

from collections.abc import Sequence

from scaleup.lb.control import Control, Refused, server_of, whole
from scaleup.lb.stats import BackendRow, FrontendRow, Row, ServerRow, age, csv, info
from scaleup.upstream.server import Server


def show_info(control: Control, words: Sequence[str]) -> str:
    _only_plain("show info", words)
    return info(control.info())


def show_stat(control: Control, words: Sequence[str]) -> str:
    rows = control.rows()
    if len(words) >= 3:
        rows = _selected(rows, *words[:3])
        words = words[3:]
    elif words and words[0] not in ("up", "no-maint"):
        _only_plain("show stat", words)
    if "up" in words:
        rows = [row for row in rows if not row.status.startswith(("DOWN", "MAINT"))]
    if "no-maint" in words:
        rows = [row for row in rows if not row.status.startswith("MAINT")]
    return csv(rows)


def _selected(rows: Sequence[Row], proxy: str, kinds: str, sid: str) -> Sequence[Row]:
    """`proxy`: its number or name, -1: all. `kinds`: 1 frontends, 2 backends, 4 servers, added; -1: all."""
    number, mask, server = whole(proxy), whole(kinds), whole(sid)
    if mask is None or server is None:
        raise Refused("show stat expects numbers: show stat [{<iid>|<proxy>} <type> <sid>]")
    if number is None and not any(row.pxname == proxy for row in rows):
        raise Refused("No such proxy.")
    bits: dict[type[Row], int] = {FrontendRow: 1, BackendRow: 2, ServerRow: 4}
    return [
        row
        for row in rows
        if (row.pxname == proxy if number is None else number in (-1, row.iid))
        and (mask == -1 or bits[type(row)] & mask)
        and (server == -1 or not isinstance(row, ServerRow) or row.sid == server)
    ]


def _only_plain(command: str, words: Sequence[str]) -> None:
    if asked := [word for word in words if word in ("json", "typed", "desc", "float")]:
        raise Refused(f"'{command}' is written in one way here, not '{asked[0]}'.")


def show_backend(control: Control, words: Sequence[str]) -> str:
    return "# name\n" + "".join(f"{name}\n" for name in control.servers)


_CHECK_NUMBERS = {
    "SOCKERR": 5,
    "L4OK": 6,
    "L4TOUT": 7,
    "L4CON": 8,
    "L7TOUT": 12,
    "L7RSP": 13,
    "L7OK": 15,
    "L7STS": 17,
}
"""HAProxy's enum healthcheck_status; 1: none was made yet."""
_UNKNOWN_CHECK, _FAILED, _PASSED = 1, 2, 3
_MAINT, _DRAIN, _NO_ADDRESS = 0x01, 0x08, 0x20
_CONFIGURED, _ENABLED, _PAUSED = 0x02, 0x04, 0x08


def show_servers_state(control: Control, words: Sequence[str]) -> str:
    """Version 1 of the state file's format."""
    lines = [
        "1",
        "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
        "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "
        "srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port "
        "srv_check_addr srv_agent_addr srv_agent_port",
    ]
    for row, server in _server_rows(control, words):
        live, code = server.live, row.check_status
        host = str(live.endpoint.host) if live.endpoint else "-"
        named = host if server.is_named else "-"
        running = 2 if server.running else 0
        admin = _MAINT * (live.admin == "maint") | _DRAIN * (live.admin == "drain")
        admin |= _NO_ADDRESS * (live.endpoint is None)
        checks = _CONFIGURED | _ENABLED * live.checked | _PAUSED * (not live.serves)
        result = 0 if code in (None, "SOCKERR") else _PASSED if code in ("L4OK", "L7OK") else _FAILED
        lines.append(
            f"{row.iid} {row.pxname} {row.sid} {row.svname} {'-' if server.is_named else host} {running} {admin} "
            f"{live.weight} {server.configured.weight} {row.lastchg} "
            f"{_CHECK_NUMBERS.get(code or '', _UNKNOWN_CHECK)} {result} {row.check_health} {checks} 0 0 0 {named} "
            f"{live.endpoint.port if live.endpoint else 0} - 0 0 - - 0"
        )
    return "\n".join(lines) + "\n"


def show_servers_conn(control: Control, words: Sequence[str]) -> str:
    """Nothing is kept idle: a connection to a server is one client's."""
    lines = [
        "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb "
        "idle_lim idle_cur idle_per_thr[1]"
    ]
    for row, server in _server_rows(control, words):
        host, port = (server.endpoint.host, server.endpoint.port) if server.endpoint else ("-", 0)
        lines.append(
            f"{row.pxname}/{row.svname} {row.iid}/{row.sid} {host} {port} - 0 {row.scur} {row.smax} {row.smax} "
            "0 0 0 0 0"
        )
    return "\n".join(lines) + "\n"


def _server_rows(control: Control, words: Sequence[str]) -> Sequence[tuple[ServerRow, Server]]:
    if words and words[0] not in control.servers:
        raise Refused("Can't find backend.")
    return [
        (row, control.servers[row.pxname][row.svname])
        for row in control.rows()
        if isinstance(row, ServerRow) and row.pxname in (words[:1] or [row.pxname])
    ]


async def show_sess(control: Control, words: Sequence[str]) -> str:
    sessions = await control.sessions()
    if words and words[0] != "all":
        sessions = [session for session in sessions if session.id == words[0]]
        if not sessions:
            raise Refused("Session not found.")
    return "".join(
        f"{it.id}: proto={'tcpv6' if it.client.startswith('[') else 'tcpv4'} src={it.client} fe={it.frontend} "
        f"be={it.backend} srv={it.server or '<none>'} age={age(int(it.age))}\n"
        for it in sessions
    )


def show_errors(control: Control, words: Sequence[str]) -> str:
    """HAProxy keeps requests that it could not parse; nothing is parsed here."""
    if words and not words[0].isdigit() and words[0] not in {row.pxname for row in control.rows()}:
        raise Refused("No such proxy.")
    return f"Total events captured on [{control.date()}] : 0"


def show_version(control: Control, words: Sequence[str]) -> str:
    return str(control.info()["Version"])


def get_weight(control: Control, words: Sequence[str]) -> str:
    _, server = server_of(control, words)
    return f"{server.weight} (initial {server.configured.weight})"
