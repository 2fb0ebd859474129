"""The rules about header fields, as functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.web import headers
from scaleup.web.headers import Hop, request_id_of, upgrade_of
from scaleup.web.syntax import Field, lines_of, members, read_request, read_response

HOP = Hop(b"web1", b"1.1", b"10.0.0.9", False, b"http", b"site.test", b"id")
TRUSTED = Hop(b"web1", b"1.1", b"10.0.0.9", True, b"http", b"site.test", b"id")
OURS = [
    (b"X-Forwarded-For", b"10.0.0.9"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"site.test"),
    (b"Via", b"1.1 web1"),
    (b"X-Request-Id", b"id"),
]


def named(fields: list[Field]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        found[name.lower()] = found[name.lower()] + b", " + value if name.lower() in found else value
    return found


def apart(lines: bytes) -> list[Field]:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]


def to_application(fields: list[Field], hop: Hop) -> list[Field]:
    head = read_request(b"GET / HTTP/1.1\r\n%b\r\n" % lines_of(fields))
    return apart(headers.to_application(head, hop))


def to_client(fields: list[Field]) -> list[Field]:
    head = read_response(b"HTTP/1.1 200 OK\r\n%b\r\n" % lines_of(fields))
    return apart(headers.to_client(head, HOP))


def value_of(fields: list[Field], name: bytes) -> bytes:
    return named(fields).get(name, b"")


def listed(fields: list[Field], name: bytes) -> list[bytes]:
    return members(value_of(fields, name))


names = st.sampled_from(
    b"Host Accept accept Cookie Connection Keep-Alive TE Trailer Upgrade Transfer-Encoding Content-Length Expect "
    b"X-Forwarded-For x-forwarded-port Forwarded X-Real-IP Via X-Own x-own Proxy X-Request-Id Server "
    b"X-Served-By Proxy-Connection".split()
)
values = st.text("abcXYZ019 ,;=-./", max_size=12).map(lambda text: text.strip().encode())
some_fields = st.lists(st.tuples(names, values), max_size=12)


def lower(fields: list[Field]) -> list[bytes]:
    return [name.lower() for name, _ in fields]


def test_a_plain_request_gets_what_we_know_added() -> None:
    fields = [(b"Host", b"site.test"), (b"Accept", b"*/*"), (b"Cookie", b"a=1")]
    assert to_application(fields, HOP) == [*fields, *OURS]


def test_a_request_without_host_gets_an_empty_one() -> None:
    """RFC 9112 §3.2: in HTTP/1.1, which is what it is forwarded as, it may not be absent."""
    hop = Hop(b"web1", b"1.0", b"10.0.0.9", False, b"http", b"", b"id")
    sent = to_application([], hop)
    assert sent[0] == (b"Host", b"")
    assert lower(sent[1:]) == [*(b"x-forwarded-for", b"x-forwarded-proto", b"via", b"x-request-id")]


def test_a_chain_of_trusted_proxies_is_continued() -> None:
    fields = [
        (b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2"),
        (b"x-forwarded-for", b"3.3.3.3"),
        (b"Via", b"1.0 edge"),
    ]
    sent = to_application(fields, TRUSTED)
    assert value_of(sent, b"x-forwarded-for") == b"1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9"
    assert value_of(sent, b"via") == b"1.0 edge, 1.1 web1"
    assert value_of(to_application(fields, HOP), b"x-forwarded-for") == b"10.0.0.9"


def test_connection_cannot_name_what_we_add() -> None:
    fields = [(b"Host", b"a"), (b"Connection", b"X-Forwarded-For, Via, Host"), (b"Via", b"1.1 edge")]
    sent = to_application(fields, HOP)
    assert (b"X-Forwarded-For", b"10.0.0.9") in sent
    assert (b"Host", b"site.test") in sent


@given(some_fields)
def test_nothing_about_the_connection_or_the_framing_goes_to_the_application(fields: list[Field]) -> None:
    sent = lower(to_application(fields, HOP))
    named = set(listed(fields, b"connection")) - set(lower(OURS)) - {b"host"}
    for name in named | set(
        b"connection keep-alive te trailer upgrade transfer-encoding content-length expect proxy-connection "
        b"proxy forwarded x-real-ip x-forwarded-port x-request-timeout".split()
    ):
        assert name not in sent
    assert sent.count(b"host") == 1


@given(some_fields)
def test_a_stranger_decides_nothing_about_forwarding(fields: list[Field]) -> None:
    sent = to_application(fields, HOP)
    assert [field for field in sent if field[0].lower().startswith(b"x-forwarded-")] == OURS[:3]


@given(some_fields)
def test_what_is_kept_keeps_its_order_and_its_values(fields: list[Field]) -> None:
    sent = to_application(fields, HOP)
    for name in (b"x-own", b"accept", b"cookie"):
        if name not in listed(fields, b"connection"):
            assert [v for n, v in sent if n.lower() == name] == [v for n, v in fields if n.lower() == name]


@given(some_fields)
def test_nothing_about_the_connection_or_the_framing_goes_to_the_client(fields: list[Field]) -> None:
    sent = to_client(fields)
    for name in b"connection keep-alive trailer upgrade transfer-encoding content-length server".split():
        assert name not in lower(sent)
    assert lower(sent).count(b"via") == lower(sent).count(b"x-served-by") == 1
    assert value_of(sent, b"x-served-by").startswith(b"web1")


def test_who_served_a_response_is_a_chain() -> None:
    sent = to_client([(b"X-Served-By", b"app2"), (b"Server", b"Flask/1.0"), (b"Via", b"1.1 inner")])
    assert value_of(sent, b"x-served-by") == b"web1, app2"
    assert value_of(sent, b"via") == b"1.1 inner, 1.1 web1"


def test_an_application_s_own_policy_on_sniffing_stays() -> None:
    assert lower(to_client([(b"x-content-type-options", b"nosniff")])).count(b"x-content-type-options") == 1


def test_an_id_that_can_stand_in_a_log_is_kept() -> None:
    assert request_id_of({b"x-request-id": b"0af7-65:x"}) == b"0af7-65:x"
    for bad in (b"", b"a b", b"x" * 129, b"\xe9", b'"'):
        assert request_id_of({b"x-request-id": bad}) is None
    assert request_id_of({}) is None


@pytest.mark.parametrize(
    ("connection", "upgrade", "to"),
    [
        (b"Upgrade", b"websocket", b"websocket"),
        (b"keep-alive, upgrade", b"mqtt", b"mqtt"),
        (b"keep-alive", b"websocket", None),
        (b"upgrade", b"", None),
        (b"upgrade", b"h2c", None),
        (b"upgrade", b"websocket, H2C", None),
        (b"upgrade", b"HTTP/2.0", None),
        (b"upgrade", b"TLS/1.3", None),
    ],
)
def test_upgrades(connection: bytes, upgrade: bytes, to: bytes | None) -> None:
    assert upgrade_of({b"connection": connection, b"upgrade": upgrade}) == to


@given(st.lists(st.tuples(st.just(b"X"), values), max_size=5))
def test_fields_are_lines(fields: list[Field]) -> None:
    assert lines_of(fields).split(b"\r\n")[:-1] == [b"X: " + value for _, value in fields]
