"""What the node knows, brought together into HAProxy's rows (`stats`): counters, servers, trends.

Everybody who asks gets the same rows: the runtime socket, the statistics page, `/stats;csv`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

from scaleup.lb.counters import BackendColumn, Column, FrontendColumn, ServerColumn
from scaleup.lb.servers import Servers
from scaleup.lb.settings import BackendTable, FrontendTable, LbSettings
from scaleup.lb.stats import CHECK_DESCRIPTIONS, BackendRow, FrontendRow, Row, ServerRow, state, status
from scaleup.lb.totals import Names, Totals, names_of
from scaleup.lb.trend import Trend
from scaleup.upstream.pool import throttle
from scaleup.upstream.server import Server


class Statistics:
    """`settings()`: the newest. `maxconn(frontend)`: what an operator has set. `now()`: see `Servers`."""

    def __init__(
        self,
        settings: Callable[[], LbSettings],
        maxconn: Callable[[FrontendTable], int],
        servers: Servers,
        totals: Totals,
        now: Callable[[], float],
    ) -> None:
        self._settings, self._maxconn, self._servers, self._totals = settings, maxconn, servers, totals
        self._now = now
        self.began = now()
        self.all = Trend()
        """Of all frontends together."""
        self._trends: dict[tuple[type[Column], Names], Trend] = {}

    def sample(self) -> None:
        """To be called every trend.SAMPLE_SECONDS."""
        settings, now, total = self._settings(), self._now(), self._totals.total
        before, self._trends = self._trends, {}
        for columns in (FrontendColumn, ServerColumn, BackendColumn):
            for names in names_of(settings, columns):
                self._trends[columns, names] = before.get((columns, names)) or Trend()
        frontends = names_of(settings, FrontendColumn)
        for names in frontends:
            counts = total(FrontendColumn.TOTAL, names), total(FrontendColumn.CURRENT, names)
            self._trends[FrontendColumn, names].see(now, *counts)
        self.all.see(
            now,
            sum(total(FrontendColumn.TOTAL, names) for names in frontends),
            sum(total(FrontendColumn.CURRENT, names) for names in frontends),
        )
        for backend in settings.backends:
            taken = current = 0
            for server in backend.server:
                names = backend.name, server.name
                counts = total(ServerColumn.TOTAL, names), total(ServerColumn.CURRENT, names)
                self._trends[ServerColumn, names].see(now, *counts)
                taken, current = taken + counts[0], current + counts[1]
            waiting = total(BackendColumn.WAITING, (backend.name,))
            self._trends[BackendColumn, (backend.name,)].see(now, taken, current, waiting)

    def clear(self, everything: bool) -> None:
        """The maxima; `everything`: what was counted as well."""
        self.all.clear()
        for trend in self._trends.values():
            trend.clear()
        if everything:
            self._totals.clear()
            for history in self._servers.histories:
                history.clear(self._now())

    def rows(self) -> Sequence[Row]:
        """A proxy after another: its frontend, its servers, its backend."""
        self.sample()
        settings = self._settings()
        frontends = {frontend.name: frontend for frontend in settings.frontends}
        backends = {backend.name: backend for backend in settings.backends}
        rows: list[Row] = []
        for iid, name in enumerate({**frontends, **backends}, start=1):
            if name in frontends:
                rows.append(self._frontend(iid, frontends[name]))
            if name in backends:
                rows += self._backend(iid, backends[name])
        return rows

    def info(self) -> dict[str, object]:
        """What `show info` says of the node; the process's own facts are added by whoever is it."""
        self.sample()
        settings, everything = self._settings(), self.all
        frontends = names_of(settings, FrontendColumn)

        def total(column: FrontendColumn) -> int:
            return sum(self._totals.total(column, names) for names in frontends)

        uptime = int(self._now() - self.began)
        hours, minutes, seconds = uptime % 86400 // 3600, uptime % 3600 // 60, uptime % 60
        maxconn = sum(map(self._maxconn, settings.frontends))
        sessions = total(FrontendColumn.TOTAL)
        return {
            "Name": "HAProxy",  # haproxyadmin talks to nothing else
            "description": "ScaleUp",
            "Version": version("scaleup"),
            "Release_date": "unreleased",
            "Nbthread": 1,
            "Nbproc": settings.workers,
            "Process_num": 1,
            "Uptime": f"{uptime // 86400}d {hours}h{minutes:02d}m{seconds:02d}s",
            "Uptime_sec": uptime,
            "Maxconn": maxconn,
            "Hard_maxconn": maxconn,
            "CurrConns": total(FrontendColumn.CURRENT),
            "CumConns": sessions,
            "CumReq": sessions,
            "ConnRate": everything.rate,
            "ConnRateLimit": 0,
            "MaxConnRate": everything.max_rate,
            "SessRate": everything.rate,
            "SessRateLimit": 0,
            "MaxSessRate": everything.max_rate,
            # Not counted, but hatop does not start without them.
            "Maxpipes": 0,
            "PipesUsed": 0,
            "Tasks": 0,
            "Run_queue": 0,
            "node": settings.name,
            "Listeners": len(settings.endpoints),
            "TotalBytesOut": total(FrontendColumn.BYTES_OUT),
        }

    def _frontend(self, iid: int, frontend: FrontendTable) -> FrontendRow:
        names = (frontend.name,)
        count, trend = self._counted(names), self._trends[FrontendColumn, names]
        total = count(FrontendColumn.TOTAL)
        return FrontendRow(
            pxname=frontend.name,
            iid=iid,
            scur=count(FrontendColumn.CURRENT),
            smax=trend.max_sessions,
            slim=self._maxconn(frontend),
            stot=total,
            bin=count(FrontendColumn.BYTES_IN),
            bout=count(FrontendColumn.BYTES_OUT),
            ereq=count(FrontendColumn.UNGREETED),
            dcon=count(FrontendColumn.DENIED),
            status="OPEN",
            rate=trend.rate,
            rate_max=trend.max_rate,
            conn_rate=trend.rate,
            conn_rate_max=trend.max_rate,
            conn_tot=total,
        )

    def _backend(self, iid: int, backend: BackendTable) -> Iterator[ServerRow | BackendRow]:
        servers = self._servers.backends[backend.name]
        rows = [
            self._server(iid, sid, backend, server) for sid, server in enumerate(servers.values(), start=1)
        ]
        yield from rows
        names = (backend.name,)
        count, trend = self._counted(names), self._trends[BackendColumn, names]
        history, now = self._servers.history(*names), self._now()
        usable = [server for server in servers.values() if server.usable]
        weight = sum(server.weight for server in usable if not server.backup)
        refused = count(BackendColumn.REFUSED)
        yield BackendRow(
            pxname=backend.name,
            iid=iid,
            qcur=count(BackendColumn.WAITING),
            qmax=trend.max_queue,
            scur=sum(row.scur for row in rows),
            smax=trend.max_sessions,
            slim=sum(row.slim or 0 for row in rows) if all(row.slim for row in rows) else 0,
            stot=sum(row.stot for row in rows) + refused,
            bin=sum(row.bin for row in rows),
            bout=sum(row.bout for row in rows),
            econ=max(refused, sum(row.econ for row in rows)),
            wretr=sum(row.wretr for row in rows),
            wredis=sum(row.wredis for row in rows),
            status="UP" if usable else "DOWN",
            weight=weight,
            uweight=weight,
            act=sum(not server.backup for server in usable),
            bck=sum(server.backup for server in usable),
            chkdown=history.went_down,
            lastchg=int(history.unchanged_for(now)),
            downtime=int(history.downtime(now)),
            lbtot=sum(row.lbtot for row in rows),
            rate=trend.rate,
            rate_max=trend.max_rate,
            cli_abrt=sum(row.cli_abrt for row in rows) + count(BackendColumn.ABANDONED),
            srv_abrt=sum(row.srv_abrt for row in rows),
            lastsess=self._ago(trend),
            algo=backend.balance,
            connect=sum(row.connect for row in rows),
        )

    def _server(self, iid: int, sid: int, backend: BackendTable, server: Server) -> ServerRow:
        names = backend.name, server.name
        count, trend = self._counted(names), self._trends[ServerColumn, names]
        history, now = self._servers.history(*names), self._now()
        checker = self._servers.checker(backend.name)
        risen = history.up_again_for(now)
        last = checker.last(server) if checker else None
        level = checker.level(server) if checker else None
        current, total = count(ServerColumn.CURRENT), count(ServerColumn.TOTAL)
        failed, retried = count(ServerColumn.CONNECT_ERRORS), count(ServerColumn.RETRIES)
        redispatched = count(ServerColumn.REDISPATCHES)
        return ServerRow(
            pxname=backend.name,
            svname=server.name,
            iid=iid,
            sid=sid,
            scur=current,
            smax=trend.max_sessions,
            slim=server.maxconn or None,
            stot=total,
            bin=count(ServerColumn.BYTES_IN),
            bout=count(ServerColumn.BYTES_OUT),
            # A failed attempt is followed by a retry or a redispatch, or it was the last.
            econ=max(0, failed - retried - redispatched),
            wretr=retried,
            wredis=redispatched,
            status=status(server, level if server.live.checked else None, backend.rise, backend.fall),
            weight=server.weight,
            uweight=server.weight,
            act=int(not server.backup),
            bck=int(server.backup),
            chkfail=history.failed_checks,
            chkdown=history.went_down,
            lastchg=int(history.unchanged_for(now)),
            downtime=int(history.downtime(now)),
            throttle=throttle(risen, server.slowstart)
            if risen is not None and risen < server.slowstart
            else None,
            lbtot=max(total, total + failed - retried),
            rate=trend.rate,
            rate_max=trend.max_rate,
            check_status=last.code if last else None,
            check_code=last.http_status if last else None,
            check_duration=round(last.seconds * 1000) if last else None,
            cli_abrt=count(ServerColumn.CLIENT_ABORTS),
            srv_abrt=count(ServerColumn.SERVER_ABORTS),
            lastsess=self._ago(trend),
            last_chk=last.detail if last else None,
            check_desc=CHECK_DESCRIPTIONS[last.code] if last else None,
            check_rise=backend.rise,
            check_fall=backend.fall,
            check_health=level or 0,
            addr=str(server.endpoint) if server.endpoint else None,
            connect=total + failed,
            used_conn_cur=current,
            need_conn_est=trend.max_sessions,
            state=state(server),
        )

    def _counted(self, names: Names) -> Callable[[Column], int]:
        return lambda column: self._totals.total(column, names)

    def _ago(self, trend: Trend) -> int:
        return -1 if trend.began is None else int(self._now() - trend.began)
