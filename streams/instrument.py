"""Instruments: what prices and sizes are counted in, and the one rule for rounding and limits."""

import math
import re
from decimal import Context, Decimal

from msgspec import Struct

__all__ = [
    "UNIT",
    "UNIT_DECIMALS",
    "Instrument",
    "ceil_ticks",
    "fee_in_parts",
    "floor_ticks",
    "format_units",
    "marked_pnl",
    "may_buy",
    "may_sell",
    "pnl_in_parts",
    "round_ticks",
    "to_units",
    "value_parts",
]

UNIT_DECIMALS = 9
UNIT: int = 10**UNIT_DECIMALS
"""Prices and sizes are integers of 1e-9, Databento's fixed point."""

_MAX = 2**63 - 1
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


def to_units(text: str, what: str) -> int:
    """Read a decimal string as an integer of 1e-9, exactly.

    Errors: ValueError naming ``what`` if the text is not a decimal number, has more than nine
        decimals, or does not fit 64 bits.

    >>> to_units("0.050", "trade_size")
    50000000
    """
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text.strip()):
        raise ValueError(f"{what} must be a decimal number such as 0.050, was {text!r}")
    value = Decimal(text.strip())
    if value and not (-UNIT_DECIMALS - 1 <= value.adjusted() < UNIT_DECIMALS + 2):
        scaled, exact = Decimal(0), False
    else:
        # Wide enough for every text that a person writes, so nothing is rounded on the way.
        scaled = Context(prec=len(text) + 4 * UNIT_DECIMALS).scaleb(value, UNIT_DECIMALS)
        exact = scaled == scaled.to_integral_value()
    if not exact or abs(scaled) > _MAX:
        raise ValueError(
            f"{what} must be a decimal number with at most {UNIT_DECIMALS} decimals "
            f"that fits 64 bits in units of 1e-9, was {text!r}"
        )
    return int(scaled)


def format_units(units: int, decimals: int | None = None) -> str:
    """Write an integer of 1e-9 as a decimal; with ``decimals`` zero-padded to at least that many.

    >>> format_units(50_000_000), format_units(207_100_000_000, 3), format_units(-1)
    ('0.05', '207.100', '-0.000000001')
    """
    whole, fraction = divmod(abs(units), UNIT)
    digits = f"{fraction:09d}".rstrip("0").ljust(decimals or 0, "0")
    sign = "-" if units < 0 else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def round_ticks(price: float, scale: float) -> int:
    """Round to the nearest tick, halves away from zero.

    Units: price in quote currency; scale in ticks per unit of price (1000.0 for a tick of 0.001).
    """
    ticks = abs(price) * scale
    whole = math.floor(ticks)
    if ticks - whole >= 0.5:
        whole += 1
    return whole if price >= 0.0 else -whole


def floor_ticks(price: float, scale: float) -> int:
    """Round down to a tick; a price that is a tick stays where it is.

    A double that prints as a tick *is* that tick: 206.682 is 206682 ticks of 0.001 although
    206.682 / 0.001 falls just short in doubles. ``ticks / scale`` is the double nearest to the
    tick's decimal, so the comparison is exact.

    >>> floor_ticks(206.682, 1000.0), floor_ticks(206.6829, 1000.0)
    (206682, 206682)
    """
    ticks = math.floor(price * scale + 0.5)
    if ticks / scale > price:
        ticks -= 1
    return ticks


def ceil_ticks(price: float, scale: float) -> int:
    """Round up to a tick; a price that is a tick stays where it is. See ``floor_ticks``."""
    ticks = math.floor(price * scale + 0.5)
    if ticks / scale < price:
        ticks += 1
    return ticks


def may_buy(exposure: int, size: int, limit: int) -> bool:
    """Tell whether one more buy keeps the worst case within the limit; a step, 1e-9 base units."""
    return exposure + size <= limit


def may_sell(exposure: int, size: int, limit: int) -> bool:
    """Tell whether one more sell keeps the worst case within the limit; a step."""
    return exposure - size >= -limit


def value_parts(px: int, qty: int) -> tuple[int, int]:
    """px × qty in 1e-9 quote currency, rounded down, and the rest in 1e-18; a step.

    In parts, because the whole product does not fit 64 bits. Units: 1e-9; ``qty`` may be negative.
    """
    whole, part = qty // UNIT, qty % UNIT
    rest = part * (px % UNIT)
    return whole * px + part * (px // UNIT) + rest // UNIT, rest % UNIT


def pnl_in_parts(cash: int, cash_rest: int, fees: int, position: int, mark: int) -> int:
    """Profit after fees with the position valued at ``mark``, rounded down; a step.

    Units: 1e-9 quote currency, ``cash_rest`` 1e-18 beside ``cash``; position 1e-9 base units.
    """
    value, rest = value_parts(mark, position)
    return cash + value + (cash_rest + rest) // UNIT - fees


def marked_pnl(cash: int, fees: int, position: int, mark: int) -> int:
    """Profit after fees with the position valued at ``mark``, rounded down.

    Units: cash 1e-18 quote currency; fees, mark and the result 1e-9; position 1e-9 base units.
    """
    return pnl_in_parts(cash // UNIT, cash % UNIT, fees, position, mark)


def fee_in_parts(px: int, qty: int, fee_ppm: int) -> int:
    """Fee of a fill, rounded up; a step.

    Units: 1e-9, the fee in millionths of the value.
    """
    value, rest = value_parts(px, qty)
    part = value % 1_000_000 * fee_ppm
    large = value // 1_000_000 * fee_ppm + part // 1_000_000
    small = part % 1_000_000 * UNIT + rest * fee_ppm
    return large - -small // (UNIT * 1_000_000)


class Instrument(Struct, frozen=True, kw_only=True):
    """What one market's prices and sizes are counted in."""

    symbol: str
    """As the venue spells it, without the venue: ``NVDA-PERP``."""
    venue: str
    """Where it trades or is quoted: ``LIGHTER``, ``EQUS``."""
    price_decimals: int = UNIT_DECIMALS
    """Decimals of a price; the tick is 10 ** -price_decimals of quote currency."""
    size_decimals: int = UNIT_DECIMALS
    """Decimals of a size; the lot is 10 ** -size_decimals of base units."""
    min_base_amount: int = 0
    """Smallest order, 1e-9 base units; 0 when the venue has none or it is not known."""
    min_quote_amount: int = 0
    """Smallest order value, 1e-9 quote currency; 0 when the venue has none or it is not known."""

    def __post_init__(self) -> None:
        """Refuse decimals that 1e-9 integers cannot hold."""
        for name, value in (
            ("price_decimals", self.price_decimals),
            ("size_decimals", self.size_decimals),
        ):
            if not 0 <= value <= UNIT_DECIMALS:
                raise ValueError(
                    f"{name} of {self.id} must be between 0 and {UNIT_DECIMALS}, was {value!r}"
                )

    @property
    def id(self) -> str:
        """Symbol and venue, as settings name it: ``NVDA-PERP.LIGHTER``."""
        return f"{self.symbol}.{self.venue}"

    @property
    def tick_size(self) -> int:
        """Smallest price step, 1e-9 quote currency."""
        return int(10 ** (UNIT_DECIMALS - self.price_decimals))

    @property
    def lot_size(self) -> int:
        """Smallest size step, 1e-9 base units."""
        return int(10 ** (UNIT_DECIMALS - self.size_decimals))

    @property
    def price_scale(self) -> float:
        """Ticks per unit of quote currency, a power of ten and therefore exact in a double."""
        return float(10**self.price_decimals)
