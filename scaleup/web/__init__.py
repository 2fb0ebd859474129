"""The web tier: files from a folder, and everything below some prefixes forwarded to application servers.

    client ──▶ connection ──▶ server ─┬─▶ static ──▶ a file below --root
                                      └─▶ forward ──▶ an application server (a pooled connection)

aiohttp does the parsing and the buffering; what it gets wrong as a reverse proxy is put right here, each
trap at one place. The rules are pure functions, so that they can be read and tested without a socket.

In reading order (● = pure: no I/O, no clock):

    problems ●     an error that is told to the client: status, detail, and the page or JSON for it
    targets ●      the request's target: its bytes for the application, its meaning for us
    headers ●      what is refused, stripped, added and re-serialised on the way in and on the way back
    conditions ●   If-Match and its family, and ranges (RFC 9110 §13, §14)
    connection     aiohttp's server protocol with its gaps closed: slow readers, errors, lingering close
    reply          a response whose head is ours to the byte
    body           a request's body, read under a size limit and a deadline
    static         files: resolve, then contain
    exchange       one exchange with one application server: a response, or how it failed
    forward        which server, how often to try, and the way back to the client
    server         which of them answers, and how it ends
    serve          the life of the process: the parts put together
    settings, metrics

Invariants: a request that breaks HTTP reaches neither a file nor an application. A request that may not be
repeated is never sent twice. A body that was cut off never looks complete: its connection is aborted.
Every buffer and every wait has a bound. Behind the load balancer the peer is the balancer; see `--trusted-proxy`.
"""
