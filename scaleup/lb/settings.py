"""The settings of a load balancer, with HAProxy's words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from scaleup.config import EndpointField, Flag, Seconds, TierSettings
from scaleup.net.addresses import Endpoint
from scaleup.upstream.settings import Servers, UpstreamSettings
from scaleup.vrrp.settings import Election

TRAFFIC = "traffic"
LIMITS = "limits and time-outs"
MAX_ELECTED_SOCKETS = 128
"""The vrrp process is handed all of them in one message (scaleup.processes.channel)."""


class LbSettings(UpstreamSettings, Election, TierSettings):
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

    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", TRAFFIC)] = Field(
        ..., min_length=1, description="where clients connect; on a --vip, only while Active; repeatable"
    )
    server: Annotated[Servers, Flag("[NAME=]HOST:PORT[,weight=N][,maxconn=N]", TRAFFIC)] = Field(
        ..., min_length=1, description="a server of the backend; repeatable"
    )
    workers: Annotated[int, Flag("N", TRAFFIC)] = Field(
        1, ge=1, le=64, description="processes that relay; as many as cores is the most that helps"
    )
    maxconn: Annotated[int, Flag("N", LIMITS)] = Field(
        4000, ge=1, description="connections at a time per worker; more wait in the kernel's queue"
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
    timeout_client: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        50.0, description="inactivity of the client"
    )
    timeout_server: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        50.0, description="inactivity of the server"
    )
    timeout_client_fin: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        10.0, description="inactivity of the client once the server has finished sending"
    )
    timeout_server_fin: Annotated[Seconds, Flag("SECONDS", LIMITS)] = Field(
        50.0, description="inactivity of the server once the client has finished sending"
    )

    @model_validator(mode="after")
    def _listens_well(self) -> Self:
        if len(set(self.listen)) < len(self.listen):
            raise ValueError("--listen says one address twice: keep one")
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
    def _can_dial(self) -> Self:
        for server in self.server:
            address = server.address.address
            if self.source and address and address.version != self.source.version:
                raise ValueError(f"--server {server.address} cannot be reached from --source {self.source}")
        return self

    @property
    def elected(self) -> tuple[Endpoint, ...]:
        """The endpoints on a virtual address: they listen only while this node is Active."""
        virtual = {interface.ip for interface in self.vip}
        return tuple(endpoint for endpoint in self.listen if endpoint.address in virtual)

    @property
    def plain(self) -> tuple[Endpoint, ...]:
        """The endpoints that always listen."""
        return tuple(endpoint for endpoint in self.listen if endpoint not in self.elected)
