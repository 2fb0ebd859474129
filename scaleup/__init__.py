"""ScaleUp: a scaled-up web infrastructure in which every tier is asyncio Python to read.

    client ──▶ virtual IP ──▶ LB (active) ─┬▶ web1 ─┬▶ app1 :3000 ─┬▶ MySQL :3306
                   ▲          LB (backup)  └▶ web2 ─┴▶ app2 :3000 ─┘
                   └─ VRRP advertisements between the LBs decide who answers for it

Every tier is a process of its own (`python -m scaleup.lb`, …) and can be exchanged for the industry's:
keepalived, HAProxy, nginx, an application in any language, MySQL or MariaDB.

The map, in the order in which to read it. A ● marks pure code: no I/O, no clock, no randomness of its own;
events in, actions out. Each package opens with its theory and its own reading order.

    vrrp        who answers for the virtual address: the election of RFC 9568. Start with `router` ●
    sim ●       a cluster of those routers under a virtual clock and a bad network, from a seed
    upstream    choosing servers and watching them, for lb and web alike
    lb          the load balancer: a node of processes; `relay` is one connection, whole
    web         static files, and requests forwarded to applications
    app         the application: a link shortener, which reads far more than it writes
    db          the database: a private MariaDB, or an embedded engine for trying things out
    stack       all of it on one machine: `python -m scaleup up`

and below all of them, what they share:

    processes   signals, readiness, drain, children, logs, /healthz and /metrics
    config      flags > environment > cluster.toml > defaults, validated
    net         endpoints ●, the PROXY protocol ●, socket options by name
    errors      the errors that end a process with one line

`vrrp` knows nothing of `lb`; `lb`, `web`, `app` and `db` know nothing of each other; user bytes never pass
through pure code; a mechanism exists once. tests/test_layering.py asserts what of this can be asserted.
"""
