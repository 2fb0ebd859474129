"""The state of an election as JSON with keepalived's names, for programs that read its file today."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from scaleup.vrrp.auth import AUTH_CAUSES
from scaleup.vrrp.daemon import Daemon

log = logging.getLogger(__name__)

STATES = {"backup": 1, "active": 2, "fault": 3}  # keepalived's numbers; 0 would be "init"


def state(daemon: Daemon) -> dict[str, Any]:
    """`data` and `stats` as keepalived has them; times in seconds."""
    election, router = daemon.election, daemon.router
    dropped = daemon.dropped
    to_active = sum(count for (role, _), count in daemon.transitions.items() if role == "active")
    return {
        "data": {
            "iname": f"VI_{election.vrid}",
            "state": STATES[daemon.role],
            "vrid": election.vrid,
            "base_priority": election.priority,
            "effective_priority": router.priority,
            "vipset": daemon.role == "active",
            "vips": [str(virtual) for virtual in election.vip],
            "ifp_ifname": election.interface or "",
            "adver_int": election.interval,
            "master_adver_int": router.active_interval,
            "last_transition": daemon.last_transition,
        },
        "stats": {
            "advert_rcvd": daemon.received,
            "advert_sent": daemon.sent,
            "become_master": to_active,
            "release_master": to_active - (daemon.role == "active"),
            "packet_len_err": dropped["short"] + dropped["trailing"],
            "advert_interval_err": dropped["interval"],
            "ip_ttl_err": dropped["ttl"],
            "invalid_type_rcvd": dropped["type"],
            "addr_list_err": dropped["no-addresses"],
            "auth_failure": dropped["password"] + sum(dropped[cause] for cause in AUTH_CAUSES),
            "pri_zero_rcvd": daemon.farewells_received,
            "pri_zero_sent": daemon.farewells_sent,
        },
    }


def write_state(daemon: Daemon, path: Path) -> None:
    """As a list of one, which is keepalived's form; readers never see half a file."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(json.dumps([state(daemon)], indent=1) + "\n")
        os.replace(beside, path)
    except OSError as error:
        log.warning("--state-file %s: %s", path, error.strerror)
