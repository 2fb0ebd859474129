"""The web tier: files from a folder, and everything below some prefixes forwarded to application servers.

    client ──▶ clients ──▶ connection ──▶ server ─┬─▶ static ──▶ a file below --root
                                                  └─▶ forward ──▶ exchange ──▶ an application server

HTTP/1.1 is read and written here, on both sides, by one strict parser (docs/decisions/0011): a request that breaks
the grammar reaches nobody, and nothing of a message's framing is ever copied from one side to the other. The rules
are pure functions, so that they can be read and tested without a socket.

In reading order (● = pure: no I/O, no clock):

    syntax ●       the head of a message: what is HTTP/1.1, and what is refused
    framing ●      where a message ends: lengths, chunks
    problems ●     an error that is told to the client: status, detail, and the page or JSON for it
    targets ●      the request's target: its bytes for the application, its meaning for us
    headers ●      what is stripped and added on the way to the application and on the way back
    conditions ●   If-Match and its family, and ranges (RFC 9110 §13, §14); encoding ●, which coding a client takes
    stream         a connection: bytes in and out, every wait with a deadline
    body           a request's body, read under a size limit and a deadline
    reply          a response whose head is ours to the byte
    access_log ●   the line about a request that was answered
    connection     one client's connection: requests in, responses out, in order
    greeting       the PROXY header with which a connection from a load balancer begins
    tls            how TLS is spoken, and which certificate is shown
    clients        all of them: accepted, admitted, served, sent away at the end
    disk           files found and contained; cache ●, small ones in memory
    static         files as responses: variants, conditions, ranges, sendfile
    origin         connections to one application server
    exchange       one exchange with it: a response, or how it failed
    tunnel         what a connection carries after an upgrade (WebSocket)
    forward        which server, how often to try, and the way back to the client
    server         which of them answers a request, and how it ends
    serve          the life of a worker: the parts put together; `worker`, the process
    plan           what the parent prepares for its workers; `__main__`, the parent
    settings, metrics

Invariants: a request that breaks HTTP reaches neither a file nor an application. A request that may not be
repeated is never sent twice. A body that was cut off never looks complete: its connection is reset.
Every buffer and every wait has a bound. Behind a load balancer the client is who the PROXY header says
(`--accept-proxy`), behind a proxy that speaks HTTP who X-Forwarded-For says (`--trusted-proxy`).
"""
