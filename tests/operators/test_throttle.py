"""throttle(): at most one target a window, the freshest at the trailing edge.

A column is 1 ms of the graph's clock. Small letters are targets, capitals what takes quotes away
or only reports.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from msgspec.structs import replace
from reactivex import abc
from reactivex.scheduler import ImmediateScheduler

from operators.throttle import release_ns, throttle
from streams.clock import NEVER, Clock
from streams.events import Decision
from streams.pump import Hot
from tests.marbles import MILLISECOND, Timed, picture, play_on_clock, subscribers

TARGETS = {
    name: Decision(seq=seq, ts=0, action="quote", bid_px=seq)
    for seq, name in enumerate("abcdefgh", start=1)
}
OTHERS = {
    "W": Decision(seq=20, ts=0, action="withdraw", reason="signal no bid"),
    "R": Decision(seq=21, ts=0, action="refuse"),
}
DECISIONS = TARGETS | OTHERS
NAMES = {decision.seq: name for name, decision in DECISIONS.items()}


def throttled(diagram: str, columns: int = 5, *, start_ns: int = 0) -> Timed:
    return play_on_clock(diagram, DECISIONS, throttle(columns * MILLISECOND), start_ns=start_ns)


def out(timed: Timed, columns: int, *, start_ns: int = 0) -> str:
    """Draw what reaches the order sink as something to act on."""
    return picture(
        timed,
        lambda d: "" if d.action == "hold" else NAMES[d.seq],
        columns,
        start_ns=start_ns,
    )


def held(timed: Timed, columns: int) -> str:
    return picture(
        [(ns, d) for ns, d in timed if isinstance(d, Decision)],
        lambda d: NAMES[d.seq] if d.action == "hold" else "",
        columns,
    )


def test_the_first_target_passes_at_once_untouched() -> None:
    assert throttled("--a-----") == [(2 * MILLISECOND, TARGETS["a"])]


@pytest.mark.parametrize("start_ns", [0, 1_781_703_000_000_000_999])
def test_within_the_window_the_freshest_goes_out_at_its_end(start_ns: int) -> None:
    inputs = "a-bcd---------"
    passed = "a----d--------"

    assert out(throttled(inputs, start_ns=start_ns), 14, start_ns=start_ns) == passed


def test_the_window_after_a_release_counts_from_the_release() -> None:
    inputs = "a-b----c-----------"
    passed = "a----b----c--------"

    assert out(throttled(inputs), 19) == passed


def test_a_target_passes_at_once_when_the_window_is_over() -> None:
    inputs = "a----b------c-----"
    passed = "a----b------c-----"

    assert out(throttled(inputs), 18) == passed


def test_one_ns_before_the_end_of_the_window_is_too_early() -> None:
    operator = throttle(5)

    early = play_on_clock("a---b----", DECISIONS, operator, step_ns=1)
    on_time = play_on_clock("a----b---", DECISIONS, operator, step_ns=1)

    assert [(ns, d.action) for ns, d in early] == [(0, "quote"), (4, "hold"), (5, "quote")]
    assert [(ns, d.action) for ns, d in on_time] == [(0, "quote"), (5, "quote")]


def test_a_target_at_the_very_end_of_the_window_waits_behind_the_one_that_is_released() -> None:
    inputs = "a-b--c-----------"
    passed = "a----b----c------"

    actual = throttled(inputs)

    assert out(actual, 17) == passed
    assert [(ns, NAMES[d.seq], d.action) for ns, d in actual if ns == 5 * MILLISECOND] == [
        (5 * MILLISECOND, "b", "quote"),
        (5 * MILLISECOND, "c", "hold"),
    ]


def test_a_burst_then_silence_leaves_the_last_target_working() -> None:
    inputs = "abcdefgh-----------------"
    passed = "a----e----h--------------"

    assert out(throttled(inputs), 25) == passed


def test_every_held_target_is_reported_as_it_comes_with_its_values() -> None:
    inputs = "a-bcd---------"
    waited = "--bcd---------"

    actual = throttled(inputs)

    assert held(actual, 14) == waited
    assert actual[1] == (
        2 * MILLISECOND,
        replace(TARGETS["b"], action="hold", reason="throttle"),
    )


def test_a_released_target_is_stamped_with_the_instant_it_was_due() -> None:
    clock = Clock()
    source: Hot[Decision] = Hot()
    seen: list[Decision] = []
    source.pipe(throttle(5)).subscribe(seen.append, scheduler=clock)
    source.push(TARGETS["a"])
    clock.advance(2)
    source.push(TARGETS["b"])
    clock.advance(1_000)  # long after the window's end

    assert seen[-1] == replace(TARGETS["b"], ts=5, reason="throttle released")


def test_a_withdrawal_passes_at_once_and_drops_what_is_held() -> None:
    inputs = "a-bW-----------"
    passed = "a--W-----------"

    assert out(throttled(inputs), 15) == passed


def test_a_target_after_a_withdrawal_still_waits_for_its_window() -> None:
    inputs = "a-bW-c---------"
    passed = "a--W-c---------"
    assert out(throttled(inputs), 15) == passed

    inputs = "a-bWc----------"
    passed = "a--W-c---------"
    assert out(throttled(inputs), 15) == passed


def test_a_report_passes_at_once_and_leaves_what_is_held() -> None:
    inputs = "a-bR-----------"
    passed = "a--R-b---------"

    assert out(throttled(inputs), 15) == passed


def test_a_withdrawal_opens_no_window() -> None:
    inputs = "Wab------------"
    passed = "Wa----b--------"

    assert out(throttled(inputs), 15) == passed


def test_at_most_one_target_leaves_in_any_window() -> None:
    inputs = "abcdeWfghab-cWRdefghabcdefghabc" * 8 + "-" * 10
    sent = [ns for ns, d in throttled(inputs) if d.action == "quote"]

    assert len(sent) > 30
    assert min(later - sooner for sooner, later in pairwise(sent)) == (5 * MILLISECOND)


def test_an_interval_of_zero_is_no_operator_at_all() -> None:
    source: Hot[Decision] = Hot()

    assert throttle(0)(source) is source


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="0 for none, was -1"):
        throttle(-1)


@pytest.mark.parametrize("scheduler", [None, ImmediateScheduler()])
def test_without_the_graphs_clock_it_fails_on_subscription(scheduler: Any) -> None:
    source: Hot[Decision] = Hot()

    with pytest.raises(RuntimeError, match=r"subscribed with the graph's clock .* scheduler=clock"):
        source.pipe(throttle(5)).subscribe(scheduler=scheduler)
    assert subscribers(source) == 0


def test_the_next_target_may_go_an_interval_after_the_last() -> None:
    assert release_ns(1_781_703_000_000_000_999, 5) == 1_781_703_000_000_001_004


def test_two_subscriptions_do_not_share_a_window() -> None:
    clock = Clock()
    source: Hot[Decision] = Hot()
    limited = source.pipe(throttle(5))
    early: list[str] = []
    late: list[str] = []
    limited.subscribe(lambda d: early.append(d.action), scheduler=clock)
    source.push(TARGETS["a"])
    limited.subscribe(lambda d: late.append(d.action), scheduler=clock)
    source.push(TARGETS["b"])

    assert early == ["quote", "hold"]
    assert late == ["quote"]


def test_completion_and_errors_travel() -> None:
    assert throttled("a----|")[-1] == (5 * MILLISECOND, "|")
    ns, error = throttled("a-b#--------")[-1]
    assert (ns, str(error)) == (3 * MILLISECOND, "error")


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

    @property
    def timers(self) -> list[bool]:
        """Of each timer, whether it still stands."""
        return [not handle.is_disposed for handle in self.handles]


def test_a_window_takes_one_timer_and_a_withdrawal_cancels_it() -> None:
    clock = RecordingClock()
    source: Hot[Decision] = Hot()
    source.pipe(throttle(5)).subscribe(scheduler=clock)
    for name in "abcd":
        source.push(TARGETS[name])
    assert clock.timers == [True]

    source.push(OTHERS["W"])

    assert clock.timers == [False]


def test_disposing_unsubscribes_and_cancels_the_timer() -> None:
    clock = RecordingClock()
    source: Hot[Decision] = Hot()
    seen: list[Decision] = []
    subscription = source.pipe(throttle(5)).subscribe(seen.append, scheduler=clock)
    source.push(TARGETS["a"])
    source.push(TARGETS["b"])
    assert (subscribers(source), clock.next_due_ns) == (1, 5)

    assert clock.timers == [True]

    subscription.dispose()
    assert clock.timers == [False]
    clock.advance(100)

    assert subscribers(source) == 0
    assert clock.next_due_ns == NEVER
    assert [d.action for d in seen] == ["quote", "hold"]


def test_a_dropped_target_leaves_no_timer_that_could_cut_the_next_window_short() -> None:
    # a at 0; b held until 5; W drops it; c passes at 6, so d must wait until 11.
    inputs = "a-bW--cd-----------"
    passed = "a--W--c----d-------"

    assert out(throttled(inputs), 19) == passed


def test_the_end_of_the_source_waits_for_the_target_that_is_held() -> None:
    inputs = "a-b|---------"

    actual = throttled(inputs)

    assert [(ns // MILLISECOND, d if d == "|" else d.action) for ns, d in actual] == [
        (0, "quote"),
        (2, "hold"),
        (5, "quote"),
        (5, "|"),
    ]
