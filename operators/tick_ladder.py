"""Tick ladder: several levels a side, counted in ticks, the second strategy's prices."""

from reactivex import Observable, abc

from operators.ladder import position_limit
from operators.operator import Link, Operator, link
from operators.target import priced
from streams.events import BUY, SELL, Decision, Skewed
from streams.instrument import ceil_ticks, floor_ticks, round_ticks

__all__ = [
    "edge",
    "half_spread_px",
    "levels_in_reach",
    "levels_in_room",
    "levels_too_near",
    "skew_ticks",
    "tick_ladder",
]


def skew_ticks(
    position: int, max_inventory: int, inventory_skew_factor: float, base_spread_ticks: int
) -> int:
    """Whole ticks by which both sides go down when long, up when short; a step.

    trunc(clamp(position / max_inventory, −1, 1) × inventory_skew_factor × base_spread_ticks)
    """
    ratio = position / max_inventory
    if ratio > 1.0:
        ratio = 1.0
    elif ratio < -1.0:
        ratio = -1.0
    return int(ratio * inventory_skew_factor * base_spread_ticks)


def half_spread_px(base_spread_ticks: int, tick: int) -> int:
    """Distance of the first level from the centre, in the unit of ``tick``; a step."""
    return base_spread_ticks * tick // 2


def edge(side: int, fair: int, px: int, maker_fee_ppm: int) -> int:
    """What a fill at ``px`` earns against ``fair`` after the maker's fee, 1e-9 a unit; a step.

    The fee is rounded up.
    """
    return side * (fair - px) + -px * maker_fee_ppm // 1_000_000


def levels_too_near(
    side: int, px: int, step: int, levels: int, fair: int, opposite: int, min_edge: int, ppm: int
) -> int:
    """How many of the first levels lack the edge, or would meet the opposite best; a step.

    Both get better with each level: bids go down, asks up.
    """
    for i in range(levels):
        level = px - side * step * i
        if side * (opposite - level) > 0 and edge(side, fair, level, ppm) >= min_edge:
            return i
    return levels


def levels_in_reach(side: int, px: int, step: int, levels: int, best: int, distance: int) -> int:
    """How many of the levels are within ``distance`` of the best price of their side; a step."""
    for i in range(levels):
        if side * (best - (px - side * step * i)) > distance:
            return i
    return levels


def levels_in_room(side: int, position: int, size: int, limit: int) -> int:
    """How many orders of a side may all fill without passing the limit; a step."""
    room = limit - side * position
    return room // size if room > 0 else 0


def tick_ladder(
    *,
    scale: float,
    tick_size: int,
    tick: int,
    base_spread_ticks: int,
    inventory_skew_factor: float,
    max_inventory: int,
    max_position: int,
    order_size: int,
    num_levels: int,
    min_edge_ticks: int,
    cancel_distance_ticks: int,
    maker_fee_ppm: int = 0,
    max_notional: int | None = None,
) -> Operator[Skewed, Decision]:
    """Price ``num_levels`` a side, one tick apart, around the anchor and the shift of the signal.

        half = base_spread_ticks × tick // 2 in whole venue ticks      skew = ``skew_ticks`` × tick
        bid i = floor(anchor + signal_shift) − half − skew − i × tick
        ask i = ceil(anchor + signal_shift) + half − skew + i × tick

    A level goes if a fill of it would earn less than ``min_edge_ticks`` against the anchor after
    the maker's fee, if it would meet the opposite best price, if it lies further than
    ``cancel_distance_ticks`` from the best price of its side, or if all levels before it and it
    could take the position past the limit. These cut at the inner and the outer end only, so the
    levels that are left stand one tick apart.

    Units: ``tick`` (the strategy's) and ``tick_size`` (the venue's) in 1e-9 quote currency, scale
        in venue ticks per unit of price; sizes 1e-9 base units; fee in millionths.
    Shape: one out per input, synchronous: a ``quote`` or a ``withdraw``.
    """
    reach, least_edge = cancel_distance_ticks * tick, min_edge_ticks * tick
    plain_half = half_spread_px(base_spread_ticks, tick) // tick_size * tick_size

    def operator(source: Observable[Skewed]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def side_of(
                side: int, first: int, fair: int, best: int, opposite: int, room: int
            ) -> tuple[int | None, int, str | None]:
                """First price, number of levels, and what cut them."""
                inner = levels_too_near(
                    side, first, tick, num_levels, fair, opposite, least_edge, maker_fee_ppm
                )
                px = first - side * tick * inner
                left = num_levels - inner
                near = levels_in_reach(side, px, tick, left, best, reach)
                count = min(near, room)
                positive = left
                if side == BUY:
                    positive = max(0, (px + tick - 1) // tick)
                note = None
                if positive < count:
                    count, note = positive, "no positive price"
                elif count < left:
                    note = "cancel distance" if near < room else "position limit"
                elif inner:
                    note = "edge"
                return (px if count > 0 else None), count, note

            def on_next(state: Skewed) -> None:
                anchor, position = state.anchor, state.inventory.position
                fair = round_ticks(anchor.price, scale) * tick_size
                low = high = fair
                if state.signal_shift:
                    low = floor_ticks(anchor.price + state.signal_shift, scale) * tick_size
                    high = ceil_ticks(anchor.price + state.signal_shift, scale) * tick_size
                half = plain_half
                if anchor.widening != 1.0:
                    wide = plain_half * anchor.widening
                    half = int(wide) // tick_size * tick_size
                down = tick * skew_ticks(
                    position, max_inventory, inventory_skew_factor, base_spread_ticks
                )
                limit = position_limit(
                    min(max_position, max_inventory), max_notional, anchor.ask_px
                )
                bid_px, bids, bid_note = side_of(
                    BUY, low - half - down, fair, anchor.bid_px, anchor.ask_px,
                    levels_in_room(BUY, position, order_size, limit),
                )  # fmt: skip
                ask_px, asks, ask_note = side_of(
                    SELL, high + half - down, fair, anchor.ask_px, anchor.bid_px,
                    levels_in_room(SELL, position, order_size, limit),
                )  # fmt: skip
                emit(
                    priced(
                        state, half=half / 1e9, bid=(low - half - down) / 1e9,
                        ask=(high + half - down) / 1e9, bid_px=bid_px, ask_px=ask_px,
                        bid_levels=bids, ask_levels=asks, level_step=tick, qty=order_size,
                        bid_note=bid_note, ask_note=ask_note,
                    )
                )  # fmt: skip

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
