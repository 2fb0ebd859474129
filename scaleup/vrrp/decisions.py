"""What a policy decides: each decision names the router that it is about, and the rule that it follows from. ●"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Condition(StrEnum):
    """What people and notify scripts call the state of a router: Initialize is three of these."""

    WAITING = "waiting"
    """It has not started up yet."""
    BACKUP = "backup"
    ACTIVE = "active"
    FAULT = "fault"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class SetPriority:
    """From now on the router is worth this much."""

    router: str
    priority: int
    rule: str


@dataclass(frozen=True, slots=True)
class SetPreempt:
    """Preempt_Mode of the router, §6.1."""

    router: str
    preempt: bool
    rule: str


@dataclass(frozen=True, slots=True)
class Startup:
    """The router takes part in its election from now on."""

    router: str
    rule: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The router leaves its election."""

    router: str
    rule: str


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The router becomes Active now, if it is a Backup, because its group has."""

    router: str
    rule: str


@dataclass(frozen=True, slots=True)
class StepDown:
    """The router becomes a Backup now, if it is Active, because its group has; the others hear priority 0."""

    router: str
    rule: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people and scripts. `router`: its name, or the group's. `priority`: the effective one; 0: a group's."""

    kind: Literal["INSTANCE", "GROUP"]
    router: str
    condition: Condition
    priority: int
    rule: str


Decision = SetPriority | SetPreempt | Startup | Shutdown | TakeOver | StepDown | Notify
