"""What a browser carries along, also when its requests are beside each other."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from scaleup.app import session
from scaleup.app.position import NEWEST, START, Position
from scaleup.app.session import COOKIE, HEADER, MAX_COOKIES, Session

parse = Position.parse


class Browser:
    """Keeps cookies. `ask` begins a request, `answer` ends one, in any order."""

    def __init__(self) -> None:
        self.jar: dict[str, str] = {}

    def ask(self, method: str) -> Session:
        cookie = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        return session.begin(make_mocked_request(method, "/", {"Cookie": cookie} if cookie else {}))

    def answer(self, of: Session, shown: str) -> str | None:
        """The server has shown that much: what the response's header says."""
        of.seen = parse(shown)
        response = web.Response()
        of.tell(response)
        for name, morsel in response.cookies.items():
            if int(morsel["max-age"]) == 0:
                self.jar.pop(name, None)
            else:
                self.jar[name] = morsel.value
        return response.headers.get(HEADER)

    @property
    def has_seen(self) -> Position:
        return self.ask("GET").needed


def test_who_only_reads_gets_no_cookie() -> None:
    browser = Browser()
    assert browser.answer(browser.ask("GET"), "0-1-5") == "0-1-5"
    assert browser.jar == {}


def test_one_cookie_is_enough_for_who_does_one_thing_after_the_other() -> None:
    browser = Browser()
    for number, method in enumerate(("POST", "GET", "GET", "DELETE", "GET"), 5):
        browser.answer(browser.ask(method), f"0-1-{number}")
        assert list(browser.jar.values()) == [f"0-1-{number}"]
    before = dict(browser.jar)
    browser.answer(browser.ask("GET"), "0-1-8")  # of a server that is not as far, and need not be
    assert browser.jar == before  # nothing new: nothing is sent


def test_a_late_answer_takes_nothing_back() -> None:
    browser = Browser()
    browser.answer(browser.ask("POST"), "0-1-50")
    read, write, other = browser.ask("GET"), browser.ask("POST"), browser.ask("POST")
    browser.answer(write, "0-1-60")
    browser.answer(other, "0-1-59")
    browser.answer(read, "0-1-55")
    assert browser.has_seen == parse("0-1-60")
    browser.answer(browser.ask("GET"), "0-1-61")
    assert list(browser.jar.values()) == ["0-1-61"]  # and the others are gone


def test_after_a_write_that_nobody_knows_of_the_primary_is_asked_once() -> None:
    browser = Browser()
    browser.answer(browser.ask("POST"), "newest")
    assert browser.has_seen == NEWEST
    browser.answer(browser.ask("GET"), "0-1-7")
    assert browser.has_seen == parse("0-1-7")


def test_no_more_cookies_are_looked_at_than_a_browser_would_have() -> None:
    browser = Browser()
    browser.jar = {f"{COOKIE}-{number}": "0-1-7" for number in range(MAX_COOKIES)}
    assert browser.has_seen == parse("0-1-7")
    browser.jar[COOKIE] = "0-1-7"
    assert browser.has_seen == NEWEST
    browser.answer(browser.ask("GET"), "0-1-9")
    assert list(browser.jar.values()) == ["0-1-9"]


def test_a_cookie_that_only_looks_like_ours_is_none() -> None:
    browser = Browser()
    for name in (f"{COOKIE}{more}" for more in ("[1]", "-", "-x", "-123456789", "s")):
        browser.jar = {name: "0-1-5"}
        browser.answer(browser.ask("POST"), "0-1-7")  # which could not be sent if it had to remove "[1]"
        assert browser.jar.pop(name) == "0-1-5"
        assert list(browser.jar.values()) == ["0-1-7"]


def test_several_lines_of_the_header_and_what_is_no_position() -> None:
    def needed(*lines: str) -> Position:
        return session.begin(
            make_mocked_request("GET", "/", CIMultiDict((HEADER, it) for it in lines))
        ).needed

    assert needed() == START
    assert needed("0-1-9", "0-1-57, 1-2-3") == parse("0-1-57,1-2-3")
    assert needed("0-1-9", "rubbish") == NEWEST  # it was a position once, perhaps: what it said is not known
