"""`python -m scaleup.vrrp doctor`, with the flags that the election would get: what is in its way, and the cure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import ClassVar, NoReturn

from scaleup.config import load
from scaleup.errors import ScaleUpError
from scaleup.vrrp.doctor import judge
from scaleup.vrrp.doctor_facts import Finding
from scaleup.vrrp.doctor_look import gather
from scaleup.vrrp.settings import RouterSettings, VrrpSettings

JSON = "--json"


class DoctorSettings(VrrpSettings):
    """Say what would be in the way of an election with these flags, and the cure. It listens for a few intervals,
    changes nothing and sends no advertisement. Exits with 1 when a finding is an error. With --json: for programs.
    """

    command: ClassVar[str] = "doctor"
    examples: ClassVar[str] = """
example:
  python -m scaleup.vrrp doctor --interface eth0 --vrid 51 --priority 150 --vip 10.0.0.100/24 --interval 0.1
"""


def main(argv: Sequence[str]) -> NoReturn:
    """Exits with 1 when a finding is an error, else with 0; wrong settings end it as they end the election."""
    try:
        routers = load(DoctorSettings, [word for word in argv if word != JSON]).settings.routers
        findings = examine(routers)
    except ScaleUpError as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    if JSON in argv:
        told = [{"router": name, **asdict(it)} for name, its in findings.items() for it in its]
        print(json.dumps(told, indent=1))  # noqa: T201
    else:
        print("\n".join(report(findings)))  # noqa: T201
    raise SystemExit(any(it.level == "error" for its in findings.values() for it in its))


def examine(routers: Sequence[RouterSettings]) -> dict[str, list[Finding]]:
    """Findings by the router's name. All are listened for at the same time. Raises ScaleUpError."""
    with ThreadPoolExecutor(max_workers=len(routers)) as pool:
        facts = list(pool.map(gather, routers))
    return {it.name: judge(it, it.codec(), its) for it, its in zip(routers, facts, strict=True)}


def report(findings: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    """Lines; of several routers each has a heading, and what all have in common stands above the first."""
    if len(findings) == 1:
        yield from map(line, *findings.values())
        return
    common = set.intersection(*map(set, findings.values()))
    first = next(iter(findings.values()))
    yield from (line(it) for it in first if it in common)
    for name, its in findings.items():
        yield f"\n{name}:"
        yield from (line(it) for it in its if it not in common)


def line(finding: Finding) -> str:
    cure = f"; {finding.cure}" if finding.cure else ""
    return f"{finding.level:<8} {finding.check:<11} {finding.says}{cure}"
