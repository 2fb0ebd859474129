"""The line about a finished connection, as HAProxy's `option tcplog` writes it, and the same as a JSON object. ●

    10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt bck/srv1 0/0/5007 212 -- 0/0/0/0/3 0/0
    │              │                          │   │        │        │   │  │         └ srv_queue/backend_queue
    client         accept date, local time    │   │        Tw/Tc/Tt │   │  └ actconn/feconn/beconn/srv_conn/retries
                                       frontend   backend/server    │   termination state
                                                                    bytes from the server to the client

(configuration manual §8.2.2). Tw: ms in the queue; Tc: ms of connecting, retries and pauses included; Tt: ms from
accept to close. A timer is -1 when its phase was not completed, except that a wait in the queue counts however it
ended (§8.4). `retries` has a + before it once another server was tried. `<NOSRV>`: none was ever chosen.

The termination state (§8.5) is two letters: the first thing that ended the connection, and what the load balancer
was waiting for. A `Cause` and a `Phase` make one; STATES lists those that there are, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple


class Cause(StrEnum):
    """The first letter."""

    NONE = "-"
    CLIENT = "C"
    SERVER = "S"
    RESOURCE = "R"
    INTERNAL = "I"
    KILLED = "K"
    CLIENT_TIMEOUT = "c"
    SERVER_TIMEOUT = "s"


class Phase(StrEnum):
    """The second letter."""

    DONE = "-"
    QUEUE = "Q"
    CONNECT = "C"
    DATA = "D"


STATES: Mapping[str, str] = {
    "--": "both sides finished",
    "CQ": "the client reset the connection while it waited in the queue",
    "SQ": "every server was full, and so was the queue",
    "sQ": "the time-out of the queue",
    "KQ": "killed in the queue: the virtual address left, or the drain time was over",
    "CC": "the client reset the connection before a server was reached, or did not begin with the PROXY header "
    "that it has to send",
    "SC": "the server refused or could not be reached, or no server was up",
    "sC": "the time-out of connecting to the server",
    "RC": "no descriptor, port or memory was left, or --source is not ours",
    "IC": "an error of ours, whose traceback is in the log",
    "KC": "killed while connecting: as KQ",
    "CD": "the client reset the connection while data passed",
    "SD": "the server reset the connection while data passed",
    "cD": "the client's time-out: it neither sent nor took anything",
    "sD": "the server's time-out: it neither sent nor took anything",
    "KD": "killed while data passed: as KQ, or by an operator",
}
"""All that this load balancer writes. HAProxy has more for what it does to HTTP."""


def termination(cause: Cause, phase: Phase) -> str:
    """The two letters; KeyError for a pair that cannot come to pass."""
    state = cause.value + phase.value
    STATES[state]
    return state


class Timers(NamedTuple):
    """Milliseconds, or -1: HAProxy's Tw, Tc and Tt."""

    queue: int
    connect: int
    total: int

    @classmethod
    def of(cls, accepted: float, dequeued: float | None, connected: float | None, ended: float) -> Timers:
        """Of four readings of one clock, in seconds; None for what never came.

        `dequeued`: a server was chosen for the first attempt, or the wait for one ended without.
        """
        # Each is rounded from the accept on, so that Tw + Tc never exceeds Tt.
        if dequeued is None:
            return cls(-1, -1, _ms(ended - accepted))
        queue = _ms(dequeued - accepted)
        connect = -1 if connected is None else _ms(connected - accepted) - queue
        return cls(queue, connect, _ms(ended - accepted))


class Finished(NamedTuple):
    """A connection that has ended. The five counts and two queues are of that moment, this connection included."""

    client: str  # IP address
    client_port: int
    accepted: float  # seconds since the epoch
    frontend: str
    backend: str
    server: str | None  # the last that was tried
    timers: Timers
    bytes_in: int  # client to server
    bytes_out: int  # server to client
    state: str  # of STATES
    actconn: int  # of this process
    feconn: int
    beconn: int
    srv_conn: int
    retries: int
    redispatched: bool
    srv_queue: int
    backend_queue: int
    node: str


def line(it: Finished) -> str:
    """`option tcplog`, without the syslog header and the newline."""
    queue, connect, total = it.timers
    second, ms = divmod(_ms(it.accepted), 1000)
    return (
        f"{it.client}:{it.client_port} [{_local(second)}.{ms:03d}] {it.frontend} "
        f"{it.backend}/{'<NOSRV>' if it.server is None else it.server} {queue}/{connect}/{total} "
        f"{it.bytes_out} {it.state} {it.actconn}/{it.feconn}/{it.beconn}/{it.srv_conn}/"
        f"{'+' if it.redispatched else ''}{it.retries} {it.srv_queue}/{it.backend_queue}"
    )


def json_object(it: Finished) -> str:
    """The same on one line of JSON; what is `<NOSRV>` or -1 in the other is null."""
    queue, connect, total = it.timers
    second, ms = divmod(_ms(it.accepted), 1000)
    return (
        f'{{"client": {_quoted(it.client)}, "client_port": {it.client_port}, '
        f'"accept_date": "{_utc(second)}.{ms:03d}Z", "frontend": {_quoted(it.frontend)}, '
        f'"backend": {_quoted(it.backend)}, "server": {_quoted(it.server)}, '
        f'"queue_ms": {"null" if queue < 0 else queue}, "connect_ms": {"null" if connect < 0 else connect}, '
        f'"total_ms": {total}, "bytes_in": {it.bytes_in}, "bytes_out": {it.bytes_out}, '
        f'"termination_state": "{it.state}", "actconn": {it.actconn}, "feconn": {it.feconn}, '
        f'"beconn": {it.beconn}, "srv_conn": {it.srv_conn}, "retries": {it.retries}, '
        f'"redispatched": {"true" if it.redispatched else "false"}, "srv_queue": {it.srv_queue}, '
        f'"backend_queue": {it.backend_queue}, "node": {_quoted(it.node)}}}'
    )  # by hand, because json.dumps takes three times as long, and a busy worker does this for each connection


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SECONDS_KEPT = 64
"""Dates that are not formatted again: most connections began in the same few seconds."""
NAMES_KEPT = 1024
"""Names and addresses that are not escaped again."""


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


@lru_cache(SECONDS_KEPT)
def _local(second: int) -> str:
    """06/Feb/2009:12:12:51, in English whatever the locale."""
    date = datetime.fromtimestamp(second)
    return f"{date.day:02d}/{_MONTHS[date.month - 1]}/{date.year:04d}:{date:%H:%M:%S}"


@lru_cache(SECONDS_KEPT)
def _utc(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


@lru_cache(NAMES_KEPT)
def _quoted(text: str | None) -> str:
    return json.dumps(text)
