"""An operator's desk: a node's parts without its processes, for commands, statistics and metrics."""

from __future__ import annotations

from typing import Any

from scaleup.lb.counters import Counters
from scaleup.lb.operations import Limits, Operations
from scaleup.lb.servers import Servers
from scaleup.lb.settings import LbSettings
from scaleup.lb.statistics import Statistics
from scaleup.lb.totals import Totals
from scaleup.lb.worker import sizes_of
from scaleup.upstream.server import Server

TWO_PROXIES: dict[str, Any] = {
    "frontend": [
        {"name": "www", "listen": [":80"], "backend": "web", "maxconn": 500},
        {"name": "sql", "listen": [":3306"], "backend": "db"},
    ],
    "backend": [
        {
            "name": "web",
            "server": ["web1=10.0.0.21:80,weight=2", "web2=10.0.0.22:80", "spare=10.0.0.29:80,backup"],
        },
        {"name": "db", "server": ["db1=[fd00::41]:3306,maxconn=10"]},
    ],
}


class Desk:
    """`told`: how often the workers were. `now`: seconds; it stands still."""

    def __init__(self, rows: int = 1, **settings: Any) -> None:
        self.settings = LbSettings.model_validate(settings or TWO_PROXIES)
        self.now = 1000.0
        self.told = 0
        self.counters = Counters.create(rows, sizes_of(self.settings))
        self.totals, self.limits = Totals(), Limits()
        self.totals.begin(self.settings, self.counters)
        self.servers = Servers(self._tell, lambda kind, **fields: None, lambda: self.now)
        self.servers.know(self.settings)
        self.statistics = Statistics(
            lambda: self.settings, self.limits.maxconn, self.servers, self.totals, lambda: self.now
        )
        self.operations = Operations(
            lambda: self.settings,
            self.servers,
            self.statistics,
            self.limits,
            list,
            self._tell,
            lambda: 7,
            lambda: False,
        )

    def server(self, name: str) -> Server:
        """`web/web1`"""
        backend, _, server = name.partition("/")
        return self.servers.backends[backend][server]

    def close(self) -> None:
        self.counters.close()

    def _tell(self) -> None:
        self.told += 1
