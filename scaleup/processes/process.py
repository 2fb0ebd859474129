"""One process of ours: signals, readiness, its parent, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import uvloop
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from scaleup.config import TierSettings, load
from scaleup.errors import ScaleUpError, StartupError
from scaleup.processes import children, logs
from scaleup.processes.channel import Channel, Message
from scaleup.processes.notify import notify
from scaleup.processes.pages import Page

log = logging.getLogger(__name__)

S = TypeVar("S", bound=TierSettings)
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

READINESS_SECONDS = 1.0
"""A readiness check that takes longer counts as not ready."""


class Process:
    """What `serve` is given. Made inside the running loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopping = asyncio.Event()
        """Set by SIGTERM, SIGINT, or SIGHUP (but see `reloads`), or when the parent has died: finish and return."""
        self.urgent = asyncio.Event()
        """Set by all of them, too, but not by a soft stop (see `stops_softly`)."""
        self.orphaned = False
        """Whether the parent has died."""
        self.when_orphaned: Callable[[], None] = lambda: None
        """What is to be done at once then, before whoever waits for `stopping` has its turn."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_LogCollector(self.log_dropped))
        self.pages: dict[str, Callable[[], Page]] = {}
        """Of the admin address, by path, beside those of every process."""
        self._on_message: Callable[[Message], None] = self._keep
        self._early: list[Message] = []  # few: of a child that is not ready, a parent wants only its end
        self._first: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._ready = False
        self._signalled = False
        self._checks: list[Callable[[], Awaitable[str | None]]] = []
        self._reload: Callable[[], Awaitable[None]] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._reloads_ended = False
        self._parent = self._join_parent()
        self._watch_signals()

    def ready(self) -> None:
        """We serve: readiness turns to yes, systemd and the parent are told."""
        self._ready = True
        notify("READY=1")
        self.tell_parent("ready")

    def event(self, kind: str, **fields: Any) -> None:
        """Tell the parent of something that a person would want to see (a role, a server down)."""
        self.tell_parent("event", event=kind, **fields)

    def tell_parent(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a message to the parent, if there is one."""
        if self._parent is not None:
            self._parent.send(kind, descriptors, **fields)

    def add_readiness(self, check: Callable[[], Awaitable[str | None]]) -> None:
        """`check()` returns None when ready, else the reason why not."""
        self._checks.append(check)

    def reloads(self, load: Callable[[], S], take: Callable[[S], Awaitable[None]]) -> None:
        """From now on SIGHUP means: `load` the settings again and `take` them, all or nothing.

        What either raises as a ScaleUpError is logged, and the old settings stay. One reload at a time; a SIGHUP
        that comes meanwhile is one more after it. A terminal that has closed ends the process as before.
        """

        async def reload() -> None:
            log.info("reloading")
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            try:
                await take(await asyncio.to_thread(load))  # what serves goes on meanwhile
                log.info("reloaded")
            except ScaleUpError as error:
                for line in str(error).splitlines():
                    log.error("%s", line)
                log.error("not reloaded: nothing was changed")
            except Exception:
                log.exception("an error of ours, while reloading")
            notify("READY=1")

        self._reload = reload

    def stops_softly(self) -> None:
        """From now on SIGUSR1 means: finish what there is, however long it takes (HAProxy's soft stop)."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._stop_softly)

    async def end_reload(self) -> None:
        """Break off the one that is in progress; there will be no more: SIGHUP means nothing then."""
        self._reloads_ended = True
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.wait([self._reloading])

    async def readiness(self) -> str | None:
        """None when this process can serve, else the reason: `starting`, `draining`, or a check's."""
        if self.stopping.is_set():
            return "draining"
        if not self._ready:
            return "starting"
        for check in self._checks:
            try:
                async with asyncio.timeout(READINESS_SECONDS):
                    reason = await check()
            except TimeoutError:
                reason = f"no answer within {READINESS_SECONDS:g} s"
            if reason is not None:
                return reason
        return None

    def log_dropped(self) -> int:
        """Lines of the log that were lost, by this process and, as far as it has heard, its children."""
        return logs.dropped() + children.log_dropped()

    async def first_message(self) -> Message:
        """The parent's first message, with what the child is to do. Later ones go to `on_message`."""
        return await self._first

    @property
    def on_message(self) -> Callable[[Message], None]:
        """Set it to hear the parent's later messages; at once those that have come before."""
        return self._on_message

    @on_message.setter
    def on_message(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        early, self._early = self._early, []
        for message in early:
            on_message(message)

    def close(self) -> None:
        if self._parent is not None:
            self._parent.close()

    def _keep(self, message: Message) -> None:
        if self._first.done():
            self._early.append(message)
        else:
            self._first.set_result(message)

    def _join_parent(self) -> Channel | None:
        # Taken out of the environment: it is no business of the programs that we start.
        descriptor = os.environ.pop(children.CHANNEL_VARIABLE, None)
        if descriptor is None:
            return None
        sock = socket.socket(fileno=int(descriptor))
        sock.set_inheritable(False)
        return Channel(sock, self._parent_says, self._parent_died)

    def _parent_says(self, message: Message) -> None:
        if message.kind == "reopen":
            self._reopen_logs()
        elif message.kind == "ping":
            self.tell_parent("pong", log_dropped=self.log_dropped())
        elif message.kind == "stop":
            self.stopping.set()
            self.urgent.set()
        else:
            self.on_message(message)

    def _parent_died(self) -> None:
        self.orphaned = True
        self._first.cancel()
        self.stopping.set()
        self.urgent.set()
        try:
            self.when_orphaned()
        finally:
            log.warning("the parent process is gone: stopping")

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        loop.add_signal_handler(
            signal.SIGUSR1, log.info, "SIGUSR1: means nothing here; SIGUSR2 opens logs again"
        )
        loop.add_signal_handler(signal.SIGUSR2, self._reopen_logs)

    def _reopen_logs(self) -> None:
        logs.reopen()
        for child in list(children.running):
            child.send("reopen")  # not the signal, which kills a child that does not watch for it yet

    def _hung_up(self) -> None:
        if self._reload is None or terminal_has_closed():
            self._stop(signal.SIGHUP)
        elif self._reloading is not None:
            self._reload_again = True
        elif self.stopping.is_set() or self._reloads_ended:
            log.info("SIGHUP: not reloaded, since this process is stopping")
        else:
            self._reloading = asyncio.get_running_loop().create_task(self._keep_reloading(self._reload))

    async def _keep_reloading(self, reload: Callable[[], Awaitable[None]]) -> None:
        try:
            self._reload_again = True
            while self._reload_again and not self.stopping.is_set():
                self._reload_again = False
                await reload()
        finally:
            self._reloading = None

    def _stop_softly(self) -> None:
        if not self.stopping.is_set():
            log.info("SIGUSR1: stopping, when what is in progress has ended")
            notify("STOPPING=1")
            self.stopping.set()

    def _stop(self, number: signal.Signals) -> None:
        if not self._signalled:
            self._signalled = True
            log.info("%s: stopping", number.name)
            notify("STOPPING=1")
            self.stopping.set()
            self.urgent.set()
        elif number != signal.SIGHUP:  # which a closing terminal may send twice
            log.warning("%s again: stopping at once", number.name)
            for child in list(children.running):
                child.kill()
            logging.shutdown()
            os._exit(1)


def terminal_has_closed() -> bool:
    """Whether this process was started from a terminal that is gone."""
    try:
        termios.tcgetattr(0)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False


class _LogCollector(Collector):
    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        text = "Lines of the log that were dropped, because nobody read them or they could not be written"
        yield CounterMetricFamily("scaleup_log_dropped", text, self._dropped())


def run(
    model: type[S],
    serve: Callable[[S, Process], Awaitable[None]],
    *,
    argv: Sequence[str] | None = None,
    loop_factory: LoopFactory = uvloop.new_event_loop,
) -> NoReturn:
    """The `main` of a tier: settings, logs, the loop; exits with 0, 1, 2 or 78 (see scaleup.errors)."""

    async def main(settings: S) -> None:
        process = Process(settings.name)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(process.close)
            if settings.admin is not None:
                from scaleup.processes.admin import Admin  # a third of a process's start: only if wanted

                admin = Admin(process.registry, process.readiness, process.pages)
                stack.push_async_callback(admin.stop)
                await admin.start(settings.admin)
            await serve(settings, process)

    try:
        settings = load(model, sys.argv[1:] if argv is None else argv).settings
        logs.configure(settings.name, settings)
    except ScaleUpError as error:
        _exit(error)
    _run(lambda: main(settings), loop_factory)


def run_child(
    serve: Callable[[Message, Process], Awaitable[None]],
    *,
    loop_factory: LoopFactory = uvloop.new_event_loop,
) -> NoReturn:
    """The `main` of a process that only a parent of ours starts: its first message says what to do.

    That message has `name` and `log` (a `logs.Destination`) beside what `serve` wants.
    """

    async def main() -> None:
        process = Process("child")
        try:
            message = await process.first_message()
            process.name = message.fields["name"]
            logs.configure_with(process.name, logs.Destination(*message.fields["log"]))
            await serve(message, process)
        except asyncio.CancelledError:
            if not process.orphaned:
                raise
        finally:
            process.close()

    if children.CHANNEL_VARIABLE not in os.environ:
        _exit(StartupError("this process is started by its node, not by hand; see README.md"))
    _run(main, loop_factory)


def _run(main: Callable[[], Awaitable[None]], loop_factory: LoopFactory) -> NoReturn:
    async def coroutine() -> None:
        await main()

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(coroutine())
    except ScaleUpError as error:
        _exit(error)
    except BaseExceptionGroup as group:
        told, bugs = group.split(ScaleUpError)
        if told is None or bugs is not None:
            raise
        _exit(*_leaves(told))
    raise SystemExit(0)


def _leaves(group: BaseExceptionGroup[ScaleUpError]) -> Iterator[ScaleUpError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _exit(*errors: ScaleUpError) -> NoReturn:
    lines = [line for text in dict.fromkeys(map(str, errors)) for line in text.splitlines()]
    for line in lines:
        if logging.getLogger().handlers:
            log.error("%s", line)
        if not logs.is_on_stderr():
            logs.say(f"scaleup: {line}")
    raise SystemExit(max(error.exit_code for error in errors))
