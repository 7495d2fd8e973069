"""Feeds: what the quotes that came in look like, how late they were, and what was wrong with them.

One pass over all feeds side by side, in windows of bounded size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from msgspec import Struct, field

from marblemaker.report.grid import STRETCH, Floats, Grid, Ints, Series, broken, thin, windows

__all__ = ["GAP_SECS", "FeedReport", "Feeds", "Latency", "latency_table", "read_feeds"]

GAP_SECS: Final = (1, 5, 30)
"""Silences of a feed that are counted."""
_NS: Final = 10**9
_SMALLEST_BREAK_NS: Final = 30 * _NS
_BREAK_BUCKETS: Final = 5
_SAME: Final = ("ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz")
PERCENTILES: Final = (0.5, 0.9, 0.99, 0.999)


class Latency(Struct):
    """How late a feed was: ts − ts_event. Units: ns."""

    table: dict[str, float | int | None]
    """``n``, ``min``, ``p50``, ``p90``, ``p99``, ``p99.9``, ``max``; exact."""
    p50: Series
    """By stretch of the grid, at its last row."""
    p99: Series
    most: Series


class FeedReport(Struct):
    """One feed."""

    mid: Series
    """Of sound books, thinned."""
    age: Series | None
    """The longest time without a quote in each bucket, s; ``None`` for the target."""
    latency: Latency | None
    quality: dict[str, Any]


class Feeds(Struct):
    """All feeds of a run."""

    feeds: dict[str, FeedReport] = field(default_factory=dict)
    """By file: ``signal``, ``signal_2`` …, ``target``."""
    basis: Series | None = None
    """target mid / signal mid − 1 at each target quote, bps, thinned."""
    shared_instants: int = 0
    """Instants at which more than one feed has a quote."""
    mark: int | None = None
    """The target's last mid, 1e-9, as a run values its position."""


class _Feed:
    """What is gathered of one feed, window by window."""

    def __init__(self, name: str, grid: Grid, rows: int) -> None:
        self.name = name
        self.grid = grid
        self.thinned = rows > grid.keep
        self.mids: list[pl.DataFrame] = []
        self.delays: list[pl.DataFrame] = []
        self.before: pl.DataFrame | None = None
        self.longest = np.full(grid.buckets, np.nan)
        self.last_in = np.full(grid.buckets, -1, dtype=np.int64)
        self.counts: dict[str, int] = dict.fromkeys(
            ("rows", "no bid", "no ask", "crossed", "locked", "zero price or size",
             "duplicates", "event time back", "event time ahead",
             *(f"silent over {secs} s" for secs in GAP_SECS)), 0,
        )  # fmt: skip
        self.most_back = 0
        self.silence, self.silence_from = 0, 0

    def take(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Count a window's rows; give its sound mids."""
        sound = (
            frame.filter((pl.col("bid_px") > 0) & (pl.col("ask_px") >= pl.col("bid_px")))
            .select("ts", mid=(pl.col("bid_px") + pl.col("ask_px")) / 2e9)
        )  # fmt: skip
        if not frame.height:
            return sound
        self.mids.append(thin(sound, ["mid"], self.grid) if self.thinned else sound)
        self._quality(frame)
        self._age(frame)
        if frame["ts_event"].null_count() < frame.height:
            self.delays.append(self._delays(frame))
        self.before = frame.tail(1)
        return sound

    def _delays(self, frame: pl.DataFrame) -> pl.DataFrame:
        delay = pl.col("delay")
        return (
            frame.lazy()
            .filter(pl.col("ts_event").is_not_null())
            .select("ts", self.grid.stretch(), delay=pl.col("ts") - pl.col("ts_event"))
            .group_by("stretch", maintain_order=True)
            .agg(
                pl.col("ts").last(), p50=delay.quantile(0.5), p99=delay.quantile(0.99),
                most=delay.max().cast(pl.Float64),
            )
            .collect()
        )  # fmt: skip

    def _quality(self, frame: pl.DataFrame) -> None:
        whole = frame if self.before is None else pl.concat([self.before, frame])
        bid, ask = pl.col("bid_px"), pl.col("ask_px")
        behind = pl.col("ts_event").shift(1) - pl.col("ts_event")
        pause = pl.col("ts") - pl.col("ts").shift(1)
        same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift(1)) for c in _SAME)
        told = whole.lazy().select(
            bid.is_null().alias("no bid"),
            ask.is_null().alias("no ask"),
            (bid > ask).alias("crossed"),
            ((bid == ask) & (bid > 0)).alias("locked"),
            pl.any_horizontal(pl.col(c) == 0 for c in _SAME[1:]).alias("zero price or size"),
            (same & pl.col("ts").shift(1).is_not_null()).alias("duplicates"),
            (behind > 0).alias("event time back"),
            (pl.col("ts_event") > pl.col("ts")).alias("event time ahead"),
            *((pause > secs * _NS).alias(f"silent over {secs} s") for secs in GAP_SECS),
            behind=behind,
            pause=pause,
            ts=pl.col("ts"),
        )
        counted = [name for name in self.counts if name != "rows"]
        new = told if self.before is None else told.slice(1)
        row = new.select(
            *(pl.col(name).sum() for name in counted),
            pl.col("behind").max(),
            pl.col("pause").max(),
            until=pl.col("ts").get(pl.col("pause").arg_max()),
        ).collect().row(0, named=True)  # fmt: skip
        self.counts["rows"] += frame.height
        for name in counted:
            self.counts[name] += row[name] or 0
        self.most_back = max(self.most_back, row["behind"] or 0)
        if (row["pause"] or 0) > self.silence:
            self.silence, self.silence_from = row["pause"], row["until"] - row["pause"]

    def _age(self, frame: pl.DataFrame) -> None:
        ts: Ints = frame["ts"].to_numpy()
        buckets = (ts - self.grid.first) // self.grid.width
        before = ts[0] if self.before is None else self.before["ts"][0]
        pauses = np.diff(ts, prepend=before)
        np.fmax.at(self.longest, buckets, pauses / 1e9)
        np.maximum.at(self.last_in, buckets, ts)

    def age(self) -> Series:
        """The oldest that the feed was in each bucket, s; a gap before its first quote."""
        ends = self.grid.ends()
        last = np.maximum.accumulate(self.last_in)
        at_end = np.where(last >= 0, (ends - last) / 1e9, np.nan)
        return Series(ends, np.fmax(self.longest, at_end))

    def report(self, path: Path, *, is_signal: bool) -> FeedReport:
        """Everything about this feed."""
        mids = pl.concat(self.mids) if self.mids else pl.DataFrame({"ts": [], "mid": []})
        mid = Series(_ints(mids["ts"]), _floats(mids["mid"]))
        longest = max(_SMALLEST_BREAK_NS, _BREAK_BUCKETS * self.grid.width)
        latency = None
        if self.delays:
            by = pl.concat(self.delays)
            ts = _ints(by["ts"])
            latency = Latency(
                table=latency_table(pl.scan_parquet(path), pl.col("ts") - pl.col("ts_event")),
                p50=broken(Series(ts, _floats(by["p50"])), longest * STRETCH),
                p99=broken(Series(ts, _floats(by["p99"])), longest * STRETCH),
                most=broken(Series(ts, _floats(by["most"])), longest * STRETCH),
            )
        quality: dict[str, Any] = dict(self.counts)
        quality["event time back at most, ns"] = self.most_back
        quality["longest silence, ns"] = self.silence
        quality["longest silence from"] = self.silence_from if self.silence else None
        return FeedReport(
            mid=broken(mid, longest),
            age=self.age() if is_signal else None,
            latency=latency,
            quality=quality,
        )


def read_feeds(files: Mapping[str, Path], rows: Mapping[str, int], grid: Grid) -> Feeds:
    """Read the quotes of all feeds once, side by side.

    ``files``: by name, ``target`` among them or not; ``rows`` how many each has. Memory does not
    grow with length, but for the percentiles of the latency: 8 bytes a quote.
    """
    feeds = {name: _Feed(name, grid, rows[name]) for name in files}
    both = "signal" in files and "target" in files
    thinned = both and rows["target"] > grid.keep
    basis: list[pl.DataFrame] = []
    last_signal: pl.DataFrame | None = None
    found = Feeds()
    for window in windows(files, grid):
        mids = {name: feeds[name].take(frame) for name, frame in window.items()}
        found.shared_instants += _shared([frame["ts"] for frame in window.values()])
        if "target" in window:
            found.mark = _mark(window["target"], found.mark)
        if both:
            signal = mids["signal"]
            if last_signal is not None:
                signal = pl.concat([last_signal, signal])
            last_signal = signal.tail(1)
            beside = mids["target"].join_asof(signal.rename({"mid": "signal"}), on="ts")
            one = beside.drop_nulls().select(
                "ts", basis=(pl.col("mid") / pl.col("signal") - 1.0) * 1e4
            )
            basis.append(thin(one, ["basis"], grid) if thinned else one)
    found.feeds = {
        name: feed.report(files[name], is_signal=name != "target") for name, feed in feeds.items()
    }
    if basis:
        whole = pl.concat(basis)
        longest = max(_SMALLEST_BREAK_NS, _BREAK_BUCKETS * grid.width)
        found.basis = broken(Series(_ints(whole["ts"]), _floats(whole["basis"])), longest)
    return found


def latency_table(frame: pl.LazyFrame, delay: pl.Expr) -> dict[str, float | int | None]:
    """Count, extremes and percentiles of a delay, nulls left out. Units: those of ``delay``."""
    value = pl.col("delay")
    row: dict[str, float | int | None]
    row = (
        frame.select(delay=delay)
        .select(
            n=value.count(),
            min=value.min(),
            **{f"p{p * 100:g}": value.quantile(p) for p in PERCENTILES},
            max=value.max(),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    return row


def _shared(stamps: list[pl.Series]) -> int:
    """How many instants occur in more than one of the sorted columns."""
    if len(stamps) < 2:
        return 0
    once = np.concatenate([np.unique(one.to_numpy()) for one in stamps])
    _, times = np.unique(once, return_counts=True)
    return int((times > 1).sum())


def _mark(target: pl.DataFrame, before: int | None) -> int | None:
    both = target.lazy().filter(pl.col("bid_px").is_not_null() & pl.col("ask_px").is_not_null())
    last = both.select("bid_px", "ask_px").tail(1).collect()
    return before if not last.height else (last["bid_px"][0] + last["ask_px"][0]) // 2


def _ints(column: pl.Series) -> Ints:
    return column.cast(pl.Int64).to_numpy()


def _floats(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).to_numpy()
