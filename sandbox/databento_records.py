"""Recorded quotes as Databento's gateway sends them: DBN records, built in bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import databento_dbn as dbn
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from streams.instrument import UNIT
from streams.recording import SIGNALS, QuoteChecker, Recording, as_quotes, scan_frames

__all__ = [
    "LAYOUTS",
    "Ints",
    "Layout",
    "Market",
    "Quotes",
    "Records",
    "error",
    "from_stamp",
    "interleaved",
    "mapping",
    "metadata",
    "system",
]

Quotes: TypeAlias = Path | Recording | pl.DataFrame | Mapping[str, pl.DataFrame]
"""A recording (its signals are served), one feed as a frame, or several by symbol."""

Records: TypeAlias = npt.NDArray[np.void]
Ints: TypeAlias = npt.NDArray[np.int64]

_UNDEF_PRICE: Final = 2**63 - 1
_UNDEF_TIMESTAMP: Final = 2**64 - 1
_MAX_U32: Final = 2**32 - 1
_EVENT_LAG_NS: Final = 250_000
"""How long before its ts_recv a restamped quote happened when the recording does not say."""

# Source: the DBN encoding, version 3. The five layouts agree in where they have what they share;
# a consolidated record's publishers (u16) stand where the others count orders (u32).
_FIELDS: Final = [
    ("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"),
    ("ts_event", "<u8"), ("price", "<i8"), ("size", "<u4"), ("action", "u1"), ("side", "u1"),
    ("flags", "u1"), ("depth", "u1"), ("ts_recv", "<u8"), ("ts_in_delta", "<i4"),
    ("sequence", "<u4"), ("bid_px", "<i8"), ("ask_px", "<i8"), ("bid_sz", "<u4"),
    ("ask_sz", "<u4"), ("bid_by", "<u4"), ("ask_by", "<u4"),
]  # fmt: skip
_DTYPE: Final = np.dtype(_FIELDS)
_DTYPE_TS_OUT: Final = np.dtype([*_FIELDS, ("ts_out", "<u8")])
_ADD, _CLEAR, _TRADE, _NONE, _ASK = b"ARTNA"


class Layout(Struct, frozen=True):
    """How the records of one schema differ from those of the others."""

    rtype: int
    action: bool = False
    """Whether records say what happened."""
    sequence: bool = False
    consolidated: bool = False
    """Whether each side names its publisher."""
    trade: bool = False
    """Whether each record is a trade with the book before it."""
    interval_ns: int = 0
    """For schemas that are sampled: every how many ns."""
    skips: bool = True
    """Whether a reader that is too slow may lose records."""


_SECOND: Final = 1_000_000_000

LAYOUTS: Final[dict[str, Layout]] = {
    "mbp-1": Layout(1, action=True, sequence=True),
    "tbbo": Layout(1, action=True, sequence=True, trade=True, skips=False),
    "cmbp-1": Layout(177, action=True, consolidated=True),
    "tcbbo": Layout(194, action=True, consolidated=True, trade=True, skips=False),
    "bbo-1s": Layout(195, sequence=True, interval_ns=_SECOND),
    "bbo-1m": Layout(196, sequence=True, interval_ns=60 * _SECOND),
    "cbbo-1s": Layout(192, consolidated=True, interval_ns=_SECOND),
    "cbbo-1m": Layout(193, consolidated=True, interval_ns=60 * _SECOND),
}
"""The schemas that hold a best bid and offer."""


def metadata(dataset: str, start: int, *, ts_out: bool) -> bytes:
    """The header of a live session: but for ``start`` the same every time, as clients demand."""
    header = dbn.Metadata(
        dataset=dataset,
        start=start,
        stype_in=None,
        stype_out=cast(Any, dbn.SType.INSTRUMENT_ID),
        schema=None,
        ts_out=ts_out,
        version=3,
    )
    return header.encode()


class Market:
    """Recorded quotes of one or several symbols as columns, in the order in which they come."""

    def __init__(self, quotes: Quotes, symbol: str | None = None) -> None:
        """Read the quotes. ``symbol`` names those of one frame, or a recording's first signal.

        Errors: RecordingError if it is no sound recording; ValueError if a size cannot be
            Databento's, which counts whole units below 2**32.
        """
        feeds = _feeds(quotes, symbol)
        self.symbols: Final = tuple(feeds)
        """As clients ask for them; the index is what ``symbol_of`` holds."""
        frame = pl.concat(
            _checked(name, feed).with_columns(pl.lit(i, dtype=pl.UInt32()).alias("symbol"))
            for i, (name, feed) in enumerate(feeds.items())
        )
        if len(feeds) > 1:
            frame = frame.sort("ts", maintain_order=True)
        self.ts: Final = frame["ts"].to_numpy()
        self.symbol_of: Final = frame["symbol"].to_numpy()
        self._flags: Final = frame["flags"].to_numpy()
        self._event_known: Final = frame["ts_event"].is_not_null().to_numpy()
        self._ts_event: Final = frame["ts_event"].fill_null(0).to_numpy()
        self._px: Final = {
            side: frame[f"{side}_px"].fill_null(_UNDEF_PRICE).to_numpy() for side in ("bid", "ask")
        }
        self._sz: Final = {
            side: _whole_units(frame, f"{side}_sz", f"{side}_px") for side in ("bid", "ask")
        }

    def __len__(self) -> int:
        """Number of quotes."""
        return len(self.ts)

    def build(
        self,
        rows: Ints,
        schema: str,
        *,
        instrument_ids: npt.NDArray[np.uint32],
        publisher_id: int,
        ts_recv: Ints | None = None,
        ts_out: int | None = None,
    ) -> Records:
        """Build the records of ``rows``.

        ``instrument_ids`` by index of the symbol. ``ts_recv`` replaces the recorded stamps, and
        ``ts_event`` keeps its distance to them; an unknown one stays undefined in schemas that are
        sampled (there it is the last trade's) and gets a usual distance in others. With ``ts_out``
        each record ends with it.
        """
        layout = LAYOUTS[schema]
        records = np.zeros(len(rows), _DTYPE if ts_out is None else _DTYPE_TS_OUT)
        records["length"] = records.itemsize // 4
        records["rtype"] = layout.rtype
        records["publisher_id"] = publisher_id
        records["instrument_id"] = instrument_ids[self.symbol_of[rows]]
        recorded = self.ts[rows]
        known, event = self._event_known[rows], self._ts_event[rows]
        if ts_recv is None:
            ts_recv = recorded
        else:
            event = ts_recv - (recorded - event)
            if not layout.interval_ns:
                event = np.where(known, event, ts_recv - _EVENT_LAG_NS)
                known = np.ones(len(rows), dtype=np.bool_)
        records["ts_recv"] = ts_recv
        records["ts_event"] = np.where(known, event.astype(np.uint64), np.uint64(_UNDEF_TIMESTAMP))
        for side in ("bid", "ask"):
            records[f"{side}_px"] = self._px[side][rows]
            records[f"{side}_sz"] = self._sz[side][rows]
            if layout.consolidated:
                records[f"{side}_by"] = publisher_id
        records["flags"] = self._flags[rows]
        _last_event(records, layout)
        if ts_out is not None:
            records["ts_out"] = ts_out
        return records


def from_stamp(records: Records, start: int, schema: str) -> Records:
    """Those records that a subscription from ``start`` on asks for.

    By ts_recv in sampled schemas, by ts_event in others unless it is undefined.
    """
    stamp = records["ts_recv"]
    if not LAYOUTS[schema].interval_ns:
        event = records["ts_event"]
        stamp = np.where(event == np.uint64(_UNDEF_TIMESTAMP), stamp, event)
    return records[stamp >= np.uint64(start)]


def _last_event(records: Records, layout: Layout) -> None:
    """Fill in what the recording does not hold: what happened to the book, or the last trade."""
    records["side"] = _NONE
    records["price"] = _UNDEF_PRICE
    if layout.trade:
        # Somebody buys one unit from the ask, or where there is none sells it to the bid.
        no_ask = records["ask_px"] == _UNDEF_PRICE
        records["price"] = np.where(no_ask, records["bid_px"], records["ask_px"])
        records["size"] = 1
        records["action"] = _TRADE
    elif layout.action:
        empty = (records["bid_px"] == _UNDEF_PRICE) & (records["ask_px"] == _UNDEF_PRICE)
        records["action"] = np.where(empty, _CLEAR, _ADD)


def _feeds(quotes: Quotes, symbol: str | None) -> dict[str, pl.DataFrame]:
    if isinstance(quotes, pl.DataFrame):
        return {symbol or "NVDA": quotes}
    if isinstance(quotes, Mapping):
        if not quotes:
            raise ValueError("a gateway needs quotes of at least one symbol, got an empty mapping")
        return dict(quotes)
    recording = Recording.open(quotes) if isinstance(quotes, Path) else quotes
    feeds = {}
    for name in SIGNALS:
        if name in recording.manifest.files:
            known = recording.manifest.instruments.get(name)
            named = symbol if symbol and name == SIGNALS[0] else known and known.symbol
            frames = scan_frames(recording.folder / f"{name}.parquet")
            feeds[named or name.upper()] = frames.collect()
    return feeds


def _checked(name: str, feed: pl.DataFrame) -> pl.DataFrame:
    """Refuse a feed that a recording could not hold: out of order, or with negative numbers."""
    path = Path(name)
    rows = as_quotes(feed.lazy(), path).drop("seq", strict=False).collect()
    return QuoteChecker(path).check(rows)


def _whole_units(frame: pl.DataFrame, size: str, price: str) -> npt.NDArray[np.uint32]:
    """Sizes in whole units; a side without price has none, as on the wire."""
    units = frame.select(
        pl.when(pl.col(price).is_not_null()).then(pl.col(size)).otherwise(0).fill_null(0)
    ).to_series()
    bad = (units % UNIT != 0) | (units // UNIT > _MAX_U32)
    if bad.any():
        at = int(bad.arg_max() or 0)
        raise ValueError(
            f"quote {at} (counted from 0): {size} = {units[at]} of 1e-9, Databento's sizes are "
            f"whole units below 2**32; serve quotes that came from Databento"
        )
    whole: npt.NDArray[np.uint32] = (units // UNIT).cast(pl.UInt32).to_numpy()
    return whole


# The stub of databento_dbn types the members of its enums as int or str.


def system(ts: int, text: str, code: int, **ts_out: int) -> bytes:
    """A record that says something about the session; ``code`` a member of ``SystemCode``."""
    return bytes(dbn.SystemMsg(ts, text, cast(Any, code), **ts_out))


def error(ts: int, text: str, code: int, *, is_last: bool = True, **ts_out: int) -> bytes:
    """A record that says what went wrong; ``code`` a member of ``ErrorCode``."""
    return bytes(dbn.ErrorMsg(ts, text, is_last, cast(Any, code), **ts_out))


def mapping(ts: int, symbol: str, instrument_id: int, **ts_out: int) -> bytes:
    """A record that says which number a symbol has from here on."""
    raw = cast(Any, dbn.SType.RAW_SYMBOL)
    undefined = _UNDEF_TIMESTAMP
    message = dbn.SymbolMappingMsg(
        0, instrument_id, ts, raw, symbol, raw, symbol, undefined, undefined, **ts_out
    )
    return bytes(message)


def interleaved(parts: Sequence[tuple[Ints, Records]]) -> Records:
    """Put the records of several schemas in the order of their rows."""
    if len(parts) == 1:
        return parts[0][1]
    rows = np.concatenate([rows for rows, _ in parts])
    merged: Records = np.concatenate([records for _, records in parts])
    return merged[np.argsort(rows, kind="stable")]
