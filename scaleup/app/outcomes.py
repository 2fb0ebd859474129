"""What an error of the database means for the request that met it: was it done, and may it be repeated? ●

    DatabaseAwayError              it cannot be asked now
    ├─ DatabaseBusyError           it answers, but others were in the way; nothing was done
    │  └─ DatabaseOverloadedError  so many wait for a connection that we did not even ask
    ├─ DatabaseRefusesError        it will not let us in, or not do this
    └─ OutcomeUnknownError         it may have been done or not: the answer to a COMMIT was lost

Two questions decide what may be done next, and `then` answers both. Was the COMMIT under way? Before it, what
was lost is rolled back, and the whole transaction may be repeated. And does repeating help?

    1213  deadlock, or refused by the others of a Galera cluster     again, even at COMMIT: it was rolled back
    1205  a lock was not released; only the statement is undone      again, after a ROLLBACK
    2006, 2013, 1927, 1053  the connection was lost                  again; at COMMIT: unknown
    2003, 1040, 1203, 1226, 1135, 1047, 1290                         failed: nothing began; again when the database
        not there, full, read-only                                   has other hosts: another may be the primary
    1317, 1969, 3024, a time-out                                     failed; at COMMIT: unknown
    1180 and everything else                                         failed; at COMMIT: unknown

A single statement in autocommit mode is its own COMMIT from its first byte on.
"""

from __future__ import annotations

from enum import Enum

_AWAY = {
    1021: "its disk is full",
    1040: "too many connections",
    1041: "it is out of memory",
    1047: "the Galera node is not ready",
    1053: "it is shutting down",
    1114: "its disk is full",
    1135: "it cannot make a thread",
    1146: "it has no tables of ours",  # it is new: watch.py makes them
    1180: "the commit failed",
    1203: "too many connections of this user",
    1226: "this user has had its share",
    1290: "it is read-only",
    1927: "the connection was killed",
    2003: "cannot connect",
    2006: "the connection is gone",
    2013: "the connection was lost",
}
"""Errors after which the same request can succeed later, here or with another server."""

_BUSY = {
    1205: "a lock was not released in time",
    1213: "a deadlock",
    1317: "somebody interrupted the query",
    1969: "the statement took too long",  # MariaDB's max_statement_time
    3024: "the statement took too long",  # MySQL's max_execution_time
}
"""It is there, but others were in the way."""

_REFUSED = frozenset({1044, 1142, 1227})
"""No right to do this: it will not go away by itself."""

GONE, LOST, CANNOT_CONNECT, READ_ONLY, NOT_READY = 2006, 2013, 2003, 1290, 1047
_UNDONE = frozenset({1205, 1213})
_LOST = frozenset({1053, 1927, 2006, 2013})
_NOT_BEGUN = frozenset({1040, 1047, 1135, 1146, 1203, 1226, 1290, 2003}) | _REFUSED
"""The server says so before it looks at the statement."""
_ELSEWHERE = _NOT_BEGUN - _REFUSED - {1146}
"""Of those, what another host may not say."""


class DatabaseAwayError(Exception):
    """The database cannot be asked now. `code`: MySQL's number, None for a time-out. Nothing was done."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class DatabaseBusyError(DatabaseAwayError):
    """It answers, but other connections kept it from doing what we asked. That was not done."""


class DatabaseOverloadedError(DatabaseBusyError):
    """All connections are in use, and too many wait for one already."""


class DatabaseRefusesError(DatabaseAwayError):
    """It answers, but will not let us in or do what we ask."""


class OutcomeUnknownError(DatabaseAwayError):
    """It may be stored or not. Only what can be told from its first try may be sent again."""


class Then(Enum):
    """What is known of a transaction that met an error, and what may be done."""

    AGAIN = "nothing was done: all of it may be repeated now"
    FAILED = "nothing was done, and repeating it now would not help"
    UNKNOWN = "it may have been done"


def then(code: int | None, *, committing: bool, has_others: bool = False) -> Then:
    """`committing`: the COMMIT, or a statement that is one in itself, had been sent. `has_others`: hosts."""
    if code in _UNDONE:
        return Then.AGAIN
    if code in _NOT_BEGUN:
        return Then.AGAIN if has_others and code in _ELSEWHERE else Then.FAILED
    if committing:
        return Then.UNKNOWN
    return Then.AGAIN if code in _LOST else Then.FAILED


def named(code: int, message: str) -> DatabaseAwayError | None:
    """The error with that number by its name; None for mistakes in SQL and violated constraints."""
    if code in _AWAY:
        return DatabaseAwayError(_AWAY[code], code)
    if code in _BUSY:
        return DatabaseBusyError(_BUSY[code], code)
    if code in _REFUSED:
        return DatabaseRefusesError(message, code)
    return None
