"""RowGroupWriter: what goes in comes out, and batches leave no mark in the bytes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from streams.recording import ROW_GROUP_ROWS
from streams.row_groups import RowGroupWriter

ROWS = 2 * ROW_GROUP_ROWS + 7_001


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Columns of every kind; some absent; numbers at both ends; few and many distinct values."""
    generator = np.random.default_rng(7)
    ts = 1_781_702_400_000_000_000 + np.cumsum(generator.integers(0, 10**9, ROWS))
    frame = pl.DataFrame(
        {
            "seq": pl.Series(np.arange(1, ROWS + 1), dtype=pl.UInt64),
            "ts": ts,
            "ts_event": generator.integers(-(2**63), 2**63 - 1, ROWS),
            "bid_px": 10**6 * generator.integers(206_000, 208_000, ROWS),
            "mid": generator.standard_normal(ROWS),
            "flags": pl.Series(generator.integers(0, 255, ROWS), dtype=pl.UInt8),
            "asked": generator.integers(0, 2, ROWS) == 1,
            "reason": generator.choice(["", "signal dead", "☕"], ROWS),
            "none": pl.Series([None] * ROWS, dtype=pl.Float64),
        }
    )
    odd = pl.int_range(ROWS) % 7 == 3
    return frame.with_columns(
        pl.when(~odd).then(pl.col(name)).alias(name)
        for name in ("ts_event", "bid_px", "mid", "reason")
    )


def written(folder: Path, rows: pl.DataFrame, cuts: list[int]) -> Path:
    folder.mkdir()
    writer = RowGroupWriter(folder, "table", rows.schema)
    for start, end in zip([0, *cuts], [*cuts, rows.height], strict=True):
        writer.append(rows[start:end])
    entry = writer.close()
    assert entry.rows == rows.height
    if rows.height:
        assert (entry.first_ts, entry.last_ts) == (rows["ts"][0], rows["ts"][-1])
    return writer.path


def test_what_goes_in_comes_out(tmp_path: Path, rows: pl.DataFrame) -> None:
    path = written(tmp_path / "one", rows, [])
    assert_frame_equal(pl.read_parquet(path), rows, check_exact=True)
    few = rows[:3]
    assert_frame_equal(pl.read_parquet(written(tmp_path / "few", few, [])), few, check_exact=True)
    none = rows.clear()
    assert_frame_equal(pl.read_parquet(written(tmp_path / "none", none, [])), none)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_rows_give_the_same_bytes_in_whatever_batches(
    tmp_path: Path, rows: pl.DataFrame, seed: int
) -> None:
    cuts = sorted(random.Random(seed).choices(range(ROWS), k=seed * 4))
    cuts += [ROWS] if seed == 2 else []  # An empty last batch.
    one, other = written(tmp_path / "one", rows, []), written(tmp_path / "cut", rows, cuts)
    assert one.read_bytes() == other.read_bytes()
