"""A real two-feed session: BTC as the signal, ETH as the target, captured from Lighter."""

from pathlib import Path

import polars as pl
import pytest

from marblemaker.cli import main
from tests.engines import differences

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "lighter-capture-2025-09-15"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the capture is not beside the tree; it is not ours to ship"
)

FEEDS = (("BTC", "signal", "1", "5", 3332), ("ETH", "target", "2", "4", 3266))


def _import(file: Path, symbol: str, role: str, price: str, size: str, out: Path) -> int:
    return main(
        ["import", "lighter-csv", str(file), "--as", role, "--symbol", symbol,
         "--price-decimals", price, "--size-decimals", size, "--out", str(out)]
    )  # fmt: skip


def test_the_files_as_found_are_refused_with_the_line_and_both_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for symbol, role, price, size, split in FEEDS:
        found = DATA / f"prices_{symbol}.csv"
        assert _import(found, symbol, role, price, size, tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert f"line {split + 1}" in error
        assert "2025-09-15T21:22:04" in error
        assert "2025-09-15T23:13:2" in error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("half", [0, 1])
def test_the_halves_replay_to_orders_that_fill(half: int, tmp_path: Path) -> None:
    for symbol, role, price, size, split in FEEDS:
        lines = (DATA / f"prices_{symbol}.csv").read_text().splitlines(keepends=True)
        file = tmp_path / f"{symbol}.csv"
        file.write_text("".join(lines[split:] if half else lines[:split]))
        assert _import(file, symbol, role, price, size, tmp_path / "recording") == 0
    arguments = ["replay", str(tmp_path / "recording")]
    # The capture stood still for minutes at a time: with the guards on there is little to fill.
    assert main([*arguments, "--out", str(tmp_path / "guarded")]) == 0
    guarded = pl.read_parquet(tmp_path / "guarded" / "decisions.parquet")
    assert guarded.filter(pl.col("reason").is_in(["signal dead", "target dead"])).height >= 4
    for guard in ("max_signal_age_secs", "max_target_age_secs", "frozen_after_secs"):
        arguments += ["--set", f"guards.{guard}=off"]
    for setting in ("half_spread_bps=2", "requote_threshold_bps=1", "signal_skew_factor=4000"):
        arguments += ["--set", f"strategy.{setting}"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 0
    compiled = tmp_path / "compiled"
    assert main([*arguments, "--engine", "compiled", "--out", str(compiled)]) == 0
    assert differences(tmp_path / "run", compiled) == []

    orders = pl.read_parquet(tmp_path / "run" / "orders.parquet")
    assert orders.filter(pl.col("status") == "FILLED").height > 0
    assert (orders["px"].drop_nulls() % 10**7 == 0).all(), "a price off the tick"
    for name in ("decisions", "orders", "fills"):
        run = (tmp_path / "run" / f"{name}.parquet").read_bytes()
        assert run == (tmp_path / "again" / f"{name}.parquet").read_bytes()
