import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleup.upstream.healthcheck import HealthCheck, Statuses


class TestHealthCheck:
    @pytest.mark.parametrize(
        "text",
        [
            "tcp",
            "http:/",
            "http:/a?b=c:d",
            "mysql:haproxy",
            "mysql:a?wsrep_ready&read_only=0",
            "mysql:a?read_only=1",
        ],
    )
    def test_what_is_written_is_what_is_shown(self, text: str) -> None:
        assert str(HealthCheck.parse(text)) == text

    @pytest.mark.parametrize(
        ("text", "cure"),
        [
            ("", "write tcp, http:PATH or mysql:USER"),
            ("ping", "write tcp, http:PATH or mysql:USER"),
            ("tcp:", "write tcp, http:PATH or mysql:USER"),
            ("http", "has no path"),
            ("http:", "has no path"),
            ("http:healthz", "leading slash"),
            ("http://host/healthz x", "as %XX"),
            ("http:/a b", "as %XX"),
            ("http:/a\r\nHost: x", "as %XX"),
            ("http:/ä", "as %XX"),
            ("mysql:", "write mysql, mysql:USER or"),
            ("mysql:a b", "write mysql, mysql:USER or"),
            ("mysql?", "write mysql, mysql:USER or"),
            ("mysql?read_only", "write mysql, mysql:USER or"),
            ("mysql?read_only=0&read_only=1", "write mysql, mysql:USER or"),
            ("mysql?wsrep_ready&wsrep_ready", "write mysql, mysql:USER or"),
        ],
    )
    def test_errors_say_what_to_write(self, text: str, cure: str) -> None:
        with pytest.raises(ValueError, match=cure):
            HealthCheck.parse(text)


class TestStatuses:
    @pytest.mark.parametrize("text", ["200", "2xx", "200-204", "200,301-303,5xx", "2xx,3xx"])
    def test_what_is_written_is_what_is_shown(self, text: str) -> None:
        assert str(Statuses.parse(text)) == text

    @given(
        st.lists(st.tuples(st.integers(100, 599), st.integers(100, 599)).map(sorted), min_size=1, max_size=5)
    )
    def test_they_are_those_of_all_ranges(self, ranges: list[list[int]]) -> None:
        statuses = Statuses.parse(", ".join(f"{low}-{high}" for low, high in ranges))
        expected = {status for low, high in ranges for status in range(low, high + 1)}
        assert {status for status in range(100, 1000) if status in statuses} == expected
        assert Statuses.parse(str(statuses)) == statuses

    @pytest.mark.parametrize(
        ("text", "cure"),
        [
            ("", "'' is not a status: write for example 200, 2xx or 200-204,301"),
            ("200,", "'' is not a status"),
            ("ok", "'ok' is not a status"),
            ("099", "'099' is not a status"),
            ("600", "'600' is not a status"),
            ("2XX", "'2XX' is not a status"),
            ("20x", "'20x' is not a status"),
            ("204-200", "'204-200' goes from more to less: write 200-204"),
        ],
    )
    def test_errors_say_what_to_write(self, text: str, cure: str) -> None:
        with pytest.raises(ValueError, match=cure):
            Statuses.parse(text)
