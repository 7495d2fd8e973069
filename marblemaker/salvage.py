"""Salvage: what is left of a killed run becomes a recording; what is sound is only checked."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import polars as pl
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from sinks.journal import DECISIONS_SCHEMA, FILLS_SCHEMA, ORDERS_SCHEMA
from sinks.recorder import (
    LOCK,
    SEGMENTS,
    SESSION,
    Damage,
    Session,
    compact,
    lock_session,
    read_mark,
    read_raw,
    read_segments,
    read_session,
    read_table,
    remove_session,
)
from streams.recording import (
    ACCOUNT_SCHEMA,
    FILES,
    MANIFEST,
    FileEntry,
    RecordingError,
    checked_rows,
    read_manifest,
    sha256_of,
    write_manifest,
)

__all__ = ["Report", "salvage"]

UNSALVAGED: Final = "unsalvaged"

_TABLES: Final = {
    "account": ACCOUNT_SCHEMA,
    "decisions": DECISIONS_SCHEMA,
    "orders": ORDERS_SCHEMA,
    "fills": FILLS_SCHEMA,
}
_TABLE_SEGMENTS: Final = ".segments"

_Numbers: TypeAlias = NDArray[np.int64]


class Report(Struct, kw_only=True):
    """What a run folder holds, and what became of it."""

    folder: str
    state: Literal["sound", "running", "killed", "salvaged", "damaged"]
    """``killed``: remains that can be salvaged. ``damaged``: files are not what the manifest
    says."""
    mode: str | None = None
    ended: str | None = None
    pid: int | None = None
    """Of the process that records, or recorded."""
    files: dict[str, int] = field(default_factory=dict)
    """Rows by file."""
    inputs: int = 0
    """Inputs that the recording holds: flushed, and without a gap before them."""
    first_ts: int | None = None
    last_ts: int | None = None
    last_seq: int | None = None
    lost_events: int = 0
    """Inputs after those, so far as anything tells."""
    lost_ms: float = 0.0
    """How long after the last of the recording the last of them came."""
    exact: bool = True
    """False when the run's last input is not known, so that more may be lost."""
    beyond: dict[str, int] = field(default_factory=dict)
    """Of what is lost, rows that are readable but come after a gap; kept in ``unsalvaged``."""
    notes: list[str] = field(default_factory=list)
    """What was met on the way, for people."""

    @property
    def lines(self) -> list[str]:
        """The report for people."""
        if self.state == "running":
            return [
                f"{self.folder}: a run is in progress (process {self.pid}); nothing was touched"
            ]
        counts = ", ".join(f"{rows:,} {name}" for name, rows in self.files.items()) or "no rows"
        told = {
            "sound": f"sound ({self.ended}); sha256 of {len(self.files)} files verified",
            "damaged": "DAMAGED",
            "killed": "the run was killed; nothing was changed, salvage it without --dry-run",
            "salvaged": "the run was killed; it is a recording now",
        }[self.state]
        lines = [f"{self.folder}: {told}", f"  {counts}"]
        if self.state in ("killed", "salvaged"):
            least = "" if self.exact else "at least "
            lines.append(
                f"  {self.inputs:,} inputs flushed and kept; {least}{self.lost_events:,} inputs "
                f"and {self.lost_ms:,.1f} ms lost"
            )
        return lines + [f"  {note}" for note in self.notes]


def salvage(folder: Path, *, dry_run: bool = False) -> Report:
    """Make a valid recording of what a killed run left; only check a run that ended in order.

    Every file of inputs is cut where the first input is missing in any of them, and the manifest
    says how many are lost. Segments go only once the Parquet files read back as they do; rows after
    a gap and segments that are damaged stay in ``unsalvaged``. A run in progress is not touched.
    Done again, or again after it was interrupted, it gives the same recording.

    Errors: RecordingError if the folder is no run's, or its remains are unsound; OSError if it
        cannot be written. Nothing is lost then.
    """
    session = read_session(folder)
    if session is None:
        return _ended(folder)
    # A lock that is gone was removed by hand, or did not come along with a copy.
    locked = not dry_run or (folder / LOCK).exists()
    lock = lock_session(folder, create=not dry_run) if locked else -1
    if lock is None:
        return Report(
            folder=str(folder), state="running", mode=session.manifest.mode, pid=session.pid
        )
    try:
        # The run may have ended in order since.
        session = read_session(folder)
        if session is None or (folder / MANIFEST).exists():
            report = _ended(folder)
            if report.state == "sound" and not dry_run:
                _clean(folder)
            return report
        return _Remains(folder, session).salvaged(dry_run=dry_run)
    finally:
        if lock >= 0:
            os.close(lock)


# ---------------------------------------------------------------- a run that ended


def _ended(folder: Path) -> Report:
    if folder.is_dir() and not (folder / MANIFEST).exists():
        raise RecordingError(
            f"{folder} has neither {MANIFEST} nor {SESSION}, so it is no run of ours; nothing was "
            f"touched"
        )
    return _examined(folder)


def _examined(folder: Path) -> Report:
    """Check the files of a folder against its manifest."""
    manifest = read_manifest(folder)
    report = Report(
        folder=str(folder), state="sound", mode=manifest.mode, ended=manifest.ended,
        first_ts=manifest.first_ts, last_ts=manifest.last_ts,
    )  # fmt: skip
    for name, entry in manifest.files.items():
        path = folder / f"{name}.parquet"
        report.files[name] = entry.rows
        if name in FILES:
            report.inputs += entry.rows
        if not path.is_file():
            report.notes.append(f"{path.name} is missing although the manifest lists it")
        elif sha256_of(path) != entry.sha256:
            report.notes.append(f"{path.name} is not the file of the manifest (sha256 differs)")
        else:
            continue
        report.state = "damaged"
    for market in manifest.markets:
        part = _examined(folder / market)
        report.files |= {f"{market}/{name}": rows for name, rows in part.files.items()}
        report.notes += [f"{market}: {note}" for note in part.notes]
        report.inputs += part.inputs
        if part.state == "damaged":
            report.state = "damaged"
    return report


def _clean(folder: Path) -> None:
    """Remove what only a run that has not ended needs."""
    shutil.rmtree(folder / SEGMENTS, ignore_errors=True)
    shutil.rmtree(folder / _TABLE_SEGMENTS, ignore_errors=True)
    remove_session(folder)


# ---------------------------------------------------------------- a run that was killed


class _Span(Struct):
    """What the files of inputs hold together."""

    last_seq: int
    """The last input before which none is missing; one less than the first if there is none."""
    last_ts: int | None = None
    seen_seq: int = 0
    """The last input that is readable at all."""
    seen_ts: int = 0


def _span(feeds: Mapping[str, Iterator[tuple[_Numbers, _Numbers]]], first_seq: int) -> _Span:
    """Find the first gap, or step back in time, in the one order; holds a batch of each file."""
    span = _Span(last_seq=first_seq - 1)
    live = dict(feeds)
    reached = dict.fromkeys(live, -1)
    seqs = times = np.empty(0, np.int64)
    whole = True
    while live:
        name = min(live, key=lambda one: reached[one])
        more = next(live[name], None)
        if more is None:
            del live[name]
        else:
            reached[name] = int(more[0][-1])
            if reached[name] > span.seen_seq:
                span.seen_seq, span.seen_ts = reached[name], int(more[1][-1])
            if whole:
                seqs, times = np.concatenate((seqs, more[0])), np.concatenate((times, more[1]))
        if not whole:
            continue
        bound = min((reached[one] for one in live), default=2**62)
        order = np.argsort(seqs, kind="stable")
        seqs, times = seqs[order], times[order]
        ready = int(np.searchsorted(seqs, bound, side="right"))
        if not ready:
            continue
        wanted = np.arange(span.last_seq + 1, span.last_seq + 1 + ready)
        before = np.concatenate(([span.last_ts or 0], times[: ready - 1]))
        sound = (seqs[:ready] == wanted) & (times[:ready] >= before)
        kept = ready if sound.all() else int(np.argmin(sound))
        if kept:
            span.last_seq, span.last_ts = int(wanted[kept - 1]), int(times[kept - 1])
        whole = kept == ready
        seqs, times = seqs[ready:], times[ready:]
    return span


def _numbers(batches: Iterator[pl.DataFrame]) -> Iterator[tuple[_Numbers, _Numbers]]:
    for batch in batches:
        yield batch["seq"].cast(pl.Int64).to_numpy(), batch["ts"].to_numpy()


class _Remains:
    """A run folder whose process is gone before it was done."""

    def __init__(self, folder: Path, session: Session) -> None:
        self._folder = folder
        self._session = session
        self._names = session.names
        self._damage: dict[Path, Damage] = {}
        self._whole: dict[Path, bool] = {}
        self._report = Report(
            folder=str(folder), state="killed", mode=session.manifest.mode, pid=session.pid
        )

    def salvaged(self, *, dry_run: bool) -> Report:
        report = self._report
        feeds = {name: _numbers(self._rows(name)) for name in self._names}
        span = _span(feeds, self._session.first_seq)
        if self._session.compacted:
            # The recorder vouched for these files; what may be missing in them it told at the time.
            span.last_seq, span.last_ts = span.seen_seq, span.seen_ts
        self._state(span)
        tables = [name for name in _TABLES if name not in self._names and self._has_table(name)]
        for name in self._names:
            kept, cut = self._count(self._rows(name), pl.col("seq") <= span.last_seq)
            report.files[name] = kept
            if cut:
                report.beyond[name] = cut
        for name in tables:
            kept, cut = self._count(self._table(name), _within(name, span))
            report.files[name] = kept
            if cut:
                report.notes.append(f"{cut:,} rows of {name} come after the last input; left out")
        report.notes += [
            f"{path.relative_to(self._folder)} {damage.text}" for path, damage in self._found()
        ]
        if not dry_run:
            self._make(span, tables)
        return report

    def _state(self, span: _Span) -> None:
        """Work out what is lost."""
        report, first = self._report, self._session.first_seq
        seq, ts = span.seen_seq, span.seen_ts
        mark = read_mark(self._folder)
        if mark is not None:
            seq, ts = max(seq, mark[0]), max(ts, mark[1])
        # After a loss of power the mark may be older than the segments.
        report.exact = mark is not None and mark[0] >= span.seen_seq
        start = span.last_ts
        if self._has_table("decisions") and mark is None:
            for batch in self._table("decisions"):
                seq = max(seq, int(batch["seq"].cast(pl.Int64).max() or 0))  # type: ignore[arg-type]
        if mark is None:
            ts = max(ts, self._last_raw_ts())
        report.inputs = span.last_seq - first + 1
        report.last_seq = span.last_seq if report.inputs else None
        report.last_ts = span.last_ts
        report.lost_events = max(seq - span.last_seq, 0)
        if start is None:
            start = self._session.started or ts
        report.lost_ms = max(ts - start, 0) / 1e6 if report.lost_events or mark is None else 0.0
        least = "" if report.exact else "at least "
        lost = f"{least}{report.lost_events} inputs and {report.lost_ms:.1f} ms lost"
        report.ended = f"salvaged: killed after {report.inputs} flushed inputs; {lost}"
        if not report.exact:
            report.notes.append(
                f"what came in the last {self._session.flush_ms} ms may be lost too: the mark of "
                f"the last input is missing or old"
            )

    def _last_raw_ts(self) -> int:
        last = 0
        for path in (self._folder / "raw").glob("*.bin"):
            try:
                for ts, _ in read_raw(path):
                    last = max(last, ts)
            except (RecordingError, OSError) as error:
                self._report.notes.append(str(error))
        return last

    def _rows(self, name: str) -> Iterator[pl.DataFrame]:
        """Rows of a file of inputs: of the Parquet file once that is what counts."""
        if self._session.compacted:
            yield from checked_rows(name, self._folder / f"{name}.parquet")
            return
        damage: list[Damage] = []
        yield from read_segments(self._folder, name, damage)
        self._damage |= {one.path: one for one in damage}

    def _found(self) -> Sequence[tuple[Path, Damage]]:
        return sorted(self._damage.items())

    def _has_table(self, name: str) -> bool:
        return (self._folder / f"{name}.parquet").exists() or bool(self._table_segments(name))

    def _table_segments(self, name: str) -> list[Path]:
        return sorted((self._folder / _TABLE_SEGMENTS).glob(f"{name}-[0-9]*.arrow"))

    def _table(self, name: str) -> Iterator[pl.DataFrame]:
        """Rows of a table of the journal, up to the first part that cannot be read."""
        path, schema = self._folder / f"{name}.parquet", _TABLES[name]
        segments = self._table_segments(name)
        if self._is_whole(path):
            yield from read_table(path)
            return
        if path.exists() and not segments:
            self._damage[path] = Damage(path, "cannot be read as Parquet", torn=False)
        for i, segment in enumerate(segments):
            try:
                batch = pl.read_ipc(io.BytesIO(segment.read_bytes()))
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
                batch = pl.DataFrame()
            if batch.schema != schema:
                last = i == len(segments) - 1
                text = "was not finished" if last else "cannot be read; it and what follows is lost"
                self._damage[segment] = Damage(segment, text, torn=last)
                return
            if batch.height:
                yield batch

    def _is_whole(self, path: Path) -> bool:
        """Tell whether a table became Parquet before the end; its segments may be going already."""
        if path not in self._whole:
            try:
                self._whole[path] = path.exists() and all(True for _ in read_table(path))
            except (RecordingError, pl.exceptions.PolarsError, OSError):
                self._whole[path] = False
        return self._whole[path]

    @staticmethod
    def _count(batches: Iterator[pl.DataFrame], within: pl.Expr) -> tuple[int, int]:
        kept = rows = 0
        for batch in batches:
            rows += batch.height
            kept += batch.filter(within).height
        return kept, rows - kept

    def _make(self, span: _Span, tables: Sequence[str]) -> None:
        """Write the recording; only then remove what it was made of."""
        folder, report, within = self._folder, self._report, pl.col("seq") <= span.last_seq
        self._keep_rest(~within)
        entries: dict[str, FileEntry] = {}
        for name in self._names:
            if self._session.compacted:
                entries[name] = self._session.compacted[name]
                if sha256_of(folder / f"{name}.parquet") != entries[name].sha256:
                    raise RecordingError(
                        f"{folder / name}.parquet is not the file that the recorder made (its "
                        f"sha256 differs); put it back"
                    )
            else:
                entries[name] = compact(folder, name, _only(self._rows(name), within))
        for name in tables:
            rows = _only(self._table(name), _within(name, span))
            entries[name] = compact(folder, name, rows, schema=_TABLES[name])
        assert report.ended is not None
        manifest = replace(self._session.manifest, ended=report.ended, files=entries)
        write_manifest(folder, manifest)
        report.first_ts = manifest.first_ts
        report.state = "salvaged"
        _clean(folder)

    def _keep_rest(self, beyond: pl.Expr) -> None:
        """Put aside what does not become part of the recording but may be worth a look."""
        rest = self._folder / UNSALVAGED
        damaged = [path for path, damage in self._found() if not damage.torn]
        if not damaged and not self._report.beyond:
            return
        rest.mkdir(exist_ok=True)
        for path in damaged:
            # A copy: should this end here, the next attempt must find the same.
            shutil.copyfile(path, rest / path.name)
        for name in self._report.beyond:
            compact(self._folder, name, _only(self._rows(name), beyond), into=rest)
        self._report.notes.append(f"what is not in the recording was kept in {UNSALVAGED}")


def _only(batches: Iterator[pl.DataFrame], which: pl.Expr) -> Iterator[pl.DataFrame]:
    return (kept for batch in batches if (kept := batch.filter(which)).height)


def _within(name: str, span: _Span) -> pl.Expr:
    """Rows of a table that follow from the inputs of the recording."""
    if "seq" in _TABLES[name]:
        return pl.col("seq") <= span.last_seq
    last: Any = pl.lit(-1 if span.last_ts is None else span.last_ts, dtype=pl.Int64)
    kept: pl.Expr = pl.col("ts") <= last
    return kept
