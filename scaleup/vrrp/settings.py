"""The settings of `python -m scaleup.vrrp`, with keepalived's words where it has any.

One virtual router is said by flags. Several are said in cluster.toml, and what stands in [vrrp] itself is then the
default of all of them:

    [vrrp]
    interface = "eth0"
    interval = 0.1

    [[vrrp.router]]
    name = "www"
    vrid = 51
    vip = ["10.0.0.100/24"]
    priority = 150
    tracks = { haproxy = -60 }      # without it: all that [[vrrp.track]] says

    [[vrrp.router]]
    name = "mail"
    vrid = 52
    vip = ["10.0.0.101/24"]
    priority = 150
    tracks = { haproxy = -60 }

    [[vrrp.group]]                  # keepalived's vrrp_sync_group
    name = "both"
    routers = ["www", "mail"]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from scaleup.config import FileOnly, Flag, NamedTable, TierSettings, distinct
from scaleup.config.faults import did_you_mean
from scaleup.vrrp.arrangement import Arrangement, SyncGroup
from scaleup.vrrp.election import GROUP, Election, RouterFields
from scaleup.vrrp.notify import NotifySettings
from scaleup.vrrp.router import OWNER
from scaleup.vrrp.tracking import TrackSettings

IN_PLACE = {"priority", "preempt", "preempt_delay", "auth", "auth_mode", "checksum", "strict", "minimum_ttl"}
"""What a reload changes of a router that goes on; for the rest it is another router."""


class RouterTable(NamedTable, NotifySettings, RouterFields):
    """[[vrrp.router]]"""

    tracks: dict[str, int] | None = Field(
        None,
        description="what it depends on, with its weights: names of [[vrrp.track]]; without: all of them",
    )


class GroupTable(NamedTable, NotifySettings):
    """[[vrrp.group]]: routers that move together."""

    routers: tuple[str, ...] = Field(min_length=2, description="names of [[vrrp.router]]")


class RouterSettings(Election):
    """One router, whole: with the defaults, its name, and the checks that it depends on with their weights."""

    name: str
    tracks: dict[str, int]

    @property
    def router_name(self) -> str:
        return self.name

    @property
    def wire(self) -> dict[str, Any]:
        """What makes it this router and no other: two that agree in it can follow each other in a reload."""
        said = self.model_dump(include=set(RouterFields.model_fields) - IN_PLACE)
        return {**said, "owner": self.priority == OWNER}


class VrrpSettings(Election, NotifySettings, TierSettings):
    """Run the election for virtual addresses, as keepalived's VRRP does."""

    tier: ClassVar[str] = "vrrp"
    examples: ClassVar[str] = """
examples:
  python -m scaleup.vrrp --interface eth0 --vrid 51 --priority 150 --vip 10.0.0.100/24 --interval 0.1

without privileges, the election alone (two terminals; kill one and watch the other):
  openssl rand -hex 32 > key
  python -m scaleup.vrrp --node a --vip 127.0.0.100 --source 127.0.0.11 --peer 127.0.0.12 \\
                         --auth hmac:key --priority 150
  python -m scaleup.vrrp --node b --vip 127.0.0.100 --source 127.0.0.12 --peer 127.0.0.11 \\
                         --auth hmac:key --priority 100

commands beside the election:
  python -m scaleup.vrrp doctor …        with the same flags: what would be in its way
  python -m scaleup.vrrp status --event-socket FILE
"""

    state_file: Annotated[Path | None, Flag("FILE", GROUP)] = Field(
        None,
        description="write the state as JSON with keepalived's names, at each change and on SIGUSR1; below /run: "
        "the election waits for it",
    )
    event_socket: Annotated[Path | None, Flag("FILE", GROUP)] = Field(
        None, description="Unix socket that says each change as a line of JSON"
    )
    track: Annotated[tuple[TrackSettings, ...], FileOnly()] = Field(
        (), max_length=64, description="what this node's part in the election depends on"
    )
    router: Annotated[tuple[RouterTable, ...], FileOnly()] = Field(
        (), max_length=255, description="instead of vip: several, each with its own"
    )
    group: Annotated[tuple[GroupTable, ...], FileOnly()] = Field(
        (), description="routers that move together (keepalived's vrrp_sync_group)"
    )

    @model_validator(mode="after")
    def _is_one_router_or_several(self) -> Self:
        if not self.router:
            if not self.vip:
                raise ValueError("--vip ADDRESS is missing: which address is the election about?")
            if self.group:
                raise ValueError(f"group {self.group[0].name}: it wants routers, as [[vrrp.router]]")
            return self
        if self.vip:
            raise ValueError("vip says one router, [[vrrp.router]] several: write one or the other")
        distinct("[[vrrp.router]]", self.router)
        distinct("[[vrrp.router]] and [[vrrp.group]]", (*self.router, *self.group))
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        routers = self.routers
        for router in routers:
            if not router.vip:
                raise ValueError(f"router {router.name}: vip is missing: which address is it about?")
        for one, other in combinations(routers, 2):
            if conflict := _conflict(one, other):
                raise ValueError(f"routers {one.name} and {other.name}: {conflict}")
        self._names_what_there_is(routers)
        _ = self.arrangement
        return self

    def _names_what_there_is(self, routers: Iterable[RouterSettings]) -> None:
        tracks, names = [track.name for track in self.track], [router.name for router in routers]
        mentioned = [("track", name, tracks, f"router {it.name}") for it in routers for name in it.tracks]
        mentioned += [("router", name, names, f"group {it.name}") for it in self.group for name in it.routers]
        for kind, name, known, where in mentioned:
            if name not in known:
                raise ValueError(f"{where}: there is no {kind} {name!r}{did_you_mean(name, known)}")

    @cached_property
    def routers(self) -> tuple[RouterSettings, ...]:
        """Each whole. The one that is said by flags is called VI_ and its VRID, as keepalived's manual does.

        Made once, while the settings are read: a key file may be gone by the next reload. Raises ValueError.
        """
        weights = {track.name: track.weight for track in self.track}
        defaults = {name: getattr(self, name) for name in Election.model_fields}
        if not self.router:
            return (RouterSettings(**defaults, name=self.router_name, tracks=weights),)
        return tuple(_whole(table, defaults, weights) for table in self.router)

    @property
    def arrangement(self) -> Arrangement:
        """What the policy is to know. Raises ValueError."""
        return Arrangement(
            tuple(router.policy(router.tracks) for router in self.routers),
            checks=tuple(track.check for track in self.track),
            groups=tuple(SyncGroup(group.name, group.routers) for group in self.group),
            startup_delay=self.startup_delay,
        )

    @property
    def scripts(self) -> dict[str, NotifySettings]:
        """Of each router and group that has some."""
        defaults = {name: getattr(self, name) for name in NotifySettings.model_fields}
        said: Iterator[tuple[str, Mapping[str, Any]]]
        if self.router:
            said = ((table.name, table.said()) for table in (*self.router, *self.group))
        else:
            said = iter([(self.router_name, {})])
        scripts = {
            name: NotifySettings(**defaults | {key: own[key] for key in defaults.keys() & own.keys()})
            for name, own in said
        }
        return {name: its for name, its in scripts.items() if its.has_any}

    def moving_together(self, router: str) -> frozenset[str]:
        """The router and those of its sync group."""
        groups = (frozenset(group.routers) for group in self.group)
        return next((members for members in groups if router in members), frozenset({router}))


def unchanged(before: VrrpSettings, now: VrrpSettings) -> set[str]:
    """Names of the routers that go on when `now` follows `before`; those of a sync group do it together."""
    wires = {router.name: router.wire for router in before.routers}
    same = {router.name for router in now.routers if wires.get(router.name) == router.wire}
    together = {name: now.moving_together(name) for name in same}
    return {
        name
        for name, members in together.items()
        if members == before.moving_together(name) and members <= same
    }


def _whole(table: RouterTable, defaults: Mapping[str, Any], weights: Mapping[str, int]) -> RouterSettings:
    said = {name: value for name, value in table.said().items() if name in RouterFields.model_fields}
    tracks = dict(weights) if table.tracks is None else table.tracks
    try:
        return RouterSettings(**{**defaults, **said}, name=table.name, tracks=tracks)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"router {table.name}: {why}") from None


def _conflict(one: RouterSettings, other: RouterSettings) -> str:
    """Why both cannot be on one node; "" if they can."""
    if both := set(one.addresses) & set(other.addresses):
        return f"both have {min(map(str, both))}: an address is one router's"
    if one.pcap is not None and one.pcap == other.pcap:
        return f"both write to {one.pcap}: give each a pcap of its own"
    if one.raw and other.raw:
        link = (one.interface, one.vip[0].ip.version)
        if link == (other.interface, other.vip[0].ip.version) and one.vrid == other.vrid:
            return f"both are VRID {one.vrid} on {one.interface}: give one of them another"
    elif not one.raw and not other.raw and (one.source, one.vrrp_port) == (other.source, other.vrrp_port):
        return f"both listen on {one.source}, UDP port {one.vrrp_port}: give one of them another vrrp_port"
    return ""
