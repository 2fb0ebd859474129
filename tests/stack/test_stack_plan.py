"""The command lines of `up`: each is one that its tier accepts, and all fit together."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from scaleup.config import TierSettings, load
from scaleup.net.addresses import Endpoint
from scaleup.stack.plan import TIERS, Spec, make_plan, virtual_endpoint
from scaleup.stack.rundir import RunDir
from scaleup.stack.settings import UpSettings


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def model_of(spec: Spec) -> type[TierSettings]:
    module = importlib.import_module(f"scaleup.{spec.tier}.settings")
    return getattr(module, f"{spec.tier.capitalize()}Settings")  # type: ignore[no-any-return]


def plan(site: Path, **values: object) -> list[Spec]:
    settings = UpSettings(root=site, **values)  # type: ignore[arg-type]
    return make_plan(settings, RunDir(site.parent / "run").open(settings))


@pytest.mark.parametrize(("lbs", "webs", "apps"), [(1, 1, 1), (2, 2, 2), (3, 9, 9), (9, 1, 2)])
def test_every_tier_accepts_its_command_line(site: Path, lbs: int, webs: int, apps: int) -> None:
    specs = plan(site, lbs=lbs, webs=webs, apps=apps)
    assert len(specs) == lbs + webs + apps + 1
    for spec in specs:
        module, *arguments = spec.arguments
        assert module == f"scaleup.{spec.tier}"
        settings = load(model_of(spec), arguments, {}).settings
        assert settings.name == spec.name


def test_the_order_of_need(site: Path) -> None:
    tiers = [spec.tier for spec in plan(site)]
    assert list(dict.fromkeys(tiers)) == list(TIERS)
    assert sorted(tiers, key=TIERS.index) == tiers


def test_addresses_are_those_of_the_design(site: Path) -> None:
    specs = {spec.name: str(spec.endpoint) for spec in plan(site)}
    assert specs == {
        "db": "127.0.0.41:3306",
        "app1": "127.0.0.31:3000",
        "app2": "127.0.0.32:3000",
        "web1": "127.0.0.21:8080",
        "web2": "127.0.0.22:8080",
        "lb1": "127.0.0.11:8080",
        "lb2": "127.0.0.12:8080",
    }
    assert virtual_endpoint(UpSettings(root=site)) == Endpoint("127.0.0.100", 8080)


def test_each_process_has_an_admin_address_of_its_own(site: Path) -> None:
    assert not any("--admin" in spec.arguments for spec in plan(site))
    for spec in plan(site, admin_port=9100):
        assert spec.arguments[spec.arguments.index("--admin") + 1] == f"{spec.endpoint.host}:9100"


def test_one_load_balancer_has_nobody_to_elect(site: Path) -> None:
    balancer = next(spec for spec in plan(site, lbs=1) if spec.tier == "lb")
    assert "--vip" not in balancer.arguments


def test_priorities_fall_with_the_number(site: Path) -> None:
    balancers = [spec for spec in plan(site, lbs=9) if spec.tier == "lb"]
    priorities = [int(spec.arguments[spec.arguments.index("--priority") + 1]) for spec in balancers]
    assert priorities == sorted(set(priorities), reverse=True)


def test_data_that_are_to_be_kept_are_not_in_the_run_directory(site: Path) -> None:
    with pytest.raises(ValueError, match="write a directory outside it"):
        UpSettings(root=site, run_dir=site / "run", data=site / "run" / "data")


def test_no_secret_is_in_argv(site: Path) -> None:
    said = " ".join(argument for spec in plan(site) for argument in spec.arguments)
    for name in ("vrrp.key", "database.password", "site.key"):
        assert (site.parent / "run" / name).read_text() not in said
