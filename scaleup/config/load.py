"""From argv, the environment and the file to validated settings; --check, --print-config, --version."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from scaleup.config.cli import make_parser
from scaleup.config.faults import Fault, configuration_error, did_you_mean
from scaleup.config.model import TierSettings, is_file_only, is_secret, option_name, variable_name
from scaleup.config.sources import EnvironmentLayer, FlagLayer, Layer, table_layers
from scaleup.config.toml import TomlFile

S = TypeVar("S", bound=TierSettings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Validated settings, and the origin of each value (`default` where nobody set it)."""

    settings: S
    origins: dict[str, str]


def load(model: type[S], argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Loaded[S]:
    """Read everything. Raises ConfigurationError with all faults, or SystemExit.

    SystemExit 0 after --help, --version, --check and --print-config; 2 for a usage error.
    """
    environment = os.environ if environment is None else environment
    parser = make_parser(model)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(model, parser, unknown[0].partition("=")[0]))
    flags_given = {name: value for name, value in vars(arguments).items() if name in model.model_fields}
    layers = _layers(model, flags_given, environment, arguments.config)
    loaded = _merge(model, layers)
    if arguments.print_config:
        print(render(loaded), end="")  # noqa: T201
    if arguments.check:
        print(f"{loaded.settings.name}: the configuration is valid")  # noqa: T201
    if arguments.check or arguments.print_config:
        raise SystemExit(0)
    return loaded


def _unknown(model: type[TierSettings], parser: argparse.ArgumentParser, word: str) -> str:
    for name, info in model.model_fields.items():
        if word == option_name(name) and is_secret(info):
            variable = variable_name(model.tier, name)
            return f"{word}: every user can read the arguments of a process: set the variable {variable}"
        if word == option_name(name) and is_file_only(info):
            return f"{word}: write it in the file (--config), as [[{model.tier}.{name}]]"
    flags = [option for action in parser._actions for option in action.option_strings]
    return f"no such option: {word}{did_you_mean(word, flags)}"


def _layers(
    model: type[TierSettings], flags: dict[str, Any], environment: Mapping[str, str], config: Path | None
) -> list[Layer]:
    """The sources, the strongest first."""
    layers: list[Layer] = [FlagLayer(flags), EnvironmentLayer(model, environment)]
    if config is None and (variable := environment.get("SCALEUP_CONFIG")):
        config = Path(variable)
    if config is not None:
        node = next((layer.values["node"] for layer in layers if "node" in layer.values), "")
        layers += table_layers(model, TomlFile(config), node)
    return layers


def _merge(model: type[S], layers: list[Layer]) -> Loaded[S]:
    chosen = {name: layer for layer in reversed(layers) for name in layer.values}
    faults = [fault for layer in layers for fault in layer.faults]
    try:
        settings = model.model_validate({name: layer.values[name] for name, layer in chosen.items()})
    except ValidationError as error:
        problems = error.errors()
        broken = {problem["loc"][:1] for problem in problems if problem["type"] != "too_short"}
        for problem in problems:
            if problem["type"] == "too_short" and problem["loc"][:1] in broken:
                continue  # it is too short because of the elements that are told as well
            message = problem["msg"].removeprefix("Value error, ")
            secret = problem["type"] == "secret"
            faults.append(_fault(model, chosen, tuple(problem["loc"]), message, secret=secret))
    if faults:
        raise configuration_error(faults)
    names = model.model_fields
    origins = {name: chosen[name].origin((name,)) if name in chosen else "default" for name in names}
    return Loaded(settings, origins)


def _fault(
    model: type[TierSettings], chosen: dict[str, Layer], path: tuple[Any, ...], message: str, *, secret: bool
) -> Fault:
    if not path:
        return Fault("", message)
    name = str(path[0])
    if name not in chosen:
        ways = f"{option_name(name)}, {variable_name(model.tier, name)} or the key {name!r} of [{model.tier}]"
        if is_secret(model.model_fields[name]):
            ways = variable_name(model.tier, name)
        missing = message == "Field required"
        return Fault("", f"{name} is not set: say {ways}" if missing else f"{option_name(name)}: {message}")
    given: Any = chosen[name].values[name]
    for key in path[1:]:
        try:
            given = given[key]
        except (LookupError, TypeError):
            break  # the rest of the path is inside what a validator made of the text
    secret |= is_secret(model.model_fields[name])
    shown = message if secret or repr(given) in message else f"{message} (given: {given!r})"
    origin = chosen[name].origin(path)
    return Fault(origin, shown if origin == option_name(name) else f"{name}: {shown}")


def render(loaded: Loaded[S]) -> str:
    """The settings as a TOML table, with the origin of each value as a comment. Secrets are left out."""
    import tomlkit  # only --print-config needs it

    settings = loaded.settings
    prefix = f"{settings.tier}.node.{settings.node}" if settings.node else settings.tier
    document = tomlkit.document()
    for name, value in settings.table().items():
        if value is None:
            document.add(tomlkit.comment(f"{name} is not set"))
        elif name != "node":  # said by the table's name
            document.add(name, _item(value).comment(loaded.origins[name]))
    for name, origin in loaded.origins.items():
        if is_secret(type(settings).model_fields[name]) and origin != "default":
            document.add(tomlkit.comment(f"{name} is set by {origin} and not shown"))
    return f"[{prefix}]\n{tomlkit.dumps(document)}"


def _item(value: Any) -> Any:
    """For tomlkit; a list of tables stays in one place, as inline tables, a line each."""
    import tomlkit

    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return tomlkit.item(value)
    tables = tomlkit.array().multiline(True)
    for one in value:
        table = tomlkit.inline_table()
        table.update({key: inner for key, inner in one.items() if inner is not None})
        tables.append(table)
    return tables
