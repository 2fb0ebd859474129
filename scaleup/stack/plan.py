"""Which processes the stack has: names, addresses, command lines, and the order of need.

Addresses end with the tier's tens and the number: .11 is lb1, .22 web2, .31 app1, .41 the database,
.100 the virtual address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scaleup.net.addresses import Endpoint
from scaleup.stack.settings import UpSettings

TIERS = ("db", "app", "web", "lb")
"""The order of need: each is started when the one before is ready, and stopped before it."""

FIRST_PRIORITY, PRIORITY_STEP = 150, 10

CHECKS = ("--inter", "0.5", "--fall", "2", "--rise", "1")
"""Quicker than a data centre's: a person is watching, and everything is on one machine."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One process. `arguments`: what follows `python -m`."""

    tier: str
    name: str
    endpoint: Endpoint
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Files that only their owner can read."""

    vrrp_key: Path
    database_password: Path


def virtual_endpoint(settings: UpSettings) -> Endpoint:
    return Endpoint(str(settings.address(100)), settings.port)


def make_plan(settings: UpSettings, secrets: Secrets, data: Path) -> list[Spec]:
    """All processes, in the order of need. `data`: the database's directory."""
    database = Endpoint(str(settings.address(41)), 3306)
    apps = {f"app{n}": Endpoint(str(settings.address(30 + n)), 3000) for n in _numbers(settings.apps)}
    webs = {
        f"web{n}": Endpoint(str(settings.address(20 + n)), settings.port) for n in _numbers(settings.webs)
    }
    lbs = {f"lb{n}": str(settings.address(10 + n)) for n in _numbers(settings.lbs)}
    specs = [_database(settings, database, secrets, data)]
    specs += [_application(settings, name, endpoint, database, secrets) for name, endpoint in apps.items()]
    specs += [_web(settings, name, endpoint, apps) for name, endpoint in webs.items()]
    specs += [_load_balancer(settings, name, lbs, webs, secrets) for name in lbs]
    return specs


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _database(settings: UpSettings, endpoint: Endpoint, secrets: Secrets, data: Path) -> Spec:
    arguments = (
        *_common(settings, "db", "db", endpoint.host),
        *("--listen", str(endpoint), "--engine", settings.engine, "--data", str(data)),
        *("--password-file", str(secrets.database_password)),
    )
    return Spec("db", "db", endpoint, arguments)


def _application(
    settings: UpSettings, name: str, endpoint: Endpoint, database: Endpoint, secrets: Secrets
) -> Spec:
    arguments = (
        *_common(settings, "app", name, endpoint.host),
        *("--listen", str(endpoint), "--database", f"mysql://scaleup@{database}/scaleup"),
        *("--database-password-file", str(secrets.database_password)),
    )
    return Spec("app", name, endpoint, arguments)


def _web(settings: UpSettings, name: str, endpoint: Endpoint, apps: dict[str, Endpoint]) -> Spec:
    arguments = [*_common(settings, "web", name, endpoint.host), "--listen", str(endpoint)]
    arguments += ["--root", str(settings.root)]
    for app, address in apps.items():
        arguments += ["--app", f"{app}={address}"]
    return Spec("web", name, endpoint, (*arguments, *CHECKS))


def _load_balancer(
    settings: UpSettings, name: str, lbs: dict[str, str], webs: dict[str, Endpoint], secrets: Secrets
) -> Spec:
    virtual = virtual_endpoint(settings)
    position = list(lbs).index(name)
    arguments = [*_common(settings, "lb", name, lbs[name]), "--listen", str(virtual)]
    arguments += ["--source", lbs[name]]
    arguments += ["--workers", str(settings.workers)]
    for web, address in webs.items():
        arguments += ["--server", f"{web}={address}"]
    arguments += ["--health-check", "http:/readyz", *CHECKS]
    if len(lbs) > 1:  # alone there is nobody to elect
        arguments += ["--vip", virtual.host, "--auth", f"hmac:{secrets.vrrp_key}"]
        arguments += ["--priority", str(FIRST_PRIORITY - PRIORITY_STEP * position)]
        arguments += ["--interval", f"{settings.interval:g}"]
        for other, peer in lbs.items():
            if other != name:
                arguments += ["--peer", peer]
    return Spec("lb", name, Endpoint(lbs[name], virtual.port), tuple(arguments))


def _common(settings: UpSettings, tier: str, name: str, host: str) -> tuple[str, ...]:
    port = settings.admin_port
    return (
        f"scaleup.{tier}",
        *("--node", name),
        *("--drain", f"{settings.drain:g}"),
        *("--log-format", settings.log_format),
        *("--log-level", settings.log_level),
        *(("--admin", str(Endpoint(host, port))) if port is not None else ()),
    )
