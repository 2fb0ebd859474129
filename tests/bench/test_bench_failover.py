"""What is made of what was heard during a fail-over, and the scripts that make fail-overs."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from needs import requires
from test_bench_record import CASE
from test_bench_scripts import bench, measured, room

from bench import bars, cdf
from bench.attempts import outages
from bench.failover import bar_ms, gap_ms, theory_ms
from bench.lan import Lan, may_make_namespaces
from bench.plot import draw
from bench.record import Case, Record
from bench.running import BenchError
from bench.saturated import judged
from bench.takeover import TakeOver, take_over
from bench.wire import Advertisement, Announcement, Wire

__all__ = ["room"]  # a fixture

OLD, NEW, VIP = "02:00:00:00:00:01", "02:00:00:00:00:02", "10.77.0.100"
MS = 10**6

NAMESPACES = pytest.mark.skipif(not may_make_namespaces(), reason="network namespaces need root")


def says(sender: str, *at_ms: float, priority: int = 100) -> list[Advertisement]:
    return [Advertisement(round(ms * MS), sender, priority) for ms in at_ms]


def announces(sender: str, at_ms: float, address: str = VIP) -> Announcement:
    return Announcement(round(at_ms * MS), sender, address)


# ----- the take-over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advertised", "announced"), [(400, 401), (401, 400)], ids=["advertised first", "announced first"]
)
def test_it_lasts_from_the_last_of_the_old_one_until_the_later_of_two(
    advertised: float, announced: float
) -> None:
    heard = [*says(OLD, 0, 100), *says(NEW, advertised, 500), announces(NEW, announced), announces(NEW, 900)]
    assert take_over(heard, OLD, NEW, VIP) == TakeOver(100 * MS, 401 * MS)


def test_priority_0_is_an_advertisement_of_the_old_one() -> None:
    heard = [*says(OLD, 0), *says(OLD, 20, priority=0), *says(NEW, 80), announces(NEW, 81)]
    assert take_over(heard, OLD, NEW, VIP) == TakeOver(20 * MS, 81 * MS)


@pytest.mark.parametrize(
    "heard",
    [
        says(OLD, 0, 100, 200),
        [*says(OLD, 0), *says(NEW, 400)],
        [*says(OLD, 0), announces(NEW, 400)],
        [*says(OLD, 0), *says(NEW, 400), announces(NEW, 400, "10.77.0.2")],
        [*says(OLD, 0), *says(NEW, 400), announces(OLD, 400)],
        [*says(NEW, 400), announces(NEW, 400)],
    ],
    ids=[
        "no fail-over",
        "not announced",
        "not advertised",
        "another address",
        "by the old one",
        "nothing before",
    ],
)
def test_what_is_not_a_whole_take_over_is_none(heard: list[Advertisement | Announcement]) -> None:
    assert take_over(heard, OLD, NEW, VIP) is None


def test_the_theory_is_the_rfcs() -> None:
    assert theory_ms("host-death", 1) == pytest.approx(3609.375)
    assert theory_ms("stop", 0.01) == pytest.approx(6.09375)
    assert [bar_ms("host-death", one) for one in (1.0, 0.1, 0.01)] == [1.0, 1.0, 2.0]


def test_a_verdict_is_on_the_median() -> None:
    def words(*takeover_ms: float) -> list[str]:
        case = Case("host-death", "100 ms", {"theory_ms": 360.0, "bar_ms": 1.0})
        case.rounds = {"scaleup": [{"takeover_ms": ms, "gap_ms": 1.0} for ms in takeover_ms]}
        from bench.failover import METRICS, WORKS

        made = Record("failover", "", "", {}, {}, {}, {}, {}, METRICS, WORKS, [case])
        assert bars.table(made).rows[0][-2:] == ("1", next(bars.verdicts(made)).word)
        return [one.word for one in bars.verdicts(made)]

    assert words(360.5, 360.9, 400) == ["held"]
    assert words(360.5, 361.1, 361.2) == ["missed"]


# ----- the client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ("", []),
        ("yyy", []),
        ("ynny", [(1, 3)]),
        ("nyny", [(0, 1), (2, 3)]),
        ("ynn", [(1, None)]),
    ],
)
def test_an_outage_ends_with_the_start_of_an_attempt_that_was_answered(
    answers: str, found: list[tuple[int, int | None]]
) -> None:
    assert outages((ns, answer == "y") for ns, answer in enumerate(answers)) == found


def test_the_gap_is_the_longest_outage_and_must_have_ended() -> None:
    assert gap_ms([], 9 * MS) == 0
    assert gap_ms([(0, 3 * MS), (5 * MS, 6 * MS), (9 * MS, None)], 9 * MS) == 3
    assert gap_ms([(0, 3 * MS), (5 * MS, None)], 9 * MS) is None


def test_a_client_sees_a_server_come_and_go() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        host, port = server.getsockname()
        client = subprocess.Popen(
            [sys.executable, "-m", "bench.attempts", f"{host}:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        while not select.select([client.stdout], [], [], 0)[0]:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):  # it may have given this one up
                connection.sendall(b"1")
        server.accept()[0].close()  # and another attempt, which ends without an answer
        assert client.stdout.readline() == "answered\n"
    said, _ = client.communicate(timeout=20)  # its input ends: it judges what it has begun
    assert '"outages": [' in said
    assert ", null]" in said  # nobody has answered since


# ----- on a saturated machine -----------------------------------------------------------------------------------


def test_silence_and_take_overs_are_seen_where_nothing_was_broken() -> None:
    well = judged(says(OLD, 0, 10, 20, 34, 44), OLD, 0.01)
    assert (well["false"], well["worst_ms"], well["late_ms"]) == (0, 14, 4)
    assert judged([*says(OLD, 0, 10), *says(NEW, 50), *says(OLD, 60)], OLD, 0.01)["false"] == 2
    assert judged(says(NEW, 0, 10), OLD, 0.01)["false"] == 1


def test_who_heard_nothing_says_so() -> None:
    with pytest.raises(BenchError, match="no advertisements"):
        judged([], OLD, 0.01)


# ----- distributions --------------------------------------------------------------------------------------------


def test_a_distribution_rises_at_each_value_to_all_of_them() -> None:
    assert cdf.steps([3.0, 1.0]) == ([1.0, 1.0, 3.0], [0.0, 50.0, 100.0])


def test_cases_with_a_theory_are_drawn_as_distributions(tmp_path: Path) -> None:
    assert not cdf.wanted([CASE])
    case = Case("host-death", "100 ms", {"theory_ms": 360.9})
    case.rounds = {"scaleup": [{"takeover_ms": 361.5}, {"takeover_ms": 361.9}]}
    from bench.failover import METRICS, WORKS

    made = Record("failover", "", "", {}, {}, {}, {}, {}, METRICS, WORKS, [case])
    (picture,) = draw(made, tmp_path, ("svg",))
    assert "theory" in picture.read_text()


# ----- with real parts ------------------------------------------------------------------------------------------


@requires("ip")
@NAMESPACES
@pytest.mark.slow
def test_a_third_host_hears_advertisements_and_announcements_in_order() -> None:
    with Lan("a", "client") as lan:
        wire = Wire(lan.host("client"))
        a = lan.host("a")
        election = ("--interface", "eth0", "--vip", f"{VIP}/24", "--interval", "0.1")
        a.python("-m", "scaleup.vrrp", *election)
        heard: list[Advertisement | Announcement] = []
        while sum(isinstance(one, Advertisement) for one in heard) < 3:
            assert select.select([wire], [], [], 30)[0], "nothing is said"
            heard += wire.heard()
        wire.close()
        assert {one.sender for one in heard} == {a.mac}
        assert [one.ns for one in heard] == sorted(one.ns for one in heard)
        assert {one.address for one in heard if isinstance(one, Announcement)} == {VIP}
        assert {one.priority for one in heard if isinstance(one, Advertisement)} == {100}


@requires("ip", "keepalived", "haproxy")
@NAMESPACES
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_each_fault_once(room: Path) -> None:
    record = measured(room, "failover", "--quick", "--plot", str(room / "pictures"))
    assert [case.work for case in record.cases] == ["host-death", "balancer-killed", "stop"]
    for case in record.cases:
        assert list(case.rounds) == ["scaleup", "keepalived"]
        for rounds in case.rounds.values():
            (figures,) = rounds
            assert figures["takeover_ms"] >= case.settings["theory_ms"]
            assert figures["gap_ms"] > 0
    assert {path.suffix for path in (room / "pictures").iterdir()} == {".svg", ".png"}


@requires("ip", "wrk", "nginx")
@NAMESPACES
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_second_of_saturation(room: Path) -> None:
    record = measured(room, "saturated", "--quick")
    assert [case.work for case in record.cases] == ["realtime", "ordinary"]
    for case in record.cases:
        (figures,) = case.rounds["scaleup"]
        assert figures["worst_ms"] >= case.settings["interval"] * 1e3
        assert figures["rate"] > 0


def test_an_interval_that_no_packet_can_say_is_refused_in_a_line(room: Path) -> None:
    done = bench(room, "failover", "--intervals", "0.001")
    assert done.returncode == 2
    assert "write seconds from 0.01 to 40.95" in " ".join(done.stderr.split())
