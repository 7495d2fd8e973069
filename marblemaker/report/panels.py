"""Panels: what is drawn, as plain numbers, for the page and for the pictures alike."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import numpy as np
import polars as pl
from msgspec import Struct

from marblemaker.report.data import ReportData
from marblemaker.report.grid import STRETCH, Floats, Ints, Series
from streams.events import SIDE_NAMES
from streams.instrument import UNIT, format_units

__all__ = ["Band", "Limit", "Line", "Mark", "Panel", "marks", "outside", "panels"]

Kind = Literal["line", "step", "marks", "spans"]

LEAST_AGE_SECS = 1e-4
LEAST_DELAY_MS = 1e-3
"""What a logarithmic axis begins at; what is less is drawn there."""
_SIGNALS = ("signal", "signal2", "signal3")


class Line(Struct):
    """One line, or one kind of mark."""

    name: str
    series: Series
    """For spans the starts."""
    kind: Kind = "line"
    colour: str = "target"
    """A name of the palette."""
    axis: int = 1
    dash: bool = False
    unit: str = ""
    digits: int = 3
    texts: list[str] | None = None
    """Of marks: what to tell of each."""
    ends: Ints | None = None
    """Of spans: where each ends, ns."""
    lane: int = 0


class Band(Struct):
    """A stretch of time with a background."""

    start: int
    end: int
    colour: str
    label: str = ""


class Mark(Struct):
    """An instant with a name."""

    ts: int
    label: str


class Limit(Struct):
    """A level that something is held against."""

    y: float
    label: str


class Panel(Struct):
    """One chart over the time of the run."""

    key: str
    title: str
    caption: str
    unit: str
    lines: list[Line]
    unit2: str = ""
    log: bool = False
    centred: bool = False
    """Zero in the middle of both axes, so that they share it."""
    bands: list[Band] = []
    limits: list[Limit] = []
    lanes: list[str] = []
    labelled: bool = False
    """Whether the marks of the session are named here."""
    missing: str = ""
    """Why it is empty, or what of it is not there."""


def panels(data: ReportData) -> list[Panel]:
    """The four panels of the tutorial, then the others, all over the same span of time."""
    drawn = [_prices(data), _shift(data), _inventory(data), _clock(data), _lanes(data)]
    return [*drawn, _requests(data), _latency(data), _answers(data)]


def outside(data: ReportData) -> list[Band]:
    """The stretches in which the signal's market was closed."""
    if data.sessions is None:
        return []
    edges = [data.grid.first, *(ts for one in data.sessions for ts in one), data.grid.last]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [Band(start, end, "outside") for start, end in pairs if start < end]


def marks(data: ReportData) -> list[Mark]:
    """Opens and closes within the run, with the time of the market's own clocks."""
    found = []
    for start, end in data.sessions or []:
        for ts, what in ((start, "open"), (end, "close")):
            if data.grid.first < ts < data.grid.last:
                local = datetime.fromtimestamp(ts // 10**9, data.zone)
                found.append(Mark(ts, f"{what} {local:%H:%M %Z}"))
    return found


def steps(rows: pl.DataFrame, values: pl.Series, until: int) -> Series:
    """A column of decisions as steps: each value holds until the next row, a null is a gap."""
    ts: Ints = rows["ts"].to_numpy()
    y: Floats = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    # The last value before a gap holds until the gap begins.
    at = np.flatnonzero(np.isnan(y[1:]) & ~np.isnan(y[:-1])) + 1
    ts, y = np.insert(ts, at, ts[at]), np.insert(y, at, y[at - 1])
    if len(ts) and not np.isnan(y[-1]) and until > ts[-1]:
        ts, y = np.append(ts, until), np.append(y, y[-1])
    return Series(ts, y)


def units(column: pl.Series) -> pl.Series:
    """Amounts of 1e-9 as the nearest doubles; Polars itself multiplies by the inverse."""
    return pl.Series(column.cast(pl.Float64).to_numpy() / UNIT).fill_nan(None)


def _prices(data: ReportData) -> Panel:
    digits = _price_digits(data)
    lines = _signal_mids(data, digits)
    target = data.feeds.feeds.get("target")
    if target is not None:
        name = f"{data.names['target']} mid"
        lines.append(Line(name, target.mid, "step", "target", unit="", digits=digits + 1))
    missing = ""
    if data.decided is None:
        missing = "No decisions: nothing was quoted."
    else:
        rows = data.decided.shown
        gone = rows["action"] == "withdraw"
        centre = pl.select(
            pl.when(gone).then(None).otherwise((rows["bid"] + rows["ask"]) / 2.0)
        ).to_series()  # fmt: skip
        for name, values, colour in (
            ("our ask", units(rows["ask_px"]), "ask"),
            ("our bid", units(rows["bid_px"]), "bid"),
            ("our centre", centre, "centre"),
        ):
            lines.append(
                Line(
                    name, steps(rows, values, data.until), "step", colour,
                    dash=colour == "centre", digits=digits + (2 if colour == "centre" else 0),
                )
            )  # fmt: skip
    lines += _fills(data)
    return Panel(
        "prices",
        "Mids, quotes and fills",
        "Signal and target mids with the bid, ask and centre that we wanted in the market. Quotes "
        "are steps; where they were withdrawn there is a gap.",
        "quote currency",
        lines,
        labelled=True,
        missing=missing,
    )


def _price_digits(data: ReportData) -> int:
    target = data.manifest.instruments.get("target")
    return 3 if target is None else min(target.price_decimals, 9)


def _signal_mids(data: ReportData, digits: int) -> list[Line]:
    names = [name for name in data.feeds.feeds if name != "target"]
    return [
        Line(
            f"{data.names[name]} mid", data.feeds.feeds[name].mid, "step",
            _SIGNALS[min(i, 2)], digits=digits + 1,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip


def _fills(data: ReportData) -> list[Line]:
    if data.traded is None:
        return []
    lines = []
    for name in SIDE_NAMES.values():
        fills = data.traded.fills.filter(pl.col("side") == name)
        if fills.height:
            texts = [
                f"{name} {format_units(row['qty'])} at {format_units(row['px'])}, "
                f"{row['liquidity']}, order {row['n']}, fee {format_units(row['fee'])}"
                for row in fills.iter_rows(named=True)
            ]
            prices = Series(fills["ts"].to_numpy(), units(fills["px"]).to_numpy())
            colour = "buy" if name == "BUY" else "sell"
            lines.append(Line(f"{name} fill", prices, "marks", colour, texts=texts))
    return lines


def _shift(data: ReportData) -> Panel:
    lines, missing = [], ""
    for i, (name, series) in enumerate(data.residuals.items()):
        label = "residual" if len(data.residuals) == 1 else f"residual of {data.names[name]}"
        bps = Series(series.ts, series.y * 1e4)
        lines.append(Line(label, bps, "step", _SIGNALS[min(i, 2)], unit="bps"))
    if data.decided is not None:
        rows = data.decided.shown
        if len(data.residuals) != 1:
            values = rows["residual"] * 1e4
            label = "residual at our decisions" if not data.residuals else "weighted residual"
            lines.append(Line(label, steps(rows, values, data.until), "step", "signal", unit="bps"))
        shift = rows["shift"] / rows["anchor"] * 1e4
        series = steps(rows, shift, data.until)
        lines.append(Line("centre shift", series, "step", "shift", unit="bps"))
    else:
        missing = "No decisions: neither residual nor shift."
    if data.feeds.basis is not None:
        lines.append(Line("basis", data.feeds.basis, "step", "target", unit="bps"))
    else:
        missing += " No basis: it takes both feeds."
    return Panel(
        "shift",
        "Residual, basis and centre shift",
        "Residual: signal mid / baseline − 1. Basis: target mid / signal mid − 1. Shift of our "
        "centre: shift / anchor.",
        "bps",
        lines,
        missing=missing.strip(),
    )


def _inventory(data: ReportData) -> Panel:
    if data.decided is None or data.traded is None:
        return Panel(
            "inventory", "Position and skew", "", "base units", [],
            missing="No decisions: neither position nor skew.",
        )  # fmt: skip
    rows, until = data.decided.shown, data.until
    held = data.traded.position
    position = Series(np.append(held.ts, data.grid.last), np.append(held.y, held.y[-1]))
    lines = [Line("net position", position, "step", "position", unit="base", digits=6)]
    for name, values, colour in (
        ("signal shift", rows["signal_shift"], "signal"),
        ("inventory shift", -rows["inventory_shift"], "inventory"),
        ("total shift", rows["shift"], "shift"),
    ):
        series = steps(rows, values, until)
        lines.append(Line(name, series, "step", colour, axis=2, unit="price", digits=5))
    limits = []
    if data.settings is not None:
        most = data.settings.max_position
        limits = [Limit(sign * most / UNIT, "max_position") for sign in (1, -1)]
    return Panel(
        "inventory",
        "Position and skew",
        "Position by fills, left. Right, in price units: the shift that the signal asks for, the "
        "one of the inventory (with its sign), and their sum.",
        "base units",
        lines,
        unit2="price units",
        centred=True,
        limits=limits,
    )


def _clock(data: ReportData) -> Panel:
    lines = []
    for i, (name, feed) in enumerate(data.feeds.feeds.items()):
        if feed.age is not None:
            age = Series(feed.age.ts, np.maximum(feed.age.y, LEAST_AGE_SECS))
            lines.append(
                Line(f"age of {data.names[name]}", age, "line", _SIGNALS[min(i, 2)], unit="s")
            )
    limits = []
    if data.settings is not None and data.settings.strategy.preset != "tutorial":
        limit = data.settings.guards.max_signal_age_secs
        if limit is not None:
            limits.append(Limit(limit, "max_signal_age_secs"))
    bands = [Band(start, end, "inside", "in session") for start, end in data.sessions or []]
    bands += [Band(one.start, one.end, "outside", "outside") for one in outside(data)]
    market = (
        "The signal's market never closes (calendar 24/7)."
        if data.sessions is None
        else f"Calendar {data.calendar}, {data.zone}."
    )
    return Panel(
        "clock",
        "Session clock and signal age",
        f"{market} The longest time without a signal quote in each of {data.grid.buckets:,} equal "
        f"parts of the run.",
        "s",
        lines,
        log=True,
        bands=bands,
        limits=limits,
        labelled=True,
        missing="" if lines else "No signal quotes.",
    )


def _lanes(data: ReportData) -> Panel:
    caption = (
        "When our quotes were in the market, and why not. A tick marks where each stretch begins."
    )
    if data.decided is None:
        return Panel(
            "lanes", "In the market, and why not", caption, "", [],
            missing="No decisions: nothing was quoted and nothing withdrawn.",
        )  # fmt: skip
    lines = []
    names = [name for name in data.decided.lanes["lane"] if name in set(data.decided.spans["lane"])]
    names += ["other"] if (data.decided.spans["lane"] == "other").any() else []
    for lane, name in enumerate(names):
        spans = data.decided.spans.filter(pl.col("lane") == name)
        starts = Series(spans["start"].to_numpy(), np.full(spans.height, float(lane)))
        lines.append(
            Line(name, starts, "spans", _lane_colour(name), ends=spans["end"].to_numpy(), lane=lane)
        )
    if data.decided.spans_merged:
        caption += " There are so many stretches that close ones of one kind are drawn as one."
    return Panel("lanes", "In the market, and why not", caption, "", lines, lanes=names)


def _lane_colour(name: str) -> str:
    if name == "bid and ask":
        return "bid"
    if name.startswith(("bid only", "ask only", "held back")):
        return "partly"
    return "ask" if name.startswith("withdrawn") else "centre"


def _requests(data: ReportData) -> Panel:
    title = "Requests against the budget"
    if data.requests is None:
        return Panel(
            "requests", title, "", "requests", [],
            missing="This run has no trace of its orders (trace/orders.parquet), so requests "
            "cannot be counted.",
        )  # fmt: skip
    lines = [Line("last 60 s", data.requests.last_minute, "step", "target", digits=0)]
    limits = []
    allowed = None if data.limits is None else data.limits.transactions_per_minute
    if allowed is not None:
        limits.append(Limit(float(allowed), "allowed"))
    if data.requests.quota is not None:
        lines.append(
            Line("volume quota left", data.requests.quota, "step", "centre", axis=2, digits=0)
        )
    told = "no limit is set" if allowed is None else f"{allowed:,} allowed"
    return Panel(
        "requests",
        title,
        f"Requests to the venue in the 60 s before; {told}. {data.requests.total:,} in all, at "
        f"most {data.requests.busiest:,} in a minute. A batch is one.",
        "requests",
        lines,
        unit2="units of quota" if data.requests.quota is not None else "",
        limits=limits,
    )


def _latency(data: ReportData) -> Panel:
    lines = []
    for i, (name, feed) in enumerate(data.feeds.feeds.items()):
        if feed.latency is None:
            continue
        colour = "target" if name == "target" else _SIGNALS[min(i, 2)]
        for label, series, shade, dash in (
            ("max", feed.latency.most, "faint" if colour == "signal" else "faint2", True),
            ("p99", feed.latency.p99, colour, True),
            ("p50", feed.latency.p50, colour, False),
        ):
            ms = Series(series.ts, np.maximum(series.y / 1e6, LEAST_DELAY_MS))
            lines.append(
                Line(f"{data.names[name]} {label}", ms, "line", shade, dash=dash, unit="ms")
            )
    return Panel(
        "latency",
        "Latency of the feeds",
        f"ts − ts_event, from the venue's clock to ours: median, 99th percentile and longest of "
        f"each of {data.grid.buckets // STRETCH:,} equal parts of the run. An error of either "
        f"clock is in it.",
        "ms",
        lines,
        log=True,
        missing="" if lines else "The feeds do not say when the venue made their quotes.",
    )


def _answers(data: ReportData) -> Panel:
    title = "From our order to the venue's answer"
    if data.answers is None:
        return Panel(
            "answers", title, "", "ms", [], missing="No order was answered in this run."
        )  # fmt: skip
    delay = data.answers.delay
    series = Series(delay.ts, delay.y / 1e6)
    lines = [Line("ack or reject", series, "marks", "centre", unit="ms")]
    simulated = data.manifest.mode != "live"
    whose = " Of the simulated venue, by the settings." if simulated else ""
    return Panel(
        "answers", title, f"From sending an order to its first ack or reject.{whose}", "ms", lines
    )
