"""Store: results on disk as they come, and the one table at the end.

Beside ``sweep.parquet`` stands ``sweep.results.jsonl`` while a sweep runs: a head, then a line for
each result, flushed before the next one is waited for. A kill loses at most the line being written.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import polars as pl

from marblemaker import __version__
from marblemaker.files import write_whole
from marblemaker.sweep.plan import Plan
from marblemaker.sweep.work import ACTIONS, HORIZONS
from streams.recording import RecordingError

__all__ = ["RESULTS", "Store", "read_table", "table_path"]

_FORMAT: Final = 1
_META: Final = "marblemaker.sweep"
_KEYS: Final = ("settings_digest", "recording_sha")
_FSYNC_SECONDS: Final = 1.0
_CHUNK: Final = 10_000

RESULTS: Final = pl.Schema(
    {
        "fill_model": pl.String(),
        **dict.fromkeys(
            ("pnl_pessimistic", "pnl_queue", "pnl_optimistic", "pnl", "realised", "unrealised",
             "fees"),
            pl.Float64(),
        ),
        "fills": pl.Int64(),
        "orders": pl.Int64(),
        "bought": pl.Float64(),
        "sold": pl.Float64(),
        **{f"markout_{horizon}_bps": pl.Float64() for horizon in HORIZONS},
        "inventory_max_long": pl.Float64(),
        "inventory_max_short": pl.Float64(),
        "inventory_end": pl.Float64(),
        "quota_spent": pl.Int64(),
        "quota_left": pl.Int64(),
        **{f"decisions_{action}": pl.Int64() for action in ACTIONS},
        "digest": pl.String(),
        "seconds": pl.Float64(),
        "error": pl.String(),
        "error_kind": pl.String(),
    }
)  # fmt: skip
"""What a replay tells of itself: the columns after those of the plan."""

_KEYED: Final = pl.Schema({**dict.fromkeys(_KEYS, pl.String()), **RESULTS})


def table_path(out: Path) -> Path:
    """Where the table is: ``out`` itself if it is named so, else in the folder."""
    return out if out.suffix == ".parquet" else out / "sweep.parquet"


def read_table(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Read a sweep's table and what it says of itself (``version``, ``swept``).

    Errors: RecordingError if it is missing or is no such table.
    """
    try:
        told = pl.read_parquet_metadata(path).get(_META)
        if told is None:
            raise RecordingError(f"{path} is no table of a sweep; make one with `marble sweep`")
        return pl.read_parquet(path), json.loads(told)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RecordingError(f"{path} cannot be read as a sweep's table: {error}") from None


class Store:
    """What is known already, and where more is put; one process at a time."""

    def __init__(self, out: Path, plan: Plan, *, overwrite: bool = False) -> None:
        """Open what is at ``out``, or begin there.

        Errors: RecordingError if something else is there, another sweep, or one that runs.
        """
        self.table = table_path(out)
        self.journal = self.table.with_name(f"{self.table.stem}.results.jsonl")
        self._plan = plan
        try:
            self.table.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
        except OSError as error:
            raise RecordingError(
                f"{self.table} cannot be written: {error.strerror or error}; choose another place "
                f"with --out"
            ) from None
        try:
            if overwrite:
                self._file.truncate(0)
            self.known = pl.DataFrame(schema=_KEYED) if overwrite else self._known()
            self._begin()
        except BaseException:
            self.close()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close it; what was put is kept."""
        self.close()

    @property
    def done(self) -> set[tuple[str, str]]:
        """Keys of what need not be computed; what was lost to a dead worker is tried again."""
        kept = self.known.filter(pl.col("error_kind").ne_missing("lost"))
        return set(kept.select(_KEYS).iter_rows())

    def put(self, key: tuple[str, str], row: Mapping[str, Any]) -> None:
        """Keep one result, whatever happens next."""
        line = json.dumps(dict(zip(_KEYS, key, strict=True)) | dict(row))
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        # A flush outlives the process; only a loss of power asks for more.
        if time.monotonic() - self._synced > _FSYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finish(self) -> pl.DataFrame:
        """Write the table, rows in the order of the plan, and drop the journal."""
        self._file.flush()
        self._file.seek(0)
        known = pl.concat([self.known, *_frames(self._file)]).unique(_KEYS, keep="last")
        frame = self._plan.frame.join(known, on=_KEYS, how="left", maintain_order="left")
        refused = pl.col("refused").is_not_null()
        frame = frame.with_columns(
            error=pl.coalesce("refused", "error"),
            error_kind=pl.when(refused).then(pl.lit("settings")).otherwise("error_kind"),
        ).drop("refused")
        told = {"format": _FORMAT, "version": __version__, "swept": self._plan.swept}
        packed = io.BytesIO()
        frame.write_parquet(packed, metadata={_META: json.dumps(told)})
        write_whole(self.table, packed.getvalue())
        self.journal.unlink(missing_ok=True)
        return frame

    def close(self) -> None:
        """Let others have it; a journal without results is removed."""
        if self._file.closed:
            return
        self._file.flush()
        self._file.seek(0)
        if sum(1 for _ in itertools.islice(self._file, 2)) < 2:
            self.journal.unlink(missing_ok=True)
        self._file.close()

    # ------------------------------------------------------------ what is there

    def _locked(self) -> IO[bytes]:
        """The journal, with its lock held; the lock ends with the process."""
        while True:
            file = self.journal.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise RecordingError(
                    f"another sweep is writing {self.table} at this moment; wait for it, or choose "
                    f"another place with --out"
                ) from None
            # Whoever had it before may have finished and removed it.
            if self.journal.exists() and os.path.samestat(
                os.fstat(file.fileno()), self.journal.stat()
            ):
                return file
            file.close()

    def _known(self) -> pl.DataFrame:
        found: list[pl.DataFrame] = []
        if self.table.exists():
            frame, told = read_table(self.table)
            self._same_version(told, self.table)
            wanted = frame.filter(pl.col("settings_digest").is_not_null())
            found.append(wanted.select(_KEYED.names()).cast(_KEYED))
        self._file.seek(0)
        head = self._file.readline()
        if head.endswith(b"\n"):
            try:
                told = json.loads(head)
                self._same_version(told[_META], self.journal)
            except (ValueError, KeyError, TypeError):
                raise RecordingError(
                    f"{self.journal} is not what a sweep writes; move it away"
                ) from None
            self._cut_torn_line()
            self._file.seek(0)
            found += _frames(self._file)
        known = pl.concat([pl.DataFrame(schema=_KEYED), *found]).unique(_KEYS, keep="last")
        strangers = known.join(self._plan.frame, on=_KEYS, how="anti").height
        if strangers:
            raise RecordingError(
                f"{self.table} has {known.height:,} results of an earlier sweep, {strangers:,} of "
                f"which this one does not ask for and would drop; choose another place with --out, "
                f"or begin anew there with --overwrite"
            )
        return known

    def _same_version(self, told: Mapping[str, Any], path: Path) -> None:
        if told["format"] != _FORMAT or told["version"] != __version__:
            raise RecordingError(
                f"{path} was begun with marblemaker {told['version']}, this is {__version__}: "
                f"results of two versions are not mixed; choose another place with --out, or begin "
                f"anew there with --overwrite"
            )

    def _cut_torn_line(self) -> None:
        """Drop what a kill left of the last line, so that the next one stands alone."""
        end = self._file.seek(0, os.SEEK_END)
        back = min(end, 1 << 20)
        self._file.seek(end - back)
        tail = self._file.read(back)
        self._file.truncate(end - back + tail.rfind(b"\n") + 1)

    def _begin(self) -> None:
        if self._file.seek(0, os.SEEK_END) == 0 or not self._has_head():
            self._file.truncate(0)
            head = {_META: {"format": _FORMAT, "version": __version__}}
            self._file.write(f"{json.dumps(head)}\n".encode())
            self._file.flush()

    def _has_head(self) -> bool:
        self._file.seek(0)
        return self._file.readline().endswith(b"\n")


def _frames(lines: Iterable[bytes]) -> list[pl.DataFrame]:
    """The results of a journal from its begin, in columns, some at a time."""
    frames: list[pl.DataFrame] = []
    rows: list[dict[str, Any]] = []

    def pack() -> None:
        frames.append(pl.DataFrame(rows, schema=_KEYED, orient="row"))
        rows.clear()

    for i, line in enumerate(lines):
        if i and line.endswith(b"\n"):
            rows.append(json.loads(line))
        if len(rows) >= _CHUNK:
            pack()
    if rows:
        pack()
    return frames
