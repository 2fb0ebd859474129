"""The cluster, and the verbs that break and mend it. Each verb acts at the present moment of virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Literal

from scaleup.sim.clock import VirtualClock
from scaleup.sim.log import Log
from scaleup.sim.network import LAN_LATENCY_SECONDS, Network, Randomness
from scaleup.sim.node import Life, Node, NodeSpec, Seat, VirtualRouters
from scaleup.sim.properties import NeverNone, Violation, check_settled, settling_bound
from scaleup.vrrp.packet import GROUP_IPV4, GROUP_IPV6

VRID = 51  # of the first virtual router; the others follow
KEY = bytes(range(32))
WINDOW_INTERVALS = 3  # of clocks that differ; the daemon's floor of 5 s would be 500 intervals of 10 ms


class Cluster:
    """`specs`: one per node, with different names and equally many priorities, one for each virtual router.

    `randomness`: decides losses and latencies. `family`: 4 or 6. `authenticated`: packets carry the HMAC trailer,
    and wall clocks matter. `synced`: the virtual routers are a sync group.
    """

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        randomness: Randomness,
        *,
        family: Literal[4, 6] = 4,
        authenticated: bool = False,
        synced: bool = False,
    ) -> None:
        self.clock = VirtualClock()
        self.network = Network(self.clock, randomness)
        self.log = Log()
        self.last_change = 0.0
        """When a node last changed its state, started, died, was paused or resumed."""
        self._interval = max(spec.interval for spec in specs)
        self._window = WINDOW_INTERVALS * self._interval if authenticated else 0.0
        self._to_know = max(spec.startup_delay + spec.seconds_to_judge for spec in specs)
        self._hold = max(spec.preempt_delay if spec.preempt else 0.0 for spec in specs)
        self.vrids = tuple(VRID + number for number in range(len(specs[0].priorities)))
        self._never_none = {vrid: NeverNone(self._interval) for vrid in self.vrids}
        net = "10.0.0." if family == 4 else "fe80::"
        virtual = VirtualRouters(
            addresses={vrid: (ip_address(f"{net}{100 + vrid - VRID}"),) for vrid in self.vrids},
            group=GROUP_IPV4 if family == 4 else GROUP_IPV6,
            synced=synced,
            key=KEY if authenticated else None,
            window=self._window,
        )
        self.nodes = {
            spec.name: Node(
                spec,
                ip_address(f"{net}{11 + number}"),
                virtual,
                self.clock,
                self.network,
                self.log,
                self._changed,
            )
            for number, spec in enumerate(specs)
        }

    def run_until(self, when: float) -> None:
        """Let virtual time pass until `when`, in seconds since the start. Raises Violation."""
        self.clock.run_until(when)
        self._observe()

    def run_for(self, seconds: float) -> None:
        self.run_until(self.clock.now + seconds)

    def actives(self, vrid: int = VRID) -> list[str]:
        """The nodes that are Active and run."""
        return [name for name, node in self.nodes.items() if node.seats[vrid].active]

    def roles(self, vrid: int = VRID) -> dict[str, str]:
        """Node → "active", "backup", "initialize", "down" or "paused"."""
        return {
            name: node.seats[vrid].router.state.value if node.life is Life.RUNNING else node.life.value
            for name, node in self.nodes.items()
        }

    def taking_part(self, vrid: int = VRID) -> list[Seat]:
        return [node.seats[vrid] for node in self.nodes.values() if node.seats[vrid].takes_part]

    def check_settled(self) -> None:
        """In each election; and who should take part does, and nobody else. Raises Violation."""
        for vrid in self.vrids:
            for name, node in self.nodes.items():
                if node.seats[vrid].takes_part is not node.fit:
                    raise Violation(f"in the end {name} {'stays out' if node.fit else 'takes part'}")
            check_settled(self.taking_part(vrid))

    @property
    def settling_bound(self) -> float:
        """Seconds after the last fault within which one node is Active for good; see `properties`."""
        return settling_bound(
            self._interval,
            LAN_LATENCY_SECONDS[1],
            self.network.slowest,
            self._window,
            to_know=self._to_know,
            hold=self._hold,
        )

    @property
    def longest_without_active(self) -> float:
        return max(watch.longest for watch in self._never_none.values())

    # Verbs for nodes.

    def start(self, *names: str) -> None:
        """These nodes, or all that are down."""
        for name in names or [name for name, node in self.nodes.items() if node.life is Life.DOWN]:
            self.nodes[name].start()

    def stop(self, name: str) -> None:
        self.nodes[name].stop()

    def kill(self, name: str) -> None:
        self.nodes[name].kill()

    def pause(self, name: str) -> None:
        self.nodes[name].pause()

    def resume(self, *names: str) -> None:
        """These nodes, or all that are paused."""
        for name in names or [name for name, node in self.nodes.items() if node.life is Life.PAUSED]:
            self.nodes[name].resume()

    def change_priority(self, name: str, priority: int) -> None:
        self.nodes[name].change_priority(priority)

    def fail(self, name: str, check: str) -> None:
        """What the node tracks under that name no longer works."""
        self.nodes[name].set_works(check, False)

    def repair(self, name: str, check: str) -> None:
        self.nodes[name].set_works(check, True)

    def fault(self, name: str, reason: str) -> None:
        """The node is told that it cannot serve, as a load balancer tells it."""
        self.nodes[name].find_fault(reason)

    def recover(self, name: str) -> None:
        self.nodes[name].lose_fault()

    def set_clock(self, name: str, error: float) -> None:
        """Step the node's wall clock, so that it is `error` seconds ahead of the right time (0: right)."""
        self.log.told(
            self.clock.now, name, f"has a clock that is {error:+.3f} s off" if error else "has its clock set"
        )
        self.nodes[name].clock_error = error

    # Verbs for the network.

    def cut(self, one: str, other: str) -> None:
        self._tell(f"{one} and {other} are cut off from each other")
        self.network.cut([one], [other])
        self.network.cut([other], [one])

    def cut_one_way(self, sender: str, receiver: str) -> None:
        self._tell(f"{receiver} no longer hears {sender}")
        self.network.cut([sender], [receiver])

    def isolate(self, name: str) -> None:
        self._tell(f"{name} is isolated")
        self.network.isolate(name)

    def lose(self, probability: float) -> None:
        self._tell(f"loses {probability:.0%} of the packets")
        self.network.loss = probability

    def delay(self, seconds: float) -> None:
        """Every packet takes a random time up to `seconds`."""
        self._tell(f"delays packets by up to {seconds:g} s")
        self.network.set_latency(min(LAN_LATENCY_SECONDS[0], seconds), seconds)

    def heal(self) -> None:
        self._tell("is healed")
        self.network.heal()

    def _tell(self, text: str) -> None:
        self.log.told(self.clock.now, "network", text)

    def _changed(self) -> None:
        self.last_change = self.clock.now
        self._observe()

    def _observe(self) -> None:
        for vrid, watch in self._never_none.items():
            watch.observe(self.clock.now, self.taking_part(vrid), self.network.slowest)
