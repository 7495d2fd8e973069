"""The simulated venue: what fills, what is refused, when, in which order and for which fee."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sinks.limits import VenueAccount
from sinks.simulated import (
    REMEMBERED_ORDERS,
    TIER_LATENCY,
    FillModel,
    Latency,
    SilentVenue,
    SimulatedVenue,
    fee_of,
)
from sinks.venue import Cancel, Command, Create, Modify, Query
from streams.clock import NEVER, Clock
from streams.events import BUY, SELL, AccountEvent, Trade
from streams.instrument import UNIT, Instrument
from streams.pump import TARGET, Inputs, Pump

NVDA = Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3, size_decimals=3)
TICK = 1_000_000
PX = 207_100 * TICK
QTY = 50_000_000
SIDES = pytest.mark.parametrize("side", [BUY, SELL], ids=["buy", "sell"])

Said = tuple[int, str, int | None]


class Market:
    """A venue, without latency unless it is given one, and what it said."""

    def __init__(
        self,
        instrument: Instrument = NVDA,
        *,
        fill_model: FillModel = "touch",
        tier: str = "standard",
        latency: Latency | None = None,
        account: VenueAccount | None = None,
        compare: Sequence[FillModel] = (),
    ) -> None:
        self.answers: list[AccountEvent] = []
        self.venue = SimulatedVenue(
            instrument,
            self.answers.append,
            fill_model=fill_model,
            latency=Latency() if latency is None else latency,
            tier=tier,
            account=account,
            compare=compare,
        )

    def book(
        self,
        ts: int,
        bid: int | None,
        ask: int | None,
        bid_sz: int | None = None,
        ask_sz: int | None = None,
    ) -> None:
        self.venue.on_quote(ts, bid, ask, bid_sz, ask_sz)

    def trade(self, ts: int, px: int, qty: int, side: int) -> None:
        self.venue.on_trade(Trade(0, ts, None, px, qty, side))

    def opposite(self, ts: int, side: int, px: int | None) -> None:
        """Show a book that has only the side which an order of ``side`` would trade with."""
        self.book(ts, None if side == BUY else px, px if side == BUY else None)

    def send(self, ts: int, *commands: Command) -> None:
        self.venue.submit(ts, commands)

    @property
    def said(self) -> list[Said]:
        return said(self.answers)

    @property
    def last(self) -> AccountEvent:
        return self.answers[-1]


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
        ("queue", 1, False),
        ("queue", 0, True),
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
    assert answer.reason == (None if taken else "canceled-post-only: post-only would cross")
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
    assert (answer.kind, answer.n, answer.reason) == (
        "reject",
        1,
        "canceled-not-enough-liquidity: no liquidity",
    )


@SIDES
@pytest.mark.parametrize("px", [PX + 1, PX - 1, PX + TICK // 2, 0, -TICK])
def test_a_price_that_is_no_positive_tick_is_rejected(side: int, px: int) -> None:
    it = Market()

    it.send(1, limit(1, side, px))

    (answer,) = it.answers
    assert (answer.kind, answer.reason) == ("reject", "21702 price off the tick")


@SIDES
@pytest.mark.parametrize(("qty", "taken"), [(QTY, True), (QTY + 1, True), (QTY - 1, False)])
def test_the_minimum_base_amount_is_the_smallest_size_that_is_taken(
    side: int, qty: int, taken: bool
) -> None:
    it = Market(Instrument(symbol="X", venue="L", price_decimals=3, min_base_amount=QTY))

    it.send(1, limit(1, side, qty=qty))

    (answer,) = it.answers
    assert answer.kind == ("ack" if taken else "reject")
    assert answer.reason == (None if taken else "21706 below the minimum base amount")


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
    assert answer.reason == (None if taken else "21706 below the minimum quote amount")


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
    assert [e.reason for e in it.answers if e.kind == "cancel_reject"] == ["21709 not open"] * 3
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


TEN = Latency(maker_ns=10, cancel_ns=10, taker_ns=10)


class Delayed:
    """A venue with 10 ns of latency behind a pump, and what reached the account."""

    def __init__(self, fill_model: FillModel = "touch") -> None:
        self.heard: list[AccountEvent] = []
        self.venue = SimulatedVenue(
            NVDA,
            lambda event: self.pump.answer(event),
            fill_model=fill_model,
            latency=TEN,
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
    venue = SimulatedVenue(NVDA, answers.append, latency=TEN)
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


def test_what_is_still_on_its_way_at_the_end_arrives_when_the_pump_finishes() -> None:
    it = Delayed()
    it.asks((100, PX))
    it.venue.submit(100, [market(1, BUY)])
    it.venue.submit(103, [Cancel(7)])

    it.pump.finish(lambda: False)

    assert it.said == [(110, "ack", 1), (110, "fill", 1), (113, "cancel_reject", 7)]
    assert it.pump.clock.now_ns == 113


def test_without_latency_a_command_is_answered_at_its_own_instant() -> None:
    it = Market()
    it.send(100, limit(1, BUY))

    assert it.said == [(100, "ack", 1)]
    assert it.venue.next_due_ns == NEVER


# ---------------------------------------------------------------- latency by kind of command

# All different, so that no two can be mistaken for each other.
APART = Latency(maker_ns=100, cancel_ns=40, taker_ns=300)


def test_each_kind_of_command_takes_its_own_time_and_what_arrives_first_is_first() -> None:
    it = Market(latency=APART)
    it.send(0, limit(9, BUY, PX - TICK))
    it.venue.advance(100)
    it.book(101, PX - 5 * TICK, PX + TICK)

    it.send(
        1_000, market(1, BUY), limit(2, BUY), Modify(9, PX - 2 * TICK, QTY), Query(9), Cancel(7)
    )
    assert it.said == [(100, "ack", 9)]
    assert it.venue.next_due_ns == 1_040
    it.venue.advance(2_000)

    assert it.said[1:] == [
        (1_040, "ack", 9), (1_040, "cancel_reject", 7),
        (1_100, "ack", 2), (1_100, "modify", 9),
        (1_300, "ack", 1), (1_300, "fill", 1),
    ]  # fmt: skip


def test_a_cancel_that_overtakes_its_order_finds_nothing_and_the_order_lives() -> None:
    it = Market(latency=APART)
    it.send(0, limit(1, BUY), Cancel(1))

    it.venue.advance(1_000)
    it.opposite(1_001, BUY, PX)

    assert it.said == [(40, "cancel_reject", 1), (100, "ack", 1), (1_001, "fill", 1)]
    assert it.answers[0].reason == "21709 not open"


def test_a_command_without_delay_waits_for_what_arrives_at_the_same_instant_before_it() -> None:
    it = Market(latency=Latency(maker_ns=10))
    it.send(0, limit(1, BUY))

    it.send(9, Cancel(2))
    it.send(10, Cancel(1))  # the order arrives at 10 as well, and was sent first
    assert it.venue.next_due_ns == 10
    it.venue.advance(10)

    assert it.said == [(9, "cancel_reject", 2), (10, "ack", 1), (10, "cancel", 1)]


def test_an_order_can_fill_while_its_modify_or_its_cancel_is_on_the_way() -> None:
    it = Market(latency=APART)
    it.send(0, limit(1, BUY), limit(2, BUY))
    it.venue.advance(100)
    it.send(200, Modify(1, PX - 9 * TICK, QTY), Cancel(2))

    it.opposite(239, BUY, PX)
    it.venue.advance(1_000)

    assert it.said[2:] == [
        (239, "fill", 1), (239, "fill", 2), (240, "cancel_reject", 2), (300, "modify_reject", 1),
    ]  # fmt: skip


def test_what_the_api_refuses_is_answered_at_once_whatever_the_latency() -> None:
    it = Market(latency=APART)

    it.send(7, limit(1, BUY), limit(2, BUY, PX + 1), Modify(1, PX, 0), Cancel(1))

    assert it.said == [(7, "reject", 2), (7, "modify_reject", 1)]
    it.venue.advance(1_000)
    assert it.said[2:] == [(47, "cancel_reject", 1), (107, "ack", 1)]


def test_without_latency_each_command_is_answered_in_its_turn_refused_or_not() -> None:
    it = Market()
    it.book(1, PX - TICK, PX + TICK)

    it.send(
        2, limit(1, BUY), limit(2, BUY, 1), Cancel(1), limit(3, BUY, PX + TICK), market(4, SELL)
    )

    assert it.said == [
        (2, "ack", 1), (2, "reject", 2), (2, "cancel", 1), (2, "reject", 3),
        (2, "ack", 4), (2, "fill", 4),
    ]  # fmt: skip


def test_the_published_latency_of_each_tier() -> None:
    ms = 1_000_000
    slow = Latency(maker_ns=200 * ms, cancel_ns=200 * ms, taker_ns=300 * ms)
    assert {
        "standard": slow,
        "plus": slow,
        "premium": Latency(maker_ns=0, cancel_ns=0, taker_ns=200 * ms),
    } == TIER_LATENCY


# ---------------------------------------------------------------- what the API refuses


@SIDES
@pytest.mark.parametrize("qty", [0, -1_000_000, QTY + 1, QTY - 1])
def test_a_size_that_is_no_positive_lot_is_rejected_for_limit_and_market_orders(
    side: int, qty: int
) -> None:
    it = Market()
    it.book(1, PX - TICK, PX + TICK)

    it.send(2, limit(1, side, qty=qty), market(2, side, qty=qty))

    assert it.said == [(2, "reject", 1), (2, "reject", 2)]
    assert {event.reason for event in it.answers} == {"21701 size off the lot"}


def test_market_orders_are_exempt_from_the_minimums() -> None:
    minimums = Instrument(
        symbol="X", venue="L", price_decimals=3, min_base_amount=QTY, min_quote_amount=10 * UNIT
    )
    it = Market(minimums)
    it.book(1, PX, PX + TICK)

    it.send(2, market(1, BUY, qty=1))

    assert [event.kind for event in it.answers] == ["ack", "fill"]


def test_a_number_is_refused_while_an_order_of_that_number_lives_and_free_afterwards() -> None:
    it = Market(latency=APART)
    it.send(0, limit(1, BUY), limit(1, SELL))  # on its way
    it.venue.advance(100)
    it.send(200, limit(1, BUY), Cancel(1))  # resting
    it.venue.advance(240)
    it.send(300, limit(1, SELL))
    it.venue.advance(400)

    assert it.said == [
        (0, "reject", 1), (100, "ack", 1), (200, "reject", 1), (240, "cancel", 1), (400, "ack", 1),
    ]  # fmt: skip
    rejects = {event.reason for event in it.answers if event.kind == "reject"}
    assert rejects == {"21728 client order index already exists"}
    it.opposite(500, SELL, PX)
    assert it.last.kind == "fill"


def test_an_order_that_is_refused_leaves_its_number_free() -> None:
    it = Market()
    it.send(1, limit(1, BUY, PX + 1))
    it.opposite(2, BUY, PX)
    it.send(3, limit(1, BUY))
    it.send(4, limit(1, BUY, PX - TICK))

    assert it.said == [(1, "reject", 1), (3, "reject", 1), (4, "ack", 1)]


def test_orders_beyond_the_limits_are_refused_and_every_end_makes_room() -> None:
    account = VenueAccount(orders_per_market=1)
    it = Market(account=account)

    def full() -> bool:
        it.send(9, limit(99, BUY, PX - 50 * TICK))
        if it.last.kind == "ack":
            it.send(9, Cancel(99))
            return False
        assert it.last.reason == "21718 too many orders in the market"
        return True

    it.send(1, limit(1, BUY))
    assert full()
    it.send(2, Cancel(1))
    assert not full()
    it.send(3, limit(2, BUY))
    it.opposite(4, BUY, PX)  # fills
    assert not full()
    it.opposite(4, BUY, PX + TICK)
    it.send(5, limit(3, BUY, expire=9))
    assert full()
    it.opposite(9, BUY, PX + TICK)  # expires
    assert not full()
    it.send(9, limit(4, BUY, PX + TICK))  # would cross
    assert it.last.reason == "canceled-post-only: post-only would cross"
    assert not full()
    it.send(9, market(5, BUY))  # never rests
    assert not full()
    it.send(9, limit(6, BUY), Modify(6, PX + TICK, QTY))  # lost by its modify
    assert not full()
    it.send(9, limit(7, BUY))
    assert full()
    it.send(9, market(8, BUY))
    assert it.last.kind == "fill", "a market order needs no room"
    assert full()


def test_an_order_on_its_way_takes_room_and_the_account_is_shared_by_its_markets() -> None:
    account = VenueAccount(orders_per_account=2, orders_per_market=2)
    one = Market(account=account, latency=APART)
    other = Market(Instrument(symbol="B", venue="L", price_decimals=3), account=account)

    one.send(0, limit(1, BUY), limit(2, BUY), limit(3, BUY))
    other.send(0, limit(1, BUY))

    assert [one.last.reason, other.last.reason] == ["21717 too many orders of the account"] * 2
    one.venue.advance(100)
    one.send(200, Cancel(1))
    one.venue.advance(240)
    other.send(300, limit(1, BUY))
    assert other.said[1:] == [(300, "ack", 1)]


# ---------------------------------------------------------------- request rate and quota


def test_a_batch_is_one_request_and_over_the_rate_all_of_it_is_refused_at_once() -> None:
    it = Market(account=VenueAccount(transactions_per_minute=2), latency=APART)
    it.send(0, limit(1, BUY), limit(2, BUY), limit(3, BUY))
    it.send(1, Cancel(1))

    it.send(2, Cancel(2), Query(3), Modify(3, PX, QTY), limit(4, BUY))

    assert it.said == [(2, "cancel_reject", 2), (2, "modify_reject", 3), (2, "reject", 4)]
    assert {event.reason for event in it.answers} == {"23000 too many requests"}
    assert {event.quota_left for event in it.answers} == {None}
    it.venue.advance(10**6)
    assert [kind for _, kind, _ in it.said[3:]] == ["cancel_reject", "ack", "ack", "ack"]
    it.send(60 * 10**9, Cancel(2))
    it.venue.advance(61 * 10**9)
    assert it.last.kind == "cancel"


def test_a_query_is_a_request_of_its_own_and_over_the_rate_it_is_not_answered() -> None:
    it = Market(account=VenueAccount(transactions_per_minute=3))
    it.send(0, Query(1), Query(2))
    it.send(1, Query(3), Query(4))
    it.send(2, limit(5, BUY))

    assert it.said == [(0, "reject", 1), (0, "reject", 2), (1, "reject", 3), (2, "reject", 5)]
    assert it.last.reason == "23000 too many requests"


def test_a_batch_and_its_query_are_two_requests() -> None:
    it = Market(account=VenueAccount(transactions_per_minute=3))
    it.send(0, limit(1, BUY), Query(1), Cancel(1))
    it.send(1, limit(2, BUY))
    it.send(2, limit(3, BUY))

    assert [kind for _, kind, _ in it.said] == ["ack", "ack", "cancel", "ack", "reject"]


def test_creates_and_modifies_cost_quota_also_when_the_engine_refuses_them_and_cancels_do_not() -> (
    None
):
    it = Market(account=VenueAccount(volume_quota=5))
    it.opposite(0, BUY, PX + TICK)

    it.send(1, limit(1, BUY))  # 4 left
    it.send(2, Modify(1, PX - TICK, QTY))  # 3 left
    it.send(3, limit(2, BUY, PX + TICK))  # crosses: 2 left
    it.send(4, Modify(7, PX, QTY))  # not there: 1 left
    it.send(5, Cancel(7), Query(1), limit(3, BUY, PX + 1), Modify(1, PX, 1))  # all free
    it.send(6, limit(4, BUY))  # 0 left

    assert [(event.kind, event.quota_left) for event in it.answers] == [
        ("ack", 4), ("modify", 3), ("reject", None), ("modify_reject", None),
        ("cancel_reject", None), ("ack", 1), ("reject", None), ("modify_reject", None),
        ("ack", 0),
    ]  # fmt: skip


def test_without_quota_metered_commands_are_refused_and_the_cancels_beside_them_pass() -> None:
    it = Market(account=VenueAccount(volume_quota=2))
    it.send(1, limit(1, BUY), limit(2, BUY, PX - TICK))

    it.send(2, Cancel(1), Modify(2, PX, QTY), limit(3, BUY))

    refused = "23000 volume quota exhausted"
    assert [(event.kind, event.n, event.reason, event.quota_left) for event in it.answers[2:]] == [
        ("cancel", 1, "requested", None),
        ("modify_reject", 2, refused, 0),
        ("reject", 3, refused, 0),
    ]


def test_without_quota_a_single_transaction_is_free_now_and_then() -> None:
    it = Market(account=VenueAccount(volume_quota=0))

    it.send(1, limit(1, BUY), limit(2, BUY))
    it.send(2, limit(3, BUY), Query(3))  # a query is no part of the batch
    it.send(3, limit(4, BUY))
    it.send(2 + 15 * 10**9, limit(5, BUY))

    assert [(event.kind, event.n) for event in it.answers] == [
        ("reject", 1), ("reject", 2), ("ack", 3), ("ack", 3), ("reject", 4), ("ack", 5),
    ]  # fmt: skip


def test_fills_earn_quota_before_the_next_answer_tells_it() -> None:
    # 207.100 × 0.05 is $10.355: three units and $1.355 over; twice that is $20.71, six units.
    it = Market(account=VenueAccount(volume_quota=10), fill_model="cross", compare=["touch"])
    it.send(1, limit(1, BUY))  # 9
    it.opposite(2, BUY, PX)  # fills in the compared model only: earns nothing
    it.send(3, Query(1))
    assert it.last.quota_left == 9
    it.opposite(4, BUY, PX - TICK)  # 9 + 3
    assert it.last.quota_left is None
    it.book(5, PX - TICK, PX)
    it.send(6, market(2, BUY))  # 12 − 1, then 14

    assert [event.quota_left for event in it.answers if event.kind == "ack"] == [9, 9, 11]
    it.send(7, limit(3, BUY, PX - TICK))
    assert it.last.quota_left == 13


# ---------------------------------------------------------------- modify


@SIDES
def test_a_modify_moves_an_order_to_its_new_price_and_size(side: int) -> None:
    it = Market()
    it.send(1, limit(1, side))

    it.send(2, Modify(1, PX - side * TICK, 3 * QTY))
    it.opposite(3, side, PX)
    it.opposite(4, side, PX - side * TICK)

    assert it.answers[1] == AccountEvent(
        seq=0, ts=2, kind="modify", n=1, px=PX - side * TICK, qty=3 * QTY
    )
    assert it.said[2:] == [(4, "fill", 1)]
    assert (it.last.px, it.last.qty) == (PX - side * TICK, 3 * QTY)


@SIDES
def test_a_modified_order_goes_to_the_back_of_the_queue_even_if_nothing_changes(side: int) -> None:
    it = Market()
    it.send(1, limit(1, side), limit(2, side), Modify(1, PX, QTY))

    it.opposite(2, side, PX)

    assert it.said[3:] == [(2, "fill", 2), (2, "fill", 1)]


@SIDES
def test_a_modify_counts_its_size_from_the_beginning_of_the_order(side: int) -> None:
    it = Market(fill_model="queue")
    it.send(1, limit(1, side, qty=50 * TICK))
    it.opposite(2, -side, PX - side * TICK)
    it.trade(3, PX, 20 * TICK, -side)
    assert (it.last.kind, it.last.qty) == ("fill", 20 * TICK)

    it.send(4, Modify(1, PX, 70 * TICK))  # 70 − 20 = 50 more
    it.trade(5, PX - side * TICK, 1, -side)
    it.trade(6, PX - side * TICK, 1, -side)

    assert it.said[2:] == [(4, "modify", 1), (5, "fill", 1)]
    assert it.last.qty == 50 * TICK


@SIDES
@pytest.mark.parametrize("total", [20 * TICK, 19 * TICK])
def test_a_modify_to_what_has_filled_or_less_ends_the_order(side: int, total: int) -> None:
    it = Market(fill_model="queue")
    it.send(1, limit(1, side, qty=50 * TICK))
    it.opposite(2, -side, PX - side * TICK)
    it.trade(3, PX, 20 * TICK, -side)

    it.opposite(4, side, PX + side * 5 * TICK)
    it.send(5, Modify(1, PX + side * 5 * TICK, total))  # also where it would cross
    it.opposite(6, side, PX - side * TICK)

    assert it.said[2:] == [(5, "cancel", 1)]
    assert it.last.reason == "modified to what has filled"


@SIDES
@pytest.mark.parametrize(("beyond", "lost"), [(-1, False), (0, True), (1, True)])
def test_a_modify_that_would_cross_loses_the_order(side: int, beyond: int, lost: bool) -> None:
    it = Market()
    it.opposite(1, side, PX)
    it.send(2, limit(1, side, PX - side * 9 * TICK))

    it.send(3, Modify(1, PX + side * beyond * TICK, QTY))
    assert it.last.kind == ("cancel" if lost else "modify")
    assert it.last.reason == ("canceled-post-only" if lost else None)
    it.opposite(4, side, PX - side * 50 * TICK)

    assert it.last.kind == ("cancel" if lost else "fill")


def test_a_modify_of_an_order_that_does_not_rest_is_refused() -> None:
    it = Market(latency=APART)
    it.send(0, Modify(1, PX, QTY), limit(1, BUY))
    it.venue.advance(100)
    it.send(200, Cancel(1))
    it.send(210, Modify(1, PX, QTY))
    it.venue.advance(1_000)

    assert it.said == [
        (100, "modify_reject", 1), (100, "ack", 1), (240, "cancel", 1), (310, "modify_reject", 1),
    ]  # fmt: skip
    assert {e.reason for e in it.answers if e.kind == "modify_reject"} == {"21715 not active"}


@pytest.mark.parametrize(
    ("px", "qty", "reason"),
    [
        (PX + 1, QTY, "21702 price off the tick"),
        (0, QTY, "21702 price off the tick"),
        (PX, QTY + 1, "21701 size off the lot"),
        (PX, 0, "21701 size off the lot"),
        (PX, 9 * TICK, "21706 below the minimum base amount"),
        (3 * TICK, 10 * TICK, "21706 below the minimum quote amount"),
    ],
)
def test_a_modify_is_held_to_the_rules_of_a_new_order_and_leaves_it_as_it_was_when_refused(
    px: int, qty: int, reason: str
) -> None:
    rules = Instrument(
        symbol="X", venue="L", price_decimals=3, size_decimals=3,
        min_base_amount=10 * TICK, min_quote_amount=UNIT,
    )  # fmt: skip
    it = Market(rules)
    it.send(1, limit(1, BUY))

    it.send(2, Modify(1, px, qty))
    it.opposite(3, BUY, PX)

    assert it.said == [(1, "ack", 1), (2, "modify_reject", 1), (3, "fill", 1)]
    assert it.answers[1].reason == reason
    assert it.last.qty == QTY


def test_the_minimums_of_a_modify_are_about_the_new_total_not_about_what_is_left() -> None:
    rules = Instrument(symbol="X", venue="L", price_decimals=3, min_base_amount=10 * TICK)
    it = Market(rules, fill_model="queue")
    it.send(1, limit(1, BUY, qty=20 * TICK))
    it.opposite(2, SELL, PX - TICK)
    it.trade(3, PX, 9 * TICK, SELL)

    it.send(4, Modify(1, PX, 10 * TICK))  # leaves 1
    it.trade(5, PX - TICK, 1, SELL)

    assert it.said[2:] == [(4, "modify", 1), (5, "fill", 1)]
    assert it.last.qty == 1 * TICK


def test_an_order_keeps_its_expiry_through_a_modify() -> None:
    it = Market()
    it.send(1, limit(1, BUY, expire=10), Modify(1, PX - TICK, QTY))

    it.book(10, None, None)

    assert it.said[2:] == [(10, "expire", 1)]


# ---------------------------------------------------------------- query


def test_a_query_repeats_the_fills_with_their_ids_and_tells_that_the_order_rests() -> None:
    it = Market(fill_model="queue", latency=APART)
    it.send(0, limit(1, BUY, qty=50 * TICK))
    it.venue.advance(100)
    it.opposite(101, SELL, PX - TICK)
    it.trade(102, PX, 20 * TICK, SELL)
    it.trade(103, PX, 7 * TICK, SELL)
    first, second = it.answers[1:]

    it.send(200, Query(1))
    it.venue.advance(1_000)

    again, also, ack = it.answers[3:]
    assert [(e.ts, e.kind, e.venue_id, e.px, e.qty, e.fee, e.liquidity) for e in (again, also)] == [
        (240, "fill", e.venue_id, e.px, e.qty, e.fee, e.liquidity) for e in (first, second)
    ]
    assert (ack.ts, ack.kind, ack.n, ack.px, ack.qty) == (240, "ack", 1, PX, 50 * TICK)
    assert [event.reason for event in it.answers] == [None] * 3 + ["queried"] * 3
    assert it.venue.ledgers["queue"].position == 27 * TICK, "told twice, counted once"


def test_a_query_of_a_modified_order_tells_its_present_price_and_size() -> None:
    it = Market()
    it.send(1, limit(1, BUY), Modify(1, PX - TICK, 2 * QTY), Query(1))

    assert (it.last.kind, it.last.px, it.last.qty) == ("ack", PX - TICK, 2 * QTY)


def test_a_query_of_an_order_that_ended_repeats_how() -> None:
    it = Market(fill_model="queue")
    it.send(1, *(limit(n, BUY, expire=5 if n == 3 else None) for n in (1, 2, 3)))
    it.send(2, Cancel(1), Modify(2, PX, 2 * QTY))
    it.opposite(3, SELL, PX - TICK)
    it.trade(4, PX, QTY // 5, SELL)
    it.send(4, Modify(3, PX, QTY // 5))  # in front of 2 since that went to the back
    it.opposite(5, BUY, PX - TICK)
    it.send(6, limit(4, BUY), market(5, BUY))
    it.book(7, None, None)
    it.send(8, market(6, BUY))
    told = len(it.answers)

    for n in range(1, 8):
        it.send(9, Query(n))

    assert [(e.kind, e.n, e.qty, e.reason) for e in it.answers[told:]] == [
        ("cancel", 1, None, "queried"),
        ("fill", 2, 2 * QTY, "queried"),
        ("cancel", 2, None, "queried"),
        ("fill", 3, QTY // 5, "queried"),
        ("cancel", 3, None, "queried"),
        ("reject", 4, None, "queried"),
        ("fill", 5, QTY, "queried"),
        ("cancel", 5, None, "queried"),
        ("reject", 6, None, "queried"),
        ("reject", 7, None, "21700 unknown order"),
    ]
    assert {event.ts for event in it.answers[told:]} == {9}


def test_a_query_of_an_expired_order_tells_that_it_expired() -> None:
    it = Market()
    it.send(1, limit(1, BUY, expire=5))
    it.book(5, None, None)

    it.send(6, Query(1))

    assert it.said == [(1, "ack", 1), (5, "expire", 1), (6, "expire", 1)]


def test_a_query_of_what_the_api_refused_finds_no_order() -> None:
    it = Market()
    it.send(1, limit(1, BUY, PX + 1), Query(1))

    assert it.last.reason == "21700 unknown order"


def test_a_query_that_overtakes_its_order_is_left_to_the_orders_own_answer() -> None:
    it = Market(latency=APART)
    it.send(0, limit(1, BUY), Query(1))

    it.venue.advance(1_000)

    assert it.said == [(100, "ack", 1)]


def test_only_so_many_ended_orders_are_remembered_and_the_oldest_end_goes_first() -> None:
    it = Market()
    it.send(1, limit(1, BUY), limit(2, BUY))
    it.send(1, Cancel(1), Cancel(2))
    it.send(1, limit(1, BUY), Cancel(1))  # the number again: now the younger end
    for n in range(3, REMEMBERED_ORDERS + 2):
        it.send(1, market(n, BUY))  # ends at once: the book is empty

    it.send(2, Query(2), Query(1))

    assert it.answers[-3].n == REMEMBERED_ORDERS + 1, "each query has one answer"
    assert [event.reason for event in it.answers[-2:]] == ["21700 unknown order", "queried"]


def test_every_command_is_counted_by_its_kind_whether_it_is_taken_or_not() -> None:
    it = Market(account=VenueAccount(transactions_per_minute=1))
    it.send(1, limit(1, BUY), limit(2, BUY, PX + 1), Cancel(1))
    it.send(2, limit(3, BUY), Modify(1, PX, QTY), Query(1))

    assert it.venue.counts == {"create": 3, "cancel": 1, "modify": 1, "query": 1}


# ---------------------------------------------------------------- trades and parts


@SIDES
def test_the_queue_model_fills_an_order_in_parts_and_each_part_pays_its_own_fee(side: int) -> None:
    it = Market(fill_model="queue", tier="premium")
    mine, theirs = (PX, None) if side == BUY else (None, PX)
    it.book(1, mine, theirs, 30 * TICK, 30 * TICK)
    it.send(2, limit(1, side, qty=50 * TICK))

    it.trade(3, PX, 41 * TICK, -side)  # 30 in front, 11 for us
    it.trade(4, PX, 100 * TICK, -side)  # the other 39
    it.trade(5, PX, 100 * TICK, -side)

    fills = it.answers[1:]
    assert [(e.ts, e.kind, e.px, e.qty, e.liquidity) for e in fills] == [
        (3, "fill", PX, 11 * TICK, "MAKER"),
        (4, "fill", PX, 39 * TICK, "MAKER"),
    ]
    assert [e.fee for e in fills] == [fee_of(PX, 11 * TICK, 40), fee_of(PX, 39 * TICK, 40)]
    assert len({e.venue_id for e in fills}) == 2


def test_the_size_in_the_book_of_the_order_s_arrival_is_its_queue() -> None:
    it = Market(fill_model="queue", latency=APART)
    it.book(0, PX, None, 10 * TICK, None)
    it.send(0, limit(1, BUY))
    it.book(99, PX, None, 30 * TICK, None)
    it.venue.advance(100)
    it.book(101, PX, None, 80 * TICK, None)

    it.trade(102, PX, 31 * TICK, SELL)

    assert it.said == [(100, "ack", 1), (102, "fill", 1)]
    assert it.last.qty == TICK


def test_a_quote_that_only_shortens_the_queue_is_not_missed() -> None:
    for side in (BUY, SELL):
        it = Market(fill_model="queue")
        it.book(1, PX, PX, 30 * TICK, 30 * TICK)
        it.book(2, *((PX, PX + TICK) if side == BUY else (PX - TICK, PX)), 30 * TICK, 30 * TICK)
        it.send(3, limit(1, side))
        it.book(4, *((PX, PX + TICK) if side == BUY else (PX - TICK, PX)), 5 * TICK, 5 * TICK)

        it.trade(5, PX, 6 * TICK, -side)

        assert it.last.qty == TICK


@SIDES
def test_a_trade_that_reaches_nothing_is_no_event(side: int) -> None:
    it = Market(compare=["cross", "queue"])
    it.send(1, limit(1, side))

    it.trade(2, PX + side * TICK, QTY, -side)
    it.trade(3, PX, QTY, side)
    assert it.said == [(1, "ack", 1)]
    it.trade(4, PX, 1, -side)

    assert it.said[1:] == [(4, "fill", 1)]
    assert it.last.qty == QTY


def test_a_trade_expires_what_is_due_after_it_has_matched() -> None:
    it = Market()
    it.send(1, limit(1, BUY, expire=5), limit(2, BUY, PX - TICK, expire=5), limit(3, BUY, expire=6))

    it.trade(4, PX + TICK, 1, SELL)
    it.trade(5, PX, 1, SELL)
    assert it.said[3:] == [(5, "fill", 1), (5, "fill", 3), (5, "expire", 2)]
    it.send(6, limit(4, BUY, expire=7))
    it.trade(7, PX + TICK, 1, SELL)  # reaches nothing

    assert it.said[6:] == [(6, "ack", 4), (7, "expire", 4)]


# ---------------------------------------------------------------- fill models beside each other


def test_compared_models_book_into_their_own_ledgers_and_answer_nothing() -> None:
    it = Market(fill_model="cross", tier="premium", compare=["touch", "queue"])
    assert set(it.venue.ledgers) == {"cross", "touch", "queue"}
    it.book(1, PX, PX + 9 * TICK, 30 * TICK, None)
    it.send(2, limit(1, BUY))

    it.trade(3, PX, 40 * TICK, SELL)  # touch: all 50; queue: 40 − 30 = 10; cross: nothing
    assert it.said == [(2, "ack", 1)]
    it.opposite(4, BUY, PX - TICK)  # all the rest

    def held(name: FillModel) -> tuple[int, int, int, dict[str, int]]:
        ledger = it.venue.ledgers[name]
        return ledger.position, ledger.cash, ledger.fees, dict(ledger.fills)

    whole = fee_of(PX, QTY, 40)
    parts = fee_of(PX, 10 * TICK, 40) + fee_of(PX, 40 * TICK, 40)
    assert held("touch") == (QTY, -PX * QTY, whole, {"BUY MAKER": 1})
    assert held("queue") == (QTY, -PX * QTY, parts, {"BUY MAKER": 2})
    assert held("cross") == (QTY, -PX * QTY, whole, {"BUY MAKER": 1})
    assert it.said[1:] == [(4, "fill", 1)]


def test_an_order_ends_in_every_model_when_the_primary_ends_it() -> None:
    it = Market(compare=["cross"])
    it.send(1, limit(1, BUY), limit(2, BUY, PX - 9 * TICK), limit(3, BUY, PX - 9 * TICK, expire=4))
    it.opposite(2, BUY, PX)  # fills 1 on touch
    it.send(3, Cancel(2))
    it.opposite(4, BUY, PX - TICK)  # 3 expires
    it.opposite(5, BUY, PX - 99 * TICK)

    assert it.venue.ledgers["touch"].bought == QTY
    assert it.venue.ledgers["cross"].bought == 0


@SIDES
def test_the_others_see_every_quote_that_matters_to_them_and_not_to_the_primary(side: int) -> None:
    it = Market(fill_model="cross", compare=["touch", "queue"])

    def both(ts: int, mine: int, size: int, theirs: int) -> None:
        px, opposite = PX - side * mine * TICK, PX + side * theirs * TICK
        if side == BUY:
            it.book(ts, px, opposite, size * TICK, QTY)
        else:
            it.book(ts, opposite, px, QTY, size * TICK)

    both(1, 0, 30, 9)
    it.send(2, limit(1, side))
    both(3, 0, 5, 9)  # 5 in front: seen by queue alone
    it.trade(4, PX, 8 * TICK, -side)  # touch 50, queue 3
    both(5, 9, 1, 0)  # queue: the other 47, at most 50 shown

    assert it.said == [(2, "ack", 1)]
    held = {name: ledger.position for name, ledger in it.venue.ledgers.items()}
    assert held == {"cross": 0, "touch": side * QTY, "queue": side * QTY}
    assert it.venue.ledgers["queue"].fills.total() == 2
    it.send(6, limit(2, side, PX - side * TICK))
    both(7, 9, 1, -1)  # reaches 2, and goes through 1

    bought = {name: side * ledger.position for name, ledger in it.venue.ledgers.items()}
    assert bought == {"cross": QTY, "touch": 2 * QTY, "queue": 2 * QTY}


def test_the_quote_that_ends_an_order_in_the_primary_still_fills_it_in_the_others() -> None:
    it = Market(compare=["cross"])
    it.send(1, limit(1, BUY))
    it.opposite(2, BUY, PX - TICK)
    it.send(3, limit(2, BUY, PX - 2 * TICK))
    it.trade(4, PX - 3 * TICK, 1, SELL)

    assert [ledger.bought for ledger in it.venue.ledgers.values()] == [2 * QTY, 2 * QTY]


def test_a_modify_gives_each_model_what_the_order_has_left_there() -> None:
    it = Market(fill_model="cross", compare=["touch", "queue"])
    it.book(1, PX, PX + 9 * TICK, 30 * TICK, None)
    it.send(2, limit(1, BUY))
    it.trade(3, PX, 34 * TICK, SELL)  # touch 50, queue 4, cross 0
    it.trade(3, PX, 6 * TICK, SELL)  # queue 10

    it.send(4, Modify(1, PX, 20 * TICK))  # leaves 10 in queue, 20 in cross and nothing in touch
    it.opposite(5, BUY, PX - TICK)

    bought = {name: ledger.bought for name, ledger in it.venue.ledgers.items()}
    assert bought == {"cross": 20 * TICK, "queue": 20 * TICK, "touch": 50 * TICK}


def test_a_number_that_is_used_again_starts_from_nothing_in_every_model() -> None:
    it = Market(fill_model="cross", compare=["touch"])
    it.send(1, limit(1, BUY))
    it.opposite(2, BUY, PX)  # touch 50
    it.send(3, Cancel(1))
    it.opposite(3, BUY, PX + TICK)
    it.send(4, limit(1, BUY), Modify(1, PX, 2 * QTY))
    it.opposite(5, BUY, PX)

    assert it.venue.ledgers["touch"].bought == QTY + 2 * QTY


def test_market_orders_are_the_same_in_every_model() -> None:
    it = Market(tier="premium", compare=["queue", "cross"])
    it.book(1, PX, PX + TICK)
    it.send(2, market(1, BUY))

    fee = fee_of(PX + TICK, QTY, 280)
    assert [
        (ledger.position, ledger.fees, dict(ledger.fills)) for ledger in it.venue.ledgers.values()
    ] == [(QTY, fee, {"BUY TAKER": 1})] * 3


def test_a_model_that_is_compared_with_itself_is_booked_once() -> None:
    it = Market(compare=["touch", "touch"])
    it.send(1, limit(1, BUY))
    it.opposite(2, BUY, PX)

    assert set(it.venue.ledgers) == {"touch"}
    assert it.venue.ledgers["touch"].bought == QTY


# ---------------------------------------------------------------- what always holds

Px = st.none() | st.integers(-3, 3)
Size = st.none() | st.integers(0, 12)
Side = st.sampled_from([BUY, SELL])
Number = st.integers(1, 8)
Steps = st.lists(
    st.one_of(
        st.tuples(st.just("quote"), Px, Px, Size, Size),
        st.tuples(st.just("trade"), st.integers(-3, 3), st.integers(1, 20),
                  st.sampled_from([BUY, SELL, 0])),
        st.tuples(st.just("limit"), Side, st.integers(-3, 3), st.integers(1, 15),
                  st.none() | st.integers(1, 30)),
        st.tuples(st.just("market"), Side, st.integers(1, 5)),
        st.tuples(st.just("cancel"), Number),
        st.tuples(st.just("modify"), Number, st.integers(-3, 3), st.integers(1, 20)),
        st.tuples(st.just("query"), Number),
    ),
    max_size=40,
)  # fmt: skip
NS = st.integers(0, 3)


@hypothesis_settings(max_examples=1_000, deadline=None, derandomize=True)
@given(
    Steps,
    st.sampled_from(["touch", "cross", "queue"]),
    st.builds(Latency, maker_ns=NS, cancel_ns=NS, taker_ns=NS),
    st.sampled_from(["standard", "plus"]),
)
def test_every_model_is_bracketed_every_order_stays_within_its_size_and_every_cent_is_accounted_for(
    steps: list[tuple[Any, ...]], primary: FillModel, latency: Latency, tier: str
) -> None:
    it = Market(fill_model=primary, latency=latency, tier=tier, compare=["cross", "queue", "touch"])
    sizes: Counter[int] = Counter()
    orders: dict[int, Create] = {}
    for ts, (kind, *details) in enumerate(steps, start=1):
        it.venue.advance(ts)
        if kind == "quote":
            bid, ask = (None if at is None else PX + at * TICK for at in details[:2])
            it.book(ts, bid, ask, *(None if sz is None else sz * TICK for sz in details[2:]))
        elif kind == "trade":
            it.trade(ts, PX + details[0] * TICK, details[1] * TICK, details[2])
        elif kind in ("limit", "market"):
            n = len(orders) + 1
            if kind == "limit":
                side, at, lots, life = details
                expire = None if life is None else ts + life
                orders[n] = limit(n, side, PX + at * TICK, lots * TICK, expire)
            else:
                orders[n] = market(n, details[0], details[1] * TICK)
            sizes[n] = orders[n].qty
            it.send(ts, orders[n])
        elif kind == "cancel":
            it.send(ts, Cancel(details[0]))
        elif kind == "query":
            it.send(ts, Query(details[0]))
        else:
            n, at, lots = details
            sizes[n] = max(sizes[n], lots * TICK)
            it.send(ts, Modify(n, PX + at * TICK, lots * TICK))
        cross, queue, touch = (it.venue.ledgers[name] for name in ("cross", "queue", "touch"))
        assert cross.bought <= queue.bought <= touch.bought
        assert cross.sold <= queue.sold <= touch.sold
    it.venue.advance(NEVER - 1)

    fills = {event.venue_id: event for event in it.answers if event.kind == "fill"}
    filled: Counter[int] = Counter()
    ends: Counter[int] = Counter()
    cash = fees = 0
    for event in fills.values():
        assert event.n is not None
        assert event.px is not None
        assert event.qty is not None
        assert event.fee is not None
        filled[event.n] += event.qty
        cash -= orders[event.n].side * event.px * event.qty
        fees += event.fee
    assert all(0 < filled[n] <= sizes[n] for n in filled)
    ledger = it.venue.ledgers[primary]
    assert (ledger.cash, ledger.fees) == (cash, fees)
    assert ledger.position == sum(orders[n].side * qty for n, qty in filled.items())
    for ledger in it.venue.ledgers.values():
        assert ledger.position == ledger.bought - ledger.sold
        assert ledger.cash + ledger.cost == ledger.realised
    # Every order got an answer, and without queries none ends twice.
    assert {event.n for event in it.answers if event.kind in ("ack", "reject")} >= set(orders)
    if not any(kind == "query" for kind, *_ in steps):
        ends.update(e.n for e in it.answers if e.n and e.kind in ("reject", "cancel", "expire"))
        assert not ends or max(ends.values()) == 1


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 30 * 10**9), st.integers(0, 3)), max_size=40),
)
def test_the_requests_that_the_venue_takes_never_pass_the_rate(
    rate: int, batches: list[tuple[int, int]]
) -> None:
    it = Market(account=VenueAccount(transactions_per_minute=rate))
    now, taken = 0, list[int]()
    for gap, size in batches:
        now += gap
        before = len(it.answers)
        it.send(now, *(Cancel(n) for n in range(1, size + 1)))
        reasons = {event.reason for event in it.answers[before:]}
        assert len(reasons) == min(size, 1), "all of a batch, or nothing"
        if reasons == {"21709 not open"}:
            taken.append(now)
    for end in taken:
        assert sum(end - 60 * 10**9 < ts <= end for ts in taken) <= rate


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
    SilentVenue().submit(1, [limit(1, BUY), Cancel(1), Modify(1, PX, QTY), Query(1)])
