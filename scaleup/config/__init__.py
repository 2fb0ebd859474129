"""Settings: flags > environment > `cluster.toml` > defaults, validated into one frozen object.

A tier declares *what* can be set, as a pydantic model (`TierSettings`); everything else follows from
its fields. The field `health_check` of the tier `lb` is the flag `--health-check`, the environment
variable `SCALEUP_LB_HEALTH_CHECK` and the key `health_check` in the tables `[lb]` (all load balancers)
and `[lb.node.lb1]` (that one). So one file can describe the whole cluster and be copied to every host:
`--node lb1` says which part of it a process plays.

The way of a value, in reading order:

    model     the declaration: TierSettings, Flag, and the types of fields
    sources   where values come from; each keeps its origin (`--listen`, `cluster.toml:12`)
    toml      the file, and the line of a key in it
    tables    lists of tables, [[lb.backend]], with [lb] for what they do not say
    secrets   passwords in files
    faults    what is wrong, all of it at once, each with its origin and "did you mean"
    cli       argparse from the model, and --help
    load      the sources merged; --check, --print-config

Why pydantic: docs/decisions/0001-settings.md.
"""

from scaleup.config.load import Loaded, load
from scaleup.config.model import (
    EndpointField,
    EnvironmentOnly,
    FileOnly,
    Flag,
    NetworkField,
    Seconds,
    Settings,
    TierSettings,
)
from scaleup.config.secrets import SecretFile, read_secret
from scaleup.config.tables import NamedTable, distinct

__all__ = [
    "EndpointField",
    "EnvironmentOnly",
    "FileOnly",
    "Flag",
    "Loaded",
    "NamedTable",
    "NetworkField",
    "Seconds",
    "SecretFile",
    "Settings",
    "TierSettings",
    "distinct",
    "load",
    "read_secret",
]
