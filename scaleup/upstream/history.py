"""Since when a server, or a whole backend, is up or down, and how often it went down ●.

What HAProxy calls lastchg, downtime, chkfail and chkdown. `now`: seconds on a clock that never jumps.
"""

from __future__ import annotations


class History:
    """`runs`: whether it serves, at `now`, where its history begins."""

    def __init__(self, now: float, runs: bool) -> None:
        self._runs, self._since, self._downtime = runs, now, 0.0
        self._ever_changed = False
        self.went_down = 0
        """Times that its checks found it down when it was up."""
        self.failed_checks = 0
        """While it was up."""

    def became(self, now: float, runs: bool) -> None:
        """May be repeated."""
        if runs != self._runs:
            if not self._runs:
                self._downtime += now - self._since
            self._runs, self._since, self._ever_changed = runs, now, True

    def up_again_for(self, now: float) -> float | None:
        """Seconds; None: it does not serve, or has from the beginning."""
        return now - self._since if self._runs and self._ever_changed else None

    def unchanged_for(self, now: float) -> float:
        """Seconds."""
        return now - self._since

    def downtime(self, now: float) -> float:
        """Seconds in all."""
        return self._downtime + (0.0 if self._runs else now - self._since)

    def clear(self, now: float) -> None:
        """Begin to count anew; since when it is as it is stays known."""
        self.went_down = self.failed_checks = 0
        self._downtime = 0.0 if self._runs else self._since - now
