import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.net.addresses import Endpoint
from scaleup.upstream.host_names import Configuration, addresses_in_hosts, resolv_conf


def test_resolv_conf() -> None:
    text = """
    # written by hand
    nameserver 10.0.0.53   ; the first
    nameserver fd00::53
    nameserver ns.internal
    nameserver
    domain ignored.internal
    search default.svc.cluster.local svc.cluster.local .
    options edns0 ndots:5 rotate
    sortlist 10.0.0.0
    """
    assert resolv_conf(text) == Configuration(
        (Endpoint("10.0.0.53", 53), Endpoint("fd00::53", 53)),
        ("default.svc.cluster.local", "svc.cluster.local"),
        5,
    )
    assert resolv_conf("") == Configuration(())
    assert resolv_conf("options ndots:many").ndots == 1


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("web", ["web.a.", "web.b.", "web."]),
        ("web.ns", ["web.ns.a.", "web.ns.b.", "web.ns."]),
        ("web.ns.svc", ["web.ns.svc.", "web.ns.svc.a.", "web.ns.svc.b."]),
        ("web.", ["web."]),
    ],
)
def test_what_a_name_may_stand_for(name: str, candidates: list[str]) -> None:
    """As resolv.conf(5) says of ndots."""
    assert Configuration((), ("a", "b."), ndots=2).candidates(name) == candidates


def test_without_a_search_list_a_name_is_itself() -> None:
    assert Configuration(()).candidates("web") == ["web."]


def test_hosts() -> None:
    text = "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost # web\n\n10.0.0.1 Web.Internal web\n10.0.0.2\n"
    assert addresses_in_hosts(text, "localhost") == ["127.0.0.1", "::1"]
    assert addresses_in_hosts(text, "WEB.internal.") == ["10.0.0.1"]
    assert addresses_in_hosts(text, "10.0.0.1") == addresses_in_hosts(text, "other") == []


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert all(server.port == 53 for server in resolv_conf(text).servers)
    addresses_in_hosts(text, "web")
