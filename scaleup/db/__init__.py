"""The database tier: one database with one user, on the engine that is at hand.

    engines ●     which engine, and why
    directory     the data: kept or temporary; locked; leftovers of killed processes removed
    program       a foreign program as a child that cannot outlive us
    mariadb       a private MariaDB (or MySQL): install, start, stop
    replication   a primary and replicas that follow it
    galera        nodes that agree on each commit
    settings, __main__

The embedded engine, MySQL's protocol in front of SQLite, is for trying things out where no MariaDB is:

    sqlerror ●    errors by MySQL's numbers; 1235 for all that it refuses
    literals ●    the shape of a query and its values
    translate ●   MySQL's SQL that means the same in SQLite
    schema ●      CREATE TABLE, with MySQL's checks of values
    locks         GET_LOCK, and the right to write
    sqlite        one client's connection: transactions, ids, errors
    embedded      the protocol

Replicas and Galera's nodes are started again when they die. A server alone, or the primary, is not: this process
says so and ends with 1.
"""
