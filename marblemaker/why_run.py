"""The parts of a run that ``why`` looks into: a few rows around one instant, never a whole file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from marblemaker import __version__
from marblemaker.calendar import ALWAYS_OPEN, opens_ns
from marblemaker.files import write_whole
from marblemaker.settings import Settings, load_settings
from marblemaker.wiring import calendar_of, parameters_of
from operators.guards.schedule import NEVER_NS, Schedule
from operators.quoting import Parameters
from operators.residual import session_baseline
from streams.events import Quote
from streams.recording import Manifest, RecordingError, read_manifest

__all__ = ["Row", "RunFolder", "WhyError"]

Row: TypeAlias = dict[str, Any]

_TRACE: Final = "trace"
_SESSIONS: Final = "trace/sessions.json"
_WINDOW: Final = 4_096
"""How far back a search goes at first, in inputs."""
_ROWS: Final = 256
"""The same in rows of a file, where it goes by time."""
_QUOTE: Final = ("seq", "ts", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz", "flags")


class WhyError(ValueError):
    """What was asked of a run has no answer there."""


class _Sessions(Struct):
    """What is kept beside a run so that the next question is quicker."""

    made_for: str
    sessions: list[tuple[int, int]] | None
    opens: list[int]


class RunFolder:
    """A run on disk. Every read is of the row groups around one place."""

    def __init__(self, folder: Path) -> None:
        """Open a run.

        Errors: RecordingError if the folder is no run; WhyError if it holds several markets.
        """
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        if self.manifest.markets:
            parts = ", ".join(str(folder / name) for name in self.manifest.markets)
            raise WhyError(f"{folder} holds several markets; ask one of them: {parts}")
        if not (folder / "decisions.parquet").is_file():
            raise RecordingError(
                f"{folder} has no decisions.parquet, so it is a recording and not a run; make one "
                f"with `marble replay {folder}`"
            )
        self.settings: Settings = load_settings(manifest=self.manifest)
        self._scans: dict[str, pl.LazyFrame | None] = {}
        self._spacing: dict[tuple[str, str], int] = {}

    @cached_property
    def parameters(self) -> Parameters:
        """What the graph was built from.

        The calendar's library takes longer to load than all the rest, so the sessions of the run's
        span are kept beside it once they are known.
        """
        kept = self._kept_sessions()
        if kept is None:
            p = parameters_of(self.settings, self.manifest)
            self._keep_sessions(p)
            return p
        s = self.settings
        by_session = s.strategy.signal_baseline == "session"
        plain = replace(
            s,
            session=replace(s.session, calendar=ALWAYS_OPEN),
            strategy=replace(s.strategy, signal_baseline="first") if by_session else s.strategy,
        )
        p = parameters_of(plain, self.manifest)
        if by_session:
            p = replace(p, baselines=(session_baseline(kept.opens),) * len(p.baselines))
        schedule = None if kept.sessions is None else Schedule(kept.sessions)
        return replace(p, guards=replace(p.guards, schedule=schedule))

    def _kept_sessions(self) -> _Sessions | None:
        try:
            kept = msgspec.json.decode((self.folder / _SESSIONS).read_bytes(), type=_Sessions)
        except (OSError, msgspec.MsgspecError):
            return None
        return kept if kept.made_for == self._made_for else None

    def _keep_sessions(self, p: Parameters) -> None:
        schedule, sessions = p.guards.schedule, None
        if schedule is not None:
            edges = [schedule.next_edge(-1)]
            while edges[-1] < NEVER_NS:
                edges.append(schedule.next_edge(edges[-1]))
            sessions = list(zip(edges[:-1:2], edges[1::2], strict=False))
        opens = []
        if self.settings.strategy.signal_baseline == "session":
            opens = opens_ns(self.manifest.first_ts or 0, self.manifest.last_ts or 0)
        kept = _Sessions(made_for=self._made_for, sessions=sessions, opens=opens)
        # A run that may not be written to is asked all the same, only not as quickly.
        with suppress(OSError):
            if self.has_trace:
                write_whole(self.folder / _SESSIONS, msgspec.json.encode(kept))

    @property
    def _made_for(self) -> str:
        s, manifest = self.settings, self.manifest
        session = msgspec.to_builtins(s.session)
        return f"{__version__} {self.calendar} {manifest.first_ts} {manifest.last_ts} {session}"

    @property
    def calendar(self) -> str:
        """Name of the calendar of the signal's market."""
        return calendar_of(self.settings)

    @property
    def has_trace(self) -> bool:
        """Whether the run wrote down what its operators put out."""
        return self.scan("trace/wanted") is not None

    @property
    def signals(self) -> list[str]:
        """Names of the signals' files."""
        count = len(self.settings.signal_instruments)
        return ["signal", *(f"signal_{i}" for i in range(2, count + 1))]

    def scan(self, name: str) -> pl.LazyFrame | None:
        """A file of the run, ``decisions`` or ``trace/wanted``; ``None`` if it has none."""
        if name not in self._scans:
            path = self.folder / f"{name}.parquet"
            self._scans[name] = pl.scan_parquet(path) if path.is_file() else None
        return self._scans[name]

    def rows(self, name: str, *conditions: pl.Expr) -> list[Row]:
        """The rows of a file for which all conditions hold, in order."""
        return self._frame(name, *conditions).to_dicts()

    def _frame(self, name: str, *conditions: pl.Expr) -> pl.DataFrame:
        scan = self.scan(name)
        if scan is None:
            return pl.DataFrame()
        try:
            return scan.filter(*conditions).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise RecordingError(f"{self.folder / name}.parquet cannot be read: {error}") from error

    def last(
        self, name: str, column: str, upto: int, *conditions: pl.Expr, count: int = 1
    ) -> list[Row]:
        """The last rows with ``column`` at most ``upto``, in order; the column must be sorted.

        The search goes back in windows that grow, so that only the nearest row groups are read.
        """
        if self.scan(name) is None:
            return []
        width = _WINDOW if column == "seq" else self._window_ns(name)
        least = 0 if column == "seq" else (self.manifest.first_ts or 0) - 1
        while True:
            low = max(upto - width, 0)
            within = (pl.col(column) <= upto) & (pl.col(column) > low)
            if low == 0 or low < least:
                within = pl.col(column) <= upto
            found = self._frame(name, within, *conditions)
            if found.height >= count or low == 0 or low < least:
                return found.tail(count).to_dicts()
            width *= 16

    def first(
        self, name: str, column: str, after: int, *conditions: pl.Expr, count: int = 1
    ) -> list[Row]:
        """The first rows with ``column`` above ``after``, in order."""
        scan = self.scan(name)
        if scan is None:
            return []
        return scan.filter(pl.col(column) > after, *conditions).head(count).collect().to_dicts()

    def _window_ns(self, name: str) -> int:
        # Of a file that the manifest does not describe, one of about as many rows.
        like = {"wanted": "decisions"}.get(own := name.removeprefix(f"{_TRACE}/"), own)
        entry = self.manifest.files.get(like)
        first, last = self.manifest.first_ts or 0, self.manifest.last_ts or 0
        rows = entry.rows if entry is not None else 1_000
        return max((last - first) // max(rows, 1) * _ROWS, 1)

    # ------------------------------------------------------------ quotes

    def quote(self, name: str, seq: int) -> Quote | None:
        """The feed's latest quote at or before an input."""
        rows = self.last(name, "seq", seq)
        return as_quote(rows[0]) if rows else None

    def quotes(self, name: str, after: int, upto: int) -> list[Quote]:
        """The feed's quotes after one input and up to another."""
        return [as_quote(row) for row in self.rows(
            name, (pl.col("seq") > after) & (pl.col("seq") <= upto)
        )]  # fmt: skip

    def input_row(self, seq: int) -> tuple[str, Row] | None:
        """The input with a sequence number: its file and row."""
        for name in self._inputs:
            rows = self.rows(name, pl.col("seq") == seq)
            if rows:
                return name, rows[0]
        return None

    def input_before(self, ts: int) -> tuple[str, Row] | None:
        """The last input at or before an instant: its file and row."""
        found = [(name, row) for name in self._inputs for row in self.last(name, "ts", ts)]
        return max(found, key=lambda one: one[1]["seq"], default=None)

    @property
    def first_seq(self) -> int:
        """Sequence number of the first input."""
        return min((self._end(name, first=True) for name in self._inputs), default=0)

    @property
    def last_seq(self) -> int:
        """Sequence number of the last input."""
        return max((self._end(name, first=False) for name in self._inputs), default=0)

    @property
    def _inputs(self) -> list[str]:
        names = (*self.signals, "target", "account", "status", "trades")
        return [
            name
            for name in names
            if (entry := self.manifest.files.get(name)) is not None and entry.rows
        ]

    def _end(self, name: str, *, first: bool) -> int:
        scan = self.scan(name)
        assert scan is not None
        seqs = scan.select("seq")
        return int((seqs.head(1) if first else seqs.tail(1)).collect().item())


def as_quote(row: Row) -> Quote:
    """A row of a feed's file as the graph saw it."""
    return Quote(*(row[name] for name in _QUOTE))


def books(quotes: Sequence[Quote]) -> list[tuple[int | None, ...]]:
    """Prices and sizes of quotes."""
    return [(q.bid_px, q.ask_px, q.bid_sz, q.ask_sz) for q in quotes]
