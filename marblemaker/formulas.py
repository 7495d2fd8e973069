"""Formulas: how a decision's numbers follow from one another, with the numbers put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from marblemaker.settings import Settings
from operators.anchor import anchor_price
from operators.ladder import half_spread
from operators.mid import mid_price, mid_price_1e16
from operators.residual import ewma_of, ewma_weight, residual_of
from operators.tick_ladder import skew_ticks
from streams.instrument import ceil_ticks, floor_ticks, format_units, round_ticks

__all__ = ["Formula", "baseline_formula", "formulas", "mid_formula", "number", "residual_formula"]


class Formula(Struct, frozen=True):
    """One step from numbers to a number."""

    name: str
    """What it gives: ``shift``, ``bid``, ``bid price``."""
    text: str
    """The formula with its numbers and what comes out: ``55.0 × 0.00132 − 2.0 × 0.05 = −0.0274``.

    Every number is written so that reading it gives the same double, ``−`` is the minus sign, and
    in doubles, from left to right, the left of the ``=`` gives its right bit for bit. Functions:
    ``floor_tick(x, tick)``, ``ceil_tick`` and ``round_tick`` (``streams.instrument``), ``nearest``
    whole number, ``trunc``, ``min`` and ``max``; ``//`` is the quotient rounded down.
    """
    value: float
    """The right of it; a price in quote currency."""


def number(value: float) -> str:
    """Write a number so that reading it gives the same one.

    >>> number(-0.0274), number(7)
    ('−0.0274', '7')
    """
    return repr(value).replace("-", "−")


def formulas(
    row: Mapping[str, Any],
    settings: Settings,
    *,
    residuals: Sequence[float] = (),
) -> list[Formula]:
    """Spell out how one row of ``decisions.parquet`` came to its prices, in the order of the graph.

    ``residuals``: those of several signals, which the row does not hold; without them the formula
    of the weighted one is left out.

    Shape: none for a row that was not priced (a refusal).
    """
    if row.get("anchor") is None:
        return []
    found = [*_target(row, settings), *_signal(row, settings, residuals)]
    price = _ladder if settings.strategy.preset == "ladder" else _sides
    found += price(row, settings)
    if row["action"] == "retract":
        # Its prices are those of what was sent before, as far as that may stand.
        found = [one for one in found if not one.name.endswith(" price")]
    return found


def mid_formula(name: str, bid_px: int, ask_px: int, *, tutorial: bool) -> Formula:
    """The middle of a book, in the arithmetic of the preset."""
    # As doubles they are not always the nearest ones to the decimals: see ``mid_price_1e16``.
    middle = mid_price_1e16 if tutorial else mid_price
    low, high = middle(bid_px, bid_px), middle(ask_px, ask_px)
    return _is(name, f"({number(low)} + {number(high)}) / 2", middle(bid_px, ask_px))


def baseline_formula(
    name: str, before: float, mid: float, elapsed_ns: int, half_life_ns: int
) -> Formula:
    """An averaging baseline: what is left of the one before, and the mid that held since."""
    weight = ewma_weight(elapsed_ns, half_life_ns)
    left = f"{number(weight)} × {number(before)} + (1.0 − {number(weight)}) × {number(mid)}"
    return _is(name, left, ewma_of(weight, before, mid))


def residual_formula(name: str, mid: float, baseline: float) -> Formula:
    """How far a signal stands from its baseline."""
    left = f"{number(mid)} / {number(baseline)} − 1"
    return _is(name, left, residual_of(mid, baseline))


def _is(name: str, left: str, value: float, right: str | None = None) -> Formula:
    return Formula(name, f"{left} = {number(value) if right is None else right}", value)


def _price(name: str, left: str, px: int) -> Formula:
    return _is(name, left, px / 1e9, format_units(px).replace("-", "−"))


# ---------------------------------------------------------------- both feeds


def _target(row: Mapping[str, Any], settings: Settings) -> list[Formula]:
    bid, ask, mid = row["target_bid_px"], row["target_ask_px"], row["target_mid"]
    found: list[Formula] = []
    preset, tick = settings.strategy.preset, _tick(settings)
    if mid is not None and bid is not None and ask is not None:
        found.append(mid_formula("target mid", bid, ask, tutorial=preset == "tutorial"))
    if preset == "fair_value" and row["signal_mid"] is not None:
        left = f"round_tick({number(row['signal_mid'])}, {tick})"
        return [*found, _is("anchor", left, row["anchor"])]
    if mid is not None:
        left, scale = f"round_tick({number(mid)}, {tick})", settings.target_instrument.price_scale
        if row["anchor"] != anchor_price(mid, scale):
            # The tutorial's, which counts in 1e-16 and at large prices loses the last bits.
            left = f"nearest({number(mid)} × {number(scale)}) × {number(1e16 / scale)} / 1e+16"
        found.append(_is("anchor", left, row["anchor"]))
    return found


def _signal(
    row: Mapping[str, Any], settings: Settings, residuals: Sequence[float]
) -> list[Formula]:
    mid, baseline, residual = row["signal_mid"], row["baseline"], row["residual"]
    if mid is None or baseline is None:
        return []  # No signal takes part: the residual is 0.
    if len(settings.weights) == 1:
        return [residual_formula("residual", mid, baseline)]
    if len(residuals) != len(settings.weights):
        return []
    terms = zip(settings.weights, residuals, strict=True)
    sum_ = " + ".join(f"{number(weight)} × {number(one)}" for weight, one in terms)
    return [_is("residual", f"0.0 + {sum_}", residual)]


def _tick(settings: Settings) -> str:
    return format_units(settings.target_instrument.tick_size)


# ---------------------------------------------------------------- one level a side


def _sides(row: Mapping[str, Any], settings: Settings) -> list[Formula]:
    anchor, half, shift = row["anchor"], row["half_spread"], row["shift"]
    bps = settings.strategy.half_spread_bps
    left = (
        f"{number(settings.signal_skew_factor)} × {number(row['residual'])} − "
        f"{number(settings.inventory_skew_factor)} × {number(row['position'] / 1e9)}"
    )
    wide = f"{number(anchor)} × ({number(bps)} / 10000.0)"
    if half != half_spread(anchor, bps):
        wide += f" × {number(settings.session.widening)}"
    found = [
        _is("shift", left, shift),
        _is("half-spread", wide, half),
        _is("bid", f"{number(anchor)} − {number(half)} + {number(shift)}", row["bid"]),
        _is("ask", f"{number(anchor)} + {number(half)} + {number(shift)}", row["ask"]),
    ]
    tick, step = _tick(settings), settings.target_instrument.tick_size
    bid, ask = (
        f"floor_tick({number(row['bid'])}, {tick})",
        f"ceil_tick({number(row['ask'])}, {tick})",
    )
    if settings.strategy.preset == "fair_value":
        # A bid stays a tick below the target's ask, an ask a tick above its bid.
        bid = f"min({bid}, {format_units(row['target_ask_px'] - step)})"
        ask = f"max({ask}, {format_units(row['target_bid_px'] + step)})"
    if row["bid_px"] is not None:
        found.append(_price("bid price", bid, row["bid_px"]))
    if row["ask_px"] is not None:
        found.append(_price("ask price", ask, row["ask_px"]))
    return found


# ---------------------------------------------------------------- the tick ladder


def _ladder(row: Mapping[str, Any], settings: Settings) -> list[Formula]:
    """In whole ticks of the venue, because the ladder counts in them."""
    s, instrument = settings.strategy, settings.target_instrument
    scale, step, tick = instrument.price_scale, instrument.tick_size, s.tick_size
    anchor, shift = row["anchor"], row["signal_shift"]
    factor, most = settings.inventory_skew_factor, settings.max_inventory
    skew = skew_ticks(row["position"], most, factor, s.base_spread_ticks)
    half = round(row["half_spread"] * 1e9) // step
    plain = settings.ladder_half_px // step
    position, whole = row["position"], most
    if not position % instrument.lot_size and not most % instrument.lot_size:
        position, whole = position // instrument.lot_size, most // instrument.lot_size
    found = [
        _is(
            "signal shift",
            f"{number(settings.signal_skew_factor)} × {number(row['residual'])}",
            shift,
        )
    ]
    found.append(_is("half-spread in ticks", f"{s.base_spread_ticks} × {tick} // 2", plain))
    if half != plain:
        wide = f"trunc({plain * step} × {number(settings.session.widening)}) // {step}"
        found.append(_is("half-spread in ticks, outside the session", wide, half))
    ratio = f"max(−1.0, min(1.0, {number(position)} / {number(whole)}))"
    left = f"{tick} × trunc({ratio} × {number(factor)} × {s.base_spread_ticks})"
    found.append(_is("skew in ticks", left, tick * skew))
    size = format_units(step)
    for side, name in ((1, "bid"), (-1, "ask")):
        rounded = floor_ticks if side == 1 else ceil_ticks
        if shift:
            start = rounded(anchor + shift, scale)
            how = f"{'floor' if side == 1 else 'ceil'}_tick"
            left = f"{how}({number(anchor)} + {number(shift)}, {size})"
        else:
            start = round_ticks(anchor, scale)
            left = f"round_tick({number(anchor)}, {size})"
        found.append(_price(f"{name} centre", left, start * step))
        first = start - side * half - tick * skew
        ticks = f"{start} {'−' if side == 1 else '+'} {half} − {number(tick * skew)}"
        found.append(_is(name, f"({ticks}) / {number(scale)}", row[name]))
        px = row[f"{name}_px"]
        if px is not None:
            cut = side * (first - px // step) // tick
            inner = f" {'−' if side == 1 else '+'} {cut} × {tick}" if cut else ""
            found.append(_price(f"{name} price", f"({ticks}{inner}) / {number(scale)}", px))
    return found
