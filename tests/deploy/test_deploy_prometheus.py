"""Debian's Prometheus scrapes every process of a running stack, by the configuration in deploy/."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.running import RunningStack, start_stack, stop_stack
from needs import SEARCH_PATH, requires

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PREFIX = "127.0.87"
PROMETHEUS = f"http://{PREFIX}.9:9090"
PROMTOOL = {"PATH": SEARCH_PATH}
SECONDS = 40.0

pytestmark = [requires("prometheus", "promtool"), pytest.mark.timeout(300)]

ALERT = re.compile(r"- alert: (\w+)")
TESTED = re.compile(r"alertname: (\w+)")
METRIC = re.compile(r"\b(?:scaleup|process)_\w+")


def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)  # between two looks


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as response:
        return str(response.read().decode())


def ask(path: str, **parameters: str) -> Any:
    """Prometheus's HTTP API."""
    answer = json.loads(fetch(f"{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
    assert answer["status"] == "success"
    return answer["data"]


def targets() -> dict[tuple[str, str], str]:
    """The health of each: `up`, `down` or `unknown`, by job and instance."""
    return {
        (it["labels"]["job"], it["labels"]["instance"]): it["health"]
        for it in ask("targets")["activeTargets"]
    }


def results(query: str) -> list[dict[str, Any]]:
    """A process that did not answer one of the many scrapes has none until the next one."""
    found: list[dict[str, Any]] = ask("query", query=query)["result"]
    return found


def configuration(folder: Path) -> Path:
    """prometheus.yml but for this stack's addresses and a shorter interval; with the election alone as well."""
    text = (DEPLOY / "prometheus.yml").read_text()
    text = text.replace("10.0.0.", f"{PREFIX}.").replace("[alerts.yml]", f"[{DEPLOY}/alerts.yml]")
    text = text.replace("_interval: 5s", "_interval: 1s")
    text = re.sub(r"^# ( *(- job_name|static_configs|- \{))", r"  \1", text, flags=re.MULTILINE)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


@contextlib.contextmanager
def child(*command: str, log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=PROMTOOL, cwd=ROOT, stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


def election(number: int, priority: int, folder: Path) -> contextlib.AbstractContextManager[None]:
    here, there = f"{PREFIX}.{10 + number}", f"{PREFIX}.{13 - number}"
    return child(
        *(
            sys.executable,
            "-m",
            "scaleup.vrrp",
            "--vip",
            f"{PREFIX}.99",
            "--vrid",
            "52",
            "--node",
            f"lb{number}",
        ),
        *(
            "--source",
            here,
            "--peer",
            there,
            "--auth",
            "none",
            "--vrrp-port",
            "11299",
            "--priority",
            str(priority),
        ),
        *("--admin", f"{here}:9101"),
        log=folder / f"vrrp{number}.log",
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("prometheus")
    with contextlib.ExitStack() as exits:
        running = start_stack(PREFIX, "--engine", "embedded", "--workers", "2", "--admin-port", "9100")
        exits.callback(stop_stack, running)
        running.settled(SECONDS)
        for number, priority in ((1, 150), (2, 100)):
            exits.enter_context(election(number, priority, folder))
        arguments = (
            "prometheus",
            f"--config.file={configuration(folder)}",
            f"--storage.tsdb.path={folder}/data",
        )
        log = folder / "prometheus.log"
        exits.enter_context(child(*arguments, f"--web.listen-address={PREFIX}.9:9090", log=log))

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return set(targets().values()) == {"up"}
            return False

        until(answers, lambda: (log.read_text(), targets()))
        for path in ("/", "/api/links/none"):
            with contextlib.suppress(urllib.error.HTTPError):
                fetch(running.url + path)
        yield running


def test_every_process_is_up_and_has_series(stack: RunningStack) -> None:
    names = {("lb", "lb1"), ("lb", "lb2"), ("vrrp", "lb1"), ("vrrp", "lb2"), ("db", "db")}
    names |= {(tier, f"{tier}{n}") for tier in ("web", "app") for n in (1, 2)}
    until(lambda: targets() == dict.fromkeys(names, "up"), targets)

    def counted() -> set[tuple[str, str]]:
        series = results('count by (job, instance) ({__name__=~"scaleup_.+"})')
        return {(it["metric"]["job"], it["metric"]["instance"]) for it in series}

    until(lambda: counted() == names, counted)


def test_a_load_balancer_answers_for_its_workers(stack: RunningStack) -> None:
    """Ten connections through two workers: one figure."""
    query = 'sum(scaleup_lb_frontend_sessions_total{job="lb"})'

    def total() -> float:
        return sum(float(it["value"][1]) for it in results(query))

    until(lambda: len(results('up{job="lb"} == 1')) == 2, lambda: results("up"))
    before = total()
    for _ in range(10):
        fetch(f"{stack.url}/")
    until(lambda: total() >= before + 10, total)


def test_promtool_finds_nothing_in_any_of_their_metrics(stack: RunningStack) -> None:
    for target in ask("targets")["activeTargets"]:
        text = fetch(target["scrapeUrl"])
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            env=PROMTOOL,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        said = checked.stdout + checked.stderr
        assert (checked.returncode, said) == (0, ""), target["labels"]


def test_the_alerts_are_loaded_and_a_healthy_cluster_is_silent(stack: RunningStack) -> None:
    (group,) = ask("rules")["groups"]
    until(lambda: all(r["health"] == "ok" for r in ask("rules")["groups"][0]["rules"]), lambda: ask("rules"))
    assert [rule["name"] for rule in group["rules"]] == ALERT.findall((DEPLOY / "alerts.yml").read_text())

    def told() -> set[str]:
        return {it["labels"]["alertname"] for it in ask("alerts")["alerts"]}  # pending ones, too

    until(lambda: told() <= {"ElectionLate"}, told)  # of a machine that is busy, as this one may be


def test_the_dashboard_asks_for_metrics_that_exist(stack: RunningStack) -> None:
    """Each name is on somebody's /metrics, and Prometheus can evaluate each expression."""
    pages = [fetch(target["scrapeUrl"]) for target in ask("targets")["activeTargets"]]
    exist = {name for page in pages for name in re.findall(r"^(?:# TYPE )?(\w+)", page, re.MULTILINE)}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in panels:
        for target in panel["targets"]:
            wrong = set(METRIC.findall(target["expr"])) - exist
            assert not wrong, f"{panel['title']}: {wrong}"
            expression = target["expr"].replace("$__rate_interval", "4s").replace("$lb", ".*")
            ask("query", query=expression)  # raises when it does not parse: 400
    assert len(panels) > 30
    for name in METRIC.findall((DEPLOY / "alerts.yml").read_text()):
        assert name in exist


def test_most_panels_have_something_to_show(stack: RunningStack) -> None:
    """Only those of faults, which have not happened, are empty."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())

    def empty() -> set[str]:
        found = set()
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$__rate_interval", "10s").replace("$lb", ".*")
                if not ask("query", query=query)["result"]:
                    found.add(panel["title"])
        return found

    may_be = {
        "Advertisements dropped, by cause",
        "Exchanges with applications that failed",
        "Changes of role, by cause",
    }
    deadline = time.monotonic() + 30  # a rate takes two scrapes
    while not (left := empty()) <= may_be:
        assert time.monotonic() < deadline, left - may_be
        time.sleep(0.5)


def test_panels_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    tested = (DEPLOY / "alerts_test.yml").read_text()
    assert sorted(ALERT.findall((DEPLOY / "alerts.yml").read_text())) == sorted(set(TESTED.findall(tested)))
    for command in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            ["promtool", *command], env=PROMTOOL, cwd=DEPLOY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    config = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        env=PROMTOOL,
        cwd=DEPLOY,
        capture_output=True,
        check=False,
    )
    assert config.returncode == 0, config.stderr
