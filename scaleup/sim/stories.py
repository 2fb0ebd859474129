"""Scenarios worth telling, one for each thing that people ask about. Their transcripts are tested word by word."""

from __future__ import annotations

from scaleup.sim.node import NodeSpec
from scaleup.sim.scenario import Scenario, Step

PAIR = (NodeSpec("lb1", priority=150), NodeSpec("lb2", priority=100))
EQUALS = (NodeSpec("lb1"), NodeSpec("lb2"), NodeSpec("lb3"))
POLITE = (NodeSpec("lb1", priority=150, preempt=False), NodeSpec("lb2", priority=100, preempt=False))
PATIENT = (NodeSpec("lb1", priority=150, preempt_delay=10), NodeSpec("lb2", priority=100))
TRACKING = (
    NodeSpec("lb1", priority=150, tracks=(("chk_app", -60),), rise=2, fall=2),
    NodeSpec("lb2", priority=100),
)
IN_SYNC = (
    NodeSpec("lb1", priority=150, others=(150,), tracks=(("uplink", 0),)),
    NodeSpec("lb2", priority=100, others=(100,)),
)
BOTH_ACTIVE = (NodeSpec("lb1", priority=150, others=(100,)), NodeSpec("lb2", priority=100, others=(150,)))
LATE_START = (NodeSpec("lb1", priority=150, startup_delay=5), NodeSpec("lb2", priority=100))
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
        "preempt-delay",
        "the stronger node comes back and waits its preempt_delay, but not when the Active node dies meanwhile",
        PATIENT,
        (
            Step(0.0, "start", ("lb2",)),
            Step(6.0, "start", ("lb1",)),
            Step(26.0, "kill", ("lb1",)),
            Step(32.0, "start", ("lb1",)),
            Step(36.0, "kill", ("lb2",)),
        ),
        42.0,
    ),
    Scenario(
        "startup-delay",
        "a node that has just booted says nothing for its startup_delay, and then takes part like any other",
        LATE_START,
        (Step(0.0, "start"),),
        14.0,
    ),
    Scenario(
        "tracked-script",
        "a script fails on the Active node: twice, then its weight counts; and it recovers",
        TRACKING,
        (Step(0.0, "start"), Step(6.5, "fail", ("lb1", "chk_app")), Step(18.5, "repair", ("lb1", "chk_app"))),
        30.0,
    ),
    Scenario(
        "sync-group",
        "two routers that belong together: what makes one of them leave makes both leave, and both come back",
        IN_SYNC,
        (Step(0.0, "start"), Step(6.5, "fail", ("lb1", "uplink")), Step(12.5, "repair", ("lb1", "uplink"))),
        20.0,
        synced=True,
    ),
    Scenario(
        "active-active",
        "two addresses, each preferred on another node; one node dies and the other has both",
        BOTH_ACTIVE,
        (Step(0.0, "start"), Step(6.0, "kill", ("lb2",))),
        11.0,
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
        "an Active node sleeps: shortly, and keeps its role; through its term, and listens first (10 ms intervals)",
        FAST_PAIR,
        (
            Step(0.0, "start"),
            Step(0.06, "pause", ("lb1",)),
            Step(0.08, "resume", ("lb1",)),
            Step(0.12, "pause", ("lb1",)),
            Step(0.19, "resume", ("lb1",)),
        ),
        0.25,
    ),
)

STORIES = {story.name: story for story in _STORIES}
