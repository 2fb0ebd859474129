"""MySQL's SQL to SQLite's: what means the same in both, and nothing else. ●

A statement is taken apart by sqlglot and every node of it looked up in `_MEANS_THE_SAME`, with the
arguments that it may have. What is not there is refused with error 1235, for example LIKE (SQLite ignores
case), division (whole numbers in SQLite), FOR UPDATE. So an application that works here works on MySQL; the
reverse is not promised.

Parsing takes 250 µs, so it is done once for each shape: the literals of a query are cut out first and become
named parameters (`WHERE id = 7` and `WHERE id = 8` have the same shape).

    plan, parameters = translate("SELECT url FROM links WHERE code = 'x'")
    # Read("SELECT url FROM links WHERE code = :p1"), {"p1": "x"}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from scaleup.db.literals import Value, check_comments, cut_literals
from scaleup.db.schema import create_table
from scaleup.db.sqlerror import SYNTAX, SqlError, refused

MAX_SHAPES = 512
"""Plans that are kept; an application has a few dozen queries."""


@dataclass(frozen=True, slots=True)
class Read:
    sql: str


@dataclass(frozen=True, slots=True)
class Write:
    """`inserts_into`: the table, if rows are added."""

    sql: str
    inserts_into: str | None = None


@dataclass(frozen=True, slots=True)
class Define:
    """Make or drop a table. As in MySQL it first commits what is open."""

    sql: str


@dataclass(frozen=True, slots=True)
class Begin:
    pass


@dataclass(frozen=True, slots=True)
class Commit:
    pass


@dataclass(frozen=True, slots=True)
class Rollback:
    pass


@dataclass(frozen=True, slots=True)
class SetAutocommit:
    on: bool


@dataclass(frozen=True, slots=True)
class Nothing:
    """It says what is so already, like SET NAMES utf8mb4."""


Plan = Read | Write | Define | Begin | Commit | Rollback | SetAutocommit | Nothing


def translate(text: str) -> tuple[Plan, dict[str, Value]]:
    """The plan of a statement and its parameters. Raises SqlError."""
    if not text.lstrip()[:6].upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
        check_comments(text)
        return _plan(text), {}
    shape, parameters = cut_literals(text)
    return _plan(shape), parameters


@lru_cache(maxsize=MAX_SHAPES)
def _plan(shape: str) -> Plan:
    try:
        statements = [statement for statement in sqlglot.parse(shape, read="mysql") if statement is not None]
    except SqlglotError as error:
        raise SqlError(SYNTAX, str(error).partition("\n")[0]) from None
    except RecursionError:
        raise refused("a statement as deep as this") from None
    if len(statements) != 1:
        raise refused("several statements at once") if statements else SqlError(SYNTAX, "an empty statement")
    return _plan_one(statements[0])


def _plan_one(statement: exp.Expr) -> Plan:
    if isinstance(statement, exp.Select | exp.Update) and not statement.expressions:
        raise SqlError(SYNTAX, "nothing to select or to set")
    match statement:
        case exp.Select() if statement.find(exp.UtcTimestamp) is None:  # it would arrive as text
            return Read(_render(statement))
        case exp.Insert():
            return Write(_render(statement), inserts_into=statement.find(exp.Table).name)  # type: ignore[union-attr]
        case exp.Delete():
            return Write(_render(statement))
        case exp.Update():
            return Write(_render(_changed_rows_only(statement)))
        case exp.Create() if statement.kind == "TABLE":
            return Define(create_table(statement))
        case exp.Drop() if (
            statement.args.get("kind") == "TABLE" and len(statement.args.get("tables", "")) == 1
        ):
            condition = "IF EXISTS " if statement.args.get("exists") else ""
            return Define(f"DROP TABLE {condition}`{statement.args['tables'][0].name}`")
        case exp.Transaction():
            return Begin()
        case exp.Commit():
            return Commit()
        case exp.Rollback() if not statement.args.get("savepoint"):
            return Rollback()
        case exp.Set():
            return _set(statement)
    raise refused(statement.sql("mysql")[:40] or type(statement).__name__.upper())


def _set(statement: exp.Set) -> Plan:
    text = statement.sql("mysql").upper().replace("SESSION ", "").replace(" ", "")
    match text.removeprefix("SET"):
        case "AUTOCOMMIT=1" | "AUTOCOMMIT=TRUE" | "AUTOCOMMIT=ON":
            return SetAutocommit(True)
        case "AUTOCOMMIT=0" | "AUTOCOMMIT=FALSE" | "AUTOCOMMIT=OFF":
            return SetAutocommit(False)
        case "NAMESUTF8MB4" | "TIME_ZONE='+00:00'":
            return Nothing()
    raise refused(statement.sql("mysql"))


_CLAUSES = {
    exp.Select: "expressions from from_ where order limit offset",
    exp.Insert: "this expression",
    exp.Update: "this expressions where",
    exp.Delete: "this where",
    exp.From: "this",
    exp.Table: "this",
    exp.Schema: "this expressions",
    exp.Values: "expressions",
    exp.Tuple: "expressions",
    exp.Column: "this table",
    exp.Identifier: "this quoted",
    exp.Alias: "this alias",
    exp.Star: "",
    exp.Placeholder: "this",
    exp.Null: "",
    exp.Boolean: "this",
    exp.Where: "this",
    exp.Order: "expressions",
    exp.Ordered: "this desc nulls_first",
    exp.Limit: "expression",
    exp.Offset: "expression",
    exp.In: "this expressions",
    exp.Between: "this low high",
    exp.Count: "this big_int",
    exp.Anonymous: "this expressions",
}
_OPERATORS = (
    exp.And, exp.Or, exp.Not, exp.Is, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE,
    exp.Add, exp.Sub, exp.Mul, exp.Neg, exp.Paren,
)  # fmt: skip
_MEANS_THE_SAME: dict[type[exp.Expr], frozenset[str]] = {
    **{operator: frozenset({"this", "expression"}) for operator in _OPERATORS},
    **{clause: frozenset(arguments.split()) for clause, arguments in _CLAUSES.items()},
}
"""The nodes of a statement that we pass on, each with the arguments that it may have."""

_NAMED: dict[type[exp.Expr], str] = {
    exp.CurrentVersion: "VERSION",
    exp.CurrentSchema: "DATABASE",
    exp.UtcTimestamp: "UTC_TIMESTAMP",
}
"""Functions that sqlglot knows, and would write as SQLite's, by the names that sqlite.py defines."""

FUNCTIONS = frozenset(
    {"VERSION", "DATABASE", "UTC_TIMESTAMP", "CONNECTION_ID", "LAST_INSERT_ID", "GET_LOCK", "RELEASE_LOCK"}
)
"""What sqlite.py defines."""


def _render(statement: exp.Expr) -> str:
    """The statement for SQLite, which understands MySQL's spelling, backquotes included."""
    statement = statement.transform(_name_function)
    for node in statement.walk():
        given = {name for name, value in node.args.items() if value}
        allowed = _MEANS_THE_SAME.get(type(node))
        if allowed is None or not given <= allowed:
            raise refused(node.sql("mysql")[:60])
        if isinstance(node, exp.Anonymous) and node.name.upper() not in FUNCTIONS:
            raise refused(f"{node.name}()")
        if isinstance(node, exp.Ordered) and isinstance(node.this, exp.Placeholder):
            raise refused("ORDER BY a position")
    return statement.sql("mysql")


def _name_function(node: exp.Expr) -> exp.Expr:
    name = _NAMED.get(type(node))
    if name is None:
        return node
    arguments = [node.this] if node.this else []
    return exp.Anonymous(this=name, expressions=arguments)


def _changed_rows_only(update: exp.Update) -> exp.Update:
    """MySQL does not count a row that has the new values already; SQLite is told to leave it alone."""
    changes = [
        exp.Not(this=exp.Is(this=change.this.copy(), expression=exp.Paren(this=change.expression.copy())))
        for change in update.expressions
    ]
    return update.where(exp.or_(*changes), copy=False)
