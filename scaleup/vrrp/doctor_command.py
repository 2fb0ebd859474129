"""`python -m scaleup.vrrp doctor`, with the flags that the election would get: what is in its way, and the cure."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import NoReturn

from scaleup.config import load
from scaleup.errors import ScaleUpError
from scaleup.vrrp.doctor import judge
from scaleup.vrrp.doctor_facts import Finding
from scaleup.vrrp.doctor_look import gather
from scaleup.vrrp.settings import VrrpSettings

JSON = "--json"


def main(argv: Sequence[str]) -> NoReturn:
    """Exits with 1 when a finding is an error, else with 0; wrong settings end it as they end the election."""
    try:
        settings = load(VrrpSettings, [word for word in argv if word != JSON]).settings
        findings = judge(settings, settings.codec(), gather(settings))
    except ScaleUpError as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    if JSON in argv:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))  # noqa: T201
    else:
        for finding in findings:
            print(line(finding))  # noqa: T201
    raise SystemExit(any(finding.level == "error" for finding in findings))


def line(finding: Finding) -> str:
    cure = f"; {finding.cure}" if finding.cure else ""
    return f"{finding.level:<8} {finding.check:<11} {finding.says}{cure}"
