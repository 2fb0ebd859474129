"""The command line of a tier, made from its model: a flag for each field, grouped, with its default."""

from __future__ import annotations

import argparse
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined
from rich_argparse import RawDescriptionRichHelpFormatter

from scaleup.config.model import TierSettings, flag_of, is_file_only, is_repeatable, option_name

_PRECEDENCE = """Each option is also a key of the table [{0}], or [{0}.node.NAME], of the file (with _ for -)
and a variable SCALEUP_{1}_…; flags win over variables, variables over the file."""
_TABLES = " Only the file can hold {}."


class _HelpFormatter(RawDescriptionRichHelpFormatter):
    help_markup = False
    text_markup = False
    group_name_formatter = str  # not in title case: it is "VRRP"


def make_parser(model: type[TierSettings]) -> argparse.ArgumentParser:
    """Options stay text here: the model converts and validates values from every source alike."""
    command = f"python -m scaleup.{model.tier}" if model.tier != "up" else "python -m scaleup up"
    command = f"{command} {model.command}".rstrip()
    parser = argparse.ArgumentParser(
        prog=command,
        usage=f"{command} [OPTION ...]",  # all of them would hide the error that they stand before
        description=inspect.cleandoc(model.__doc__ or ""),
        epilog=model.examples.strip("\n") or None,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    shared = TierSettings.model_fields.keys()
    declared = (model.model_fields.keys() & each.__annotations__.keys() for each in model.__mro__[:-1])
    own = next(filter(None, declared))  # a command's own class may add none
    # The tier's own settings first, what it has in common with some others next, with all last.
    for name, info in sorted(
        model.model_fields.items(), key=lambda item: (item[0] in shared, item[0] not in own)
    ):
        flag = flag_of(info)
        if flag is None:
            continue
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        group = groups[flag.group]
        text = (info.description or "") + _default_text(info.default)
        options: dict[str, Any] = {"dest": name, "help": text.replace("%", "%%")}
        if info.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = flag.metavar or _choices(info.annotation)
            if is_repeatable(info):
                options["action"] = "append"
        group.add_argument(option_name(name), **options)
    about = _PRECEDENCE.format(model.tier, model.tier.upper())
    if tables := [name for name, info in model.model_fields.items() if is_file_only(info)]:
        about += _TABLES.format(" and ".join(f"[[{model.tier}.{name}]]" for name in tables))
    general = parser.add_argument_group("configuration", about)
    general.add_argument(
        "--config", metavar="FILE", type=Path, default=None, help="cluster.toml (or SCALEUP_CONFIG)"
    )
    general.add_argument(
        "--check", action="store_true", default=False, help="say every fault, bind nothing; exit 0 or 78"
    )
    general.add_argument(
        "--print-config", action="store_true", default=False, help="print each value with its origin"
    )
    general.add_argument("--version", action="version", version=f"scaleup {version('scaleup')}")
    general.add_argument("-h", "--help", action="help", help="print this text")
    return parser


def _default_text(default: object) -> str:
    if default is None or default is PydanticUndefined or default == "":
        return ""
    if isinstance(default, tuple):
        return f" (default: {' '.join(map(str, default))})" if default else ""
    if isinstance(default, bool):
        return f" (default: {'yes' if default else 'no'})"
    return f" (default: {default})"


def _choices(annotation: Any) -> str | None:
    choices = [item for item in getattr(annotation, "__args__", ()) if isinstance(item, str)]
    return "{" + ",".join(choices) + "}" if choices else None
