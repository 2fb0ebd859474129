from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from scaleup.net.addresses import Endpoint
from scaleup.upstream.template import MAX_SLOTS, ServerTemplate, ServerTemplates

templates: TypeAdapter[Any] = TypeAdapter(ServerTemplates)


def test_servers_of_one_name() -> None:
    servers = ServerTemplate.parse("web 1-3 web.internal:8080,weight=2,backup,port=81").servers
    assert [server.name for server in servers] == ["web1", "web2", "web3"]
    assert {server.address for server in servers} == {Endpoint("web.internal", 8080)}
    assert {(server.weight, server.backup, server.port) for server in servers} == {(2, True, 81)}


def test_a_number_counts_from_one_and_a_range_from_anywhere() -> None:
    assert [server.name for server in ServerTemplate.parse("w 2 a:80").servers] == ["w1", "w2"]
    assert [server.name for server in ServerTemplate.parse("w 7-8 a:80").servers] == ["w7", "w8"]


def test_services_have_no_port() -> None:
    template = ServerTemplate.parse("web 2 _http._tcp.web.service.consul,weight=3")
    assert template.name == Endpoint("_http._tcp.web.service.consul", 0)
    assert {(server.address, server.weight) for server in template.servers} == {(template.name, 3)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web 1-5 web.internal:8080,weight=2", "web 1-5 web.internal:8080,weight=2"),
        ("web 5 web.internal:8080", "web 1-5 web.internal:8080"),
        ("  web   5   _http._tcp.web.consul , backup ", "web 1-5 _http._tcp.web.consul,backup"),
    ],
)
def test_what_is_shown_reads_back(text: str, shown: str) -> None:
    validated = templates.validate_python([text])
    assert templates.dump_python(validated, mode="json") == [shown]
    assert templates.validate_python([shown]) == validated


@given(st.text(max_size=40))
def test_any_line_is_a_template_or_a_fault(line: str) -> None:
    try:
        ServerTemplate.parse(line)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web 5", "'web 5' is not a template of servers: write for example web 1-5 web.internal:8080"),
        ("web x web.internal:80", "is not a template of servers"),
        ("web 0 web.internal:80", f"0 in 'web 0 web.internal:80': write 1 to {MAX_SLOTS} servers"),
        ("web 5-4 web.internal:80", "5-4 in 'web 5-4 web.internal:80': write 1 to"),
        (f"web {MAX_SLOTS + 1} web.internal:80", f"{MAX_SLOTS + 1} in"),
        ("web 5 web.internal", "'web.internal' has no port"),
        ("web 5 web.internal:0", "web.internal:0 cannot be connected to"),
        ("web 5 10.0.0.1:80", "10.0.0.1 in 'web 5 10.0.0.1:80' is an address, and needs no template"),
        ("web 5 web.internal:80,wieght=2", "a server has no 'wieght'; did you mean \"weight\"?"),
        ("web 5 web.internal:80,weight=999", "weight is '999'"),
        (5, 'write "web 1-5 web.internal:8080,weight=2", not 5'),
    ],
)
def test_errors_say_what_to_write(text: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        templates.validate_python([text])
    [fault] = caught.value.errors()
    assert message in fault["msg"]
