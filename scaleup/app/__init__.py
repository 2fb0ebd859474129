"""The application tier: a link shortener over HTTP, in front of a MySQL or MariaDB database.

    address ●       where the database is: mysql://USER@HOST:PORT/DATABASE, one host or several
    links ●         what a link is: URLs and codes that are taken, new codes, JSON
    idempotency ●   keys with which a POST may be repeated
    client ●        which client sent a request, by X-Forwarded-For of trusted proxies
    outcomes ●      what an error of the database leaves behind: done, not done, unknown
    encryption   TLS to the database
    pool            connections to the database; every use has a deadline, and who would wait too long is told so
    position ●      how far a database has got: MariaDB's GTIDs
    deadline        how long a request's answer is waited for
    transactions    all or nothing, again if need be, within the deadline
    lookup          rows by their key, for many who ask at once
    replicas        which replica may answer a request, if any
    session         what a client has seen, which it carries along
    store           the queries
    migrate         the schema's versions, migrations/NNNN_name.sql
    migrate_command the same by hand, and a user for applications who may only read and write rows
    watch           waiting for the database, its schema, its going and coming back
    upkeep          beside the requests: clicks are written, old keys forgotten
    problems        errors as RFC 9457 problem details
    request_id      which request a line of the log is about
    views           the HTTP interface, route by route; openapi.json says the same for programs
    server          aiohttp with bounds
    serve           the life of a process that serves
    workers, worker several of them behind one address
    metrics, settings, __main__

Invariants: a process keeps nothing between requests but clicks that are written within a second, so any number
of them can share a database and any one can die. A link that was acknowledged with 201 is stored; one refused
with `outcome: failed` is not. Every request is answered within the database's time-out (a third more when a replica
hangs, or it has to be found out first who the primary is), if need be with 503.
"""
