"""What is counted over reloads, against adding up by hand."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from scaleup.lb.counters import BackendColumn, Counters, FrontendColumn, ServerColumn
from scaleup.lb.settings import LbSettings
from scaleup.lb.totals import Totals
from scaleup.lb.worker import sizes_of

NAMES = ["a", "b", "c"]


def settings(servers: list[str]) -> LbSettings:
    backend = {"name": "web", "server": [f"{name}=10.0.0.1:80" for name in servers]}
    return LbSettings.model_validate(
        {"frontend": [{"name": "www", "listen": [":80"]}], "backend": [backend]},
    )


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
            st.integers(0, 9),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_those_of_the_same_name_count_on(generations: list[tuple[list[str], int, bool]]) -> None:
    """Each generation has some servers, and counts the same for each of them; some end."""
    totals = Totals()
    expected = dict.fromkeys(NAMES, 0)
    current = dict.fromkeys(NAMES, 0)
    accepted = waiting = 0
    with contextlib.ExitStack() as stack:
        for servers, amount, ends in generations:
            said = settings(servers)
            counters = stack.enter_context(contextlib.closing(Counters.create(1, sizes_of(said))))
            totals.begin(said, counters)
            counters.tally(0, FrontendColumn, 0)[FrontendColumn.TOTAL] = amount
            counters.tally(0, BackendColumn, 0)[BackendColumn.WAITING] = amount
            accepted += amount
            waiting += 0 if ends else amount
            for index, name in enumerate(servers):
                tally = counters.tally(0, ServerColumn, index)
                tally[ServerColumn.BYTES_IN] = tally[ServerColumn.CURRENT] = amount
                expected[name] += amount
                current[name] += 0 if ends else amount
            if ends:
                totals.end(counters)
        assert totals.total(FrontendColumn.TOTAL, ("www",)) == accepted
        assert totals.total(BackendColumn.WAITING, ("web",)) == waiting
        for name in NAMES:
            assert totals.total(ServerColumn.BYTES_IN, ("web", name)) == expected[name]
            assert totals.total(ServerColumn.CURRENT, ("web", name)) == current[name]


def test_what_never_began_ends_without_a_trace() -> None:
    said = settings(["a"])
    with contextlib.closing(Counters.create(1, sizes_of(said))) as counters:
        Totals().end(counters)
