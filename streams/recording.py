"""Recordings: the folder format, its checks, and reading it back in the one order of inputs.

A recording is a folder with ``manifest.json`` and one Parquet file for each kind of input; see
``FILES``. Everything is read and written in batches, so memory does not grow with length.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, TypeAlias, cast, get_args

import msgspec
import polars as pl
from msgspec import Struct, field

from streams.events import BUY, SELL, AccountEvent, AccountKind, Status, StatusKind, Trade
from streams.instrument import Instrument, format_units
from streams.pump import ACCOUNT, MAX_SIGNALS, PAIR, SIGNAL, STATUS, TARGET, TRADE, Event, Inputs

__all__ = [
    "ACCOUNT_SCHEMA",
    "FILES",
    "MANIFEST",
    "QUOTE_SCHEMA",
    "SIGNALS",
    "STATUS_SCHEMA",
    "TRADES_SCHEMA",
    "FileEntry",
    "FrameWriter",
    "Manifest",
    "NewWriter",
    "QuoteChecker",
    "Recording",
    "RecordingError",
    "RowChecker",
    "TableWriter",
    "TradeChecker",
    "as_quotes",
    "checked_quotes",
    "checked_rows",
    "checker_of",
    "did_you_mean",
    "file_entry",
    "lazy_rows",
    "merged_inputs",
    "read_manifest",
    "rows_of",
    "scan_frames",
    "schema_of",
    "sha256_of",
    "unchecked_rows",
    "write_manifest",
]

SCHEMA_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
BATCH_ROWS: Final = 65_536
ROW_GROUP_ROWS: Final = 131_072
_MAX_INT64: Final = 2**63 - 1

QUOTE_SCHEMA: Final = pl.Schema(
    {
        "seq": pl.UInt64(),
        "ts": pl.Int64(),
        "ts_event": pl.Int64(),
        "bid_px": pl.Int64(),
        "ask_px": pl.Int64(),
        "bid_sz": pl.Int64(),
        "ask_sz": pl.Int64(),
        "flags": pl.UInt8(),
    }
)
"""The signals' files and ``target.parquet``; an imported recording may lack ``seq``."""

ACCOUNT_SCHEMA: Final = pl.Schema(
    {
        "seq": pl.UInt64(),
        "ts": pl.Int64(),
        "kind": pl.String(),
        "n": pl.Int64(),
        "venue_id": pl.String(),
        "px": pl.Int64(),
        "qty": pl.Int64(),
        "fee": pl.Int64(),
        "liquidity": pl.String(),
        "reason": pl.String(),
        "quota_left": pl.Int64(),
    }
)
"""``account.parquet``; ``seq`` shares one numbering with the quotes. Files written before there was
``quota_left`` lack it."""

STATUS_SCHEMA: Final = pl.Schema(
    {
        "seq": pl.UInt64(),
        "ts": pl.Int64(),
        "source": pl.String(),
        "kind": pl.String(),
        "text": pl.String(),
    }
)
"""``status.parquet``; an imported recording may lack ``seq``."""

TRADES_SCHEMA: Final = pl.Schema(
    {
        "seq": pl.UInt64(),
        "ts": pl.Int64(),
        "ts_event": pl.Int64(),
        "px": pl.Int64(),
        "qty": pl.Int64(),
        "side": pl.String(),
        "trade_id": pl.String(),
    }
)
"""``trades.parquet``, the target's public trades; an imported recording may lack ``seq``."""

SIGNALS: Final = ("signal", *(f"signal_{n}" for n in range(2, MAX_SIGNALS + 1)))
"""Names of the signals' files, in the order in which a recording has them."""

FILES: Final[dict[str, int]] = {
    "account": ACCOUNT,
    "status": STATUS,
    **{name: SIGNAL + n for n, name in enumerate(SIGNALS)},
    "trades": TRADE,
    "target": TARGET,
}
"""Files of inputs, without ``.parquet``, and the kind of their rows; in the order of ties."""

_FURTHER_SIGNAL: Final = re.compile("signal_[0-9]+")
# The merged frame's own column ``kind`` is a number.
_EVENT_KIND: Final = "event_kind"
_STATUS_SOURCES: Final = ("signal", "target", "operator")
_SIDES: Final = {"BUY": BUY, "SELL": SELL}


def schema_of(name: str) -> pl.Schema:
    """The columns of a file of ``FILES``."""
    others = {"account": ACCOUNT_SCHEMA, "status": STATUS_SCHEMA, "trades": TRADES_SCHEMA}
    return others.get(name, QUOTE_SCHEMA)


class RecordingError(ValueError):
    """A recording, or a file that should become one, breaks the format."""


# ---------------------------------------------------------------- manifest


class FileEntry(Struct, kw_only=True, omit_defaults=True):
    """What the manifest says about one file."""

    rows: int
    sha256: str
    first_ts: int | None = None
    last_ts: int | None = None


class Manifest(Struct, kw_only=True):
    """``manifest.json``: what a folder holds, where it comes from and how it ended."""

    schema_version: int = SCHEMA_VERSION
    mode: str = "import"
    """``import``, ``synthetic``, ``replay``, ``paper`` or ``live``."""
    ended: str = "complete"
    """``complete``, or why not."""
    instruments: dict[str, Instrument] = field(default_factory=dict)
    """By role: ``signal``, ``signal_2`` …, ``target``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings as used, all keys; never a secret."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By feed: where an import came from, and what it left out, counted by reason."""
    markets: list[str] = field(default_factory=list)
    """Of a run of several markets: the folders of its parts, by the targets' ids."""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def first_ts(self) -> int | None:
        """Earliest input, ns."""
        return min(
            (f.first_ts for f in self.files.values() if f.first_ts is not None), default=None
        )

    @property
    def last_ts(self) -> int | None:
        """Latest input, ns."""
        return max((f.last_ts for f in self.files.values() if f.last_ts is not None), default=None)


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Errors: RecordingError if there is none, it is not one, or a newer version wrote it.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        what = "is not a folder" if not folder.is_dir() else f"has no {MANIFEST}"
        raise RecordingError(
            f"{folder} {what}, so it is not a recording; make one with `marble import`"
        ) from None
    try:
        version = json.loads(raw).get("schema_version")
        if version != SCHEMA_VERSION:
            raise RecordingError(
                f"{path} has schema_version {version!r}, this program reads {SCHEMA_VERSION}; "
                f"upgrade marblemaker or import the recording again"
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (ValueError, AttributeError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"{path} is not a recording's manifest: {error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest whole or not at all."""
    document = msgspec.to_builtins(manifest)
    if not manifest.markets:
        del document["markets"]
    document["first_ts"], document["last_ts"] = manifest.first_ts, manifest.last_ts
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(document, indent=2, sort_keys=False) + "\n")
    os.replace(partial, folder / MANIFEST)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_entry(path: Path, rows: int, span: tuple[int | None, int | None]) -> FileEntry:
    """Describe a finished file."""
    return FileEntry(rows=rows, sha256=sha256_of(path), first_ts=span[0], last_ts=span[1])


# ---------------------------------------------------------------- checks


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]}?)" if match else ""


def scan_frames(path: Path) -> pl.LazyFrame:
    """Open a Parquet file lazily.

    Errors: RecordingError if it is missing, empty of columns, truncated or no Parquet file.
    """
    if not path.is_file():
        raise RecordingError(f"{path} does not exist or is not a file; give a Parquet file")
    try:
        frames = pl.scan_parquet(path)
        frames.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecordingError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); "
            f"it is truncated or of another format"
        ) from error
    return frames


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Layout(Struct, frozen=True):
    """What a file of rows may look like on the way in."""

    noun: str
    schema: pl.Schema
    nullable: tuple[str, ...]
    defaults: Mapping[str, int | None]
    """Columns that may be missing, and what they are then."""
    may_lack_seq: bool = True

    @property
    def needed(self) -> list[str]:
        """Columns that must be there."""
        return [
            name
            for name in self.schema
            if name not in self.defaults and not (name == "seq" and self.may_lack_seq)
        ]


_QUOTES: Final = _Layout(
    "quotes",
    QUOTE_SCHEMA,
    nullable=("ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz"),
    defaults={"ts_event": None, "flags": 0},
)
_LAYOUTS: Final = {
    "account": _Layout(
        "account events",
        ACCOUNT_SCHEMA,
        nullable=("n", "venue_id", "px", "qty", "fee", "liquidity", "reason", "quota_left"),
        defaults={"quota_left": None},
        may_lack_seq=False,
    ),
    "status": _Layout("status rows", STATUS_SCHEMA, nullable=("text",), defaults={"text": None}),
    "trades": _Layout(
        "trades",
        TRADES_SCHEMA,
        nullable=("ts_event", "side", "trade_id"),
        defaults={"ts_event": None, "side": None, "trade_id": None},
    ),
}


def as_quotes(frames: pl.LazyFrame, path: Path) -> pl.LazyFrame:
    """Bring a frame of quotes to the column order and types of ``QUOTE_SCHEMA``, exactly.

    Integers of other widths are widened; an absent ``ts_event`` becomes null, absent ``flags`` 0;
    an absent ``seq`` stays absent.

    Errors: RecordingError naming the column when one is missing, unknown or not an integer.
    """
    return _as_rows(frames, path, _QUOTES)


def _as_rows(frames: pl.LazyFrame, path: Path, layout: _Layout) -> pl.LazyFrame:
    schema = frames.collect_schema()
    known = list(layout.schema)
    absent = [name for name in known if name not in schema]
    for name in schema:
        if name not in layout.schema:
            raise RecordingError(
                f"{path}: unknown column {name!r}{did_you_mean(name, absent)}; "
                f"{layout.noun} have the columns {', '.join(known)}; drop or rename it"
            )
    columns: list[pl.Expr] = []
    for name, wanted in layout.schema.items():
        if name in schema:
            columns.append(_as_type(name, schema[name], wanted, path, layout))
        elif name in layout.defaults:
            columns.append(pl.lit(layout.defaults[name], dtype=wanted).alias(name))
        elif name in layout.needed:
            raise RecordingError(
                f"{path}: column {name!r} is missing; it has {', '.join(schema) or 'none'}, "
                f"{layout.noun} need {', '.join(layout.needed)}"
            )
    return frames.select(columns)


def _as_type(
    name: str, found: pl.DataType, wanted: pl.DataType, path: Path, layout: _Layout
) -> pl.Expr:
    if found == wanted:
        return pl.col(name)
    exact = found.is_integer() or (wanted == pl.String() and found in (pl.Categorical, pl.Enum))
    if exact or (found == pl.Null() and name in layout.nullable):
        return pl.col(name).cast(wanted, strict=True)
    hint = (
        "text" if wanted == pl.String()
        else "integer nanoseconds UTC" if name in ("ts", "ts_event")
        else "integers of 1e-9"
    )  # fmt: skip
    raise RecordingError(
        f"{path}: column {name!r} is {found}, must be {wanted} ({hint}); convert it "
        f"exactly before the import, floats lose digits"
    )


class RowChecker:
    """Checks a file of rows batch by batch, carrying what batches have in common."""

    _never_null: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, instrument: Instrument | None = None) -> None:
        """Name the file for errors; with an instrument, prices must be on its tick."""
        self._path = path
        self._instrument = instrument
        self._rows = 0
        self._last: dict[str, int | None] = {"ts": None, "seq": None}

    def check(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Return the batch if every row is sound.

        Errors: RecordingError with the row (counted from 0), the value and the rule.
        """
        for name in ("ts", "seq", *self._never_null):
            if name in batch.columns and batch[name].null_count():
                self._refuse(batch, batch[name].is_null(), name, "must not be null")
        self._ordered(batch, "ts", strictly=False)
        if "seq" in batch.columns:
            self._ordered(batch, "seq", strictly=True)
        self._refuse(batch, batch["ts"] < 0, "ts", "must be ns since 1970, not negative")
        self._values(batch)
        self._rows += batch.height
        return batch

    def passed(self, batch: pl.DataFrame) -> None:
        """Count a batch of at least one row that is known to be sound already."""
        self._rows += batch.height
        for name in self._last:
            if name in batch.columns:
                self._last[name] = batch[name][-1]

    def last(self, name: str) -> int | None:
        """``ts`` or ``seq`` of the last row so far."""
        return self._last[name]

    def _values(self, batch: pl.DataFrame) -> None:
        raise NotImplementedError

    def _refuse(self, batch: pl.DataFrame, bad: pl.Series, name: str, rule: str) -> None:
        if bad.any():
            at = cast(int, bad.fill_null(False).arg_max())
            count = int(bad.sum())
            more = f" ({count - 1} more in this batch)" if count > 1 else ""
            raise RecordingError(
                f"{self._path}: row {self._rows + at}: {name} = {batch[name][at]} {rule}{more}"
            )

    def _known(self, batch: pl.DataFrame, name: str, known: Sequence[str]) -> None:
        bad = ~batch[name].is_in(list(known))
        if bad.any():
            at = cast(int, bad.fill_null(False).arg_max())
            value = batch[name][at]
            raise RecordingError(
                f"{self._path}: row {self._rows + at}: unknown {name} {value!r}"
                f"{did_you_mean(value, known)}; {name} must be one of {', '.join(known)}"
            )

    def _on_tick(self, batch: pl.DataFrame, names: Sequence[str]) -> None:
        if self._instrument is None:
            return
        tick = self._instrument.tick_size
        rule = (
            f"is off the tick of {format_units(tick)} ({self._instrument.id} has "
            f"{self._instrument.price_decimals} decimals in the settings)"
        )
        for name in names:
            self._refuse(batch, batch[name] % tick != 0, name, rule)

    def _ordered(self, batch: pl.DataFrame, name: str, *, strictly: bool) -> None:
        if not batch.height:
            return
        self._refuse(batch, batch[name] > _MAX_INT64, name, "does not fit 63 bits")
        values = batch[name].cast(pl.Int64)
        before = values.shift(1, fill_value=self._last[name])
        bad = (values <= before) if strictly else (values < before)
        if bad.any():
            at = cast(int, bad.fill_null(False).arg_max())
            rule = "must rise from row to row" if strictly else "must not go back"
            repeated = values[at] == before[at]
            raise RecordingError(
                f"{self._path}: row {self._rows + at}: {name} {values[at]} "
                f"{'repeats' if repeated else 'comes after'} {before[at]}"
                f"{'' if repeated else ' and is smaller'}; {name} {rule}. "
                f"Sort the rows, or split the file where it goes back"
            )
        self._last[name] = values[-1]


class QuoteChecker(RowChecker):
    """Checks a feed of quotes batch by batch: order, signs, and the tick of the instrument."""

    _never_null = ("flags",)

    def _values(self, batch: pl.DataFrame) -> None:
        for name in ("bid_sz", "ask_sz", "bid_px", "ask_px"):
            rule = "must not be negative; a side that is absent is null"
            self._refuse(batch, batch[name] < 0, name, rule)
        self._on_tick(batch, ("bid_px", "ask_px"))


class TradeChecker(RowChecker):
    """Checks public trades batch by batch: order, sides, and prices and sizes above zero."""

    _never_null = ("px", "qty")

    def _values(self, batch: pl.DataFrame) -> None:
        for name in self._never_null:
            self._refuse(batch, batch[name] <= 0, name, "must be positive; drop what is no trade")
        self._known(batch, "side", list(_SIDES))
        self._on_tick(batch, ("px",))


class _StatusChecker(RowChecker):
    _never_null = ("source", "kind")

    def _values(self, batch: pl.DataFrame) -> None:
        self._known(batch, "source", _STATUS_SOURCES)
        self._known(batch, "kind", get_args(StatusKind))


class _AccountChecker(RowChecker):
    _never_null = ("kind",)

    def _values(self, batch: pl.DataFrame) -> None:
        self._known(batch, "kind", get_args(AccountKind))
        unsound = batch["n"].is_null() | (batch["px"].fill_null(0) <= 0)
        unsound |= batch["qty"].fill_null(0) <= 0
        bare = (batch["kind"] == "fill") & unsound
        if bare.any():
            at = cast(int, bare.arg_max())
            fill = batch.row(at, named=True)
            raise RecordingError(
                f"{self._path}: row {self._rows + at}: the fill at seq {fill['seq']} has "
                f"n = {fill['n']}, px = {fill['px']}, qty = {fill['qty']}; a fill must name our "
                f"order, a positive price and a positive size"
            )


_CHECKERS: Final[dict[str, type[RowChecker]]] = {
    "account": _AccountChecker, "status": _StatusChecker, "trades": TradeChecker,
}  # fmt: skip


def checked_quotes(
    path: Path, instrument: Instrument | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """Read a Parquet file of quotes in checked batches, in ``QUOTE_SCHEMA``'s order.

    Errors: RecordingError, as of ``as_quotes`` and ``QuoteChecker``, or if the file is truncated.
    """
    return _checked(path, _QUOTES, QuoteChecker(path, instrument), batch_rows)


def checked_rows(
    name: str, path: Path, instrument: Instrument | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """Read a Parquet file that is, or is to be, ``name`` of ``FILES`` in checked batches.

    Shape: batches in ``schema_of(name)``'s order; without ``seq`` when the file has none, other
        columns that may be missing are there.
    Errors: RecordingError naming the column, or the row, its value and the rule; or if the file is
        truncated.
    """
    layout, checker = _LAYOUTS.get(name, _QUOTES), _CHECKERS.get(name, QuoteChecker)
    return _checked(path, layout, checker(path, instrument), batch_rows)


def unchecked_rows(name: str, path: Path, batch_rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
    """The batches of ``checked_rows``, which ``checker_of`` is still to check."""
    return _batches(lazy_rows(name, path), path, batch_rows)


def checker_of(name: str, path: Path, instrument: Instrument | None = None) -> RowChecker:
    """What checks the batches of a file, one after the other; see ``checked_rows``."""
    return _CHECKERS.get(name, QuoteChecker)(path, instrument)


def lazy_rows(name: str, path: Path) -> pl.LazyFrame:
    """The rows of ``checked_rows``, not read yet and not checked.

    Errors: RecordingError naming the column.
    """
    return _as_rows(scan_frames(path), path, _LAYOUTS.get(name, _QUOTES))


def _checked(
    path: Path, layout: _Layout, checker: RowChecker, batch_rows: int
) -> Iterator[pl.DataFrame]:
    frames = _as_rows(scan_frames(path), path, layout)
    for batch in _batches(frames, path, batch_rows):
        yield checker.check(batch)


def _batches(frames: pl.LazyFrame, path: Path, batch_rows: int) -> Iterator[pl.DataFrame]:
    try:
        for batch in frames.collect_batches(chunk_size=batch_rows, maintain_order=True):
            if batch.height:
                yield batch
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecordingError(
            f"{path} cannot be read to its end ({_first_line(error)}); it is truncated, damaged "
            f"or holds a value that does not fit its column"
        ) from error


# ---------------------------------------------------------------- writing


class TableWriter(Protocol):
    """Makes a Parquet file of batches of one schema."""

    path: Path

    def append(self, batch: pl.DataFrame) -> None:
        """Add rows; the batch must have the schema's columns in its order."""

    def finish(self) -> None:
        """Finish the file."""

    def close(self) -> FileEntry:
        """Finish the file; return what it is."""


NewWriter: TypeAlias = Callable[[Path, str, pl.Schema], TableWriter]
"""Makes the writer of ``folder/name.parquet``."""


class FrameWriter:
    """Collects batches of one schema and makes a Parquet file of them at close.

    Batches go to Arrow IPC segments as they come and are joined at close, so memory is bounded by
    a batch.
    """

    def __init__(self, folder: Path, name: str, schema: pl.Schema) -> None:
        """Write ``folder/name.parquet`` at close; segments live in ``folder/.segments``."""
        self._parent = folder
        self.path = folder / f"{name}.parquet"
        self.rows = 0
        self._schema = schema
        self._name = name
        self._segments: list[Path] = []
        self._folder = folder / ".segments"

    def append(self, batch: pl.DataFrame) -> None:
        """Add rows; the batch must have the schema's columns in its order."""
        if not batch.height:
            return
        self._folder.mkdir(exist_ok=True)
        segment = self._folder / f"{self._name}-{len(self._segments):06d}.arrow"
        batch.write_ipc(segment)
        self._segments.append(segment)
        self.rows += batch.height

    def finish(self) -> None:
        """Join the segments into the Parquet file and remove them."""
        self._joined().finish()
        self._remove()

    def close(self) -> FileEntry:
        """Do as ``finish``; return what the file is."""
        entry = self._joined().close()
        self._remove()
        return entry

    def _joined(self) -> TableWriter:
        # It needs this module.
        from streams.row_groups import RowGroupWriter

        whole = RowGroupWriter(self._parent, self._name, self._schema)
        for segment in self._segments:
            whole.append(pl.read_ipc(segment))
        return whole

    def _remove(self) -> None:
        for segment in self._segments:
            segment.unlink()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            shutil.rmtree(self._folder)


# ---------------------------------------------------------------- reading


class Recording:
    """A recording, opened for reading."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Use ``Recording.open``."""
        self.folder = folder
        self.manifest = manifest
        self.ties = 0
        """Neighbours of different feeds with one ``ts`` met so far: their order was a choice."""

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Open a recording and verify that its files are the ones its manifest describes.

        Errors: RecordingError if the manifest or a feed is missing, the signals' numbers have a
            gap, or a file was changed.
        """
        manifest = read_manifest(folder)
        for feed in ("signal", "target"):
            if feed not in manifest.files:
                raise RecordingError(
                    f"{folder} has no {feed} quotes, a replay needs both feeds; "
                    f"add them with `marble import ... --as {feed} --out {folder}`"
                )
        _require_no_gap(folder, manifest)
        for name in FILES:
            if name not in manifest.files:
                continue
            path = folder / f"{name}.parquet"
            if not path.is_file():
                raise RecordingError(
                    f"{path} is missing although the manifest lists it; put it back, or import "
                    f"the recording again"
                )
            if sha256_of(path) != manifest.files[name].sha256:
                raise RecordingError(
                    f"{path} is not the file that the manifest describes (its sha256 differs): "
                    f"truncated or changed. Import it again"
                )
        return cls(folder, manifest)

    @property
    def rows(self) -> int:
        """Number of recorded inputs of all kinds."""
        return sum(entry.rows for name, entry in self.manifest.files.items() if name in FILES)

    @property
    def has_answers(self) -> bool:
        """True when the venue's answers were recorded with the quotes."""
        return "account" in self.manifest.files

    @property
    def has_trades(self) -> bool:
        """True when the target's public trades were recorded."""
        return "trades" in self.manifest.files

    @property
    def signals(self) -> int:
        """Number of signals, at least 1."""
        return sum(name in self.manifest.files for name in SIGNALS)

    def inputs(
        self, target: Instrument, *, recorded: bool, batch_rows: int = BATCH_ROWS
    ) -> Iterator[tuple[Inputs, pl.DataFrame]]:
        """Yield the inputs in their one order, with the frame that each batch came from.

        By ``seq`` when every file has it, else by ``ts`` with ties in the order of ``FILES``. With
        ``recorded`` the venue's recorded answers are among them and the recorded sequence numbers
        are kept. Status rows, trades and further signals always are, if there are any.

        Errors: RecordingError for unsound rows, as of ``checked_rows``; if some files have ``seq``
            and others not, or two share a number.
        """
        return merged_inputs([self], [target], recorded=recorded, batch_rows=batch_rows)

    def paths(self, *, recorded: bool) -> dict[str, Path]:
        """The files that hold inputs, by name; the venue's answers only if they are asked for."""
        return {
            name: self.folder / f"{name}.parquet"
            for name in FILES
            if name in self.manifest.files and (recorded or name != "account")
        }

    def is_numbered(self, paths: Mapping[str, Path]) -> bool:
        """Tell whether the files have ``seq``.

        Errors: RecordingError if some have it and others not.
        """
        has = {name: "seq" in scan_frames(path).collect_schema() for name, path in paths.items()}
        if any(has.values()) and not all(has.values()):
            lacking = next(name for name in has if not has[name])
            raise RecordingError(
                f"{paths[lacking]} has no column seq although other files of {self.folder} have; "
                f"either every file is numbered or none is. Import the recording again"
            )
        return all(has.values())


def merged_inputs(
    recordings: Sequence[Recording],
    targets: Sequence[Instrument],
    *,
    recorded: bool,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[tuple[Inputs, pl.DataFrame]]:
    """Yield the inputs of several recordings in one order; see ``Recording.inputs``.

    The kinds of the second recording's rows are those of ``FILES`` plus ``PAIR``, of the third plus
    twice that; ties of ``ts`` go in this order.

    Errors: as of ``Recording.inputs``; RecordingError if with ``recorded`` two recordings are not
        parts of one run.
    """
    feeds: dict[str, Iterator[pl.DataFrame]] = {}
    kinds: dict[str, int] = {}
    numbered: list[bool] = []
    for i, (recording, target) in enumerate(zip(recordings, targets, strict=True)):
        paths = recording.paths(recorded=recorded)
        numbered.append(recording.is_numbered(paths))
        for name, path in paths.items():
            # What a signal's prices are counted in is not ours to know.
            priced = target if name in ("target", "trades") else None
            feeds[f"{i}/{name}"] = checked_rows(name, path, priced, batch_rows)
            kinds[f"{i}/{name}"] = FILES[name] + i * PAIR
    # Numbers of recordings that were made apart say nothing about their common order.
    by_seq = all(numbered) and (len(recordings) == 1 or recorded)
    checker = _MergedChecker(recordings[0].folder)
    for frame in _merge(feeds, kinds, "seq" if by_seq else "ts"):
        checker.check(frame, by_seq=by_seq)
        if not by_seq:
            same = (frame["ts"] == frame["ts"].shift(1, fill_value=checker.before_ts)) & (
                frame["kind"] != frame["kind"].shift(1, fill_value=checker.before_kind)
            )
            recordings[0].ties += int(same.sum())
        checker.remember(frame)
        yield _as_inputs(frame, recorded=recorded), frame


def _require_no_gap(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if _FURTHER_SIGNAL.fullmatch(name) and name not in SIGNALS:
            raise RecordingError(
                f"{folder} has {name}, further signals are {SIGNALS[1]} to {SIGNALS[-1]}; "
                f"leave it out of the recording"
            )
    held = [name for name in SIGNALS if name in manifest.files]
    for name, wanted in zip(held, SIGNALS, strict=False):
        if name != wanted:
            raise RecordingError(
                f"{folder} has {name} but no {wanted}; signals are numbered without a gap. "
                f"Add it with `marble import ... --as {wanted} --out {folder}`"
            )


def rows_of(
    frame: pl.DataFrame, name: str, seqs: Sequence[int] | pl.Series, base: int = 0
) -> pl.DataFrame:
    """Take the rows of one file out of a frame of ``Recording.inputs``, with the given numbers.

    ``seqs`` has one number for each row of the frame. Who takes out several files of one frame
    gives a Series of UInt64, which costs nothing to hand on. ``base`` is what the recording's kinds
    start at in a frame of several, see ``merged_inputs``.

    Shape: in ``schema_of(name)``, rows in order; empty when the frame has none of that file.
    """
    schema = schema_of(name)
    mine = frame["kind"] == base + FILES[name]
    if not mine.any():
        return pl.DataFrame(schema=schema)
    columns = [pl.col(_EVENT_KIND).alias("kind") if c == "kind" else pl.col(c) for c in schema]
    numbers = pl.Series("seq", seqs, dtype=pl.UInt64)
    return frame.with_columns(numbers).filter(mine).select(columns)


class _MergedChecker:
    """Holds the merged order to its promise: time never goes back along ``seq``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.before_ts: int | None = None
        self.before_kind: int | None = None

    def check(self, frame: pl.DataFrame, *, by_seq: bool) -> None:
        if not by_seq:
            return
        before = frame["ts"].shift(1, fill_value=self.before_ts)
        bad = frame["ts"] < before
        if bad.any():
            at = cast(int, bad.fill_null(False).arg_max())
            raise RecordingError(
                f"{self._folder}: the input with seq {frame['seq'][at]} has ts {frame['ts'][at]}, "
                f"before {before[at]} of the one before it; along seq, ts must not go back"
            )
        seq = frame["seq"].cast(pl.Int64)
        same = seq == seq.shift(1)
        if same.any():
            at = cast(int, same.fill_null(False).arg_max())
            raise RecordingError(
                f"{self._folder}: seq {seq[at]} occurs in two files; "
                f"seq must be unique over all feeds"
            )

    def remember(self, frame: pl.DataFrame) -> None:
        self.before_ts, self.before_kind = frame["ts"][-1], frame["kind"][-1]


def _merge(
    feeds: Mapping[str, Iterator[pl.DataFrame]], kinds: Mapping[str, int], key: str
) -> Iterator[pl.DataFrame]:
    """Merge sorted feeds by ``key``; ties in the order of ``kinds``. Holds a batch a feed."""
    buffers: dict[str, pl.DataFrame] = {}
    live: dict[str, Iterator[pl.DataFrame]] = {}

    def refill(name: str) -> None:
        batch = next(live[name], None)
        if batch is None:
            del live[name]
            return
        if "kind" in batch.columns:
            batch = batch.rename({"kind": _EVENT_KIND})
        batch = batch.with_columns(pl.lit(kinds[name], dtype=pl.Int64).alias("kind"))
        old = buffers.get(name)
        buffers[name] = batch if old is None or not old.height else pl.concat([old, batch])

    for name, batches in feeds.items():
        live[name] = batches
        refill(name)
    while buffers or live:
        for name in list(live):
            if name not in buffers or not buffers[name].height:
                refill(name)
        # Rows at the bound itself may have a tie in a batch not yet read, so they wait.
        bound = min((buffers[name][key][-1] for name in live), default=None)
        ready: list[pl.DataFrame] = []
        for name, buffer in list(buffers.items()):
            cut = buffer.height if bound is None else _first_at_least(buffer[key], bound)
            if cut:
                ready.append(buffer.slice(0, cut))
            buffers[name] = buffer.slice(cut)
            if not buffers[name].height and name not in live:
                del buffers[name]
        if not ready:
            for name in list(live):
                if buffers[name][key][-1] == bound:
                    refill(name)
            continue
        merged = pl.concat(ready, how="diagonal") if len(ready) > 1 else ready[0]
        yield merged.sort([key, "kind"], maintain_order=True) if len(ready) > 1 else merged


def _first_at_least(values: pl.Series, bound: int) -> int:
    return int(values.search_sorted(bound, side="left"))


def _as_inputs(frame: pl.DataFrame, *, recorded: bool) -> Inputs:
    return Inputs(
        kind=_column(frame, "kind"),
        ts=_column(frame, "ts"),
        ts_event=_column(frame, "ts_event"),
        bid_px=_column(frame, "bid_px"),
        ask_px=_column(frame, "ask_px"),
        bid_sz=_column(frame, "bid_sz"),
        ask_sz=_column(frame, "ask_sz"),
        flags=_column(frame, "flags"),
        seq=frame["seq"].to_list() if recorded else None,
        events=_events(frame),
    )


def _events(frame: pl.DataFrame) -> list[Event]:
    """What stands behind the rows that are no quotes, in the order of the rows."""
    if _EVENT_KIND not in frame.columns and "qty" not in frame.columns:
        return []
    found: list[tuple[int, Event]] = []
    kinds = frame["kind"] % PAIR
    for kind, read in ((ACCOUNT, _answers), (STATUS, _statuses), (TRADE, _trades)):
        at = (kinds == kind).arg_true()
        if at.len():
            found += zip(at.to_list(), read(frame[at]), strict=True)
    found.sort(key=itemgetter(0))
    return [event for _, event in found]


def _answers(rows: pl.DataFrame) -> Iterator[AccountEvent]:
    names = (c for c in ACCOUNT_SCHEMA if c != "kind")
    answers = rows.select(pl.col(_EVENT_KIND).alias("kind"), *names)
    return (AccountEvent(**row) for row in answers.iter_rows(named=True))


def _statuses(rows: pl.DataFrame) -> Iterator[Status]:
    columns = (rows["source"], rows[_EVENT_KIND], rows["text"].fill_null(""))
    return map(Status, _seqs(rows), rows["ts"], *columns)


def _trades(rows: pl.DataFrame) -> Iterator[Trade]:
    sides = rows["side"].replace_strict(_SIDES, default=0, return_dtype=pl.Int64)
    columns = (rows["ts"], rows["ts_event"], rows["px"], rows["qty"], sides)
    return map(Trade, _seqs(rows), *(column.to_list() for column in columns))


def _seqs(rows: pl.DataFrame) -> Iterable[int]:
    """Recorded numbers; 0 where the pump will give them."""
    return rows["seq"].to_list() if "seq" in rows.columns else repeat(0)


def _column(frame: pl.DataFrame, name: str) -> Sequence[Any]:
    """A column as Python values; one value throughout is not spelled out row by row."""
    height = frame.height
    if name not in frame.columns:
        return _Constant(None, height)
    series = frame[name]
    nulls = series.null_count()
    if nulls == height:
        return _Constant(None, height)
    if name == "flags" and series.min() == series.max():
        return _Constant(series.min(), height)  # the first row may be no quote and have none
    # By way of numpy, which is faster than to_list and as exact; the few nulls are put back.
    values: list[Any] = series.fill_null(0).to_numpy().tolist()
    if nulls:
        for row in series.is_null().arg_true().to_list():
            values[row] = None
    return values


class _Constant(Sequence[Any]):
    """One value, many times."""

    def __init__(self, value: Any, length: int) -> None:
        self._value = value
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._value if not isinstance(index, slice) else [self._value] * self._length

    def __iter__(self) -> Iterator[Any]:
        return repeat(self._value, self._length)
