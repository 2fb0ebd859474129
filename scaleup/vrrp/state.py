"""The state of an election as JSON with keepalived's names, for programs that read its file today."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaleup.vrrp.auth import AUTH_CAUSES
from scaleup.vrrp.decisions import Condition
from scaleup.vrrp.events import STATES, Status
from scaleup.vrrp.instance import Instance

log = logging.getLogger(__name__)


def status(instance: Instance) -> Status:
    """What the event stream says of it, and the state file beside more."""
    election, router = instance.election, instance.router
    return Status(
        iname=instance.name,
        state=STATES[instance.condition],
        vrid=election.vrid,
        base_priority=election.priority,
        effective_priority=router.priority,
        vipset=instance.condition is Condition.ACTIVE,
        adver_int=election.interval,
        master_adver_int=router.active_interval,
        last_transition=instance.last_transition,
        condition=instance.condition,
        rule=instance.rule,
    )


def state(instance: Instance) -> dict[str, Any]:
    """`data` and `stats` as keepalived has them; times in seconds."""
    election = instance.election
    told = asdict(status(instance))
    del told["condition"], told["rule"]
    dropped = instance.dropped
    to_active = sum(count for (role, _), count in instance.transitions.items() if role == "active")
    return {
        "data": {
            **told,
            "vips": [str(virtual) for virtual in election.vip],
            "ifp_ifname": election.interface or "",
        },
        "stats": {
            "advert_rcvd": instance.received,
            "advert_sent": instance.sent,
            "become_master": to_active,
            "release_master": to_active - (instance.role == "active"),
            "packet_len_err": dropped["short"] + dropped["trailing"],
            "advert_interval_err": dropped["interval"],
            "ip_ttl_err": dropped["ttl"],
            "invalid_type_rcvd": dropped["type"],
            "addr_list_err": dropped["no-addresses"],
            "auth_failure": dropped["password"] + sum(dropped[cause] for cause in AUTH_CAUSES),
            "pri_zero_rcvd": instance.farewells_received,
            "pri_zero_sent": instance.farewells_sent,
        },
    }


def write_state(instances: Iterable[Instance], path: Path) -> None:
    """As a list, which is keepalived's form; readers never see half a file."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(json.dumps([state(instance) for instance in instances], indent=1) + "\n")
        os.replace(beside, path)
    except OSError as error:
        log.warning("--state-file %s: %s", path, error.strerror)
