"""Two virtual routers in one process, with real sockets: each has its own election, unless they belong together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
from elections import VIP, Peer, RecordingOwner, free_udp_port, until

from scaleup.vrrp import routers as routers_module
from scaleup.vrrp.arrangement import Arrangement, Check, RouterPolicy, SyncGroup
from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.decisions import Condition, Notify, SetPriority
from scaleup.vrrp.election import Election
from scaleup.vrrp.instance import Instance
from scaleup.vrrp.network import UnicastUdp

A, B = "127.0.61.1", "127.0.61.2"
INTERVAL = 0.05
CHECK = Check("service")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy for 3 × INTERVAL makes a node yield, and rightly so."""
    monkeypatch.setattr(routers_module, "LATE_INTERVALS", 1000)


class Pair:
    """VI_51 with priority 150 and VI_52 with 100 at B; `peers`: who speaks at A, in each election."""

    def __init__(self, stack: contextlib.ExitStack, groups: tuple[SyncGroup, ...]) -> None:
        self.owners: dict[str, RecordingOwner] = {}
        self.peers: dict[str, Peer] = {}
        self.roles: list[tuple[str, str]] = []
        self.rules: dict[str, str] = {}
        self.told: list[Notify] = []
        instances: list[Instance] = []
        for vrid, priority in ((51, 150), (52, 100)):
            port = free_udp_port()
            election = Election.model_validate(
                {
                    "vip": [str(VIP)],
                    "vrid": vrid,
                    "priority": priority,
                    "interval": INTERVAL,
                    "source": B,
                    "peer": [A],
                    "vrrp_port": port,
                    "auth": "none",
                }
            )
            network, owner = UnicastUdp(ip_address(B), port, [ip_address(A)]), RecordingOwner()
            stack.callback(network.close)
            instances.append(Instance(election, network, owner))
            self.owners[election.router_name] = owner
            self.peers[election.router_name] = Peer(A, port, B)
            stack.callback(self.peers[election.router_name].close)
        policies = tuple(
            RouterPolicy(it.name, it.election.priority, tracks={CHECK.name: 0} if it.name == "VI_51" else {})
            for it in instances
        )
        self.daemon = Daemon(
            instances, Arrangement(policies, (CHECK,), groups), self._on_role, self._on_decision
        )
        stack.callback(self.daemon.stop)
        self.daemon.check(CHECK.name, True, "at the start")
        self.daemon.start()

    def _on_role(self, name: str, role: str, rule: str) -> None:
        self.roles.append((name, role))
        self.rules[name] = rule

    def _on_decision(self, decision: Notify | SetPriority) -> None:
        if isinstance(decision, Notify):
            self.told.append(decision)

    def having(self) -> set[str]:
        return {name for name, owner in self.owners.items() if owner.has}


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


async def test_each_router_has_its_own_election(stack: contextlib.ExitStack) -> None:
    pair = Pair(stack, ())
    await until(lambda: pair.having() == {"VI_51", "VI_52"})
    pair.peers["VI_52"].advertise(200, vrid=52, interval_cs=1000)
    await until(lambda: pair.having() == {"VI_51"})
    pair.daemon.check(CHECK.name, False, "it is broken")
    assert pair.having() == set()
    assert pair.rules["VI_51"] == "check service failed: it is broken"
    await pair.peers["VI_51"].hears(0)
    pair.daemon.check("unknown", False, "")
    pair.daemon.check(CHECK.name, True, "mended")
    await until(lambda: pair.having() == {"VI_51"})
    assert [role for name, role in pair.roles if name == "VI_52"] == ["backup", "active", "backup"]


async def test_a_sync_group_moves_together(stack: contextlib.ExitStack) -> None:
    pair = Pair(stack, (SyncGroup("both", ("VI_51", "VI_52")),))
    await until(lambda: pair.having() == {"VI_51", "VI_52"})
    pair.peers["VI_52"].advertise(200, vrid=52, interval_cs=1000)
    await until(lambda: pair.having() == set())
    assert "sync group both moves with VI_52" in pair.rules["VI_51"]


@pytest.mark.parametrize("name", ["VI_51", "VI_52"])  # the first one to take over, and the one that follows
async def test_where_one_cannot_take_its_address_nobody_in_its_group_claims_one(
    stack: contextlib.ExitStack, name: str
) -> None:
    pair = Pair(stack, (SyncGroup("both", ("VI_51", "VI_52")),))
    pair.owners[name].refusal = OSError(98, "Address already in use")
    await until(lambda: [role for _, role in pair.roles].count("fault") == 2)
    assert pair.having() == set()
    assert f"{name}: the address cannot be taken" in pair.rules["VI_51"]
    assert {it.condition for it in pair.told} == {Condition.BACKUP, Condition.FAULT}
    assert {owner.announcements for owner in pair.owners.values()} == {0}
    for peer in pair.peers.values():
        assert {adv.priority for adv in peer.heard()} == {0}, "one that serves would give way to any other"
