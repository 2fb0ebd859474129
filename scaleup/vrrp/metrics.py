"""The election's metrics, for whichever process exports them. `iname`: the router's name, as keepalived says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from scaleup.vrrp.daemon import Daemon
from scaleup.vrrp.instance import ROLES, Instance
from scaleup.vrrp.lateness import BOUNDS_SECONDS


def snapshot(daemon: Daemon, now: float) -> dict[str, Any]:
    """The counters as JSON, so that they can go over a channel."""
    return {
        "routers": [_of(instance, now) for instance in daemon.instances.values()],
        "checks": daemon.routers.checks(),
        "lateness": {"counts": daemon.lateness.counts, "total": daemon.lateness.total},
    }


def _of(instance: Instance, now: float) -> dict[str, Any]:
    return {
        "iname": instance.name,
        "vrid": instance.election.vrid,
        "interface": instance.election.interface or "",
        "role": instance.role,
        "priority": instance.election.priority,
        "effective_priority": instance.router.priority,
        "transitions": [[role, event, count] for (role, event), count in instance.transitions.items()],
        "sent": instance.sent,
        "received": instance.received,
        "dropped": dict(instance.dropped),
        "silence": {peer: now - heard for peer, heard in instance.last_heard.items()},
    }


class ElectionCollector(Collector):
    """`read` gives the newest snapshot, or {} before the first."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        values = self._read()
        if values:
            yield from _routers(values["routers"])
            yield from _checks(values["checks"])
            yield _lateness(values["lateness"])


def _routers(routers: list[dict[str, Any]]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "scaleup_vrrp_router_info", "1: there is such a router", labels=["iname", "vrid", "interface"]
    )
    state = GaugeMetricFamily("scaleup_vrrp_state", "1 for the role of this node", labels=["iname", "state"])
    priority = GaugeMetricFamily("scaleup_vrrp_priority", "As configured", labels=["iname"])
    effective = GaugeMetricFamily(
        "scaleup_vrrp_effective_priority", "With the weights of what it tracks", labels=["iname"]
    )
    transitions = CounterMetricFamily(
        "scaleup_vrrp_transitions", "Changes of role, by what made them", labels=["iname", "to", "cause"]
    )
    sent = CounterMetricFamily("scaleup_vrrp_advertisements_sent", "Sent", labels=["iname"])
    received = CounterMetricFamily("scaleup_vrrp_advertisements_received", "Accepted", labels=["iname"])
    dropped = CounterMetricFamily(
        "scaleup_vrrp_advertisements_dropped", "Dropped, by cause", labels=["iname", "cause"]
    )
    silence = GaugeMetricFamily(
        "scaleup_vrrp_peer_silence_seconds", "Since the peer's last advertisement", labels=["iname", "peer"]
    )
    for it in routers:
        name = it["iname"]
        info.add_metric([name, str(it["vrid"]), it["interface"]], 1.0)
        for role in ROLES:
            state.add_metric([name, role], 1.0 if role == it["role"] else 0.0)
        priority.add_metric([name], it["priority"])
        effective.add_metric([name], it["effective_priority"])
        for role, event, count in it["transitions"]:
            transitions.add_metric([name, role, event], count)
        sent.add_metric([name], it["sent"])
        received.add_metric([name], it["received"])
        for cause, count in it["dropped"].items():
            dropped.add_metric([name, cause], count)
        for peer, seconds in it["silence"].items():
            silence.add_metric([name, peer], seconds)
    yield from (info, state, priority, effective, transitions, sent, received, dropped, silence)


def _checks(checks: dict[str, bool | None]) -> Iterator[Metric]:
    if checks:
        up = GaugeMetricFamily(
            "scaleup_vrrp_check_up",
            "1: what is tracked is well; no series before its first result",
            labels=["check"],
        )
        for name, passed in checks.items():
            if passed is not None:
                up.add_metric([name], float(passed))
        yield up


def _lateness(values: dict[str, Any]) -> Metric:
    bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(values["counts"]), strict=True))
    return HistogramMetricFamily(
        "scaleup_vrrp_timer_lateness_seconds",
        "From when the timer was due until its turn",
        buckets=buckets,
        sum_value=values["total"],
    )
