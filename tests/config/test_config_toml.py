"""Reading cluster.toml, and the line of a key in it.

The oracle of `origin` knows the lines because it writes the file, a statement at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scaleup.config.toml import KeyPath, TomlFile
from scaleup.errors import ConfigurationError


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, written again by each test (of the session, as hypothesis wants it)."""
    return tmp_path_factory.mktemp("toml") / "cluster.toml"


def read(path: Path, text: str) -> TomlFile:
    path.write_bytes(text.encode())
    return TomlFile(path)


EXAMPLE = '''\
# a comment

title = "x"
text = """
[not.a.table]
key = 1
"""
servers = [
  # the first
  "10.0.0.1:80",   # a comment with ] in it

  { name = "two",  address = "10.0.0.2:80" },
  [
    1,
    2,
  ], "]", 3,
]
inner.colour.red = 255

[lb.node.lb1]
drain = 3

[[lb.server]]
weight = 1
[[lb.server]]

weight = 2
"a.b" = 1
'''

LINES: dict[KeyPath, int] = {
    ("title",): 3,
    ("text",): 4,
    ("servers",): 8,
    ("servers", 0): 10,
    ("servers", 1): 12,
    ("servers", 1, "name"): 12,
    ("servers", 2): 13,
    ("servers", 2, 1): 13,  # inside an array of an array: the line where the inner one begins
    ("servers", 3): 13,  # on the last line of an element of several lines: the line where that begins
    ("inner",): 18,
    ("inner", "colour", "red"): 18,
    ("lb",): 20,
    ("lb", "node", "lb1"): 20,
    ("lb", "node", "lb1", "drain"): 21,
    ("lb", "server"): 23,
    ("lb", "server", 0): 23,
    ("lb", "server", 0, "weight"): 24,
    ("lb", "server", 1): 25,
    ("lb", "server", 1, "weight"): 27,
    ("lb", "server", 1, "a.b"): 28,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "unended"])
def test_the_line_of_every_kind_of_key(path: Path, newline: str, ended: bool) -> None:
    text = EXAMPLE if ended else EXAMPLE.rstrip()
    file = read(path, text.replace("\n", newline))
    assert {key: file.origin(key) for key in LINES} == {key: f"{path}:{line}" for key, line in LINES.items()}


@pytest.mark.parametrize(
    ("key", "line"), [(("lb", "server", 1, "nothing"), 25), (("lb", "node", "lb2", "drain"), 20)]
)
def test_a_key_that_is_not_there_has_the_line_of_what_is_around_it(
    path: Path, key: KeyPath, line: int
) -> None:
    assert read(path, EXAMPLE).origin(key) == f"{path}:{line}"


@pytest.mark.parametrize("key", [("nothing",), ()])
def test_a_key_of_nothing_in_the_file_has_only_its_name(path: Path, key: KeyPath) -> None:
    assert read(path, EXAMPLE).origin(key) == str(path)


@dataclass(frozen=True)
class Statement:
    """Lines of TOML, and the keys in them: their paths below the table, and their lines, from 0."""

    lines: list[str]
    keys: dict[KeyPath, int]


strange = st.sampled_from(["x", "ü", "#", "]", "[", "=", "{", "\u2028", "\x85", "\x0b", "\x0c"])
content = st.lists(strange, max_size=5).map("".join)
quoted = content.map(lambda text: '"' + text.replace("\x0b", "\\u000b").replace("\x0c", "\\u000c") + '"')
name = st.sampled_from("abcdefgh")


@st.composite
def statements(draw: st.DrawFn, number: int) -> Statement:
    """`number` makes its key unlike all others."""
    key = f"{draw(name)}{number}"
    comment = draw(st.sampled_from(["", "  # ] [ = {"]))
    match draw(st.integers(0, 6)):
        case 0:
            return Statement(draw(st.sampled_from([[""], ["# a = 1"], ["", "  "]])), {})
        case 1:
            return Statement([f"{key} = {draw(quoted)}{comment}"], {(key,): 0})
        case 2:
            return Statement([f"{key}.x . y = 1{comment}"], {(key,): 0, (key, "x"): 0, (key, "x", "y"): 0})
        case 3:
            inner = draw(st.lists(st.sampled_from(["", "a = 1", "[a]", "# c", "]"]), max_size=4))
            return Statement([f'{key} = """', *inner, '"""'], {(key,): 0})
        case 4:
            return Statement([f"{key} = {{ x = [1, 2] }}"], {(key,): 0, (key, "x"): 0, (key, "x", 1): 0})
        case 5:
            value = draw(quoted)
            return Statement([f"'{key}\u2028' = {value}"], {(f"{key}\u2028",): 0})
    lines = [f"{key} = [{comment}"]
    keys: dict[KeyPath, int] = {(key,): 0}
    for index in range(draw(st.integers(0, 3))):
        lines += draw(st.sampled_from([[], [""], ["  # c"]]))
        keys[(key, index)] = len(lines)
        lines.append(f"  {draw(quoted)},{comment}")
    return Statement([*lines, "]"], keys)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """A file, and the line (from 1) of each key in it."""
    lines: list[str] = []
    where: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number in range(draw(st.integers(0, 12))):
        if draw(st.booleans()):
            statement = draw(statements(number))
            where |= {(*table, *key): len(lines) + 1 + line for key, line in statement.keys.items()}
            lines += statement.lines
        elif draw(st.booleans()):
            table = (f"t{number}", "u")
            lines.append(f"[t{number}.u]")
            where |= {table[:1]: len(lines), table: len(lines)}
        else:
            index = max((key[1] for key in where if key[0] == "many" and len(key) > 1), default=-1)
            table = ("many", int(index) + 1)
            lines.append("[[many]]")
            where |= {table: len(lines)}
            where.setdefault(("many",), len(lines))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return newline.join(lines) + draw(st.sampled_from(["", newline])), where


@given(files())
def test_every_key_is_found_where_it_was_written(path: Path, made: tuple[str, dict[KeyPath, int]]) -> None:
    text, where = made
    file = read(path, text)
    assert {key: file.origin(key) for key in where} == {key: f"{path}:{line}" for key, line in where.items()}


# ----- what is not a file of ours ---------------------------------------------------------------------


def fault(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        TomlFile(path)
    return str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.toml"
    assert fault(missing) == f"{missing}: cannot be read: No such file or directory; see --config"


def test_a_folder(tmp_path: Path) -> None:
    assert fault(tmp_path) == f"{tmp_path}: cannot be read: Is a directory; see --config"


def test_not_utf_8(path: Path) -> None:
    assert fault(path, b'a = "\xe4"') == f"{path}: byte 5 is not UTF-8, as TOML must be"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = = 2\n", 2),
        ("a = 1\r\nb = = 2\r\n", 2),
        ("[web]\n[web\n", 2),
        ("a = 1\na = 2\n", 2),
        ("[a]\n[a]\n", 2),
        ("a = 1979-13-41\n", 1),
        ("a = 1\rb = 2", 1),  # a lone carriage return ends no line
    ],
)
def test_malformed_toml_has_a_line(path: Path, text: str, line: int) -> None:
    message = fault(path, text.encode())
    assert message.startswith(f"{path}:{line}: not TOML: "), message


@pytest.mark.parametrize("text", ['a = "', "a = [", "a = " + "[" * 10_000, "a = " + "1" * 10_000])
def test_malformed_toml_without_a_line(path: Path, text: str) -> None:
    assert fault(path, text.encode()).startswith(f"{path}: not TOML: ")


@given(st.binary(max_size=40) | st.text("[]{}=.,\"'#\n\r\\a1 ", max_size=40).map(str.encode))
@example(b"\xef\xbb\xbfa = 1")
def test_anything_is_a_file_or_a_fault(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        file = TomlFile(path)
    except ConfigurationError as error:
        said = str(error)
    else:
        said = f"{path}:"
        assert all(file.origin((key,)).startswith(said) for key in file.values)
    assert said.startswith(f"{path}:")


def test_a_file_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(ConfigurationError, match="/dev/zero: more than"):
        TomlFile(Path("/dev/zero"))
