"""A thousand made-up clusters are broken and mended, and the properties hold in each of them.

A failure prints the seed, the scenario and what happened. To run one seed again, or to run many more:

    SCALEUP_SIM_FIRST=4711 SCALEUP_SIM_SEEDS=1 pytest tests/sim/test_sim_chaos.py -k hold
    SCALEUP_SIM_SEEDS=100000 pytest tests/sim/test_sim_chaos.py -k hold --timeout 0
"""

from __future__ import annotations

import os
from random import Random

import pytest

from scaleup.sim import Cluster, NodeSpec, Scenario, Step, Violation, invent, prove
from scaleup.sim.cluster import VRID
from scaleup.sim.node import Seat
from scaleup.sim.properties import NeverNone, check_settled, longest_down_interval
from scaleup.vrrp.auth import Authenticator
from scaleup.vrrp.decisions import Decision, SetPreempt, StepDown, TakeOver
from scaleup.vrrp.policy import Policy
from scaleup.vrrp.router import Address, Heard, Output, Router, SendAdvertisement, State

FIRST = int(os.environ.get("SCALEUP_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("SCALEUP_SIM_SEEDS", "1000"))
BLOCK = 100  # seeds in one test: about half a second


def run(seed: int) -> Cluster:
    randomness = Random(seed)
    return prove(invent(randomness), randomness)


def run_all(seeds: int) -> None:
    for seed in range(seeds):
        run(seed)


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BLOCK))
def test_the_properties_hold(first: int) -> None:
    for seed in range(first, min(first + BLOCK, FIRST + SEEDS)):
        try:
            run(seed)
        except Exception as error:
            error.add_note(f"seed {seed}: SCALEUP_SIM_FIRST={seed} SCALEUP_SIM_SEEDS=1 runs it again")
            raise


def test_a_seed_is_enough_to_run_it_again() -> None:
    def story(seed: int) -> str:
        return str(run(seed).log)

    assert story(7) == story(7) != story(8)


def test_the_seeds_have_variety() -> None:
    scenarios = [invent(Random(seed)) for seed in range(200)]
    assert {len(scenario.nodes) for scenario in scenarios} == {2, 3, 4, 5}
    assert {scenario.family for scenario in scenarios} == {4, 6}
    assert {scenario.authenticated for scenario in scenarios} == {False, True}
    assert {node.preempt for scenario in scenarios for node in scenario.nodes} == {False, True}
    intervals = {node.interval for scenario in scenarios for node in scenario.nodes}
    assert min(intervals) == 0.01
    assert max(intervals) == 1.0
    verbs = {step.verb for scenario in scenarios for step in scenario.steps}
    assert verbs == {
        *("start", "stop", "kill", "pause", "resume", "change_priority", "set_clock"),
        *("cut", "cut_one_way", "isolate", "lose", "delay", "heal"),
        *("fail", "repair", "fault", "recover"),
    }
    assert {scenario.synced for scenario in scenarios} == {False, True}
    nodes = [node for scenario in scenarios for node in scenario.nodes]
    assert {len(node.priorities) for node in nodes} == {1, 2, 3}
    assert min(weight for node in nodes for _, weight in node.tracks) < 0
    assert max(weight for node in nodes for _, weight in node.tracks) > 0
    assert any(node.preempt_delay for node in nodes)
    assert any(node.startup_delay for node in nodes)
    assert {node.rise for node in nodes} == {node.fall for node in nodes} == {1, 2}


class Stubborn(Router):
    """Answers equals instead of comparing addresses, but not at once, or it would never end."""

    def _active_hears(self, adv: Heard, sender: Address, now: float) -> tuple[Output, ...]:
        return () if adv.priority == self.priority else super()._active_hears(adv, sender, now)


class Rude(Router):
    """Counts an equal as lower: it preempts what it should leave alone."""

    def _backup_hears(self, adv: Heard, now: float) -> None:
        if adv.priority != self.priority:
            super()._backup_hears(adv, now)


class Patient(Router):
    """Waits for five intervals after priority 0."""

    def _backup_hears(self, adv: Heard, now: float) -> None:
        super()._backup_hears(adv, now)
        if adv.priority == 0:
            self._deadline = now + 5 * self.active_interval


class Timid(Router):
    """Lets a lower priority restart its timer, as if Preempt_Mode were off."""

    def _backup_hears(self, adv: Heard, now: float) -> None:
        super()._backup_hears(adv, now)
        self._deadline = now + self.active_down_interval


class Fickle(Router):
    """Leaves for no reason."""

    def timer_expired(self, now: float) -> tuple[Output, ...]:
        return self.shutdown(now) if now > 14 else super().timer_expired(now)


class CountsOn(Authenticator):
    """Never starts again from its clock."""

    def _next_sequence(self, now_wall: float) -> int:
        last = self._last_sent
        return max(super()._next_sequence(now_wall), 0 if last is None else last + 1)


class LetsNobodyBack(Policy):
    """Keeps a router out for ever once it had a fault."""

    def fault_gone(self, router: str | None, cause: str, now: float) -> list[Decision]:
        return []


class SeesNoFault(Policy):
    def fault_found(self, router: str | None, cause: str, reason: str, now: float) -> list[Decision]:
        return []


class CountsNoFailure(Policy):
    def check_failed(self, check: str, detail: str, now: float) -> list[Decision]:
        return []


class HoldsForEver(Policy):
    """Never notices that the preempt_delay has passed."""

    def timer_expired(self, now: float) -> list[Decision]:
        decisions = super().timer_expired(now)
        return [it for it in decisions if not isinstance(it, SetPreempt)]


class LeavesTheGroupAlone(Policy):
    def transitioned(self, router: str, to: State, rule: str, now: float) -> list[Decision]:
        decisions = super().transitioned(router, to, rule, now)
        return [it for it in decisions if not isinstance(it, TakeOver | StepDown)]


class DelaysTheFailOver(Policy):
    """Takes silence for a reason to wait as well: it leaves the election while it holds."""

    def advertisement_heard(self, router: str, priority: int, now: float) -> list[Decision]:
        decisions = super().advertisement_heard(router, priority, now)
        held = self._members[router].lower is not None
        return [*decisions, *(self.fault_found(router, "held", "held", now) if held else [])]


class TestTheProofIsNotEmpty:
    """Each of these mistakes is found, within the seeds that are run."""

    @pytest.mark.parametrize("broken", [Stubborn, Rude, Patient, Timid])
    def test_a_broken_router_is_found(self, broken: type[Router], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scaleup.sim.node.Router", broken)
        with pytest.raises(Violation) as caught:
            run_all(300)
        (note,) = caught.value.__notes__
        assert note.startswith("chaos: made up from a seed\nIPv")
        assert "initialize → backup" in note

    @pytest.mark.parametrize(
        "broken", [LetsNobodyBack, SeesNoFault, CountsNoFailure, HoldsForEver, DelaysTheFailOver]
    )
    def test_a_broken_policy_is_found(self, broken: type[Policy], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scaleup.sim.node.Policy", broken)
        with pytest.raises(Violation):
            run_all(300)

    def test_a_policy_that_tears_a_group_apart_is_an_assertion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scaleup.sim.node.Policy", LeavesTheGroupAlone)
        with pytest.raises(AssertionError, match="torn apart"):
            run_all(300)

    def test_a_sequence_that_counts_on_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scaleup.sim.node.Authenticator", CountsOn)
        with pytest.raises(Violation):
            run_all(300)

    def test_no_active_for_too_long(self) -> None:
        watch = NeverNone(interval=1.0)
        bound = longest_down_interval(1.0)
        node = Cluster([NodeSpec("lb1")], Random(0)).nodes["lb1"].seats[VRID]
        watch.observe(10.0, [node], slowest=0.5)
        watch.observe(10.0 + bound + 0.5, [node], slowest=0.5)
        with pytest.raises(Violation, match="no node was Active for"):
            watch.observe(10.0 + bound + 0.6, [node], slowest=0.5)

    def test_nobody_runs_is_not_none_active(self) -> None:
        watch = NeverNone(interval=1.0)
        node = Cluster([NodeSpec("lb1")], Random(0)).nodes["lb1"].seats[VRID]
        watch.observe(0.0, [], slowest=0.0)
        watch.observe(100.0, [], slowest=0.0)
        node.since = 100.0
        watch.observe(100.0, [node], slowest=0.0)
        watch.observe(103.0, [node], slowest=0.0)
        assert watch.longest == 3.0

    def test_two_or_none_or_the_weaker_one_are_not_settled(self) -> None:
        cluster = Cluster([NodeSpec("lb1", 150), NodeSpec("lb2", 100)], Random(0))
        cluster.cut("lb1", "lb2")
        cluster.start()

        def seats(*names: str) -> list[Seat]:
            return [cluster.nodes[name].seats[VRID] for name in names]

        with pytest.raises(Violation, match="0 nodes"):
            cluster.check_settled()
        cluster.run_for(10)
        with pytest.raises(Violation, match="2 nodes"):
            cluster.check_settled()
        check_settled(seats("lb1"))
        cluster.stop("lb1")
        cluster.start("lb1")
        with pytest.raises(Violation, match="stronger"):
            check_settled(seats("lb1", "lb2"))

    def test_a_change_after_settling_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scenario = Scenario("quiet", "one node, left alone", (NodeSpec("lb1"),), (Step(0.0, "start"),), 16.0)
        prove(scenario, Random(0))
        monkeypatch.setattr("scaleup.sim.node.Router", Fickle)
        with pytest.raises(Violation, match="a change at"):
            prove(scenario, Random(0))


def test_a_router_that_sends_out_of_turn_is_an_assertion(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chatty(Router):
        def startup(self, now: float) -> tuple[Output, ...]:
            return (SendAdvertisement(self.priority), *super().startup(now))

    monkeypatch.setattr("scaleup.sim.node.Router", Chatty)
    cluster = Cluster([NodeSpec("lb1")], Random(0))
    with pytest.raises(AssertionError):
        cluster.start()
    assert cluster.nodes["lb1"].router.state is State.BACKUP
