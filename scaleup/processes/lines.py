"""What a line of the log looks like: for people, for collectors, for syslog.

    text     2026-11-23 02:12:12.123 lb1/worker1 INFO    listening on 10.0.0.100:80
    json     {"time": "2026-11-23T02:12:12+0000", "level": "INFO", "process": "lb1/worker1", …}
    syslog   <134>Nov 23 02:12:12 lb1/worker1[4711]: INFO listening on 10.0.0.100:80

Syslog's header is RFC 3164's as HAProxy sends it, without a host name, which the daemon adds; after it stands the
object when the format is json.
"""

from __future__ import annotations

import logging
import os
import time

import colorlog
from pythonjsonlogger.json import JsonFormatter

FACILITY = 16
"""local0, which HAProxy's manual uses throughout."""

SEVERITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

_COLOURS = {"DEBUG": "thin", "INFO": "reset", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold_red"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_JSON_DATE = "%Y-%m-%dT%H:%M:%S%z"
_TEXT_DATE = "%Y-%m-%d %H:%M:%S"


def formatter(name: str, log_format: str, *, syslog: bool, in_colour: bool) -> logging.Formatter:
    """For the process `name`; `log_format`: text or json."""
    inner: logging.Formatter
    if log_format == "json":
        inner = JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"process": name},
            datefmt=_JSON_DATE,
        )
    elif syslog:
        inner = logging.Formatter("%(levelname)s %(message)s")
    else:
        # colorlog knows NO_COLOR.
        line = f"%(asctime)s.%(msecs)03d {name} %(log_color)s%(levelname)-7s %(message)s%(reset)s"
        inner = colorlog.ColoredFormatter(
            line, datefmt=_TEXT_DATE, log_colors=_COLOURS, no_color=not in_colour
        )
    return SyslogFormatter(name, inner) if syslog else inner


class SyslogFormatter(logging.Formatter):
    """The header of RFC 3164 before what `inner` makes of the record."""

    def __init__(self, name: str, inner: logging.Formatter) -> None:
        super().__init__()
        self._name, self._inner = name, inner

    def format(self, record: logging.LogRecord) -> str:
        level = SEVERITIES.get(record.levelname, SEVERITIES["INFO"])
        return syslog_header(self._name, level, int(record.created)) + self._inner.format(record)


def syslog_header(name: str, severity: int, second: int) -> str:
    """`<134>Nov  3 02:12:12 lb1[4711]: `, in local time."""
    now = time.localtime(second)
    clock = f"{now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
    date = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {clock}"
    return f"<{8 * FACILITY + severity}>{date} {name}[{os.getpid()}]: "


class Stamp:
    """What stands before a line that does not come from `logging`, which takes 15 µs for each.

    The line has the level INFO, of the logger `logger`. `join(line, now)`; when the format is json, the line must
    be an object, into which the fields of every object go.
    """

    def __init__(self, name: str, log_format: str, logger: str, *, syslog: bool) -> None:
        self._name, self._logger = name, logger
        self._is_json, self._is_syslog = log_format == "json", syslog
        self._second = -1
        self._head = ""

    def join(self, line: str, now: float) -> str:
        """`now`: seconds since the epoch."""
        second = int(now)
        if second != self._second:
            self._second, self._head = second, self._make_head(second)
        if self._is_json:
            return self._head + line[1:]
        if self._is_syslog:
            return self._head + line
        return f"{self._head}{int((now - second) * 1000):03d} {self._name} INFO    {line}"

    def _make_head(self, second: int) -> str:
        head = syslog_header(self._name, SEVERITIES["INFO"], second) if self._is_syslog else ""
        if self._is_json:
            date = time.strftime(_JSON_DATE, time.localtime(second))
            fields = (
                f'"time": "{date}", "level": "INFO", "logger": "{self._logger}", "process": "{self._name}"'
            )
            return f"{head}{{{fields}, "
        return head or time.strftime(_TEXT_DATE, time.localtime(second)) + "."
