"""session(): open from 10 ms to 20 ms and from 30 ms to 40 ms; a column is 1 ms."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace
from reactivex import abc
from reactivex.scheduler import ImmediateScheduler

from operators.guards.schedule import Schedule
from operators.guards.session import Outside, session
from operators.state import State
from streams.clock import NEVER, Clock
from streams.events import Anchor, Refusal, Residual
from streams.pump import Hot
from tests.marbles import MILLISECOND, Timed, play_on_clock, subscribers

SCHEDULE = Schedule([(10 * MILLISECOND, 20 * MILLISECOND), (30 * MILLISECOND, 40 * MILLISECOND)])
SIGNAL = Residual(3, 30, 200.0, 100.0, 1.0)
ANCHOR = Anchor(4, 40, 200.0, 200.0, 206, 207)
NO_SIGNAL = Refusal(7, 70, "signal", "crossed", 3, 2)
NO_TARGET = Refusal(8, 80, "target", "no bid", None, 2)
A: State = (SIGNAL, ANCHOR)
B: State = (replace(SIGNAL, seq=9, ts=90), ANCHOR)
STATES: dict[str, State] = {
    "a": A, "b": B, "s": (NO_SIGNAL, ANCHOR), "t": (SIGNAL, NO_TARGET),
}  # fmt: skip


def guarded(
    diagram: str, outside: Outside = "withdraw", *, start: int = 0, schedule: Schedule = SCHEDULE
) -> Timed:
    guard = session(schedule, outside=outside, widening=3.0)
    start_ns = start * MILLISECOND
    out = play_on_clock(diagram, STATES, guard, start_ns=start_ns)
    return [(ns // MILLISECOND if ns % MILLISECOND == 0 else ns, value) for ns, value in out]


def closed(given: State, ms: int, ago: float | None) -> tuple[int, State]:
    seq = max(given[0].seq, given[1].seq)
    refusal = Refusal(seq, ms * MILLISECOND, "session", "closed", value=ago, limit=None)
    return ms, (given[0], refusal)


def test_a_state_passes_in_the_session_and_is_withdrawn_outside_it() -> None:
    #         0         10        20        30        40
    inputs = "-a--------------b--------b-----------------a"

    assert guarded(inputs) == [
        closed(A, 1, None),
        (10, A),
        (16, B),
        closed(B, 20, 0.0),
        closed(B, 25, 0.005),
        (30, B),
        closed(B, 40, 0.0),
        closed(A, 43, 0.003),
    ]


def test_an_edge_without_a_state_says_nothing() -> None:
    assert guarded("-----------------------------------") == []
    assert guarded("------------a----------------------", start=13) == [
        closed(A, 25, 0.005), (30, A), closed(A, 40, 0.0),
    ]  # fmt: skip


def test_it_opens_with_the_first_ns_and_closes_with_the_last() -> None:
    schedule = Schedule([(2, 5)])
    guard = session(schedule)

    out = play_on_clock("aaaaaaa", STATES, guard, step_ns=1)

    kinds = [(ns, "closed" if type(state[1]) is Refusal else "open") for ns, state in out]
    assert kinds == [
        (0, "closed"),
        (1, "closed"),
        (2, "open"),  # by the timer
        (2, "open"),
        (3, "open"),
        (4, "open"),
        (5, "closed"),  # by the timer
        (5, "closed"),
        (6, "closed"),
    ]


def test_started_inside_a_session_it_is_open() -> None:
    assert guarded("a---------", start=12) == [(12, A), closed(A, 20, 0.0)]


def test_started_between_sessions_it_knows_since_when() -> None:
    assert guarded("a--", start=27) == [closed(A, 27, 0.007)]


def test_started_at_an_open_or_a_close_it_is_on_its_new_side() -> None:
    assert guarded("a", start=10) == [(10, A)]
    assert guarded("a", start=20) == [closed(A, 20, 0.0)]


def test_without_sessions_it_is_closed_for_good() -> None:
    assert guarded("a--b", schedule=Schedule([])) == [closed(A, 0, None), closed(B, 3, None)]


def test_widening_multiplies_the_half_spread_outside() -> None:
    wide = SIGNAL, replace(ANCHOR, widening=3.0)

    assert guarded("-a--------------------", "widen") == [(1, wide), (10, A), (20, wide)]
    # There is nothing to widen where there is no target; no signal is not its matter.
    assert guarded("ts", "widen") == [
        (0, STATES["t"]), (1, (NO_SIGNAL, replace(ANCHOR, widening=3.0))),
    ]  # fmt: skip


def test_with_the_target_alone_a_residual_of_zero_takes_the_signals_place() -> None:
    alone = Residual(0, 40, 0.0, 0.0, 0.0), ANCHOR

    assert guarded("-a--------------------", "target_only") == [(1, alone), (10, A), (20, alone)]
    # Whatever became of the signal; a refused target stays refused.
    assert guarded("st", "target_only") == [
        (0, alone), (1, (Residual(0, 80, 0.0, 0.0, 0.0), NO_TARGET)),
    ]  # fmt: skip


def test_what_was_put_in_a_states_place_is_gone_at_the_open() -> None:
    outsides: tuple[Outside, ...] = ("withdraw", "widen", "target_only")
    for outside in outsides:
        assert guarded("s----------", outside)[-1] == (10, STATES["s"]), outside


def test_refused_states_are_judged_too() -> None:
    assert guarded("s---------t", "withdraw", start=5) == [
        closed(STATES["s"], 5, None), (10, STATES["s"]), (15, STATES["t"]),
    ]  # fmt: skip


def test_completion_and_errors_travel() -> None:
    assert guarded("a-|", start=12)[-1] == (14, "|")
    assert str(guarded("a-#", start=12)[-1][1]) == "error"


@pytest.mark.parametrize("scheduler", [None, ImmediateScheduler()])
def test_without_the_graphs_clock_it_fails_on_subscription(scheduler: Any) -> None:
    source: Hot[State] = Hot()

    with pytest.raises(RuntimeError, match=r"session must be subscribed with the graph's clock"):
        source.pipe(session(SCHEDULE)).subscribe(scheduler=scheduler)
    assert subscribers(source) == 0


class RecordingClock(Clock):
    """Keeps the handle of everything that was scheduled on it."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: list[Any] = []

    def schedule_ns(
        self, due_ns: int, action: Callable[[abc.SchedulerBase, Any], Any], state: Any = None
    ) -> abc.DisposableBase:
        self.handles.append(super().schedule_ns(due_ns, action, state))
        return cast(abc.DisposableBase, self.handles[-1])


def test_states_cost_no_timers() -> None:
    clock = RecordingClock()
    source: Hot[State] = Hot()
    source.pipe(session(SCHEDULE)).subscribe(scheduler=clock)
    for _ in range(100):
        source.push(A)

    assert len(clock.handles) == 1
    assert clock.next_due_ns == 10 * MILLISECOND


def test_disposing_unsubscribes_and_cancels_the_timer() -> None:
    clock = RecordingClock()
    source: Hot[State] = Hot()
    seen: list[State] = []
    subscription = source.pipe(session(SCHEDULE)).subscribe(seen.append, scheduler=clock)
    source.push(A)

    subscription.dispose()
    clock.advance(100 * MILLISECOND)

    assert subscribers(source) == 0
    assert [handle.is_disposed for handle in clock.handles] == [True]
    assert clock.next_due_ns == NEVER
    assert len(seen) == 1


def test_two_subscriptions_do_not_share_the_latest_state() -> None:
    clock = Clock()
    source: Hot[State] = Hot()
    guard = source.pipe(session(SCHEDULE))
    early: list[State] = []
    late: list[State] = []
    guard.subscribe(early.append, scheduler=clock)
    source.push(A)
    guard.subscribe(late.append, scheduler=clock)
    clock.advance(15 * MILLISECOND)

    assert early[1:] == [A]
    assert late == []
