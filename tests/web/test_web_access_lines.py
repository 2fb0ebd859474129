"""The access log's lines, as pure functions."""

import json
import re
import time

import pytest

from scaleup.web.access_log import Access, Upstream, combined, common, json_object
from scaleup.web.syntax import read_request

ENDED = 1795453902.5  # 2026-11-23 16:31:42.5 UTC
HEAD = read_request(
    b"GET /a?b=c HTTP/1.1\r\nHost: site.test\r\nReferer: https://x.test/\r\nUser-Agent: curl/8.5\r\n\r\n"
)


@pytest.fixture(autouse=True)
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()


def access(head: bytes | None = None, **changed: object) -> Access:
    read = HEAD if head is None else read_request(head)
    it = Access("192.0.2.7", ENDED, 1.0, read, b"", 200, 5316, "https", b"id1", None)
    return it._replace(**changed)  # type: ignore[arg-type]


def test_ncsa_s_common_log() -> None:
    assert common(access()) == '192.0.2.7 - - [23/Nov/2026:12:11:41 -0500] "GET /a?b=c HTTP/1.1" 200 5316'


def test_the_combined_log() -> None:
    assert combined(access()) == common(access()) + ' "https://x.test/" "curl/8.5"'
    assert combined(access(b"GET / HTTP/1.0\r\n\r\n")).endswith('"GET / HTTP/1.0" 200 5316 "-" "-"')


def test_nothing_of_a_client_breaks_a_line() -> None:
    head = b'GET / HTTP/1.1\r\nHost: a\r\nReferer: "\\\t\xff\r\nUser-Agent: x" 200 "\r\n\r\n'
    line = combined(access(head))
    assert line.endswith(r'"\x22\x5C\x09\xFF" "x\x22 200 \x22"')
    assert line.isascii()
    assert line.isprintable()


def test_what_is_no_request_is_logged_as_it_came() -> None:
    it = access(head=None, line=b"\x16\x03\x01 garbage", status=400, request_id=b"")._replace(head=None)
    assert common(it).endswith(r'"\x16\x03\x01 garbage" 400 5316')
    assert combined(it._replace(line=b"")).endswith('"-" 400 5316 "-" "-"')
    assert json.loads(json_object(it))["method"] is None


def test_an_object_says_more() -> None:
    it = access(upstream=Upstream("app1", 201, 0.25, 2))
    assert json.loads(json_object(it)) == {
        "came": "2026-11-23T17:11:41.500+00:00",
        "client": "192.0.2.7",
        "request": "GET /a?b=c HTTP/1.1",
        "method": "GET",
        "host": "site.test",
        "scheme": "https",
        "status": 200,
        "bytes_sent": 5316,
        "seconds": 1.0,
        "referer": "https://x.test/",
        "user_agent": "curl/8.5",
        "request_id": "id1",
        "upstream": "app1",
        "upstream_status": 201,
        "upstream_seconds": 0.25,
        "tries": 2,
    }
    assert json.loads(json_object(access()))["upstream"] is None


def test_an_object_is_one_line_whatever_bytes_came() -> None:
    line = json_object(access(b'GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \xc3\xa4 \xff "x"\r\n\r\n'))
    assert not re.search(r"[\x00-\x1f]", line)
    assert json.loads(line)["user_agent"] == 'ä \\xff "x"'
