"""The statistics page: HAProxy's rows and column groups, for people.

It is a table that is whole without a script; with one it changes as the node does. Nothing comes from elsewhere,
and the Content-Security-Policy lets nothing but this style and this script be used, each by its hash.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from itertools import groupby

from scaleup.lb.stats import BackendRow, FrontendRow, Row, ServerRow, age

STYLE = files("scaleup.lb").joinpath("page.css").read_text(encoding="utf-8")
SCRIPT = files("scaleup.lb").joinpath("page.js").read_text(encoding="utf-8")

RELOAD_SECONDS = 5
"""Without a script."""


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src {_source(STYLE)}; script-src {_source(SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

COLUMNS = {
    "Queue": {"Cur": "qcur", "Max": "qmax"},
    "Session rate": {"Cur": "rate", "Max": "rate_max"},
    "Sessions": {
        "Cur": "scur",
        "Max": "smax",
        "Limit": "slim",
        "Total": "stot",
        "LbTot": "lbtot",
        "Last": "lastsess",
    },
    "Bytes": {"In": "bin", "Out": "bout"},
    "Denied": {"Conn": "dcon"},
    "Errors": {"Req": "ereq", "Conn": "econ", "Cli": "cli_abrt", "Srv": "srv_abrt"},
    "Warnings": {"Retr": "wretr", "Redis": "wredis"},
    "Server": {
        "Since": "lastchg",
        "Wght": "weight",
        "Act": "act",
        "Bck": "bck",
        "Chk": "chkfail",
        "Dwn": "chkdown",
        "Dwntme": "downtime",
        "Thrtle": "throttle",
        "LastChk": "check",
    },
}
"""HAProxy's groups, and its names in them → the columns of `stats`; `check` says code, time and detail."""

_TITLES = {
    "qcur": "connections that wait for a server",
    "qmax": "the most that waited at a time",
    "rate": "sessions in the last second",
    "rate_max": "the most in a second",
    "scur": "sessions now",
    "smax": "the most at a time",
    "slim": "maxconn",
    "stot": "sessions in all",
    "lbtot": "times that it was chosen",
    "lastsess": "since the newest session began",
    "bin": "from clients, of sessions that have ended",
    "bout": "to clients, of sessions that have ended",
    "dcon": "connections refused because of their address",
    "ereq": "connections without the PROXY header that they must begin with",
    "econ": "connections that reached no server",
    "cli_abrt": "sessions that the client reset or let time out",
    "srv_abrt": "sessions that the server reset or let time out",
    "wretr": "attempts that were repeated at the same server",
    "wredis": "attempts that went on to another server",
    "lastchg": "since it went up or down",
    "check": "the last health check",
    "weight": "weight now",
    "act": "active servers",
    "bck": "backup servers",
    "chkfail": "checks that failed while it was up",
    "chkdown": "times that its checks brought it down",
    "downtime": "time that it was down",
    "throttle": "per cent of its weight, in a slow start",
}
_SPANS = {"lastsess", "lastchg", "downtime"}
_BYTES = {"bin", "bout"}
_UNITS = ("", "k", "M", "G", "T", "P")


def page(rows: Sequence[Row], info: Mapping[str, object], role: str | None) -> str:
    """`role`: of the node in the election; None: there is none."""
    name = str(info["node"])
    servers = [row for row in rows if isinstance(row, ServerRow)]
    up = sum(row.state == "UP" for row in servers)
    facts = {
        **({"Role": role} if role else {}),
        "Servers up": f"{up} of {len(servers)}",
        "Sessions": f"{info['CurrConns']} of {info['Maxconn']}",
        "Per second": info["ConnRate"],
        "In all": info["CumConns"],
        "Workers": info["Nbproc"],
        "Up for": age(int(str(info["Uptime_sec"]))),
    }
    listed = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(str(it))}</dd></div>" for key, it in facts.items()
    )
    frontends = [row for row in rows if isinstance(row, FrontendRow)]
    behind = groupby((row for row in rows if not isinstance(row, FrontendRow)), lambda row: row.pxname)
    proxies = _section("Frontends", "", frontends) + "".join(_backend(name, list(it)) for name, it in behind)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(name)}: {up} of {len(servers)} up</title>
<link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(name)} <span class="muted">ScaleUp load balancer {escape(str(info["Version"]))}</span></h1>
<dl id="facts">{listed}</dl>
<p id="live" role="status">loaded anew every {RELOAD_SECONDS} s</p>
</header>
<main id="proxies">{proxies}</main>
<footer><a href="/stats;csv">CSV</a>, as HAProxy's. Rates and maxima are of 5 samples a second.</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _backend(name: str, rows: Sequence[Row]) -> str:
    [algorithm] = [row.algo for row in rows if isinstance(row, BackendRow)]
    return _section(name, f"backend, {algorithm}", rows)


def _section(title: str, kind: str, rows: Sequence[Row]) -> str:
    shown = {
        group: {
            label: key for label, key in columns.items() if any(_value(row, key) is not None for row in rows)
        }
        for group, columns in COLUMNS.items()
    }
    shown = {group: columns for group, columns in shown.items() if columns}
    groups = "".join(
        f'<th class="first" scope="colgroup" colspan="{len(columns)}">{group}</th>'
        for group, columns in shown.items()
    )
    heads = "".join(
        f'<th class="{_classes(index, key)}" scope="col" title="{_TITLES[key]}">{label}</th>'
        for columns in shown.values()
        for index, (label, key) in enumerate(columns.items())
    )
    title, identity = escape(title), escape(f"{rows[-1].kind}-{rows[-1].pxname}")
    return (
        f'<section aria-labelledby="title-{identity}"><h2 id="title-{identity}">{title} '
        f'<span class="muted">{escape(kind)}</span></h2>'
        f'<div class="scroll" id="table-{identity}" tabindex="0" role="region" aria-label="{title}"><table>'
        f'<thead><tr><td class="who" rowspan="2"></td>{groups}</tr><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(_row(row, shown) for row in rows)}</tbody></table></div></section>\n"
    )


def _row(row: Row, shown: Mapping[str, Mapping[str, str]]) -> str:
    match row:
        case FrontendRow():
            name = row.pxname
        case ServerRow():
            name = row.svname
        case BackendRow():
            name = "Backend"
    address = escape(row.addr or "no address") if isinstance(row, ServerRow) else ""
    cells = "".join(_cells(row, shown))
    return (
        f'<tr id="{escape(f"row-{row.pxname}-{row.svname}")}" class="{row.kind} {_colour(row)}">'
        f'<th class="who" scope="row" title="{address}"><div><span class="name">{escape(name)}</span>'
        f'<span class="state">{escape(row.status)}</span></div></th>{cells}</tr>'
    )


def _cells(row: Row, shown: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for group, columns in shown.items():
        for index, (label, key) in enumerate(columns.items()):
            value = _value(row, key)
            zero = " zero" if value in (0, -1) else ""
            title = f' title="{escape(str(value))}"' if key == "check" and value else ""
            yield (
                f'<td{title} class="{_classes(index, key)}{zero}" data-label="{group} {label}">'
                f"{'' if value is None else escape(_written(key, value))}</td>"
            )


def _value(row: Row, key: str) -> int | str | None:
    if key == "check":
        return _check(row) if isinstance(row, ServerRow) else None
    if isinstance(row, ServerRow) and key in ("qcur", "qmax"):
        return None  # they wait for any server
    value: int | str | None = getattr(row, key, None)
    return None if key == "slim" and not value else value


def _check(row: ServerRow) -> str | None:
    if row.check_status is None:
        return None
    return f"{row.check_status} in {row.check_duration} ms: {row.last_chk}"


def _written(key: str, value: int | str) -> str:
    if isinstance(value, str):
        return value
    if key in _SPANS:
        return "–" if value < 0 else age(value)
    if key in _BYTES:
        return _bytes(value)
    return f"{value} %" if key == "throttle" else str(value)


def _bytes(count: float) -> str:
    """Three digits and a power of 1000."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}B" if not unit or count >= 100 else f"{count:.1f} {unit}B"


def _colour(row: Row) -> str:
    if isinstance(row, FrontendRow):
        return "up"
    first, _, level = row.status.partition(" ")
    match first:
        case "MAINT" | "no":
            return "out"
        case "DRAIN":
            return "drain"
        case "UP" | "DOWN" if level:
            return "between"
    return "up" if first == "UP" else "down"


def _classes(index: int, key: str) -> str:
    """`index`: within its group."""
    return ("first" if index == 0 else "") + (" text" if key == "check" else "")
