"""risk(): limits that take everything away. Times are in seconds of the graph's clock."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace
from reactivex import abc
from reactivex.scheduler import ImmediateScheduler

from operators.guards.risk import REJECT_WINDOW_NS, RiskLimits, notional, risk
from operators.guards.schedule import Schedule
from operators.inventory import inventory
from operators.state import State
from streams.clock import NEVER, Clock
from streams.events import BUY, SELL, Anchor, Inventory, OrderUpdate, Refusal, Residual
from streams.instrument import marked_pnl
from streams.pump import Hot
from tests.marbles import subscribers

SECOND = 1_000_000_000
UNIT = 1_000_000_000


def state(mid: int = 200, *, seq: int = 5) -> State:
    return (
        Residual(3, 30, 200.0, 100.0, 1.0),
        Anchor(seq, 0, float(mid), float(mid), mid * UNIT - 3, mid * UNIT + 3),
    )


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


class Rig:
    """The guard with an inventory that is set by hand."""

    def __init__(self, *, schedule: Schedule | None = None, **limits: int) -> None:
        self.clock = RecordingClock()
        self.states: Hot[State] = Hot()
        self.held: Hot[Inventory] = Hot()
        self.holds = Inventory()
        self.out: list[tuple[float, Any]] = []
        self.subscription = self.states.pipe(
            risk(RiskLimits(**limits), self.held, schedule=schedule)
        ).subscribe(
            self.see,
            lambda error: self.out.append((self.clock.now_ns / SECOND, str(error))),
            lambda: self.out.append((self.clock.now_ns / SECOND, "|")),
            scheduler=self.clock,
        )

    def see(self, given: State) -> None:
        anchor = given[1]
        text: Any = "ok"
        if isinstance(anchor, Refusal):
            assert anchor.by == "risk"
            assert anchor.ts == self.clock.now_ns
            assert anchor.seq == 5
            text = (anchor.reason, anchor.value, anchor.limit)
        self.out.append((self.clock.now_ns / SECOND, text))

    def at(self, seconds: float) -> "Rig":
        self.clock.advance(round(seconds * SECOND))
        return self

    def state(self, mid: int = 200) -> "Rig":
        self.states.push(state(mid))
        return self

    def hold(self, **changes: int) -> "Rig":
        self.holds = replace(self.holds, **changes)
        self.held.push(self.holds)
        return self


# ---------------------------------------------------------------- each limit, and why


def test_without_limits_every_state_passes_as_it_is() -> None:
    rig = Rig().state().hold(position=10**18, working=99, rejects=99).at(5).state()

    assert rig.out == [(0, "ok"), (5, "ok")]


@pytest.mark.parametrize("side", [1, -1])
def test_the_position_may_reach_its_limit_and_not_pass_it(side: int) -> None:
    rig = Rig(max_position=2 * UNIT).state()
    rig.at(1).hold(position=side * 2 * UNIT).at(2).state()
    assert rig.out == [(0, "ok"), (2, "ok")]

    rig.at(3).hold(position=side * (2 * UNIT + 1))

    assert rig.out[2:] == [(3, ("position beyond the limit", side * 2.000000001, 2.0))]


def test_the_number_of_orders_may_reach_its_limit_and_not_pass_it() -> None:
    rig = Rig(max_orders=3).state().at(1).hold(working=3).at(2).state().at(3).hold(working=4)

    assert rig.out == [(0, "ok"), (2, "ok"), (3, ("too many orders", 4.0, 3.0))]


@pytest.mark.parametrize("side", [1, -1])
def test_the_value_of_the_position_is_judged_at_the_targets_middle(side: int) -> None:
    # 2 at 200 are 400; at 201 they are 402.
    rig = Rig(max_notional=400 * UNIT).state(200).hold(position=side * 2 * UNIT)
    rig.at(1).state(200).at(2).state(201)

    assert rig.out == [
        (0, "ok"), (1, "ok"), (2, ("notional beyond the limit", 402.0, 400.0)),
    ]  # fmt: skip


def test_a_loss_is_what_was_paid_and_the_position_at_the_market() -> None:
    # Bought 2 at 200 for 400, with fees of 1: at 195 that is 390 - 400 - 1 = -11.
    rig = Rig(max_loss=11 * UNIT).state(200)
    rig.at(1).hold(position=2 * UNIT, cash=-400 * UNIT * UNIT, fees=UNIT)
    rig.at(2).state(195)
    assert rig.out == [(0, "ok"), (2, "ok")]

    # At 194 it is 388 - 401 = -13.
    rig.at(3).state(194)

    assert rig.out[2:] == [(3, ("loss beyond the limit", 13.0, 11.0))]


def test_a_fill_alone_can_be_the_loss() -> None:
    # Sold 1 at 190 while the market is at 200: -10.
    rig = Rig(max_loss=9 * UNIT).state(200)
    rig.at(1).hold(position=-UNIT, cash=190 * UNIT * UNIT)

    assert rig.out == [(0, "ok"), (1, ("loss beyond the limit", 10.0, 9.0))]


@pytest.mark.parametrize("position", [-UNIT, UNIT])
def test_what_was_held_at_the_start_is_neither_a_profit_nor_a_loss(position: int) -> None:
    rig = Rig(max_loss=9 * UNIT).hold(position=position).state(200)
    rig.at(1).state(200 - 9 * position // UNIT)
    assert rig.out == [(0, "ok"), (1, "ok")]

    rig.at(2).state(200 - 10 * position // UNIT)

    assert rig.out[2:] == [(2, ("loss beyond the limit", 10.0, 9.0))]


def test_without_a_price_a_position_has_no_value_and_no_loss() -> None:
    clock, states, held = Clock(), Hot[State](), Hot[Inventory]()
    no_target: State = (state()[0], Refusal(5, 0, "target", "missing"))
    seen: list[State] = []
    limits = RiskLimits(max_notional=1, max_loss=1)
    states.pipe(risk(limits, held)).subscribe(seen.append, scheduler=clock)
    held.push(Inventory(position=UNIT))
    states.push(no_target)
    held.push(Inventory(position=2 * UNIT))

    assert seen == [no_target]


def test_a_state_without_a_target_is_judged_at_the_last_price_there_was() -> None:
    clock, states, held = Clock(), Hot[State](), Hot[Inventory]()
    refused: State = (state()[0], Refusal(5, 0, "target", "crossed", 3, 2))
    seen: list[State] = []
    limits = RiskLimits(max_notional=400 * UNIT, max_position=3 * UNIT)
    states.pipe(risk(limits, held)).subscribe(seen.append, scheduler=clock)
    held.push(Inventory(position=2 * UNIT))
    states.push(state(200))
    states.push(refused)
    held.push(Inventory(position=3 * UNIT))

    assert seen[:2] == [state(200), refused]
    assert seen[2][1] == Refusal(
        5, 0, "risk", "notional beyond the limit", value=600.0, limit=400.0
    )


def test_of_several_limits_the_position_is_told_first() -> None:
    rig = Rig(max_position=1, max_orders=1, max_notional=1, max_loss=1).state()
    rig.hold(position=2, working=2)

    assert rig.out[-1][1][0] == "position beyond the limit"


# ---------------------------------------------------------------- rejects


def test_rejects_are_counted_by_the_minute() -> None:
    rig = Rig(max_rejects=2, cooldown_ns=SECOND).state()
    rig.at(1).hold(rejects=1).at(30).hold(rejects=2).at(60).hold(rejects=3)

    assert rig.out == [(0, "ok"), (60, ("reject storm", 3.0, 2.0))]


def test_a_reject_counts_for_sixty_seconds_to_the_ns() -> None:
    def third_after(ns: int) -> Any:
        rig = Rig(max_rejects=2).state().hold(rejects=1).hold(rejects=2)
        rig.clock.advance(ns)
        return rig.hold(rejects=3).out[1:]

    assert len(third_after(REJECT_WINDOW_NS - 1)) == 1
    assert third_after(REJECT_WINDOW_NS) == []
    assert REJECT_WINDOW_NS == 60 * SECOND


def test_several_rejects_at_once_all_count() -> None:
    rig = Rig(max_rejects=2).state().at(1).hold(rejects=3)

    assert rig.out[1:] == [(1, ("reject storm", 3.0, 2.0))]


def test_changes_without_a_reject_do_not_count_as_one() -> None:
    rig = Rig(max_rejects=1).state().hold(rejects=1)
    rig.hold(working=1).hold(working=2).hold(position=3).state()

    assert rig.out == [(0, "ok"), (0, "ok")]


def test_a_storm_before_the_first_state_holds_for_it() -> None:
    rig = Rig(max_rejects=1).hold(rejects=2).at(1).state()

    assert rig.out == [(1, ("reject storm", 2.0, 1.0))]


# ---------------------------------------------------------------- how long


def test_it_lasts_for_the_cooldown_though_the_limit_is_not_passed_any_more() -> None:
    rig = Rig(max_orders=3, cooldown_ns=10 * SECOND).state()
    rig.at(1).hold(working=4).at(2).hold(working=0)
    rig.at(3).state()
    rig.clock.advance(11 * SECOND - 1)
    rig.state()
    why = ("too many orders", 4.0, 3.0)
    assert [text for _, text in rig.out] == ["ok", why, why, why]

    # The timer brings the latest state back, though nothing arrives.
    rig.at(20)

    assert rig.out[4:] == [(11, "ok")]


def test_it_lasts_for_as_long_as_the_limit_is_passed() -> None:
    # Judged at the end of each cooldown, with the values of then.
    rig = Rig(max_orders=3, cooldown_ns=10 * SECOND).state().at(1).hold(working=4)
    rig.at(5).hold(working=6).at(6).state().at(25).hold(working=2).at(40)

    assert rig.out[1:] == [
        (1, ("too many orders", 4.0, 3.0)),
        (6, ("too many orders", 4.0, 3.0)),  # a state between neither judges nor prolongs
        (11, ("too many orders", 6.0, 3.0)),
        (21, ("too many orders", 6.0, 3.0)),
        (31, "ok"),
    ]


def test_the_same_limit_can_trip_again() -> None:
    rig = Rig(max_orders=3, cooldown_ns=SECOND).state()
    rig.at(1).hold(working=4).hold(working=0).at(2).at(5).hold(working=5)

    assert [ns for ns, _ in rig.out] == [0, 1, 2, 5]


def test_a_change_of_orders_while_it_is_tripped_says_nothing() -> None:
    rig = Rig(max_orders=3).state().hold(working=4).hold(working=5).hold(working=0)

    assert len(rig.out) == 2


def test_before_the_first_state_a_change_says_nothing() -> None:
    rig = Rig(max_orders=3).hold(working=4).at(5)
    assert rig.out == []

    rig.state()

    assert rig.out == [(5, ("too many orders", 4.0, 3.0))]


def test_a_loss_without_a_schedule_lasts_until_the_end() -> None:
    rig = Rig(max_loss=9 * UNIT, cooldown_ns=SECOND).state(200)
    rig.hold(position=UNIT, cash=-200 * UNIT * UNIT).at(1).state(190).at(10**6).state(300)

    why = ("loss beyond the limit", 10.0, 9.0)
    assert rig.out == [(0, "ok"), (1, why), (10**6, why)]
    assert rig.clock.next_due_ns == NEVER


# ---------------------------------------------------------------- sessions

DAYS = Schedule([(100 * SECOND, 200 * SECOND), (300 * SECOND, 400 * SECOND)])


def test_a_loss_is_lifted_at_the_next_open_where_the_count_starts_anew() -> None:
    rig = Rig(max_loss=9 * UNIT, cooldown_ns=SECOND, schedule=DAYS).at(110).state(200)
    rig.hold(position=UNIT, cash=-200 * UNIT * UNIT)
    rig.at(120).state(190)  # -10
    rig.at(250).state(250)  # better now, but the day's loss stays
    why = ("loss beyond the limit", 10.0, 9.0)
    assert rig.out == [(110, "ok"), (120, why), (250, why)]

    # At 300 it opens with the mark of then, 250: a loss of 9 is allowed from there.
    rig.at(300)
    assert rig.out[3:] == [(300, "ok")]
    rig.at(310).state(241).at(320).state(240)

    assert rig.out[4:] == [(310, "ok"), (320, why)]


def test_a_loss_counts_from_the_open_and_not_from_the_start() -> None:
    rig = Rig(max_loss=9 * UNIT, schedule=DAYS).state(200)
    rig.hold(position=UNIT, cash=-200 * UNIT * UNIT)
    rig.at(50).state(195)
    # The open's first state is at 192: -8 until then, and the 9 count from there.
    rig.at(100).state(192).at(110).state(183).at(120).state(182)

    assert rig.out == [
        (0, "ok"), (50, "ok"), (100, "ok"), (110, "ok"),
        (120, ("loss beyond the limit", 10.0, 9.0)),
    ]  # fmt: skip


def test_a_close_does_not_start_the_count_anew() -> None:
    rig = Rig(max_loss=9 * UNIT, schedule=DAYS).at(110).state(200)
    rig.hold(position=UNIT, cash=-200 * UNIT * UNIT)
    rig.at(199).state(195).at(210).state(191).at(220).state(190)

    assert [text for _, text in rig.out] == ["ok"] * 3 + [("loss beyond the limit", 10.0, 9.0)]


def test_a_loss_in_the_last_session_lasts_until_the_end() -> None:
    rig = Rig(max_loss=9 * UNIT, cooldown_ns=SECOND, schedule=DAYS).at(310).state(200)
    rig.hold(position=UNIT, cash=-200 * UNIT * UNIT).at(320).state(190).at(10**6).state(300)

    assert rig.out[-1] == (10**6, ("loss beyond the limit", 10.0, 9.0))


def test_a_loss_near_the_open_lasts_for_the_cooldown_at_least() -> None:
    rig = Rig(max_loss=9 * UNIT, cooldown_ns=20 * SECOND, schedule=DAYS).at(110).state(200)
    rig.hold(position=UNIT, cash=-200 * UNIT * UNIT).at(290).state(190).at(305).state(190)
    rig.at(400)

    why = ("loss beyond the limit", 10.0, 9.0)
    # The count starts anew with the first state after the open, of 305.
    assert rig.out[1:] == [(290, why), (305, why), (310, "ok")]


def test_other_limits_do_not_wait_for_the_open() -> None:
    rig = Rig(max_orders=3, max_loss=9 * UNIT, cooldown_ns=SECOND, schedule=DAYS).at(110).state()
    rig.hold(working=4).hold(working=0).at(120)

    assert rig.out[2:] == [(111, "ok")]


# ---------------------------------------------------------------- order, shape, ends


def test_a_refusal_that_a_fill_causes_comes_after_downstream_knows_the_fill() -> None:
    clock = Clock()
    states: Hot[State] = Hot()
    orders: Hot[OrderUpdate] = Hot()
    ours = orders.pipe(inventory())
    told: list[str] = []

    def downstream(source: Any) -> Any:
        def subscribe(observer: Any, scheduler: Any = None) -> Any:
            ours.subscribe(lambda held: told.append(f"holds {held.position}"), scheduler=scheduler)
            return source.subscribe(
                lambda given: told.append(
                    "refused" if isinstance(given[1], Refusal) else "ok"
                ),
                scheduler=scheduler,
            )  # fmt: skip

        return subscribe

    downstream(states.pipe(risk(RiskLimits(max_position=5), ours)))(None, clock)
    states.push(state())
    orders.push(OrderUpdate(ts=0, n=1, side=BUY, state="filled", leaves=0, filled=6, fill_px=UNIT))

    assert told == ["holds 0", "ok", "holds 6", "refused"]


def test_it_folds_with_the_inventory_of_our_orders() -> None:
    clock = Clock()
    states: Hot[State] = Hot()
    orders: Hot[OrderUpdate] = Hot()
    seen: list[State] = []
    limits = RiskLimits(max_loss=9 * UNIT)
    states.pipe(risk(limits, orders.pipe(inventory()))).subscribe(seen.append, scheduler=clock)
    states.push(state(200))
    # Sold 1 at 191 with a fee of 0.5, the market at 200: 191 - 200 - 0.5 = -9.5.
    orders.push(
        OrderUpdate(
            ts=0, n=1, side=SELL, state="filled", leaves=0, filled=UNIT, fill_px=191 * UNIT,
            fee=UNIT // 2,
        )
    )  # fmt: skip

    refusal = seen[-1][1]
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.value) == ("loss beyond the limit", 9.5)


def test_the_latest_state_keeps_its_signal_beside_the_refusal() -> None:
    rig = Rig(max_orders=0)
    seen: list[State] = []
    rig.states.pipe(risk(RiskLimits(max_orders=0), rig.held)).subscribe(
        seen.append, scheduler=rig.clock
    )
    rig.state().hold(working=1)

    assert [given[0] for given in seen] == [state()[0]] * 2


def test_completion_and_errors_of_both_sources_travel() -> None:
    rig = Rig()
    rig.states.on_completed()
    assert rig.out == [(0, "|")]
    for failing in ("states", "held"):
        rig = Rig()
        for observer in getattr(rig, failing)._observers:
            observer.on_error(ValueError(f"{failing} broke"))
        assert rig.out == [(0, f"{failing} broke")]


@pytest.mark.parametrize("scheduler", [None, ImmediateScheduler()])
def test_without_the_graphs_clock_it_fails_on_subscription(scheduler: Any) -> None:
    states: Hot[State] = Hot()
    held: Hot[Inventory] = Hot()

    with pytest.raises(RuntimeError, match=r"risk must be subscribed with the graph's clock"):
        states.pipe(risk(RiskLimits(), held)).subscribe(scheduler=scheduler)
    assert subscribers(states, held) == 0


def test_disposing_unsubscribes_from_both_and_cancels_the_timer() -> None:
    rig = Rig(max_orders=3).state().hold(working=4)
    assert subscribers(rig.states, rig.held) == 2

    rig.subscription.dispose()
    rig.at(100)

    assert subscribers(rig.states, rig.held) == 0
    assert [handle.is_disposed for handle in rig.clock.handles] == [True]
    assert len(rig.out) == 2


def test_states_cost_no_timers() -> None:
    rig = Rig(max_orders=3, max_loss=UNIT, schedule=DAYS)
    for _ in range(100):
        rig.state()

    assert rig.clock.handles == []


def test_two_subscriptions_do_not_share_a_trip() -> None:
    clock = Clock()
    states: Hot[State] = Hot()
    held: Hot[Inventory] = Hot()
    guarded = states.pipe(risk(RiskLimits(max_rejects=0), held))
    early: list[Any] = []
    late: list[Any] = []
    guarded.subscribe(early.append, scheduler=clock)
    held.push(Inventory(rejects=1))
    guarded.subscribe(late.append, scheduler=clock)
    states.push(state())

    assert type(early[0][1]) is Refusal
    assert late == [state()]


# ---------------------------------------------------------------- the formulas


def test_the_value_of_a_position_has_no_sign_and_is_rounded_down() -> None:
    assert notional(2 * UNIT, 200 * UNIT) == notional(-2 * UNIT, 200 * UNIT) == 400 * UNIT
    assert notional(1, 1_999_999_999) == 1
    assert notional(-1, 1_999_999_999) == 1
    assert notional(0, 200 * UNIT) == 0
    for position, mark in ((12_345_678_901, 207_356_500_001), (999_999_999, 999_999_999)):
        assert notional(position, mark) == position * mark // UNIT


def test_the_profit_is_cash_and_the_position_at_the_mark_less_fees() -> None:
    # -400 + 2 * 195 - 1 = -11
    assert marked_pnl(-400 * UNIT * UNIT, UNIT, 2 * UNIT, 195 * UNIT) == -11 * UNIT
    assert marked_pnl(-1, 0, 0, 0) == -1, "rounded down"
