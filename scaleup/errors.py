"""Errors that end a process, each with one line that a person can act on.

    ScaleUpError             exit 1
    ├── StartupError         exit 1    the settings are right, the world is not: a port in use, …
    └── ConfigurationError   exit 78   a setting is wrong; names the file and line, or the option

`scaleup.processes.run` prints the message without a traceback and exits with the code. Any other
exception is a bug of ours and keeps its traceback. Usage errors of the command line exit with 2,
as argparse does.
"""

from __future__ import annotations

from typing import ClassVar


class ScaleUpError(Exception):
    """The base of all errors that are told to a person instead of being traced."""

    exit_code: ClassVar[int] = 1


class StartupError(ScaleUpError):
    """The process cannot start, or cannot go on, because of something outside it."""


class ConfigurationError(ScaleUpError):
    """A setting is wrong. 78 is EX_CONFIG of sysexits.h; systemd shows it by that name."""

    exit_code = 78
