"""A real stack, started by its command line and stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scaleup.stack.control import ask

START_SECONDS = 120.0


@dataclass
class RunningStack:
    """`python -m scaleup up` as a child of the test; `printed` grows as it prints."""

    process: subprocess.Popen[str]
    run_dir: Path
    prefix: str  # of the addresses: "127.0.77"
    printed: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self.prefix}.100:8080"

    def status(self) -> dict[str, Any]:
        return ask(self.run_dir / "control.sock", "status")

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.status()["processes"] if row["name"] == name)

    def command(self, command: str, name: str) -> None:
        ask(self.run_dir / "control.sock", command, name)

    def child(self, name: str, module: str) -> psutil.Process:
        """The child of the process `name` that runs `module`."""
        for process in psutil.Process(self.row(name)["pid"]).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                if module in process.cmdline():
                    return process
        raise LookupError(f"{name} has no child {module}")

    def wait(self, condition: Callable[[dict[str, Any]], bool], seconds: float, what: str) -> dict[str, Any]:
        """Ask for the status until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, (
                f"not within {seconds} s: {what}\n{json.dumps(status, indent=1)}"
            )
            threading.Event().wait(0.01)  # between two looks; nothing is inferred from it
        return status

    def settled(self, seconds: float = 40.0) -> dict[str, Any]:
        """Wait until every process runs and lb1, whose priority is the highest, owns the address."""

        def is_settled(status: dict[str, Any]) -> bool:
            states = {row["name"]: row["state"] for row in status["processes"]}
            return (
                all(state in ("up", "active", "backup") for state in states.values())
                and states["lb1"] == "active"
                and list(states.values()).count("active") == 1
            )

        return self.wait(is_settled, seconds, "all up, lb1 active")


def start_stack(prefix: str, *arguments: str, environment: dict[str, str] | None = None) -> RunningStack:
    run_dir = Path(tempfile.mkdtemp(prefix="scaleup-e2e-"))
    run_dir.rmdir()  # `up` makes it, and is to remove it
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "scaleup", "up"),
            *("--run-dir", str(run_dir), "--network", f"{prefix}.0/24", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    stack = RunningStack(process, run_dir, prefix)
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            stack.printed.append(line.rstrip("\n"))
            if "stop: Ctrl-C" in line:
                ready.set()
        ready.set()

    stack.reader = threading.Thread(target=read, daemon=True)
    stack.reader.start()
    ok = ready.wait(START_SECONDS) and process.poll() is None
    if not ok:
        process.kill()
        process.wait()
        raise AssertionError("the stack did not start:\n" + "\n".join(stack.printed))
    return stack


def stop_stack(stack: RunningStack) -> float:
    """Ctrl-C. Returns the seconds until it had ended."""
    began = time.monotonic()
    if stack.process.poll() is None:
        stack.process.send_signal(signal.SIGINT)
    try:
        stack.process.wait(30)
    finally:
        stack.process.kill()
        assert stack.reader is not None
        assert stack.process.stdout is not None
        stack.reader.join(20)
        stack.process.stdout.close()
    return time.monotonic() - began
