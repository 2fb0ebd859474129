"""What clients saw of a database under faults, and whether it can be true: Jepsen's set test, for links. ●

Writers add links with URLs that nobody else adds; each write ends `stored` (201), `failed` (the application said
that nothing was done) or `unknown` (anything else: a lost connection, a lost COMMIT). Readers ask for links whose
201 they know of, and where the database has replicas hand on the position that came with it; or they do not, and
then may find it later, but having found it not lose it again. Some links are known to their writer alone, who
deletes them. When all is over, the links are counted. What must hold, whatever was done to the database:

    a stored one is there, once              else: lost, doubled
    a failed one is not there                else: phantom
    an unknown one is there once or not      else: doubled
    a deleted one is not there any more      else: resurrected
    who asks for a stored one finds it       else: stale
    who has found one goes on finding it     else: stale
    nothing is there that nobody wrote       else: invented
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class History:
    """`wrote`: the URL of each write, and how it ended. Times are in seconds, of one clock."""

    wrote: dict[str, str] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    found: set[tuple[str, str]] = field(default_factory=set)
    reads: int = 0
    reads_answered: int = 0
    stored_at: list[float] = field(default_factory=list)

    def ended(self, url: str, outcome: str, now: float) -> None:
        assert url not in self.wrote
        self.wrote[url] = outcome
        if outcome == "stored":
            self.stored_at.append(now)

    def deleted(self, url: str, outcome: str) -> None:
        """Its writer has asked for that, and it ended `deleted`, `failed` or `unknown`."""
        assert self.wrote[url] == "stored"
        if outcome != "failed":
            self.wrote[url] = outcome

    def read(self, url: str, found: bool | None, reader: str = "", *, told: bool = True) -> None:
        """`found`: None when there was no answer. `told`: the application was told that it is stored."""
        self.reads += 1
        self.reads_answered += found is not None
        if (outcome := self.wrote.get(url)) in ("deleted", "unknown"):
            if found and outcome == "deleted":
                self.resurrected.append(url)
        elif found:
            self.found.add((reader, url))
        elif found is False and (told or (reader, url) in self.found):
            self.stale.append(url)

    def violations(self, there: Iterable[str]) -> list[str]:
        """`there`: the URLs that are in the database at the end, each as often as it is there."""
        counted = Counter(there)
        wrong = [f"stale: {url}" for url in self.stale]
        wrong += [f"resurrected: {url}" for url in self.resurrected]
        wrong += [f"invented: {url}" for url in counted if url not in self.wrote]
        for url, outcome in self.wrote.items():
            times = counted[url]
            if times > 1:
                wrong.append(f"doubled: {url} ({outcome}) is there {times} times")
            elif outcome == "stored" and times == 0:
                wrong.append(f"lost: {url}")
            elif outcome == "failed" and times:
                wrong.append(f"phantom: {url}")
            elif outcome == "deleted" and times:
                wrong.append(f"resurrected: {url}")
        return wrong

    def figures(self) -> dict[str, float]:
        """Of the writes and reads; `longest_gap_s`: between two stored writes, by whomever.

        Availability is a share of the attempts, and who is refused at once attempts more often than who is served.
        """
        outcomes = Counter(self.wrote.values())
        at = sorted(self.stored_at)
        gaps = [later - earlier for earlier, later in pairwise(at)]
        return {
            **{name: outcomes[name] for name in ("stored", "deleted", "failed", "unknown")},
            "reads": self.reads,
            "write_availability": round(len(at) / max(1, len(self.wrote)), 4),
            "read_availability": round(self.reads_answered / max(1, self.reads), 4),
            "longest_gap_s": round(max(gaps, default=0.0), 2),
        }
