"""What several workers count, as one."""

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from scaleup.processes.summed import Family, Summed, families

UP = "scaleup_web_upstream_up"


class Worker:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answered = Counter("scaleup_web_requests", "Answered", ["code"], registry=self.registry)
        self.waiting = Gauge("scaleup_web_waiting", "Waiting", registry=self.registry)
        self.up = Gauge(UP, "Up", ["server"], registry=self.registry)
        Counter("python_gc_things", "Not to be summed", registry=self.registry)

    def told(self) -> list[Family]:
        """As it comes over the channel."""
        return json.loads(json.dumps(families(self.registry, "scaleup_web_")))  # type: ignore[no-any-return]


@pytest.fixture
def summed() -> Summed:
    return Summed([UP])


def shown(summed: Summed, comments: bool = False) -> list[str]:
    registry = CollectorRegistry()
    registry.register(summed)
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if line.startswith("# TYPE") is comments and not line.startswith("# HELP")]


def test_metrics_are_summed_and_counters_outlive_their_workers(summed: Summed) -> None:
    first, second = Worker(), Worker()
    first.answered.labels("2xx").inc(3)
    second.answered.labels("2xx").inc(4)
    first.waiting.set(1)
    second.waiting.set(2)
    summed.told(0, first.told())
    summed.told("another", second.told())
    answered = 'scaleup_web_requests_total{code="2xx"}'
    assert shown(summed) == [f"{answered} 7.0", "scaleup_web_waiting 3.0"]
    summed.ended(0)
    assert shown(summed) == [f"{answered} 7.0", "scaleup_web_waiting 2.0"]
    first.answered.labels("4xx").inc(1)
    summed.told(0, first.told())
    assert shown(summed) == [
        f"{answered} 10.0",
        'scaleup_web_requests_total{code="4xx"} 1.0',
        "scaleup_web_waiting 3.0",
    ]


def test_of_some_gauges_the_least_counts(summed: Summed) -> None:
    for key, up in enumerate((1, 0, 1)):
        worker = Worker()
        worker.up.labels("app1").set(up)
        worker.up.labels("app2").set(1)
        summed.told(key, worker.told())
    assert shown(summed)[1:] == [f'{UP}{{server="app1"}} 0.0', f'{UP}{{server="app2"}} 1.0']


def test_what_has_no_value_yet_is_there_all_the_same(summed: Summed) -> None:
    """So that a dashboard's metric can be told from one that does not exist."""
    summed.told(0, Worker().told())
    assert shown(summed, comments=True) == [
        "# TYPE scaleup_web_requests_total counter",
        "# TYPE scaleup_web_waiting gauge",
        f"# TYPE {UP} gauge",
    ]
