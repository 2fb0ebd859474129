"""Choosing and watching servers: the same for the load balancer, which picks a server for each connection,
and for the web tier, which picks an application server for each request.

    server ●     one server, and what is known of it now
    pool ●       the servers, and which of them may be chosen now: usable, below maxconn; backup and slow start
    balance ●    which of those it is: roundrobin, leastconn, first, random, source, or one of your own
    algorithm ●  what these are; and they: turns ●, ranking ●, draws ●, ring ●
    health ●     whether one server is up: checks passed and failed in a row, and when the next one is due
    history ●    since when a server is up or down, and how often it went down
    healthcheck ●  what a check does, and which answer is good
    probe        one check on the wire: connect, or ask and look at the status, or a login (`mysql`); in TLS or
                 without (`stream`)
    checks       the checks of all servers, side by side, until cancelled
    sources ●    how much one client has of it all, where that is limited
    slots ●      which server has which of the addresses of a name
    host_names ●  what /etc/hosts and /etc/resolv.conf say
    names        those addresses, as they say or from the DNS (`name_servers`)
    settings     all this as flags, environment and cluster.toml; a server of it: `server_settings`,
                 several of one name: `template`, and who knows it: `resolver_settings`

That is also the reading order; ● is pure: time and randomness are passed in. Choosing and watching meet
in one place, `Server.up`: checks write it, the pool reads it. In the load balancer they are even
different processes: the node checks, tells its workers, and each of them sets `up` in a pool of its own.

Invariants:
- `Pool.choose` returns a server that is usable, below its maxconn and not excluded, or None. It looks at all
  servers only when one has changed.
- It decides and counts nothing; who then begins a session calls `acquire` before the next await.
- One result decides nothing about a server that is known; `rise` and `fall` results in a row do.
- A failure of ours (no descriptor, no name resolution) never counts against a server.
- `Checker.run` leaves no task and no socket behind, however it ends.
"""
