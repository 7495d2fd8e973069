"""Schedule: open from the first nanosecond of a session to the one before its close."""

import pytest

from operators.guards.schedule import NEVER_NS, Schedule

TWO = Schedule([(10, 20), (30, 40)])


@pytest.mark.parametrize(
    ("ts", "is_open", "next_edge", "last_edge", "opened"),
    [
        (-5, False, 10, None, 0),
        (9, False, 10, None, 0),
        (10, True, 20, 10, 10),
        (19, True, 20, 10, 10),
        (20, False, 30, 20, 10),
        (29, False, 30, 20, 10),
        (30, True, 40, 30, 30),
        (39, True, 40, 30, 30),
        (40, False, NEVER_NS, 40, 30),
        (10**18, False, NEVER_NS, 40, 30),
    ],
)
def test_each_instant_knows_its_session_and_the_edges_around_it(
    ts: int, is_open: bool, next_edge: int, last_edge: int | None, opened: int
) -> None:
    assert TWO.is_open(ts) is is_open
    assert TWO.next_edge(ts) == next_edge
    assert TWO.last_edge(ts) == last_edge
    assert TWO.opened(ts) == opened


def test_without_sessions_it_is_never_open() -> None:
    empty = Schedule([])

    assert not empty.is_open(5)
    assert empty.next_edge(5) == NEVER_NS
    assert empty.last_edge(5) is None
    assert empty.opened(5) == 0


@pytest.mark.parametrize(
    "sessions",
    [
        [(10, 10)],
        [(20, 10)],
        [(10, 20), (15, 30)],
        [(10, 20), (20, 30)],
        [(30, 40), (10, 20)],
        [(10, 20), (10, 20)],
    ],
)
def test_sessions_that_are_empty_or_overlap_or_are_not_in_order_are_refused(
    sessions: list[tuple[int, int]],
) -> None:
    with pytest.raises(ValueError, match="ascending, not empty, and must not overlap"):
        Schedule(sessions)
