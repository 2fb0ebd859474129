"""Scenarios worth telling, one for each thing that people ask about. Their transcripts are tested word by word."""

from __future__ import annotations

from scaleup.sim.node import NodeSpec
from scaleup.sim.scenario import Scenario, Step

PAIR = (NodeSpec("lb1", priority=150), NodeSpec("lb2", priority=100))
EQUALS = (NodeSpec("lb1"), NodeSpec("lb2"), NodeSpec("lb3"))
POLITE = (NodeSpec("lb1", priority=150, preempt=False), NodeSpec("lb2", priority=100, preempt=False))
FAST_PAIR = (NodeSpec("lb1", priority=150, interval=0.01), NodeSpec("lb2", priority=100, interval=0.01))

_STORIES = (
    Scenario(
        "election",
        "three equals start together; the greatest address wins",
        EQUALS,
        (Step(0.0, "start"),),
        6.0,
    ),
    Scenario(
        "failover",
        "the Active node dies without a word; the Backup waits three intervals and its skew",
        PAIR,
        (Step(0.0, "start"), Step(6.0, "kill", ("lb1",))),
        12.0,
    ),
    Scenario(
        "graceful-stop",
        "the Active node takes its leave; the Backup waits for its skew only",
        PAIR,
        (Step(0.0, "start"), Step(6.0, "stop", ("lb1",))),
        9.0,
    ),
    Scenario(
        "preemption",
        "the stronger node comes back and takes over, because Preempt_Mode is on",
        PAIR,
        (Step(0.0, "start", ("lb2",)), Step(6.0, "start", ("lb1",))),
        12.0,
    ),
    Scenario(
        "no-preemption",
        "the stronger node comes back and stays Backup, because Preempt_Mode is off",
        POLITE,
        (Step(0.0, "start", ("lb2",)), Step(6.0, "start", ("lb1",))),
        12.0,
    ),
    Scenario(
        "partition",
        "the nodes cannot hear each other: both are Active, until the network is healed",
        PAIR,
        (Step(0.0, "start"), Step(6.0, "cut", ("lb1", "lb2")), Step(12.0, "heal")),
        15.0,
    ),
    Scenario(
        "pause",
        "an Active node sleeps through its term, and asserts itself when it wakes up (10 ms intervals)",
        FAST_PAIR,
        (Step(0.0, "start"), Step(0.06, "pause", ("lb1",)), Step(0.13, "resume", ("lb1",))),
        0.16,
    ),
)

STORIES = {story.name: story for story in _STORIES}
