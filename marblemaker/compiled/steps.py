"""Steps: the operators' own formulas, compiled. There is no second copy of any of them."""

from __future__ import annotations

from numba.extending import register_jitable

from marblemaker.compiled.machine import compiled
from operators import (
    anchor,
    books,
    budget,
    ladder,
    mid,
    requote,
    residual,
    skew,
    throttle,
    tick_ladder,
    weighted,
    without_own,
)
from operators.guards import age, basis, collar, event_time, frozen, risk, split
from streams import instrument

# A step that calls another finds it in its module's globals; numba takes it there as it is.
for callee in (
    collar.jump_bps,
    instrument.round_ticks,
    instrument.value_parts,
    requote.moved,
    tick_ladder.edge,
):
    register_jitable(callee)

anchor_price = compiled(anchor.anchor_price)
anchor_price_1e16 = compiled(anchor.anchor_price_1e16)
book_fault = compiled(books.book_fault)
mid_price = compiled(mid.mid_price)
mid_price_1e16 = compiled(mid.mid_price_1e16)
residual_of = compiled(residual.residual_of)
ewma_weight = compiled(residual.ewma_weight)
ewma_of = compiled(residual.ewma_of)
signal_shift = compiled(skew.signal_shift)
inventory_shift = compiled(skew.inventory_shift)
total_shift = compiled(skew.total_shift)
half_spread = compiled(ladder.half_spread)
bid_price = compiled(ladder.bid_price)
ask_price = compiled(ladder.ask_price)
moved = compiled(requote.moved)
weighted_sum = compiled(weighted.weighted_sum)
others_size = compiled(without_own.others_size)
widened_bps = compiled(requote.widened_bps)
widening = compiled(budget.widening)
accrued = compiled(budget.accrued)
usable_a_minute = compiled(budget.usable_a_minute)
saved_after_ns = compiled(budget.saved_after_ns)
release_ns = compiled(throttle.release_ns)
levels_through = compiled(throttle.levels_through)
skew_ticks = compiled(tick_ladder.skew_ticks)
half_spread_px = compiled(tick_ladder.half_spread_px)
levels_too_near = compiled(tick_ladder.levels_too_near)
levels_in_reach = compiled(tick_ladder.levels_in_reach)
levels_in_room = compiled(tick_ladder.levels_in_room)
round_ticks = compiled(instrument.round_ticks)
life = compiled(age.life)
age_limit_ns = compiled(age.age_limit_ns)
basis_bps = compiled(basis.basis_bps)
believed = compiled(collar.believed)
jump_bps = compiled(collar.jump_bps)
seconds_ahead = compiled(event_time.seconds_ahead)
frozen_too_long = compiled(frozen.is_frozen)
split_of = compiled(split.split_of)
floor_ticks = compiled(instrument.floor_ticks)
ceil_ticks = compiled(instrument.ceil_ticks)
value_parts = compiled(instrument.value_parts)
pnl_in_parts = compiled(instrument.pnl_in_parts)
fee_in_parts = compiled(instrument.fee_in_parts)
notional = compiled(risk.notional)
position_limit = compiled(ladder.position_limit)
may_buy = compiled(instrument.may_buy)
may_sell = compiled(instrument.may_sell)
