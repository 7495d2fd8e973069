"""age(): too old when its feed says nothing, quiet or dead. A column is 1 s unless said otherwise.

``v`` a value, ``c`` a refused book, ``t`` a trade; ``h`` heartbeat, ``s`` sibling, ``o`` connect,
``x`` disconnect; ``H`` and ``X`` those of the other feed, ``K`` a kill.
"""

from collections.abc import Callable
from typing import Any, cast

import pytest
from reactivex import abc
from reactivex.scheduler import ImmediateScheduler

from operators.guards.age import DEAD, LIVE, QUIET, age, age_limit_ns, life
from operators.guards.schedule import Schedule
from operators.operator import Operator
from streams.clock import NEVER, Clock
from streams.events import Mid, Refusal, Status
from streams.pump import Hot
from tests.marbles import subscribers

SECOND = 1_000_000_000

STATUSES: dict[str, tuple[str, Any]] = {
    "h": ("signal", "heartbeat"), "s": ("signal", "sibling"), "o": ("signal", "connect"),
    "x": ("signal", "disconnect"), "H": ("target", "heartbeat"), "X": ("target", "disconnect"),
    "K": ("operator", "kill"),
}  # fmt: skip


class RecordingClock(Clock):
    """Keeps the handle of everything that was scheduled on it."""

    def __init__(self, now_ns: int = 0) -> None:
        super().__init__(now_ns)
        self.handles: list[Any] = []

    def schedule_ns(
        self, due_ns: int, action: Callable[[abc.SchedulerBase, Any], Any], state: Any = None
    ) -> abc.DisposableBase:
        self.handles.append(super().schedule_ns(due_ns, action, state))
        return cast(abc.DisposableBase, self.handles[-1])


class Rig:
    """The guard on a clock of its own, with everything that it listens to."""

    def __init__(self, *, step_ns: int = SECOND, start_ns: int = 0, **settings: Any) -> None:
        self.step_ns = step_ns
        self.clock = RecordingClock(start_ns)
        self.source: Hot[Mid | Refusal] = Hot()
        self.status: Hot[Status] = Hot()
        self.trades: Hot[Any] = Hot()
        self.out: list[tuple[float, str]] = []
        self.seqs: list[int] = []
        for name in ("limit_ns", "quiet_limit_ns", "dead_ns", "outside_limit_ns"):
            if name in settings:
                settings[name] *= step_ns
        guard: Operator[Mid | Refusal, Mid | Refusal]
        guard = age("signal", status=self.status, signs=self.trades, **settings)
        self.subscription = self.source.pipe(guard).subscribe(
            self.see,
            lambda error: self.out.append((self.clock.now_ns / step_ns, str(error))),
            lambda: self.out.append((self.clock.now_ns / step_ns, "|")),
            scheduler=self.clock,
        )

    def see(self, value: Mid | Refusal) -> None:
        now = self.clock.now_ns
        self.seqs.append(value.seq)
        text = "v"
        if isinstance(value, Refusal):
            text = value.reason
            if value.value is not None and value.limit is not None:
                assert (value.ts, value.by) == (now, "signal")
                scale = SECOND / self.step_ns
                text += f" {value.value * scale:g}/{value.limit * scale:g}"
        self.out.append((now / self.step_ns, text))

    def give(self, mark: str) -> None:
        now = self.clock.now_ns
        seq = now // self.step_ns
        if mark == "v":
            self.source.push(Mid(seq, now, 200.0, 199, 201))
        elif mark == "c":
            self.source.push(Refusal(seq, now, "signal", "crossed", 3, 2))
        elif mark == "t":
            self.trades.push(object())
        elif mark != "-":
            source, kind = STATUSES[mark]
            self.status.push(Status(seq, now, source, kind))

    def play(self, diagram: str) -> list[tuple[float, str]]:
        for column, mark in enumerate(diagram):
            self.clock.advance(column * self.step_ns)
            self.give(mark)
        return self.out


def played(diagram: str, **settings: Any) -> list[tuple[float, str]]:
    return Rig(**settings).play(diagram)


# ---------------------------------------------------------------- silence


def test_a_value_passes_and_is_refused_when_nothing_follows_it() -> None:
    assert played("v---------", limit_ns=3) == [(0, "v"), (3, "dead 3/3")]


def test_values_in_time_keep_it_live() -> None:
    assert played("v--v--v--v---", limit_ns=4) == [(0, "v"), (3, "v"), (6, "v"), (9, "v")]


def test_it_is_refused_at_the_limit_to_the_ns() -> None:
    # At 5 the timer goes first: the value of that instant comes after the refusal.
    assert played("v---v----", limit_ns=5, step_ns=1) == [(0, "v"), (4, "v")]
    assert played("v---v-----", limit_ns=5, step_ns=1)[2:] == [(9, "dead 5/5")]
    assert played("v----v", limit_ns=5, step_ns=1) == [(0, "v"), (5, "dead 5/5"), (5, "v")]


def test_the_next_value_is_believed_at_once_and_ages_anew() -> None:
    assert played("v-----v------", limit_ns=3) == [
        (0, "v"), (3, "dead 3/3"), (6, "v"), (9, "dead 3/3"),
    ]  # fmt: skip


def test_nothing_is_said_before_the_first_value() -> None:
    assert played("-h-x-o-t----------", limit_ns=3) == []


def test_a_refused_book_passes_and_silence_after_it_is_told_too() -> None:
    rig = Rig(limit_ns=3)

    assert rig.play("v-c------v") == [(0, "v"), (2, "crossed"), (5, "dead 3/3"), (9, "v")]
    assert rig.seqs == [0, 2, 2, 9], "the refusal is of the latest quote"


def test_a_refused_book_counts_as_something_said() -> None:
    assert played("v--c--v--", limit_ns=4) == [(0, "v"), (3, "crossed"), (6, "v")]


def test_a_refusal_that_is_repeated_counts_as_said_when_it_comes() -> None:
    # A frozen feed repeats the refusal of its first frozen quote: it is not silent.
    rig = Rig(limit_ns=3)
    frozen = Refusal(0, 0, "signal", "frozen")
    for second in (0, 2, 4, 6):
        rig.clock.advance(second * SECOND)
        rig.source.push(frozen)
    rig.clock.advance(20 * SECOND)

    assert rig.out == [(0, "frozen"), (2, "frozen"), (4, "frozen"), (6, "frozen"), (9, "dead 3/3")]


def test_a_value_that_is_old_when_it_comes_is_refused() -> None:
    rig = Rig(limit_ns=3)
    rig.clock.advance(10 * SECOND)
    rig.source.push(Mid(6, 6 * SECOND, 200.0, 199, 201))
    rig.clock.advance(20 * SECOND)
    rig.source.push(Mid(18, 18 * SECOND, 200.0, 199, 201))
    rig.clock.advance(30 * SECOND)

    assert rig.out == [(10, "dead 4/3"), (20, "v"), (21, "dead 3/3")]


# ---------------------------------------------------------------- quiet and dead


def test_a_feed_that_gives_signs_is_quiet_and_may_be_older() -> None:
    # Dead after 3 s without a sign, quiet after 6 s without a value.
    limits = {"limit_ns": 3, "quiet_limit_ns": 6, "dead_ns": 3}
    assert played("v-h-h-h-----", **limits) == [(0, "v"), (6, "quiet 6/6"), (9, "dead 9/3")]


@pytest.mark.parametrize("sign", ["h", "s", "t"])
def test_heartbeats_siblings_and_trades_are_signs(sign: str) -> None:
    limits = {"limit_ns": 3, "quiet_limit_ns": 60, "dead_ns": 4}

    assert played(f"v--{sign}-----", **limits) == [(0, "v"), (7, "dead 7/3")]


@pytest.mark.parametrize("other", ["H", "X", "K", "o"])
def test_what_concerns_others_is_no_sign(other: str) -> None:
    limits = {"limit_ns": 3, "quiet_limit_ns": 60, "dead_ns": 4}

    assert played(f"v--{other}-----", **limits) == [(0, "v"), (4, "dead 4/3")]


def test_silence_shorter_than_the_limit_for_quotes_does_not_kill() -> None:
    # No sign for 2 s is dead, but a value 3 s old is as good as any.
    assert played("v---------", limit_ns=5, dead_ns=2) == [(0, "v"), (5, "dead 5/5")]


def test_without_a_quiet_limit_signs_only_change_the_name_of_it() -> None:
    assert played("v-h----------", limit_ns=3, dead_ns=5) == [
        (0, "v"), (3, "quiet 3/3"), (7, "dead 7/3"),
    ]  # fmt: skip


def test_quiet_to_dead_to_quiet_and_back_to_life() -> None:
    # Quiet at 3; the sign of 2 holds until 6: dead. A sign at 7: quiet again, dead at 11. The value
    # of 13 is a sign too: live until 16, then quiet until 17.
    assert played("v-h----h-----v-----", limit_ns=3, dead_ns=4) == [
        (0, "v"), (3, "quiet 3/3"), (6, "dead 6/3"), (7, "quiet 7/3"), (11, "dead 11/3"),
        (13, "v"), (16, "quiet 3/3"), (17, "dead 4/3"),
    ]  # fmt: skip


def test_a_sign_brings_a_dead_feed_back_while_its_value_is_young_enough_for_a_quiet_one() -> None:
    # Dead at 3, and the sign at 5 says that it is only quiet, which it may be until 8.
    limits = {"limit_ns": 3, "quiet_limit_ns": 8, "dead_ns": 3}
    assert played("v----h-h----", **limits) == [
        (0, "v"), (3, "dead 3/3"), (5, "v"), (8, "quiet 8/8"), (10, "dead 10/3"),
    ]  # fmt: skip


def test_without_a_limit_for_death_it_is_that_for_quotes() -> None:
    # The sign of 2 holds until 5, so a value 3 s old is merely quiet and may be.
    assert played("v-h------", limit_ns=3, quiet_limit_ns=9) == [(0, "v"), (5, "dead 5/3")]


def test_signs_at_a_quiet_feed_say_nothing_new() -> None:
    assert played("v-hhhhhhhhhhhh", limit_ns=3, dead_ns=4) == [(0, "v"), (3, "quiet 3/3")]


def test_a_sign_to_the_ns_keeps_it_from_being_dead() -> None:
    limits = {"limit_ns": 3, "dead_ns": 5, "step_ns": 1}
    #              0    5
    assert played("v---h--------", **limits)[1:] == [(3, "quiet 3/3"), (9, "dead 9/3")]
    assert played("v----h-------", **limits)[1:] == [
        (3, "quiet 3/3"), (5, "dead 5/3"), (5, "quiet 5/3"), (10, "dead 10/3"),
    ]  # fmt: skip


def test_a_value_after_quiet_ages_by_its_own_limit() -> None:
    # Quiet at 3 with a look at 30 s; the value of 5 must not wait for that look.
    limits = {"limit_ns": 3, "dead_ns": 30}
    assert played("v-h--v----------", **limits) == [
        (0, "v"), (3, "quiet 3/3"), (5, "v"), (8, "quiet 3/3"),
    ]  # fmt: skip


# ---------------------------------------------------------------- disconnect


def test_a_disconnect_refuses_at_once_until_the_next_value() -> None:
    assert played("v-x-----v-----", limit_ns=4) == [
        (0, "v"), (2, "disconnected 2/4"), (8, "v"), (12, "dead 4/4"),
    ]  # fmt: skip


@pytest.mark.parametrize("mark", ["o", "h", "t", "s", "x"])
def test_after_a_disconnect_only_a_value_helps(mark: str) -> None:
    assert played(f"v-x-{mark}------", limit_ns=4) == [(0, "v"), (2, "disconnected 2/4")]


def test_a_dead_feed_can_still_be_disconnected() -> None:
    assert played("v----x---", limit_ns=3) == [
        (0, "v"), (3, "dead 3/3"), (5, "disconnected 5/3"),
    ]  # fmt: skip


def test_a_refused_book_ends_a_disconnect_like_any_quote() -> None:
    assert played("v-x-c-v", limit_ns=9)[2:] == [(4, "crossed"), (6, "v")]


def test_a_disconnect_cancels_the_timer() -> None:
    rig = Rig(limit_ns=4)
    rig.play("v-x")

    assert [handle.is_disposed for handle in rig.clock.handles] == [True]


# ---------------------------------------------------------------- sessions


def test_outside_the_session_its_own_limit_holds() -> None:
    schedule = Schedule([(10 * SECOND, 30 * SECOND)])
    limits = {"limit_ns": 2, "outside_limit_ns": 5, "schedule": schedule}

    assert played("v--------------", **limits) == [(0, "v"), (5, "dead 5/5")]
    assert played("v----------v---", **limits)[2:] == [(11, "v"), (13, "dead 2/2")]


def test_without_a_limit_for_outside_the_same_holds() -> None:
    schedule = Schedule([(10 * SECOND, 30 * SECOND)])

    assert played("v--------------", limit_ns=2, schedule=schedule) == [(0, "v"), (2, "dead 2/2")]


def test_at_the_open_a_value_that_was_young_enough_becomes_too_old() -> None:
    schedule = Schedule([(10 * SECOND, 30 * SECOND)])
    limits = {"limit_ns": 2, "outside_limit_ns": 9, "schedule": schedule}
    #              0         10
    assert played("------v-------", **limits) == [(6, "v"), (10, "dead 4/2")]
    # 1 s old at the open: it has 1 s left.
    assert played("---------v-----", **limits) == [(9, "v"), (11, "dead 2/2")]


def test_at_the_close_a_value_that_was_too_old_is_believed_again() -> None:
    schedule = Schedule([(0, 10 * SECOND)])
    limits = {"limit_ns": 2, "outside_limit_ns": 9, "schedule": schedule}
    #              0         10
    assert played("------v-----------", **limits) == [
        (6, "v"), (8, "dead 2/2"), (10, "v"), (15, "dead 9/9"),
    ]  # fmt: skip


def test_over_an_open_and_a_close_each_instant_has_its_limit() -> None:
    schedule = Schedule([(10 * SECOND, 20 * SECOND)])
    limits = {"limit_ns": 2, "outside_limit_ns": 8, "schedule": schedule}
    #              0         10        20
    assert played("-----v-----v--------------v---------", **limits) == [
        (5, "v"), (10, "dead 5/2"), (11, "v"), (13, "dead 2/2"),
        (26, "v"), (34, "dead 8/8"),  # 9 s old at the close: still too old
    ]  # fmt: skip


def test_a_value_after_a_refusal_does_not_wait_for_the_edge_of_the_session() -> None:
    # Dead at 2 with nothing to look at before the close at 100; the value of 5 must age by 7.
    schedule = Schedule([(0, 100 * SECOND)])

    assert played("v----v------", limit_ns=2, schedule=schedule) == [
        (0, "v"), (2, "dead 2/2"), (5, "v"), (7, "dead 2/2"),
    ]  # fmt: skip


def test_a_quiet_limit_shorter_than_the_limit_outside_does_not_shorten_it() -> None:
    schedule = Schedule([(100 * SECOND, 200 * SECOND)])
    limits = {
        "limit_ns": 2, "quiet_limit_ns": 4, "outside_limit_ns": 6, "dead_ns": 50,
        "schedule": schedule,
    }  # fmt: skip
    assert played("v---------", **limits) == [(0, "v"), (6, "quiet 6/6")]


# ---------------------------------------------------------------- the judgement


@pytest.mark.parametrize(
    ("age_ns", "silence_ns", "verdict"),
    [
        (9, 9, LIVE),
        (9, 99, LIVE),  # below the limit nothing else counts
        (10, 4, LIVE),  # signs: up to the limit for a quiet feed
        (19, 4, LIVE),
        (20, 4, QUIET),
        (10, 5, DEAD),
        (19, 5, DEAD),
        (20, 5, DEAD),
    ],
)
def test_life_is_judged_by_age_and_silence(age_ns: int, silence_ns: int, verdict: int) -> None:
    assert life(age_ns, 10, 20, silence_ns, 5) == verdict


def test_the_limit_is_of_the_session_or_outside() -> None:
    assert age_limit_ns(True, 5, 7) == 5
    assert age_limit_ns(False, 5, 7) == 7


# ---------------------------------------------------------------- timers and shape


def standing(clock: RecordingClock) -> int:
    """How many timers are out: neither fired nor cancelled."""
    return sum(1 for *_, handle, _, _ in clock._actions if not handle.is_disposed)


def test_many_quotes_cost_no_timers() -> None:
    rig = Rig(limit_ns=100_000, step_ns=1)
    rig.play("v" * 10_000)

    assert len(rig.out) == 10_000
    assert len(rig.clock.handles) == 1


def test_one_look_per_limit_follows_a_steady_feed() -> None:
    rig = Rig(limit_ns=10, step_ns=1)
    rig.play("v" * 1_000)

    assert all(text == "v" for _, text in rig.out)
    assert len(rig.clock.handles) <= 112  # 1,000 / 9: each look is 10 after the latest value


def test_never_more_than_one_timer_is_out() -> None:
    schedule = Schedule([(10, 20), (30, 45)])
    rig = Rig(
        limit_ns=3, quiet_limit_ns=6, dead_ns=4, outside_limit_ns=5, schedule=schedule, step_ns=1
    )
    for column, mark in enumerate("v-h-hh----vt-o--c---x-v-ch-o--v----h-----v---v-----c--"):
        rig.clock.advance(column)
        rig.give(mark)
        assert standing(rig.clock) <= 1, column


def test_completion_and_errors_of_every_source_travel() -> None:
    rig = Rig(limit_ns=3)
    rig.source.on_completed()
    assert rig.out == [(0, "|")]
    for failing in ("source", "status", "trades"):
        rig = Rig(limit_ns=3)
        for observer in getattr(rig, failing)._observers:
            observer.on_error(ValueError(f"{failing} broke"))
        assert rig.out == [(0, f"{failing} broke")]


@pytest.mark.parametrize("scheduler", [None, ImmediateScheduler()])
def test_without_the_graphs_clock_it_fails_on_subscription(scheduler: Any) -> None:
    source: Hot[Mid | Refusal] = Hot()
    status: Hot[Status] = Hot()
    guard: Operator[Mid | Refusal, Mid | Refusal] = age("signal", limit_ns=3, status=status)

    with pytest.raises(RuntimeError, match=r"age must be subscribed with the graph's clock"):
        source.pipe(guard).subscribe(scheduler=scheduler)
    assert subscribers(source, status) == 0


def test_disposing_unsubscribes_from_everything_and_cancels_the_timer() -> None:
    rig = Rig(limit_ns=3)
    rig.play("v-")
    assert subscribers(rig.source, rig.status, rig.trades) == 3

    rig.subscription.dispose()
    assert standing(rig.clock) == 0
    rig.clock.advance(100 * SECOND)

    assert subscribers(rig.source, rig.status, rig.trades) == 0
    assert rig.clock.next_due_ns == NEVER
    assert rig.out == [(0, "v")]


def test_two_subscriptions_do_not_share_a_value() -> None:
    clock = Clock()
    source: Hot[Mid | Refusal] = Hot()
    guard: Operator[Mid | Refusal, Mid | Refusal] = age("signal", limit_ns=3)
    guarded = source.pipe(guard)
    early: list[Any] = []
    late: list[Any] = []
    guarded.subscribe(early.append, scheduler=clock)
    source.push(Mid(1, 0, 200.0, 199, 201))
    guarded.subscribe(late.append, scheduler=clock)
    clock.advance(10)

    assert [type(value) for value in early] == [Mid, Refusal]
    assert late == []


def test_statuses_and_signs_may_be_left_out() -> None:
    clock = Clock()
    source: Hot[Mid | Refusal] = Hot()
    seen: list[Any] = []
    guard: Operator[Mid | Refusal, Mid | Refusal] = age("target", limit_ns=3)
    source.pipe(guard).subscribe(seen.append, scheduler=clock)
    source.push(Mid(1, 0, 200.0, 199, 201))
    clock.advance(3)

    assert seen[1] == Refusal(1, 3, "target", "dead", value=3e-9, limit=3e-9)
