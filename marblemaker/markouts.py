"""Markouts: where the mid went after our fills."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streams.recording import BATCH_ROWS

__all__ = ["HORIZONS_SECONDS", "markouts"]

HORIZONS_SECONDS: Final = (1, 5, 30, 60)
_NS: Final = 1_000_000_000


def markouts(run: Path, target: Path | None = None) -> dict[str, dict[str, Any]]:
    """Average, per horizon, how far the target's mid moved our way after our maker fills.

        markout = side × (mid at fill + horizon − fill price) / fill price

    Units: bps, weighted by size; positive is good for us. The mid is the last one at that instant.
    A fill whose horizon lies beyond the last target quote is left out; ``fills`` counts the rest.
    ``target`` is the file of the target's quotes where the run holds none.
    """
    fills = (
        pl.read_parquet(run / "fills.parquet")
        .filter(pl.col("liquidity") == "MAKER")
        .select("ts", "px", "qty", side=pl.col("side").replace_strict({"BUY": 1, "SELL": -1}))
    )
    if not fills.height:
        return {}
    ts, px, qty, side = (fills[name].to_numpy() for name in ("ts", "px", "qty", "side"))
    asked = np.concatenate([ts + seconds * _NS for seconds in HORIZONS_SECONDS])
    mids = _mids_at(target or run / "target.parquet", asked).reshape(len(HORIZONS_SECONDS), -1)
    found: dict[str, dict[str, Any]] = {}
    for seconds, then in zip(HORIZONS_SECONDS, mids, strict=True):
        known = ~np.isnan(then)
        bps = side[known] * (then[known] - px[known]) / px[known] * 1e4
        mean = float(np.average(bps, weights=qty[known])) if known.any() else None
        found[f"{seconds}s"] = {
            "fills": int(known.sum()),
            "bps": None if mean is None else round(mean, 2),
        }
    return found


def _mids_at(
    target: Path, asked: npt.NDArray[np.int64], batch_rows: int = BATCH_ROWS
) -> npt.NDArray[np.float64]:
    """The last mid at or before each instant; NaN beyond the last quote. Holds one batch."""
    order = np.argsort(asked, kind="stable")
    instants = asked[order]
    answers = np.full(len(asked), np.nan)
    mids = (
        pl.scan_parquet(target)
        .filter(pl.col("bid_px").is_not_null() & pl.col("ask_px").is_not_null())
        .select("ts", mid=(pl.col("bid_px") + pl.col("ask_px")) / 2.0)
    )
    answered, before, last = 0, np.nan, np.iinfo(np.int64).min
    for batch in mids.collect_batches(chunk_size=batch_rows, maintain_order=True):
        if not batch.height:
            continue
        ts, mid = batch["ts"].to_numpy(), batch["mid"].to_numpy()
        last = ts[-1]
        # What lies at or after the end of the batch may still have a later quote.
        upto = int(np.searchsorted(instants, last, side="left"))
        rows = np.searchsorted(ts, instants[answered:upto], side="right") - 1
        answers[answered:upto] = np.where(rows >= 0, mid[rows], before)
        answered, before = max(answered, upto), mid[-1]
    upto = int(np.searchsorted(instants, last, side="right"))
    answers[answered:upto] = before
    unsorted = np.empty_like(answers)
    unsorted[order] = answers
    return unsorted
