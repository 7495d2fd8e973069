"""Prices: skew, ladder and tick_ladder; from a state that is worth it to a drafted decision."""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.layout import World
from marblemaker.compiled.machine import compiled
from streams.events import BUY, SELL
from streams.instrument import UNIT

__all__ = ["price"]

NULL = t.NULL_WORD
_FAR = 9e8
"""Prices beyond it, in quote currency, are more than the loop counts with."""
_WORTH = 2e9
"""So is a position of more than this, in quote currency."""


@compiled
def price(w: World, i: int, j: int) -> None:
    """Draft the decision that a state is priced to: a quote, or a withdrawal."""
    p, s = w.parameters[0], w.state[0]
    signal, anchor = w.values[i], w.values[j]
    w.draft[0] = w.blank[0]
    d = w.draft[0]
    d.seq = max(signal.seq, anchor.seq)
    if signal.seq:
        d.signal_seq, d.signal_ts = signal.seq, signal.ts
        d.signal_mid, d.baseline = signal.mid, signal.level
    d.residual = signal.residual
    d.target_seq, d.target_ts, d.target_mid = anchor.seq, anchor.ts, anchor.mid
    d.target_bid_px, d.target_ask_px, d.anchor = anchor.bid_px, anchor.ask_px, anchor.level
    d.position = s.net
    # The ladder counts its inventory in ticks, see below.
    factor = 0.0 if p.ladder else p.inventory_skew_factor
    d.signal_shift = steps.signal_shift(p.signal_skew_factor, signal.residual)
    d.inventory_shift = steps.inventory_shift(factor, s.net)
    d.shift = steps.total_shift(d.signal_shift, d.inventory_shift)
    d.qty = p.trade_size
    if p.max_position / 1e9 * (anchor.level + abs(d.shift)) > _WORTH:
        s.trouble = 2
        return
    if p.ladder:
        price_levels(w, anchor)
    else:
        price_one_level(w, anchor)
    nothing = d.bid_px == NULL and d.ask_px == NULL
    d.action = t.WITHDRAW if nothing else t.QUOTE
    if not nothing:
        d.reason = t.EMPTY
    elif d.reason == t.EMPTY and d.bid_note != NULL:
        d.reason = d.bid_note
    elif d.reason == t.EMPTY and d.ask_note != NULL:
        d.reason = d.ask_note


@compiled
def room_at(p: Any, most: int, px: int) -> int:
    """How much may be held in either direction when a unit is worth ``px``."""
    # Where a unit is worth next to nothing, the limit in units does not fit 64 bits.
    if p.risk_notional >= 0 and p.risk_notional // max(px, 1) < UNIT:
        return steps.position_limit(most, p.risk_notional, px)
    return most


@compiled
def price_one_level(w: World, anchor: Any) -> None:
    """Price one level a side; see ``operators.ladder``."""
    p, s, d = w.parameters[0], w.state[0], w.draft[0]
    d.half_spread = steps.half_spread(anchor.level, p.half_spread_bps) * anchor.widening
    d.bid = steps.bid_price(anchor.level, d.half_spread, d.shift)
    d.ask = steps.ask_price(anchor.level, d.half_spread, d.shift)
    if not (-_FAR < d.bid < _FAR and -_FAR < d.ask < _FAR):
        s.trouble = 2
        return
    low = steps.floor_ticks(d.bid, p.scale) * p.tick_size
    high = steps.ceil_ticks(d.ask, p.scale) * p.tick_size
    if low >= high:
        d.reason = t.CROSSED_AFTER
        return
    if p.stay_passive:
        low = min(low, anchor.ask_px - p.tick_size)
        high = max(high, anchor.bid_px + p.tick_size)
    worst_long = worst_short = s.net
    if p.count_working:
        worst_long += s.buys
        worst_short -= s.sells
    limit = room_at(p, p.max_position, anchor.ask_px)
    note = t.POSITION_LIMIT if limit == p.max_position else t.NOTIONAL_LIMIT
    if not steps.may_buy(worst_long, p.trade_size, limit):
        d.bid_note = note
    elif low <= 0:
        d.bid_note = t.NO_POSITIVE
    else:
        d.bid_px, d.bid_levels = low, 1
    if not steps.may_sell(worst_short, p.trade_size, limit):
        d.ask_note = note
    elif high <= 0:
        d.ask_note = t.NO_POSITIVE
    else:
        d.ask_px, d.ask_levels = high, 1


@compiled
def levels_of(
    p: Any, side: int, first: int, fair: int, best: int, opposite: int, room: int
) -> tuple[int, int, int]:
    """First price, number of levels, and what cut them."""
    inner = steps.levels_too_near(
        side, first, p.tick, p.num_levels, fair, opposite, p.least_edge, p.maker_ppm
    )
    px = first - side * p.tick * inner
    left = p.num_levels - inner
    near = steps.levels_in_reach(side, px, p.tick, left, best, p.reach)
    count = min(near, room)
    positive = left
    if side == BUY:
        positive = max(0, (px + p.tick - 1) // p.tick)
    note = NULL
    if positive < count:
        count, note = positive, t.NO_POSITIVE
    elif count < left:
        note = t.CANCEL_DISTANCE if near < room else t.POSITION_LIMIT
    elif inner:
        note = t.EDGE
    return px if count > 0 else NULL, count if count > 0 else 0, note


@compiled
def price_levels(w: World, anchor: Any) -> None:
    """Price several levels a side, in ticks; see ``operators.tick_ladder``."""
    p, s, d = w.parameters[0], w.state[0], w.draft[0]
    fair = steps.round_ticks(anchor.level, p.scale) * p.tick_size
    low = high = fair
    if d.signal_shift:
        shifted = anchor.level + d.signal_shift
        if not -_FAR < shifted < _FAR:
            s.trouble = 2
            return
        low = steps.floor_ticks(shifted, p.scale) * p.tick_size
        high = steps.ceil_ticks(shifted, p.scale) * p.tick_size
    half = steps.half_spread_px(p.base_spread_ticks, p.tick) // p.tick_size * p.tick_size
    if anchor.widening != 1.0:
        half = int(half * anchor.widening) // p.tick_size * p.tick_size
    down = p.tick * steps.skew_ticks(
        s.net, p.max_inventory, p.inventory_skew_factor, p.base_spread_ticks
    )
    limit = room_at(p, min(p.max_position, p.max_inventory), anchor.ask_px)
    bid, ask = low - half - down, high + half - down
    d.half_spread, d.bid, d.ask, d.level_step = half / 1e9, bid / 1e9, ask / 1e9, p.tick
    d.bid_px, d.bid_levels, d.bid_note = levels_of(
        p, BUY, bid, fair, anchor.bid_px, anchor.ask_px,
        steps.levels_in_room(BUY, s.net, p.trade_size, limit),
    )  # fmt: skip
    d.ask_px, d.ask_levels, d.ask_note = levels_of(
        p, SELL, ask, fair, anchor.ask_px, anchor.bid_px,
        steps.levels_in_room(SELL, s.net, p.trade_size, limit),
    )  # fmt: skip
