"""Import: foreign files become feeds of a recording, whole or not at all.

Everything is written to a folder beside the recording and moved into place at the end, so a
refused or interrupted import leaves nothing behind and an existing recording as it was.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import polars as pl
from msgspec import Struct, field

from marblemaker.versions import versions
from streams.instrument import UNIT_DECIMALS, Instrument
from streams.lighter_csv import MAX_BACK_NS, CsvQuotes, CsvTrades
from streams.recording import (
    FILES,
    MANIFEST,
    SIGNALS,
    FileEntry,
    FrameWriter,
    Manifest,
    QuoteChecker,
    Recording,
    RecordingError,
    TradeChecker,
    checked_rows,
    did_you_mean,
    read_manifest,
    scan_frames,
    schema_of,
    sha256_of,
    write_manifest,
)

__all__ = [
    "CAPTURED",
    "QUOTED",
    "Imported",
    "Progress",
    "import_databento",
    "import_frames",
    "import_lighter_csv",
    "rows_noun",
]

QUOTED: Final = (*SIGNALS, "target")
"""Roles of a feed of quotes in a recording."""
CAPTURED: Final = (*QUOTED, "trades")
"""Roles of a capture of Lighter."""

Progress: TypeAlias = Callable[[int], object]
"""Called with the number of rows written so far, now and then."""

_BATCH_ROWS: Final = 65_536
_LIGHTER_VENUE: Final = "LIGHTER"


class Imported(Struct, kw_only=True):
    """What an import did: rows_in = rows_out + all of refused."""

    path: Path
    """The recording."""
    feeds: dict[str, int]
    """Rows written, by feed."""
    rows_in: int
    rows_out: int
    refused: dict[str, int] = field(default_factory=dict)
    """Records left out, by reason."""
    noted: dict[str, int] = field(default_factory=dict)
    """Rows kept that one may want to know of: clear rows, bad clocks, repeated quotes."""
    first_ts: int
    last_ts: int
    ties: int | None = None
    """Neighbours of different feeds with one ``ts``, where their order was a choice; ``None``
    when only one feed was imported."""


def rows_noun(role: str) -> str:
    """What the rows of a file are called.

    >>> rows_noun("signal_2"), rows_noun("trades"), rows_noun("status")
    ('signal_2 quotes', 'trades', 'status rows')
    """
    return {"trades": "trades", "status": "status rows"}.get(role, f"{role} quotes")


def import_databento(
    file: Path,
    symbol: str,
    role: str,
    out: Path,
    *,
    price_decimals: int | None = None,
    schema: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Add one symbol of a DBN file to a recording as one of its signals or its target.

    ``role`` is one of ``QUOTED``.

    Errors: RecordingError, as of ``streams.dbn_quotes.DbnQuotes``; if no row is left; if ``out``
        has the feed already and ``replace`` is not set; if ``out`` cannot be written.
    """
    from streams.dbn_quotes import DbnQuotes

    _require_role(role, QUOTED)
    _require_free(out, [role], replace=replace, numbered=False)
    quotes = DbnQuotes(file, symbol, schema)
    instrument = _instrument(
        symbol=quotes.symbol,
        venue=quotes.venue,
        price_decimals=UNIT_DECIMALS if price_decimals is None else price_decimals,
    )
    with _importing(out, replace=replace) as staged:
        entry = staged.write(
            role,
            file,
            quotes.batches(),
            QuoteChecker(file, instrument),
            progress,
            why_none=lambda: _why_none(quotes.counts.records_in, quotes.counts.refused),
        )
        counts = quotes.counts
        staged.describe(
            role,
            instrument,
            _source(
                "databento",
                file,
                records_in=counts.records_in,
                rows_out=counts.rows_out,
                refused=counts.refused,
                noted=counts.noted,
                dataset=quotes.dataset,
                schema=schema or quotes.schema,
                dbn_version=quotes.version,
                symbol=quotes.symbol,
            ),
        )
        staged.versions = versions("databento-dbn")
        assert counts.records_in == entry.rows + sum(counts.refused.values())
        return staged.commit(counts.records_in, counts.refused, counts.noted)


def import_lighter_csv(
    file: Path,
    role: str,
    symbol: str,
    price_decimals: int,
    size_decimals: int,
    out: Path,
    *,
    max_back_ns: int = MAX_BACK_NS,
    replace: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Add a Lighter capture of best bid and offer, or of trades, to a recording.

    ``role`` is one of ``CAPTURED``; ``trades`` are the target's, and the file is one of trades.
    Naive timestamps of the capture are taken as UTC. Its clock may step back by ``max_back_ns``;
    such rows take the time of the row before and are counted. A repeated quote is kept and counted,
    a repeated trade is left out and counted.

    Errors: RecordingError, as of ``streams.lighter_csv.CsvQuotes`` and ``CsvTrades``; if there is
        no row; if ``out`` has the feed already and ``replace`` is not set, or its trades and its
        target are of two instruments; if ``out`` cannot be written.
    """
    _require_role(role, CAPTURED)
    if max_back_ns < 0:
        raise RecordingError(f"max_back_ns must be 0 or a positive number of ns, was {max_back_ns}")
    _require_free(out, [role], replace=replace, numbered=False)
    instrument = _instrument(
        symbol=symbol.removesuffix(f".{_LIGHTER_VENUE}"),
        venue=_LIGHTER_VENUE,
        price_decimals=price_decimals,
        size_decimals=size_decimals,
    )
    trades = role == "trades"
    capture = (CsvTrades if trades else CsvQuotes)(file, instrument, max_back_ns)
    checker = (TradeChecker if trades else QuoteChecker)(file, instrument)
    with _importing(out, replace=replace) as staged:
        entry = staged.write(role, file, capture.batches(), checker, progress)
        noted = {} if trades else {"repeat": capture.repeats}
        noted = _counted({**noted, "clamped ts": capture.clamped})
        refused = _counted({"repeated trade_id": capture.repeats}) if trades else {}
        staged.describe(
            role,
            instrument,
            _source(
                "lighter-csv",
                file,
                records_in=capture.rows,
                rows_out=entry.rows,
                refused=refused,
                noted=noted,
                symbol=instrument.symbol,
                clock="naive timestamps taken as UTC",
            ),
        )
        assert capture.rows == entry.rows + sum(refused.values())
        return staged.commit(capture.rows, refused, noted)


def import_frames(
    signal: Path,
    target: Path,
    instruments: Mapping[str, Instrument],
    out: Path,
    *,
    trades: Path | None = None,
    status: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Make a recording of two Parquet files of quotes, one a feed, and of what else there is.

    ``instruments`` has a ``signal`` and a ``target``, whose are the ``trades``; ``settings`` are
    kept in the manifest, where a replay finds what its own leave out. When the files have ``seq``,
    all must, and it is their order; else they are ordered by ``ts``, and ties are counted.

    Errors: RecordingError naming file, row and rule for anything that is not a sound feed; if some
        files have ``seq`` and others not, or two use one number; if ``out`` has a feed already and
        ``replace`` is not set; if ``out`` cannot be written.
    """
    given = {"signal": signal, "target": target, "trades": trades, "status": status}
    files = {role: file for role, file in given.items() if file is not None}
    for role in ("signal", "target"):
        if role not in instruments:
            raise RecordingError(
                f"the settings name no {role} instrument; frames do not say what they quote, "
                f"so set [{role}] instrument"
            )
    numbered = _all_numbered(files)
    _require_free(out, files, replace=replace, numbered=numbered)
    with _importing(out, replace=replace) as staged:
        for role, file in files.items():
            instrument = instruments.get("target" if role == "trades" else role)
            batches = _readable(file, checked_rows(role, file, instrument))
            entry = staged.write(role, file, batches, None, progress)
            staged.describe(
                role,
                instrument,
                _source("frames", file, records_in=entry.rows, rows_out=entry.rows, refused={}),
            )
        staged.keep_settings(settings or {})
        ties = staged.merged_ties(instruments["target"])
        return staged.commit(sum(staged.rows.values()), {}, {}, ties)


# ---------------------------------------------------------------- staging


class _Staged:
    """A recording in the making, beside the place where it will be."""

    def __init__(self, folder: Path, out: Path, *, replace: bool) -> None:
        self.folder = folder
        self.rows: dict[str, int] = {}
        self.versions = versions()
        self._out = out
        self._replace = replace
        self._entries: dict[str, FileEntry] = {}
        self._instruments: dict[str, Instrument] = {}
        self._sources: dict[str, dict[str, Any]] = {}
        self._settings: dict[str, Any] = {}

    def write(
        self,
        role: str,
        file: Path,
        batches: Iterator[pl.DataFrame],
        checker: QuoteChecker | TradeChecker | None,
        progress: Progress | None,
        why_none: Callable[[], str] = str,
    ) -> FileEntry:
        """Write a file; without a checker its rows were checked before."""
        writer: FrameWriter | None = None
        for batch in _gathered(batches):
            if writer is None:
                columns = schema_of(role).items()
                schema = pl.Schema({k: v for k, v in columns if k in batch.columns})
                writer = FrameWriter(self.folder, role, schema)
            writer.append(batch if checker is None else checker.check(batch))
            if progress is not None:
                progress(writer.rows)
        if writer is None:
            raise RecordingError(
                f"{file} gives no {rows_noun(role)}{why_none()}; a file needs at least one row. "
                f"Choose another file or symbol, or leave it out"
            )
        entry = writer.close()
        self._entries[role] = entry
        self.rows[role] = entry.rows
        return entry

    def describe(self, role: str, instrument: Instrument | None, source: dict[str, Any]) -> None:
        """Say what a file is of and where it came from."""
        if role in QUOTED:
            assert instrument is not None
            self._instruments[role] = instrument
        elif instrument is not None:
            # Trades have no instrument of their own; this one must be the target's.
            source = {**source, "instrument": instrument.id}
        self._sources[role] = source

    def merged_ties(self, target: Instrument) -> int:
        """Read all as a replay will; return how often the order was a choice."""
        write_manifest(self.folder, self._manifest(None))
        recording = Recording.open(self.folder)
        try:
            for _ in recording.inputs(target, recorded=False):
                pass
        except RecordingError as error:
            # The staging folder is nothing the user knows.
            raise RecordingError(str(error).replace(str(self.folder), str(self._out))) from error
        return recording.ties

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep what the user set, for replays that set less."""
        self._settings = {section: dict(body) for section, body in settings.items()}

    def commit(
        self,
        rows_in: int,
        refused: dict[str, int],
        noted: dict[str, int],
        ties: int | None = None,
    ) -> Imported:
        """Move what was made into place, the manifest last."""
        numbered = (
            "seq" in scan_frames(self.folder / f"{next(iter(self.rows))}.parquet").collect_schema()
        )
        # Asked again: another import may have finished since.
        old = _require_free(self._out, self.rows, replace=self._replace, numbered=numbered)
        manifest = self._manifest(old)
        _require_target_of_trades(self._out, manifest)
        write_manifest(self.folder, manifest)
        if old is None:
            os.replace(self.folder, self._out)
        else:
            self._move_into_existing()
        return Imported(
            path=self._out,
            feeds=self.rows,
            rows_in=rows_in,
            rows_out=sum(self.rows.values()),
            refused=refused,
            noted=noted,
            first_ts=min(e.first_ts for e in self._entries.values() if e.first_ts is not None),
            last_ts=max(e.last_ts for e in self._entries.values() if e.last_ts is not None),
            ties=ties,
        )

    def _manifest(self, old: Manifest | None) -> Manifest:
        manifest = Manifest() if old is None else old
        manifest.instruments |= self._instruments
        manifest.sources |= self._sources
        manifest.settings |= self._settings
        manifest.versions |= self.versions
        manifest.files |= self._entries
        return manifest

    def _move_into_existing(self) -> None:
        names = [f"{role}.parquet" for role in self.rows]
        undo: list[tuple[Path, Path]] = []
        try:
            for name in names:
                place, kept = self._out / name, self.folder / f"{name}.old"
                if place.exists():
                    os.replace(place, kept)
                    undo.append((kept, place))
                os.replace(self.folder / name, place)
                undo.append((place, self.folder / name))
            os.replace(self.folder / MANIFEST, self._out / MANIFEST)
        except BaseException:
            for now, before in reversed(undo):
                os.replace(now, before)
            raise


@contextmanager
def _importing(out: Path, *, replace: bool) -> Iterator[_Staged]:
    """Give a folder beside ``out`` to write to, and remove it whatever happens."""
    out = _resolved(out)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}-{threading.get_ident()}"
    made: list[Path] = []
    done = False
    try:
        made = [parent for parent in (out.parent, *out.parent.parents) if not parent.exists()]
        folder.mkdir(parents=True)
        yield _Staged(folder, out, replace=replace)
        done = True
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["unknown"])[0]
        raise RecordingError(
            f"{out} cannot be written ({reason}); a recording needs a folder that can be written "
            f"and has room. Choose another with --out"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not done:
            _remove_empty(made)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _resolved(out: Path) -> Path:
    try:
        return out.resolve()
    except (OSError, RuntimeError) as error:
        raise RecordingError(f"{out} is not a place for a recording ({error})") from error


def _gathered(batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join small batches, so that a rare symbol does not make a file a block."""
    held: list[pl.DataFrame] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.height
        if rows >= _BATCH_ROWS:
            yield pl.concat(held)
            held, rows = [], 0
    if rows:
        yield pl.concat(held)


# ---------------------------------------------------------------- checks


def _require_role(role: str, roles: Collection[str]) -> None:
    if role not in roles:
        raise RecordingError(
            f"the role of a feed must be one of {', '.join(roles)}, was {role!r}"
            f"{did_you_mean(str(role), roles)}"
        )


def _require_target_of_trades(out: Path, manifest: Manifest) -> None:
    target = manifest.instruments.get("target")
    traded = manifest.sources.get("trades", {}).get("instrument")
    if target is not None and traded is not None and target.id != traded:
        raise RecordingError(
            f"{out}: the trades are of {traded}, the target is {target.id}; a recording's trades "
            f"are the target's. Import into another folder, or with the same --symbol"
        )


def _instrument(**values: Any) -> Instrument:
    try:
        return Instrument(**values)
    except ValueError as error:
        raise RecordingError(str(error)) from error


def _require_free(
    out: Path, roles: Collection[str], *, replace: bool, numbered: bool
) -> Manifest | None:
    """Return the manifest of the recording that ``out`` is, or ``None`` if there is nothing yet.

    Errors: RecordingError if the feeds cannot be added to what is there.
    """
    out = _resolved(out)
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
    except OSError as error:
        raise RecordingError(f"{out} cannot be read ({error.strerror}); choose another") from error
    if not (out / MANIFEST).is_file():
        what = "a folder with other things in it" if out.is_dir() else "a file"
        raise RecordingError(
            f"{out} is {what}, an import needs a new folder, an empty one or a recording; "
            f"choose another with --out"
        )
    manifest = read_manifest(out)
    if "account" in manifest.files or manifest.mode in ("live", "paper", "replay"):
        raise RecordingError(
            f"{out} is a {manifest.mode} run, whose decisions belong to its own quotes; feeds can "
            f"be added to imported recordings only. Choose another with --out"
        )
    for role in roles:
        if role in manifest.files and not replace:
            rows = manifest.files[role].rows
            raise RecordingError(
                f"{out} already has {rows_noun(role)} ({rows} rows); an import "
                f"does not overwrite them. Choose another folder, or ask for it with --replace"
            )
    _require_same_numbering(out, manifest, roles, numbered=numbered)
    return manifest


def _require_same_numbering(
    out: Path, manifest: Manifest, roles: Collection[str], *, numbered: bool
) -> None:
    for other in FILES:
        if other in roles or other not in manifest.files:
            continue
        if ("seq" in scan_frames(out / f"{other}.parquet").collect_schema()) != numbered:
            there, here = ("has no", "has") if numbered else ("has", "has no")
            raise RecordingError(
                f"{out / f'{other}.parquet'} {there} column seq, this import {here}; either every "
                f"feed is numbered or none is. Import into another folder"
            )


def _all_numbered(files: Mapping[str, Path]) -> bool:
    numbered = {role: "seq" in scan_frames(file).collect_schema() for role, file in files.items()}
    if any(numbered.values()) and not all(numbered.values()):
        lacking, *_, having = sorted(files, key=lambda role: numbered[role])
        raise RecordingError(
            f"{files[lacking]} has no column seq, {files[having]} has; either all files are "
            f"numbered or none is. Add the column or drop it"
        )
    return all(numbered.values())


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
    """Leave out what did not happen."""
    return {what: count for what, count in counts.items() if count}


def _why_none(records_in: int, refused: Mapping[str, int]) -> str:
    if not refused:
        return ""
    parts = ", ".join(f"{count} {reason}" for reason, count in refused.items())
    return f" ({records_in} records, left out: {parts})"


def _readable(file: Path, batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Blame the file for values that do not fit, before the output is blamed for them."""
    try:
        yield from batches
    except pl.exceptions.PolarsError as error:
        raise RecordingError(
            f"{file} holds a value that does not fit 64 signed bits "
            f"({str(error).splitlines()[0]}); correct it"
        ) from error


# ---------------------------------------------------------------- provenance


def _source(kind: str, file: Path, **values: Any) -> dict[str, Any]:
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise RecordingError(f"{file} cannot be read ({error.strerror})") from error
    return {"kind": kind, "file": file.name, "sha256": digest, **values}
