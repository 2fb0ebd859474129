"""HAProxy's statistics: a row for each frontend, server and backend, and how they are written ●.

The columns are those of the management guide (§9.1), with its names and in its order, because collectors read
them by name, and some by number. A column that a row does not have is empty there, as in HAProxy; what TCP proxies
have in HAProxy although nothing is ever counted in it (denied responses, compression, …) is 0 here, too. Left empty
are times (qtime … ttime: the log has them of each connection) and what only other modes of HAProxy know.
"""

from __future__ import annotations

import csv as _csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from scaleup.upstream.server import Live, Server

_ORDER = """
    pxname svname qcur qmax scur smax slim stot bin bout dreq dresp ereq econ eresp wretr wredis status weight act
    bck chkfail chkdown lastchg downtime qlimit pid iid sid throttle lbtot tracked type rate rate_lim rate_max
    check_status check_code check_duration hrsp_1xx hrsp_2xx hrsp_3xx hrsp_4xx hrsp_5xx hrsp_other hanafail
    req_rate req_rate_max req_tot cli_abrt srv_abrt comp_in comp_out comp_byp comp_rsp lastsess last_chk last_agt
    qtime ctime rtime ttime agent_status agent_code agent_duration check_desc agent_desc check_rise check_fall
    check_health agent_rise agent_fall agent_health addr cookie mode algo conn_rate conn_rate_max conn_tot
    intercepted dcon dses wrew connect reuse cache_lookups cache_hits srv_icur src_ilim qtime_max ctime_max
    rtime_max ttime_max eint idle_conn_cur safe_conn_cur used_conn_cur need_conn_est uweight agg_server_status
    agg_server_check_status agg_check_status
"""
COLUMNS = tuple(_ORDER.split())
"""Of HAProxy 2.6, up to where its extra counters begin."""

PROCESS = 1
"""The `pid` column is the number of the process among those of one HAProxy: there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendRow:
    """`iid`: the number of the proxy; a frontend and a backend of one name are one proxy (HAProxy's `listen`)."""

    kind: ClassVar[str] = "FRONTEND"
    zeros: ClassVar[str] = (
        "dresp rate_lim req_rate req_rate_max req_tot comp_in comp_out comp_byp comp_rsp dses wrew eint"
    )

    pxname: str
    svname: str = "FRONTEND"
    scur: int
    smax: int
    slim: int
    stot: int
    bin: int
    bout: int
    dreq: int = 0
    ereq: int
    dcon: int
    status: str
    pid: int = PROCESS
    iid: int
    sid: int = 0
    type: int = 0
    rate: int
    rate_max: int
    mode: str = "tcp"
    conn_rate: int
    conn_rate_max: int
    conn_tot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """Seconds: `lastchg`, `downtime`, `lastsess` (-1: none so far). Milliseconds: `check_duration`."""

    kind: ClassVar[str] = "SERVER"
    zeros: ClassVar[str] = "dresp eresp wrew reuse srv_icur eint idle_conn_cur safe_conn_cur"

    pxname: str
    svname: str
    qcur: int = 0  # connections wait for any server of the backend
    qmax: int = 0
    scur: int
    smax: int
    slim: int | None
    stot: int
    bin: int
    bout: int
    econ: int
    wretr: int
    wredis: int
    status: str
    weight: int
    act: int
    bck: int
    chkfail: int
    chkdown: int
    lastchg: int
    downtime: int
    pid: int = PROCESS
    iid: int
    sid: int
    throttle: int | None
    lbtot: int
    type: int = 2
    rate: int
    rate_max: int
    check_status: str | None
    check_code: int | None
    check_duration: int | None
    cli_abrt: int
    srv_abrt: int
    lastsess: int
    last_chk: str | None
    check_desc: str | None
    check_rise: int
    check_fall: int
    check_health: int
    addr: str | None
    mode: str = "tcp"
    connect: int
    used_conn_cur: int
    need_conn_est: int
    uweight: int
    state: str
    """One of STATES; no column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRow:
    """`slim`: what its servers may have together, 0: no limit."""

    kind: ClassVar[str] = "BACKEND"
    zeros: ClassVar[str] = "dreq dresp eresp comp_in comp_out comp_byp comp_rsp wrew reuse eint"

    pxname: str
    svname: str = "BACKEND"
    qcur: int
    qmax: int
    scur: int
    smax: int
    slim: int
    stot: int
    bin: int
    bout: int
    econ: int
    wretr: int
    wredis: int
    status: str
    weight: int
    act: int
    bck: int
    chkdown: int
    lastchg: int
    downtime: int
    pid: int = PROCESS
    iid: int
    sid: int = 0
    lbtot: int
    type: int = 1
    rate: int
    rate_max: int
    cli_abrt: int
    srv_abrt: int
    lastsess: int
    mode: str = "tcp"
    algo: str
    connect: int
    uweight: int


Row = FrontendRow | ServerRow | BackendRow

CHECK_DESCRIPTIONS: Mapping[str, str] = {
    "SOCKERR": "Socket error",
    "L4OK": "Layer4 check passed",
    "L4TOUT": "Layer4 timeout",
    "L4CON": "Layer4 connection problem",
    "L6OK": "Layer6 check passed",
    "L6TOUT": "Layer6 timeout",
    "L6RSP": "Layer6 invalid response",
    "L7OK": "Layer7 check passed",
    "L7STS": "Layer7 wrong status",
    "L7RSP": "Layer7 invalid response",
    "L7TOUT": "Layer7 timeout",
}
"""HAProxy's, of the codes of `upstream.probe`."""

STATES = ("UP", "DOWN", "MAINT", "DRAIN", "NOLB")
"""One of them is a server's, for metrics. NOLB is HAProxy's for one that wants no more: none of ours does."""


UNRESOLVED = "MAINT (resolution)"
"""The status of one whose name has no address for it: perhaps a free slot of a template."""


def state(server: Server) -> str:
    """One of STATES: what of it an operator has to know first."""
    if not server.live.serves:
        return "MAINT"
    if not server.up:
        return "DOWN"
    return "UP" if server.admin == "ready" else "DRAIN"


def status(server: Server, level: int | None, rise: int, fall: int) -> str:
    """As HAProxy writes it. `level`: of its health (`Health.level`); None: it is not checked.

    `UP 1/3`: one more failed check, and it is down; `DOWN 1/2`: one passed, and one more brings it up.
    """
    live: Live = server.live
    if live.endpoint is None:
        return UNRESOLVED
    now = state(server)
    if now == "MAINT" or level is None:
        return "no check" if now == "UP" else now
    if now == "DOWN":
        return f"DOWN {level}/{rise}" if level else "DOWN"
    left = level - rise + 1
    return f"{now} {left}/{fall}" if left < fall else now


def csv(rows: Iterable[Row]) -> str:
    """`show stat`: a line of names, which begins with `# `, and one for each row; each ends with a comma, too."""
    text = io.StringIO()
    writer = _csv.writer(text, lineterminator="\n")
    text.write("# ")
    writer.writerow([*COLUMNS, ""])
    for row in rows:
        values = columns(row)
        writer.writerow([*map(values.get, COLUMNS), ""])
    return text.getvalue()


def columns(row: Row) -> dict[str, int | str | None]:
    """What it has, by name."""
    values: dict[str, int | str | None] = dict.fromkeys(row.zeros.split(), 0)
    values.update((field.name, getattr(row, field.name)) for field in fields(row))
    return values


def info(values: Mapping[str, object]) -> str:
    """`show info`."""
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def age(seconds: int) -> str:
    """As HAProxy's: 5s, 1m5s, 1h5m, 1d5h."""
    days, hours, minutes = seconds // 86400, seconds % 86400 // 3600, seconds % 3600 // 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"
