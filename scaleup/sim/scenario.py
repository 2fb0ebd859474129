"""Scenarios: the verbs of a Cluster with their times, as data that can be printed, kept, and run again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from scaleup.sim.cluster import Cluster
from scaleup.sim.network import Randomness
from scaleup.sim.node import NodeSpec

Verb = Literal[
    "start", "stop", "kill", "pause", "resume", "change_priority", "set_clock",
    "fail", "repair", "fault", "recover",
    "cut", "cut_one_way", "isolate", "lose", "delay", "heal",
]  # fmt: skip
"""The methods of Cluster that a step can call."""


@dataclass(frozen=True, slots=True)
class Step:
    """At `at` seconds, the verb with its arguments: `Step(2.0, "kill", ("lb1",))`."""

    at: float
    verb: Verb
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:9.4f}  {self.verb} {' '.join(map(str, self.arguments))}".rstrip()


@dataclass(frozen=True, slots=True)
class Scenario:
    """`steps`: in the order of their times. `seconds`: how long it lasts."""

    name: str
    title: str
    nodes: tuple[NodeSpec, ...]
    steps: tuple[Step, ...]
    seconds: float
    family: Literal[4, 6] = 4
    authenticated: bool = False
    synced: bool = False

    def cluster(self, randomness: Randomness) -> Cluster:
        """Its cluster, before anything has happened."""
        return Cluster(
            self.nodes, randomness, family=self.family, authenticated=self.authenticated, synced=self.synced
        )

    def __str__(self) -> str:
        authenticated = ", authenticated" if self.authenticated else ""
        synced = ", a sync group" if self.synced else ""
        return "\n".join(
            [
                f"{self.name}: {self.title}",
                f"IPv{self.family}{authenticated}{synced}",
                *map(str, self.nodes),
                *map(str, self.steps),
            ]
        )


def perform(step: Step, cluster: Cluster) -> None:
    """Run the cluster until the time of the step, and take it."""
    cluster.run_until(step.at)
    getattr(cluster, step.verb)(*step.arguments)


def play(scenario: Scenario, randomness: Randomness) -> Cluster:
    """The cluster as it is in the end; its log has the story. Raises Violation."""
    cluster = scenario.cluster(randomness)
    for step in scenario.steps:
        perform(step, cluster)
    cluster.run_until(scenario.seconds)
    return cluster
