"""The clock: standard reactivex operators at exact ns, in order, and never on a thread.

Pictures have one column a nanosecond.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.disposable import SerialDisposable
from reactivex.scheduler import TimeoutScheduler

from streams import clock as clock_module
from streams.clock import NEVER, Clock, no_thread_timers
from streams.events import OutOfOrderError
from streams.instant import Instant, Span, datetime_ns, seconds_ns, timedelta_ns
from streams.pump import Hot
from tests.marbles import Timed, picture, play_graph_on_clock, play_on_clock, subscribers

NOW = 1_781_703_000_000_000_999
"""An instant that neither a double nor a datetime holds."""


def ns(count: int) -> Span:
    return Span.of(count)


def play(diagram: str, operator: Callable[..., Observable[Any]]) -> Timed:
    """Letters stand for themselves; the clock starts at an odd nanosecond."""
    timed = play_on_clock(diagram, {}, operator, step_ns=1, start_ns=NOW)
    return [(at - NOW, value) for at, value in timed]


def drawn(timed: Timed, columns: int) -> str:
    return picture(timed, str, columns, step_ns=1)


# ---------------------------------------------------------------- standard operators


def test_debounce_waits_for_a_pause_of_exactly_its_length() -> None:
    inputs = "a--b-cd--------e---"
    pauses = "----------d--------"

    assert drawn(play(inputs, ops.debounce(ns(4))), 19) == pauses
    assert drawn(play(inputs + "-", ops.debounce(ns(4))), 20) == pauses + "e"


def test_throttle_first_blocks_what_is_one_ns_early_and_passes_what_is_on_time() -> None:
    inputs = "a--------b--------"
    passed = "a-----------------"
    assert drawn(play(inputs, ops.throttle_first(ns(10))), 18) == passed

    inputs = "a---------c-------"
    passed = "a---------c-------"
    assert drawn(play(inputs, ops.throttle_first(ns(10))), 18) == passed


def test_delay_shifts_everything_by_exactly_its_length() -> None:
    inputs = " ab--c---|-----"
    delayed = "---ab--c---|---"

    assert drawn(play(inputs, ops.delay(ns(3))), 15) == delayed


def test_timeout_fails_exactly_on_its_instant_and_not_one_ns_before() -> None:
    inputs = "a---b----c--------"

    *passed, (at, error) = play(inputs, ops.timeout(ns(5)))

    assert drawn(passed, 18) == "a---b-------------"
    assert (at, str(error)) == (9, "Timeout"), "the timer goes before an input of its instant"
    assert play("a---b---c---d---|", ops.timeout(ns(5)))[-1] == (16, "|")


def test_interval_does_not_drift_over_ten_thousand_ticks_of_333_ns() -> None:
    clock = Clock(NOW)
    ticks: Timed = []
    rx.interval(333e-9, scheduler=clock).subscribe(lambda n: ticks.append((clock.now_ns, n)))

    clock.advance(NOW + 10_000 * 333)

    assert ticks == [(NOW + 333 * (n + 1), n) for n in range(10_000)]


def test_a_timer_with_another_first_wait_does_not_drift_either() -> None:
    clock = Clock(NOW)
    ticks: Timed = []
    rx.timer(ns(7), ns(333), scheduler=clock).subscribe(lambda n: ticks.append((clock.now_ns, n)))

    clock.advance(NOW + 7 + 9_999 * 333)

    assert ticks == [(NOW + 7 + 333 * n, n) for n in range(10_000)]


def test_buffer_with_time_closes_its_windows_on_their_exact_ends() -> None:
    inputs = "a-b-c--d-----"

    actual = play(inputs, ops.buffer_with_time(ns(4)))

    # c comes on the end of the first window: timers go first, so it is in the second.
    assert actual == [(4, ["a", "b"]), (8, ["c", "d"]), (12, [])]


def test_sample_takes_the_latest_at_each_tick() -> None:
    inputs = "ab-c----d-----"
    sample = "---b--c--d----"

    assert drawn(play(inputs, ops.sample(ns(3))), 14) == sample


def test_operators_take_the_clock_they_are_subscribed_with() -> None:
    clock = Clock()
    source: Hot[str] = Hot()
    seen: Timed = []
    source.pipe(ops.delay(ns(3))).subscribe(
        lambda value: seen.append((clock.now_ns, value)), scheduler=clock
    )
    source.push("a")
    clock.advance(100)

    assert seen == [(3, "a")]


def test_two_timed_sources_meet_at_one_instant_in_the_order_of_their_timers() -> None:
    actual = play_graph_on_clock(
        {"left": "a------", "right": "-b-----"},
        {},
        lambda left, right: rx.merge(left.pipe(ops.delay(ns(4))), right.pipe(ops.delay(ns(3)))),
        step_ns=1,
    )

    assert actual == [(4, "a"), (4, "b")]


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_any_number_of_actions_at_one_instant_see_that_instant_in_the_order_of_creation(
    count: int,
) -> None:
    clock = Clock(NOW)
    seen: list[tuple[int, int]] = []
    for number in range(count):
        clock.schedule_ns(NOW + 5, lambda c, state: seen.append((clock.now_ns, state)), number)

    clock.advance(NOW + 5)

    assert seen == [(NOW + 5, number) for number in range(count)]
    assert clock.now_ns == NOW + 5


def test_what_is_one_ns_apart_keeps_its_order_whatever_the_order_of_creation() -> None:
    clock = Clock(NOW)
    seen: list[int] = []
    for offset in (3, 1, 4, 2, 0):
        clock.schedule_relative(ns(offset), lambda *_: seen.append(clock.now_ns - NOW))

    clock.advance(NOW + 10)

    assert seen == [0, 1, 2, 3, 4]


def test_an_action_of_the_past_fires_now_behind_what_is_due_now() -> None:
    clock = Clock(NOW)
    seen: list[tuple[str, int]] = []
    clock.schedule(lambda *_: seen.append(("now", clock.now_ns)))
    clock.schedule_ns(NOW - 50, lambda *_: seen.append(("past", clock.now_ns)))
    clock.schedule_relative(ns(-50), lambda *_: seen.append(("negative", clock.now_ns)))
    clock.schedule_absolute(ns(-50) + Instant.at(NOW), lambda *_: seen.append(("at", clock.now_ns)))
    assert seen == [], "nothing runs inside schedule"

    clock.advance(NOW)

    assert seen == [("now", NOW), ("past", NOW), ("negative", NOW), ("at", NOW)]


def test_an_action_that_schedules_at_its_own_instant_is_followed_within_the_same_advance() -> None:
    clock = Clock()
    seen: list[tuple[str, int]] = []

    def first(*_: Any) -> None:
        clock.schedule(lambda *_: seen.append(("second", clock.now_ns)))
        seen.append(("first", clock.now_ns))

    clock.schedule_ns(5, first)
    clock.schedule_ns(6, lambda *_: seen.append(("third", clock.now_ns)))
    clock.advance(10)

    assert seen == [("first", 5), ("second", 5), ("third", 6)]
    assert clock.now_ns == 10


def test_disposal_cancels_an_action_and_one_action_may_cancel_another() -> None:
    clock = Clock()
    seen: list[str] = []
    late = SerialDisposable()
    clock.schedule_ns(5, lambda *_: seen.append("cancelled")).dispose()
    clock.schedule_ns(5, lambda *_: late.dispose())
    late.disposable = clock.schedule_ns(5, lambda *_: seen.append("cancelled at once"))
    clock.schedule_ns(6, lambda *_: seen.append("kept"))

    clock.advance(10)

    assert seen == ["kept"]
    assert clock.next_due_ns == NEVER


@pytest.mark.parametrize(
    "operator",
    [
        ops.debounce(ns(5)),
        ops.delay(ns(5)),
        ops.timeout(ns(5)),
        ops.buffer_with_time(ns(5)),
        ops.sample(ns(5)),
        ops.throttle_first(ns(5)),
    ],
)
def test_disposing_a_timed_operator_unsubscribes_and_lets_nothing_fire(operator: Any) -> None:
    clock = Clock()
    source: Hot[str] = Hot()
    seen: list[Any] = []
    subscription = source.pipe(operator).subscribe(
        seen.append, seen.append, lambda: seen.append("|"), scheduler=clock
    )
    source.push("a")
    seen.clear()

    subscription.dispose()
    clock.advance(1_000)

    assert subscribers(source) == 0
    assert seen == []
    assert clock.next_due_ns == NEVER


def test_an_action_that_keeps_scheduling_itself_at_one_instant_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock_module, "_ACTIONS_PER_INSTANT", 50)
    clock = Clock(7)
    runs: list[int] = []

    def again(*_: Any) -> None:
        runs.append(clock.now_ns)
        clock.schedule(again)

    clock.schedule(again)
    with pytest.raises(RuntimeError, match=r"more than 50 actions at 7 ns: .*again"):
        clock.advance(8)
    assert runs == [7] * 50


def test_the_limit_is_for_one_instant_and_not_for_a_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_ACTIONS_PER_INSTANT", 50)
    clock = Clock()
    seen: list[int] = []
    for due in range(40):
        for _ in range(50):
            clock.schedule_ns(due, lambda *_: seen.append(clock.now_ns))

    clock.advance(100)

    assert len(seen) == 40 * 50


def test_the_clock_only_goes_forward() -> None:
    clock = Clock(NOW)
    clock.advance(NOW)

    with pytest.raises(
        OutOfOrderError, match=rf"stands at {NOW} ns .* back to {NOW - 1} ns \(1 ns\)"
    ):
        clock.advance(NOW - 1)
    assert clock.now_ns == NOW


def test_the_earliest_due_time_is_known_at_every_moment() -> None:
    clock = Clock()
    assert clock.next_due_ns == NEVER
    clock.schedule_ns(9, lambda *_: None)
    clock.schedule_ns(5, lambda *_: None)
    assert clock.next_due_ns == 5

    clock.fire_next()

    assert (clock.now_ns, clock.next_due_ns) == (5, 9)
    clock.fire_next()
    assert (clock.now_ns, clock.next_due_ns) == (9, NEVER)


def test_an_error_in_an_action_comes_out_of_advance_and_the_rest_stays_scheduled() -> None:
    clock = Clock()
    seen: list[int] = []

    def fails(*_: Any) -> None:
        raise ZeroDivisionError("in an action")

    clock.schedule_ns(5, fails)
    clock.schedule_ns(6, lambda *_: seen.append(clock.now_ns))
    with pytest.raises(ZeroDivisionError, match="in an action"):
        clock.advance(10)
    assert clock.now_ns == 5
    clock.advance(10)

    assert seen == [6]


# ---------------------------------------------------------------- periods


@pytest.mark.parametrize("period", [0, 0.0, -1.0, timedelta(0), ns(0), ns(-1), 4e-10])
def test_a_period_must_be_at_least_one_ns(period: Any) -> None:
    with pytest.raises(ValueError, match="a period must be at least 1 ns, was"):
        Clock().schedule_periodic(period, lambda state: state)


def test_a_period_hands_its_state_on_and_stops_when_disposed() -> None:
    clock = Clock()
    seen: list[tuple[int, int | None]] = []

    def count(state: int | None) -> int | None:
        seen.append((clock.now_ns, state))
        return (state or 0) + 1

    running = clock.schedule_periodic(ns(3), count, 10)
    clock.advance(8)
    running.dispose()
    clock.advance(100)

    assert seen == [(3, 10), (6, 11)]
    assert clock.next_due_ns == NEVER


def test_a_period_that_is_disposed_by_its_own_action_does_not_tick_again() -> None:
    clock = Clock()
    seen: list[int] = []

    def once(_: object) -> None:
        seen.append(clock.now_ns)
        running.dispose()

    running = clock.schedule_periodic(ns(3), once)
    clock.advance(3)
    assert clock.next_due_ns == NEVER
    clock.advance(100)

    assert seen == [3]


# ---------------------------------------------------------------- no threads

TIMED: dict[str, Callable[[Hot[str]], Observable[Any]]] = {
    "debounce": lambda source: source.pipe(ops.debounce(1.0)),
    "throttle_first": lambda source: source.pipe(ops.throttle_first(1.0)),
    "delay": lambda source: source.pipe(ops.delay(1.0)),
    "timeout": lambda source: source.pipe(ops.timeout(1.0)),
    "buffer_with_time": lambda source: source.pipe(ops.buffer_with_time(1.0)),
    "sample": lambda source: source.pipe(ops.sample(1.0)),
    "interval": lambda _: rx.interval(1.0),
    "timer": lambda _: rx.timer(1.0),
}


@pytest.mark.parametrize("name", TIMED)
def test_a_timed_operator_without_a_scheduler_fails_and_starts_no_thread(name: str) -> None:
    threads = threading.active_count()

    with no_thread_timers(), pytest.raises(RuntimeError, match=r"without a scheduler .* thread"):
        TIMED[name](Hot()).subscribe()

    assert threading.active_count() == threads


@pytest.mark.parametrize("name", TIMED)
def test_with_a_clock_the_same_operators_run_inside_the_guard(name: str) -> None:
    with no_thread_timers():
        TIMED[name](Hot()).subscribe(on_error=lambda _: None, scheduler=Clock()).dispose()


def test_the_original_fallback_is_back_after_the_guard_even_when_it_failed() -> None:
    original = TimeoutScheduler.__dict__["singleton"]
    with no_thread_timers():
        assert TimeoutScheduler.__dict__["singleton"] is not original
        with no_thread_timers():
            pass
        with pytest.raises(RuntimeError):
            TimeoutScheduler.singleton()
    assert TimeoutScheduler.__dict__["singleton"] is original

    with pytest.raises(KeyError), no_thread_timers():
        raise KeyError
    assert TimeoutScheduler.__dict__["singleton"] is original
    assert isinstance(TimeoutScheduler.singleton(), TimeoutScheduler)


# ---------------------------------------------------------------- instants


def test_the_present_keeps_its_nanoseconds_as_a_datetime() -> None:
    now = Clock(NOW).now

    assert now.ns == NOW
    assert isinstance(now, datetime)
    assert now.isoformat() == "2026-06-17T13:30:00+00:00"


def test_instants_add_and_subtract_spans_exactly_from_either_side() -> None:
    instant = Instant.at(NOW)

    assert (instant + ns(1)).ns == (ns(1) + instant).ns == NOW + 1
    assert (instant - ns(1_001)).ns == NOW - 1_001
    assert (Instant.at(NOW + 1) - instant) == ns(1)
    assert (instant - Instant.at(NOW + 1)) == ns(-1)
    assert (instant + timedelta(microseconds=1)).ns == NOW + 1_000
    assert (timedelta(microseconds=1) + instant).ns == NOW + 1_000
    assert (instant - timedelta(days=1)).ns == NOW - 86_400 * 10**9


def test_instants_and_plain_datetimes_measure_and_compare_in_ns() -> None:
    plain = datetime(2026, 6, 17, 13, 30, tzinfo=UTC)
    instant = Instant.at(NOW)

    assert datetime_ns(plain) == NOW - 999
    assert instant - plain == ns(999)
    assert plain - instant == ns(-999)
    assert instant > plain
    assert plain < instant
    assert instant >= plain
    assert plain <= instant
    assert (instant == plain) is False
    assert Instant.at(NOW - 999) == plain
    assert plain == Instant.at(NOW - 999)
    assert not Instant.at(NOW) < Instant.at(NOW)
    assert Instant.at(NOW) <= Instant.at(NOW)
    assert Instant.at(NOW) < Instant.at(NOW + 1)
    assert (Instant.at(NOW) == Instant.at(NOW + 1)) is False
    assert len({Instant.at(NOW), Instant.at(NOW), Instant.at(NOW + 1)}) == 2


def test_an_offset_is_taken_into_account() -> None:
    plain = datetime(2026, 6, 17, 9, 30, tzinfo=timezone(timedelta(hours=-4)))

    assert datetime_ns(plain) == NOW - 999


def test_a_datetime_without_a_time_zone_is_refused() -> None:
    naive = datetime(2026, 6, 17, 13, 30)  # noqa: DTZ001
    message = "an absolute due time must carry a time zone"

    with pytest.raises(ValueError, match=message):
        datetime_ns(naive)
    with pytest.raises(ValueError, match=message):
        Clock().schedule_absolute(naive, lambda *_: None)


def test_spans_add_subtract_and_compare_with_plain_timedeltas_in_ns() -> None:
    plain = timedelta(microseconds=2)

    assert (ns(1_999) + plain).ns == (plain + ns(1_999)).ns == 3_999
    assert (ns(1_999) - plain).ns == -1
    assert (plain - ns(1_999)).ns == 1
    assert (ns(1) - ns(3)).ns == -2
    assert ns(2_000) == plain
    assert plain == ns(2_000)
    assert ns(1_999) < plain
    assert plain > ns(1_999)
    assert not plain <= ns(1_999)
    assert ns(2_001) > plain
    assert ns(2_000) >= plain
    assert ns(2_000) <= plain
    assert (ns(2_001) == plain) is False
    assert (ns(1) < ns(1)) is (ns(1) > ns(1)) is False
    assert (Instant.at(1) < Instant.at(1)) is (Instant.at(1) > Instant.at(1)) is False
    assert ns(1)
    assert not ns(0)
    assert max(timedelta(0), ns(1)).microseconds == 0
    assert ns(1_500).total_seconds() == 1.5e-6
    assert len({ns(1), ns(1), ns(2)}) == 2


@pytest.mark.parametrize("make", [Span.of, Instant.at])
def test_what_differs_by_one_ns_is_unequal(make: Callable[[int], Any]) -> None:
    assert make(NOW - 1) != make(NOW)


@pytest.mark.parametrize(
    "change", [lambda s: -s, lambda s: -abs(-s), lambda s: s * -1, lambda s: -1 * s]
)
def test_a_negated_span_keeps_its_ns(change: Callable[[Span], Any]) -> None:
    assert timedelta_ns(change(ns(1_500))) == -1_500


def test_what_is_equal_to_a_plain_timedelta_or_datetime_has_its_hash() -> None:
    assert hash(ns(2_000)) == hash(timedelta(microseconds=2))
    assert hash(Instant.at(0)) == hash(datetime(1970, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, -1, -999, -1_001, NOW, -NOW])
def test_a_span_and_an_instant_return_the_ns_they_were_made_of(count: int) -> None:
    assert timedelta_ns(Span.of(count)) == count
    assert datetime_ns(Instant.at(count)) == count


def test_a_span_does_not_add_to_a_number() -> None:
    with pytest.raises(TypeError):
        ns(1) + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        Instant.at(1) + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        Instant.at(1) - 1


def test_the_clocks_conversions_keep_every_ns_that_their_type_can_hold() -> None:
    instant, plain = Instant.at(NOW), timedelta(days=1, seconds=2, microseconds=3)

    assert timedelta_ns(plain) == 86_402_000_003_000
    assert Clock.to_timedelta(plain) == plain
    assert Clock.to_timedelta(1e-9) == ns(1)
    assert Clock.to_timedelta(ns(1)) == ns(1)
    assert Clock.to_timedelta(instant) == ns(NOW)
    assert Clock.to_datetime(instant) == instant
    assert Clock.to_datetime(1e-9) == Instant.at(1)
    assert Clock.to_datetime(ns(NOW)) == instant
    assert Clock.to_seconds(ns(1_500)) == 1.5e-6
    assert Clock.to_seconds(instant) == NOW / 1e9
    assert Clock.to_seconds(0.25) == 0.25
    # 15e-9 * 1e9 falls just short of 15.
    assert [seconds_ns(seconds) for seconds in (15e-9, 30e-9, 63e-9, 333e-9)] == [15, 30, 63, 333]


@pytest.mark.parametrize(
    "due", [Instant.at(5_000), datetime(1970, 1, 1, microsecond=5, tzinfo=UTC), 5e-6]
)
def test_an_absolute_due_time_is_an_instant_a_datetime_or_seconds(due: Any) -> None:
    clock = Clock()
    clock.schedule_absolute(due, lambda *_: None)

    assert clock.next_due_ns == 5_000


@pytest.mark.parametrize("wait", [ns(5_000), timedelta(microseconds=5), 5e-6])
def test_a_relative_due_time_counts_from_now(wait: Any) -> None:
    clock = Clock(NOW)
    clock.schedule_relative(wait, lambda *_: None)

    assert clock.next_due_ns == NOW + 5_000


# ---------------------------------------------------------------- hot sources


def test_a_hot_source_hands_each_item_to_its_subscribers_in_the_order_they_came() -> None:
    source: Hot[int] = Hot()
    seen: list[tuple[str, int]] = []
    source.push(0)
    first = source.subscribe(lambda item: seen.append(("first", item)))
    source.push(1)
    second = source.subscribe(lambda item: seen.append(("second", item)))
    source.push(2)
    first.dispose()
    source.push(3)
    second.dispose()
    source.push(4)

    assert seen == [("first", 1), ("first", 2), ("second", 2), ("second", 3)]
    assert subscribers(source) == 0


def test_a_subscriber_that_leaves_while_an_item_is_handed_out_gets_no_more() -> None:
    source: Hot[int] = Hot()
    seen: list[str] = []
    leaving = SerialDisposable()
    source.subscribe(lambda _: leaving.dispose())
    leaving.disposable = source.subscribe(lambda _: seen.append("left"))
    source.subscribe(lambda _: seen.append("stayed"))

    source.push(1)

    assert seen == ["stayed"]


def test_completion_reaches_every_subscriber_and_releases_them() -> None:
    source: Hot[int] = Hot()
    ends: list[str] = []
    source.subscribe(on_completed=lambda: ends.append("first"))
    source.subscribe(on_completed=lambda: ends.append("second"))

    source.on_completed()

    assert ends == ["first", "second"]
    assert subscribers(source) == 0


def test_a_span_divides_in_ns() -> None:
    assert Span.of(1_500) / Span.of(500) == 3.0
    assert (Span.of(1_500) / 3).ns == 500
    assert Span.of(1_500) // Span.of(400) == 3
    assert (Span.of(1_500) % Span.of(400)).ns == 300


def test_an_instant_is_unequal_to_a_datetime_without_a_time_zone() -> None:
    assert Instant.at(0) != datetime(1970, 1, 1)  # noqa: DTZ001
    assert Instant.at(0) == datetime(1970, 1, 1, tzinfo=UTC)
