"""The benchmarks: one script per question, each with `--help`, `--quick`, `--json FILE` and `--plot FOLDER`.

    python -m bench.proxy     what does relaying cost, beside HAProxy, nginx and an asyncio tutorial's proxy?
    python -m bench.web       what do files and forwarded requests cost the web tier, beside nginx?
    python -m bench.app       what does a request cost the application, beside Express and Flask?
    python -m bench.idle      how much memory does a connection take that does nothing?
    python -m bench.stack     what does the whole stack carry, and which tier spends the CPU time?
    python -m bench.scale     how does the cost grow with servers, connections and workers?
    python -m bench.failover  how long does a fail-over take, beside keepalived?
    python -m bench.saturated does the election hold while the load balancer uses all of the machine?
    python -m bench.report    docs/benchmarks.md from bench/results/*.json: no figure of its tables is typed

The method is the same for all. The peers take turns within a round, in reverse order every other round (A B A',
A' B A), so that what drifts on the machine meets all of them. Ours runs twice, as two instances: the ratio of
the two (A/A) is the noise floor, and a difference within it is none. Every ratio is taken round by round, then
the median of the ratios is quoted with the least and the greatest.

What is shared, in the order in which to read it:

    record        ● what was measured: cases, rounds, ratios, JSON
    agent         CPU time of processes, in nanoseconds; also a program of its own for a remote host
    peers         ● how each proxy and web server is configured, at its best
    applications  the application and those that stand in for it: how each is started, on which database
    running       starting them and the servers behind them; stopping all of it
    ports         ports for processes that have to be told theirs
    generator     requests in a closed loop or at a fixed rate
    transfer      bulk, each way
    load          running those two as processes
    server        what stands behind the proxies when it is not nginx
    lan           hosts that are network namespaces; also for the tests
    pairs         two nodes with a virtual address, ours or keepalived with HAProxy
    wire          what is heard on their network; takeover ●, what that says of a fail-over
    attempts      a client that tries to connect every millisecond
    streams       the asyncio tutorial's proxy, a peer
    turns         interleaving, and the flags that the scripts have in common; flags, those of all programs
    machine       what it ran on
    render, plot  the tables and the pictures; cdf, those of distributions; bars ●, what was wanted
"""
