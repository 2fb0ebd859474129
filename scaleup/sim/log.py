"""The log of a simulation: a story, not a capture.

What happens once is told at once. What happens over and over (the advertisements of a healthy Active, packets
refused for one cause) is counted, and told in one line when the next thing worth telling happens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Event:
    """`time`: seconds since the start, of the first time. `subject`: a node, or "network"."""

    time: float
    subject: str
    text: str
    times: int = 1

    def __str__(self) -> str:
        times = f" ({self.times} times)" if self.times > 1 else ""
        return f"{self.time:9.4f}  {self.subject:<8} {self.text}{times}"


class Log:
    """`str(log)` is the transcript."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._repeated: dict[tuple[str, str], Event] = {}

    def told(self, time: float, subject: str, text: str) -> None:
        self._events += self._repeated.values()
        self._repeated.clear()
        self._events.append(Event(time, subject, text))

    def repeated(self, time: float, subject: str, text: str) -> None:
        event = self._repeated.get((subject, text), Event(time, subject, text, times=0))
        self._repeated[subject, text] = replace(event, times=event.times + 1)

    @property
    def events(self) -> list[Event]:
        return [*self._events, *self._repeated.values()]

    def __str__(self) -> str:
        return "\n".join(map(str, self.events))
