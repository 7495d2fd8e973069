"""The quote view: what works for us now, as a trader wants to see it."""

from msgspec import Struct

from sinks.journal import Ledger
from sinks.order_sink import OrderSink
from sinks.orders import PENDING_NEW, Order
from streams.events import BUY, SELL
from streams.instrument import UNIT

__all__ = ["QuoteView", "WorkingQuote", "quote_view"]


class WorkingQuote(Struct, frozen=True):
    """One order that is open or in flight."""

    n: int
    px: int | None
    """1e-9 quote currency."""
    leaves: int
    """1e-9 base units."""
    state: str


class QuoteView(Struct, frozen=True):
    """Working quotes and what they rest on."""

    bids: tuple[WorkingQuote, ...]
    """Highest price first."""
    asks: tuple[WorkingQuote, ...]
    """Lowest price first."""
    pending_acks: int
    """Orders that the venue has not acknowledged yet."""
    total_bid_qty: int
    """Leaves of all bids, 1e-9 base units."""
    total_ask_qty: int
    fair_value: float | None
    """What the latest decision was centred on, quote currency."""
    position: int
    """1e-9 base units, long positive."""
    pnl: int
    """After fees, the position at fair value, 1e-9 quote currency."""
    pnl_tick_value: float | None = None
    """The same counted in ticks times the value of a tick, where the strategy has one."""


def quote_view(
    sink: OrderSink,
    ledger: Ledger,
    *,
    tick_size: int | None = None,
    tick_value: float | None = None,
) -> QuoteView:
    """Look at a sink's orders and its ledger at this instant.

    ``pnl_tick_value`` = P&L / tick × tick_value, where both are given (tick_size in 1e-9).
    """
    fair = None if sink.fair_value is None else round(sink.fair_value * UNIT)
    bids = sorted(sink.orders.on_side(BUY), key=lambda order: -(order.px or 0))
    asks = sorted(sink.orders.on_side(SELL), key=lambda order: order.px or 0)
    pnl = ledger.pnl(fair)
    return QuoteView(
        bids=tuple(map(_working, bids)),
        asks=tuple(map(_working, asks)),
        pending_acks=sum(order.state == PENDING_NEW for order in (*bids, *asks)),
        total_bid_qty=sum(order.leaves for order in bids),
        total_ask_qty=sum(order.leaves for order in asks),
        fair_value=sink.fair_value,
        position=sink.orders.position,
        pnl=pnl,
        pnl_tick_value=(
            pnl / tick_size * tick_value
            if tick_size is not None and tick_value is not None
            else None
        ),
    )


def _working(order: Order) -> WorkingQuote:
    return WorkingQuote(order.n, order.px, order.leaves, order.state)
