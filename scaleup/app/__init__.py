"""The application tier: a link shortener over HTTP, in front of a MySQL or MariaDB database.

    address ●   where the database is: mysql://USER@HOST:PORT/DATABASE
    links ●     what a link is: URLs and codes that are taken, new codes, JSON
    client ●    which client sent a request, by X-Forwarded-For of trusted proxies
    pool        connections to the database; every use has a deadline
    store       the queries
    migrate     the schema's versions, migrations/NNNN_name.sql
    watch       waiting for the database, its schema, its going and coming back
    problems    errors as RFC 9457 problem details
    views       the HTTP interface, route by route
    server      aiohttp with bounds
    settings, __main__

Invariants: a process keeps nothing between requests, so any number of them can share a database and any one
can die. A link that was acknowledged with 201 is stored. Every request is answered within the database's
time-out, if need be with 503.
"""
