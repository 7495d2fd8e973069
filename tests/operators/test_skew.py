"""skew(): how far signal and inventory shift the centre, with the sums written out."""

from typing import Any

import pytest

from operators.skew import inventory_shift, signal_shift, skew, total_shift
from streams.events import Anchor, Inventory, Residual, Skewed
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

UNIT = 1_000_000_000
SIGNAL = Residual(1, 10, 80.0, 64.0, 80 / 64 - 1)
ANCHOR = Anchor(2, 20, 207.1, 207.0, 207 * UNIT, 208 * UNIT)


def test_the_centre_shifts_up_with_the_signal_and_down_when_long() -> None:
    flat, long, short = Inventory(0), Inventory(UNIT // 2), Inventory(-2 * UNIT)
    states = {
        name: ((SIGNAL, ANCHOR), held) for name, held in (("a", flat), ("b", long), ("c", short))
    }
    skewed = {
        # 8 * 0.25 = 2; 3 * 0.5 = 1.5; 3 * -2 = -6
        "x": Skewed(SIGNAL, ANCHOR, flat, 2.0, 0.0, 2.0),
        "y": Skewed(SIGNAL, ANCHOR, long, 2.0, 1.5, 0.5),
        "z": Skewed(SIGNAL, ANCHOR, short, 2.0, -6.0, 8.0),
    }

    actual = play("    -a-b-c-|", states, skew(8.0, 3.0))

    assert actual == expect("-x-y-z-|", skewed)


@pytest.mark.parametrize(
    ("factor", "residual", "shift"), [(8.0, 0.25, 2.0), (8.0, -0.25, -2.0), (0.0, 0.25, 0.0)]
)
def test_the_signals_shift_is_its_factor_times_the_residual(
    factor: float, residual: float, shift: float
) -> None:
    assert signal_shift(factor, residual) == shift


@pytest.mark.parametrize(
    ("factor", "position", "shift"),
    [(3.0, UNIT, 3.0), (3.0, -UNIT // 2, -1.5), (0.0, UNIT, 0.0), (4.0, 1, 4e-9)],
)
def test_the_inventorys_shift_is_its_factor_times_the_position_in_base_units(
    factor: float, position: int, shift: float
) -> None:
    assert inventory_shift(factor, position) == shift


def test_the_inventorys_shift_is_taken_from_the_signals() -> None:
    assert total_shift(2.0, 1.5) == 0.5
    assert total_shift(1.5, 2.0) == -0.5


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("--#", {}, skew(8.0, 3.0), error) == expect("--#", {}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Any] = Hot()
    subscription = source.pipe(skew(8.0, 3.0)).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
