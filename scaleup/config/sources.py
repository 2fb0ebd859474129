"""Where values come from. Each source gives raw values by field, and tells the origin of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scaleup.config.faults import Fault, did_you_mean
from scaleup.config.model import TierSettings, is_file_only, is_repeatable, option_name, variable_name
from scaleup.config.toml import KeyPath, TomlFile

TIERS = ("up", "lb", "vrrp", "web", "app", "db")
"""The tables that a cluster.toml may have."""


@dataclass(slots=True)
class Layer:
    """The values of one source; `faults` are its unknown keys."""

    values: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def origin(self, path: KeyPath) -> str:
        raise NotImplementedError


class FlagLayer(Layer):
    def origin(self, path: KeyPath) -> str:
        return option_name(str(path[0]))


class EnvironmentLayer(Layer):
    """`SCALEUP_LB_SERVER="10.0.0.21:8080 10.0.0.22:8080"`: white space separates several values."""

    def __init__(self, model: type[TierSettings], environment: Mapping[str, str]) -> None:
        super().__init__()
        self._tier = model.tier
        fields = model.model_fields.items()
        names = {variable_name(model.tier, name): name for name, info in fields if not is_file_only(info)}
        for variable, text in environment.items():
            if name := names.get(variable):
                self.values[name] = text.split() if is_repeatable(model.model_fields[name]) else text
            elif variable.startswith(variable_name(model.tier, "")):
                self.faults.append(Fault(variable, f"no such setting{did_you_mean(variable, names)}"))

    def origin(self, path: KeyPath) -> str:
        return variable_name(self._tier, str(path[0]))


class TableLayer(Layer):
    """`[tier]` or `[tier.node.NAME]` of the file."""

    def __init__(self, model: type[TierSettings], file: TomlFile, prefix: KeyPath) -> None:
        super().__init__()
        self._file, self._prefix = file, prefix
        table: Any = file.values
        for key in prefix:
            table = table.get(key, {}) if isinstance(table, dict) else table
        if not isinstance(table, dict):
            name = ".".join(map(str, prefix))
            self.faults.append(Fault(file.origin(prefix), f"{name}: write a table, [{name}]"))
            return
        settable = [name for name in model.model_fields if name != "node"]  # which led to this table
        for key, value in table.items():
            if key == "node" and len(prefix) == 1:
                continue  # the tables of the nodes
            if key in settable:
                self.values[key] = value
            else:
                hint = did_you_mean(key, settable)
                name = ".".join(map(str, (*prefix, key)))
                self.faults.append(Fault(self.origin((key,)), f"{name}: no such key{hint}"))

    def origin(self, path: KeyPath) -> str:
        return self._file.origin((*self._prefix, *path))


def table_layers(model: type[TierSettings], file: TomlFile, node: str) -> list[Layer]:
    """The layers of the file that concern this process, the strongest first."""
    first = TableLayer(model, file, (model.tier,))
    for table in file.values:
        if table not in TIERS:
            hint = did_you_mean(table, TIERS)
            first.faults.append(Fault(file.origin((table,)), f"[{table}]: no such tier{hint}"))
    tier = file.values.get(model.tier, {})
    nodes = tier.get("node", {}) if isinstance(tier, dict) else {}
    if not isinstance(nodes, dict):
        first.faults.append(
            Fault(file.origin((model.tier, "node")), f"write a table for each node, [{model.tier}.node.NAME]")
        )
        return [first]
    if node in nodes:
        return [TableLayer(model, file, (model.tier, "node", node)), first]
    if nodes:
        said = f"no table [{model.tier}.node.{node}]" if node else "which node is this? Say --node"
        known = f"the file has {', '.join(nodes)}{did_you_mean(node, nodes)}"
        first.faults.append(Fault(file.origin((model.tier, "node")), f"{said}; {known}"))
    return [first]
