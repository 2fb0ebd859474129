"""Logs: lines of text for people, in colour on a terminal, or JSON objects for collectors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import colorlog
from pythonjsonlogger.json import JsonFormatter

from scaleup.errors import ConfigurationError

if TYPE_CHECKING:
    from scaleup.config import TierSettings

log = logging.getLogger(__name__)

_COLOURS = {"DEBUG": "thin", "INFO": "reset", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold_red"}


class ReopeningFileHandler(logging.FileHandler):
    """A log file that is opened again on request, after logrotate has moved it away."""

    def reopen(self) -> None:
        self.acquire()
        try:
            old, self.stream = self.stream, self._open()
            if old is not None:
                old.close()
        finally:
            self.release()


def configure(name: str, settings: TierSettings) -> None:
    """Send every logger of this process to stderr or the file. `name` stands in each line."""
    configure_with(name, settings.log_format, settings.log_level, settings.log_file)


def configure_with(name: str, log_format: str, level: str, file: Path | None) -> None:
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = ReopeningFileHandler(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigurationError(f"--log-file {file}: {error.strerror}") from None
    handler.setFormatter(_formatter(name, log_format, in_colour=file is None and sys.stderr.isatty()))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def reopen() -> None:
    """Open the log file again (SIGUSR2). When that fails, the old one stays."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ReopeningFileHandler):
            try:
                handler.reopen()
            except OSError as error:
                log.error("--log-file %s cannot be opened again: %s", handler.baseFilename, error.strerror)


def is_on_stderr() -> bool:
    """Whether what is logged appears on stderr, rather than in a file or, before `configure`, nowhere."""
    handlers = logging.getLogger().handlers
    return bool(handlers) and not any(isinstance(handler, ReopeningFileHandler) for handler in handlers)


def _formatter(name: str, log_format: str, *, in_colour: bool) -> logging.Formatter:
    if log_format == "json":
        return JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"process": name},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    # colorlog knows NO_COLOR.
    line = f"%(asctime)s.%(msecs)03d {name} %(log_color)s%(levelname)-7s %(message)s%(reset)s"
    return colorlog.ColoredFormatter(
        line, datefmt="%Y-%m-%d %H:%M:%S", log_colors=_COLOURS, no_color=not in_colour
    )


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
