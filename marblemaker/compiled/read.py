"""Reading: a feed's Parquet file as columns for the loop, a batch at a time.

A column without an absent number is the memory that the file was decoded to; nothing is copied.
The loop merges the feeds as it goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from marblemaker.compiled.layout import SIGNAL, TARGET, World
from marblemaker.compiled.loop import (
    DISCONNECT,
    KILL,
    NOTHING,
    SIGN,
    AccountColumns,
    Columns,
    StatusColumns,
    TradeColumns,
)
from marblemaker.compiled.texts import ASKED_FOR, NULL_WORD, OVER_LIMITS, TAKEN_OVER, word
from sinks.orders import ADOPTED, QUERIED
from streams.events import SIDE_NAMES, AccountKind
from streams.instrument import Instrument
from streams.recording import (
    RecordingError,
    checked_rows,
    checker_of,
    schema_of,
    unchecked_rows,
)

__all__ = ["MAX_PX", "Feed", "Others", "kills_of"]

MAX_PX: Final = 10**17
"""Highest price that the loop counts with, 1e-9: a hundred million of quote currency."""

_MOST: Final = {
    "seq": NULL_WORD - 1, "ts": 2**62, "ts_event": NULL_WORD - 1, "bid_px": MAX_PX,
    "ask_px": MAX_PX, "px": MAX_PX, "bid_sz": 2**61, "ask_sz": 2**61, "qty": 2**61,
    "fee": 2**53, "n": 2**61, "quota_left": 2**61,
}  # fmt: skip
"""What fits 64 bits with all that is added to it, and is not taken for an absent number."""
_DOES: Final = {"heartbeat": SIGN, "sibling": SIGN, "disconnect": DISCONNECT, "kill": KILL,
                "release": KILL}  # fmt: skip
_FEEDS: Final = {"signal": SIGNAL, "target": TARGET}
_SIDES: Final = {name: side for side, name in SIDE_NAMES.items()}

_LEAST: Final = {"px": 0, "qty": -(2**61), "fee": -(2**53)}
_NO_QUOTES: Final = ("status", "trades", "account")
_NEVER_NULL: Final = ("ts", "seq", "flags")
_MAY_BE_ABSENT: Final = ("ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz")
_ANSWERS: Final = {kind: word(kind) for kind in get_args(AccountKind)}

AnyColumns = Columns | TradeColumns | StatusColumns | AccountColumns


@njit(cache=True, nogil=True)
def sound(columns: Columns, ts: int, seq: int, by_seq: bool, tick: int) -> int:
    """Count absent numbers in quotes that are sound after ``ts`` and ``seq``; -1 if any is not.

    What ``QuoteChecker`` refuses and what is beyond ``_MOST`` is not sound. There is no way out of
    the loop, so that it can go through several rows at a time.
    """
    absent = bad = 0
    per_tick = 1.0 / tick
    for k in range(len(columns.ts)):
        bad |= (columns.ts[k] < ts) | (columns.ts[k] > 2**62)
        ts = columns.ts[k]
        event, bid, ask = columns.ts_event[k], columns.bid_px[k], columns.ask_px[k]
        bid_sz, ask_sz = columns.bid_sz[k], columns.ask_sz[k]
        bad |= event > NULL_WORD
        no_bid, no_ask = bid == NULL_WORD, ask == NULL_WORD
        no_bid_sz, no_ask_sz = bid_sz == NULL_WORD, ask_sz == NULL_WORD
        bad |= ((bid < 0) | (bid > MAX_PX)) & (not no_bid)
        bad |= ((ask < 0) | (ask > MAX_PX)) & (not no_ask)
        bad |= ((bid_sz < 0) | (bid_sz > 2**61)) & (not no_bid_sz)
        bad |= ((ask_sz < 0) | (ask_sz > 2**61)) & (not no_ask_sz)
        # The nearest number of ticks; where the doubles are too coarse it is refused, if wrongly.
        bad |= (bid - int(bid * per_tick + 0.5) * tick != 0) & (not no_bid)
        bad |= (ask - int(ask * per_tick + 0.5) * tick != 0) & (not no_ask)
        absent += (event == NULL_WORD) + no_bid + no_ask + no_bid_sz + no_ask_sz
    if by_seq:
        for k in range(len(columns.key)):
            bad |= (columns.key[k] <= seq) | (columns.key[k] >= NULL_WORD)
            seq = columns.key[k]
    return -1 if bad else absent


def kills_of(path: Path) -> list[str]:
    """Texts of the operator's kill commands in a file of status rows."""
    found: dict[str, None] = {}
    for batch in checked_rows("status", path):
        kills = batch.filter((pl.col("source") == "operator") & (pl.col("kind") == "kill"))
        found |= dict.fromkeys(kills["text"].fill_null("").to_list())
    # Without a text it is "on".
    return list(dict.fromkeys(text or "on" for text in found))


class Feed:
    """One file of inputs, as far as it is read."""

    def __init__(
        self,
        name: str,
        path: Path | None,
        instrument: Instrument | None,
        kills: Mapping[str, int],
        *,
        by_seq: bool,
        batch_rows: int,
        ahead: Executor,
    ) -> None:
        """Open a file, or stand for one that is not there; a batch is read ``ahead``.

        ``by_seq``: rows are merged by their ``seq``, else by ``ts``. ``kills``: the reasons of the
        texts of kill commands.
        """
        self.name = name
        self._path = path
        self._kills = kills
        self._batches: Iterator[pl.DataFrame] = iter(())
        if path is not None:
            self._batches = unchecked_rows(name, path, batch_rows)
            self._checker = checker_of(name, path, instrument)
        self._tick = 1 if instrument is None else instrument.tick_size
        self._by_seq = by_seq
        self.texts: dict[int, str] = {}
        """Texts that are put out again, by their words, of all that has been read."""
        self.frame: pl.DataFrame | None = None
        """The rows of the batch as they are in the file."""
        self.columns: AnyColumns = self._columns(
            pl.DataFrame(schema=schema_of(name)), np.empty(0, np.int64), np.empty(0, np.int64)
        )
        """The same for the loop."""
        self.rows = 0
        """Rows read so far."""
        self._rest: tuple[pl.DataFrame, AnyColumns] | None = None
        self._ahead = ahead
        self._next = ahead.submit(self._read)

    def read(self) -> bool:
        """Go on to the next batch; False at the end.

        Errors: RecordingError for unsound rows, or numbers beyond ``MAX_PX`` and the like.
        """
        if self._rest is not None:
            (self.frame, self.columns), self._rest = self._rest, None
            return True
        batch = self._next.result()
        if batch is None:
            return False
        self.frame, self.columns = batch
        self.rows += self.frame.height
        self._next = self._ahead.submit(self._read)
        return True

    def put_first(self, at: int, rows: pl.DataFrame) -> pl.DataFrame | None:
        """Have ``rows`` delivered before all else, then what there is from row ``at`` on.

        Shape: the rows before ``at``, which have been delivered, come back.
        """
        frame, columns = self.frame, self.columns
        if frame is not None:
            rest = frame.slice(at)
            self._rest = rest, self._columns(rest, columns.key[at:], columns.ts[at:])
        ts = _integers(rows["ts"])
        self.frame, self.columns = rows, self._columns(rows, np.full(len(ts), -1), ts)
        return None if frame is None else frame.slice(0, at)

    def _read(self) -> tuple[pl.DataFrame, AnyColumns] | None:
        frame = next(self._batches, None)
        if frame is None:
            return None
        quotes = self.name not in _NO_QUOTES
        if not quotes or any(frame[name].null_count() for name in _NEVER_NULL if name in frame):
            self._check(frame)
        ts = _integers(frame["ts"])
        key = _integers(frame["seq"].cast(pl.Int64)) if self._by_seq else ts
        columns = self._columns(frame, key, ts)
        if isinstance(columns, Columns):
            if self._surely_sound(frame, columns):
                self._checker.passed(frame)
            else:
                self._check(frame)
        return frame, columns

    def _surely_sound(self, frame: pl.DataFrame, columns: Columns) -> bool:
        """Tell in one pass whether quotes are sound; if not surely, they are looked at closely."""
        if "seq" in frame and not self._by_seq:
            return False
        ts, seq = self._checker.last("ts"), self._checker.last("seq")
        absent = sound(columns, ts or 0, -1 if seq is None else seq, self._by_seq, self._tick)
        return bool(absent == sum(frame[name].null_count() for name in _MAY_BE_ABSENT))

    def _check(self, frame: pl.DataFrame) -> None:
        """Look at rows closely.

        Errors: RecordingError naming the row, or a number beyond what the loop counts with.
        """
        self._checker.check(frame)
        for name, most in _MOST.items():
            highest = frame[name].max() if name in frame.columns else None
            if isinstance(highest, int) and highest > most:
                raise RecordingError(
                    f"{self._path}: {name} goes up to {highest}, --engine compiled counts up to "
                    f"{most} there; use --engine rx"
                )
            least = _LEAST.get(name)
            lowest = None if least is None or highest is None else frame[name].min()
            if least is not None and isinstance(lowest, int) and lowest < least:
                raise RecordingError(
                    f"{self._path}: {name} goes down to {lowest}, --engine compiled counts down to "
                    f"{least} there; use --engine rx"
                )

    def _columns(
        self, frame: pl.DataFrame, key: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> AnyColumns:
        number = np.empty(frame.height, np.int64)
        if self.name == "trades":
            side = frame["side"].replace_strict(_SIDES, default=0, return_dtype=pl.Int64)
            px, qty = (_integers(frame[name]) for name in ("px", "qty"))
            return TradeColumns(key, ts, number, px, qty, _integers(side))
        if self.name == "status":
            return StatusColumns(key, ts, number, *self._status(frame))
        if self.name == "account":
            return AccountColumns(key, ts, number, *self._answers(frame))
        return Columns(
            key,
            ts,
            number,
            ts_event=_integers(frame["ts_event"]),
            bid_px=_integers(frame["bid_px"]),
            ask_px=_integers(frame["ask_px"]),
            bid_sz=_integers(frame["bid_sz"]),
            ask_sz=_integers(frame["ask_sz"]),
            flags=_contiguous(frame["flags"].to_numpy()),
        )

    def _status(self, frame: pl.DataFrame) -> Iterator[NDArray[np.int64]]:
        """To which feed, what it does, and the reason of a kill."""
        of = frame["source"].to_list()
        kinds, texts = frame["kind"].to_list(), frame["text"].fill_null("").to_list()
        does = []
        for source, kind in zip(of, kinds, strict=True):
            what = _DOES.get(kind, NOTHING)
            # The kill switch is the operator's, the rest is of a feed.
            does.append(what if (what == KILL) == (source == "operator") else NOTHING)
        reasons = [
            self._kills[text or "on"] if what == KILL and kind == "kill" else 0
            for what, kind, text in zip(does, kinds, texts, strict=True)
        ]
        yield np.array([_FEEDS.get(source, 2) for source in of], np.int64)
        yield np.array(does, np.int64)
        yield np.array(reasons, np.int64)

    def _answers(self, frame: pl.DataFrame) -> Iterator[NDArray[np.int64]]:
        """The rest of ``AccountColumns``; of a trade's id and of a liquidity the words."""
        fills = frame["kind"] == "fill"
        ids = frame.select(pl.when(fills).then("venue_id")).to_series()
        texts = frame["liquidity"].unique().drop_nulls().to_list()
        # A new dictionary: another thread may be looking at the one before.
        self.texts = {**self.texts, **{word(text): text for text in texts}}
        yield _integers(frame["kind"].replace_strict(_ANSWERS, return_dtype=pl.Int64))
        yield _integers(frame["n"])
        yield _words(ids)
        for name in ("px", "qty", "fee"):
            yield _integers(frame[name])
        yield _words(frame["liquidity"])
        reason = pl.col("reason")
        told = (
            pl.when(reason == QUERIED).then(ASKED_FOR)
            .when(reason == ADOPTED).then(TAKEN_OVER)
            .when(reason.str.starts_with("23")).then(OVER_LIMITS)
        )  # fmt: skip
        yield _integers(frame.select(told.cast(pl.Int64)).to_series())
        yield _integers(frame["quota_left"])


def _words(series: pl.Series) -> NDArray[np.int64]:
    """Texts as words, an absent one as ``NULL_WORD``."""
    words = {text: word(text) for text in series.unique().drop_nulls().to_list()}
    return np.array([words.get(text, NULL_WORD) for text in series.to_list()], np.int64)


class Others:
    """Batches of further signals as the loop takes them: a line of each column for each signal."""

    def __init__(self, w: World, signals: int, batch_rows: int) -> None:
        """Make room for this many signals; ``w`` is told how far each goes."""
        self._ahead = w["ahead"]
        self._lines: list[NDArray[Any]] = []
        self.columns: Columns | None = None
        """For the loop; ``None`` if there are none."""
        if signals:
            flags = len(Columns._fields) - 1
            self._lines = [
                np.empty((signals, batch_rows), np.uint8 if k == flags else np.int64)
                for k in range(len(Columns._fields))
            ]
            self.columns = Columns(*self._lines)

    def take(self, k: int, columns: AnyColumns | None) -> None:
        """Take the next batch of a signal; ``None``: there is none."""
        ahead = self._ahead[k]
        ahead["more"] = columns is not None
        if columns is not None:
            ahead["at"], ahead["stop"] = 0, len(columns.key)
            for line, column in zip(self._lines, columns, strict=True):
                line[k, : ahead["stop"]] = column

    def numbers(self, k: int) -> NDArray[np.int64]:
        """Sequence numbers of the batch that a signal has gone through."""
        assert self.columns is not None
        return self.columns.number[k, : self._ahead[k]["stop"]].copy()


def _integers(series: pl.Series) -> NDArray[np.int64]:
    if series.null_count():
        series = series.fill_null(NULL_WORD)
    return _contiguous(series.to_numpy())


def _contiguous(values: NDArray[Any]) -> NDArray[Any]:
    """The same array where it is in one piece; the loop may only read it."""
    values = np.ascontiguousarray(values)
    if not values.flags.writeable:
        # The loop is compiled for arrays that may be written to; this one it only reads.
        values = np.asarray(_Writable(values))
    return values


class _Writable:
    """Gives out an array's memory without its read-only mark."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values
        described = dict(values.__array_interface__)
        described["data"] = (described["data"][0], False)
        self.__array_interface__ = described
