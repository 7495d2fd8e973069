"""Reading: a feed's Parquet file as columns for the loop, a batch at a time.

A column without an absent number is the memory that the file was decoded to; nothing is copied.
The loop merges the feeds as it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marblemaker.compiled.loop import Columns
from marblemaker.compiled.texts import NULL_WORD
from streams.instrument import Instrument
from streams.recording import RecordingError, checked_rows

__all__ = ["MAX_PX", "Feed"]

MAX_PX: Final = 10**17
"""Highest price that the loop counts with, 1e-9: a hundred million of quote currency."""

_EMPTY: Final = np.empty(0, np.int64)
_NUMBERS: Final = ("ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz")


class Feed:
    """One feed's rows, as far as they are read."""

    def __init__(
        self, name: str, path: Path, instrument: Instrument | None, *, by_seq: bool, batch_rows: int
    ) -> None:
        """Open a file; ``by_seq``: rows are merged by their ``seq``, else by ``ts``."""
        self.name = name
        self._path = path
        self._batches: Iterator[pl.DataFrame] = checked_rows(name, path, instrument, batch_rows)
        self._by_seq = by_seq
        self.frame: pl.DataFrame | None = None
        """The rows of the batch as they are in the file."""
        self.columns = Columns(*([_EMPTY] * 7), np.empty(0, np.uint8), _EMPTY)
        """The same for the loop."""
        self.rows = 0
        """Rows read so far."""

    def read(self) -> bool:
        """Go on to the next batch; False at the end.

        Errors: RecordingError for unsound rows, or prices beyond ``MAX_PX``.
        """
        frame = next(self._batches, None)
        if frame is None:
            return False
        self.frame = frame
        ts = _integers(frame["ts"])
        numbers = [_integers(frame[name]) for name in _NUMBERS]
        for name in ("bid_px", "ask_px"):
            highest = frame[name].max()
            if isinstance(highest, int) and highest > MAX_PX:
                raise RecordingError(
                    f"{self._path}: {name} goes up to {highest}, --engine compiled counts with "
                    f"prices up to {MAX_PX} (1e-9); use --engine rx"
                )
        key = _integers(frame["seq"].cast(pl.Int64)) if self._by_seq else ts
        number = np.empty(frame.height, np.int64)
        flags = _contiguous(frame["flags"].to_numpy())
        self.columns = Columns(key, ts, *numbers, flags, number)
        self.rows += frame.height
        return True


def _integers(series: pl.Series) -> NDArray[np.int64]:
    if series.null_count():
        series = series.fill_null(NULL_WORD)
    return _contiguous(series.to_numpy())


def _contiguous(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same array where it is in one piece; the loop may only read it."""
    values = np.ascontiguousarray(values)
    if not values.flags.writeable:
        # The loop is compiled for arrays that may be written to; this one it only reads.
        values = np.asarray(_Writable(values))
    return values


class _Writable:
    """Gives out an array's memory without its read-only mark."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        self._values = values
        described = dict(values.__array_interface__)
        described["data"] = (described["data"][0], False)
        self.__array_interface__ = described
