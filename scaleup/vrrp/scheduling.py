"""Being on time: what the kernel and Python can be asked for, so that an advertisement is never late."""

from __future__ import annotations

import ctypes
import gc
import logging
import os

log = logging.getLogger(__name__)

REALTIME_PRIORITY = 50  # of 1–99; above what hosts use it for by default, below the kernel's own 99
MCL_CURRENT, MCL_FUTURE = 1, 2  # <sys/mman.h>


def be_on_time(realtime: bool) -> None:
    """Called once, when everything is set up. What is not allowed is said once and done without.

    `realtime`: ask for SCHED_RR, which runs before whatever is not, and for all memory to stay in RAM. Children
    are started without it.
    """
    gc.collect()
    gc.freeze()  # what was made until here lives as long as the process: no collection looks at it again
    if not realtime:
        return
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        # All threads: one that waits for its turn may hold the interpreter's lock.
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), policy, os.sched_param(REALTIME_PRIORITY))
    except OSError as error:
        log.info("no real-time scheduling: %s (CAP_SYS_NICE allows it)", error.strerror)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
        log.info(
            "memory may be swapped out: %s (CAP_IPC_LOCK allows to lock it)", os.strerror(ctypes.get_errno())
        )
