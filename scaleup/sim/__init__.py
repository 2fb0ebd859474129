"""A cluster in virtual time: the real router, packets and authentication; only clock and network are made up.

Nothing here waits, and nothing is random but what a caller passes in: the same seed gives the same run, to
the last line of its log. An hour of election takes less than a second.

    from random import Random
    from scaleup.sim import Cluster, NodeSpec

    cluster = Cluster([NodeSpec("lb1", priority=150), NodeSpec("lb2", priority=100)], Random(1))
    cluster.start()
    cluster.run_for(5)
    cluster.kill("lb1")
    cluster.run_for(5)
    print(cluster.log)          # what happened, as a story
    print(cluster.actives())    # ["lb2"]

Reading order, all of it pure ●:

    clock        a heap of what is to happen, and the time of what is happening
    network      delivers, delays, loses, and is cut and healed
    log          what happened, told so that a person can follow it
    node         a router, its timer and its inbox: what the daemon does, for a made-up socket
    properties   what must hold whatever happens
    cluster      all of these, and the verbs that break and mend it
    scenario     verbs with their times: a run that can be printed, and run again
    stories      scenarios worth telling
    chaos        scenarios made up from a seed, and the proof that the properties held
"""

from scaleup.sim.chaos import invent, prove
from scaleup.sim.cluster import Cluster
from scaleup.sim.log import Event, Log
from scaleup.sim.network import Randomness
from scaleup.sim.node import NodeSpec
from scaleup.sim.properties import Violation
from scaleup.sim.scenario import Scenario, Step, play
from scaleup.sim.stories import STORIES

__all__ = [
    "STORIES",
    "Cluster",
    "Event",
    "Log",
    "NodeSpec",
    "Randomness",
    "Scenario",
    "Step",
    "Violation",
    "invent",
    "play",
    "prove",
]
