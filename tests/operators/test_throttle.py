"""throttle(): at most one target a window, the freshest at the trailing edge.

A column is 1 ms of the graph's clock. Small letters are targets, capitals what takes quotes away
or only reports.
"""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from msgspec.structs import replace
from reactivex import abc
from reactivex.scheduler import ImmediateScheduler

from operators.budget import BudgetLimits
from operators.throttle import (
    levels_through,
    release_ns,
    retract_sides,
    retract_to_reach,
    throttle,
)
from streams.clock import NEVER, Clock
from streams.events import BUY, SELL, Decision, OrderUpdate
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


# ---------------------------------------------------------------- one row a held target


def test_a_held_target_that_is_repeated_is_reported_once_and_goes_out_as_it_was_last() -> None:
    again = {name: replace(TARGETS["b"], seq=seq) for seq, name in enumerate("ij", start=30)}
    inputs = "a-bij----------"

    timed = play_on_clock(inputs, DECISIONS | again, throttle(5 * MILLISECOND))

    assert [(ns // MILLISECOND, d.seq, d.action) for ns, d in timed] == [
        (0, 1, "quote"), (2, 2, "hold"), (5, 31, "quote"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"bid_px": 9}, {"ask_px": 9}, {"bid_levels": 2}, {"ask_levels": 2}, {"qty": 9}]
)
def test_a_held_target_with_any_other_level_or_size_is_reported_again(
    change: dict[str, int],
) -> None:
    changed = {"i": replace(TARGETS["b"], **change), "k": replace(TARGETS["b"], position=5)}

    timed = play_on_clock("abikb--", DECISIONS | changed, throttle(9 * MILLISECOND))

    assert [d.action for _, d in timed] == ["quote", "hold", "hold", "hold"]


def test_a_target_held_again_after_a_withdrawal_is_reported_again() -> None:
    timed = throttled("abWb--")

    assert [d.action for _, d in timed] == ["quote", "hold", "withdraw", "hold", "quote"]


# ---------------------------------------------------------------- what a held target takes away


def quote(seq: int, bid: int | None, ask: int | None, levels: int = 1, **more: Any) -> Decision:
    return Decision(
        seq=seq, ts=0, action="quote", bid_px=bid, ask_px=ask,
        bid_levels=0 if bid is None else levels, ask_levels=0 if ask is None else levels, **more,
    )  # fmt: skip


def levels(decision: Decision) -> tuple[Any, ...]:
    return (
        decision.action, decision.bid_px, decision.bid_levels, decision.ask_px, decision.ask_levels
    )  # fmt: skip


def test_a_side_that_is_not_wanted_any_more_goes_at_once_while_the_new_target_waits() -> None:
    targets = {
        "a": quote(1, 100, 110, qty=7),
        "n": quote(2, None, 108, qty=8, unmoved=3),
        "m": quote(3, None, 107, qty=8),
    }

    timed = play_on_clock("a-nm-------", targets, throttle(5 * MILLISECOND))

    assert [(ns // MILLISECOND, *levels(d)) for ns, d in timed] == [
        (0, "quote", 100, 1, 110, 1),
        (2, "hold", None, 0, 108, 1),
        (2, "retract", None, 0, 110, 1),  # what was sent, less its bid; 108 must wait
        (3, "hold", None, 0, 107, 1),
        (5, "quote", None, 0, 107, 1),
    ]
    retract = timed[2][1]
    assert (retract.seq, retract.qty, retract.unmoved) == (2, 7, 0)
    assert retract.reason == "taken away at once"


def test_both_sides_may_go_one_after_the_other_and_a_side_that_is_wanted_again_waits() -> None:
    targets = {
        "a": quote(1, 100, 110), "n": quote(2, None, 110), "m": quote(3, 99, None),
        "b": quote(4, 99, 110),
    }  # fmt: skip

    timed = play_on_clock("anmb---", targets, throttle(5 * MILLISECOND))

    assert [levels(d) for _, d in timed if d.action != "hold"] == [
        ("quote", 100, 1, 110, 1),
        ("retract", None, 0, 110, 1),
        ("retract", None, 0, None, 0),
        ("quote", 99, 1, 110, 1),
    ]


def test_nothing_is_taken_away_when_nothing_was_sent_or_a_withdrawal_took_it() -> None:
    targets = {"a": quote(1, 100, 110), "n": quote(2, None, 110), "W": OTHERS["W"]}

    timed = play_on_clock("aWn------", targets, throttle(5 * MILLISECOND))

    assert [d.action for _, d in timed] == ["quote", "withdraw", "hold", "quote"]


def test_what_moves_but_stays_wanted_is_not_taken_away() -> None:
    assert retract_sides(quote(1, 100, 110, 3), quote(2, 98, 108, 1)) is None


def test_after_a_release_the_next_retract_starts_from_what_was_released() -> None:
    targets = {"a": quote(1, 100, 110), "b": quote(2, 99, 109), "n": quote(3, 99, None)}

    timed = play_on_clock("ab---n-----", targets, throttle(5 * MILLISECOND))

    assert [levels(d) for _, d in timed if d.action == "retract"] == [("retract", 99, 1, None, 0)]


@pytest.mark.parametrize(
    ("best_bid", "best_ask", "bids", "asks"),
    [
        # Sent bids 100, 98, 96 and asks 110, 112, 114; reach is 10 from the best of each side.
        (106, 104, 3, 3),  # 106 - 96 and 114 - 104 are 10: within reach
        (107, 104, 2, 3),
        (108, 104, 2, 3),
        (109, 104, 1, 3),
        (110, 104, 1, 3),
        (111, 104, 0, 3),
        (106, 103, 3, 2),
        (106, 100, 3, 1),
        (106, 99, 3, 0),
        (111, 99, 0, 0),
    ],
)
def test_levels_beyond_reach_of_the_present_best_go_at_once(
    best_bid: int, best_ask: int, bids: int, asks: int
) -> None:
    sent = quote(1, 100, 110, 3, level_step=2)
    wanted = quote(2, 105, 115, 3, level_step=5, target_bid_px=best_bid, target_ask_px=best_ask)

    retracted = retract_to_reach(10)(sent, wanted)

    if (bids, asks) == (3, 3):
        assert retracted is None
        return
    assert retracted is not None
    assert levels(retracted) == (
        "retract", 100 if bids else None, bids, 110 if asks else None, asks,
    )  # fmt: skip
    assert retracted.level_step == 2


def test_with_reach_a_side_that_is_not_wanted_goes_too_and_without_a_best_all_stays() -> None:
    sent = quote(1, 100, 110, 3, level_step=2)

    unwanted = retract_to_reach(10)(sent, quote(2, None, 110, 3, target_ask_px=110))
    nowhere = retract_to_reach(10)(sent, quote(2, 100, 110, 3))

    assert unwanted is not None
    assert levels(unwanted) == ("retract", None, 0, 110, 3)
    assert nowhere is None


def test_levels_go_once_and_more_of_them_when_the_market_moves_on() -> None:
    targets = {
        "a": quote(1, 100, None, 3, level_step=2, target_bid_px=101),
        "b": quote(2, 105, None, 3, level_step=2, target_bid_px=107),
        "c": quote(3, 105, None, 3, level_step=2, target_bid_px=109),
    }
    operator = throttle(9 * MILLISECOND, retract=retract_to_reach(10))

    timed = play_on_clock("abbccb-", targets, operator)

    assert [levels(d)[:3] for _, d in timed] == [
        ("quote", 100, 3), ("hold", 105, 3), ("retract", 100, 2), ("retract", 100, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("retract", [retract_sides, retract_to_reach(6)])
def test_a_retract_never_holds_a_level_that_was_not_sent(retract: Any) -> None:
    source = random.Random(3)

    def anything() -> Decision:
        bid, ask = source.choice((None, 100, 103)), source.choice((None, 110, 107))
        return replace(
            quote(1, bid, ask, level_step=2, qty=source.choice((5, 6))),
            bid_levels=0 if bid is None else source.randrange(1, 4),
            ask_levels=0 if ask is None else source.randrange(1, 4),
            target_bid_px=source.choice((None, 99, 104, 108)),
            target_ask_px=source.choice((None, 102, 105, 111)),
        )

    made = 0
    for _ in range(2_000):
        sent, wanted = anything(), anything()
        retracted = retract(sent, wanted)
        if retracted is None:
            continue
        made += 1
        assert retracted.action == "retract"
        assert _orders(retracted) < _orders(sent)
        assert (retracted.bid_px is None) == (not retracted.bid_levels)
        assert (retracted.ask_px is None) == (not retracted.ask_levels)
    assert made > 200


def _orders(decision: Decision) -> set[tuple[str, int, int | None]]:
    found: set[tuple[str, int, int | None]] = set()
    if decision.bid_px is not None:
        for i in range(decision.bid_levels):
            found.add(("bid", decision.bid_px - i * decision.level_step, decision.qty))
    if decision.ask_px is not None:
        for i in range(decision.ask_levels):
            found.add(("ask", decision.ask_px + i * decision.level_step, decision.qty))
    return found


# ---------------------------------------------------------------- budgets

MINUTE = 60 * 10**9


class Run:
    """The operator with limits, fed by hand, with two markets' orders."""

    def __init__(self, interval_ns: int = 0, **limits: int) -> None:
        self.clock = RecordingClock()
        self.source: Hot[Decision] = Hot()
        self.orders: tuple[Hot[OrderUpdate], Hot[OrderUpdate]] = (Hot(), Hot())
        self.seen: list[Decision] = []
        self.batches = [0, 0]
        operator = throttle(interval_ns, limits=BudgetLimits(**limits), orders=self.orders)
        self.subscription = self.source.pipe(operator).subscribe(
            lambda d: self.seen.append(replace(d, ts=self.clock.now_ns)), scheduler=self.clock
        )

    def send(self, count: int = 1, market: int = 0) -> None:
        for _ in range(count):
            self.batches[market] += 1
            n = self.batches[market]
            self.orders[market].push(
                OrderUpdate(
                    ts=self.clock.now_ns, n=n, side=BUY, state="pending_new", leaves=1, batch=n
                )
            )

    def fill(self, px: int) -> None:
        """One unit at so many whole units of money."""
        self.orders[0].push(
            OrderUpdate(
                ts=self.clock.now_ns, n=1, side=BUY, state="filled", leaves=0, filled=10**9,
                fill_px=px * 10**9,
            )
        )  # fmt: skip

    def want(self, *decisions: Decision) -> None:
        for decision in decisions:
            self.source.push(decision)

    @property
    def told(self) -> list[tuple[int, str, str]]:
        return [(d.ts, d.action, d.reason) for d in self.seen]


def test_a_target_that_the_minute_has_no_room_for_waits_until_the_oldest_is_a_minute_old() -> None:
    run = Run(transactions_per_minute=10)
    run.clock.advance(3)
    run.send()
    run.clock.advance(1_000)
    run.send(7)
    run.want(quote(1, 100, 110))  # eight of the nine that are not kept for cancels
    run.send()

    run.want(quote(2, 99, 109))
    run.clock.advance(3 + MINUTE - 1)
    assert run.told == [(1_000, "quote", ""), (1_000, "hold", "budget")]
    run.clock.advance(3 + MINUTE)

    assert run.told[2:] == [(3 + MINUTE, "quote", "throttle released")]
    assert run.seen[-1].bid_px == 99


def test_the_orders_of_every_market_count() -> None:
    run = Run(transactions_per_minute=10)
    run.send(5, market=0)
    run.send(4, market=1)

    run.want(quote(1, 100, 110))

    assert run.told == [(0, "hold", "budget")]


# 72 units, a portion of 8 at once (never less): when those are spent 64 are left, and of 64 in
# 2**20 ns comes one every 16,384 ns.
QUOTA = {"volume_quota": 72, "horizon_ns": 2**20}
UNIT_NS = 16_384


@pytest.mark.parametrize(("levels", "units"), [(1, 2), (3, 6)])
def test_a_target_waits_for_the_quota_of_all_its_levels_to_the_ns(levels: int, units: int) -> None:
    run = Run(**QUOTA)
    run.send(8)

    run.want(quote(1, 100, 110, levels))
    run.clock.advance(units * UNIT_NS)
    assert run.told == [(0, "hold", "budget")]
    run.clock.advance(units * UNIT_NS + 1)

    assert run.told[1:] == [(units * UNIT_NS + 1, "quote", "throttle released")]


def test_a_cheaper_target_reschedules_to_its_own_earlier_time() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, 110, 3))
    run.clock.advance(UNIT_NS)

    run.want(quote(2, 100, None))  # one unit: it is there
    run.want(quote(3, 100, 110))
    run.clock.advance(10 * UNIT_NS)

    assert [(d.ts, d.seq, d.action) for d in run.seen] == [
        (0, 1, "hold"), (UNIT_NS, 2, "quote"), (UNIT_NS, 3, "hold"),
        (2 * UNIT_NS + 1, 3, "quote"),
    ]  # fmt: skip


def test_a_cheaper_target_that_must_wait_as_well_waits_no_longer_than_it_must() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, 110, 3), quote(2, 100, 110))
    run.clock.advance(10 * UNIT_NS)

    assert [(d.ts, d.seq, d.action) for d in run.seen] == [
        (0, 1, "hold"), (0, 2, "hold"), (2 * UNIT_NS + 1, 2, "quote"),
    ]  # fmt: skip
    assert run.clock.timers[0] is False, "the longer wait was cancelled"


def test_a_target_that_may_go_cancels_the_wait_of_the_one_it_overtakes() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, 110))
    assert run.clock.timers == [True]
    run.clock.advance(UNIT_NS)

    run.want(quote(2, 100, None))

    assert [d.action for d in run.seen] == ["hold", "quote"]
    assert run.clock.timers == [False]


def test_what_was_unmoved_is_told_with_the_hold_and_not_again_with_the_release() -> None:
    run = Run(5)
    run.want(quote(1, 100, 110), quote(2, 99, 109, unmoved=4))
    run.clock.advance(5)

    assert [(d.action, d.unmoved) for d in run.seen] == [("quote", 0), ("hold", 4), ("quote", 0)]


def test_a_dearer_target_reschedules_to_its_own_later_time() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, None), quote(2, 100, 110, 2))
    run.clock.advance(10 * UNIT_NS)

    assert [(d.ts, d.seq, d.action) for d in run.seen] == [
        (0, 1, "hold"), (0, 2, "hold"), (4 * UNIT_NS + 1, 2, "quote"),
    ]  # fmt: skip


def test_a_fill_that_earns_quota_lets_a_held_target_go_sooner_without_another_decision() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, 110))
    run.clock.advance(UNIT_NS)  # one of two units is there
    run.fill(192)  # 192 / 3 is 64 units: twice as many are left, so the other comes twice as fast

    run.clock.advance(MINUTE)

    assert run.told[1:] == [(UNIT_NS + UNIT_NS // 2 + 1, "quote", "throttle released")]


def test_what_another_market_spends_meanwhile_keeps_a_held_target_longer() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, 110))
    run.clock.advance(UNIT_NS)
    run.send(1, market=1)

    run.clock.advance(MINUTE)

    # Nothing is there, of 63 that are left: 2 * 2**20 / 63 is 33,288.1 ns more.
    assert run.told[1:] == [(UNIT_NS + 33_288 + 1, "quote", "throttle released")]


def test_a_quota_that_is_gone_holds_without_a_timer_until_a_fill_earns_it() -> None:
    run = Run(volume_quota=2)
    run.send(2)
    for seq in range(1, 100):
        run.clock.advance(seq)
        run.want(quote(seq, 100, 110))
    assert run.told == [(1, "hold", "budget")]
    assert run.clock.next_due_ns == NEVER
    assert run.clock.timers == [], "a timer for ever would only fill the queue"

    run.clock.advance(500)
    run.fill(30)  # 10 units
    assert len(run.seen) == 1, "whoever else listens hears of the fill first"
    run.clock.advance(500)

    assert run.told[1:] == [(500, "quote", "throttle released")]
    assert run.seen[-1].seq == 99


def test_the_last_units_are_not_spent_on_half_a_target() -> None:
    run = Run(volume_quota=2)

    run.want(quote(1, 100, 110), quote(2, 100, None))

    assert run.told == [(0, "hold", "budget"), (0, "quote", "")]


def test_interval_and_budget_must_both_allow_it_and_the_reason_is_what_waits_longer() -> None:
    run = Run(3 * UNIT_NS, **QUOTA)
    run.want(quote(1, 100, 110))
    run.send(8)
    run.want(quote(2, 99, 109))  # the budget would let it go after two units
    run.clock.advance(3 * UNIT_NS)
    run.send(3)
    run.clock.advance(4 * UNIT_NS)
    run.want(quote(3, 98, 108, 3))
    run.clock.advance(MINUTE)

    assert [(ts, action, reason) for ts, action, reason in run.told][:4] == [
        (0, "quote", ""),
        (0, "hold", "throttle"),
        (3 * UNIT_NS, "quote", "throttle released"),
        (4 * UNIT_NS, "hold", "throttle"),
    ]
    late = Run(1, **QUOTA)
    late.want(quote(1, 100, 110))
    late.send(8)
    late.clock.advance(1)
    late.want(quote(2, 99, 109))
    assert late.told[1:] == [(1, "hold", "budget")]


def test_a_withdrawal_passes_whatever_is_spent_and_drops_what_is_held() -> None:
    run = Run(transactions_per_minute=1, volume_quota=1)
    run.send(3)
    run.want(quote(1, 100, 110), OTHERS["W"], OTHERS["R"], OTHERS["W"])
    run.clock.advance(10 * MINUTE)

    assert [d.action for d in run.seen] == ["hold", "withdraw", "refuse", "withdraw"]


def test_what_a_held_target_takes_away_goes_whatever_is_spent() -> None:
    run = Run(volume_quota=4)
    run.want(quote(1, 100, 110))
    run.send(4)

    run.want(quote(2, 99, None))

    assert [levels(d) for d in run.seen] == [
        ("quote", 100, 1, 110, 1), ("hold", 99, 1, None, 0), ("retract", 100, 1, None, 0),
    ]  # fmt: skip


def test_a_withdrawal_cancels_the_wait_and_a_fill_after_it_releases_nothing() -> None:
    run = Run(**QUOTA)
    run.send(8)
    run.want(quote(1, 100, 110), OTHERS["W"])
    run.fill(192)
    run.clock.advance(MINUTE)

    assert [d.action for d in run.seen] == ["hold", "withdraw"]


def test_limits_without_an_interval_need_the_graphs_clock_too() -> None:
    source: Hot[Decision] = Hot()

    with pytest.raises(RuntimeError, match="subscribed with the graph's clock"):
        source.pipe(throttle(0, limits=BudgetLimits())).subscribe()


def test_limits_that_limit_nothing_hold_nothing() -> None:
    run = Run()
    run.send(1_000)

    run.want(quote(1, 100, 110, 9), quote(2, 99, 109, 9))

    assert [d.action for d in run.seen] == ["quote", "quote"]


def test_an_error_of_the_orders_travels_and_disposing_leaves_them() -> None:
    run = Run(**QUOTA)
    assert subscribers(run.source, *run.orders) == 3

    run.subscription.dispose()

    assert subscribers(run.source, *run.orders) == 0
    failed: list[Exception] = []
    broken: Hot[OrderUpdate] = Hot()
    Hot[Decision]().pipe(throttle(0, limits=BudgetLimits(), orders=[broken])).subscribe(
        on_error=failed.append, scheduler=Clock()
    )
    for observer in broken._observers:
        observer.on_error(ValueError("broke"))
    assert [str(error) for error in failed] == ["broke"]


def test_levels_at_the_centre_or_through_it_are_counted_from_the_inside() -> None:
    # Bids at 101, 100, 99 around a centre of 100: the first two would buy too high.
    assert levels_through(BUY, 101 * 10**9, 10**9, 3, 100.0) == 2
    assert levels_through(BUY, 99 * 10**9, 10**9, 3, 100.0) == 0
    assert levels_through(SELL, 99 * 10**9, 10**9, 3, 100.0) == 2
    assert levels_through(SELL, 101 * 10**9, 10**9, 3, 100.0) == 0
    assert levels_through(SELL, 90 * 10**9, 10**9, 3, 100.0) == 3


def test_a_held_target_takes_away_the_inner_levels_that_its_centre_has_met() -> None:
    sent = Decision(
        seq=1, ts=0, action="quote", bid_px=101 * 10**9, bid_levels=3, ask_px=103 * 10**9,
        ask_levels=2, level_step=10**9, qty=5,
    )  # fmt: skip
    wanted = Decision(
        seq=2, ts=0, action="quote", bid_px=99 * 10**9, bid_levels=3, ask_px=101 * 10**9,
        ask_levels=2, level_step=10**9, qty=5, bid=99.0, ask=101.0,
    )  # fmt: skip
    left = retract_sides(sent, wanted)
    assert left is not None
    assert (left.action, left.bid_px, left.bid_levels) == ("retract", 99 * 10**9, 1)
    assert (left.ask_px, left.ask_levels) == (103 * 10**9, 2)


def test_held_targets_that_repeat_are_counted_in_what_comes_next() -> None:
    same = {name: replace(TARGETS["a"], seq=d.seq) for name, d in TARGETS.items()}
    same["d"] = replace(TARGETS["d"], bid_px=99)
    same["e"] = replace(TARGETS["d"], bid_px=99, seq=5, unmoved=2)
    timed = play_on_clock("a-b-d-e------|", same, throttle(8 * MILLISECOND))
    told = [(d.action, d.seq, d.unmoved) for _, d in timed if isinstance(d, Decision)]
    # e repeats d, which was held already: e itself and the two that it had counted.
    assert told == [("quote", 1, 0), ("hold", 2, 0), ("hold", 4, 0), ("quote", 5, 3)]
