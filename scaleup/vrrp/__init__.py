"""Who answers for the virtual address: VRRP version 3, RFC 9568.

Routers (here: load balancers) that share a virtual router id (VRID) elect one of them Active. The Active
one owns the virtual addresses and says so in advertisements, one in each Adver_Interval. The others are
Backups: they listen, and when they have heard nothing for an Active_Down_Interval (three intervals and a
Skew_Time that is shorter the higher the priority) the one that waited least becomes Active.

Reading order:

    packet ●     an advertisement as bytes, and back; legacy ●, that of VRRPv2
    auth ●       the HMAC trailer that makes one worth believing outside a trusted link
    codec ●      the three together: what a router says and believes
    clock ●      whose clock is wrong, where believing depends on it
    router ●     the state machine of RFC 9568 §6.4, and nothing else: events in, actions out
    policy ●     what the RFC leaves to the operator, above several routers; arrangement ●, decisions ●, routers ●
    tracking     what a node's worth depends on; scripts, notify, events: the operator's programs, in a helper
    owner        what it means to own a virtual address: on loopback, to listen on it
    kernel       on real interfaces, to have the kernel answer for it; announce ●, announcer, telling the neighbours
    rtnetlink    how the kernel is asked for that; renewals, in a thread; interface, what it says of interfaces
    network      how advertisements travel: by unicast UDP, for nodes that may not open raw sockets
    rawip        as the RFC has it, IP protocol 112; bpf ●, its filter; pcap, a record of it
    instance     one virtual router, but for its decisions: what it hears, says, owns and counts
    daemon       the shell: their sockets, one timer, the routers and their policy between them;
                 timer, lateness ●, scheduling
    assembly     all parts, put together as the settings say
    attached     the daemon as the child of a load balancer, and its guardian
    standalone   the daemon by itself, for as many routers as there are; its reload
    metrics      what Prometheus sees of an election; state, what keepalived's readers see
    doctor ●     what is in an election's way: doctor_facts ●, doctor_heard ●, doctor_look, doctor_command; tap
    election     the settings of one router; settings, of the process; status_command; __main__

What the simulator runs and what the daemon runs are the same: `routers`, and all that is above it here.

Invariants: the router never reads a clock; one timer is armed at a time; whatever ends this process or
its parent, the virtual address is given up, and the others are told when there is time to.
"""
