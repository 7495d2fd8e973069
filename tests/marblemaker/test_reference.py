"""The tutorial preset does what NautilusTrader's CompositeMarketMaker did, order for order."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marblemaker.compiled.engine import replay_compiled
from marblemaker.replay import replay
from tests.sessions import REFERENCE, settings, write_recording

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "composite-reference"
CASES = sorted(REFERENCE.glob("case-*"))
MORE = sorted(set(SHARED.glob("case-*")) if SHARED.is_dir() else [])

_STRATEGY = (
    "half_spread_bps", "inventory_skew_factor", "signal_skew_factor", "signal_baseline",
    "requote_threshold_bps", "expire_time_secs", "trade_size", "max_position",
    "on_cancel_resubmit",
)  # fmt: skip


ENGINES = pytest.mark.parametrize("play", [replay, replay_compiled], ids=["rx", "compiled"])


def _replayed(case: Path, folder: Path, play: Callable[..., Any]) -> Path:
    given: dict[str, Any] = json.loads((case / "case.json").read_text())
    recording = write_recording(
        folder / "recording",
        {name: pl.read_parquet(case / f"{name}.parquet") for name in ("signal", "target")},
    )
    play(
        recording,
        settings(
            target={
                "instrument": "NVDA-PERP.LIGHTER",
                "price_decimals": given["price_decimals"],
                "size_decimals": given["size_decimals"],
                "min_base_amount": "0.050",
            },
            strategy={
                "preset": "tutorial",
                **{key: given[key] for key in _STRATEGY if given[key] is not None},
            },
        ),
        folder / "run",
    )
    return folder / "run"


def test_the_reference_cases_are_here() -> None:
    assert len(CASES) >= 4


@ENGINES
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_every_order_and_fill_of_the_reference_is_repeated(
    case: Path, play: Callable[..., Any], tmp_path: Path
) -> None:
    run = _replayed(case, tmp_path, play)

    orders = pl.read_parquet(run / "orders.parquet")
    assert orders.equals(pl.read_parquet(case / "orders.parquet").select(orders.columns))
    fills = pl.read_parquet(run / "fills.parquet").drop("fee")
    reference = case / "fills.parquet"
    expected = pl.read_parquet(reference) if reference.exists() else fills.clear()
    assert fills.equals(expected.select(fills.columns))


@pytest.mark.skipif(not MORE, reason="the larger set of reference sessions is not beside the tree")
@ENGINES
@pytest.mark.parametrize("case", MORE, ids=lambda case: str(case.name))
def test_every_order_of_the_larger_set_is_repeated(
    case: Path, play: Callable[..., Any], tmp_path: Path
) -> None:
    run = _replayed(case, tmp_path, play)

    orders = pl.read_parquet(run / "orders.parquet")
    assert orders.equals(pl.read_parquet(case / "orders.parquet").select(orders.columns))
