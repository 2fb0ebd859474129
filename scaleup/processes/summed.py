"""What several workers count, as one: their sum.

A worker's counters live on in it when the worker has ended, so that a counter never goes back, as Prometheus
expects of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Family = tuple[str, str, str, Sequence[tuple[dict[str, str], float]]]
"""Type, name, text, samples: labels and value. What a worker tells its parent."""


def families(registry: CollectorRegistry, prefix: str) -> list[Family]:
    """Counters and gauges with that prefix; what is about a process alone has no sum."""
    return [
        (
            family.type,
            family.name,
            family.documentation,
            [
                (sample.labels, sample.value)
                for sample in family.samples
                if not sample.name.endswith("_created")
            ],
        )
        for family in registry.collect()
        if family.name.startswith(prefix)
    ]


class Summed(Collector):
    """The sum over all workers, by any keys of theirs; of the gauges in `least` the least."""

    def __init__(self, least: Iterable[str] = ()) -> None:
        self._least = frozenset(least)
        self._living: dict[Hashable, Sequence[Family]] = {}
        self._ended: list[Family] = []

    def told(self, worker: Hashable, its_families: Sequence[Family]) -> None:
        """The newest of a worker, as they came over the channel."""
        self._living[worker] = its_families

    def ended(self, worker: Hashable) -> None:
        counters = [family for family in self._living.pop(worker, ()) if family[0] == "counter"]
        self._ended = list(self._joined([*self._ended, *counters]))

    def collect(self) -> Iterator[Metric]:
        for kind, name, text, samples in self._joined([*self._ended, *chain(*self._living.values())]):
            make: Any = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            labels = list(samples[0][0]) if samples else []
            family = make(name, text, labels=labels)
            for values, value in samples:
                family.add_metric([values[label] for label in labels], value)
            yield family

    def _joined(self, all_families: Iterable[Family]) -> Iterator[Family]:
        """One of each name, with one sample for each set of labels."""
        described: dict[str, tuple[str, str]] = {}
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for kind, name, text, samples in all_families:
            described[name] = kind, text
            sums = found.setdefault(name, {})
            for labels, value in samples:
                key = tuple(labels.items())
                if key not in sums:
                    sums[key] = value
                elif name in self._least:
                    sums[key] = min(sums[key], value)
                else:
                    sums[key] += value
        for name, (kind, text) in described.items():
            yield kind, name, text, [(dict(key), value) for key, value in found[name].items()]
