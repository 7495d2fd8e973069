"""The simulated venue: what fills, what is refused, when, in which order and for which fee."""

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sinks.simulated import FillModel, SilentVenue, SimulatedVenue, fee_of
from sinks.venue import Cancel, Command, Create
from streams.clock import NEVER, TARGET, Clock, Inputs, Pump
from streams.events import BUY, SELL, AccountEvent
from streams.instrument import UNIT, Instrument

NVDA = Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3, size_decimals=3)
TICK = 1_000_000
PX = 207_100 * TICK
QTY = 50_000_000
SIDES = pytest.mark.parametrize("side", [BUY, SELL], ids=["buy", "sell"])

Said = tuple[int, str, int | None]


class Market:
    """A venue without latency, and what it said."""

    def __init__(
        self,
        instrument: Instrument = NVDA,
        *,
        fill_model: FillModel = "touch",
        tier: str = "standard",
    ) -> None:
        self.answers: list[AccountEvent] = []
        self.venue = SimulatedVenue(
            instrument, self.answers.append, fill_model=fill_model, tier=tier
        )

    def book(self, ts: int, bid: int | None, ask: int | None) -> None:
        self.venue.on_quote(ts, bid, ask)

    def opposite(self, ts: int, side: int, px: int | None) -> None:
        """Show a book that has only the side which an order of ``side`` would trade with."""
        self.book(ts, None if side == BUY else px, px if side == BUY else None)

    def send(self, ts: int, *commands: Command) -> None:
        self.venue.submit(ts, commands)

    @property
    def said(self) -> list[Said]:
        return said(self.answers)


def said(answers: Sequence[AccountEvent]) -> list[Said]:
    return [(event.ts, event.kind, event.n) for event in answers]


def limit(n: int, side: int, px: int = PX, qty: int = QTY, expire: int | None = None) -> Create:
    return Create(n, side, px, qty, expire)


def market(n: int, side: int, qty: int = QTY) -> Create:
    return Create(n, side, None, qty, None)


# ---------------------------------------------------------------- fill models


@SIDES
@pytest.mark.parametrize(
    ("fill_model", "ticks_before", "fills"),
    [
        ("touch", 1, False),
        ("touch", 0, True),
        ("touch", -1, True),
        ("cross", 1, False),
        ("cross", 0, False),
        ("cross", -1, True),
    ],
)
def test_touch_fills_at_the_price_and_cross_only_one_tick_through_it(
    side: int, fill_model: FillModel, ticks_before: int, fills: bool
) -> None:
    it = Market(fill_model=fill_model)
    it.opposite(1, side, PX + side * 10 * TICK)
    it.send(2, limit(1, side))

    it.opposite(3, side, PX + side * ticks_before * TICK)

    assert it.said == [(2, "ack", 1)] + [(3, "fill", 1)] * fills


@SIDES
@pytest.mark.parametrize("fill_model", ["touch", "cross"])
def test_an_order_is_not_filled_by_the_best_of_its_own_side(
    side: int, fill_model: FillModel
) -> None:
    it = Market(fill_model=fill_model)
    it.send(1, limit(1, side))

    it.opposite(2, -side, PX + side * 100 * TICK)  # other quotes on our side, far better than ours
    it.opposite(3, -side, PX - side * 100 * TICK)
    it.book(4, None, None)

    assert it.said == [(1, "ack", 1)]


@SIDES
def test_a_fill_is_whole_as_maker_at_the_limit_price_however_far_the_book_went(side: int) -> None:
    it = Market(tier="premium")
    it.send(1, limit(7, side, qty=123_456_000_000))

    it.opposite(2, side, PX - side * 5_000 * TICK)
    it.opposite(3, side, PX - side * 5_000 * TICK)

    ack, fill = it.answers
    assert ack.kind == "ack"
    assert fill == AccountEvent(
        seq=0,
        ts=2,
        kind="fill",
        n=7,
        venue_id=fill.venue_id,
        px=PX,
        qty=123_456_000_000,
        fee=math.ceil(Fraction(PX * 123_456_000_000 * 40, UNIT * 10**6)),
        liquidity="MAKER",
    )


def test_every_fill_has_an_id_of_its_own() -> None:
    it = Market()
    it.send(1, *(limit(n, BUY) for n in range(1, 6)))
    it.opposite(2, BUY, PX)
    it.send(3, market(6, BUY))

    ids = [event.venue_id for event in it.answers if event.kind == "fill"]

    assert len(ids) == len(set(ids)) == 6
    assert None not in ids


@SIDES
def test_only_the_orders_that_are_reached_fill_and_the_rest_go_on_resting(side: int) -> None:
    it = Market()
    it.send(1, *(limit(n, side, PX - side * n * TICK) for n in (1, 2, 3)))

    it.opposite(2, side, PX - side * 1 * TICK)
    it.opposite(3, side, PX)
    it.opposite(4, side, PX - side * 3 * TICK)

    assert it.said[3:] == [(2, "fill", 1), (4, "fill", 2), (4, "fill", 3)]


# ---------------------------------------------------------------- post-only and refusals


@SIDES
@pytest.mark.parametrize("fill_model", ["touch", "cross"])
@pytest.mark.parametrize(("beyond", "taken"), [(-1, True), (0, False), (1, False), (500, False)])
def test_an_order_that_would_meet_the_opposite_best_on_arrival_is_rejected(
    side: int, fill_model: FillModel, beyond: int, taken: bool
) -> None:
    it = Market(fill_model=fill_model)
    it.opposite(1, side, PX)

    it.send(2, limit(1, side, PX + side * beyond * TICK))

    (answer,) = it.answers
    assert answer.kind == ("ack" if taken else "reject")
    assert answer.reason == (None if taken else "post-only would cross")
    it.opposite(3, side, PX - side * 1_000 * TICK)
    assert len(it.answers) == (2 if taken else 1), "a rejected order must not rest"


@SIDES
def test_an_order_rests_where_the_opposite_side_is_empty(side: int) -> None:
    it = Market()
    it.book(1, PX, PX)
    it.opposite(2, -side, PX)

    it.send(3, limit(1, side))
    it.opposite(4, side, PX)

    assert it.said == [(3, "ack", 1), (4, "fill", 1)]


@SIDES
def test_a_market_order_takes_the_opposite_best_whole_and_as_taker(side: int) -> None:
    it = Market(tier="premium")
    it.book(1, PX - 3 * TICK, PX + 4 * TICK)

    it.send(2, market(1, side, qty=9 * UNIT))

    best = PX + 4 * TICK if side == BUY else PX - 3 * TICK
    ack, fill = it.answers
    assert (ack.ts, ack.kind, ack.n) == (2, "ack", 1)
    assert (fill.ts, fill.kind, fill.n, fill.px, fill.qty) == (2, "fill", 1, best, 9 * UNIT)
    assert fill.liquidity == "TAKER"
    assert fill.fee == math.ceil(Fraction(best * 9 * 280, 10**6))


@SIDES
def test_a_market_order_without_an_opposite_side_is_rejected(side: int) -> None:
    it = Market()
    it.opposite(1, -side, PX)

    it.send(2, market(1, side))
    it.opposite(3, side, PX)

    (answer,) = it.answers
    assert (answer.kind, answer.n, answer.reason) == ("reject", 1, "no liquidity")


@SIDES
@pytest.mark.parametrize("px", [PX + 1, PX - 1, PX + TICK // 2, 0, -TICK])
def test_a_price_that_is_no_positive_tick_is_rejected(side: int, px: int) -> None:
    it = Market()

    it.send(1, limit(1, side, px))

    (answer,) = it.answers
    assert (answer.kind, answer.reason) == ("reject", "price off the tick")


@SIDES
@pytest.mark.parametrize(("qty", "taken"), [(QTY, True), (QTY + 1, True), (QTY - 1, False)])
def test_the_minimum_base_amount_is_the_smallest_size_that_is_taken(
    side: int, qty: int, taken: bool
) -> None:
    it = Market(Instrument(symbol="X", venue="L", price_decimals=3, min_base_amount=QTY))

    it.send(1, limit(1, side, qty=qty))

    (answer,) = it.answers
    assert answer.kind == ("ack" if taken else "reject")
    assert answer.reason == (None if taken else "below the minimum base amount")


@SIDES
@pytest.mark.parametrize(("qty", "taken"), [(QTY, True), (QTY + 1, True), (QTY - 1, False)])
def test_the_minimum_quote_amount_is_the_smallest_value_that_is_taken(
    side: int, qty: int, taken: bool
) -> None:
    # 207.100 × 0.05 is 10.355 exactly; 1e-9 of a unit less is worth less.
    it = Market(Instrument(symbol="X", venue="L", price_decimals=3, min_quote_amount=10_355 * TICK))

    it.send(1, limit(1, side, qty=qty))

    (answer,) = it.answers
    assert answer.kind == ("ack" if taken else "reject")
    assert answer.reason == (None if taken else "below the minimum quote amount")


def test_a_cancel_of_an_order_that_does_not_rest_is_refused() -> None:
    it = Market()
    it.send(1, Cancel(99))
    it.send(2, limit(1, BUY), Cancel(1), Cancel(1))
    it.send(3, limit(2, BUY))
    it.opposite(4, BUY, PX)
    it.send(5, Cancel(2))

    assert it.said == [
        (1, "cancel_reject", 99),
        (2, "ack", 1), (2, "cancel", 1), (2, "cancel_reject", 1),
        (3, "ack", 2), (4, "fill", 2), (5, "cancel_reject", 2),
    ]  # fmt: skip
    assert [e.reason for e in it.answers if e.kind == "cancel_reject"] == ["not open"] * 3
    assert [e.reason for e in it.answers if e.kind == "cancel"] == ["requested"]
    assert it.venue.counts == {"cancel": 4, "create": 2}


@SIDES
def test_a_cancelled_order_is_neither_filled_nor_expired_and_leaves_the_others_alone(
    side: int,
) -> None:
    it = Market()
    it.send(1, limit(1, side, expire=3), limit(2, side, PX - side * TICK), Cancel(1))

    it.opposite(4, side, PX)
    it.opposite(5, side, PX - side * TICK)

    assert it.said[3:] == [(5, "fill", 2)]


# ---------------------------------------------------------------- order of work


@SIDES
def test_an_order_that_is_due_and_touched_by_the_same_quote_is_filled(side: int) -> None:
    it = Market()
    it.send(1, limit(1, side, expire=5))

    it.opposite(5, side, PX)
    it.opposite(6, side, PX)

    assert it.said == [(1, "ack", 1), (5, "fill", 1)]


def test_all_fills_come_in_order_of_arrival_and_before_every_expiry() -> None:
    it = Market()
    low, high = PX - 10 * TICK, PX + 10 * TICK
    it.send(
        1,
        limit(1, BUY, low, expire=5),
        limit(2, SELL, PX),
        limit(3, BUY, PX - 1 * TICK),
        limit(4, SELL, high, expire=4),
        limit(5, BUY, PX - 2 * TICK),
        limit(6, SELL, PX),
    )

    it.book(5, PX, PX - 2 * TICK)  # a crossed book reaches both sides at once

    assert it.said[6:] == [
        (5, "fill", 2), (5, "fill", 3), (5, "fill", 5), (5, "fill", 6),
        (5, "expire", 1), (5, "expire", 4),
    ]  # fmt: skip


@SIDES
@pytest.mark.parametrize(("ts", "expires"), [(99, False), (100, True), (101, True)])
def test_an_order_expires_at_its_instant_and_not_a_nanosecond_before(
    side: int, ts: int, expires: bool
) -> None:
    it = Market()
    it.send(1, limit(1, side, expire=100))

    it.book(ts, None, None)

    assert it.said == [(1, "ack", 1)] + [(ts, "expire", 1)] * expires


@pytest.mark.parametrize("turn", [1, -1])
def test_each_order_expires_once_and_at_its_own_instant(turn: int) -> None:
    it = Market()
    orders = [limit(1, BUY, expire=30), limit(2, SELL, expire=20), limit(3, BUY)]
    it.send(1, *orders[::turn])

    for ts in (10, 20, 21, 30, 31, NEVER - 1):
        it.book(ts, None, None)
    it.opposite(NEVER - 1, BUY, PX)

    assert it.said[3:] == [(20, "expire", 2), (30, "expire", 1), (NEVER - 1, "fill", 3)]


# ---------------------------------------------------------------- latency


class Delayed:
    """A venue with 10 ns of latency behind a pump, and what reached the account."""

    def __init__(self, fill_model: FillModel = "touch") -> None:
        self.heard: list[AccountEvent] = []
        self.venue = SimulatedVenue(
            NVDA, lambda event: self.pump.answer(event), fill_model=fill_model, latency_ns=10
        )
        self.pump = Pump(Clock(), self.venue)
        self.pump.account.subscribe(self.heard.append)

    def asks(self, *rows: tuple[int, int | None]) -> None:
        """Deliver target quotes that have only an ask: (ts, ask)."""
        ts, ask = [row[0] for row in rows], [row[1] for row in rows]
        absent, flags = [None] * len(rows), [0] * len(rows)
        kinds = [TARGET] * len(rows)
        self.pump.run(Inputs(kinds, ts, absent, absent, ask, absent, absent, flags))

    @property
    def said(self) -> list[Said]:
        return said(self.heard)


def test_a_command_takes_effect_at_its_instant_plus_the_latency_and_is_answered_then() -> None:
    it = Delayed()
    it.venue.submit(100, [limit(1, BUY)])
    assert it.venue.next_due_ns == 110

    it.asks((109, PX + TICK))
    assert it.said == []
    it.asks((500, PX + TICK))

    assert it.said == [(110, "ack", 1)]
    assert it.venue.next_due_ns == NEVER


@pytest.mark.parametrize(
    ("books", "answers"),
    [
        # The book of the decision would refuse it, the book of its arrival does not.
        ([(100, PX), (105, PX + TICK), (111, PX + TICK)], [(110, "ack", 1)]),
        ([(100, PX + TICK), (105, PX), (111, PX)], [(110, "reject", 1)]),
        ([(100, PX + TICK), (109, PX), (111, PX)], [(110, "reject", 1)]),
        # A quote of the very instant comes after it, and finds it resting.
        ([(100, PX + TICK), (110, PX)], [(110, "ack", 1), (110, "fill", 1)]),
        ([(100, PX + TICK), (111, PX)], [(110, "ack", 1), (111, "fill", 1)]),
    ],
)
def test_a_command_meets_the_book_of_the_instant_it_arrives_before_a_quote_of_that_instant(
    books: list[tuple[int, int]], answers: list[Said]
) -> None:
    it = Delayed()
    it.asks(books[0])
    it.venue.submit(100, [limit(1, BUY)])

    it.asks(*books[1:])

    assert it.said == answers


@pytest.mark.parametrize(
    ("touched_at", "answers"),
    [
        (209, [(209, "fill", 1), (210, "cancel_reject", 1)]),
        (210, [(210, "cancel", 1)]),
        (211, [(210, "cancel", 1)]),
    ],
)
def test_a_cancel_under_way_loses_against_a_fill_that_comes_first(
    touched_at: int, answers: list[Said]
) -> None:
    it = Delayed()
    it.venue.submit(0, [limit(1, BUY)])
    it.asks((200, PX + TICK))
    it.venue.submit(200, [Cancel(1)])

    it.asks((touched_at, PX), (300, PX))

    assert it.said == [(10, "ack", 1), *answers]


def test_each_answer_bears_the_instant_of_its_own_command_however_far_time_goes_on() -> None:
    answers: list[AccountEvent] = []
    venue = SimulatedVenue(NVDA, answers.append, latency_ns=10)
    venue.submit(100, [limit(1, BUY)])
    venue.submit(105, [Cancel(1)])

    venue.advance(114)
    assert said(answers) == [(110, "ack", 1)]
    assert venue.next_due_ns == 115
    venue.advance(500)

    assert said(answers) == [(110, "ack", 1), (115, "cancel", 1)]
    assert venue.next_due_ns == NEVER


def test_commands_arrive_in_the_order_in_which_they_were_sent() -> None:
    it = Delayed()
    it.venue.submit(100, [limit(2, SELL), limit(1, BUY), Cancel(2)])
    it.venue.submit(105, [Cancel(1)])
    it.venue.submit(105, [limit(3, BUY)])

    it.asks((400, None))

    assert it.said == [
        (110, "ack", 2), (110, "ack", 1), (110, "cancel", 2),
        (115, "cancel", 1), (115, "ack", 3),
    ]  # fmt: skip


def test_what_is_still_on_its_way_at_the_end_arrives_when_the_pump_settles() -> None:
    it = Delayed()
    it.asks((100, PX))
    it.venue.submit(100, [market(1, BUY)])
    it.venue.submit(103, [Cancel(7)])

    it.pump.settle()

    assert it.said == [(110, "ack", 1), (110, "fill", 1), (113, "cancel_reject", 7)]
    assert it.pump.clock.now_ns == 113


def test_without_latency_a_command_is_answered_at_its_own_instant() -> None:
    it = Market()
    it.send(100, limit(1, BUY))

    assert it.said == [(100, "ack", 1)]
    assert it.venue.next_due_ns == NEVER


# ---------------------------------------------------------------- fees


@pytest.mark.parametrize(
    ("tier", "maker", "taker"),
    # In units of 1e-9: 207.100 × 0.05 is 10.355, of which 50 ppm are 0.00051775, and so on.
    [("standard", 0, 0), ("plus", 517_750, 517_750), ("premium", 414_200, 2_899_400)],
)
def test_each_tier_pays_its_own_fee_for_making_and_for_taking(
    tier: str, maker: int, taker: int
) -> None:
    it = Market(tier=tier)
    it.send(1, limit(1, BUY))
    it.book(2, None, PX)
    it.send(3, market(2, BUY))

    fees = {event.liquidity: event.fee for event in it.answers if event.kind == "fill"}

    assert fees == {"MAKER": maker, "TAKER": taker}


def test_a_fee_is_rounded_up_to_the_next_unit_and_a_whole_one_is_left() -> None:
    assert fee_of(UNIT, UNIT, 40) == 40_000
    assert fee_of(UNIT + 1, UNIT, 40) == 40_001
    assert fee_of(1, 1, 1) == 1
    assert fee_of(1, 1, 0) == 0


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.integers(0, 1_000_000))
def test_fees_are_exact_for_all_prices_and_sizes_that_fit_64_bits(
    px: int, qty: int, ppm: int
) -> None:
    assert fee_of(px, qty, ppm) == math.ceil(Fraction(px * qty, UNIT) * Fraction(ppm, 10**6))


def test_a_silent_venue_takes_commands_and_answers_nothing() -> None:
    SilentVenue().submit(1, [limit(1, BUY), Cancel(1)])
