"""Instruments: one rule for rounding, and decimals read and written exactly."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streams.instrument import (
    UNIT,
    Instrument,
    ceil_ticks,
    floor_ticks,
    format_units,
    round_ticks,
    to_units,
)

MAX = 2**63 - 1
MANY = hypothesis_settings(max_examples=400, deadline=None, derandomize=True)

DECIMALS = st.integers(0, 9)
# Up to here a double tells every tick from the next with a digit to spare.
TICKS = st.integers(-(10**14), 10**14)
PRICES = st.one_of(
    st.floats(-1e5, 1e5, allow_nan=False),
    st.floats(1e-9, 1.0),
    st.decimals(-100_000, 100_000, places=3).map(float),
    st.decimals(-100_000, 100_000, places=4).map(float),
)


def neighbours(value: float) -> list[float]:
    return [math.nextafter(value, -math.inf), value, math.nextafter(value, math.inf)]


def printed(price: float) -> Decimal:
    """The shortest decimal that is this double: what a person reads, and what it stands for."""
    return Decimal(repr(price))


@MANY
@given(PRICES, DECIMALS)
@example(206.682, 3)
@example(206.683, 3)
@example(-206.682, 3)
@example(0.49999999999999994, 0)
@example(0.285, 2)
@example(1.005, 2)
def test_floor_and_ceil_are_those_of_the_decimal_that_the_double_prints_as(
    price: float, decimals: int
) -> None:
    scale = 10.0**decimals
    for near in neighbours(price):
        ticks = printed(near).scaleb(decimals)

        assert floor_ticks(near, scale) == int(ticks.to_integral_value(ROUND_FLOOR))
        assert ceil_ticks(near, scale) == int(ticks.to_integral_value(ROUND_CEILING))


@MANY
@given(TICKS, DECIMALS)
def test_rounding_a_tick_changes_nothing(ticks: int, decimals: int) -> None:
    scale = 10.0**decimals
    price = ticks / scale

    assert floor_ticks(price, scale) == ceil_ticks(price, scale) == ticks
    assert floor_ticks(floor_ticks(price, scale) / scale, scale) == ticks
    assert price == float(Decimal(ticks).scaleb(-decimals))


@MANY
@given(st.integers(-(10**9), 10**9), DECIMALS)
def test_the_nearest_tick_of_a_tick_is_that_tick(ticks: int, decimals: int) -> None:
    assert round_ticks(ticks / 10.0**decimals, 10.0**decimals) == ticks


@MANY
@given(PRICES, DECIMALS)
def test_rounding_twice_is_rounding_once(price: float, decimals: int) -> None:
    scale = 10.0**decimals
    for rounding in (floor_ticks, ceil_ticks, round_ticks):
        once = rounding(price, scale)

        assert rounding(once / scale, scale) == once


@MANY
@given(PRICES, DECIMALS)
def test_the_nearest_tick_is_the_floor_or_the_ceil_and_mirrors_at_zero(
    price: float, decimals: int
) -> None:
    scale = 10.0**decimals

    assert floor_ticks(price, scale) <= round_ticks(price, scale) <= ceil_ticks(price, scale)
    assert ceil_ticks(price, scale) - floor_ticks(price, scale) in (0, 1)
    assert round_ticks(-price, scale) == -round_ticks(price, scale)
    assert floor_ticks(-price, scale) == -ceil_ticks(price, scale)


@MANY
@given(PRICES, st.floats(0.0, 100.0), st.floats(-100.0, 100.0), st.integers(0, 6))
def test_the_bid_is_never_above_the_ask_nor_either_inside_its_price(
    anchor: float, half: float, shift: float, decimals: int
) -> None:
    scale = 10.0**decimals
    bid, ask = anchor - half + shift, anchor + half + shift
    bid_ticks, ask_ticks = floor_ticks(bid, scale), ceil_ticks(ask, scale)

    assert bid_ticks <= ask_ticks
    assert Decimal(bid_ticks).scaleb(-decimals) <= printed(bid)
    assert Decimal(ask_ticks).scaleb(-decimals) >= printed(ask)
    # They meet only where both prices are one tick.
    assert bid_ticks < ask_ticks or printed(bid) == printed(ask)


@pytest.mark.parametrize(
    ("ticks", "nearest"),
    [(0.5, 1), (-0.5, -1), (1.5, 2), (2.5, 3), (-2.5, -3), (0.49999999999999994, 0), (0.0, 0)],
)
def test_a_half_rounds_away_from_zero(ticks: float, nearest: int) -> None:
    assert round_ticks(ticks, 1.0) == nearest


# ---------------------------------------------------------------- decimals


@MANY
@given(st.integers(-MAX, MAX), st.one_of(st.none(), DECIMALS))
@example(MAX, None)
@example(-MAX, None)
@example(MAX - 1, 9)
@example(9_007_199_254_740_993, None)  # 2 ** 53 + 1, which no double holds
@example(1_781_703_000_999_999_999, None)
@example(999_999_999, 3)
@example(-1, 0)
def test_writing_and_reading_returns_every_last_unit(units: int, decimals: int | None) -> None:
    text = format_units(units, decimals)

    assert to_units(text, "price") == units
    assert Decimal(text) * UNIT == units
    assert len(text.partition(".")[2]) >= (decimals or 0)


@MANY
@given(st.integers(-MAX, MAX))
def test_a_decimal_is_written_without_trailing_zeros(units: int) -> None:
    text = format_units(units)

    assert "." not in text or not text.endswith(("0", "."))


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0.050", 50_000_000),
        (" 207.1 ", 207_100_000_000),
        ("-0.000000001", -1),
        ("+1", UNIT),
        ("1.", UNIT),
        (".5", UNIT // 2),
        ("1e-9", 1),
        ("1E3", 1_000 * UNIT),
        ("0.1000000000000000000000", UNIT // 10),
        ("0", 0),
        ("-0", 0),
        ("0e9999", 0),
        ("9223372036.854775807", MAX),
        ("-9223372036.854775807", -MAX),
        ("1781703000.999999999", 1_781_703_000_999_999_999),
    ],
)
def test_a_decimal_string_is_read_exactly(text: str, units: int) -> None:
    assert to_units(text, "price") == units


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", "1,5", "1_000", "0x10", "nan", "inf", "-", ".", "1 2", "e5", "1e99999", "１"],
)
def test_what_is_no_decimal_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="trade_size must be a decimal number such as") as refused:
        to_units(text, "trade_size")
    assert repr(text) in str(refused.value)


def test_a_number_is_refused_where_a_string_is_due_because_it_lost_its_decimals() -> None:
    with pytest.raises(ValueError, match=r"trade_size must be a decimal number .* was 0\.05"):
        to_units(0.05, "trade_size")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "0.0000000001",
        "1.0000000005",
        "1e-10",
        "9223372036.854775808",
        "-9223372036.854775808",
        "1e11",
        "1e9999",
        "1e-9999",
    ],
)
def test_more_than_nine_decimals_or_64_bits_are_refused_by_name(text: str) -> None:
    message = r"max_position must be .* at most 9 decimals that fits 64 bits in units of 1e-9"
    with pytest.raises(ValueError, match=message) as refused:
        to_units(text, "max_position")
    assert repr(text) in str(refused.value)


# ---------------------------------------------------------------- instruments


@pytest.mark.parametrize("decimals", range(10))
def test_tick_lot_and_scale_are_powers_of_ten_that_fit_each_other(decimals: int) -> None:
    instrument = Instrument(
        symbol="NVDA-PERP", venue="LIGHTER", price_decimals=decimals, size_decimals=decimals
    )

    assert instrument.tick_size == instrument.lot_size == int(Decimal(UNIT).scaleb(-decimals))
    assert instrument.tick_size * instrument.price_scale == UNIT
    assert instrument.id == "NVDA-PERP.LIGHTER"


@pytest.mark.parametrize("name", ["price_decimals", "size_decimals"])
@pytest.mark.parametrize("decimals", [-1, 10])
def test_decimals_that_1e_9_cannot_hold_are_refused_with_the_instrument(
    name: str, decimals: int
) -> None:
    message = f"{name} of NVDA-PERP.LIGHTER must be between 0 and 9, was {decimals}"
    with pytest.raises(ValueError, match=message):
        Instrument(symbol="NVDA-PERP", venue="LIGHTER", **{name: decimals})
