"""The election's metrics, for whichever process exports them."""

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
from scaleup.vrrp.instance import ROLES
from scaleup.vrrp.lateness import BOUNDS_SECONDS


def snapshot(daemon: Daemon, now: float) -> dict[str, Any]:
    """The counters of a daemon with one router as JSON, so that they can go over a channel."""
    (instance,) = daemon.instances.values()
    return {
        "role": instance.role,
        "transitions": [[role, event, count] for (role, event), count in instance.transitions.items()],
        "sent": instance.sent,
        "received": instance.received,
        "dropped": dict(instance.dropped),
        "lateness": {"counts": daemon.lateness.counts, "total": daemon.lateness.total},
        "silence": {peer: now - heard for peer, heard in instance.last_heard.items()},
    }


class ElectionCollector(Collector):
    """`read` gives the newest snapshot, or {} before the first."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        values = self._read()
        if not values:
            return
        state = GaugeMetricFamily("scaleup_vrrp_state", "1 for the role of this node", labels=["state"])
        for role in ROLES:
            state.add_metric([role], 1.0 if role == values["role"] else 0.0)
        yield state
        transitions = CounterMetricFamily(
            "scaleup_vrrp_transitions", "Changes of role, by what made them", labels=["to", "cause"]
        )
        for role, event, count in values["transitions"]:
            transitions.add_metric([role, event], count)
        yield transitions
        yield CounterMetricFamily("scaleup_vrrp_advertisements_sent", "Sent", value=values["sent"])
        yield CounterMetricFamily(
            "scaleup_vrrp_advertisements_received", "Accepted", value=values["received"]
        )
        dropped = CounterMetricFamily(
            "scaleup_vrrp_advertisements_dropped", "Dropped, by cause", labels=["cause"]
        )
        for cause, count in values["dropped"].items():
            dropped.add_metric([cause], count)
        yield dropped
        yield _lateness(values["lateness"])
        silence = GaugeMetricFamily(
            "scaleup_vrrp_peer_silence_seconds", "Since the peer's last advertisement", labels=["peer"]
        )
        for peer, seconds in values["silence"].items():
            silence.add_metric([peer], seconds)
        yield silence


def _lateness(values: dict[str, Any]) -> Metric:
    bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(values["counts"]), strict=True))
    return HistogramMetricFamily(
        "scaleup_vrrp_timer_lateness_seconds",
        "From when the timer was due until its turn",
        buckets=buckets,
        sum_value=values["total"],
    )
