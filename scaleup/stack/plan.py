"""Which processes the stack has: names, addresses, command lines, and the order of need.

Addresses end with the tier's tens and the number: .11 is lb1, .22 web2, .31 app1, .41 the database,
.100 the virtual address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class Files:
    """What processes are to read. The first three are secrets, which only their owner can read.

    `proxies`: `proxies_of`, as TOML. `data`: the database's directory.
    """

    vrrp_key: Path
    database_password: Path
    certificate_key: Path
    certificate: Path
    proxies: Path
    data: Path


def virtual_endpoint(settings: UpSettings) -> Endpoint:
    return Endpoint(str(settings.address(100)), settings.port)


def virtual_tls_endpoint(settings: UpSettings) -> Endpoint:
    return Endpoint(str(settings.address(100)), settings.tls_port)


def make_plan(settings: UpSettings, files: Files) -> list[Spec]:
    """All processes, in the order of need."""
    database = Endpoint(str(settings.address(41)), 3306)
    apps = {f"app{n}": Endpoint(str(settings.address(30 + n)), 3000) for n in _numbers(settings.apps)}
    lbs = {f"lb{n}": str(settings.address(10 + n)) for n in _numbers(settings.lbs)}
    specs = [_database(settings, database, files)]
    specs += [_application(settings, name, endpoint, database, files) for name, endpoint in apps.items()]
    specs += [_web(settings, name, host, apps, lbs, files) for name, host in _webs(settings).items()]
    specs += [_load_balancer(settings, name, lbs, files) for name in lbs]
    return specs


def proxies_of(settings: UpSettings) -> dict[str, Any]:
    """The load balancers' frontends and backends. HTTPS goes through them as it is; the web servers speak TLS."""
    plain, tls = settings.port, settings.tls_port
    webs = _webs(settings).items()
    http = [f"{name}={Endpoint(host, plain)}" for name, host in webs]
    https = [f"{name}={Endpoint(host, tls)},port={plain}" for name, host in webs]  # checked at the other port
    return {
        "lb": {
            "frontend": [
                {"name": "http", "listen": [str(virtual_endpoint(settings))], "backend": "http"},
                {"name": "https", "listen": [str(virtual_tls_endpoint(settings))], "backend": "https"},
            ],
            "backend": [{"name": "http", "server": http}, {"name": "https", "server": https}],
        }
    }


def _webs(settings: UpSettings) -> dict[str, str]:
    return {f"web{n}": str(settings.address(20 + n)) for n in _numbers(settings.webs)}


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _database(settings: UpSettings, endpoint: Endpoint, files: Files) -> Spec:
    arguments = (
        *_common(settings, "db", "db", endpoint.host),
        *("--listen", str(endpoint), "--engine", settings.engine, "--data", str(files.data)),
        *("--password-file", str(files.database_password)),
    )
    return Spec("db", "db", endpoint, arguments)


def _application(
    settings: UpSettings, name: str, endpoint: Endpoint, database: Endpoint, files: Files
) -> Spec:
    arguments = (
        *_common(settings, "app", name, endpoint.host),
        *("--listen", str(endpoint), "--database", f"mysql://scaleup@{database}/scaleup"),
        *("--database-password-file", str(files.database_password)),
        *(word for host in _webs(settings).values() for word in ("--trusted-proxy", host)),
    )
    return Spec("app", name, endpoint, arguments)


def _web(
    settings: UpSettings,
    name: str,
    host: str,
    apps: dict[str, Endpoint],
    lbs: dict[str, str],
    files: Files,
) -> Spec:
    endpoint = Endpoint(host, settings.port)
    arguments = [*_common(settings, "web", name, host), "--listen", str(endpoint)]
    arguments += ["--listen-tls", str(Endpoint(host, settings.tls_port))]
    arguments += ["--tls", f"{files.certificate},{files.certificate_key}"]
    arguments += ["--root", str(settings.root)]
    for balancer in lbs.values():
        arguments += ["--accept-proxy", balancer]
    for app, address in apps.items():
        arguments += ["--app", f"{app}={address}"]
    return Spec("web", name, endpoint, (*arguments, *CHECKS))


def _load_balancer(settings: UpSettings, name: str, lbs: dict[str, str], files: Files) -> Spec:
    virtual = virtual_endpoint(settings)
    position = list(lbs).index(name)
    arguments = [*_common(settings, "lb", name, lbs[name]), "--config", str(files.proxies)]
    arguments += ["--source", lbs[name], "--send-proxy", "v2"]
    arguments += ["--workers", str(settings.workers)]
    arguments += ["--health-check", "http:/readyz", *CHECKS]
    if len(lbs) > 1:  # alone there is nobody to elect
        arguments += ["--vip", virtual.host, "--auth", f"hmac:{files.vrrp_key}"]
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
