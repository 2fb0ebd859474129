"""The command lines of `up`: each is one that its tier accepts, and all fit together."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from scaleup.config import TierSettings, load
from scaleup.net.addresses import Endpoint
from scaleup.stack.plan import TIERS, Secrets, Spec, make_plan, virtual_endpoint
from scaleup.stack.settings import UpSettings


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    key, password = tmp_path / "key", tmp_path / "password"
    key.write_text("k" * 64)
    password.write_text("p" * 64)
    return Secrets(key, password)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def model_of(spec: Spec) -> type[TierSettings]:
    module = importlib.import_module(f"scaleup.{spec.tier}.settings")
    return getattr(module, f"{spec.tier.capitalize()}Settings")  # type: ignore[no-any-return]


def plan(secrets: Secrets, site: Path, **values: object) -> list[Spec]:
    return make_plan(UpSettings(root=site, **values), secrets, site.parent / "data")  # type: ignore[arg-type]


@pytest.mark.parametrize(("lbs", "webs", "apps"), [(1, 1, 1), (2, 2, 2), (3, 9, 9), (9, 1, 2)])
def test_every_tier_accepts_its_command_line(
    secrets: Secrets, site: Path, lbs: int, webs: int, apps: int
) -> None:
    specs = plan(secrets, site, lbs=lbs, webs=webs, apps=apps)
    assert len(specs) == lbs + webs + apps + 1
    for spec in specs:
        module, *arguments = spec.arguments
        assert module == f"scaleup.{spec.tier}"
        settings = load(model_of(spec), arguments, {}).settings
        assert settings.name == spec.name


def test_the_order_of_need(secrets: Secrets, site: Path) -> None:
    tiers = [spec.tier for spec in plan(secrets, site)]
    assert list(dict.fromkeys(tiers)) == list(TIERS)
    assert sorted(tiers, key=TIERS.index) == tiers


def test_addresses_are_those_of_the_design(secrets: Secrets, site: Path) -> None:
    specs = {spec.name: str(spec.endpoint) for spec in plan(secrets, site)}
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


def test_each_process_has_an_admin_address_of_its_own(secrets: Secrets, site: Path) -> None:
    assert not any("--admin" in spec.arguments for spec in plan(secrets, site))
    for spec in plan(secrets, site, admin_port=9100):
        assert spec.arguments[spec.arguments.index("--admin") + 1] == f"{spec.endpoint.host}:9100"


def test_one_load_balancer_has_nobody_to_elect(secrets: Secrets, site: Path) -> None:
    balancer = next(spec for spec in plan(secrets, site, lbs=1) if spec.tier == "lb")
    assert "--vip" not in balancer.arguments


def test_priorities_fall_with_the_number(secrets: Secrets, site: Path) -> None:
    balancers = [spec for spec in plan(secrets, site, lbs=9) if spec.tier == "lb"]
    priorities = [int(spec.arguments[spec.arguments.index("--priority") + 1]) for spec in balancers]
    assert priorities == sorted(set(priorities), reverse=True)


def test_data_that_are_to_be_kept_are_not_in_the_run_directory(site: Path) -> None:
    with pytest.raises(ValueError, match="write a directory outside it"):
        UpSettings(root=site, run_dir=site / "run", data=site / "run" / "data")


def test_no_secret_is_in_argv(secrets: Secrets, site: Path) -> None:
    said = " ".join(argument for spec in plan(secrets, site) for argument in spec.arguments)
    assert "k" * 64 not in said
    assert "p" * 64 not in said
