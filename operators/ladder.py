"""Ladder: from a shifted centre to prices on the tick, and which sides may be quoted."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from operators.target import priced
from streams.events import Decision, Skewed
from streams.instrument import ceil_ticks, floor_ticks, may_buy, may_sell

__all__ = ["ask_price", "bid_price", "half_spread", "ladder", "position_limit"]


def half_spread(anchor: float, half_spread_bps: float) -> float:
    """Distance of each quote from the centre, in quote currency; a step."""
    return anchor * (half_spread_bps / 10_000.0)


def bid_price(anchor: float, half: float, shift: float) -> float:
    """The bid before it is rounded to the tick; a step."""
    return anchor - half + shift


def ask_price(anchor: float, half: float, shift: float) -> float:
    """The ask before it is rounded to the tick; a step."""
    return anchor + half + shift


def position_limit(max_position: int, max_notional: int | None, px: int) -> int:
    """How much may be held in either direction at a price; a step.

    Units: 1e-9 base units, 1e-9 quote currency.
    """
    if max_notional is None or px <= 0:
        return max_position
    # Divided in three steps, because max_notional × UNIT does not fit 64 bits.
    limit, rest = max_notional // px, max_notional % px
    for _ in range(3):
        rest *= 1_000
        limit, rest = limit * 1_000 + rest // px, rest % px
    return min(max_position, limit)


def ladder(
    *,
    scale: float,
    tick_size: int,
    half_spread_bps: float,
    trade_size: int,
    max_position: int,
    count_working: bool,
    max_notional: int | None = None,
    stay_passive: bool = False,
) -> Operator[Skewed, Decision]:
    """Price one level a side around the shifted anchor; bids round down, asks up.

        bid = floor_tick(anchor − half + shift)      half = anchor × half_spread_bps / 10 000
        ask = ceil_tick(anchor + half + shift)

    Both sides go if they meet or cross after rounding. A side goes if one more order on it could
    pass ``max_position``, or ``max_notional`` in value: counting the position, and with
    ``count_working`` also what still works or is in flight on that side (as the tutorial does,
    which replaces by cancelling first). The order sink holds the position limit either way.
    ``stay_passive``: a bid at or above the target's ask stands one tick below it, an ask at or
    below its bid one tick above.

    Units: scale in ticks per unit of price; tick_size and max_notional in 1e-9 quote currency;
        trade_size and max_position in 1e-9 base units.
    Shape: one out per input, synchronous: a ``quote`` with one or two sides, or a ``withdraw``.
    """

    def operator(source: Observable[Skewed]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(state: Skewed) -> None:
                anchor, inventory = state.anchor, state.inventory
                price = anchor.price
                half = half_spread(price, half_spread_bps) * anchor.widening
                bid = bid_price(price, half, state.shift)
                ask = ask_price(price, half, state.shift)
                low = floor_ticks(bid, scale) * tick_size
                high = ceil_ticks(ask, scale) * tick_size
                bid_px: int | None = None
                ask_px: int | None = None
                bid_note = ask_note = None
                reason = ""
                if low >= high:
                    reason = "crossed after rounding"
                else:
                    if stay_passive:
                        low = min(low, anchor.ask_px - tick_size)
                        high = max(high, anchor.bid_px + tick_size)
                    worst_long = worst_short = inventory.position
                    if count_working:
                        worst_long += inventory.working_buy
                        worst_short -= inventory.working_sell
                    limit = position_limit(max_position, max_notional, anchor.ask_px)
                    note = "position limit" if limit == max_position else "notional limit"
                    if not may_buy(worst_long, trade_size, limit):
                        bid_note = note
                    elif low <= 0:
                        bid_note = "no positive price"
                    else:
                        bid_px = low
                    if not may_sell(worst_short, trade_size, limit):
                        ask_note = note
                    elif high <= 0:
                        ask_note = "no positive price"
                    else:
                        ask_px = high
                emit(
                    priced(
                        state, half=half, bid=bid, ask=ask, bid_px=bid_px, ask_px=ask_px,
                        qty=trade_size, bid_note=bid_note, ask_note=ask_note, reason=reason,
                    )
                )  # fmt: skip

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
