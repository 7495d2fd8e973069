"""Target: the decision that priced levels lead to, with everything that it was made from."""

from streams.events import Decision, Skewed

__all__ = ["priced"]


def priced(
    state: Skewed,
    *,
    half: float,
    bid: float,
    ask: float,
    bid_px: int | None,
    ask_px: int | None,
    qty: int,
    bid_levels: int = 1,
    ask_levels: int = 1,
    level_step: int = 0,
    bid_note: str | None,
    ask_note: str | None,
    reason: str = "",
) -> Decision:
    """Make a ``quote`` of what may be quoted, or a ``withdraw`` if that is nothing.

    Units: half, bid and ask (before rounding) in quote currency; the rest 1e-9.
    """
    signal, anchor = state.signal, state.anchor
    nothing = bid_px is None and ask_px is None
    return Decision(
        seq=max(signal.seq, anchor.seq),
        ts=max(signal.ts, anchor.ts),
        action="withdraw" if nothing else "quote",
        reason=(reason or bid_note or ask_note or "") if nothing else "",
        signal_seq=signal.seq or None,
        signal_ts=signal.ts if signal.seq else None,
        signal_mid=signal.mid if signal.seq else None,
        baseline=signal.baseline if signal.seq else None,
        residual=signal.residual,
        target_seq=anchor.seq,
        target_ts=anchor.ts,
        target_mid=anchor.mid,
        target_bid_px=anchor.bid_px,
        target_ask_px=anchor.ask_px,
        anchor=anchor.price,
        position=state.inventory.position,
        signal_shift=state.signal_shift,
        inventory_shift=state.inventory_shift,
        shift=state.shift,
        half_spread=half,
        bid=bid,
        ask=ask,
        bid_px=bid_px,
        ask_px=ask_px,
        bid_levels=0 if bid_px is None else bid_levels,
        ask_levels=0 if ask_px is None else ask_levels,
        level_step=level_step,
        qty=qty,
        bid_note=bid_note,
        ask_note=ask_note,
    )
