"""How the routers of a node are arranged: their priorities, what they track, and who belongs together. ●

What cannot be meant is a ValueError; what can be, but hardly is, is told by `warnings`: an operator should
hear of a contradiction before it decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scaleup.vrrp.router import OWNER

MAX_PRIORITY = 254  # of one that does not own the addresses, RFC 9568 §5.2.4
MAX_WEIGHT = 253  # from the least priority to the greatest, as in keepalived


@dataclass(frozen=True, slots=True)
class Check:
    """`rise`, `fall`: passed or failed results in a row that decide, ≥ 1. `what`: any text that differs when
    something else is checked under the same name.
    """

    name: str
    rise: int = 1
    fall: int = 1
    what: str = ""


@dataclass(frozen=True, slots=True)
class RouterPolicy:
    """`priority`: 1–255, before any weight. `preempt_delay`: seconds. `tracks`: check → weight, −253…253."""

    name: str
    priority: int
    preempt: bool = True
    preempt_delay: float = 0.0
    tracks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SyncGroup:
    """`members`: names of routers."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """`startup_delay`: seconds. Raises ValueError."""

    routers: tuple[RouterPolicy, ...]
    checks: tuple[Check, ...] = ()
    groups: tuple[SyncGroup, ...] = ()
    startup_delay: float = 0.0

    def __post_init__(self) -> None:
        for kind, named in (("router", self.routers), ("check", self.checks), ("sync group", self.groups)):
            names = [it.name for it in named]
            if repeated := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two of them are called {kind} {min(repeated)}")
        for check in self.checks:
            if min(check.rise, check.fall) < 1:
                raise ValueError(f"check {check.name}: rise and fall are 1 or more")
        for spec in self.routers:
            self._validate(spec)
        alone = {spec.name for spec in self.routers}
        for group in self.groups:
            for name in group.members:
                if name not in alone:
                    where = "is in two groups" if name in self._by_name() else "is no router"
                    raise ValueError(f"sync group {group.name}: {name} {where}")
                alone.remove(name)
            self.weights(group.members)

    def _validate(self, spec: RouterPolicy) -> None:
        if not 1 <= spec.priority <= OWNER:
            raise ValueError(f"{spec.name}: priority {spec.priority} is not from 1 to 255")
        for name, weight in spec.tracks.items():
            if name not in {check.name for check in self.checks}:
                raise ValueError(f"{spec.name} tracks {name}, and there is no such check")
            if abs(weight) > MAX_WEIGHT:
                raise ValueError(f"{spec.name}: weight {weight} of {name} is not from -253 to 253")

    def _by_name(self) -> dict[str, RouterPolicy]:
        return {spec.name: spec for spec in self.routers}

    def moving_together(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every router once: the sync groups with their names, and each of the others by itself, under ""."""
        grouped = {name for group in self.groups for name in group.members}
        alone = [("", (spec.name,)) for spec in self.routers if spec.name not in grouped]
        return [*((group.name, group.members) for group in self.groups), *alone]

    def of(self, routers: Sequence[str]) -> Arrangement:
        """The same for fewer routers; a group goes on with those that are left."""
        groups = [(group.name, tuple(it for it in group.members if it in routers)) for group in self.groups]
        return replace(
            self,
            routers=tuple(spec for spec in self.routers if spec.name in routers),
            groups=tuple(SyncGroup(name, members) for name, members in groups if members),
        )

    def weights(self, members: tuple[str, ...]) -> dict[str, int]:
        """Check → weight: what members of a group track counts once, and for all of them."""
        weights: dict[str, int] = {}
        for name in members:
            for check, weight in self._by_name()[name].tracks.items():
                if weights.setdefault(check, weight) != weight:
                    raise ValueError(
                        f"check {check} has the weights {weights[check]} and {weight} in one sync group, "
                        "where it counts once"
                    )
        return weights

    def warnings(self) -> list[str]:
        """A line for each contradiction, with the settings' names."""
        told = [line for spec in self.routers for line in _of_a_router(spec)]
        for group in self.groups:
            told += _of_a_group(group, [self._by_name()[name] for name in group.members])
        tracked = {name for spec in self.routers for name in spec.tracks}
        untracked = [check.name for check in self.checks if check.name not in tracked]
        return told + [f"check {name}: nobody tracks it, so it decides nothing" for name in untracked]


def _of_a_router(spec: RouterPolicy) -> Iterator[str]:
    if spec.preempt_delay and not spec.preempt:
        yield f"{spec.name}: preempt_delay with preempt = false: it never preempts, so there is nothing to delay"
    weighted = sorted(name for name, weight in spec.tracks.items() if weight)
    if spec.priority == OWNER:
        if not spec.preempt:
            yield f"{spec.name}: preempt = false with priority 255: the owner always preempts (RFC 9568 §6.1)"
        if spec.preempt_delay:
            yield f"{spec.name}: preempt_delay with priority 255: the owner always preempts (RFC 9568 §6.1)"
        if weighted:
            yield f"{spec.name}: {', '.join(weighted)} with a weight: priority 255 is never changed"
        return
    highest = spec.priority + sum(weight for weight in spec.tracks.values() if weight > 0)
    lowest = spec.priority + sum(weight for weight in spec.tracks.values() if weight < 0)
    if highest > MAX_PRIORITY:
        yield f"{spec.name}: priority and weights add up to {highest}: it is held at {MAX_PRIORITY}"
    if lowest < 1:
        yield f"{spec.name}: priority and weights come down to {lowest}: it is held at 1"
    if not spec.preempt and weighted:
        yield (
            f"{spec.name}: {', '.join(weighted)} with a weight and preempt = false: a priority that has become "
            "higher takes nothing over from a living Active"
        )


def _of_a_group(group: SyncGroup, members: list[RouterPolicy]) -> Iterator[str]:
    if len(members) < 2:
        yield f"sync group {group.name}: it has no two members, so there is nothing to move together"
    for setting in ("priority", "preempt", "preempt_delay"):
        values = {getattr(spec, setting) for spec in members}
        if len(values) > 1:
            shown = ", ".join(f"{spec.name} {getattr(spec, setting)}" for spec in members)
            yield (
                f"sync group {group.name}: its members differ in {setting} ({shown}): one of them decides for all, "
                "and which one is not always the same"
            )
    if any(spec.priority == OWNER for spec in members):
        yield f"sync group {group.name}: priority 255: an owner of addresses does not give way with its group"
