"""Decided: our quotes as they stood in the market, why not when they did not, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl
from msgspec import Struct

from marblemaker.report.grid import Grid
from sinks.journal import DECISIONS_SCHEMA

__all__ = ["MAX_ROWS", "OLD_SECS", "Decided", "read_decisions", "spans_of"]

MAX_ROWS: Final = 20_000
"""Quotes that are shown one by one; of more, those with the extremes."""
OLD_SECS: Final = (0.1, 1.0, 5.0)
"""Ages of the signal beyond which a quote counts as made on an old one."""
_MAX_LANES: Final = 24
_NS: Final = 10**9
_COUNTS: Final = ("level_step", "unmoved")
_STANDING: Final = ("quote", "withdraw", "retract")
"""What changes what stands in the market; a hold or a refusal leaves it alone."""


class Decided(Struct):
    """What a run decided."""

    shown: pl.DataFrame
    """Rows of ``decisions.parquet`` that changed what stands, all or the telling ones."""
    changes: int
    """How many of them there are."""
    spans: pl.DataFrame
    """``lane``, ``start``, ``end`` (ns): what stood in the market and why not, in order."""
    lanes: pl.DataFrame
    """``lane``, ``times``, ``seconds``, ``share`` of the run; quotes first, then by time."""
    spans_merged: bool
    """Whether spans closer than a bucket were drawn as one."""
    quotes: int
    """Quotes made on a signal, of which ``old`` counts those on one older than ``OLD_SECS``."""
    old: dict[float, int]
    threshold: bool
    """Whether a budget widened the requote threshold."""


def read_decisions(path: Path, grid: Grid, until: int) -> Decided:
    """Read ``decisions.parquet``; ``until`` is when quoting was over, ns."""
    rows = _complete(pl.scan_parquet(path))
    age = pl.col("ts") - pl.col("signal_ts")
    made = rows.filter((pl.col("action") == "quote") & pl.col("signal_ts").is_not_null())
    counted = (
        made.select(n=pl.len(), **{str(secs): (age > round(secs * _NS)).sum() for secs in OLD_SECS})
        .collect(engine="streaming")
        .row(0, named=True)
    )
    spans = spans_of(rows, until)
    lanes = _lanes(spans, max(1, grid.last - grid.first))
    few = _few_lanes(spans, lanes)
    merged = few.height > MAX_ROWS
    standing = rows.filter(pl.col("action").is_in(_STANDING))
    changes = standing.select(pl.len()).collect(engine="streaming").item()
    return Decided(
        shown=_shown(standing, changes, grid),
        changes=changes,
        spans=_merged(few, grid) if merged else few,
        lanes=lanes,
        spans_merged=merged,
        quotes=counted["n"],
        old={secs: counted[str(secs)] for secs in OLD_SECS},
        threshold=rows.select(pl.col("threshold_bps").is_not_null().any()).collect().item(),
    )


def _complete(rows: pl.LazyFrame) -> pl.LazyFrame:
    """With all columns there are today: runs of earlier versions lack some."""
    there = rows.collect_schema()
    missing = {name: kind for name, kind in DECISIONS_SCHEMA.items() if name not in there}
    if not missing:
        return rows
    side = {"bid_levels": "bid_px", "ask_levels": "ask_px"}
    return rows.with_columns(
        pl.col(side[name]).is_not_null().cast(kind).alias(name) if name in side
        else pl.lit(0 if name in _COUNTS else None, dtype=kind).alias(name)
        for name, kind in missing.items()
    )  # fmt: skip


def spans_of(rows: pl.LazyFrame, until: int) -> pl.DataFrame:
    """From when to when which state stood, and which targets were held back meanwhile.

    A quote at new prices goes on with the state before it.

    Shape: ``lane``, ``start``, ``end`` (ns), by start; the last one ends at ``until``.
    """
    quote, has_bid, has_ask = (
        pl.col("action") != "withdraw", pl.col("bid_px").is_not_null(),
        pl.col("ask_px").is_not_null(),
    )  # fmt: skip
    lane = (
        pl.when(~quote)
        .then(pl.lit("withdrawn: ") + pl.col("reason"))
        .when(has_bid & has_ask)
        .then(pl.lit("bid and ask"))
        .when(has_bid)
        .then(pl.lit("bid only, ask: ") + pl.col("ask_note").fill_null("retracted"))
        .when(has_ask)
        .then(pl.lit("ask only, bid: ") + pl.col("bid_note").fill_null("retracted"))
        .otherwise(pl.lit("neither side: ") + pl.col("bid_note").fill_null("retracted"))
    )
    columns = ("ts", "action", "reason", "bid_px", "ask_px", "bid_note", "ask_note")
    told = rows.select(columns)
    standing = told.filter(pl.col("action").is_in(_STANDING)).select(lane=lane, start=pl.col("ts"))
    others = told.filter(pl.col("action") != "refuse").with_columns(
        after=pl.col("ts").shift(-1).fill_null(until)
    )
    held = others.filter(pl.col("action") == "hold").select(
        lane=pl.lit("held back: ") + pl.col("reason"), start=pl.col("ts"), end=pl.col("after")
    )
    refused = told.filter(pl.col("action") == "refuse").select(
        lane=pl.lit("input refused: ") + pl.col("reason"), start=pl.col("ts"), end=pl.col("ts")
    )
    ended = _states(standing).with_columns(end=pl.col("start").shift(-1).fill_null(until))
    frame = pl.concat([ended, held, refused]).collect(engine="streaming")
    # What is decided after the stop, or by a timer at it, stands for no time.
    return frame.with_columns(pl.max_horizontal("start", "end").alias("end")).sort(
        "start", maintain_order=True
    )


def _states(standing: pl.LazyFrame) -> pl.LazyFrame:
    """Without the rows that go on in the state of the row before them: new prices, same sides."""
    changed = pl.col("lane") != pl.col("lane").shift(1)
    return standing.filter(changed.fill_null(True))


def _lanes(spans: pl.DataFrame, whole_ns: int) -> pl.DataFrame:
    kind = (
        pl.when(pl.col("lane") == "bid and ask").then(0)
        .when(pl.col("lane").str.contains("^(bid|ask) only")).then(1)
        .when(pl.col("lane").str.starts_with("held")).then(3)
        .when(pl.col("lane").str.starts_with("input")).then(4)
        .otherwise(2)
    )  # fmt: skip
    return (
        spans.group_by("lane")
        .agg(times=pl.len(), seconds=(pl.col("end") - pl.col("start")).sum() / 1e9)
        .with_columns(share=pl.col("seconds") * 1e9 / whole_ns, kind=kind)
        .sort(["kind", "seconds", "lane"], descending=[False, True, False])
    )


def _few_lanes(spans: pl.DataFrame, lanes: pl.DataFrame) -> pl.DataFrame:
    """No more lanes than can be read: the rarest become one."""
    if lanes.height <= _MAX_LANES:
        return spans
    rest = lanes[_MAX_LANES - 1 :]["lane"].to_list()
    lane = pl.when(pl.col("lane").is_in(rest)).then(pl.lit("other")).otherwise(pl.col("lane"))
    return spans.with_columns(lane=lane)


def _merged(spans: pl.DataFrame, grid: Grid) -> pl.DataFrame:
    """Spans of one lane that are closer than a bucket as one, so that there are not too many."""
    far = pl.col("start") - pl.col("end").shift(1).over("lane") > grid.width
    return (
        spans.with_columns(part=far.fill_null(True).cum_sum().over("lane"))
        .group_by(["lane", "part"], maintain_order=True)
        .agg(pl.col("start").first(), pl.col("end").max())
        .select("lane", "start", "end")
    )


def _shown(standing: pl.LazyFrame, changes: int, grid: Grid) -> pl.DataFrame:
    """All rows, or of each group the first, the last, the extremes and the first withdrawal."""
    if changes <= MAX_ROWS:
        return standing.collect()
    # Half by time, for a look at the whole run, and half by number, for a look into a busy minute.
    half = MAX_ROWS // 16
    by_time = Grid(grid.first, grid.last, half).bucket()
    by_number = pl.col("row") // -(-changes // half)
    numbered = standing.select("ts", "action", "bid_px", "ask_px").with_row_index("row")
    rows = pl.concat([_telling(numbered, by_time), _telling(numbered, by_number)]).unique()
    if rows.len() < MAX_ROWS:
        every = -(-changes // (MAX_ROWS - rows.len()))
        evenly = pl.Series(rows.name, range(0, changes, every), dtype=rows.dtype)
        rows = pl.concat([rows, evenly]).unique()
    rows = rows.sort()
    return (
        standing.with_row_index("row")
        .join(rows.to_frame("row").lazy(), on="row", how="semi", maintain_order="left")
        .drop("row")
        .collect(engine="streaming")
    )


def _telling(numbered: pl.LazyFrame, group: pl.Expr) -> pl.Series:
    """Of each group at most eight rows, by their numbers."""
    row = pl.col("row")
    picked: list[pl.Expr] = [row.first().alias("first"), row.last().alias("last")]
    for name in ("bid_px", "ask_px"):
        picked += [
            row.get(pl.col(name).arg_min()).alias(f"low {name}"),
            row.get(pl.col(name).arg_max()).alias(f"high {name}"),
        ]
    gone = row.filter(pl.col("action") == "withdraw").first()
    picked += [gone.alias("gone"), (gone + 1).alias("after")]
    found = numbered.group_by(group.alias("group")).agg(picked).drop("group")
    rows = found.collect(engine="streaming")
    return pl.concat([rows[name] for name in rows.columns]).drop_nulls()
