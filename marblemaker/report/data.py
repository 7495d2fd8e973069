"""Data: everything that a report shows, read from the run folder."""

from __future__ import annotations

import json
from datetime import tzinfo
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from msgspec import Struct

from marblemaker.calendar import ALWAYS_OPEN, sessions_ns
from marblemaker.report.decided import Decided, read_decisions
from marblemaker.report.feeds import Feeds, read_feeds
from marblemaker.report.grid import Grid, Series, broken, thin
from marblemaker.report.trading import (
    Answers,
    Requests,
    Traded,
    read_answers,
    read_requests,
    read_traded,
)
from marblemaker.settings import Settings, SettingsError, as_used, load_settings
from marblemaker.when import zone_of
from marblemaker.wiring import budget_of, calendar_of
from operators.budget import BudgetLimits
from streams.recording import SIGNALS, Manifest, RecordingError, read_manifest, scan_frames

__all__ = ["ReportData", "gather"]

_BREAK_BUCKETS: Final = 5
_SMALLEST_BREAK_NS: Final = 30 * 10**9


class ReportData(Struct):
    """What a report shows. What a run lacks is ``None``, and the report says so."""

    run: Path
    manifest: Manifest
    summary: dict[str, Any]
    """``summary.json``; empty when there is none."""
    settings: Settings | None
    """``None`` for a recording that names no instruments."""
    changed: list[tuple[str, Any, Any]]
    """Settings other than the default: key, value, default."""
    grid: Grid
    names: dict[str, str]
    """Instrument of each role: ``signal``, ``signal_2`` …, ``target``."""
    sessions: list[tuple[int, int]] | None
    """Open and close of the signal's market, ns, cut to the run; ``None`` if never closed."""
    calendar: str
    zone: tzinfo
    feeds: Feeds
    until: int
    """When quoting was over, ns."""
    decided: Decided | None = None
    residuals: dict[str, Series] = {}
    """By signal, a fraction, thinned; from the trace."""
    traded: Traded | None = None
    limits: BudgetLimits | None = None
    requests: Requests | None = None
    answers: Answers | None = None


def gather(run: Path) -> ReportData:
    """Read a run folder (or a recording) into what its report shows.

    Errors: RecordingError if it is not one or a file is missing; SettingsError for a folder of
        several markets, naming them.
    """
    manifest = _manifest(run)
    summary_file = run / "summary.json"
    summary = json.loads(summary_file.read_text()) if summary_file.is_file() else {}
    if manifest.first_ts is None or manifest.last_ts is None:
        raise RecordingError(f"{run} holds no rows at all; there is nothing to report")
    settings = load_settings(manifest=manifest) if "target" in manifest.instruments else None
    quotes = [name for name in (*SIGNALS, "target") if manifest.files.get(name) is not None]
    files = {name: run / f"{name}.parquet" for name in quotes if manifest.files[name].rows}
    for name in manifest.files:
        path = run / f"{name}.parquet"
        if not path.is_file():
            raise RecordingError(
                f"{path} is missing although the manifest lists it; put it back, or make the run "
                f"again"
            )
        scan_frames(path)
    grid = Grid(manifest.first_ts, manifest.last_ts)
    calendar = ALWAYS_OPEN if settings is None else calendar_of(settings)
    data = ReportData(
        run=run,
        manifest=manifest,
        summary=summary,
        settings=settings,
        changed=[] if settings is None else _changed(settings, manifest),
        grid=grid,
        names=_names(manifest),
        sessions=_sessions(calendar, grid),
        calendar=calendar,
        zone=zone_of(calendar),
        feeds=read_feeds(files, {name: manifest.files[name].rows for name in files}, grid),
        until=_until(run, manifest, grid),
    )
    if "decisions" in manifest.files and manifest.files["decisions"].rows:
        data.decided = read_decisions(run / "decisions.parquet", grid, data.until)
    if data.decided is not None and "fills" in manifest.files:
        data.traded = read_traded(run, grid.first, data.feeds.mark)
        data.answers = read_answers(run, grid)
    if settings is not None:
        data.limits = None if settings.strategy.preset == "tutorial" else budget_of(settings)
    _read_trace(data)
    return data


def _manifest(run: Path) -> Manifest:
    if not (run / "manifest.json").is_file() and (run / "session.json").is_file():
        raise RecordingError(
            f"{run} is a run that is still going on, or was killed; wait for its end, or make it "
            f"whole with `marble doctor {run}`"
        )
    manifest = read_manifest(run)
    if manifest.markets:
        folders = ", ".join(str(run / market) for market in manifest.markets)
        raise SettingsError(f"{run} holds several markets; report on one of them: {folders}")
    return manifest


def _names(manifest: Manifest) -> dict[str, str]:
    roles = [name for name in (*SIGNALS, "target") if name in manifest.files]
    known = manifest.instruments
    return {role: known[role].id if role in known else role for role in roles}


def _changed(settings: Settings, manifest: Manifest) -> list[tuple[str, Any, Any]]:
    """What differs from the defaults of the same preset on the same instruments."""
    bare = Manifest(instruments=manifest.instruments)
    config = {"strategy": {"preset": settings.strategy.preset}}
    default, used = as_used(load_settings(config=config, manifest=bare)), as_used(settings)
    return [
        (f"{section}.{key}", value, default[section][key])
        for section, body in used.items()
        for key, value in body.items()
        if value != default[section][key] and f"{section}.{key}" not in _INSTRUMENTS
    ]


_INSTRUMENTS: Final = (
    "signal.instrument", "signal.others", "target.instrument", "target.price_decimals",
    "target.size_decimals", "target.min_base_amount", "target.min_quote_amount",
)  # fmt: skip
"""What says which markets these are, and is told in other places."""


def _sessions(calendar: str, grid: Grid) -> list[tuple[int, int]] | None:
    if calendar == ALWAYS_OPEN:
        return None
    found = sessions_ns(calendar, grid.first, grid.last)
    return [(max(open_, grid.first), min(close, grid.last)) for open_, close in found]


def _until(run: Path, manifest: Manifest, grid: Grid) -> int:
    if "account" not in manifest.files:
        return grid.last
    stops = pl.scan_parquet(run / "account.parquet").filter(pl.col("kind") == "stop")
    last = stops.select(pl.col("ts").max()).collect().item()
    return grid.last if last is None else max(grid.first, last)


def _read_trace(data: ReportData) -> None:
    trace = data.run / "trace"
    for name in SIGNALS:
        path = trace / f"{name}.parquet"
        if path.is_file() and name in data.names:
            data.residuals[name] = _residual(path, data.grid)
    orders = trace / "orders.parquet"
    if orders.is_file():
        data.requests = read_requests(orders, data.limits, data.grid)


def _residual(path: Path, grid: Grid) -> Series:
    values = pl.scan_parquet(path).select("ts", "residual").filter(
        pl.col("residual").is_not_null()
    )  # fmt: skip
    rows = values.select(pl.len()).collect(engine="streaming").item()
    kept: list[pl.DataFrame] = []
    if rows <= grid.keep:
        kept.append(values.collect())
    else:
        # A batch may cut a bucket, which then keeps a few points more.
        for batch in values.collect_batches(chunk_size=262_144, maintain_order=True):
            kept.append(thin(batch, ["residual"], grid))
    whole = pl.concat(kept)
    longest = max(_SMALLEST_BREAK_NS, _BREAK_BUCKETS * grid.width)
    ts: Any = whole["ts"].to_numpy()
    return broken(Series(ts, np.asarray(whole["residual"].to_numpy())), longest)
