"""Steps: the operators' own formulas, compiled. There is no second copy of any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.extending import register_jitable

from operators import (
    anchor,
    books,
    ladder,
    mid,
    requote,
    residual,
    skew,
    throttle,
    tick_ladder,
)
from operators.guards import age, basis, collar, event_time, frozen, risk, split
from streams import instrument

__all__ = ["step"]


def step(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a step as it is; those that it calls must be registered below."""
    compiled: Callable[..., Any] = njit(function)
    return compiled


# A step that calls another finds it in its module's globals; numba takes it there as it is.
for callee in (
    collar.jump_bps,
    instrument.round_ticks,
    instrument.value_parts,
    requote.moved,
    tick_ladder.edge,
):
    register_jitable(callee)

anchor_price = step(anchor.anchor_price)
anchor_price_1e16 = step(anchor.anchor_price_1e16)
book_fault = step(books.book_fault)
mid_price = step(mid.mid_price)
mid_price_1e16 = step(mid.mid_price_1e16)
residual_of = step(residual.residual_of)
ewma_weight = step(residual.ewma_weight)
ewma_of = step(residual.ewma_of)
signal_shift = step(skew.signal_shift)
inventory_shift = step(skew.inventory_shift)
total_shift = step(skew.total_shift)
half_spread = step(ladder.half_spread)
bid_price = step(ladder.bid_price)
ask_price = step(ladder.ask_price)
moved = step(requote.moved)
release_ns = step(throttle.release_ns)
levels_through = step(throttle.levels_through)
skew_ticks = step(tick_ladder.skew_ticks)
half_spread_px = step(tick_ladder.half_spread_px)
levels_too_near = step(tick_ladder.levels_too_near)
levels_in_reach = step(tick_ladder.levels_in_reach)
levels_in_room = step(tick_ladder.levels_in_room)
round_ticks = step(instrument.round_ticks)
life = step(age.life)
age_limit_ns = step(age.age_limit_ns)
basis_bps = step(basis.basis_bps)
believed = step(collar.believed)
jump_bps = step(collar.jump_bps)
seconds_ahead = step(event_time.seconds_ahead)
frozen_too_long = step(frozen.is_frozen)
split_of = step(split.split_of)
floor_ticks = step(instrument.floor_ticks)
ceil_ticks = step(instrument.ceil_ticks)
value_parts = step(instrument.value_parts)
pnl_in_parts = step(instrument.pnl_in_parts)
fee_in_parts = step(instrument.fee_in_parts)
notional = step(risk.notional)
position_limit = step(ladder.position_limit)
may_buy = step(instrument.may_buy)
may_sell = step(instrument.may_sell)
