"""The layers of the design, read from the imports: who may know of whom, what is pure, and that the maps are true.

The packages' docstrings say which modules are pure (●). This test believes them, and asks that what the
design calls pure is marked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN_IN_PURE = {"asyncio", "socket", "time", "random", "logging", "selectors", "threading", "subprocess"}
"""Pure code is told the time and given its randomness; it does nothing to the world."""

BELOW = {"errors", "net", "config", "processes"}
"""What all tiers share."""

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "net": {"errors"},
    "config": {"errors", "net"},
    "processes": {"errors", "net", "config"},
    "vrrp": BELOW | {"upstream"},  # what a node tracks, it probes as servers are probed
    "upstream": BELOW,
    "sim": {"vrrp"},
    "lb": BELOW | {"upstream", "vrrp"},
    "web": BELOW | {"upstream"},
    "app": BELOW,
    "db": BELOW,
    "stack": BELOW,  # it starts the tiers by their command lines and knows nothing of their insides
    "__main__": {"stack"},
}

MUST_BE_PURE = {
    *("scaleup.net.addresses", "scaleup.vrrp.packet", "scaleup.vrrp.auth", "scaleup.vrrp.router"),
    *("scaleup.vrrp.arrangement", "scaleup.vrrp.decisions", "scaleup.vrrp.policy", "scaleup.vrrp.routers"),
    *("scaleup.lb.wheel", "scaleup.lb.tcplog"),
    *(
        "scaleup.upstream.balance",
        "scaleup.upstream.health",
        "scaleup.upstream.healthcheck",
        "scaleup.upstream.host_names",
        "scaleup.upstream.pool",
        "scaleup.upstream.server",
        "scaleup.upstream.slots",
    ),
    "scaleup.net.proxy_protocol",
    *("scaleup.web.syntax", "scaleup.web.framing", "scaleup.web.headers", "scaleup.web.targets"),
    *("scaleup.web.conditions", "scaleup.web.encoding", "scaleup.web.cache", "scaleup.web.problems"),
    *("scaleup.app.links", "scaleup.app.address", "scaleup.app.client", "scaleup.stack.plan"),
    *("scaleup.app.idempotency", "scaleup.app.outcomes"),
    *("scaleup.sim.clock", "scaleup.sim.network", "scaleup.sim.cluster", "scaleup.sim.chaos"),
}


# ----- reading the sources ----------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """Every module of scaleup, by its dotted name."""
    found = {}
    for path in (ROOT / "scaleup").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def docstring(module: str) -> str:
    return ast.get_docstring(tree(module)) or ""


def imports_in(node: ast.AST) -> Iterator[str]:
    """The dotted names that are imported, inside functions as well; not those only for the type checker."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            node = ast.Module(node.orelse, [])
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=origin, names=names, level=level):
            assert level == 0, "imports are absolute here"
            assert origin is not None
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in names if f"{origin}.{alias.name}" in modules())
    for child in ast.iter_child_nodes(node):
        yield from imports_in(child)


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports_in(tree(module)))


@cache
def executed(module: str) -> frozenset[str]:
    """The modules of scaleup that are executed when this one is imported, itself and its packages among them."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in modules():
            continue
        seen.add(name)
        waiting += [
            name.rpartition(".")[0],
            *(other for other in imported(name) if other.startswith("scaleup")),
        ]
    return frozenset(seen)


def package_of(module: str) -> str:
    """`lb` of `scaleup.lb.relay`."""
    return module.removeprefix("scaleup").lstrip(".").partition(".")[0]


@cache
def packages() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "scaleup").glob("*/__init__.py"))


def marked_pure() -> set[str]:
    """What the docstrings mark: `router ●` in that of a package, `sim ●` of a whole one, ● in that of a module."""
    pure = set()
    for package in packages():
        inside = [name for name in modules() if name.startswith(f"scaleup.{package}.")]
        if re.search(rf"^ +{package} ●", docstring("scaleup"), re.MULTILINE):
            pure |= set(inside)
        listed = re.findall(r"^ *(\w+) ●", docstring(f"scaleup.{package}"), re.MULTILINE)
        pure |= {f"scaleup.{package}.{name}" for name in listed}
        pure |= {name for name in inside if re.search(r"●\s*$", docstring(name).split("\n\n")[0])}
    return pure


# ----- what must hold ---------------------------------------------------------------------------------


def test_the_tests_see_the_sources() -> None:
    assert len(modules()) > 50
    assert "asyncio" in imported("scaleup.processes.process")
    assert "scaleup.processes.admin" in imported("scaleup.processes.process")  # inside a function
    assert "scaleup.config.load" in executed("scaleup.web.settings")  # through the package's __init__


def test_what_the_design_calls_pure_is_marked() -> None:
    assert MUST_BE_PURE - marked_pure() == set()
    assert marked_pure() - modules().keys() == set(), "marked, but there is no such module"


@pytest.mark.parametrize("module", sorted(marked_pure()))
def test_pure_modules_reach_no_clock_no_chance_and_no_world(module: str) -> None:
    """Not even through another module of ours."""
    guilty = {
        f"{name} imports {other}"
        for name in executed(module)
        for other in imported(name)
        if other.partition(".")[0] in FORBIDDEN_IN_PURE
    }
    assert not guilty


@pytest.mark.parametrize("package", [*packages(), "errors", "__main__"])
def test_a_package_knows_only_what_is_below_it(package: str) -> None:
    assert package in MAY_IMPORT, "a new package: say in MAY_IMPORT what it may know of"
    guilty = {
        f"{module} imports {other}"
        for module in modules()
        if package_of(module) == package
        for other in imported(module)
        if other.startswith("scaleup.") and package_of(other) not in MAY_IMPORT[package] | {package}
    }
    assert not guilty


def test_what_runs_for_users_imports_nothing_for_developers() -> None:
    ours = {path.stem for path in (ROOT / "tests").rglob("*.py")} - {"__init__", "__main__"}
    developers = {"tests", "pytest", "hypothesis", "psutil", "scapy", *(name for name in ours if "_" in name)}
    guilty = {
        f"{module} imports {other}"
        for module in modules()
        for other in imported(module)
        if other.partition(".")[0] in developers
    }
    assert not guilty


# ----- the maps ---------------------------------------------------------------------------------------


def listed(text: str) -> set[str]:
    """The names that begin a line of a map: `    router ●   …`, `    settings, metrics`."""
    names: set[str] = set()
    for line in text.splitlines():
        if match := re.match(r" +(\w+(?:, \w+)*)(?: ●)?(?:  |$)", line):
            names |= set(match[1].split(", "))
    return names


def test_the_map_names_every_package_and_no_other() -> None:
    assert listed(docstring("scaleup")) == {*packages(), "errors"}


@pytest.mark.parametrize("package", packages())
def test_a_package_names_every_module_of_its(package: str) -> None:
    inside = {name.rpartition(".")[2] for name in modules() if name.startswith(f"scaleup.{package}.")}
    text = docstring(f"scaleup.{package}")
    assert {name for name in inside - {"__main__"} if not re.search(rf"\b{name}\b", text)} == set()
