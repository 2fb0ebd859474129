"""The load balancer: a node of a few processes that relays TCP connections to pools of servers.

    node (parent)  reads the settings, opens the listening sockets, checks the servers' health,
       │           exports the metrics; moves no user bytes
       ├─ vrrp     the election, alone in its process (scaleup.vrrp.attached)
       └─ worker…  accept → choose a server → dial → relay

Reading order:

    settings   what can be set
    relay      one connection: bytes both ways, half-closes, resets, time-outs
    carrier    how the bytes of one direction travel: copied, or spliced through one of the `pipes`
    engine     what connections share: an edge-triggered epoll, a buffer, a timer
    wheel ●    the deadlines behind that timer
    waiting    the queue for a slot, when every server is at its maxconn
    dial       reaching a server: choose, connect, retry, redispatch
    observe    what clients' connections show of the servers, told to the node
    greeting   the PROXY header with which connections from other proxies begin
    frontend   a client from accept to the end: accept, dial, relay, and what is counted
    worker     one process: its frontends and backends; what happens when the virtual address comes and goes
    tcplog ●   the line about a connection that has ended, as HAProxy writes it, and its termination state
    counters   the array in shared memory in which workers count and from which all read
    generation what the workers of one configuration share (its rest: processes)
    totals     what all generations have counted
    discovery  the addresses of the servers that are said by name
    servers    what the node knows of the servers: health, what an operator has changed; told to all workers
    node       the parent: sockets, health checks, children, the reload, the drain
    metrics    HAProxy's names for what the counters hold

and for whoever operates it:

    stats ●    HAProxy's statistics: a row for each frontend, server and backend, and its CSV
    trend ●    rates and maxima, which counters alone do not tell
    statistics what the node knows, as such rows
    commands ● what can be said at the runtime socket: `shows` ● and `changes` ● a `control` ●
    operations that control, in terms of the node's parts
    runtime    the Unix socket
    page       the same rows for people, live, on the admin address

Invariants: only workers touch user bytes. Only the node opens listening sockets, and it hands them down,
so that a worker can die without losing a queued connection. Each worker writes its own row of the
counters, so there are no locks. Whoever dies, the others know: the channels close.
"""
