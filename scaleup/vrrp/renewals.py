"""A thread in which the addresses of all routers are renewed.

The kernel adds an address inside the system call, behind its RTNL lock, for which there is no time-out. Whoever
removes hundreds of interfaces, as a host with containers may, holds that lock for as long as it takes: 4.2 s
were measured for 600 of them. An election that waits for it twice a second is late, and loses the role.

Only the lock is waited for here. When to renew is the election's: while that is stopped, nothing is renewed.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

STACK_BYTES = 512 * 1024
"""Instead of 8 MiB, which an election keeps in RAM."""


class Renewals(ThreadPoolExecutor):
    """Its thread runs from the start: later there may be no memory for it, and no real-time scheduling."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="renewals")
        before = threading.stack_size(STACK_BYTES)
        try:
            self.submit(int).result()
        finally:
            threading.stack_size(before)


Renewal = Future[None]
