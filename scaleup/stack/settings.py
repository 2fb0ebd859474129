"""The settings of `python -m scaleup up`."""

from __future__ import annotations

import os
import tempfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import DirectoryPath, Field, model_validator

from scaleup.config import Flag, NetworkField, TierSettings

LOOPBACK = IPv4Network("127.0.0.0/8")

GROUP = "stack"


def default_run_dir() -> Path:
    """One per user, so that `status` finds what `up` has started.

    Not in XDG_RUNTIME_DIR, where root's database, which runs as another user, could not come in.
    """
    return Path(tempfile.gettempdir()) / f"scaleup-{os.getuid()}"


class UpSettings(TierSettings):
    """Start the whole stack on this machine: load balancers, web servers, applications, a database.

    Every process gets a loopback address of its own. Ctrl-C stops all of it and leaves nothing behind.
    """

    tier: ClassVar[str] = "up"
    examples: ClassVar[str] = """
examples:
  python -m scaleup up
  python -m scaleup up --interval 0.1 --webs 3 --data ./data
  python -m scaleup status            (in another terminal)
  python -m scaleup stop web1
"""

    lbs: Annotated[int, Flag("N", GROUP)] = Field(2, ge=1, le=9, description="load balancers")
    webs: Annotated[int, Flag("N", GROUP)] = Field(2, ge=1, le=9, description="web servers")
    apps: Annotated[int, Flag("N", GROUP)] = Field(2, ge=1, le=9, description="application servers")
    workers: Annotated[int, Flag("N", GROUP)] = Field(
        1, ge=1, le=64, description="worker processes of each load balancer"
    )
    engine: Annotated[Literal["auto", "mariadb", "mysql", "embedded"], Flag(None, GROUP)] = Field(
        "auto", description="the database: auto takes MariaDB or MySQL when installed, else the embedded one"
    )
    data: Annotated[Path | None, Flag("DIR", GROUP)] = Field(
        None, description="keep the database here (default: it goes with the run)"
    )
    root: Annotated[DirectoryPath, Flag("DIR", GROUP)] = Field(
        Path(__file__).parents[2] / "site", description="static files of the web servers"
    )
    interval: Annotated[float, Flag("SECONDS", GROUP)] = Field(
        0.2, ge=0.01, le=40.95, description="Adver_Interval of the election; RFC 9568's default is 1"
    )
    run_dir: Annotated[Path, Flag("DIR", GROUP)] = Field(
        default_run_dir(), description="pids, logs and sockets; removed at the end"
    )
    network: Annotated[NetworkField, Flag("NETWORK", GROUP)] = Field(
        IPv4Network("127.0.0.0/24"), description="the loopback addresses; another one for a second stack"
    )
    drain: Annotated[float, Flag("SECONDS", "this process")] = Field(
        0.75,
        ge=0,
        le=3600,
        description="how long each process may take to finish what is in progress; Ctrl-C takes at most four "
        "times as long, for four tiers, and 2 s",
    )
    port: Annotated[int, Flag("PORT", GROUP)] = Field(
        8080, ge=1, le=65535, description="of the virtual address and of the web servers"
    )
    tls_port: Annotated[int, Flag("PORT", GROUP)] = Field(
        8443, ge=1, le=65535, description="the same for HTTPS, with a certificate that is made for the run"
    )
    admin_port: Annotated[int | None, Flag("PORT", GROUP)] = Field(
        None,
        ge=1,
        le=65535,
        description="each process serves /healthz, /readyz and /metrics here, on its own address; 9100 is what "
        "deploy/prometheus.yml scrapes",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        network = self.network
        if not (isinstance(network, IPv4Network) and network.subnet_of(LOOPBACK) and network.prefixlen == 24):
            raise ValueError(f"--network {network}: write a /24 inside {LOOPBACK}, for example 127.0.1.0/24")
        if self.data is not None and self.data.absolute().is_relative_to(self.run_dir.absolute()):
            raise ValueError(
                f"--data {self.data}: --run-dir is emptied at the end; write a directory outside it"
            )
        return self

    def address(self, last: int) -> IPv4Address:
        """The address of the network that ends with `last`."""
        assert isinstance(self.network, IPv4Network)
        return self.network[last]
