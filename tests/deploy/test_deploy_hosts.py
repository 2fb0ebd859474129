"""The cluster of deploy/cluster.toml on hosts of its own, and each tier of it exchanged: the same test passes.

Every host is a network namespace with the address that the file gives it. What is exchanged runs with the file of
deploy/, with no more changed than what its comments say.
"""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.serving import assert_serves
from needs import requires
from vrrp.lan import until

from bench.lan import DEVICE, Host, Lan, end, may_make_namespaces, signal_all

DEPLOY = Path(__file__).parents[2] / "deploy"
HOSTS = {"lb1": 11, "lb2": 12, "web1": 21, "web2": 22, "app1": 31, "db": 41, "client": 99}
VIP = "10.0.0.100"

pytestmark = [
    requires("ip", "curl", "haproxy", "keepalived", "nginx"),
    pytest.mark.skipif(not may_make_namespaces(), reason="network namespaces need root, with CAP_SYS_ADMIN"),
    pytest.mark.timeout(300),
]


@dataclass
class Cluster:
    lan: Lan
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def host(self, name: str) -> Host:
        return self.lan.host(name)

    def log(self, host: Host, what: str) -> Path:
        return self.folder / f"{host.name}-{what}.log"

    def file(self, name: str, change: Callable[[str], str], host: Host | None = None) -> str:
        """A file of deploy/, changed."""
        path = self.folder / f"{host.name if host else 'each'}-{name}"
        path.write_text(change((DEPLOY / name).read_text()))
        return str(path)

    def ours(self, host: Host, tier: str, *more: str, config: str = f"{DEPLOY}/cluster.toml") -> None:
        arguments = ("-m", f"scaleup.{tier}", "--config", config, "--node", host.name, *more)
        self.started.append(host.python(*arguments, log=self.log(host, tier)))

    def theirs(self, host: Host, *command: str) -> None:
        self.started.append(host.start(*command, log=self.log(host, command[0])))

    def stop(self) -> None:
        while self.started:
            end(self.started.pop())

    def serves(self) -> bool:
        with self.host("client").entered():
            try:
                assert_serves(VIP, client="10.0.0.99")
            except (OSError, http.client.HTTPException, AssertionError) as error:
                print(f"not yet: {error!r}")
                return False
        return True


# ----- what can stand in each place -----------------------------------------------------------------


def our_balancer(cluster: Cluster, host: Host) -> None:
    """With its own election."""
    cluster.ours(host, "lb")


def our_balancer_alone(cluster: Cluster, host: Host) -> None:
    def without_election(text: str) -> str:
        balancer, election, rest = text.partition("\n# The same election by itself")
        return (
            re.sub(r"^(vip|interface|vrid|priority) = .*\n", "", balancer, flags=re.MULTILINE)
            + election
            + rest
        )

    cluster.ours(host, "lb", config=cluster.file("cluster.toml", without_election))


def our_election(cluster: Cluster, host: Host) -> None:
    cluster.ours(host, "vrrp")


def haproxy(cluster: Cluster, host: Host) -> None:
    def on_hosts(text: str) -> str:
        text = text.replace("bind 127.0.0.101:8080", f"bind {VIP}:80 transparent")
        return re.sub(r"(server \w+) 127\.0\.0\.(.*)", r"\1 10.0.0.\2 send-proxy-v2 check-send-proxy", text)

    cluster.theirs(host, "haproxy", "-db", "-f", cluster.file("haproxy.cfg", on_hosts))


def keepalived(health: str) -> Callable[[Cluster, Host], None]:
    """`health`: where it asks for the balancer's."""

    def start(cluster: Cluster, host: Host) -> None:
        def asking(text: str) -> str:
            return re.sub(r"http://10\.0\.0\.\d+:9100/readyz", health, text) if health else text

        for left in cluster.folder.glob(f"{host.name}-*pid"):
            left.unlink()
        cluster.theirs(
            host,
            *("keepalived", "--dont-fork", "--log-console", "--vrrp", f"--config-id={host.name}"),
            f"--use-file={cluster.file('keepalived.conf', asking, host)}",
            *(f"--pid={cluster.folder}/{host.name}-pid", f"--vrrp_pid={cluster.folder}/{host.name}-vrrp.pid"),
        )

    return start


def our_web(cluster: Cluster, host: Host) -> None:
    cluster.ours(host, "web")


def nginx(cluster: Cluster, host: Host) -> None:
    def on_hosts(text: str) -> str:
        told = "listen 8080 proxy_protocol; set_real_ip_from 10.0.0.0/24; real_ip_header proxy_protocol"
        text = text.replace("listen 127.0.0.29:8080", told).replace("127.0.0.", "10.0.0.")
        return text.replace("/tmp/scaleup-nginx", f"{cluster.folder}/{host.name}-nginx")

    path = cluster.file("nginx.conf", on_hosts, host)
    cluster.theirs(host, "nginx", "-p", str(DEPLOY.parent), "-c", path, "-g", "daemon off; user root;")


BALANCERS = (our_balancer, our_balancer_alone, haproxy)

CLUSTERS = {
    "ours": ((our_balancer,), our_web),
    "haproxy": ((haproxy, our_election), our_web),
    "keepalived": ((our_balancer_alone, keepalived("")), our_web),
    "nginx": ((our_balancer,), nginx),
    "all": ((haproxy, keepalived("http://127.0.0.1:8404/healthz")), nginx),
}


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The hosts, with what stays: the database and an application."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "password").write_text("secret of this test\n")
    with Lan(*HOSTS) as lan:
        for name, number in HOSTS.items():
            host = lan.host(name)
            host.ip("address", "del", f"{host.ipv4}/24", "dev", DEVICE)
            host.ip("address", "add", f"10.0.0.{number}/24", "dev", DEVICE)
        cluster = Cluster(lan, folder)
        password = f"--password-file={folder}/password"
        cluster.ours(lan.host("db"), "db", "--engine=embedded", f"--data={folder}/data", password)
        cluster.ours(lan.host("app1"), "app", f"--database{password[1:]}")
        cluster.started.clear()  # they end with the hosts
        yield cluster


@pytest.fixture
def cluster(back: Cluster) -> Iterator[Cluster]:
    try:
        yield back
    finally:
        back.stop()
        for path in sorted(back.folder.glob("*.log")):
            print(f"--- {path.name}\n{path.read_text()[-3000:]}")


# Nothing exchanged, and everything; each by itself in `make soak`.
SOAKED = CLUSTERS.keys() - {"ours", "all"}


@pytest.mark.parametrize(
    "exchanged", [pytest.param(it, marks=[pytest.mark.soak] * (it in SOAKED)) for it in CLUSTERS]
)
def test_the_same_cluster_serves_and_survives(cluster: Cluster, exchanged: str) -> None:
    front, web = CLUSTERS[exchanged]
    lb1, lb2 = cluster.host("lb1"), cluster.host("lb2")
    balancers: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("web1", "web2"):
        web(cluster, cluster.host(name))
    for host in (lb1, lb2):
        for program in front:
            program(cluster, host)
            if program in BALANCERS:
                balancers[host.name] = cluster.started[-1]

    def settled() -> None:
        until(lambda: lb1.has(VIP) and not lb2.has(VIP), "the preferred host has the address, alone", 90.0)
        until(cluster.serves, "the cluster serves")

    def taken_over(what: str) -> None:
        until(lambda: lb2.has(VIP), f"{what}: the other host has the address")
        until(cluster.serves, f"{what}: the cluster serves")

    settled()

    signal_all(balancers["lb1"], signal.SIGKILL)
    taken_over("the balancer was killed")
    balancer = next(program for program in front if program in BALANCERS)
    balancer(cluster, lb1)
    settled()

    cluster.lan.unplug(lb1)
    taken_over("the cable was pulled")
    cluster.lan.plug(lb1)
    settled()

    signal_all(cluster.started[0], signal.SIGKILL)  # web1
    until(cluster.serves, "one web server is enough")
