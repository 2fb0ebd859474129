"""Looking at what a node's worth depends on: its interfaces, programs and neighbours.

    interface   up, with a link: the kernel tells, at once
    process     a process of that name lives: its death is told at once, its birth seen within an interval
    script      ends with exit code 0 within its time-out
    tcp, http   a service accepts, or answers `GET` with 2xx or 3xx (`upstream.probe`)

What a result means is not decided here: each goes to `report(name, passed, detail)`, and `policy` counts them.
A check that cannot be made, for want of descriptors or memory, is not a result: it says nothing about
what it looks at, and is logged once.

Checks are made once at the start, because the election waits for them, then every `interval`: on a grid,
each with an offset of its own, so that they neither bunch up nor drift. At most CONCURRENT programs and
connections are under way; the others wait their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from scaleup.config.model import EndpointField, Seconds
from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck
from scaleup.upstream.probe import probe
from scaleup.vrrp.arrangement import MAX_WEIGHT, Check
from scaleup.vrrp.rtnetlink import LinkEvent, Overrun, Rtnetlink, Watch
from scaleup.vrrp.scripts import OF_THE_PROGRAM, Command, User, run

log = logging.getLogger(__name__)

CONCURRENT = 8  # more would only wait for each other's turn on the processors of a small host
COMM_BYTES = 15  # what the kernel keeps of a process's name
MAX_WATCHED = 32  # processes of one name whose death is waited for; one that lives is enough


def _http(text: str) -> str:
    endpoint_and_path(text)
    return text


def endpoint_and_path(text: str) -> tuple[Endpoint, HealthCheck]:
    """Read `HOST:PORT/PATH`. Raises ValueError."""
    host, _, path = text.partition("/")
    return Endpoint.parse(host), HealthCheck.parse(f"http:/{path}")


POLICY = {"weight", "rise", "fall"}


class TrackSettings(BaseModel):
    """A table `[[vrrp.track]]`: exactly one of the kinds, and what its failure means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=63, description="called so in the log")
    interface: str | None = Field(None, min_length=1, max_length=15, description="up, with a link")
    process: str | None = Field(None, min_length=1, description="name of a process that has to live")
    script: Command | None = Field(None, description="program that ends with exit code 0")
    tcp: EndpointField | None = Field(None, description="HOST:PORT that accepts")
    http: Annotated[str, AfterValidator(_http)] | None = Field(
        None, description="HOST:PORT/PATH with 2xx or 3xx"
    )
    weight: int = Field(
        0,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        description="0: fault while down; else added while up, or subtracted while down",
    )
    rise: int = Field(1, ge=1, le=1000, description="passed checks in a row until it counts as up")
    fall: int = Field(1, ge=1, le=1000, description="failed checks in a row until it counts as down")
    interval: Seconds = Field(1.0, description="seconds from one check to the next")
    timeout: Seconds = Field(1.0, description="seconds until a script or connection counts as failed")
    user: User = Field(None, description="whom a script runs as (default: as this process)")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        kinds = [kind for kind in ("interface", "process", "script", "tcp", "http") if getattr(self, kind)]
        if len(kinds) != 1:
            raise ValueError(
                f"{self.name}: say exactly one of interface, process, script, tcp, http"
                + (f", not {' and '.join(kinds)}" if kinds else "")
            )
        if self.interface and (self.rise, self.fall) != (1, 1):
            raise ValueError(f"{self.name}: rise and fall count checks; interface is told when it changes")
        if self.user is not None and self.script is None:
            raise ValueError(f"{self.name}: user is for a script")
        return self

    @property
    def check(self) -> Check:
        return Check(self.name, self.rise, self.fall, self.what)

    @property
    def what(self) -> str:
        """What is checked and how, but for what the policy makes of it."""
        return self.model_dump_json(exclude=POLICY)


class Verdict(NamedTuple):
    """`passed`: None when the check could not be made."""

    passed: bool | None
    detail: str


class Tracker:
    """Runs the checks. `report(name, passed, detail)` is called with each result."""

    def __init__(self, tracks: Iterable[TrackSettings], report: Callable[[str, bool, str], None]) -> None:
        tracks = list(tracks)
        self._interfaces = [track for track in tracks if track.interface]
        self._processes = [track for track in tracks if track.process]
        self._repeated = [track for track in tracks if track.script or track.tcp or track.http]
        self._report = report
        self._slots = asyncio.Semaphore(CONCURRENT)

    async def run(self) -> None:
        """Until cancelled; then every program is killed and every connection closed before it returns."""
        async with asyncio.TaskGroup() as group:
            if self._interfaces:
                group.create_task(self._watch_links(), name="watch links")
            for track in self._processes:
                group.create_task(self._watch_process(track), name=f"watch {track.name}")
            for number, track in enumerate(self._repeated):
                offset = track.interval * number / len(self._repeated)
                group.create_task(self._repeat(track, offset), name=f"check {track.name}")

    # ----- what has to be asked ---------------------------------------------------------------------------

    async def _repeat(self, track: TrackSettings, offset: float) -> None:
        loop = asyncio.get_running_loop()
        origin = loop.time() + offset
        was_made = True
        while True:
            async with self._slots:
                passed, detail = await look(track)
            if passed is not None:
                self._report(track.name, passed, detail)
            elif was_made:
                log.warning("check %s cannot be made: %s", track.name, detail)
            was_made = passed is not None
            now = loop.time()
            periods = max(0, math.floor((now - origin) / track.interval) + 1)
            await asyncio.sleep(origin + periods * track.interval - now)

    # ----- what tells by itself ---------------------------------------------------------------------------

    async def _watch_links(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(Watch()) as watch:
            loop.add_reader(watch.fileno(), self._links_changed, watch)
            try:
                self._look_at_links()
                await asyncio.Event().wait()  # until cancelled
            finally:
                loop.remove_reader(watch.fileno())

    def _links_changed(self, watch: Watch) -> None:
        for event in watch.events():
            match event:
                case LinkEvent(name, _, running, exists):
                    self._link(name, exists, running)
                case Overrun():
                    self._look_at_links()

    def _look_at_links(self) -> None:
        with Rtnetlink() as rtnetlink:
            found = {link.name: link for link in rtnetlink.links()}
        for name in {track.interface or "" for track in self._interfaces}:
            self._link(name, name in found, name in found and found[name].running)

    def _link(self, name: str, exists: bool, running: bool) -> None:
        detail = f"{name} is up" if running else f"{name} is down" if exists else f"there is no {name}"
        for track in self._interfaces:
            if track.interface == name:
                self._report(track.name, exists and running, detail)

    async def _watch_process(self, track: TrackSettings) -> None:
        """As long as one lives, there is nothing to look for: reading all of /proc is not for every second."""
        name = track.process or ""
        while True:
            pidfds = open_processes(await asyncio.to_thread(processes_called, name), name)
            try:
                if pidfds:
                    self._report(track.name, True, f"{name} runs")
                    await self._while_any_lives(pidfds, track)
                else:
                    self._report(track.name, False, f"no process {name}")
                    await asyncio.sleep(track.interval)
            finally:
                for pidfd in pidfds:
                    os.close(pidfd)

    async def _while_any_lives(self, pidfds: Sequence[int], track: TrackSettings) -> None:
        """It passes a check in each interval; that counts for `rise`."""
        loop = asyncio.get_running_loop()
        living, all_dead = set(pidfds), asyncio.Event()

        def died(pidfd: int) -> None:
            loop.remove_reader(pidfd)
            living.discard(pidfd)
            if not living:
                all_dead.set()

        for pidfd in pidfds:
            loop.add_reader(pidfd, died, pidfd)
        try:
            while not all_dead.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(track.interval):
                        await all_dead.wait()
                if not all_dead.is_set():
                    self._report(track.name, True, f"{track.process} runs")
        finally:
            for pidfd in living:
                loop.remove_reader(pidfd)


async def look(track: TrackSettings) -> Verdict:
    """Make one check of a script, tcp or http."""
    if track.script is not None:
        return await _run_script(track, track.script)
    endpoint, check = track.tcp, HealthCheck("tcp")
    if endpoint is None:
        assert track.http is not None  # `_is_one_thing`
        endpoint, check = endpoint_and_path(track.http)
    result = await probe(endpoint, check, timeout=track.timeout)
    return Verdict(result.passed, f"{endpoint} {result}")


async def _run_script(track: TrackSettings, script: Sequence[str]) -> Verdict:
    try:
        code = await run(script, timeout=track.timeout, user=track.user)
    except OSError as error:
        passed = False if error.errno in OF_THE_PROGRAM else None
        return Verdict(passed, f"{script[0]} cannot be started: {error.strerror}")
    if code is None:
        return Verdict(False, f"no end within {track.timeout:g} s")
    return Verdict(code == 0, f"exit code {code}" if code >= 0 else f"killed by signal {-code}")


def processes_called(name: str) -> list[int]:
    """The living processes that are called so, by the kernel or by their first argument. It takes as long as
    there are processes, a few milliseconds for hundreds.
    """
    numbers = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [pid for pid in numbers if _is_called(pid, name)][:MAX_WATCHED]


def open_processes(pids: Iterable[int], name: str) -> list[int]:
    """A pidfd for each of them that is still there, and still called so."""
    found: list[int] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
            if not _is_called(pid, name):
                os.close(found.pop())
    return found


def _is_called(pid: int, name: str) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        comm = (process / "comm").read_bytes().rstrip(b"\n")
        wanted = os.fsencode(name)
        if comm == wanted and len(wanted) < COMM_BYTES:
            return not _is_zombie(process)
        first = (process / "cmdline").read_bytes().partition(b"\0")[0]
        return os.path.basename(first) == wanted and not _is_zombie(process)
    except OSError:  # it has ended
        return False


def _is_zombie(process: Path) -> bool:
    """Dead, and only not waited for. The state stands behind the name, which may hold brackets itself."""
    return (process / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
