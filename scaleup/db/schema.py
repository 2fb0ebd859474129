"""CREATE TABLE for SQLite, with what MySQL would check of each value. ●

SQLite stores anything in any column. So each column gets CHECKs, named by the MySQL error that a violation
is: `CONSTRAINT "1406:url" CHECK (length(url) <= 2048)`. Text compares as in MySQL's `…_bin` collations: by
bytes, but without trailing spaces (SQLite's RTRIM); other collations are refused.
"""

from __future__ import annotations

from sqlglot import exp

from scaleup.db.sqlerror import (
    DATA_TOO_LONG,
    INCORRECT_DATETIME,
    INCORRECT_VALUE,
    NOT_SUPPORTED,
    OUT_OF_RANGE,
    refused,
)

_INTEGERS = {
    exp.DataType.Type.INT: (-(2**31), 2**31 - 1),
    exp.DataType.Type.UINT: (0, 2**32 - 1),
    exp.DataType.Type.BIGINT: (-(2**63), 2**63 - 1),
    exp.DataType.Type.UBIGINT: (0, 2**63 - 1),  # SQLite has no more bits: the upper half is out of range
}
_NOT_ASCII = "'*[^' || char(1) || '-' || char(127) || ']*'"


def create_table(statement: exp.Create) -> str:
    """SQLite's CREATE TABLE. Raises SqlError 1235 for whatever could mean something else there."""
    _only(statement, {"this", "kind", "exists", "properties"})
    schema = statement.this
    if not isinstance(schema, exp.Schema):
        raise refused("CREATE TABLE without columns")
    collation = _default_collation(statement)
    parts = [
        _column(part, collation) if isinstance(part, exp.ColumnDef) else _constraint(part)
        for part in schema.expressions
    ]
    condition = "IF NOT EXISTS " if statement.args.get("exists") else ""
    return f"CREATE TABLE {condition}`{schema.this.name}` (\n  " + ",\n  ".join(parts) + "\n)"


def _default_collation(statement: exp.Create) -> str:
    collation = ""
    properties = statement.args.get("properties")
    for item in properties.expressions if properties else ():
        match item:
            case exp.EngineProperty() | exp.CharacterSetProperty() | exp.SchemaCommentProperty():
                pass
            case exp.CollateProperty():
                collation = item.this.name
            case _:
                raise refused(item.sql("mysql"))
    return collation


def _column(column: exp.ColumnDef, collation: str) -> str:
    """One column: its type, its constraints in SQLite's order, its checks."""
    _only(column, {"this", "kind", "constraints"})
    name, words, character_set = column.name, "", ""
    is_key = is_automatic = False
    for constraint in column.constraints:
        match constraint.kind:
            case exp.NotNullColumnConstraint() if not constraint.kind.args.get("allow_null"):
                words += " NOT NULL"
            case exp.NotNullColumnConstraint() | exp.CommentColumnConstraint():
                pass
            case exp.AutoIncrementColumnConstraint():
                is_automatic = True
            case exp.PrimaryKeyColumnConstraint():
                is_key = True
            case exp.UniqueColumnConstraint() if constraint.kind.this is None:
                words += " UNIQUE"
            case exp.DefaultColumnConstraint() if isinstance(constraint.kind.this, exp.Literal | exp.Null):
                words += f" DEFAULT {constraint.kind.this.sql('sqlite')}"
            case exp.CharacterSetColumnConstraint():
                character_set = constraint.kind.name
            case exp.CollateColumnConstraint():
                collation = constraint.kind.this.name
            case _:
                raise refused(constraint.sql("mysql"))
    declared, checks = _type(name, column.args["kind"], collation, character_set)
    if is_automatic:
        if not is_key or not declared.endswith("INT"):
            raise refused("AUTO_INCREMENT elsewhere than at a whole number that is the primary key")
        # Exactly this spelling makes it SQLite's own row number. MySQL would take 0 as "the next one".
        check = _check(NOT_SUPPORTED, name, f"`{name}` > 0")
        return f"`{name}` INTEGER PRIMARY KEY AUTOINCREMENT{check}"
    return f"`{name}` {declared}{' PRIMARY KEY' if is_key else ''}{words}{checks}"


def _type(name: str, kind: exp.DataType, collation: str, character_set: str) -> tuple[str, str]:
    """The declared type and the checks of a column."""
    sizes = [size.name for size in kind.expressions]
    column = f"`{name}`"
    if kind.this in _INTEGERS:
        least, most = _INTEGERS[kind.this]
        whole = _check(INCORRECT_VALUE, name, f"typeof({column}) IN ('integer', 'null')")
        return "INT", whole + _check(OUT_OF_RANGE, name, f"{column} BETWEEN {least} AND {most}")
    if kind.this == exp.DataType.Type.VARCHAR and len(sizes) == 1 and sizes[0].isdigit():
        if not collation.endswith("_bin"):
            raise refused(f"the column {name}: it compares other than by bytes (say COLLATE …_bin)")
        checks = _check(DATA_TOO_LONG, name, f"length({column}) <= {sizes[0]}")
        if character_set == "ascii":
            checks += _check(INCORRECT_VALUE, name, f"{column} NOT GLOB {_NOT_ASCII}")
        return "TEXT COLLATE RTRIM", checks
    if kind.this == exp.DataType.Type.DATETIME and sizes == ["6"]:  # shorter ones would have to be rounded
        return "DATETIME", _check(
            INCORRECT_DATETIME, name, f"datetime({column}) IS NOT NULL OR {column} IS NULL"
        )
    raise refused(f"a column of type {kind.sql('mysql')}")


def _check(code: int, column: str, condition: str) -> str:
    return f' CONSTRAINT "{code}:{column}" CHECK ({condition})'


def _constraint(part: exp.Expr) -> str:
    """UNIQUE KEY name (columns), PRIMARY KEY (columns)."""
    match part:
        case exp.UniqueColumnConstraint() if isinstance(part.this, exp.Schema):
            word, columns = "UNIQUE", part.this.expressions
        case exp.PrimaryKey():
            word, columns = "PRIMARY KEY", part.expressions
        case _:
            raise refused(part.sql("mysql"))
    if not all(isinstance(column, exp.Column | exp.Identifier) for column in columns):
        raise refused(part.sql("mysql"))  # the length of a prefix, an expression
    return f"{word} ({', '.join(f'`{column.name}`' for column in columns)})"


def _only(node: exp.Expression, allowed: set[str]) -> None:
    if not {name for name, value in node.args.items() if value} <= allowed:
        raise refused(node.sql("mysql")[:60])
