"""tick_ladder(): several levels a side in ticks, with the arithmetic beside them.

The strategy's tick is 25 steps of the venue's 0.001; prices below are in venue steps.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.tick_ladder import (
    edge,
    half_spread_px,
    levels_in_reach,
    levels_in_room,
    levels_too_near,
    skew_ticks,
    tick_ladder,
)
from streams.events import BUY, SELL, Anchor, Decision, Inventory, Residual, Skewed
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

STEP = 1_000_000
"""The venue's tick: 0.001."""
TICK = 25 * STEP
UNIT = 1_000_000_000

DEFAULTS: dict[str, Any] = {
    "scale": 1_000.0, "tick_size": STEP, "tick": TICK, "base_spread_ticks": 2,
    "inventory_skew_factor": 0.5, "max_inventory": 50 * UNIT, "max_position": 50 * UNIT,
    "order_size": 5 * UNIT, "num_levels": 3, "min_edge_ticks": 1, "cancel_distance_ticks": 10,
}  # fmt: skip


def state(
    anchor: int = 200_000,
    *,
    position: int = 0,
    bid: int | None = None,
    ask: int | None = None,
    signal_shift: float = 0.0,
    widening: float = 1.0,
) -> Skewed:
    """A centre in venue steps; the book is half a strategy tick around it when not given."""
    return Skewed(
        Residual(3, 30, 80.0, 64.0, 0.25),
        Anchor(
            4, 40, anchor / 1_000, anchor / 1_000,
            (anchor - 12 if bid is None else bid) * STEP,
            (anchor + 12 if ask is None else ask) * STEP,
            widening,
        ),
        Inventory(position * UNIT, 7, 8, 2),
        signal_shift, 0.0, signal_shift,
    )  # fmt: skip


def decide(given: Skewed, **changes: Any) -> Decision:
    [record] = play("-a", {"a": given}, tick_ladder(**(DEFAULTS | changes)))
    decision = getattr(record.value, "value", None)
    assert isinstance(decision, Decision)
    return decision


def bids(decision: Decision) -> list[int]:
    """Wanted bids in venue steps, the best first."""
    if decision.bid_px is None:
        assert decision.bid_levels == 0
        return []
    return [(decision.bid_px - i * decision.level_step) // STEP for i in range(decision.bid_levels)]


def asks(decision: Decision) -> list[int]:
    if decision.ask_px is None:
        assert decision.ask_levels == 0
        return []
    return [(decision.ask_px + i * decision.level_step) // STEP for i in range(decision.ask_levels)]


# ---------------------------------------------------------------- prices


def test_a_decision_carries_every_value_on_the_way_to_its_prices() -> None:
    expected = Decision(
        seq=4, ts=40, action="quote",
        signal_seq=3, signal_ts=30, signal_mid=80.0, baseline=64.0, residual=0.25,
        target_seq=4, target_ts=40, target_mid=200.0, target_bid_px=199_988 * STEP,
        target_ask_px=200_012 * STEP, anchor=200.0, position=0,
        signal_shift=0.0, inventory_shift=0.0, shift=0.0, half_spread=0.025,
        bid=199.975, ask=200.025, bid_px=199_975 * STEP, ask_px=200_025 * STEP,
        bid_levels=3, ask_levels=3, level_step=TICK, qty=5 * UNIT,
    )  # fmt: skip

    assert play("-a-|", {"a": state()}, tick_ladder(**DEFAULTS)) == expect("-a-|", {"a": expected})


@pytest.mark.parametrize(
    ("position", "factor", "best_bid", "best_ask"),
    [
        # half = 2 * 25 // 2 = 25 steps.
        (0, 0.5, 199_975, 200_025),
        # trunc(25/50 * 0.5 * 2) = trunc(0.5) = 0: half full is not enough at the default factor.
        (25, 0.5, 199_975, 200_025),
        (-25, 0.5, 199_975, 200_025),
        (45, 0.5, 199_975, 200_025),
        # At a factor of 2: trunc(25/50 * 2 * 2) = 2 ticks down, 50 steps.
        (25, 2.0, 199_925, 199_975),
        # Short: both sides up by as much.
        (-25, 2.0, 200_025, 200_075),
        # trunc(20/50 * 2 * 2) = trunc(1.6) = 1, towards zero on both sides.
        (20, 2.0, 199_950, 200_000),
        (-20, 2.0, 200_000, 200_050),
        (40, 0.0, 199_975, 200_025),
    ],
)
def test_both_sides_go_down_when_long_and_up_when_short(
    position: int, factor: float, best_bid: int, best_ask: int
) -> None:
    # Without an edge to keep and with a book that nothing meets.
    wide = state(position=position, bid=199_900, ask=200_100)

    decision = decide(
        wide, inventory_skew_factor=factor, min_edge_ticks=-100, num_levels=1
    )  # fmt: skip

    assert (bids(decision), asks(decision)) == ([best_bid], [best_ask])


def test_the_defaults_when_flat_are_three_levels_a_side_one_tick_apart() -> None:
    decision = decide(state())

    assert bids(decision) == [199_975, 199_950, 199_925]
    assert asks(decision) == [200_025, 200_050, 200_075]
    assert (decision.bid_note, decision.ask_note, decision.qty) == (None, None, 5 * UNIT)


def test_at_the_maximum_only_the_side_that_reduces_is_quoted_one_tick_nearer() -> None:
    # trunc(1 * 0.5 * 2) = 1 tick: bids from 199,950, asks from 200,000. The ask at 200,000 has no
    # edge of a tick against 200,000 and goes; the next at 200,025 stays.
    long = decide(state(position=50))
    assert (bids(long), asks(long)) == ([], [200_025, 200_050])
    assert (long.action, long.bid_note, long.ask_note) == ("quote", "position limit", "edge")

    short = decide(state(position=-50))
    assert (bids(short), asks(short)) == ([199_975, 199_950], [])
    assert (short.action, short.bid_note, short.ask_note) == ("quote", "edge", "position limit")


@pytest.mark.parametrize("beyond", [51, 80, 500])
def test_beyond_the_maximum_the_skew_goes_no_further(beyond: int) -> None:
    assert asks(decide(state(position=beyond))) == asks(decide(state(position=50)))
    assert bids(decide(state(position=-beyond))) == bids(decide(state(position=-50)))
    assert bids(decide(state(position=beyond))) == []
    assert asks(decide(state(position=-beyond))) == []


def test_the_signal_shifts_the_centre_and_each_side_is_rounded_away_from_it() -> None:
    # 200 + 0.0304: the bid's centre is 200.030, the ask's 200.031. With the book at 200,040 to
    # 200,060 and no edge asked for, half is 25 steps.
    given = state(bid=200_020, ask=200_060, signal_shift=0.0304)
    decision = decide(given, min_edge_ticks=-100, num_levels=2)

    assert (bids(decision), asks(decision)) == ([200_005, 199_980], [200_056, 200_081])
    down = decide(
        state(bid=199_940, ask=199_980, signal_shift=-0.0304), min_edge_ticks=-100, num_levels=1
    )
    # 199.9696: 199.969 and 199.970.
    assert (bids(down), asks(down)) == ([199_944], [199_995])


def test_the_edge_is_against_the_centre_without_the_signals_shift() -> None:
    # Up by 30 steps: bids from 200,005; those above 199,975 lack a tick of edge against 200,000.
    decision = decide(state(bid=200_020, ask=200_060, signal_shift=0.030))

    # 200,005, 199,980 go; 199,955 is 45 below.
    assert (bids(decision), decision.bid_note) == ([199_955], "edge")
    assert asks(decision) == [200_055, 200_080, 200_105]


def test_widening_multiplies_the_half_spread_in_whole_venue_steps() -> None:
    # 25 * 1.5 = 37.5 steps, down to 37.
    decision = decide(state(widening=1.5))
    assert (bids(decision)[0], asks(decision)[0], decision.half_spread) == (
        199_963, 200_037, 0.037,
    )  # fmt: skip
    assert bids(decide(state(widening=3.0)))[0] == 199_925


def test_half_of_an_odd_spread_stays_on_the_venues_tick() -> None:
    # 1 * 25 // 2 = 12 steps, not 12.5.
    decision = decide(state(bid=199_900, ask=200_100), base_spread_ticks=1, min_edge_ticks=0)

    assert (decision.bid_px, decision.ask_px) == (199_988 * STEP, 200_012 * STEP)
    assert decision.half_spread == 0.012


# ---------------------------------------------------------------- what cuts levels


def test_levels_without_the_edge_go_and_the_others_stand_where_they_stood() -> None:
    # Edge of 2 ticks: 199,975 is one below 200,000, 199,950 two.
    decision = decide(state(), min_edge_ticks=2)

    assert (bids(decision), asks(decision)) == ([199_950, 199_925], [200_050, 200_075])
    assert (decision.bid_note, decision.ask_note) == ("edge", "edge")


def test_fees_take_from_the_edge() -> None:
    # 100 ppm of about 200 is 20 steps: 25 - 19.9975 is below a tick of 25, 50 - 19.995 above.
    decision = decide(state(), maker_fee_ppm=100)

    assert (bids(decision), asks(decision)) == ([199_950, 199_925], [200_050, 200_075])


def test_when_no_level_has_the_edge_nothing_is_quoted_and_it_says_so() -> None:
    decision = decide(state(), min_edge_ticks=4)

    assert (decision.action, decision.reason) == ("withdraw", "edge")
    assert (bids(decision), asks(decision)) == ([], [])


def test_a_level_that_would_meet_the_opposite_best_goes() -> None:
    # Asks at 199,975 in the book: a bid there would trade.
    met = decide(state(bid=199_900, ask=199_975))
    assert (bids(met), met.bid_note) == ([199_950, 199_925], "edge")
    # One step above is no meeting.
    near = decide(state(bid=199_900, ask=199_976))
    assert (bids(near), near.bid_note) == ([199_975, 199_950, 199_925], None)

    met = decide(state(bid=200_025, ask=200_100))
    assert asks(met) == [200_050, 200_075]
    assert asks(decide(state(bid=200_024, ask=200_100))) == [200_025, 200_050, 200_075]


def test_levels_beyond_the_cancel_distance_go() -> None:
    # 10 ticks are 250 steps; with the best bid at 200,200 levels down to 199,950 are within.
    decision = decide(state(bid=200_200, ask=200_300))

    assert (bids(decision), decision.bid_note) == ([199_975, 199_950], "cancel distance")
    assert bids(decide(state(bid=200_201, ask=200_300))) == [199_975]
    # An ask may be any way inside the book.
    assert asks(decide(state(bid=199_000, ask=200_700))) == [200_025, 200_050, 200_075]


def test_when_everything_is_out_of_reach_it_says_so() -> None:
    # 325 steps below the best bid, and asks that would meet it.
    decision = decide(state(bid=200_300, ask=200_400))

    assert (decision.action, decision.reason) == ("withdraw", "cancel distance")
    assert (decision.bid_note, decision.ask_note) == ("cancel distance", "edge")
    assert (bids(decision), asks(decision)) == ([], [])


@pytest.mark.parametrize(
    ("position", "levels_bid", "levels_ask"),
    [
        (35, 3, 3),  # 35 + 15 = 50
        (36, 2, 3),  # 36 + 10, 15 would be 51
        (40, 2, 3),
        (41, 1, 3),
        (45, 1, 3),
        (46, 0, 3),
        (-36, 3, 2),
        (-46, 3, 0),
    ],
)
def test_the_outer_levels_go_that_could_pass_the_limit_if_all_filled(
    position: int, levels_bid: int, levels_ask: int
) -> None:
    decision = decide(state(position=position), inventory_skew_factor=0.0)

    assert (decision.bid_levels, decision.ask_levels) == (levels_bid, levels_ask)
    assert bids(decision) == [199_975, 199_950, 199_925][:levels_bid]
    assert (decision.bid_note == "position limit") is (levels_bid < 3)


def test_the_smaller_of_the_two_maxima_and_the_notional_limit_holds() -> None:
    assert decide(state(), max_position=12 * UNIT).bid_levels == 2
    assert decide(state(), max_inventory=9 * UNIT).bid_levels == 1
    # 2,000 at an ask of 200.012 are 9.9994: one order of 5.
    assert decide(state(), max_notional=2_000 * UNIT).bid_levels == 1
    assert decide(state(), max_notional=2_001 * UNIT).bid_levels == 2


def test_bids_need_a_positive_price() -> None:
    # Centre 60: 35, 10, then -15.
    decision = decide(state(60))
    assert (bids(decision), decision.bid_note) == ([35, 10], "no positive price")
    assert asks(decision) == [85, 110, 135]

    # Centre 50: 25, then 0 is no price.
    assert bids(decide(state(50))) == [25]
    assert bids(decide(state(51))) == [26, 1]
    assert bids(decide(state(25))) == []


# ---------------------------------------------------------------- the formulas


def test_the_skew_is_truncated_and_clamped() -> None:
    assert skew_ticks(50, 50, 0.5, 2) == 1
    assert skew_ticks(49, 50, 0.5, 2) == 0  # 0.98
    assert skew_ticks(-49, 50, 0.5, 2) == 0
    assert skew_ticks(-50, 50, 0.5, 2) == -1
    for beyond in (50, 51, 90, 500):
        assert skew_ticks(beyond, 50, 1.0, 7) == 7
        assert skew_ticks(-beyond, 50, 1.0, 7) == -7
    assert skew_ticks(30, 50, 1.0, 5) == 3  # 0.6 * 5


def test_half_the_spread_is_a_whole_number() -> None:
    assert half_spread_px(2, 25) == 25
    assert half_spread_px(3, 25) == 37


def test_the_edge_is_after_a_fee_that_is_rounded_up() -> None:
    assert edge(BUY, 1_000, 990, 0) == 10
    assert edge(SELL, 1_000, 1_010, 0) == 10
    assert edge(BUY, 1_000, 1_010, 0) == -10
    # 990 * 100 / 1e6 = 0.099, up to 1.
    assert edge(BUY, 1_000, 990, 100) == 9
    assert edge(SELL, 1_000_000, 1_010_000, 100) == 10_000 - 101
    # A rebate is rounded up as well, towards nothing.
    assert edge(BUY, 1_000, 990, -100) == 10


def test_the_first_level_that_is_far_enough_is_counted_to() -> None:
    assert levels_too_near(BUY, 100, 5, 3, 100, 200, 5, 0) == 1
    assert levels_too_near(BUY, 95, 5, 3, 100, 200, 5, 0) == 0
    assert levels_too_near(SELL, 100, 5, 3, 100, 50, 6, 0) == 2
    assert levels_too_near(SELL, 100, 5, 3, 100, 50, 60, 0) == 3
    assert levels_too_near(BUY, 95, 5, 3, 100, 90, 0, 0) == 2


def test_the_levels_within_reach_are_counted() -> None:
    assert levels_in_reach(BUY, 100, 5, 4, 100, 10) == 3
    assert levels_in_reach(BUY, 100, 5, 4, 100, 9) == 2
    assert levels_in_reach(SELL, 100, 5, 4, 100, 10) == 3
    assert levels_in_reach(BUY, 100, 5, 4, 500, 10) == 0
    assert levels_in_reach(BUY, 500, 5, 4, 100, 10) == 4


def test_the_orders_that_may_all_fill_are_counted() -> None:
    assert levels_in_room(BUY, 0, 5, 14) == 2
    assert levels_in_room(BUY, -6, 5, 14) == 4
    assert levels_in_room(SELL, 6, 5, 14) == 4
    assert levels_in_room(SELL, -15, 5, 14) == 0
    assert levels_in_room(BUY, 14, 5, 14) == 0


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("--#", {}, tick_ladder(**DEFAULTS), error) == expect("--#", {}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Any] = Hot()
    subscription = source.pipe(tick_ladder(**DEFAULTS)).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0


# ---------------------------------------------------------------- whatever the state


@settings(max_examples=400, deadline=None)
@given(
    anchor=st.integers(1, 1_000_000),
    spread=st.tuples(st.integers(-300, 300), st.integers(1, 300)),
    position=st.integers(-120, 120),
    signal_shift=st.one_of(st.just(0.0), st.floats(-0.5, 0.5)),
    widening=st.sampled_from([1.0, 1.5, 3.0]),
    tick=st.sampled_from([1, 2, 25]),
    base=st.integers(0, 6),
    factor=st.floats(0.0, 3.0),
    levels=st.integers(1, 6),
    min_edge=st.integers(0, 3),
    distance=st.integers(0, 20),
    fee=st.sampled_from([0, 37, 400]),
)
def test_every_level_has_the_edge_is_in_reach_and_passive_and_all_fit_the_limit(
    anchor: int,
    spread: tuple[int, int],
    position: int,
    signal_shift: float,
    widening: float,
    tick: int,
    base: int,
    factor: float,
    levels: int,
    min_edge: int,
    distance: int,
    fee: int,
) -> None:
    bid = anchor + spread[0]
    ask = bid + spread[1]
    decision = decide(
        state(
            anchor, position=position, bid=bid, ask=ask, signal_shift=signal_shift,
            widening=widening,
        ),
        tick=tick * STEP, base_spread_ticks=base, inventory_skew_factor=factor, num_levels=levels,
        min_edge_ticks=min_edge, cancel_distance_ticks=distance, maker_fee_ppm=fee,
    )  # fmt: skip

    assert (decision.action == "quote") is bool(decision.bid_levels or decision.ask_levels)
    assert decision.action == "quote" or decision.reason
    for side, px, count, best, opposite in (
        (BUY, decision.bid_px, decision.bid_levels, bid, ask),
        (SELL, decision.ask_px, decision.ask_levels, ask, bid),
    ):
        assert (px is None) is (count == 0)
        assert count <= levels
        assert side * position + count * 5 <= 50 or count == 0
        note = decision.bid_note if side == BUY else decision.ask_note
        assert (note is not None) is (count < levels)
        for i in range(count):
            assert px is not None
            level = px - side * i * decision.level_step
            assert level > 0
            assert level % STEP == 0
            assert side * (opposite * STEP - level) > 0
            assert side * (best * STEP - level) <= distance * tick * STEP
            paid = -(-level * fee // 1_000_000)  # rounded up
            assert side * (anchor * STEP - level) - paid >= min_edge * tick * STEP
    assert decision.level_step == tick * STEP
    if decision.bid_px is not None and decision.ask_px is not None and min_edge:
        assert decision.bid_px < decision.ask_px
