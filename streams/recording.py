"""Recordings: the folder format, its checks, and reading it back in the one order of inputs.

A recording is a folder with ``manifest.json`` and one Parquet file a feed. Everything is read and
written in batches, so memory does not grow with length.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import polars as pl
from msgspec import Struct, field

from streams.clock import ACCOUNT, SIGNAL, TARGET, Inputs
from streams.events import AccountEvent, AccountKind
from streams.instrument import Instrument, format_units

__all__ = [
    "ACCOUNT_SCHEMA",
    "MANIFEST",
    "QUOTE_SCHEMA",
    "FileEntry",
    "FrameWriter",
    "Manifest",
    "QuoteChecker",
    "Recording",
    "RecordingError",
    "as_quotes",
    "checked_quotes",
    "did_you_mean",
    "file_entry",
    "read_manifest",
    "scan_frames",
    "sha256_of",
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
"""``signal.parquet`` and ``target.parquet``; an imported recording may lack ``seq``."""

_OPTIONAL_QUOTE_COLUMNS: Final = ("seq", "ts_event", "flags")
_NULLABLE_QUOTE_COLUMNS: Final = ("ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz")

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
    }
)
"""``account.parquet``; ``seq`` shares one numbering with the quotes."""

_KINDS: Final = {"account": ACCOUNT, "signal": SIGNAL, "target": TARGET}


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
    """By role: ``signal``, ``target``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings as used, all keys; never a secret."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By feed: where an import came from, and what it left out, counted by reason."""
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


def as_quotes(frames: pl.LazyFrame, path: Path) -> pl.LazyFrame:
    """Bring a frame of quotes to the column order and types of ``QUOTE_SCHEMA``, exactly.

    Integers of other widths are widened; an absent ``ts_event`` becomes null, absent ``flags`` 0;
    an absent ``seq`` stays absent.

    Errors: RecordingError naming the column when one is missing, unknown or not an integer.
    """
    schema = frames.collect_schema()
    known = list(QUOTE_SCHEMA)
    absent = [name for name in known if name not in schema]
    for name in schema:
        if name not in QUOTE_SCHEMA:
            raise RecordingError(
                f"{path}: unknown column {name!r}{did_you_mean(name, absent)}; "
                f"quotes have the columns {', '.join(known)}; drop or rename it"
            )
    columns: list[pl.Expr] = []
    for name, wanted in QUOTE_SCHEMA.items():
        if name not in schema:
            if name not in _OPTIONAL_QUOTE_COLUMNS:
                raise RecordingError(
                    f"{path}: column {name!r} is missing; it has {', '.join(schema) or 'none'}, "
                    f"quotes need ts, bid_px, ask_px, bid_sz, ask_sz"
                )
            if name == "ts_event":
                columns.append(pl.lit(None, dtype=wanted).alias(name))
            elif name == "flags":
                columns.append(pl.lit(0, dtype=wanted).alias(name))
            continue
        found = schema[name]
        if found == wanted:
            columns.append(pl.col(name))
        elif found.is_integer() or (found == pl.Null() and name in _NULLABLE_QUOTE_COLUMNS):
            columns.append(pl.col(name).cast(wanted, strict=True))
        else:
            hint = {
                "ts": "integer nanoseconds UTC", "ts_event": "integer nanoseconds UTC",
            }.get(name, "integers of 1e-9")  # fmt: skip
            raise RecordingError(
                f"{path}: column {name!r} is {found}, must be {wanted} ({hint}); convert it "
                f"exactly before the import, floats lose digits"
            )
    return frames.select(columns)


class QuoteChecker:
    """Checks a feed of quotes batch by batch, carrying what batches have in common."""

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
        for name in ("ts", "seq", "flags"):
            if name in batch.columns and batch[name].null_count():
                self._refuse(batch, batch[name].is_null(), name, "must not be null")
        self._ordered(batch, "ts", strictly=False)
        if "seq" in batch.columns:
            self._ordered(batch, "seq", strictly=True)
        self._refuse(batch, batch["ts"] < 0, "ts", "must be ns since 1970, not negative")
        for name in ("bid_sz", "ask_sz", "bid_px", "ask_px"):
            rule = "must not be negative; a side that is absent is null"
            self._refuse(batch, batch[name] < 0, name, rule)
        if self._instrument is not None:
            tick = self._instrument.tick_size
            rule = (
                f"is off the tick of {format_units(tick)} ({self._instrument.id} has "
                f"{self._instrument.price_decimals} decimals in the settings)"
            )
            for name in ("bid_px", "ask_px"):
                self._refuse(batch, batch[name] % tick != 0, name, rule)
        self._rows += batch.height
        return batch

    def _refuse(self, batch: pl.DataFrame, bad: pl.Series, name: str, rule: str) -> None:
        if bad.any():
            at = cast(int, bad.fill_null(False).arg_max())
            count = int(bad.sum())
            more = f" ({count - 1} more in this batch)" if count > 1 else ""
            raise RecordingError(
                f"{self._path}: row {self._rows + at}: {name} = {batch[name][at]} {rule}{more}"
            )

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


def checked_quotes(
    path: Path, instrument: Instrument | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """Read a Parquet file of quotes in checked batches, in ``QUOTE_SCHEMA``'s order.

    Errors: RecordingError, as of ``as_quotes`` and ``QuoteChecker``, or if the file is truncated.
    """
    frames = as_quotes(scan_frames(path), path)
    checker = QuoteChecker(path, instrument)
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


class FrameWriter:
    """Collects batches of one schema and makes a Parquet file of them at close.

    Batches go to Arrow IPC segments as they come and are joined at close, so memory is bounded by
    a batch.
    """

    def __init__(self, folder: Path, name: str, schema: pl.Schema) -> None:
        """Write ``folder/name.parquet`` at close; segments live in ``folder/.segments``."""
        self.path = folder / f"{name}.parquet"
        self.rows = 0
        self._schema = schema
        self._name = name
        self._segments: list[Path] = []
        self._folder = folder / ".segments"
        self._span: tuple[int | None, int | None] = (None, None)

    def append(self, batch: pl.DataFrame) -> None:
        """Add rows; the batch must have the schema's columns in its order."""
        if not batch.height:
            return
        self._folder.mkdir(exist_ok=True)
        segment = self._folder / f"{self._name}-{len(self._segments):06d}.arrow"
        batch.write_ipc(segment)
        self._segments.append(segment)
        self.rows += batch.height
        if "ts" in batch.columns:
            first = self._span[0] if self._span[0] is not None else batch["ts"][0]
            self._span = (first, batch["ts"][-1])

    def close(self) -> FileEntry:
        """Join the segments into the Parquet file and remove them."""
        frames = (
            pl.scan_ipc(self._segments) if self._segments else pl.LazyFrame(schema=self._schema)
        )
        frames.sink_parquet(
            self.path, compression="zstd", row_group_size=ROW_GROUP_ROWS, maintain_order=True
        )
        for segment in self._segments:
            segment.unlink()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            shutil.rmtree(self._folder)
        return file_entry(self.path, self.rows, self._span)


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

        Errors: RecordingError if the manifest or a feed is missing or a file was changed.
        """
        manifest = read_manifest(folder)
        for feed in ("signal", "target"):
            if feed not in manifest.files:
                raise RecordingError(
                    f"{folder} has no {feed} quotes, a replay needs both feeds; "
                    f"add them with `marble import ... --as {feed} --out {folder}`"
                )
        for feed in _KINDS:
            if feed not in manifest.files:
                continue
            path = folder / f"{feed}.parquet"
            if not path.is_file():
                raise RecordingError(f"{path} is missing although the manifest lists it")
            if sha256_of(path) != manifest.files[feed].sha256:
                raise RecordingError(
                    f"{path} is not the file that the manifest describes (its sha256 differs): "
                    f"truncated or changed. Import it again"
                )
        return cls(folder, manifest)

    @property
    def rows(self) -> int:
        """Number of recorded quotes and account events."""
        return sum(entry.rows for name, entry in self.manifest.files.items() if name in _KINDS)

    @property
    def has_answers(self) -> bool:
        """True when the venue's answers were recorded with the quotes."""
        return "account" in self.manifest.files

    def inputs(
        self, target: Instrument, *, recorded: bool, batch_rows: int = BATCH_ROWS
    ) -> Iterator[tuple[Inputs, pl.DataFrame]]:
        """Yield the inputs in their one order, with the frame that each batch came from.

        By ``seq`` when every feed has it, else by ``ts`` with ties in the order account, signal,
        target. With ``recorded`` the venue's recorded answers are among them and the recorded
        sequence numbers are kept.

        Errors: RecordingError for unsound rows, as of ``checked_quotes``.
        """
        feeds: dict[str, Iterator[pl.DataFrame]] = {}
        paths = {name: self.folder / f"{name}.parquet" for name in _KINDS}
        if recorded:
            feeds["account"] = _checked_account(paths["account"], batch_rows)
        feeds["signal"] = checked_quotes(paths["signal"], None, batch_rows)
        feeds["target"] = checked_quotes(paths["target"], target, batch_rows)
        with_seq = {
            name: "seq" in scan_frames(paths[name]).collect_schema()
            for name in ("signal", "target")
        }
        by_seq = all(with_seq.values())
        if (any(with_seq.values()) and not by_seq) or (recorded and not by_seq):
            lacking = next(name for name, has in with_seq.items() if not has)
            raise RecordingError(
                f"{paths[lacking]} has no column seq although other files of {self.folder} have; "
                f"either every feed is numbered or none is"
            )
        checker = _MergedChecker(self.folder)
        for frame in _merge(feeds, "seq" if by_seq else "ts"):
            checker.check(frame, by_seq=by_seq)
            if not by_seq:
                same = (frame["ts"] == frame["ts"].shift(1, fill_value=checker.before_ts)) & (
                    frame["kind"] != frame["kind"].shift(1, fill_value=checker.before_kind)
                )
                self.ties += int(same.sum())
            checker.remember(frame)
            yield _as_inputs(frame, recorded=recorded), frame


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


def _checked_account(path: Path, batch_rows: int) -> Iterator[pl.DataFrame]:
    frames = scan_frames(path)
    schema = frames.collect_schema()
    if dict(schema) != dict(ACCOUNT_SCHEMA):
        raise RecordingError(
            f"{path} has the columns {dict(schema)}, must have {dict(ACCOUNT_SCHEMA)}"
        )
    kinds = AccountKind.__args__  # type: ignore[attr-defined]
    for batch in _batches(frames, path, batch_rows):
        unknown = batch.filter(~pl.col("kind").is_in(list(kinds)) | pl.col("kind").is_null())
        if unknown.height:
            raise RecordingError(
                f"{path}: unknown kind {unknown['kind'][0]!r} at seq {unknown['seq'][0]}; "
                f"account events are {', '.join(kinds)}"
            )
        bare = batch.filter(
            (pl.col("kind") == "fill")
            & (pl.col("n").is_null() | pl.col("px").is_null() | (pl.col("qty").fill_null(0) <= 0))
        )
        if bare.height:
            raise RecordingError(
                f"{path}: the fill at seq {bare['seq'][0]} has n = {bare['n'][0]}, "
                f"px = {bare['px'][0]}, qty = {bare['qty'][0]}; a fill must name our order, a "
                f"price and a positive size"
            )
        yield batch.rename({"kind": "account_kind"})


def _merge(feeds: Mapping[str, Iterator[pl.DataFrame]], key: str) -> Iterator[pl.DataFrame]:
    """Merge sorted feeds by ``key``; ties in the order of ``_KINDS``. Holds a batch a feed."""
    buffers: dict[str, pl.DataFrame] = {}
    live: dict[str, Iterator[pl.DataFrame]] = {}

    def refill(name: str) -> None:
        batch = next(live[name], None)
        if batch is None:
            del live[name]
            return
        batch = batch.with_columns(pl.lit(_KINDS[name], dtype=pl.Int64).alias("kind"))
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
    account: list[AccountEvent] = []
    if recorded and "reason" in frame.columns:
        rows = frame.filter(pl.col("kind") == ACCOUNT).select(
            pl.col("account_kind").alias("kind"), *(c for c in ACCOUNT_SCHEMA if c != "kind")
        )
        account = [AccountEvent(**row) for row in rows.iter_rows(named=True)]

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
        account=account,
    )


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
        return _Constant(series[0], height)
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
