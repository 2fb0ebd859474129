"""Cutting the literals out of a query: what remains is its shape, the same for every value. ●

    cut_literals("SELECT url FROM links WHERE code = 'x'")
    # "SELECT url FROM links WHERE code = :p1", {"p1": "x"}

Strings in MySQL's two quotes with its escapes, and whole numbers. What else looks like a literal stays where
it is, for `translate` to refuse.
"""

from __future__ import annotations

import re

from scaleup.db.sqlerror import SYNTAX, SqlError, refused

Value = str | int

_TOKEN = re.compile(
    r"""
      (?P<string> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" )
    | (?P<word> [A-Za-z_@$][\w@$]* )
    | (?P<number> \d+(?![\w.]) )
    | (?P<unclear> \.?\d[\w.]* )    # 1.5, 2e3, 0x1F
    | (?P<identifier> `[^`]*` )
    | (?P<space> \s+ | --(?=\s)[^\n]* | \#[^\n]* | /\*.*?\*/ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"""\\(.)|''|"\"""", re.DOTALL)
_ESCAPED = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}


def cut_literals(text: str) -> tuple[str, dict[str, Value]]:
    """A query's shape and the values that stood in it. Raises SqlError."""
    shape: list[str] = []
    parameters: dict[str, Value] = {}
    before = ""
    for token in _TOKEN.finditer(text):
        kind, part = token.lastgroup, token.group()
        if kind == "space":
            check_comments(part)
            shape.append(" ")
            continue
        if kind == "string" and (before.startswith("_") or before.lower() in ("x", "b", "n")):
            raise refused(f"{before}'…'")  # a string in another character set, or of bytes
        if kind in ("string", "number"):
            name = f"p{len(parameters) + 1}"
            parameters[name] = _unquote(part) if kind == "string" else int(part)
            part = f":{name}"
        elif part in "'\":":
            raise SqlError(SYNTAX, f"a {part} that nothing closes" if part != ":" else "a stray colon")
        shape.append(part)
        before = token.group() if kind == "word" else ""
    return "".join(shape), parameters


def check_comments(text: str) -> None:
    """Refuse what MySQL would execute and we would skip."""
    if "/*!" in text:
        raise refused("a comment that is executed, /*! … */")


def _unquote(literal: str) -> str:
    quote, body = literal[0], literal[1:-1]

    def replace(found: re.Match[str]) -> str:
        escaped = found.group(1)
        if escaped is None:
            return quote if found.group() == quote * 2 else found.group()
        return "\\" + escaped if escaped in "%_" else _ESCAPED.get(escaped, escaped)

    return _ESCAPE.sub(replace, body) if "\\" in body or quote in body else body
