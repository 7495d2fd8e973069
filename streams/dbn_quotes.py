"""Databento: quotes of one symbol from a DBN file, exactly and in bounded memory.

The records are read with constant numpy layouts of our own. The vendor's readers change shared
layouts while they work: after one live file with ``ts_out`` they return garbage for ordinary ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import databento_dbn as dbn
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct, field

from streams.dbn_file import Bytes, blocks, open_dbn, read_header, runs
from streams.instrument import UNIT
from streams.recording import QUOTE_SCHEMA, RecordingError

__all__ = [
    "FIELDS",
    "IMPORT_SCHEMA",
    "MAX_TS",
    "QUOTE_SCHEMAS",
    "RECORD_BYTES",
    "TS_OUT_BYTES",
    "UNDEF_PRICE",
    "UNDEF_TS",
    "DbnQuotes",
    "SourceCounts",
    "read_mapping",
    "read_text",
    "rtype_name",
]

IMPORT_SCHEMA: Final = pl.Schema({k: v for k, v in QUOTE_SCHEMA.items() if k != "seq"})
"""What a reader of foreign files yields: quotes without a sequence number."""

QUOTE_SCHEMAS: Final = {
    "mbp-1": 1, "tbbo": 1, "cmbp-1": 177, "cbbo-1s": 192, "cbbo-1m": 193, "tcbbo": 194,
    "bbo-1s": 195, "bbo-1m": 196,
}  # fmt: skip
"""Schemas that hold a best bid and offer, with the record type (rtype) of each."""

_RTYPE_NAMES: Final = {
    0: "trade", 1: "mbp-1", 10: "mbp-10", 18: "status", 19: "definition", 20: "imbalance",
    21: "gateway error", 22: "symbol mapping", 23: "system message", 24: "statistics", 32: "ohlcv",
    33: "ohlcv", 34: "ohlcv", 35: "ohlcv", 36: "ohlcv", 160: "mbo", 177: "cmbp-1", 192: "cbbo-1s",
    193: "cbbo-1m", 194: "tcbbo", 195: "bbo-1s", 196: "bbo-1m",
}  # fmt: skip
_SYMBOL_MAPPING: Final = 22
_IS_CONTROL: Final = np.isin(np.arange(256), (21, _SYMBOL_MAPPING, 23))
_IS_QUOTE: Final = np.isin(np.arange(256), list(QUOTE_SCHEMAS.values()))

FIELDS: Final = {
    "rtype": ("u1", 1), "instrument_id": ("<u4", 4), "ts_event": ("<u8", 8), "flags": ("u1", 30),
    "ts_recv": ("<u8", 32), "sequence": ("<u4", 44), "bid_px": ("<i8", 48), "ask_px": ("<i8", 56),
    "bid_sz": ("<u4", 64), "ask_sz": ("<u4", 68),
}  # fmt: skip
"""Numpy type and offset of what is read of a record, little-endian, in the order of the offsets.

One layout serves all: where the schemas differ (action, counts, publishers) nothing is read.
"""
RECORD_BYTES: Final = 80
TS_OUT_BYTES: Final = 8
"""By how much a record is longer in a stream with ``ts_out``."""

UNDEF_PRICE: Final = 2**63 - 1
"""There is no price: that side of the book is empty."""
UNDEF_TS: Final = 2**64 - 1
MAX_TS: Final = 2**63 - 1
"""The latest instant that is kept; ``UNDEF_TS`` alone may lie above it."""
# Compared as what they are compared with: older numpy would go through floats.
_UNDEF_TS: Final = np.uint64(UNDEF_TS)
_MAX_TS: Final = np.uint64(MAX_TS)
_NS_PER_DAY: Final = 86_400_000_000_000
_F_BAD_TS_RECV: Final = 8
_F_MAYBE_BAD_BOOK: Final = 4
_SHOWN: Final = 5

_Records: TypeAlias = npt.NDArray[np.void]
_Mask: TypeAlias = npt.NDArray[np.bool_]
_Ints: TypeAlias = npt.NDArray[np.int64]


class SourceCounts(Struct):
    """What became of every record of a source: records_in = rows_out + all of refused."""

    records_in: int = 0
    rows_out: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Records left out, by reason."""
    noted: dict[str, int] = field(default_factory=dict)
    """Rows kept that a reader may want to know of, by what was seen; a row can count twice."""

    def refuse(self, reason: str, count: int) -> None:
        """Count records that were left out."""
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count

    def note(self, what: str, count: int) -> None:
        """Count rows that were kept and are remarkable."""
        if count:
            self.noted[what] = self.noted.get(what, 0) + count


class DbnQuotes:
    """Quotes of one symbol in a DBN file (version 1 to 3, plain or zstd, historical or live).

    Every record is a row out or is counted in ``counts.refused``. A row with both sides undefined
    says that the book was cleared; it is kept, with both sides null.

    Units: ``ts`` is Databento's ``ts_recv``, ns; prices 1e-9; sizes 1e-9, from whole units.
    Shape: rows in file order. A row marked F_BAD_TS_RECV that goes back in time takes the ``ts``
        of the row before it and is counted.
    Errors: RecordingError if the file is not DBN, is damaged or truncated, holds no quotes, lacks
        the symbol, or goes back in time without saying that its clock is bad.
    Source: layouts as databento-dbn 0.70 encodes them; the tests compare with its decoder.
    """

    def __init__(self, path: Path, symbol: str, schema: str | None = None) -> None:
        """Read the header; ``schema`` picks one kind of quote from a live recording."""
        self.path = path
        self.counts = SourceCounts()
        if schema is not None and schema not in QUOTE_SCHEMAS:
            raise RecordingError(
                f"schema {schema!r} holds no best bid and offer; "
                f"choose one of {', '.join(QUOTE_SCHEMAS)}"
            )
        with open_dbn(path) as stream:
            self.version, metadata = read_header(stream, path)
        self.dataset: str = metadata.dataset
        self.venue: str = self.dataset.partition(".")[0]
        self.schema: str | None = None if metadata.schema is None else str(metadata.schema)
        if self.schema is not None and self.schema not in QUOTE_SCHEMAS:
            raise RecordingError(
                f"{path} holds {self.schema} records, which carry no best bid and offer; "
                f"import a file of schema {', '.join(QUOTE_SCHEMAS)}"
            )
        if schema is not None and self.schema is not None and schema != self.schema:
            raise RecordingError(
                f"{path} holds {self.schema} records, {schema} was asked for; leave the schema out"
            )
        self._wanted = schema or self.schema
        self._rtype = None if self._wanted is None else QUOTE_SCHEMAS[self._wanted]
        self._size = RECORD_BYTES + (TS_OUT_BYTES if metadata.ts_out else 0)
        self._layout = np.dtype(
            {
                "names": list(FIELDS),
                "formats": [kind for kind, _ in FIELDS.values()],
                "offsets": [offset for _, offset in FIELDS.values()],
                "itemsize": self._size,
            }
        )
        self._selector = _Selector(path, metadata, symbol, live=self.schema is None)
        self._last_ts = -1
        self._seen_rtype: int | None = None

    @property
    def symbol(self) -> str:
        """The symbol as the file spells it."""
        return self._selector.symbol

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the quotes in frames of ``IMPORT_SCHEMA``, a block of the file at a time."""
        self.counts = SourceCounts()
        self._last_ts, self._seen_rtype = -1, None
        self._selector.restart()
        with open_dbn(self.path) as stream:
            read_header(stream, self.path)
            for block in blocks(stream, self.path):
                yield from self._block_quotes(block)
        self._selector.finish()

    def _block_quotes(self, block: Bytes) -> Iterator[pl.DataFrame]:
        """Sort a block's records by kind; symbol mappings act on what follows them."""
        pending: list[Bytes] = []
        numbers: list[_Ints] = []
        for start, count, size in runs(block):
            run = block[start : start + count * size].reshape(count, size)
            first = self.counts.records_in
            self.counts.records_in += count
            cuts = self._other_records(run, first)
            for begin, end in _between(cuts, count):
                if begin < end:
                    pending.append(run[begin:end])
                    numbers.append(np.arange(first + begin, first + end, dtype=np.int64))
                if end < count and run[end, 1] == _SYMBOL_MAPPING:
                    yield from self._flush(pending, numbers)
                    self._selector.remap(run[end], self.version)
        yield from self._flush(pending, numbers)

    def _other_records(self, run: Bytes, first: int) -> list[int]:
        """Count the records of a run that are no quotes; return where they are."""
        rtypes = run[:, 1]
        expected = _IS_QUOTE[rtypes] if self.schema is None else rtypes == self._rtype
        if expected.all() and run.shape[1] == self._size:
            return []
        foreign = ~expected & ~_IS_CONTROL[rtypes]
        if self.schema is not None and foreign.any():
            at = int(foreign.argmax())
            raise RecordingError(
                f"{self.path}: record {first + at} is of kind {rtype_name(int(rtypes[at]))}, the "
                f"header says {self.schema}; one of them is wrong, so the file is damaged. "
                f"Fetch it again"
            )
        if expected.any() and run.shape[1] != self._size:
            at = first + int(expected.argmax())
            raise RecordingError(
                f"{self.path}: record {at} is {run.shape[1]} bytes long, a quote of this file must "
                f"be {self._size}; the file is damaged. Fetch it again"
            )
        others = np.flatnonzero(~expected)
        for rtype, count in Counter(rtypes[others].tolist()).items():
            self.counts.refuse(f"{rtype_name(rtype)} record", count)
        return others.tolist()

    def _flush(self, pending: list[Bytes], numbers: list[_Ints]) -> Iterator[pl.DataFrame]:
        if not pending:
            return
        rows = pending[0] if len(pending) == 1 else np.concatenate(pending)
        number = numbers[0] if len(numbers) == 1 else np.concatenate(numbers)
        pending.clear()
        numbers.clear()
        records = np.ascontiguousarray(rows).view(self._layout)[:, 0]
        kept = self._kept(records)
        if kept.any():
            frame = self._frame(records[kept], number[kept])
            self.counts.rows_out += frame.height
            yield frame

    def _kept(self, records: _Records) -> _Mask:
        """Say which records become rows; count the others, each under one reason."""
        ts = records["ts_recv"]
        left: _Mask = np.ones(len(records), dtype=np.bool_)
        self._drop(left, ts == _UNDEF_TS, "undefined ts_recv")
        ts_event = records["ts_event"]
        impossible = (ts > _MAX_TS) | ((ts_event > _MAX_TS) & (ts_event != _UNDEF_TS))
        self._drop(left, impossible, "impossible timestamp")
        chosen = self._selector.chosen(records["instrument_id"], ts.astype(np.int64))
        self._drop(left, ~chosen, "other instrument")
        if self.schema is None:
            self._one_schema(records["rtype"], left)
        negative = (records["bid_px"] < 0) | (records["ask_px"] < 0)
        self._drop(left, negative, "negative price")
        return left

    def _drop(self, left: _Mask, bad: npt.NDArray[Any], reason: str) -> None:
        self.counts.refuse(reason, int((left & bad).sum()))
        left &= ~bad

    def _one_schema(self, rtypes: npt.NDArray[np.uint8], left: _Mask) -> None:
        """Hold a live recording to one kind of quote, which two subscriptions may have mixed."""
        if self._rtype is not None:
            self._drop(left, rtypes != self._rtype, "other schema")
            return
        for rtype in np.unique(rtypes[left]).tolist():
            if self._seen_rtype is None:
                self._seen_rtype = rtype
            elif rtype != self._seen_rtype:
                both = sorted((rtype_name(rtype), rtype_name(self._seen_rtype)))
                raise RecordingError(
                    f"{self.path} holds {both[0]} and {both[1]} quotes of {self.symbol}; mixed, "
                    f"they would repeat the past. Choose one with the schema option, "
                    f"such as {both[1]}"
                )

    def _frame(self, records: _Records, number: _Ints) -> pl.DataFrame:
        ts = self._in_order(records, number)
        flags = records["flags"].copy()
        self.counts.note("bad ts_recv", int((flags & _F_BAD_TS_RECV != 0).sum()))
        self.counts.note("maybe bad book", int((flags & _F_MAYBE_BAD_BOOK != 0).sum()))
        columns: dict[str, npt.NDArray[Any]] = {
            "ts": ts,
            "ts_event": records["ts_event"].astype(np.int64),
            "bid_px": records["bid_px"].copy(),
            "ask_px": records["ask_px"].copy(),
            "bid_sz": records["bid_sz"].astype(np.int64) * UNIT,
            "ask_sz": records["ask_sz"].astype(np.int64) * UNIT,
            "flags": flags,
        }
        clear = (columns["bid_px"] == UNDEF_PRICE) & (columns["ask_px"] == UNDEF_PRICE)
        self.counts.note("clear row", int(clear.sum()))
        present = {side: pl.col(f"{side}_px") != UNDEF_PRICE for side in ("bid", "ask")}
        # An undefined u64 time stamp is -1 once it is read as i64.
        known = pl.when(pl.col("ts_event") >= 0).then(pl.col("ts_event"))
        sides = [
            pl.when(present[side]).then(pl.col(f"{side}_{what}")).alias(f"{side}_{what}")
            for what in ("px", "sz")
            for side in ("bid", "ask")
        ]
        return pl.DataFrame(columns, schema=IMPORT_SCHEMA).with_columns(known, *sides)

    def _in_order(self, records: _Records, number: _Ints) -> _Ints:
        """Return ts_recv without steps back, which only rows with a bad clock may take."""
        ts: _Ints = records["ts_recv"].astype(np.int64)
        highest: _Ints = np.maximum.accumulate(np.maximum(ts, self._last_ts))
        back = ts < highest
        if back.any():
            wrong = back & (records["flags"] & _F_BAD_TS_RECV == 0)
            if wrong.any():
                at = int(wrong.argmax())
                raise RecordingError(
                    f"{self.path}: record {number[at]} (counted from 0) has ts_recv {ts[at]}, "
                    f"before {highest[at]} of an earlier row of {self.symbol}; ts_recv must not go "
                    f"back unless the row is flagged F_BAD_TS_RECV. Fetch the file again, sorted "
                    f"by ts_recv, or split it there"
                )
            self.counts.note("clamped ts", int(back.sum()))
        self._last_ts = int(highest[-1])
        return highest


# ---------------------------------------------------------------- symbols


_ID: Final = "instrument_id"
_STYPE_PARENT: Final = 4  # dbn ``SType::Parent``


class _Selector:
    """Knows which instrument ids mean the symbol, by date or from the mapping that came last."""

    def __init__(self, path: Path, metadata: dbn.Metadata, symbol: str, *, live: bool) -> None:
        self._path = path
        self._live = live
        self._intervals: list[tuple[int, int, int]] = []
        self._everything = False
        names = _dated_ids(path, metadata)
        self._names = set(names)
        venue = metadata.dataset.partition(".")[0]
        bare = symbol.removesuffix(f".{venue}")
        self.symbol = bare if symbol not in names and bare in names else symbol
        if self.symbol in names:
            self._intervals = names[self.symbol]
        elif symbol.isdecimal():
            self._intervals = [(int(symbol), 0, 2**63 - 1)]
        elif not live:
            # Without mappings a file that was asked for one symbol can hold no other.
            self._everything = not names and list(metadata.symbols) == [symbol]
            if not self._everything:
                raise self._unknown()
        self.restart()

    def restart(self) -> None:
        """Forget the mappings that came with the records."""
        self._current: int | None = None
        self._mapped = False

    def chosen(self, ids: npt.NDArray[np.uint32], ts: _Ints) -> _Mask:
        """Say which records are the symbol's."""
        if self._everything:
            return np.ones(len(ids), dtype=np.bool_)
        if self._mapped:
            return cast(_Mask, ids == (-1 if self._current is None else self._current))
        mask: _Mask = np.zeros(len(ids), dtype=np.bool_)
        first, last = int(ts.min()), int(ts.max())
        for number, start, end in self._intervals:
            if start <= last and first < end:
                mask |= (ids == number) & (ts >= start) & (ts < end)
        return mask

    def remap(self, record: Bytes, version: int) -> None:
        """Take in a symbol mapping; it holds until the next for its id or for the symbol."""
        raw = record.tobytes()
        number, asked, meant = read_mapping(raw, version)
        if version == 1:
            parent = asked.endswith((".FUT", ".OPT", ".SPOT"))
        else:
            parent = raw[16] == _STYPE_PARENT
        # A parent stands for many instruments at once, so it cannot name one.
        names = {meant} if parent else {asked, meant}
        self._names |= {name for name in names if name and not name.isdecimal()}
        if self.symbol in names:
            self._current, self._mapped = number, True
        elif number == self._current:
            self._current = None

    def finish(self) -> None:
        """Refuse a live recording in which the symbol never was."""
        if self._live and not self._mapped and not self._intervals:
            raise self._unknown()

    def _unknown(self) -> RecordingError:
        some = sorted(self._names)
        shown = ", ".join(some[:_SHOWN]) + (", ..." if len(some) > _SHOWN else "")
        what = f"it holds {len(some)}: {shown}" if some else "it has no symbol mappings"
        return RecordingError(
            f"{self._path} does not hold the symbol {self.symbol!r}; {what}. Symbols are spelled "
            f"as in the file; give one of those, or an instrument id as a number"
        )


def _dated_ids(path: Path, metadata: dbn.Metadata) -> dict[str, list[tuple[int, int, int]]]:
    """Read the header's mappings: for each symbol its ids, each from a ns to before a ns."""
    by_name: dict[str, list[tuple[int, int, int]]] = {}
    mappings = cast(dict[str, list[dict[str, Any]]], metadata.mappings)
    if not mappings:
        return by_name
    inverse = str(metadata.stype_in) == _ID
    if not inverse and str(metadata.stype_out) != _ID:
        raise RecordingError(
            f"{path} maps {metadata.stype_in} to {metadata.stype_out}, so its symbols do not say "
            f"which records are theirs; one of the two must be instrument_id. Fetch it so"
        )
    for key, intervals in mappings.items():
        for interval in intervals:
            name, number = (interval["symbol"], key) if inverse else (key, interval["symbol"])
            if name and number.isdecimal():
                span = (_midnight(interval["start_date"]), _midnight(interval["end_date"]))
                by_name.setdefault(name, []).append((int(number), *span))
    return by_name


def _midnight(day: date) -> int:
    return (day - date(1970, 1, 1)).days * _NS_PER_DAY


def read_mapping(raw: bytes, version: int) -> tuple[int, str, str]:
    """Read a symbol mapping: the instrument id, the symbol asked for and the one it means."""
    asked, meant = (raw[16:38], raw[38:60]) if version == 1 else (raw[17:88], raw[89:160])
    return int.from_bytes(raw[4:8], "little"), read_text(asked), read_text(meant)


def read_text(raw: bytes) -> str:
    """Read a text that ends with the first zero byte."""
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def rtype_name(rtype: int) -> str:
    """Name a record type as the schemas do."""
    return _RTYPE_NAMES.get(rtype, f"rtype {rtype}")


def _between(cuts: list[int], count: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches between the cuts, empty ones before a cut included."""
    begin = 0
    for cut in cuts:
        yield begin, cut
        begin = cut + 1
    if begin < count:
        yield begin, count
