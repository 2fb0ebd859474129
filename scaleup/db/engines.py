"""Which engine is to run, and why: asked for, found, or left in the data directory. ●"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from scaleup.errors import ConfigurationError, StartupError

EngineName = Literal["mariadb", "mysql", "embedded"]

PROGRAMS: dict[EngineName, str] = {"mariadb": "mariadbd", "mysql": "mysqld"}


@dataclass(frozen=True, slots=True)
class Choice:
    """`program`: the path of the server's program; the embedded engine needs none. `why`: for people."""

    engine: EngineName
    why: str
    program: str | None = None


def choose(
    wanted: EngineName | Literal["auto"], programs: Mapping[str, str], data: Collection[EngineName]
) -> Choice:
    """`programs`: those of PROGRAMS that are installed, with their paths. `data`: engines whose data are there.

    Raises ConfigurationError when it has to be said which, StartupError when the program is missing.
    """
    if wanted == "auto" and len(data) > 1:
        raise ConfigurationError(f"--engine: the data directory has data of {' and '.join(data)}: say which")
    if wanted != "auto" and data and wanted not in data:
        raise ConfigurationError(
            f"--engine {wanted}: the data directory has data of {' and '.join(data)}, which it would not show: "
            "say that engine, or another directory"
        )
    if wanted != "auto":
        engine, why = wanted, "asked for"
    elif data:
        (engine,), why = data, "its data are there"
    elif PROGRAMS["mariadb"] in programs:
        engine, why = "mariadb", "mariadbd is installed"
    elif PROGRAMS["mysql"] in programs:
        engine, why = "mysql", "mysqld is installed"
    else:
        engine, why = "embedded", "neither mariadbd nor mysqld is installed"
    if engine == "embedded":
        return Choice("embedded", why)
    program = programs.get(PROGRAMS[engine])
    if program is None:
        raise StartupError(
            f"--engine {engine}: {PROGRAMS[engine]} is not installed ({why}); on Debian: "
            "apt install mariadb-server, or use --engine embedded"
        )
    return Choice(engine, why, program)
