"""A timer that fires when it should: a timerfd in the event loop.

asyncio's epoll selector waits for whole milliseconds, rounded up: a tick of 10 ms was 1.1 ms late in the
median, which at that interval is a tenth of what a Backup allows for three lost packets.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import time
from collections.abc import Callable

TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME = os.O_NONBLOCK, os.O_CLOEXEC, 1  # <sys/timerfd.h>


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)  # os.timerfd_create came with Python 3.13


class Timer:
    """Calls `expired` once after each deadline it was armed for. Made inside the running loop."""

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._descriptor = _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC))
        self._loop.add_reader(self._descriptor, self._fired)

    def arm(self, deadline: float | None) -> None:
        """`deadline`: seconds of `loop.time()`, which is CLOCK_MONOTONIC. None: leave it unarmed."""
        nanoseconds = 0 if deadline is None else max(1, math.ceil(deadline * 1e9))  # 0 would disarm it
        value = _Timespec(*divmod(nanoseconds, 1_000_000_000))
        specification = _Itimerspec(_Timespec(0, 0), value)
        _checked(
            _libc.timerfd_settime(self._descriptor, TFD_TIMER_ABSTIME, ctypes.byref(specification), None)
        )

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _fired(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:  # it was armed anew in the meantime
            return
        self._expired()


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
