"""`cluster.toml`: its values, and the line on which a key stands.

tomllib gives values, and the line of a syntax error, but no positions of keys. They follow from a property
of TOML: the first lines of a file are a file. So a key stands where the shortest parseable beginning that
has it ends; inside an array of several lines a beginning becomes parseable when we close the array, which
finds its elements as well. Asked only when there is something to say: a fault, or --print-config.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from scaleup.errors import ConfigurationError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1024 * 1024
"""More than a cluster of a thousand nodes needs; somebody has named another file."""


class TomlFile:
    """One parsed file. Raises ConfigurationError when it cannot be read or is not TOML."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            self._text = data.decode("utf-8")  # line ends as they are: tomllib knows CRLF
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; see --config") from None
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path}: byte {error.start} is not UTF-8, as TOML must be") from None
        if len(data) > MAX_BYTES:
            raise ConfigurationError(
                f"{path}: more than {MAX_BYTES} bytes are not a cluster.toml; see --config"
            )
        try:
            self.values: dict[str, Any] = tomllib.loads(self._text)
        except (ValueError, RecursionError) as error:  # Python's own limits, beside TOMLDecodeError
            place = re.search(r"\(at line (\d+), column \d+\)$", str(error))
            origin = f"{path}:{place[1]}" if place else str(path)
            raise ConfigurationError(f"{origin}: not TOML: {error}") from None

    def origin(self, key: KeyPath) -> str:
        """`FILE:LINE` of the key, or of the nearest one around it, or only `FILE`."""
        while key and key not in self._lines:
            key = key[:-1]
        return f"{self.path}:{self._lines[key]}" if key else str(self.path)

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        lines = self._text.split("\n")  # not splitlines(): TOML has no other ends of lines
        found: dict[KeyPath, int] = {}
        start = 0  # lines before this one are accounted for
        for end in range(1, len(lines) + 1):
            beginning = _parsed("\n".join(lines[:end]) + "\n")
            if beginning is None:
                continue  # inside a value of several lines
            for key in _keys(beginning, ()):
                found.setdefault(key, start + 1)
            start = end
        return found


def _parsed(text: str) -> dict[str, Any] | None:
    """The values of the first lines of a file; None when they end inside a value that is no array."""
    for completed in (text, text + "]"):
        try:
            return tomllib.loads(completed)
        except tomllib.TOMLDecodeError:
            continue
    return None


def _keys(value: object, path: KeyPath) -> Iterator[KeyPath]:
    if path:
        yield path
    items: Iterator[tuple[str | int, object]]
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        return
    for key, item in items:
        yield from _keys(item, (*path, key))
