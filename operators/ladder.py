"""Ladder: from a shifted centre to prices on the tick, and which sides may be quoted."""

from reactivex import Observable, abc

from operators.operator import Operator
from streams.events import Decision, Skewed
from streams.instrument import ceil_ticks, floor_ticks, may_buy, may_sell

__all__ = ["ask_price", "bid_price", "half_spread", "ladder"]


def half_spread(anchor: float, half_spread_bps: float) -> float:
    """Distance of each quote from the centre, in quote currency; a step."""
    return anchor * (half_spread_bps / 10_000.0)


def bid_price(anchor: float, half: float, shift: float) -> float:
    """The bid before it is rounded to the tick; a step."""
    return anchor - half + shift


def ask_price(anchor: float, half: float, shift: float) -> float:
    """The ask before it is rounded to the tick; a step."""
    return anchor + half + shift


def ladder(
    *,
    scale: float,
    tick_size: int,
    half_spread_bps: float,
    trade_size: int,
    max_position: int,
    count_working: bool,
) -> Operator[Skewed, Decision]:
    """Price one level a side around the shifted anchor; bids round down, asks up.

        bid = floor_tick(anchor − half + shift)      half = anchor × half_spread_bps / 10 000
        ask = ceil_tick(anchor + half + shift)

    Both sides go if they meet or cross after rounding. A side goes if one more order on it could
    pass ``max_position``: counting the position, and with ``count_working`` also what still works
    or is in flight on that side (as the tutorial does, which replaces by cancelling first). The
    order sink holds the limit either way.

    Units: scale in ticks per unit of price; tick_size in 1e-9 quote currency; trade_size and
        max_position in 1e-9 base units.
    Shape: one out per input, synchronous: a ``quote`` with one or two sides, or a ``withdraw``.
    """

    def operator(source: Observable[Skewed]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(state: Skewed) -> None:
                anchor, inventory, signal = state.anchor, state.inventory, state.signal
                price = anchor.price
                half = half_spread(price, half_spread_bps)
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
                    worst_long = worst_short = inventory.position
                    if count_working:
                        worst_long += inventory.working_buy
                        worst_short -= inventory.working_sell
                    if not may_buy(worst_long, trade_size, max_position):
                        bid_note = "position limit"
                    elif low <= 0:
                        bid_note = "no positive price"
                    else:
                        bid_px = low
                    if not may_sell(worst_short, trade_size, max_position):
                        ask_note = "position limit"
                    elif high <= 0:
                        ask_note = "no positive price"
                    else:
                        ask_px = high
                    if bid_px is None and ask_px is None:
                        reason = bid_note or "position limit"
                emit(
                    Decision(
                        seq=max(signal.seq, anchor.seq),
                        ts=max(signal.ts, anchor.ts),
                        action="withdraw" if bid_px is None and ask_px is None else "quote",
                        reason=reason,
                        signal_seq=signal.seq or None,
                        signal_ts=signal.ts if signal.seq else None,
                        signal_mid=signal.mid if signal.seq else None,
                        baseline=signal.baseline if signal.seq else None,
                        residual=signal.residual,
                        target_seq=anchor.seq,
                        target_ts=anchor.ts,
                        target_mid=anchor.mid,
                        anchor=price,
                        position=inventory.position,
                        signal_shift=state.signal_shift,
                        inventory_shift=state.inventory_shift,
                        shift=state.shift,
                        half_spread=half,
                        bid=bid,
                        ask=ask,
                        bid_px=bid_px,
                        ask_px=ask_px,
                        qty=trade_size,
                        bid_note=bid_note,
                        ask_note=ask_note,
                    )
                )

            return source.subscribe(
                on_next, observer.on_error, observer.on_completed, scheduler=scheduler
            )

        return Observable(subscribe)

    return operator
