"""Scenarios made up from a seed, and the proof that the properties hold in them.

`invent` breaks a cluster in several ways at once, then mends all of it. (Nodes that are down may stay down:
an election has no right to them.) `prove` plays it, lets it settle, and watches it for some time longer.

    scenario = invent(Random(4711))
    prove(scenario, Random(4711))    # raises Violation, with the scenario and the story in its notes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scaleup.sim.cluster import WINDOW_INTERVALS, Cluster
from scaleup.sim.network import LAN_LATENCY_SECONDS, Randomness
from scaleup.sim.node import Life, NodeSpec
from scaleup.sim.properties import Violation, settling_bound
from scaleup.sim.scenario import Scenario, Step, Verb, perform
from scaleup.vrrp.router import OWNER

CALM_INTERVALS = 5  # watched after settling, when nothing may change any more: longer than any timer runs

PRIORITIES = [1, 50, 100, 100, 100, 150, 200, 254, 255]  # equal ones are the harder case
WEIGHTS = [0, 0, -60, -253, 50, 200]
DELAY_INTERVALS = [1, 2, 5]
INTERVALS_CS = [1, 2, 5, 10, 20]  # some nodes get up to five times that


def invent(randomness: Randomness) -> Scenario:
    """Two to five nodes with intervals from 10 ms to 1 s, and a handful of things that happen to them."""
    return _Inventor(randomness).scenario()


def prove(scenario: Scenario, randomness: Randomness) -> Cluster:
    """Play a scenario whose last step leaves a whole network, right clocks and a running node.

    Returns the cluster as it is in the end. Raises Violation.
    """
    cluster = scenario.cluster(randomness)
    try:
        for step in scenario.steps:
            perform(step, cluster)
        settled_by = cluster.clock.now + cluster.settling_bound
        cluster.run_until(settled_by)
        cluster.check_settled()
        cluster.run_until(max(settled_by, scenario.seconds))
        if cluster.last_change > settled_by:
            roles = {vrid: cluster.roles(vrid) for vrid in cluster.vrids}
            raise Violation(f"a change at {cluster.last_change:.4f} s, when all was settled: {roles}")
    except Violation as violation:
        violation.add_note(f"{scenario}\n\n{cluster.log}")
        raise
    return cluster


class _Inventor:
    """Knows who is down or paused, so that what it makes up can be done. It keeps no sets: their order would be
    a chance that no seed brings back.
    """

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness
        names = [f"lb{number}" for number in range(1, randomness.randint(2, 5) + 1)]
        base_cs = randomness.choice(INTERVALS_CS)
        polite = 0.5 if randomness.random() < 0.4 else 0.0
        further = randomness.choice([0] * 14 + [1, 1, 1, 2])
        self._synced = further > 0 and randomness.random() < 0.6
        self._priorities = [priority for priority in PRIORITIES if not self._synced or priority != OWNER]
        with_policy = randomness.random() < 0.3
        self._nodes = tuple(
            self._node(name, base_cs, polite, further, self._policy() if with_policy else {})
            for name in names
        )
        self._authenticated = randomness.random() < 0.4
        self._interval = max(node.interval for node in self._nodes)
        self._window = WINDOW_INTERVALS * self._interval if self._authenticated else 0.0
        self._slowest = LAN_LATENCY_SECONDS[1]
        self._life = dict.fromkeys(names, Life.DOWN)
        self._broken: list[tuple[str, str]] = []  # node, check
        self._at_fault: list[str] = []
        self._now = 0.0
        self._steps: list[Step] = []

    def _node(self, name: str, base_cs: int, polite: float, further: int, policy: dict[str, Any]) -> NodeSpec:
        choose = self._randomness.choice
        priority = choose(self._priorities)
        return NodeSpec(
            name,
            priority=priority,
            others=tuple(priority if self._synced else choose(self._priorities) for _ in range(further)),
            interval=(interval := base_cs * choose([1, 1, 1, 2, 5]) / 100),
            preempt=self._randomness.random() >= polite,
            preempt_delay=policy.get("preempt_delay", 0) * interval,
            startup_delay=policy.get("startup_delay", 0) * interval,
            tracks=policy.get("tracks", ()),
            rise=policy.get("rise", 1),
            fall=policy.get("fall", 1),
        )

    def _policy(self) -> dict[str, Any]:
        """Of one node. Delays are in its intervals."""
        choose = self._randomness.choice
        checks = ["chk", "web"][: choose([0, 1, 1, 2])]
        return {
            "preempt_delay": choose([0, *DELAY_INTERVALS]),
            "startup_delay": choose([0, 0, 0, *DELAY_INTERVALS]),
            "tracks": tuple((check, choose(WEIGHTS)) for check in checks),
            "rise": choose([1, 1, 2]),
            "fall": choose([1, 1, 2]),
        }

    def scenario(self) -> Scenario:
        for name in self._life:
            self._start(name)
            self._pass_time(1)
        self._pass_time(6)
        for _ in range(self._randomness.randint(3, 10)):
            self._randomness.choice(self._faults())()
            self._pass_time(5)
        self._mend()
        bound = settling_bound(
            self._interval,
            LAN_LATENCY_SECONDS[1],
            self._slowest,
            self._window,
            to_know=max(node.startup_delay + node.seconds_to_judge for node in self._nodes),
            hold=max(node.preempt_delay for node in self._nodes),
        )
        return Scenario(
            "chaos",
            "made up from a seed",
            self._nodes,
            tuple(self._steps),
            seconds=self._now + bound + CALM_INTERVALS * self._interval,
            family=self._randomness.choice([4, 6]),
            authenticated=self._authenticated,
            synced=self._synced,
        )

    def _faults(self) -> list[Callable[[], None]]:
        """What can be done now; what is there more than once is more likely."""
        faults = [self._cut, self._cut_one_way, self._isolate, self._lose, self._delay, self._heal]
        if self._names(Life.DOWN):
            faults += [lambda: self._start(self._one_of(Life.DOWN))] * 3
        if self._names(Life.PAUSED):
            faults += [lambda: self._resume(self._one_of(Life.PAUSED))] * 3
        if self._names(Life.RUNNING):
            faults += [self._stop, self._kill, self._kill, self._pause, self._pause, self._change_priority]
            faults += [self._fault] if self._names_without_fault() else []
            faults += [self._fail] * 3 if self._working() else []
        if self._faulty():
            faults += [self._recover] * 2
        if self._broken:
            faults += [self._repair] * 3
        if self._authenticated:
            faults += [self._set_clock, self._set_clocks]
        return faults

    def _mend(self) -> None:
        for name in self._names(Life.PAUSED):
            self._resume(name)
        for name in self._names(Life.DOWN):
            if self._randomness.random() < 0.5:
                self._start(name)
        if not self._names(Life.RUNNING):
            self._start(self._one_of(Life.DOWN))
        if self._randomness.random() < 0.7:  # else some stay broken: an election has no right to them, either
            while self._broken:
                self._repair()
            while self._faulty():
                self._recover()
        if self._authenticated:
            for name in self._life:
                self._add("set_clock", name, 0.0)
        self._heal()

    def _start(self, name: str) -> None:
        self._add("start", name)
        self._life[name] = Life.RUNNING

    def _resume(self, name: str) -> None:
        self._add("resume", name)
        self._life[name] = Life.RUNNING

    def _stop(self) -> None:
        self._end("stop", Life.DOWN)

    def _kill(self) -> None:
        self._end("kill", Life.DOWN)

    def _pause(self) -> None:
        self._end("pause", Life.PAUSED)

    def _end(self, verb: Verb, life: Life) -> None:
        name = self._one_of(Life.RUNNING)
        self._add(verb, name)
        self._life[name] = life
        if life is Life.DOWN and name in self._at_fault:
            self._at_fault.remove(name)  # forgotten

    def _fail(self) -> None:
        broken = self._randomness.choice(self._working())
        self._broken.append(broken)
        self._add("fail", *broken)

    def _repair(self) -> None:
        mended = self._randomness.choice(self._broken)
        self._broken.remove(mended)
        self._add("repair", *mended)

    def _fault(self) -> None:
        name = self._randomness.choice(self._names_without_fault())
        self._at_fault.append(name)
        self._add("fault", name, "no worker accepts")

    def _recover(self) -> None:
        name = self._randomness.choice(self._faulty())
        self._at_fault.remove(name)
        self._add("recover", name)

    def _working(self) -> list[tuple[str, str]]:
        checks = [(node.name, check) for node in self._nodes for check, _ in node.tracks]
        return [it for it in checks if it not in self._broken]

    def _faulty(self) -> list[str]:
        return [name for name in self._names(Life.RUNNING) if name in self._at_fault]

    def _names_without_fault(self) -> list[str]:
        return [name for name in self._names(Life.RUNNING) if name not in self._at_fault]

    def _change_priority(self) -> None:
        self._add("change_priority", self._one_of(Life.RUNNING), self._randomness.choice(self._priorities))

    def _set_clock(self) -> None:
        self._add("set_clock", self._any(), self._clock_error())

    def _set_clocks(self) -> None:
        """All to the same wrong time: they understand each other, and remember it when it is over."""
        error = self._clock_error()
        for name in self._life:
            self._add("set_clock", name, error)

    def _clock_error(self) -> float:
        far = self._randomness.choice([1, 1000])
        return round(self._randomness.uniform(-2, 2) * self._window * far, 3)

    def _cut(self) -> None:
        self._add("cut", *self._two())

    def _cut_one_way(self) -> None:
        self._add("cut_one_way", *self._two())

    def _isolate(self) -> None:
        self._add("isolate", self._any())

    def _lose(self) -> None:
        self._add("lose", round(self._randomness.uniform(0.1, 0.9), 2))

    def _delay(self) -> None:
        seconds = round(self._randomness.uniform(0, 2) * self._interval, 4)
        self._slowest = max(self._slowest, seconds)
        self._add("delay", seconds)

    def _heal(self) -> None:
        self._add("heal")

    def _add(self, verb: Verb, *arguments: Any) -> None:
        self._steps.append(Step(self._now, verb, arguments))

    def _pass_time(self, intervals: float) -> None:
        """Up to so many."""
        self._now += round(self._randomness.uniform(0, intervals) * self._interval, 4)

    def _names(self, life: Life) -> list[str]:
        return [name for name, it in self._life.items() if it is life]

    def _one_of(self, life: Life) -> str:
        return self._randomness.choice(self._names(life))

    def _any(self) -> str:
        return self._randomness.choice(list(self._life))

    def _two(self) -> list[str]:
        one = self._any()
        return [one, self._randomness.choice([name for name in self._life if name != one])]
