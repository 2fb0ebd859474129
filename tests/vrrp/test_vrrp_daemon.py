"""The daemon with real sockets and short intervals. What the router decides is tested with the router."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from elections import KEY, VIP, Peer, Stage, authenticator, damaged, until
from prometheus_client import CollectorRegistry, generate_latest

from scaleup.vrrp import daemon as daemon_module
from scaleup.vrrp import network as network_module
from scaleup.vrrp import routers as routers_module
from scaleup.vrrp.clock import ClockWatch
from scaleup.vrrp.instance import DROP_CAUSES
from scaleup.vrrp.metrics import ElectionCollector, snapshot
from scaleup.vrrp.network import Datagram
from scaleup.vrrp.routers import Action

A, B, STRANGER = "127.0.60.1", "127.0.60.2", "127.0.60.3"
TICK = 0.02
"""Seconds: an interval long enough for a busy machine, short enough for a test."""


LATE_INTERVALS = routers_module.LATE_INTERVALS


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy for 3 × TICK makes a node yield, and rightly so: few tests are about that."""
    monkeypatch.setattr(routers_module, "LATE_INTERVALS", 1000)


@contextlib.contextmanager
def judged_late() -> Iterator[None]:
    """Only in here, where the test itself keeps it waiting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routers_module, "LATE_INTERVALS", LATE_INTERVALS)
        yield


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy for 4 × TICK makes a node trust its clock again, and rightly so."""
    from_future = ClockWatch.from_future
    monkeypatch.setattr(ClockWatch, "from_future", lambda watch, now, patience: from_future(watch, now, 60.0))


def count_turns() -> Callable[[], int]:
    """How often the loop has gone round since."""
    loop, turns = asyncio.get_running_loop(), 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_later(0, turn)

    turn()
    return lambda: turns


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    with contextlib.closing(Stage()) as stage:
        yield stage


@pytest.fixture
def keyfile(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return f"hmac:{path}"


# ----- two nodes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [TICK, 0.01])
async def test_two_nodes_elect_fail_over_and_preempt(stage: Stage, interval: float) -> None:
    a = stage.node(A, B, priority=254, interval=interval)  # nearly an interval before b
    b = stage.node(B, A, priority=1, interval=interval)
    await a.becomes("active")
    assert b.roles == ["backup"]

    a.cut()
    await b.becomes("active")

    a.heal()
    await b.becomes("backup")
    assert a.roles == ["backup", "active"], "it never heard a higher priority"
    assert b.roles == ["backup", "active", "backup"]


@pytest.mark.parametrize("preempt", [True, False])
async def test_one_that_returns_takes_over_only_if_it_preempts(stage: Stage, preempt: bool) -> None:
    a = stage.node(A, B, priority=150, interval=TICK, preempt=preempt)
    await a.becomes("active")
    b = stage.node(B, A, priority=100, interval=TICK)
    a.daemon.stop()
    assert a.instance.role == "fault"
    await b.becomes("active")
    a.daemon.start()
    if preempt:
        await a.becomes("active")
        await b.becomes("backup")
    else:
        heard = a.instance.received
        await until(lambda: a.instance.received > heard + 8)  # twice its Active_Down_Interval
        assert (a.instance.role, b.instance.role) == ("backup", "active")


async def test_after_priority_0_only_the_skew_is_waited_for(stage: Stage) -> None:
    interval = 2.0  # with a skew that is much shorter: between the two is what a busy machine may take
    node, peer = stage.node(B, A, priority=230, interval=interval), stage.peer(A, to=B)
    peer.advertise(250, interval_cs=200)
    await until(lambda: node.instance.received == 1)
    began = time.monotonic()
    peer.advertise(0, interval_cs=200)
    await node.becomes("active")
    waited = time.monotonic() - began
    assert interval * (256 - 230) / 256 - 0.01 < waited < 3 * interval
    assert "priority 0" in node.rules[-1]


async def test_after_silence_three_intervals_and_the_skew_are_waited_for(stage: Stage) -> None:
    node, peer = stage.node(B, A, priority=200, interval=TICK), stage.peer(A, to=B)
    said = asyncio.get_running_loop().time()
    peer.advertise(250, interval_cs=2)
    await until(lambda: node.instance.received == 1)
    await node.becomes("active")
    waited = asyncio.get_running_loop().time() - said
    assert waited > 3 * TICK + TICK * 56 / 256 - 0.001
    assert (await peer.hears(200)).interval == TICK


async def test_an_advertisement_counts_from_its_arrival(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process takes to wake is no part of an Active_Down_Interval."""
    node, peer = stage.node(B, A, priority=200), stage.peer(A, to=B)
    monkeypatch.setattr(network_module, "age_of", lambda ancillary: 0.5)
    peer.advertise(250)
    await until(lambda: node.instance.received == 1)
    assert node.instance.router.deadline is not None
    from_receipt = node.instance.router.deadline - node.instance.last_heard[A]
    assert from_receipt <= node.instance.router.active_down_interval - 0.5


async def test_the_word_to_stop_is_priority_0_and_comes_after_the_address_is_given_up(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    await node.becomes("active")
    node.daemon.stop()
    await peer.hears(0)
    assert not node.owner.has
    node.daemon.stop()
    assert node.roles == ["backup", "active", "fault"]
    assert peer.heard() == [], "it says so once"


async def test_what_a_node_had_before_it_starts_is_released(stage: Stage) -> None:
    node = stage.node(B, A, start=False, interval=1.0)
    node.owner.has = True
    node.daemon.start()
    assert not node.owner.has


# ----- lateness -----------------------------------------------------------------------------------


LATE_SECONDS = 6 * TICK  # longer than the Active_Down_Interval


async def test_a_late_riser_reads_what_came_before_it_judges_the_timer(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    for _ in range(5):
        peer.advertise(200, interval_cs=100)
    time.sleep(LATE_SECONDS)  # noqa: ASYNC251 - nothing else runs: that is the point
    await until(lambda: node.instance.received == 5)
    await asyncio.sleep(0)  # the timer was due in the round that read the socket
    assert node.roles == ["backup"]


async def test_the_timer_itself_reads_whatever_the_loop_calls_first(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    asyncio.get_running_loop().remove_reader(node.network.fileno())
    peer.advertise(200, interval_cs=100)
    await until(lambda: node.instance.received == 1)
    assert node.roles == ["backup"]


async def test_what_comes_in_the_last_moment_keeps_a_backup_that_is_awake(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "AWAKE_SECONDS", 10.0)  # all of the time that it waits
    node, peer = stage.node(B, A, interval=1.0), stage.peer(A, to=B)
    receive, turns, looks = node.network.receive, count_turns(), list[int]()

    def look() -> Iterator[Datagram]:
        looks.append(turns())
        if len(looks) == 5:
            peer.advertise(200, interval_cs=4000)
        return receive()

    monkeypatch.setattr(node.network, "receive", look)
    due = node.daemon.routers.deadline
    await until(lambda: node.instance.received == 1)
    assert due is not None
    assert asyncio.get_running_loop().time() < due
    assert len(set(looks[:5])) == 1, "it looks again and again, and nothing else has its turn"
    assert node.roles == ["backup"]
    assert sum(node.daemon.lateness.counts) == 0, "nothing was due yet"


async def test_who_says_farewell_again_and_again_does_not_keep_it_awake(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of them a take-over is due within a Skew_Time, here less than AWAKE_SECONDS."""
    node, peer = stage.node(B, A, priority=254, interval=0.1), stage.peer(A, to=B)
    receive, turns, looks = node.network.receive, count_turns(), list[int]()

    def look() -> Iterator[Datagram]:
        looks.append(turns())
        if len(looks) <= 2000:
            peer.advertise(0, interval_cs=10)
        return receive()

    monkeypatch.setattr(node.network, "receive", look)
    await node.becomes("active")
    assert max(Counter(looks).values()) < 1000, "the loop has its turn after AWAKE_SECONDS"


async def test_waking_ahead_is_no_reason_to_take_over(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    node, peer = stage.node(B, A, priority=254, interval=0.1), stage.peer(A, to=B)
    routers, judged = node.daemon.routers, list[tuple[float, float]]()
    expired = routers.timer_expired

    def judge(now: float) -> list[Action]:
        judged.append((now, routers.deadline or 0.0))
        return expired(now)

    monkeypatch.setattr(routers, "timer_expired", judge)
    peer.advertise(250, interval_cs=10)  # then silence
    await node.becomes("active")
    peer.advertise(255, interval_cs=10)
    await node.becomes("backup")
    peer.advertise(0, interval_cs=10)  # a Skew_Time that is shorter than AWAKE_SECONDS
    await node.becomes("active")
    assert len(judged) >= 2
    assert all(now >= due for now, due in judged)


async def test_an_error_in_the_timers_turn_leaves_nobody_asleep(stage: Stage) -> None:
    """Whoever hears the next advertisement arms it again."""
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    patch, failed = pytest.MonkeyPatch(), list[object]()

    def fail() -> None:
        failed.append(patch.undo())
        raise ZeroDivisionError("of this test")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    patch.setattr(node.daemon, "_woken", fail)
    await until(lambda: bool(failed))
    peer.advertise(200)
    await until(lambda: node.instance.received == 1)
    await node.becomes("active")


async def test_a_late_riser_who_heard_nothing_takes_over(stage: Stage) -> None:
    node = stage.node(B, A, interval=TICK)
    time.sleep(LATE_SECONDS)  # noqa: ASYNC251
    await node.becomes("active")


async def test_an_active_that_wakes_too_late_listens_before_it_asserts(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    await node.becomes("active")
    peer.advertise(50, interval_cs=2)  # from the one that took over meanwhile
    with judged_late():
        time.sleep(5 * TICK)  # noqa: ASYNC251 - nothing else runs: that is the point
        await until(lambda: len(node.roles) == 3)
    assert node.roles[2] == "backup"
    assert "late, when another may be Active" in node.rules[2]
    await node.becomes("active")
    assert "only lower priority heard" in node.rules[3]


async def test_a_backup_that_wakes_too_late_listens_once_more(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    node = stage.node(B, A, interval=TICK)
    caplog.set_level("INFO")
    with judged_late():
        time.sleep(8 * TICK)  # noqa: ASYNC251 - 4.4 later than its Active_Down_Timer
        await until(lambda: "backup → " in caplog.text)
    await node.becomes("active")
    first, *_, last = (message for message in caplog.messages if "backup → " in message)
    assert "late, when another may be Active" in first
    assert "backup → active" in last


async def test_on_hearing_another_active_the_neighbours_are_told_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    await node.becomes("active")
    peer.advertise(0)
    peer.advertise(50)
    await until(lambda: node.owner.reminders == 1)
    assert node.roles == ["backup", "active"]
    for number in range(3):
        node.instance.also_active(ip_address(STRANGER) + number, 50)
    assert caplog.text.count("is Active as well") == 1, "one in LOG_EVERY_SECONDS, whoever claims to be"


async def test_each_that_finds_a_fault_has_to_take_it_back(stage: Stage) -> None:
    node = stage.node(B, A, interval=TICK)
    node.owner.fault("the link of eth0 is down", "link eth0")
    node.daemon.fault("no worker accepts")
    node.owner.recover("link eth0")
    assert node.instance.role == "fault"
    node.daemon.recover()
    await node.becomes("active")
    node.daemon.stop()
    node.owner.fault("the link of eth0 is down", "link eth0")
    node.owner.recover("link eth0")
    assert node.instance.role == "fault", "what has been stopped stays so"


async def test_a_backlog_longer_than_a_batch_is_read_to_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleup.vrrp.network.MAX_DRAIN", 3)
    node, peer = stage.node(B, A, interval=1.0), stage.peer(A, to=B)
    for _ in range(10):
        peer.advertise()
    await until(lambda: node.instance.received == 10)


# ----- what is dropped ----------------------------------------------------------------------------


def forge(peer: Peer, cause: str) -> bytes:
    """A datagram to be dropped by a node without authentication, for `cause`."""
    good = peer.message(addresses=(VIP,))
    match cause:
        case "ttl":
            peer.hop_limit(64)
        case "short":
            return good[:7]
        case "version":
            return damaged(good, 0, 0x21)
        case "type":
            return damaged(good, 0, 0x32)
        case "no-addresses":
            return damaged(good, 3, 0)
        case "trailing":
            return good + bytes(28)
        case "checksum":
            return good[:2] + bytes([good[2] ^ 1]) + good[3:]
        case "peer-vrid":
            return peer.message(vrid=52)
        case "interval":
            return damaged(damaged(good, 4, 0), 5, 0)
    return good


CURES = {
    "peer": "--peer",
    "ttl": "TTL 64, not 255: it was routed; see --minimum-ttl",
    "short": "7 bytes",
    "version": "vrrp_version 3",
    "type": "type 2",
    "no-addresses": "no virtual address",
    "trailing": "--auth",
    "checksum": "damaged, or a NAT",
    "peer-vrid": "see --vrid",
    "interval": "interval of 0",
}


@pytest.mark.parametrize("cause", CURES)
async def test_what_is_dropped_is_counted_by_cause_and_logged_with_a_cure(
    stage: Stage, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    node = stage.node(B, A, interval=1.0)
    sender = stage.peer(STRANGER if cause == "peer" else A, to=B)
    data = forge(sender, cause)
    for _ in range(5):
        sender.send(data)
    await until(lambda: node.instance.dropped[cause] == 5)
    assert sum(node.instance.dropped.values()) == 5
    assert node.instance.received == 0
    assert node.roles == ["backup"]
    (line,) = caplog.messages
    assert CURES[cause] in line, "one line in LOG_EVERY_SECONDS"
    assert str(sender.address) in line


AUTH_CURES = {
    "missing": "does not authenticate",
    "malformed": "28",
    "stale": "NTP",
    "key": "key 2",
    "mac": "another key",
    "replay": "replay",
}


@pytest.mark.parametrize("cause", AUTH_CURES)
async def test_a_forger_is_dropped(
    stage: Stage, cause: str, keyfile: str, caplog: pytest.LogCaptureFixture
) -> None:
    node, peer = stage.node(B, A, interval=1.0, auth=keyfile), stage.peer(A, to=B)
    now = node.wall + asyncio.get_running_loop().time()
    message, source = peer.message(), peer.address
    seal: dict[str, Callable[[], bytes]] = {
        "missing": lambda: message,
        "malformed": lambda: authenticator().seal(message, source, now)[:-1],
        "stale": lambda: authenticator().seal(message, source, now - 3600),
        "key": lambda: authenticator(key_id=2).seal(message, source, now),
        "mac": lambda: authenticator(b"x" * 32).seal(message, source, now),
        "replay": lambda: authenticator().seal(message, source, now),
    }
    data = seal[cause]()
    if cause == "replay":
        peer.send(data)
        await until(lambda: node.instance.received == 1)
    peer.send(data)
    await until(lambda: node.instance.dropped[cause] == 1)
    assert sum(node.instance.dropped.values()) == 1
    assert AUTH_CURES[cause] in caplog.messages[-1]
    assert node.roles == ["backup"]


async def test_every_line_about_one_cause_has_to_wait_its_turn(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, peer = stage.node(B, A, interval=1.0), stage.peer(A, to=B)
    peer.send(b"nonsense, but long enough")
    await until(lambda: node.instance.dropped["version"] == 1)
    for _ in range(9):
        peer.send(b"nonsense, but long enough")
    await until(lambda: node.instance.dropped["version"] == 10)
    assert len(caplog.messages) == 1
    monkeypatch.setattr(node.instance._limited, "_seconds", 0.0)
    peer.send(b"nonsense, but long enough")
    await until(lambda: node.instance.dropped["version"] == 11)
    assert "(9 more like it before)" in caplog.messages[-1]


async def test_a_flood_does_not_keep_the_timer_from_its_turn(stage: Stage, keyfile: str) -> None:
    node, peer = stage.node(B, A, interval=TICK, auth=keyfile), stage.peer(A, to=B)
    await node.becomes("active")
    forged = authenticator(b"x" * 32).seal(peer.message(255), peer.address, node.wall)
    for number in range(1, 2001):
        peer.send(forged)
        if number % 100 == 0:  # the socket holds 277
            await until(lambda: node.instance.dropped["mac"] + node.instance.dropped["stale"] == number)  # noqa: B023

    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            peer.send(forged)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        sent = node.instance.sent
        await until(lambda: node.instance.sent >= sent + 4)
    finally:
        done.set()
        await asyncio.to_thread(flooder.join)
    assert node.roles == ["backup", "active"]


@pytest.mark.slow
async def test_100_000_forgeries_change_nothing(stage: Stage, keyfile: str) -> None:
    """From the address of the Active one, as a neighbour can send them: old ones of his too."""
    a = stage.node(A, B, priority=150, interval=0.1, auth=keyfile)
    b = stage.node(B, A, priority=100, interval=0.1, auth=keyfile)
    await a.becomes("active")
    await until(lambda: b.instance.received > 0)
    before = list(b.roles)
    now = a.wall + asyncio.get_running_loop().time()
    forger, routed = stage.forger(A, to=B), stage.forger(A, to=B)
    routed.hop_limit(254)
    stop, claim = forger.message(0), forger.message(255)
    forged = [
        claim,
        stop,
        claim + bytes(28),
        authenticator(b"x" * 32).seal(claim, forger.address, now),
        authenticator().seal(stop, forger.address, now - 60),
        authenticator().seal(stop, forger.address, now - 1),  # a replay: he has said more since
        b"",
    ]
    for number in range(100_000):
        (routed if number % 10 == 0 else forger).send(forged[number % len(forged)])
        if number % 50 == 49:
            await asyncio.sleep(0)
    await until(lambda: sum(b.instance.dropped.values()) >= 99_000)
    assert b.roles == before
    assert a.roles == ["backup", "active"]


async def test_differences_are_logged_and_not_dropped(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 9568 §7.1: "SHOULD log … but … process"."""
    node, peer = stage.node(B, A, interval=1.0), stage.peer(A, to=B)
    peer.advertise(interval_cs=200)
    peer.advertise(addresses=(VIP + 1, VIP))
    await until(lambda: node.instance.received == 2)
    assert "every 2 s; see --interval" in caplog.messages[0]
    assert "other addresses: 127.0.60.101, 127.0.60.100; see --vip" in caplog.messages[1]


# ----- faults -------------------------------------------------------------------------------------


async def test_a_node_that_cannot_serve_leaves_until_it_can(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    await node.becomes("active")
    node.daemon.fault("no worker accepts")
    assert node.rules[-1] == "no worker accepts"
    await peer.hears(0)
    peer.advertise()
    await until(lambda: node.instance.received == 1)  # it goes on listening, and takes no notice
    node.daemon.fault("no worker accepts")
    assert node.roles == ["backup", "active", "fault"]
    assert peer.heard() == []

    node.daemon.recover()
    await node.becomes("active")
    node.daemon.recover()
    assert node.roles == ["backup", "active", "fault", "backup", "active"]


async def test_a_node_that_cannot_take_the_address_does_not_claim_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon_module, "TAKE_AGAIN_SECONDS", 2 * TICK)
    node, peer = stage.node(B, A, start=False, interval=TICK), stage.peer(A, to=B)
    node.owner.refusal = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    node.daemon.start()
    await until(lambda: node.owner.attempts >= 2)
    assert node.roles[:4] == ["backup", "fault", "backup", "fault"]
    assert "cannot be taken: Address already in use" in node.rules[1]
    assert "cannot be taken" in caplog.text
    assert {adv.priority for adv in peer.heard()} == {0}, "the others need not wait for it"

    node.owner.refusal = None
    await node.becomes("active")
    await peer.hears(100)


async def test_a_node_at_fault_does_not_try_to_take_the_address_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "TAKE_AGAIN_SECONDS", TICK)
    node = stage.node(B, A, start=False, interval=TICK)
    node.owner.refusal = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    node.daemon.start()
    await node.becomes("fault")
    node.daemon.fault("no worker accepts")
    roles = list(node.roles)
    await asyncio.sleep(3 * TICK)  # it would have tried by then
    assert node.roles == roles


async def test_a_peer_that_cannot_be_reached_does_not_keep_the_others_from_hearing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    node = stage.node(B, "255.255.255.255", A, interval=TICK)  # broadcast: EACCES
    peer = stage.peer(A, to=B)
    await node.becomes("active")
    for _ in range(3):
        await peer.hears(100)
    assert caplog.messages.count("cannot advertise to 255.255.255.255: Permission denied") == 1


async def test_when_sending_fails_for_a_while_the_role_stays(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    await node.becomes("active")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.network, "_port", 0)  # EINVAL
        sent = node.instance.sent
        await until(lambda: node.instance.sent > sent + 3)
        peer.heard()
    await peer.hears(100)
    assert node.roles == ["backup", "active"]


# ----- clocks -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_of_two_that_cannot_believe_each_other_the_one_behind_leaves(
    stage: Stage, keyfile: str, step: float, who: str
) -> None:
    a = stage.node(A, B, priority=150, interval=TICK, auth=keyfile)
    b = stage.node(B, A, priority=100, interval=TICK, auth=keyfile)
    await a.becomes("active")
    await until(lambda: b.instance.received > 0)
    wrong, right = (a, b) if who == "a" else (b, a)
    wrong.wall += step
    behind, ahead = (wrong, right) if step < 0 else (right, wrong)
    await until(lambda: (behind.instance.role, ahead.instance.role) == ("fault", "active"))
    assert "our clock is wrong" in behind.rules[-1]
    said = len(ahead.roles)
    await until(lambda: behind.instance.dropped["stale"] > 12)
    assert (behind.instance.role, ahead.instance.role, len(ahead.roles)) == ("fault", "active", said)

    wrong.wall -= step
    await until(lambda: (a.instance.role, b.instance.role) == ("active", "backup"))
    heard = b.instance.received
    await until(lambda: b.instance.received > heard + 4)
    assert (a.instance.role, b.instance.role) == ("active", "backup")


async def test_a_wrong_clock_serves_when_nobody_else_does(stage: Stage, keyfile: str) -> None:
    a = stage.node(A, B, priority=150, interval=TICK, auth=keyfile)
    b = stage.node(B, A, priority=100, interval=TICK, auth=keyfile)
    await a.becomes("active")
    b.wall -= 3600.0
    await b.becomes("fault")
    a.cut()
    await b.becomes("active")


async def test_what_was_recorded_before_makes_no_node_leave(stage: Stage, keyfile: str) -> None:
    node, peer = stage.node(B, A, interval=TICK, auth=keyfile), stage.peer(A, to=B)
    await node.becomes("active")
    now = node.wall + asyncio.get_running_loop().time()
    for number in range(10):
        peer.send(authenticator().seal(peer.message(), peer.address, now - 3600 + number))
        peer.send(authenticator(b"x" * 32).seal(peer.message(), peer.address, now + 3600 + number))
    await until(lambda: node.instance.dropped["stale"] == 20)
    assert node.roles == ["backup", "active"]


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_clocks_that_step_together_cost_nothing(stage: Stage, keyfile: str, step: float) -> None:
    a = stage.node(A, B, priority=150, interval=TICK, auth=keyfile)
    await a.becomes("active")
    b = stage.node(B, A, priority=100, interval=TICK, auth=keyfile)
    await until(lambda: b.instance.received > 0)
    a.wall += step
    b.wall += step
    heard = b.instance.received
    await until(lambda: b.instance.received > heard + 8)
    assert b.roles == ["backup"]


# ----- IPv6 and figures ---------------------------------------------------------------------------


async def test_ipv6_with_authentication(stage: Stage, keyfile: str) -> None:
    """Loopback has one IPv6 address: the peer says from it, on another port, what the node is to believe."""
    vip = ip_address("fe80::100")
    node = stage.node("::1", "::2", vip=[str(vip)], interval=1.0, auth=keyfile)
    node.network.peers = (ip_address("::1"),)
    peer = stage.forger("::1", to="::1")
    message = peer.message(addresses=(vip,))
    now = node.wall + asyncio.get_running_loop().time()
    peer.send(authenticator().seal(message, peer.address, now))
    peer.send(authenticator().seal(message, ip_address("::2"), now))
    peer.hop_limit(64)
    peer.send(authenticator().seal(message, peer.address, now + 1))
    await until(
        lambda: node.instance.received and node.instance.dropped["mac"] and node.instance.dropped["ttl"]
    )
    assert sum(node.instance.dropped.values()) == 2
    assert node.roles == ["backup"]


async def test_the_metrics_say_what_happened(stage: Stage) -> None:
    node, peer = stage.node(B, A, interval=TICK), stage.peer(A, to=B)
    peer.advertise(interval_cs=2)
    peer.send(b"")
    await node.becomes("active")
    values = snapshot(node.daemon, node.instance.last_heard[A] + 0.5)
    assert set(values["routers"][0]["dropped"]) == set(DROP_CAUSES), (
        "every cause from the start, so that rates can be had"
    )
    registry = CollectorRegistry()
    registry.register(ElectionCollector(lambda: values))
    text = generate_latest(registry).decode()
    for line in (
        'router_info{iname="VI_51",interface="",vrid="51"} 1.0',
        'state{iname="VI_51",state="active"} 1.0',
        'state{iname="VI_51",state="backup"} 0.0',
        'priority{iname="VI_51"} 100.0',
        'effective_priority{iname="VI_51"} 100.0',
        'transitions_total{cause="timer",iname="VI_51",to="active"} 1.0',
        'transitions_total{cause="startup",iname="VI_51",to="backup"} 1.0',
        'transitions_total{cause="late",iname="VI_51",to="backup"} 0.0',
        'timer_lateness_seconds_bucket{le="+Inf"} ',
        'advertisements_received_total{iname="VI_51"} 1.0',
        'advertisements_dropped_total{cause="short",iname="VI_51"} 1.0',
        'advertisements_dropped_total{cause="mac",iname="VI_51"} 0.0',
        'peer_silence_seconds{iname="VI_51",peer="127.0.60.1"} 0.',
    ):
        assert f"\nscaleup_vrrp_{line}" in text


def test_before_the_first_statistics_there_are_no_metrics() -> None:
    registry = CollectorRegistry()
    registry.register(ElectionCollector(dict))
    assert generate_latest(registry) == b""
