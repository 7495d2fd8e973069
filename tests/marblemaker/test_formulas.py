"""formulas(): what is printed, read back and computed in doubles, is what was emitted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marblemaker.formulas import Formula, formulas, number
from marblemaker.replay import replay
from streams.instrument import ceil_ticks, floor_ticks, round_ticks, to_units
from tests.sessions import random_feeds, random_strategy, settings, write_recording

FUNCTIONS = {
    "floor_tick": lambda x, tick: floor_ticks(x, float(round(1 / tick))) / round(1 / tick),
    "ceil_tick": lambda x, tick: ceil_ticks(x, float(round(1 / tick))) / round(1 / tick),
    "round_tick": lambda x, tick: round_ticks(x, float(round(1 / tick))) / round(1 / tick),
    "nearest": lambda x: math.floor(x) + (x - math.floor(x) >= 0.5),
    "trunc": math.trunc,
    "min": min,
    "max": max,
    "abs": abs,
}


def computed(text: str) -> tuple[Any, str]:
    """Read a printed formula: what its left side gives, and what stands on its right."""
    left, equals, right = text.replace("×", "*").replace("−", "-").rpartition(" = ")
    assert equals
    return eval(left, {"__builtins__": {}}, FUNCTIONS), right


def check(one: Formula) -> None:
    value, right = computed(one.text)
    assert (value, math.copysign(1.0, value)) == (one.value, math.copysign(1.0, one.value)), one
    assert float(right) == one.value, one


def check_row(row: dict[str, Any], found: list[Formula]) -> None:
    by_name = {one.name: one for one in found}
    for one in found:
        check(one)
    for side in ("bid", "ask"):
        if row["anchor"] is not None:
            assert by_name[side].value == row[side]
        if row[f"{side}_px"] is not None and row["action"] != "retract":
            _, right = computed(by_name[f"{side} price"].text)
            assert to_units(right, side) == row[f"{side}_px"]
    if row["anchor"] is not None:
        assert by_name["anchor"].value == row["anchor"]


@pytest.mark.parametrize(
    ("preset", "outside"),
    [
        *((preset, "widen") for preset in ("composite", "tutorial", "fair_value", "ladder")),
        ("composite", "target_only"),
        ("ladder", "target_only"),
    ],
)
def test_the_printed_numbers_give_the_emitted_prices(
    preset: str, outside: str, tmp_path: Path
) -> None:
    priced = 0
    for seed in (1, 2, 3):
        # The open of New York is in the middle: before it the half-spread is widened.
        feeds = {
            name: quotes.with_columns(ts=pl.col("ts") - 10 * 10**9)
            for name, quotes in random_feeds(seed, 150).items()
        }
        strategy = random_strategy(seed, preset)
        s = settings(
            strategy=strategy, session={"outside": outside, "calendar": "XNYS", "widening": 2.5}
        )
        recording = write_recording(tmp_path / f"rec{seed}", feeds)
        replay(recording, s, tmp_path / f"run{seed}")
        for row in pl.read_parquet(tmp_path / f"run{seed}" / "decisions.parquet").to_dicts():
            found = formulas(row, s)
            check_row(row, found)
            priced += row["action"] == "quote"
    assert priced > 20


def test_a_refusal_has_no_formulas() -> None:
    assert formulas({"anchor": None}, settings()) == []


def test_several_signals_are_spelled_out_where_their_residuals_are_given() -> None:
    s = settings(
        signal={"instrument": "A.EQUS", "others": ["B.EQUS"], "weights": [0.3, 0.7]},
        strategy={"signal_skew_factor": 10.0},
    )
    residual = 0.0 + 0.3 * 0.001 + 0.7 * -0.0002
    row = {
        "action": "quote", "anchor": 200.0, "target_mid": 200.0, "target_bid_px": 199_990_000_000,
        "target_ask_px": 200_010_000_000, "signal_mid": 1.0, "baseline": 1.0,
        "residual": residual, "half_spread": 0.5, "shift": 10.0 * residual - 2.0 * 0.0,
        "position": 0, "bid": 200.0 - 0.5 + 10.0 * residual, "ask": 200.5 + 10.0 * residual,
        "bid_px": None, "ask_px": None,
    }  # fmt: skip
    assert "residual" not in {one.name for one in formulas(row, s)}
    (found,) = (
        one for one in formulas(row, s, residuals=[0.001, -0.0002]) if one.name == "residual"
    )
    assert found.text.startswith("0.0 + 0.3 × 0.001 + 0.7 × −0.0002 = ")
    check(found)


def test_the_tutorial_anchors_in_whole_numbers_of_1e_16() -> None:
    """Above 14,757 at two decimals its doubles are not the nearest ones: the text must follow."""
    from operators.anchor import anchor_price, anchor_price_1e16
    from operators.mid import mid_price_1e16

    s = settings(
        strategy={"preset": "tutorial"},
        target={"instrument": "X-PERP.LIGHTER", "price_decimals": 2, "size_decimals": 3},
    )
    unlike = 0
    for bid in range(9_999_123_00, 9_999_323_00, 7):
        px = bid * 10**7
        mid = mid_price_1e16(px, px + 10**7)
        anchor = anchor_price_1e16(mid, 100.0)
        row = dict.fromkeys(("signal_mid", "baseline", "bid_px", "ask_px"), None) | {
            "action": "quote", "anchor": anchor, "target_mid": mid,
            "target_bid_px": px, "target_ask_px": px + 10**7,
            "residual": 0.0, "shift": 0.0, "position": 0, "half_spread": anchor * 0.0025,
            "bid": anchor - anchor * 0.0025 + 0.0, "ask": anchor + anchor * 0.0025 + 0.0,
        }  # fmt: skip
        unlike += anchor != anchor_price(mid, 100.0)
        for one in formulas(row, s):
            check(one)
    assert unlike


def test_numbers_are_written_so_that_they_read_back() -> None:
    assert number(-0.0274) == "−0.0274"
    assert float(number(0.1 + 0.2)) == 0.1 + 0.2
