"""Load balancer nodes as real processes: `python -m scaleup.lb`, watched from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from lb.servers import Client
from prometheus_client.parser import text_string_to_metric_families

from bench.ports import free_port

PATIENCE_SECONDS = 60.0
ANSWER_SECONDS = 20.0
LOOK_SECONDS = 0.005  # between two looks; nothing is inferred from it

VRRP, WORKER = "scaleup.vrrp.attached", "scaleup.lb.worker"


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s"
        time.sleep(LOOK_SECONDS)


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runs(process: psutil.Process, module: str) -> bool:
    try:
        return any(module in word for word in process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie
        return False


class Gate:
    """While it is closed, what a node starts comes no further than its interpreter, as if that took long."""

    def __init__(self, folder: Path) -> None:
        self._closed = folder / "closed"
        (folder / "sitecustomize.py").write_text(
            f"import os, time\nwhile os.path.exists({str(self._closed)!r}):\n    time.sleep(0.01)\n"
        )
        path = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
        self.environment = {"PYTHONPATH": os.pathsep.join(path)}

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        self._closed.touch()
        try:
            yield
        finally:
            self._closed.unlink()


class Node:
    """One node, of one worker unless more are said; `log` grows as it speaks. `python`: what runs it."""

    def __init__(
        self,
        name: str,
        host: str,
        *arguments: str,
        python: Sequence[str] = (sys.executable,),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.admin = f"{host}:{free_port(host)}"
        self.log: list[str] = []
        workers = () if {"--workers", "--config"} & {*arguments} else ("--workers", "1")
        self.process = subprocess.Popen(
            [
                *(*python, "-m", "scaleup.lb", "--node", name),
                *("--admin", self.admin, "--source", host, "--inter", "0.1"),
                *("--check-timeout", "20", *workers, *arguments),  # to stall is not to fail
            ],
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._seen: set[psutil.Process] = set()

    # ----- looking --------------------------------------------------------------------------------

    def says(self, text: str, after: int = 0) -> None:
        """Wait for a line with `text`, not among the first `after` ones."""
        eventually(lambda: any(text in line for line in self.log[after:]))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=ANSWER_SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ready(self) -> Node:
        """Wait until it is."""

        def look() -> bool:
            assert self.process.poll() is None, "\n".join(self.log)
            with contextlib.suppress(OSError):
                return self.get("/readyz")[0] == 200
            return False

        eventually(look)
        self.children(WORKER)
        return self

    def metric(self, name: str, **labels: str) -> float:
        """Of `scaleup_NAME`; LookupError when there is none."""
        _, text = self.get("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"scaleup_{name}" and labels.items() <= sample.labels.items():
                    return sample.value
        raise LookupError(name)

    @property
    def role(self) -> str:
        for role in ("active", "backup", "fault"):
            with contextlib.suppress(LookupError):
                if self.metric("vrrp_state", state=role):
                    return role
        return ""

    def becomes(self, role: str) -> Node:
        eventually(lambda: self.role == role)
        return self

    def children(self, module: str = "") -> list[psutil.Process]:
        """Those that run `module`; all of them are seen, and must be gone in the end."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update(found)
        return [child for child in found if runs(child, module)]

    def child(self, module: str) -> psutil.Process:
        (child,) = self.children(module)
        return child

    def replacement(self, module: str) -> psutil.Process:
        """Wait for one that was not seen yet."""
        known = set(self._seen)
        eventually(lambda: set(self.children(module)) - known)
        return next(child for child in self.children(module) if child not in known)

    # ----- ending ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """As a crash: SIGKILL to the node alone."""
        self.children()
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.children()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Whatever a test did: nothing outlives the node."""
        if self.process.poll() is None:
            self.stop()
        try:
            eventually(lambda: all(is_gone(child) for child in self._seen))
        finally:
            for child in self._seen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            self.process.kill()
            self.process.wait()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))


def first_answer(address: tuple[str, int]) -> tuple[str, float]:
    """Try until a server behind `address` greets; its name, and how long that took."""
    began = time.monotonic()
    while True:
        try:
            with Client(address, timeout=1.0) as client:
                return client.greeting(), time.monotonic() - began
        except (OSError, AssertionError):
            assert time.monotonic() < began + PATIENCE_SECONDS, "nobody answers"
            time.sleep(LOOK_SECONDS)
