"""Logs: lines of text for people, in colour on a terminal, or JSON objects for collectors.

They go to stderr, a file or syslog through one `Outlet`, which does not wait for the reader: a terminal that was
stopped, a full pipe or a full disk costs lines, which are counted, and not the process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from scaleup.errors import ConfigurationError
from scaleup.net.addresses import syslog_address
from scaleup.processes.lines import Stamp, formatter
from scaleup.processes.outlet import Outlet
from scaleup.processes.sinks import LogFile, Sink, Syslog, of_stderr

if TYPE_CHECKING:
    from scaleup.config import TierSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

GATHER_SECONDS = 0.05
THINGS_AT_ONCE = 64
"""Lines made in a row: some 0.3 ms, in which nothing else is done."""


class Destination(NamedTuple):
    """Where a process logs, and how. A parent sends its own to its children."""

    format: str = "text"
    level: str = "info"
    file: str | None = None
    syslog: str | None = None

    @classmethod
    def of(cls, settings: TierSettings) -> Destination:
        file = None if settings.log_file is None else str(settings.log_file)
        return cls(settings.log_format, settings.log_level, file, settings.log_syslog)

    @property
    def is_stderr(self) -> bool:
        return self.file is None and self.syslog is None


class OutletHandler(logging.Handler):
    """The one handler of a process. Raises ConfigurationError when its file or syslog cannot be opened."""

    def __init__(self, name: str, destination: Destination) -> None:
        super().__init__()
        self.process, self.destination = name, destination
        in_colour = destination.is_stderr and sys.stderr is not None and sys.stderr.isatty()
        is_syslog = destination.syslog is not None
        self.setFormatter(formatter(name, destination.format, syslog=is_syslog, in_colour=in_colour))
        self.outlet = Outlet(_sink(destination), self._notice)
        self.gathered: list[Gathered[Any]] = []

    def flush(self) -> None:
        """Lines that were gathered come before the next one."""
        for gathered in self.gathered:
            gathered.render()

    def outlets(self) -> list[Outlet]:
        """Its own, and those of gathered lines that have files of their own."""
        return list({id(it): it for it in (self.outlet, *(each.outlet for each in self.gathered))}.values())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as all handlers of logging: a wrong message must not end the process
            self.handleError(record)
        else:
            self.flush()
            self.outlet.put(_bytes(line))

    def close(self) -> None:
        self.flush()
        for outlet in self.outlets():
            outlet.close()
        super().close()

    def _notice(self, count: int) -> bytes:
        text = f"{count} lines of this log were dropped: nobody read them, or they could not be written"
        return _bytes(self.format(log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (), None)))


class Gathered(Generic[T]):
    """Lines that come by the thousand, too many for `logging`. `line`: makes one of a thing, and of when it came.

    Things are gathered, and their lines are made many at a time, which costs less than one by one between other
    work, which the processor's caches have forgotten each time. Where an event loop runs.
    """

    def __init__(self, outlet: Outlet, line: Callable[[T, float], str]) -> None:
        self.outlet = outlet
        self._line = line
        self._things: list[tuple[float, T]] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, thing: T) -> None:
        """There will be a line about it, within GATHER_SECONDS, with the time of now."""
        self._things.append((time.time(), thing))
        if len(self._things) >= THINGS_AT_ONCE:
            self.render()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self.render)

    def render(self) -> None:
        """Make the lines, in the order in which things came."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        things, self._things = self._things, []
        for now, thing in things:
            self.outlet.gather(_bytes(self._line(thing, now)))
        if things:
            self.outlet.flush()


def configure(name: str, settings: TierSettings) -> None:
    """Send every logger of this process to stderr, the file or syslog. `name` stands in each line."""
    configure_with(name, Destination.of(settings))


def configure_with(name: str, destination: Destination) -> None:
    """Raises ConfigurationError."""
    handler = OutletHandler(name, destination)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(destination.level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _crashed


def gathered(logger: str, text: Callable[[T], str], json_object: Callable[[T], str]) -> Gathered[T]:
    """Lines for the log of this process, after `configure`.

    `text` makes a line of a thing, without a newline; `json_object` a JSON object.
    """
    handler = _handler()
    assert handler is not None, "nothing is configured"
    where = handler.destination
    stamp = Stamp(handler.process, where.format, logger, syslog=where.syslog is not None)
    line = json_object if where.format == "json" else text
    made: Gathered[T] = Gathered(handler.outlet, lambda thing, now: stamp.join(line(thing), now))
    handler.gathered.append(made)
    return made


def gathered_in(file: Path, option: str, text: Callable[[T], str]) -> Gathered[T]:
    """Lines for a file of their own, as `text` makes them. Raises ConfigurationError."""
    handler = _handler()
    assert handler is not None, "nothing is configured"
    try:
        outlet = Outlet(LogFile(file), lambda count: b"")
    except OSError as error:
        raise ConfigurationError(f"{option} {file}: {error.strerror}") from None
    made: Gathered[T] = Gathered(outlet, lambda thing, now: text(thing))
    handler.gathered.append(made)
    return made


def reopen() -> None:
    """Open the log file again (SIGUSR2). When that fails, the old one stays."""
    handler = _handler()
    for outlet in handler.outlets() if handler is not None else ():
        if isinstance(file := outlet.sink, LogFile):
            try:
                outlet.reopen()
            except OSError as error:
                log.error("%s cannot be opened again: %s", file.path, error.strerror)


def is_on_stderr() -> bool:
    """Whether what is logged appears on stderr, rather than elsewhere or, before `configure`, nowhere."""
    handler = _handler()
    return handler is not None and handler.destination.is_stderr


def dropped() -> int:
    """Lines that this process has lost, in all."""
    handler = _handler()
    return 0 if handler is None else sum(outlet.dropped for outlet in handler.outlets())


def say(text: str) -> None:
    """Tell the person who has started this process, on stderr, wherever the log goes. It is not waited for long."""
    outlet = Outlet(of_stderr(sys.stderr), lambda count: b"")
    outlet.put(_bytes(text))
    outlet.close()


def _handler() -> OutletHandler | None:
    return next((item for item in logging.getLogger().handlers if isinstance(item, OutletHandler)), None)


def _sink(destination: Destination) -> Sink:
    try:
        if destination.syslog is not None:
            return Syslog(syslog_address(destination.syslog))
        if destination.file is not None:
            return LogFile(Path(destination.file))
    except OSError as error:
        option = "--log-file" if destination.syslog is None else "--log-syslog"
        where = destination.file if destination.syslog is None else destination.syslog
        raise ConfigurationError(f"{option} {where}: {error.strerror}") from None
    return of_stderr(sys.stderr)


def _bytes(line: str) -> bytes:
    return (line + "\n").encode(errors="backslashreplace")


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error of ours ends this process: its traceback is logged, and shown, as little waited for as any line."""
    if issubclass(kind, KeyboardInterrupt) or _handler() is None:
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("an error of ours ends this process", exc_info=(kind, error, trace))
    if not is_on_stderr():
        say("".join(traceback.format_exception(kind, error, trace)).rstrip())


class LimitedLog:
    """Lines about things that an outsider can cause: one per `seconds` for each key, the rest counted.

    The number of keys is the caller's to bound (causes, not addresses).
    """

    def __init__(self, logger: logging.Logger, seconds: float, clock: Callable[[], float]) -> None:
        self._logger, self._seconds, self._clock = logger, seconds, clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, key: str, message: str) -> None:
        now = self._clock()
        if key in self._last and now - self._last[key] < self._seconds:
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return
        more = self._left_out.pop(key, 0)
        self._last[key] = now
        self._logger.warning("%s%s", message, f" ({more} more like it before)" if more else "")
