"""ladder(): prices on the tick with the arithmetic beside them, and the sides that go."""

from typing import Any

import pytest
from reactivex import Observable
from reactivex import operators as ops

from operators.ladder import ask_price, bid_price, half_spread, ladder, position_limit
from operators.operator import Operator
from streams.events import Anchor, Decision, Inventory, Residual, Skewed
from streams.instrument import may_buy, may_sell
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

UNIT = 1_000_000_000
TICK = 1_000_000
"""0.001, three decimals."""


def state(
    anchor: float = 200.0,
    shift: float = 0.0,
    *,
    position: int = 0,
    buys: int = 0,
    sells: int = 0,
    signal_seq: int = 3,
    book: tuple[int, int] = (1, 2**40),
    widening: float = 1.0,
) -> Skewed:
    return Skewed(
        Residual(signal_seq, 30, 80.0, 64.0, 0.25),
        Anchor(4, 40, anchor, anchor, *book, widening),
        Inventory(position, buys, sells, 2),
        shift,
        0.0,
        shift,
    )


def pricing(
    bps: float = 5.0, *, count_working: bool = False, **more: Any
) -> Operator[Skewed, Decision]:
    return ladder(
        scale=1000.0,
        tick_size=TICK,
        half_spread_bps=bps,
        trade_size=10,
        max_position=100,
        count_working=count_working,
        **more,
    )


def decide(
    given: Skewed, bps: float = 5.0, *, count_working: bool = False, **more: Any
) -> Decision:
    [record] = play("-a", {"a": given}, pricing(bps, count_working=count_working, **more))
    decision = getattr(record.value, "value", None)
    assert isinstance(decision, Decision)
    return decision


def prices(decision: Decision) -> tuple[int | None, int | None]:
    return decision.bid_px, decision.ask_px


def test_a_decision_carries_every_value_on_the_way_to_its_prices() -> None:
    expected = Decision(
        seq=4, ts=40, action="quote",
        signal_seq=3, signal_ts=30, signal_mid=80.0, baseline=64.0, residual=0.25,
        target_seq=4, target_ts=40, target_mid=200.0, target_bid_px=3, target_ask_px=5,
        anchor=200.0, position=7,
        signal_shift=0.25, inventory_shift=0.0, shift=0.25, half_spread=0.1,
        bid=200.15, ask=200.35,  # 200 - 0.1 + 0.25; 200 + 0.1 + 0.25
        bid_px=200_150 * TICK, ask_px=200_350 * TICK, bid_levels=1, ask_levels=1, qty=10,
    )  # fmt: skip

    actual = play("-a-|", {"a": state(shift=0.25, position=7, book=(3, 5))}, pricing())

    assert actual == expect("-x-|", {"x": expected})


def test_a_decision_has_the_seq_and_ts_of_the_later_of_its_inputs() -> None:
    later_signal = state(signal_seq=9)

    assert (decide(state()).seq, decide(state()).ts) == (4, 40)
    assert (decide(later_signal).seq, decide(later_signal).ts) == (9, 40)


def test_before_the_first_signal_its_columns_are_empty_and_the_residual_stays() -> None:
    decision = decide(state(signal_seq=0))

    assert decision.signal_seq is decision.signal_ts is decision.signal_mid is None
    assert decision.baseline is None
    assert decision.residual == 0.25


@pytest.mark.parametrize(
    ("anchor", "bps", "shift", "bid", "ask"),
    [
        # Exactly on the tick, both stay: 200 -+ 0.1.
        (200.0, 5.0, 0.0, 199_900, 200_100),
        # 200 * 0.00051 = 0.102; off by 0.0004 both ways.
        (200.0, 5.1, 0.0004, 199_898, 200_103),
        (200.0, 5.1, -0.0004, 199_897, 200_102),
        # Half a tick of shift: 199.9005 -> 199.900, 200.1005 -> 200.101.
        (200.0, 5.0, 0.0005, 199_900, 200_101),
        # 206.682 / 0.001 falls short of 206682 in doubles; the tick stays a tick.
        (206.682, 0.0, 0.0, None, None),
        # 206.683 * 0.00009 = 0.01860147: 206.66439853 and 206.70160147.
        (206.683, 0.9, 0.0, 206_664, 206_702),
        # No spread, but the centre is off the tick: one tick apart.
        (200.0, 0.0, 0.0004, 200_000, 200_001),
        (200.0, 0.0, -0.0004, 199_999, 200_000),
    ],
)
def test_bids_round_down_and_asks_round_up(
    anchor: float, bps: float, shift: float, bid: int | None, ask: int | None
) -> None:
    expected = tuple(None if ticks is None else ticks * TICK for ticks in (bid, ask))

    assert prices(decide(state(anchor, shift), bps)) == expected


def test_the_formulas_are_these() -> None:
    assert half_spread(200.0, 5.0) == 200 * 5 / 10_000 == 0.1
    assert bid_price(200.0, 0.5, 0.25) == 200 - 0.5 + 0.25
    assert ask_price(200.0, 0.5, 0.25) == 200 + 0.5 + 0.25
    assert bid_price(200.0, 0.5, -0.25) == 199.25
    assert ask_price(200.0, 0.5, -0.25) == 200.25


def test_both_sides_go_when_they_meet_or_cross_after_rounding() -> None:
    values = {
        "a": state(200.0),  # half 0: bid = ask = 200
        "b": state(200.0, 0.0004),  # a tick apart again
        "c": state(200.0, 1.0),
    }
    met = decide(values["a"], 0.0)
    assert met.action == "withdraw"
    assert met.reason == "crossed after rounding"
    assert prices(met) == (None, None)
    assert (met.bid, met.ask, met.bid_note, met.ask_note) == (200.0, 200.0, None, None)

    out = {"x": ("withdraw", "crossed after rounding"), "y": ("quote", "")}

    def summary(decision: Decision) -> tuple[str, str]:
        return decision.action, decision.reason

    def told(source: Observable[Skewed]) -> Observable[tuple[str, str]]:
        return source.pipe(pricing(0.0), ops.map(summary))

    assert play("-a-b-c-|", values, told) == expect("-x-y-x-|", out)


def test_a_negative_half_spread_crosses_and_is_not_quoted() -> None:
    decision = decide(state(), -5.0)

    assert (decision.action, decision.reason) == ("withdraw", "crossed after rounding")


@pytest.mark.parametrize(
    ("position", "bid_note", "ask_note"),
    [
        (90, None, None),  # 90 + 10 = 100, on the limit
        (91, "position limit", None),
        (100, "position limit", None),
        (-90, None, None),
        (-91, None, "position limit"),
        (-100, None, "position limit"),
    ],
)
def test_a_side_goes_when_one_more_order_could_pass_the_limit(
    position: int, bid_note: str | None, ask_note: str | None
) -> None:
    decision = decide(state(position=position))

    assert decision.action == "quote"
    assert (decision.bid_note, decision.ask_note) == (bid_note, ask_note)
    assert prices(decision) == (
        None if bid_note else 199_900 * TICK, None if ask_note else 200_100 * TICK,
    )  # fmt: skip
    assert decision.reason == ""


@pytest.mark.parametrize(
    ("position", "buys", "sells", "bid_note", "ask_note"),
    [
        (0, 90, 90, None, None),
        (0, 91, 90, "position limit", None),
        (0, 90, 91, None, "position limit"),
        (50, 40, 150 - 10, None, None),  # 50 - 140 - 10 = -100
        (50, 41, 0, "position limit", None),
        (50, 0, 141, None, "position limit"),
        (-50, 141, 0, "position limit", None),
        (-50, 0, 41, None, "position limit"),
    ],
)
def test_what_works_counts_only_when_asked_to(
    position: int, buys: int, sells: int, bid_note: str | None, ask_note: str | None
) -> None:
    given = state(position=position, buys=buys, sells=sells)

    counted, not_counted = decide(given, count_working=True), decide(given)

    assert (counted.bid_note, counted.ask_note) == (bid_note, ask_note)
    assert (not_counted.bid_note, not_counted.ask_note) == (None, None)


def test_when_both_sides_reach_the_limit_the_decision_withdraws_and_says_so() -> None:
    decision = decide(state(buys=100, sells=100), count_working=True)

    assert (decision.action, decision.reason) == ("withdraw", "position limit")
    assert (decision.bid_note, decision.ask_note) == ("position limit", "position limit")
    assert prices(decision) == (None, None)


def test_a_side_without_a_positive_price_goes() -> None:
    # 0.05 -+ 0.000025 - 0.05: the bid rounds to -1 tick, the ask to +1.
    low = decide(state(0.05, -0.05))
    assert prices(low) == (None, TICK)
    assert (low.action, low.bid_note, low.ask_note) == ("quote", "no positive price", None)

    # 0.125 -+ 0.0625 - 0.0625: a bid of exactly 0 is no price either.
    zero = decide(state(0.125, -0.0625), 5_000.0)
    assert (zero.bid, prices(zero)) == (0.0, (None, 125 * TICK))
    none = decide(state(0.125, -0.1875), 5_000.0)
    assert (none.ask, prices(none)) == (0.0, (None, None))

    lower = decide(state(0.05, -1.0))
    assert prices(lower) == (None, None)
    assert (lower.action, lower.reason) == ("withdraw", "no positive price")
    assert (lower.bid_note, lower.ask_note) == ("no positive price", "no positive price")


def test_a_side_that_goes_has_no_levels() -> None:
    def levels(decision: Decision) -> tuple[int, int, int]:
        return decision.bid_levels, decision.ask_levels, decision.level_step

    assert levels(decide(state())) == (1, 1, 0)
    assert levels(decide(state(position=91))) == (0, 1, 0)
    assert levels(decide(state(position=-91))) == (1, 0, 0)
    assert levels(decide(state(), 0.0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("widening", "half", "bid", "ask"),
    [
        # 200 * 0.0005 = 0.1, times the factor; 0.25 of shift is not widened.
        (1.0, 0.1, 200_150, 200_350),
        (1.5, 0.15, 200_100, 200_400),
        (4.0, 0.4, 199_850, 200_650),
    ],
)
def test_widening_multiplies_the_half_spread_and_nothing_else(
    widening: float, half: float, bid: int, ask: int
) -> None:
    decision = decide(state(shift=0.25, widening=widening))

    assert decision.half_spread == pytest.approx(half, rel=1e-15)
    assert (decision.shift, decision.anchor) == (0.25, 200.0)
    assert prices(decision) == (bid * TICK, ask * TICK)


@pytest.mark.parametrize(
    ("position", "max_notional", "bid_note", "ask_note"),
    [
        # The ask is 200.1: of 4002e-9 of money 20e-9 may be held, 10 are held and 10 more wanted.
        (10, 4_002, None, None),
        (10, 4_001, "notional limit", None),  # 19.995, rounded down
        (-10, 4_001, None, "notional limit"),
        (11, 4_002, "notional limit", None),
        # 20010 of money hold 100, the limit of the position: both are reached at once.
        (91, 20_010, "position limit", None),
        (91, 20_009, "notional limit", None),
        (91, None, "position limit", None),
        (-91, 10**9, None, "position limit"),
    ],
)
def test_a_side_goes_when_one_more_order_could_pass_the_notional_limit_at_the_targets_ask(
    position: int, max_notional: int | None, bid_note: str | None, ask_note: str | None
) -> None:
    given = state(position=position, book=(199_900 * TICK, 200_100 * TICK))

    decision = decide(given, max_notional=max_notional)

    assert (decision.bid_note, decision.ask_note) == (bid_note, ask_note)
    assert prices(decision) == (
        None if bid_note else 199_900 * TICK, None if ask_note else 200_100 * TICK,
    )  # fmt: skip


def test_a_notional_limit_below_one_order_withdraws_and_says_so() -> None:
    decision = decide(state(book=(199 * UNIT, 200 * UNIT)), max_notional=1_999)

    assert (decision.action, decision.reason) == ("withdraw", "notional limit")


def test_a_notional_limit_counts_what_works_when_asked_to() -> None:
    given = state(buys=10, book=(199 * UNIT, 200 * UNIT))

    assert decide(given, count_working=True, max_notional=3_999).bid_note == "notional limit"
    assert decide(given, count_working=True, max_notional=4_000).bid_note is None
    assert decide(given, max_notional=3_999).bid_note is None


def test_how_much_may_be_held_is_the_smaller_of_both_limits() -> None:
    assert position_limit(100, None, 200 * UNIT) == 100
    assert position_limit(100, 4_000, 200 * UNIT) == 20
    assert position_limit(100, 4_199, 200 * UNIT) == 20
    assert position_limit(15, 4_000, 200 * UNIT) == 15
    assert position_limit(100, 0, 200 * UNIT) == 0
    assert position_limit(100, 4_000, 0) == 100, "without a price only the position counts"


@pytest.mark.parametrize(
    ("shift", "best_bid", "best_ask", "bid", "ask"),
    [
        # 6.25 bps of 200 are 0.125: without the book 199.875 and 200.125, plus the shift.
        (0.0, 199_750, 200_250, 199_875, 200_125),
        (0.25, 199_750, 200_126, 200_125, 200_375),  # one tick inside already
        (0.25, 199_750, 200_125, 200_124, 200_375),  # the bid would be on the ask
        (3.0, 199_750, 200_125, 200_124, 203_125),  # and here far through it
        (-0.25, 199_874, 200_250, 199_625, 199_875),
        (-0.25, 199_875, 200_250, 199_625, 199_876),
        (-3.0, 199_875, 200_250, 196_875, 199_876),
    ],
)
def test_who_stays_passive_stands_one_tick_inside_the_opposite_best(
    shift: float, best_bid: int, best_ask: int, bid: int, ask: int
) -> None:
    given = state(shift=shift, book=(best_bid * TICK, best_ask * TICK))

    passive, plain = decide(given, 6.25, stay_passive=True), decide(given, 6.25)

    assert prices(passive) == (bid * TICK, ask * TICK)
    assert (passive.bid, passive.ask) == (199.875 + shift, 200.125 + shift)
    assert prices(plain) == (
        round(199_875 + shift * 1_000) * TICK, round(200_125 + shift * 1_000) * TICK,
    )  # fmt: skip


def test_in_a_locked_book_who_stays_passive_stands_a_tick_from_it_on_both_sides() -> None:
    book = (200_000 * TICK, 200_000 * TICK)

    assert prices(decide(state(shift=0.5, book=book), stay_passive=True))[0] == 199_999 * TICK
    assert prices(decide(state(shift=-0.5, book=book), stay_passive=True))[1] == 200_001 * TICK


def test_who_stays_passive_below_the_first_tick_has_no_bid() -> None:
    decision = decide(state(shift=0.5, book=(0, TICK)), stay_passive=True)

    assert (decision.bid_px, decision.bid_note) == (None, "no positive price")


def test_the_limit_holds_with_equality() -> None:
    assert may_buy(90, 10, 100)
    assert not may_buy(91, 10, 100)
    assert may_buy(-200, 10, 100)
    assert may_sell(-90, 10, 100)
    assert not may_sell(-91, 10, 100)
    assert may_sell(200, 10, 100)


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("--#", {}, pricing(), error) == expect("--#", {}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Any] = Hot()
    subscription = source.pipe(pricing()).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
