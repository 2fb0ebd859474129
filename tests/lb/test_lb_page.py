"""The statistics page: what it says, and what it lets a browser do. test_lb_page_browser looks at it with one."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

from desk import Desk

from scaleup.lb.counters import ServerColumn
from scaleup.lb.page import COLUMNS, HEADERS, page
from scaleup.lb.stats import BackendRow, FrontendRow, ServerRow


def shown(desk: Desk, role: str | None = None) -> str:
    return page(desk.operations.rows(), desk.operations.info(), role)


class Reader(HTMLParser):
    """The rows by their ids: class, and text of each labelled cell. Fails on what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, str]] = {}
        self._row: dict[str, str] = {}
        self._cell = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert "style" not in given, "the policy forbids it"
        assert not any(name.startswith("on") for name in given), "the policy forbids it"
        if tag not in ("meta", "link"):
            self._open.append(tag)
        if tag == "tr" and "id" in given:
            self._row = self.rows[str(given["id"])] = {"class": str(given["class"])}
        if tag == "td":
            self._cell = given.get("data-label") or ""
        if given.get("class") == "state":
            self._cell = "state"

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._row[self._cell] = data
            self._cell = ""


def test_each_frontend_server_and_backend_has_a_row_with_its_state(desk: Desk) -> None:
    desk.server("web/web1").change(admin="drain")
    desk.server("web/web2").up = False
    desk.server("web/spare").change(admin="maint")
    desk.server("db/db1").change(endpoint=None)
    rows = Reader(shown(desk)).rows
    states = {name: (row["state"], row["class"].split()[1]) for name, row in rows.items()}
    assert states == {
        "row-www-FRONTEND": ("OPEN", "up"),
        "row-sql-FRONTEND": ("OPEN", "up"),
        "row-web-web1": ("DRAIN", "drain"),
        "row-web-web2": ("DOWN", "down"),
        "row-web-spare": ("MAINT", "out"),
        "row-web-BACKEND": ("DOWN", "down"),
        "row-db-db1": ("MAINT (resolution)", "out"),
        "row-db-BACKEND": ("DOWN", "down"),
    }


def test_figures_as_people_read_them(desk: Desk) -> None:
    tally = desk.counters.tally(0, ServerColumn, 0)
    tally[ServerColumn.TOTAL], tally[ServerColumn.BYTES_IN], tally[ServerColumn.BYTES_OUT] = (
        1234,
        999,
        12_345_678,
    )
    desk.now += 3700
    row = Reader(shown(desk)).rows["row-web-web1"]
    assert row["Sessions Total"] == "1234"
    assert (row["Bytes In"], row["Bytes Out"]) == ("999 B", "12.3 MB")
    assert (row["Server Since"], row["Server Dwntme"]) == ("1h1m", "0s")
    assert row["Sessions Last"] == "–"


def test_every_column_is_one_that_the_rows_have() -> None:
    known = {
        field for kind in (FrontendRow, ServerRow, BackendRow) for field in kind.__dataclass_fields__
    } | {"check"}
    assert {key for columns in COLUMNS.values() for key in columns.values()} <= known


def test_nothing_that_is_said_by_others_becomes_markup(desk: Desk) -> None:
    desk.settings.__dict__["node"] = "<b>&\"'"
    text = shown(desk, role="<script>alert(1)</script>")
    assert "<b>" not in text
    assert "<script>alert" not in text


def test_only_the_style_and_the_script_of_the_page_itself_are_allowed(desk: Desk) -> None:
    text = shown(desk)
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(inside.encode()).digest()).decode()}'" in policy
    assert not re.findall(r"""(?:src|href)=["'](?!data:|/stats;csv)""", text), "nothing comes from elsewhere"


def test_without_a_script_it_is_loaded_anew(desk: Desk) -> None:
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+"></noscript>', shown(desk))
