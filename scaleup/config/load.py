"""From argv, the environment and the file to validated settings; --check, --print-config, --version."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from scaleup.config.cli import make_parser
from scaleup.config.faults import Fault, configuration_error, did_you_mean
from scaleup.config.model import TierSettings, flag_of, option_name, variable_name
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
        flags = [option for action in parser._actions for option in action.option_strings]
        word = unknown[0].partition("=")[0]
        parser.error(f"no such option: {word}{did_you_mean(word, flags)}")
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


def _layers(
    model: type[TierSettings], flags: dict[str, Any], environment: Mapping[str, str], config: Path | None
) -> list[Layer]:
    """The sources, the strongest first."""
    layers: list[Layer] = [FlagLayer(flags), EnvironmentLayer(model, environment)]
    if config is None and "SCALEUP_CONFIG" in environment:
        config = Path(environment["SCALEUP_CONFIG"])
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
        for problem in error.errors():
            path = tuple(problem["loc"])
            faults.append(_fault(model, chosen, path, problem["msg"].removeprefix("Value error, ")))
    if faults:
        raise configuration_error(faults)
    names = model.model_fields
    origins = {name: chosen[name].origin((name,)) if name in chosen else "default" for name in names}
    return Loaded(settings, origins)


def _fault(model: type[TierSettings], chosen: dict[str, Layer], path: tuple[Any, ...], message: str) -> Fault:
    if not path:
        return Fault("", message)
    name = str(path[0])
    if name not in chosen:
        ways = f"{option_name(name)}, {variable_name(model.tier, name)} or the key {name!r} of [{model.tier}]"
        if flag_of(model.model_fields[name]) is None:
            ways = variable_name(model.tier, name)
        missing = message == "Field required"
        return Fault("", f"{name} is not set: say {ways}" if missing else f"{option_name(name)}: {message}")
    given: Any = chosen[name].values[name]
    for key in path[1:]:
        try:
            given = given[key]
        except (LookupError, TypeError):
            break  # the rest of the path is inside what a validator made of the text
    if flag_of(model.model_fields[name]) is None:
        given = "…"  # a secret is not repeated in an error
    shown = message if repr(given) in message else f"{message} (given: {given!r})"
    return Fault(chosen[name].origin(path), f"{name}: {shown}")


def render(loaded: Loaded[S]) -> str:
    """The settings as a TOML table, with the origin of each value as a comment."""
    import tomlkit  # only --print-config needs it

    settings = loaded.settings
    prefix = f"{settings.tier}.node.{settings.node}" if settings.node else settings.tier
    document = tomlkit.document()
    for name, value in settings.table().items():
        if value is None:
            document.add(tomlkit.comment(f"{name} is not set"))
        elif name != "node":  # said by the table's name
            document.add(name, tomlkit.item(value).comment(loaded.origins[name]))
    return f"[{prefix}]\n{tomlkit.dumps(document)}"
