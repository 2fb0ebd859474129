"""What does a line of log for each connection cost?

    python -m bench.logs [--rounds N] [--json FILE]

New connections, one for each request, with and without `--log-connections` (HAProxy's `option tcplog`). Both write
to a file; each is compared with itself, and with the other.
"""

from __future__ import annotations

from functools import partial

from bench.load import Load
from bench.proxy import METRICS, connections
from bench.record import OURS, Case
from bench.turns import Contest, Turns, add_peers, finish, new_record, parser, script

WORKS = {"connections": "New connections, with and without a line of log for each"}
CLIENTS = 64
LOGGING = ", logging"


def main() -> None:
    flags = parser("logs", __doc__, rounds=5, seconds=2, works={})
    add_peers(flags)
    arguments = flags.parse_args()
    with script():
        contest = Contest.of(arguments)
        logging = [peer for peer in contest.peers if peer.name in (OURS, "haproxy")]
        metrics = {name: METRICS[name] for name in ("cpu_us_connection", "connection_rate")}
        record = new_record("logs", contest, {"connections": CLIENTS}, metrics, WORKS, arguments)
        with Turns(arguments, "logs", contest, record) as turns, turns.lab() as lab:
            turns.expect(1)
            servers = lab.server()
            running = contest.start(lab, servers)
            running |= {peer.name + LOGGING: lab.proxy(peer, servers, log=True) for peer in logging}
            work = Load("/1", CLIENTS, turns.seconds, close=True)
            case = Case("connections", f"{CLIENTS} clients")
            turns.run(case, running, partial(connections, lab, work=work))
        finish(record, arguments)


if __name__ == "__main__":
    main()
