"""A process beside the election that runs the operator's programs: scripts, probes, notify scripts.

It is a process of its own for the same reason as the election is. To start a program takes 0.4 ms on an idle
machine, and on a busy one as long as the program waits for its first turn, which is not in real time: 7 to
15 ms were measured, more than an advertisement interval may be. A thread would not help, because it shares the
interpreter. So here is everything that starts programs, connects or reads /proc; what the kernel tells by
itself, the state of interfaces, stays with the election (`Helper`).

Messages to it: `init`, and `notify` at each change. From it: `result` of each check. It ends with its parent,
and at its word (signals are left to it), after the notify scripts that still wait, for at most FINISH_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from scaleup.processes import Child, Message, Process, Tasks, run_child
from scaleup.processes.keeper import Keeper
from scaleup.processes.logs import Destination
from scaleup.processes.worker import leave_signals
from scaleup.vrrp.decisions import Condition, Notify
from scaleup.vrrp.notify import MAX_WAITING, Notifier, NotifySettings
from scaleup.vrrp.tracking import Tracker, TrackSettings

log = logging.getLogger(__name__)

FINISH_SECONDS = 5.0  # for notify_stop, which has to run before the host goes down
GRACE_SECONDS = FINISH_SECONDS + 2.0


class Helper:
    """The election's side: has the helper run, and started again when it dies. `report`: see `Tracker`."""

    def __init__(
        self,
        tracks: Sequence[TrackSettings],
        scripts: Mapping[str, NotifySettings],
        report: Callable[[str, bool, str], None],
        *,
        name: str,
        log_to: Destination,
    ) -> None:
        self._tracks = [track for track in tracks if not track.interface]
        self._scripts, self._report = scripts, report
        self._local = Tracker([track for track in tracks if track.interface], report)
        self._name, self._log_to = name, log_to
        self._early: list[Notify] = []  # changes before it is ready to hear of them, or while it is held
        self._is_held = False
        self._tasks = Tasks()
        self._keeper = Keeper(name, self._spawn, lambda how: None)

    async def start(self) -> None:
        """Returns when checks are made. Raises StartupError."""
        self._tasks.spawn(self._local.run(), name="tracked interfaces")
        self._keeper.start()
        await self._keeper.first_ready()

    def tell(self, change: Notify) -> None:
        """Have the notify scripts run for it."""
        if self._keeper.is_ready and self._keeper.child is not None and not self._is_held:
            self._keeper.child.send("notify", change=asdict(change))
        elif len(self._early) < MAX_WAITING:
            self._early.append(change)
        else:
            log.error("%s is not there: a notify script was left out", self._name)

    def hold(self) -> None:
        """Until `release` no notify script is run: those of another helper, for what was before, still are."""
        self._is_held = True

    def release(self) -> None:
        self._is_held = False
        if self._keeper.is_ready:
            self._tell_early()

    async def stop(self) -> None:
        """The checks end at once, notify scripts within GRACE_SECONDS."""
        await self._tasks.cancel()
        await self._keeper.stop(GRACE_SECONDS)

    def _spawn(self, on_exit: Callable[[int], None]) -> Child:
        child = Child(self._name, ["scaleup.vrrp.helper", self._name], on_message=self._says, on_exit=on_exit)
        child.send(
            "init",
            name=self._name,
            log=self._log_to,
            tracks=[track.model_dump(mode="json") for track in self._tracks],
            scripts={name: settings.model_dump(mode="json") for name, settings in self._scripts.items()},
        )
        return child

    def _says(self, message: Message) -> None:
        match message.kind:
            case "ready":
                self._keeper.was_ready()
                if not self._is_held:
                    self._tell_early()
            case "result":
                fields = message.fields
                self._report(fields["name"], fields["passed"], fields["detail"])

    def _tell_early(self) -> None:
        early, self._early = self._early, []
        for change in early:
            self.tell(change)


# ----- the process itself -------------------------------------------------------------------------------


async def serve(init: Message, process: Process) -> None:
    leave_signals(process)

    def report(name: str, passed: bool, detail: str) -> None:
        process.tell_parent("result", name=name, passed=passed, detail=detail)

    tracks = [TrackSettings.model_validate(table) for table in init.fields["tracks"]]
    notifier = Notifier(
        {name: NotifySettings.model_validate(table) for name, table in init.fields["scripts"].items()}
    )
    process.on_message = partial(obey, notifier)
    async with asyncio.TaskGroup() as group:
        checks = group.create_task(Tracker(tracks, report).run(), name="checks")
        telling = group.create_task(notifier.run(), name="notify scripts")
        process.ready()
        await process.stopping.wait()
        checks.cancel()
        await notifier.finish(FINISH_SECONDS)
        telling.cancel()


def obey(notifier: Notifier, message: Message) -> None:
    if message.kind == "notify":
        fields = message.fields["change"]
        notifier.tell(Notify(**{**fields, "condition": Condition(fields["condition"])}))


if __name__ == "__main__":
    run_child(serve, loop_factory=asyncio.new_event_loop)
