"""The rules about header fields, as functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.web.headers import (
    Field,
    Hop,
    InvalidResponse,
    head,
    members_of,
    refuse_ambiguous,
    request_length,
    response_length,
    to_application,
    to_client,
    value_of,
    wants_continue,
)
from scaleup.web.problems import Problem

HOP = Hop(b"web1", b"1.1", b"10.0.0.9", False, b"http", b"site.test")
TRUSTED = Hop(b"web1", b"1.1", b"10.0.0.9", True, b"http", b"site.test")
OURS = [
    (b"X-Forwarded-For", b"10.0.0.9"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"site.test"),
    (b"Via", b"1.1 web1"),
]

names = st.sampled_from(
    b"Host Accept accept Cookie Connection Keep-Alive TE Trailer Upgrade Transfer-Encoding Content-Length Expect "
    b"X-Forwarded-For x-forwarded-port Forwarded X-Real-IP Via X-Own x-own Proxy X_Forwarded_For Server "
    b"X-Served-By Proxy-Connection".split()
)
values = st.text("abcXYZ019 ,;=-./", max_size=12).map(lambda text: text.strip().encode())
some_fields = st.lists(st.tuples(names, values), max_size=12)


def lower(fields: list[Field]) -> list[bytes]:
    return [name.lower() for name, _ in fields]


def test_a_plain_request_gets_what_we_know_added() -> None:
    fields = [(b"Host", b"site.test"), (b"Accept", b"*/*"), (b"Cookie", b"a=1")]
    assert to_application(fields, HOP) == [*fields, *OURS]


def test_a_request_without_host_gets_none() -> None:
    hop = Hop(b"web1", b"1.0", b"10.0.0.9", False, b"http", b"")
    assert lower(to_application([], hop)) == [b"x-forwarded-for", b"x-forwarded-proto", b"via"]


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
    named = set(members_of(fields, b"connection")) - set(lower(OURS)) - {b"host"}
    for name in named | set(
        b"connection keep-alive te trailer upgrade transfer-encoding content-length expect proxy-connection "
        b"proxy forwarded x-real-ip x-forwarded-port x_forwarded_for".split()
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
        if name not in members_of(fields, b"connection"):
            assert [v for n, v in sent if n.lower() == name] == [v for n, v in fields if n.lower() == name]


@given(some_fields)
def test_trap_3_duplicates_share_one_spelling(fields: list[Field]) -> None:
    sent = [name for name, _ in to_application(fields, HOP)]
    assert len(set(sent)) == len({name.lower() for name in sent})


@given(some_fields)
def test_nothing_about_the_connection_or_the_framing_goes_to_the_client(fields: list[Field]) -> None:
    try:
        sent = to_client(fields, b"web1")
    except InvalidResponse:
        return
    for name in b"connection keep-alive trailer upgrade transfer-encoding content-length server".split():
        assert name not in lower(sent)
    assert lower(sent).count(b"via") == lower(sent).count(b"x-served-by") == 1
    assert value_of(sent, b"x-served-by").startswith(b"web1")


def test_who_served_a_response_is_a_chain() -> None:
    sent = to_client([(b"X-Served-By", b"app2"), (b"Server", b"Flask/1.0"), (b"Via", b"1.1 inner")], b"web1")
    assert value_of(sent, b"x-served-by") == b"web1, app2"
    assert value_of(sent, b"via") == b"1.1 inner, 1.1 web1"


def test_an_application_s_own_policy_on_sniffing_stays() -> None:
    assert (
        lower(to_client([(b"x-content-type-options", b"nosniff")], b"w")).count(b"x-content-type-options")
        == 1
    )


@pytest.mark.parametrize(
    "field", [(b"X Y", b"1"), (b"", b"1"), (b"X", b"a\rb"), (b"X", b"a\nb"), (b"X", b"\0")]
)
def test_a_response_that_the_next_parser_may_read_differently_is_refused(field: Field) -> None:
    with pytest.raises(InvalidResponse):
        to_client([field], b"web1")


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        ("GET", 200, [(b"Content-Length", b"5")], 5),
        ("GET", 200, [(b"Content-Length", b"5"), (b"content-length", b"5")], 5),
        ("GET", 200, [(b"Transfer-Encoding", b"chunked")], None),
        ("GET", 200, [(b"Transfer-Encoding", b"Chunked")], None),
        ("GET", 200, [], None),
        ("GET", 204, [], 0),
        ("HEAD", 200, [(b"Content-Length", b"5")], 5),
        ("HEAD", 200, [(b"Transfer-Encoding", b"chunked")], None),
        ("GET", 304, [], None),
    ],
)
def test_response_length(method: str, status: int, fields: list[Field], length: int | None) -> None:
    assert response_length(method, status, fields) == length


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Content-Length", b"5"), (b"Content-Length", b"6")],
        [(b"Content-Length", b"5, 6")],
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"-5")],
        [(b"Content-Length", b"0x5")],
        [(b"Content-Length", b"\xb2")],  # a digit of another script
        [(b"Content-Length", b"9" * 5000)],
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
    ],
)
def test_ambiguous_framing_of_a_response_is_refused(fields: list[Field]) -> None:
    with pytest.raises(InvalidResponse):
        response_length("GET", 200, fields)


def test_request_length() -> None:
    assert request_length([]) == 0
    assert request_length([(b"content-LENGTH", b"12")]) == 12
    assert request_length([(b"Transfer-Encoding", b"chunked")]) is None


@pytest.mark.parametrize(
    ("version", "fields", "status"),
    [
        ((2, 0), [], 400),
        ((0, 9), [], 400),
        ((1, 2), [], 400),
        ((1, 1), [(b"X_Y", b"")], 400),
        ((1, 1), [(b"Host", b"a b")], 400),
        ((1, 1), [(b"Host", b"[::1")], 400),
        ((1, 0), [(b"Transfer-Encoding", b"chunked")], 400),
        ((1, 1), [(b"Transfer-Encoding", b"gzip, chunked")], 501),
        ((1, 1), [(b"Expect", b"magic")], 417),
        ((1, 1), [(b"X", b"a" * 33_000)], 431),
    ],
)
def test_what_is_refused(version: tuple[int, int], fields: list[Field], status: int) -> None:
    with pytest.raises(Problem) as refused:
        refuse_ambiguous(version, fields)
    assert refused.value.status == status
    assert refused.value.close


@pytest.mark.parametrize("host", [b"", b"a", b"a.b:80", b"[::1]:80", b"10.0.0.1", b"a_b:", b"xn--ls8h.la"])
def test_hosts_that_are_taken(host: bytes) -> None:
    refuse_ambiguous((1, 1), [(b"Host", host)])


def test_expectations() -> None:
    expect = [(b"Expect", b"100-Continue")]
    assert wants_continue((1, 1), expect)
    assert not wants_continue((1, 0), expect)


@given(st.lists(st.tuples(st.just(b"X"), values), max_size=5))
def test_a_head_is_lines(fields: list[Field]) -> None:
    lines = head(200, b"OK", fields).split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert lines[1:-2] == [b"X: " + value for _, value in fields]
    assert lines[-2:] == [b"", b""]
