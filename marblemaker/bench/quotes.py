"""A recording's quotes as columns, for who cannot read our files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["Quotes", "read_quotes"]


class Quotes(NamedTuple):
    """The quotes of both feeds in their one order, a column each."""

    ts: NDArray[np.int64]
    is_target: NDArray[np.bool_]
    bid_px: NDArray[np.int64]
    """1e-9, as the other prices and sizes."""
    ask_px: NDArray[np.int64]
    bid_sz: NDArray[np.int64]
    ask_sz: NDArray[np.int64]


def read_quotes(recording: Path) -> Quotes:
    """Read both feeds whole and put them in order: by ``ts``, on a tie the signal first."""
    columns = ("ts", "bid_px", "ask_px", "bid_sz", "ask_sz")
    frames = (
        pl.read_parquet(recording / f"{feed}.parquet", columns=list(columns))
        for feed in ("signal", "target")
    )
    signal, target = ([frame[name].to_numpy() for name in columns] for frame in frames)
    # Where each row goes: after all of its own feed before it, and those of the other.
    to = np.searchsorted(target[0], signal[0], side="left") + np.arange(len(signal[0]))
    is_target = np.ones(len(signal[0]) + len(target[0]), np.bool_)
    is_target[to] = False
    merged = []
    for of_signal, of_target in zip(signal, target, strict=True):
        column = np.empty(len(is_target), np.int64)
        column[~is_target], column[is_target] = of_signal, of_target
        merged.append(column)
    ts, *rest = merged
    return Quotes(ts, is_target, *rest)
