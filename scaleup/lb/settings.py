"""The settings of a load balancer, with HAProxy's words.

One proxy is said by flags: its `listen` and its `server`s. Several are said in cluster.toml, as frontends, each
with its backend; what stands in [lb] itself is then the default of all of them (HAProxy's section `defaults`):

    [lb]
    timeout_connect = 2

    [[lb.frontend]]
    name = "www"
    listen = ["10.0.0.100:80"]
    backend = "web"

    [[lb.backend]]
    name = "web"
    balance = "leastconn"
    server = ["web1=10.0.0.21:8080", "web2=10.0.0.22:8080"]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from scaleup.config import (
    EndpointField,
    FileOnly,
    Flag,
    NamedTable,
    NetworkField,
    Seconds,
    Settings,
    TierSettings,
    distinct,
)
from scaleup.config.faults import did_you_mean
from scaleup.net.addresses import Endpoint
from scaleup.processes.privileges import known_group, known_user
from scaleup.upstream.health import OnError
from scaleup.upstream.resolver_settings import ResolverSettings
from scaleup.upstream.server_settings import Servers, ServerSettings, distinct_servers
from scaleup.upstream.settings import CHECKS, UpstreamSettings
from scaleup.upstream.template import MAX_SLOTS, ServerTemplates
from scaleup.vrrp.election import Election

MAX_SOCKET_PATH_BYTES = 107
"""unix(7): sun_path, and the byte that ends it."""
TRAFFIC = "traffic"
LIMITS = "limits and time-outs"
MAX_NAMED_SERVERS = MAX_SLOTS
"""The workers are told the addresses of all of them in one message (scaleup.processes.channel)."""
MAX_WORKERS = 64
CORES = min(MAX_WORKERS, len(os.sched_getaffinity(0)))
MAX_ELECTED_SOCKETS = 128
"""The vrrp process is handed all of them in one message (scaleup.processes.channel)."""


class FrontendFields(Settings):
    """What can be said of a frontend: where clients come in, and what they may do."""

    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", TRAFFIC)] = Field(
        (), description="where clients connect; on a --vip, only while Active; repeatable"
    )
    maxconn: Annotated[int, Flag("N", LIMITS)] = Field(
        4000, ge=1, description="connections at a time; more wait in the kernel's queue"
    )
    source_maxconn: Annotated[int, Flag("N", LIMITS)] = Field(
        0, ge=0, description="connections at a time of one client (IPv6: one /64), per worker; 0: no limit"
    )
    source_rate: Annotated[int, Flag("N", LIMITS)] = Field(
        0,
        ge=0,
        description="connections that one client may make in --source-period, per worker; 0: no limit",
    )
    source_period: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        10.0, description="for which --source-rate is said"
    )
    timeout_client: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        50.0, description="inactivity of the client"
    )
    timeout_client_fin: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        10.0, description="inactivity of the client once the server has finished sending"
    )

    accept_proxy: Annotated[tuple[NetworkField, ...], Flag("NETWORK", TRAFFIC)] = Field(
        (),
        description="clients there are proxies, whose connections must begin with a PROXY header (v1 or v2); "
        "nobody else may connect; repeatable",
    )


class BackendFields(UpstreamSettings):
    """What can be said of a backend: its servers, and how one is chosen and reached."""

    server: Annotated[Servers, Flag("[NAME=]HOST:PORT[,weight=N][,maxconn=N]", TRAFFIC)] = Field(
        (), description="a server of the backend; repeatable"
    )
    server_template: Annotated[ServerTemplates, Flag("'PREFIX N|A-B NAME:PORT[,…]'", TRAFFIC)] = Field(
        (), description="servers for the addresses of a name, or of SRV records (without a port); repeatable"
    )
    send_proxy: Annotated[Literal["off", "v1", "v2"], Flag(None, TRAFFIC)] = Field(
        "off", description="tell servers by a PROXY header who the client is; they must expect it"
    )
    observe: Annotated[Literal["off", "layer4"], Flag(None, "servers")] = Field(
        "layer4", description="whether clients' connections that do not reach a server count against it"
    )
    error_limit: Annotated[int, Flag("N", "servers")] = Field(
        10, ge=1, le=1_000_000, description="so many of them in a row, on all workers, are an error"
    )
    on_error: Annotated[OnError, Flag(None, "servers")] = Field(
        "fail-check", description="what follows: the next check within fastinter; that and a failed check; …"
    )
    queue: Annotated[int, Flag("N", LIMITS)] = Field(
        1000, ge=0, description="connections per worker that may wait for a slot when all servers are full"
    )
    retries: Annotated[int, Flag("N", LIMITS)] = Field(
        3, ge=0, le=100, description="further attempts to connect after the first has failed"
    )
    redispatch: Annotated[int, Flag("N", LIMITS)] = Field(
        1, ge=-1, description="every Nth retry goes to another server; -1: only the last; 0: none"
    )
    timeout_connect: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        5.0, description="for one attempt to connect to a server"
    )
    timeout_queue: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        5.0, description="for a slot when all servers are full"
    )
    timeout_server: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        50.0, description="inactivity of the server"
    )
    timeout_server_fin: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        50.0, description="inactivity of the server once the client has finished sending"
    )

    @property
    def servers(self) -> tuple[ServerSettings, ...]:
        """All of them, in their order: those of templates last."""
        return self.server + tuple(server for template in self.server_template for server in template.servers)

    @model_validator(mode="after")
    def _servers_can_be_told_apart(self) -> Self:
        distinct_servers(self.servers)
        return self


class FrontendTable(NamedTable, FrontendFields):
    """[[lb.frontend]]"""

    backend: str = Field(
        "",
        min_length=1,
        validate_default=False,
        description="where its connections go; needs no saying if there is one",
    )


class BackendTable(NamedTable, BackendFields):
    """[[lb.backend]]"""


class LbSettings(FrontendFields, BackendFields, ResolverSettings, Election, TierSettings):
    """Relay TCP connections to servers, and elect with other nodes who owns the virtual address.

    Without --vip it is a plain load balancer.
    """

    tier: ClassVar[str] = "lb"
    examples: ClassVar[str] = """
examples:
  python -m scaleup.lb --listen :80 --server 10.0.0.21:8080 --server web2=10.0.0.22:8080,weight=2
  python -m scaleup.lb --listen 127.0.0.100:8080 --server 127.0.0.21:8080 \\
                       --vip 127.0.0.100 --source 127.0.0.11 --peer 127.0.0.12 --auth hmac:key
"""

    hard_stop_after: Annotated[float, Flag("SECONDS", LIMITS)] = Field(
        600.0,
        ge=0,
        le=86400,
        description="after a reload, how long sessions under the old settings may go on; all of them after SIGUSR1",
    )
    max_checks: Annotated[int, Flag("N", CHECKS)] = Field(
        100, ge=1, le=10_000, description="checks of all backends at a time; more wait for their turn"
    )
    workers: Annotated[int, Flag("N", TRAFFIC)] = Field(
        CORES,
        ge=1,
        le=MAX_WORKERS,
        description="processes that relay; the default: one for each core it may use",
    )
    user: Annotated[str | None, AfterValidator(known_user), Flag("NAME", "this process")] = Field(
        None, description="whom the workers become, once their sockets are open; the node stays who it is"
    )
    group: Annotated[str | None, AfterValidator(known_group), Flag("NAME", "this process")] = Field(
        None, description="the same; default: the group of --user"
    )
    runtime_socket: Annotated[Path | None, Flag("PATH", "this process")] = Field(
        None, description="answer HAProxy's commands (show stat, set server, …) on this Unix socket, mode 600"
    )
    log_connections: Annotated[bool, Flag(None, "this process")] = Field(
        False,
        description="a line for each connection that has ended: HAProxy's option tcplog, or an object "
        "when --log-format is json",
    )
    frontend: Annotated[tuple[FrontendTable, ...], FileOnly()] = Field(
        (), description="instead of listen: several, each with its backend"
    )
    backend: Annotated[tuple[BackendTable, ...], FileOnly()] = Field((), description="instead of server")

    @field_validator("runtime_socket")
    @classmethod
    def _can_be_bound(cls, path: Path | None) -> Path | None:
        if path is not None and len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(
                f"it is longer than the {MAX_SOCKET_PATH_BYTES} bytes that a socket's path may have"
            )
        return path

    @model_validator(mode="after")
    def _is_one_proxy_or_several(self) -> Self:
        if not (self.frontend or self.backend):
            if not self.listen:
                raise ValueError(
                    "listen is not set: say --listen, SCALEUP_LB_LISTEN or the key 'listen' of [lb]"
                )
            if not self.servers:
                raise ValueError(
                    "server is not set: say --server, SCALEUP_LB_SERVER or the key 'server' of [lb]"
                )
            return self
        if self.listen or self.servers:
            raise ValueError(
                "listen and server say one proxy, [[lb.frontend]] and [[lb.backend]] several: "
                "write one or the other"
            )
        distinct("[[lb.frontend]]", self.frontend)
        distinct("[[lb.backend]]", self.backend)
        backends = [backend.name for backend in self.backend]
        for frontend in self.frontend:
            if not frontend.listen:
                raise ValueError(f"frontend {frontend.name}: it has no listen, so nobody can connect to it")
            if not frontend.backend and len(backends) != 1:
                raise ValueError(f"frontend {frontend.name}: say its backend, one of {', '.join(backends)}")
            if frontend.backend and frontend.backend not in backends:
                hint = did_you_mean(frontend.backend, backends)
                raise ValueError(f"frontend {frontend.name}: there is no backend {frontend.backend!r}{hint}")
        for backend in self.backend:
            if not backend.servers:
                raise ValueError(f"backend {backend.name}: it has no server")
        if not self.frontend:
            raise ValueError("there is a [[lb.backend]] and no [[lb.frontend]]: nobody can connect")
        return self

    @model_validator(mode="after")
    def _listens_well(self) -> Self:
        if twice := [endpoint for endpoint in self.endpoints if self.endpoints.count(endpoint) > 1]:
            raise ValueError(f"--listen says one address twice, {twice[0]}: keep one")
        if self.vip and not self.elected:
            virtual = ", ".join(str(interface.ip) for interface in self.vip)
            raise ValueError(f"--vip {virtual}: no --listen is on it, so there is nothing to own")
        for endpoint in self.elected:
            if endpoint.port == 0:
                raise ValueError(
                    f"--listen {endpoint}: on a --vip all nodes listen on the same port: say which"
                )
        if self.workers * len(self.elected) > MAX_ELECTED_SOCKETS:
            raise ValueError(
                f"--workers {self.workers} with {len(self.elected)} --listen on a --vip: "
                f"more than {MAX_ELECTED_SOCKETS} sockets for the election to guard; say fewer workers"
            )
        return self

    @model_validator(mode="after")
    def _can_check(self) -> Self:
        for backend in self.backends:
            try:
                backend.refuse_contradictions()
            except ValueError as error:
                raise ValueError(f"backend {backend.name}: {error}" if self.backend else str(error)) from None
        return self

    @model_validator(mode="after")
    def _can_dial(self) -> Self:
        servers = [server for backend in self.backends for server in backend.servers]
        named = [server for server in servers if server.address.address is None]
        if len(named) > MAX_NAMED_SERVERS:
            raise ValueError(
                f"{len(named)} servers by name: {MAX_NAMED_SERVERS} can be; make the templates smaller"
            )
        for server in servers:
            address = server.address.address
            if self.source and address and address.version != self.source.version:
                raise ValueError(f"--server {server.address} cannot be reached from --source {self.source}")
        return self

    @property
    def frontends(self) -> tuple[FrontendTable, ...]:
        """Each whole, with the defaults and its backend's name. The one that is said by flags is called `lb`."""
        defaults = {name: getattr(self, name) for name in FrontendFields.model_fields}
        if not self.frontend:
            return (FrontendTable.model_construct(None, name=self.tier, backend=self.tier, **defaults),)
        defaults["backend"] = self.backend[0].name
        return tuple(
            FrontendTable.model_construct(None, **{**defaults, **table.said()}) for table in self.frontend
        )

    @property
    def backends(self) -> tuple[BackendTable, ...]:
        defaults = {name: getattr(self, name) for name in BackendFields.model_fields}
        if not self.backend:
            return (BackendTable.model_construct(None, name=self.tier, **defaults),)
        return tuple(
            BackendTable.model_construct(None, **{**defaults, **table.said()}) for table in self.backend
        )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Of all frontends, in their order."""
        return tuple(endpoint for frontend in self.frontends for endpoint in frontend.listen)

    @property
    def elected(self) -> tuple[Endpoint, ...]:
        """The endpoints on a virtual address: they listen only while this node is Active."""
        return tuple(filter(self.is_virtual, self.endpoints))

    def is_virtual(self, endpoint: Endpoint) -> bool:
        return endpoint.address in {interface.ip for interface in self.vip}
