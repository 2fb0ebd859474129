"""The whole stack on one machine: `python -m scaleup up`, and the commands that talk to it.

    settings   what `up` can be told
    plan ●     which processes there are: names, addresses, command lines, the order of need
    part       one of them: its process, its state, what it last said
    stack      all of them: start in order, stop in the reverse order, events as they happen
    control    the Unix socket through which `status`, `start`, `stop` and `restart` reach a running stack
    rundir     the directory with pids, logs and sockets
    view       what people see: progress, the table, a line for each event
    commands   `up`, `status`, `start`, `stop`, `restart`

`up` starts every tier by the same command line that a person would use on a host of its own. It restarts
nothing by itself: what the design says is started again (workers, the vrrp process) is its node's to do.
"""
