"""Errors as MySQL numbers them; drivers and applications decide by the number. ●

https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html
"""

from __future__ import annotations

DUPLICATE_ENTRY = 1062
NOT_SUPPORTED = 1235
OUT_OF_RANGE = 1264
DATA_TOO_LONG = 1406
INCORRECT_VALUE = 1366
INCORRECT_DATETIME = 1292
UNKNOWN_DATABASE = 1049
TOO_MANY_CONNECTIONS = 1040
TABLE_EXISTS = 1050
UNKNOWN_COLUMN = 1054
NOT_NULL = 1048
SYNTAX = 1064
NO_SUCH_TABLE = 1146
LOCK_WAIT_TIMEOUT = 1205
DISK_FULL = 1114
READ_ONLY = 1290
UNKNOWN = 1105

_SQLSTATES = {
    DUPLICATE_ENTRY: "23000",
    NOT_NULL: "23000",
    NOT_SUPPORTED: "42000",
    SYNTAX: "42000",
    UNKNOWN_DATABASE: "42000",
    OUT_OF_RANGE: "22003",
    DATA_TOO_LONG: "22001",
    INCORRECT_DATETIME: "22007",
    TOO_MANY_CONNECTIONS: "08004",
    TABLE_EXISTS: "42S01",
    NO_SUCH_TABLE: "42S02",
    UNKNOWN_COLUMN: "42S22",
}


class SqlError(Exception):
    """A statement failed. `code`: MySQL's number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    def packet(self) -> bytes:
        """The ERR packet of the protocol."""
        state = _SQLSTATES.get(self.code, "HY000")
        return b"\xff" + self.code.to_bytes(2, "little") + f"#{state}{self}".encode()


def refused(what: str) -> SqlError:
    """Error 1235: the embedded engine does not try what it cannot do as MySQL would."""
    return SqlError(NOT_SUPPORTED, f"the embedded engine cannot do {what}: use MariaDB or MySQL (--engine)")
