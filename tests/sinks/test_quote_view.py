"""The quote view: what works for us now, as a trader wants to see it."""

from sinks.journal import Ledger
from sinks.order_sink import OrderSink
from sinks.quote_view import QuoteView, WorkingQuote, quote_view
from streams.events import BUY, SELL, AccountEvent, Decision
from streams.instrument import UNIT

BID, ASK, TICK, QTY = 100 * UNIT, 101 * UNIT, UNIT // 10, 5 * UNIT


class Nowhere:
    def submit(self, ts: int, commands: object) -> None:
        pass


def working_sink() -> OrderSink:
    """Two bids and two asks; the outer bid and the inner ask are acknowledged."""
    sink = OrderSink(
        Nowhere(),
        max_position=100 * UNIT,
        notify=lambda update: None,
        on_order=lambda order: None,
        on_fill=lambda order, event: None,
        on_decision=lambda decision: None,
    )
    sink.on_next(
        Decision(
            seq=1, ts=1, action="quote", anchor=100.5, bid_px=BID, bid_levels=2, ask_px=ASK,
            ask_levels=2, level_step=TICK, qty=QTY,
        )
    )  # fmt: skip
    for n in (2, 3):
        sink.on_account(AccountEvent(seq=2, ts=2, kind="ack", n=n))
    return sink


def test_nothing_works_before_the_first_decision() -> None:
    sink = OrderSink(
        Nowhere(),
        max_position=1,
        position=3,
        notify=lambda update: None,
        on_order=lambda order: None,
        on_fill=lambda order, event: None,
        on_decision=lambda decision: None,
    )

    assert quote_view(sink, Ledger(), tick_size=TICK) == QuoteView(
        bids=(), asks=(), pending_acks=0, total_bid_qty=0, total_ask_qty=0, fair_value=None,
        position=3, pnl=0,
    )  # fmt: skip


def test_quotes_are_listed_from_the_inside_out_with_what_is_left_of_them() -> None:
    sink = working_sink()
    sink.on_account(
        AccountEvent(seq=3, ts=3, kind="fill", n=3, venue_id="a", px=ASK, qty=2 * UNIT, fee=0)
    )

    view = quote_view(sink, Ledger())

    assert view.bids == (
        WorkingQuote(1, BID, QTY, "pending_new"),
        WorkingQuote(2, BID - TICK, QTY, "open"),
    )
    assert view.asks == (
        WorkingQuote(3, ASK, QTY - 2 * UNIT, "open"),
        WorkingQuote(4, ASK + TICK, QTY, "pending_new"),
    )
    assert (view.pending_acks, view.total_bid_qty, view.total_ask_qty) == (2, 2 * QTY, 8 * UNIT)
    assert (view.fair_value, view.position) == (100.5, -2 * UNIT)


def test_a_newer_order_inside_an_older_one_comes_first() -> None:
    sink = working_sink()
    sink.on_next(
        Decision(
            seq=4, ts=4, action="quote", anchor=100.5, bid_px=BID + TICK, bid_levels=3,
            ask_px=ASK - TICK, ask_levels=3, level_step=TICK, qty=QTY,
        )
    )  # fmt: skip

    view = quote_view(sink, Ledger())

    assert [quote.px for quote in view.bids] == [BID + TICK, BID, BID - TICK]
    assert [quote.px for quote in view.asks] == [ASK - TICK, ASK, ASK + TICK]


def test_the_profit_values_the_position_at_fair_value_after_fees() -> None:
    sink, ledger = working_sink(), Ledger()
    ledger.take(BUY, BID, 2 * UNIT, 3, "MAKER")

    view = quote_view(sink, ledger, tick_size=TICK, tick_value=2.5)

    assert view.pnl == 2 * (UNIT // 2) - 3
    assert view.pnl_tick_value == view.pnl / TICK * 2.5
    assert quote_view(sink, ledger, tick_size=TICK).pnl_tick_value is None
    assert quote_view(sink, ledger, tick_value=2.5).pnl_tick_value is None


def test_a_market_order_is_among_the_quotes_until_it_is_done() -> None:
    sink = working_sink()
    sink.orders.create(5, SELL, None, UNIT)

    assert quote_view(sink, Ledger()).asks[0] == WorkingQuote(5, None, UNIT, "pending_new")
