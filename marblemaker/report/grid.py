"""The grid: which points of a long series are shown, so that no extreme is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

__all__ = ["BUCKETS", "STRETCH", "Grid", "Series", "broken", "thin", "windows"]

BUCKETS: Final = 2_500
"""More than a screen has columns of pixels, so that zooming in still finds something."""
WINDOW_ROWS: Final = 400_000
STRETCH: Final = 10
"""Buckets of one stretch, over which percentiles are taken: fewer have too few quotes."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Series(Struct, frozen=True):
    """Points of one line; NaN is a gap."""

    ts: Ints
    """ns since 1970."""
    y: Floats

    def __len__(self) -> int:
        """Number of points, gaps included."""
        return len(self.ts)


class Grid(Struct, frozen=True):
    """The span of a run, in equal buckets of time."""

    first: int
    """ns since 1970, UTC."""
    last: int
    buckets: int = BUCKETS

    @property
    def width(self) -> int:
        """Length of a bucket, ns, at least 1."""
        return max(1, -(-(self.last - self.first + 1) // self.buckets))

    @property
    def keep(self) -> int:
        """Rows up to which nothing is left out: first, last, least and greatest of each bucket."""
        return 4 * self.buckets

    def bucket(self, column: str = "ts") -> pl.Expr:
        """The bucket of each row, from 0."""
        return ((pl.col(column) - self.first) // self.width).alias("bucket")

    def stretch(self) -> pl.Expr:
        """The stretch of each row, from 0."""
        return ((pl.col("ts") - self.first) // (self.width * STRETCH)).alias("stretch")

    def ends(self) -> Ints:
        """The last instant of each bucket; of the last one that of the run."""
        ends = self.first + (np.arange(self.buckets, dtype=np.int64) + 1) * self.width - 1
        return np.minimum(ends, self.last)


def thin(frame: pl.DataFrame, values: Mapping[str, Any] | list[str], grid: Grid) -> pl.DataFrame:
    """Keep of each bucket the first and last row, and those with the extremes of ``values``.

    Nulls do not count as extremes. Rows stay in order; ``frame`` has ``ts`` and whole buckets.
    """
    if not frame.height:
        return frame
    row = pl.col("row")
    picked = [row.first().alias("first"), row.last().alias("last")]
    for i, name in enumerate(values):
        picked += [
            row.get(pl.col(name).arg_min()).alias(f"low{i}"),
            row.get(pl.col(name).arg_max()).alias(f"high{i}"),
        ]
    rows = frame.with_row_index("row").group_by(grid.bucket()).agg(picked).drop("bucket")
    kept = np.unique(np.concatenate([rows[name].drop_nulls().to_numpy() for name in rows.columns]))
    return frame[kept]


def broken(series: Series, longest_ns: int) -> Series:
    """Put a gap between neighbours that are further apart than ``longest_ns``."""
    at = np.flatnonzero(np.diff(series.ts) > longest_ns) + 1
    if not len(at):
        return series
    ts = np.insert(series.ts, at, series.ts[at - 1] + longest_ns)
    return Series(ts, np.insert(series.y, at, np.nan))


def windows(files: Mapping[str, Path], grid: Grid) -> Iterator[dict[str, pl.DataFrame]]:
    """Read several files side by side in windows of whole stretches, each of bounded size.

    Shape: for each window the rows of every file, in order; a frame may be empty. A stretch is
        never cut, so a window is larger than ``WINDOW_ROWS`` if its only stretch is.
    """
    frames = {name: pl.scan_parquet(path) for name, path in files.items()}
    counts = np.zeros(grid.buckets, dtype=np.int64)
    for frame in frames.values():
        found = frame.group_by(grid.bucket()).len().collect(engine="streaming")
        inside = found.filter(pl.col("bucket").is_between(0, grid.buckets - 1))
        counts[inside["bucket"].to_numpy()] += inside["len"].to_numpy()
    begin, held = 0, 0
    for bucket in range(0, grid.buckets, STRETCH):
        count = int(counts[bucket : bucket + STRETCH].sum())
        if held and held + count > WINDOW_ROWS:
            yield _between(frames, grid, begin, bucket)
            begin, held = bucket, 0
        held += count
    if held:
        yield _between(frames, grid, begin, grid.buckets)


def _between(
    frames: Mapping[str, pl.LazyFrame], grid: Grid, begin: int, end: int
) -> dict[str, pl.DataFrame]:
    low, high = grid.first + begin * grid.width, grid.first + end * grid.width
    within = pl.col("ts").is_between(low, high, closed="left")
    return {name: frame.filter(within).collect() for name, frame in frames.items()}
