"""The report: each panel's numbers against the frames of the run, and a page that needs nothing."""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import re
import struct
import sys
from collections.abc import Callable, Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from msgspec.structs import astuple, replace

from marblemaker.bundled import BUNDLED
from marblemaker.console import Console
from marblemaker.formulas import formulas
from marblemaker.replay import replay as replay_run
from marblemaker.report import PicturesError, ReportData, gather, page, panels, write_report
from marblemaker.report.cards import card
from marblemaker.report.decided import MAX_ROWS, OLD_SECS, read_decisions, spans_of
from marblemaker.report.grid import STRETCH, Grid, Series, thin, windows
from marblemaker.report.page import _SLOT
from marblemaker.report.panels import Line, Panel, steps
from marblemaker.report.tables import head, tables
from marblemaker.report.trading import read_requests
from marblemaker.report_cli import add_report_commands
from marblemaker.settings import SettingsError, load_settings
from operators.budget import MINUTE_NS, Budget, BudgetLimits
from sinks.journal import DECISIONS_SCHEMA
from streams.events import OrderUpdate
from streams.instant import iso
from streams.recording import Manifest, RecordingError, read_manifest, write_manifest
from tests.sessions import SECOND, START, Row, frame, settings, write_recording

MB = 1_000_000


# ---------------------------------------------------------------- runs to report on


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "bundled"
    replay_run(BUNDLED, load_settings(manifest=read_manifest(BUNDLED)), out)
    return out


@pytest.fixture(scope="module")
def data(bundled: Path) -> ReportData:
    return gather(bundled)


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return page(data)


def walk(n: int, *, step_ns: int = SECOND, start: int = START, px: int = 207_000) -> list[Row]:
    """A feed of sound books that walks up and down by 1.5 in steps of 0.3."""
    rows: list[Row] = []
    for i in range(n):
        mid = px + 300 * min(i % 10, 10 - i % 10)
        rows.append(
            (start + i * step_ns, (mid - 20) * MB, (mid + 20) * MB, SECOND, SECOND)
        )  # fmt: skip
    return rows


def tiny(
    folder: Path,
    *,
    feeds: Mapping[str, list[Row]] | None = None,
    events: Mapping[str, list[Mapping[str, Any]]] | None = None,
    **sections: Mapping[str, Any],
) -> Path:
    """A replay of a tiny recording."""
    rows = feeds or {"signal": walk(60), "target": walk(60, start=START + 1)}
    recording = write_recording(
        folder / "recording", {name: frame(body) for name, body in rows.items()}, events
    )
    sections.setdefault("session", {"calendar": "24/7"})
    replay_run(recording, settings(**sections), folder / "run")
    return folder / "run"


def panel(data: ReportData, key: str) -> Panel:
    return next(one for one in panels(data) if one.key == key)


def line(data: ReportData, key: str, name: str) -> Line:
    return next(one for one in panel(data, key).lines if one.name == name)


def held_at(series: Series, ts: int) -> float:
    """What a line of steps shows at an instant."""
    row = int(np.searchsorted(series.ts, ts, side="right")) - 1
    return float("nan") if row < 0 else float(series.y[row])


def mids(run: Path, name: str) -> pl.DataFrame:
    return (
        pl.read_parquet(run / f"{name}.parquet")
        .filter((pl.col("bid_px") > 0) & (pl.col("ask_px") >= pl.col("bid_px")))
        .select("ts", mid=(pl.col("bid_px") + pl.col("ask_px")) / 2e9)
    )


def known(series: Series) -> dict[int, set[float]]:
    points: dict[int, set[float]] = {}
    for ts, y in zip(series.ts.tolist(), series.y.tolist(), strict=True):
        if y == y:
            points.setdefault(ts, set()).add(y)
    return points


# ---------------------------------------------------------------- what is left out


def extremes(rows: pl.DataFrame, value: str, grid: Grid) -> list[tuple[int, float, float]]:
    found = rows.group_by(grid.bucket()).agg(low=pl.col(value).min(), high=pl.col(value).max())
    return sorted(found.select("bucket", "low", "high").rows())


def test_thinning_keeps_the_least_and_greatest_of_every_bucket() -> None:
    source = np.random.default_rng(5)
    ts = np.sort(source.integers(0, 10**12, 30_000))
    rows = pl.DataFrame({"ts": ts, "y": source.normal(size=30_000)})
    rows = rows.with_columns(y=pl.when(pl.col("ts") % 7 == 0).then(None).otherwise(pl.col("y")))
    grid = Grid(0, 10**12, 500)

    kept = thin(rows, ["y"], grid)

    assert extremes(kept, "y", grid) == extremes(rows, "y", grid)
    assert kept.height <= grid.keep
    assert kept["ts"].is_sorted()
    assert kept.row(0) == rows.row(0)
    assert kept.row(-1) == rows.row(-1)


def test_a_spike_of_one_quote_in_a_long_session_is_still_drawn(
    bundled: Path, data: ReportData
) -> None:
    for name in ("signal", "target"):
        rows = mids(bundled, name)
        shown = data.feeds.feeds[name].mid
        assert len(shown) < rows.height
        real = known(Series(rows["ts"].to_numpy(), rows["mid"].to_numpy()))
        assert all(ys <= real[ts] for ts, ys in known(shown).items())
        kept = pl.DataFrame({"ts": shown.ts, "mid": shown.y}).filter(pl.col("mid").is_not_nan())
        assert extremes(kept, "mid", data.grid) == extremes(rows, "mid", data.grid)


def test_windows_give_every_row_once_and_never_cut_a_stretch(
    bundled: Path, data: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marblemaker.report.grid.WINDOW_ROWS", 9_000)
    files = {name: bundled / f"{name}.parquet" for name in ("signal", "target")}
    whole = list(windows(files, data.grid))
    assert len(whole) > 5
    for name, path in files.items():
        assert pl.concat([one[name] for one in whole]).equals(pl.read_parquet(path))
        stretches = [set(one[name].select(data.grid.stretch()).to_series()) for one in whole]
        assert sum(map(len, stretches)) == len(set().union(*stretches))


def test_what_is_read_does_not_depend_on_the_windows(
    bundled: Path, data: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marblemaker.report.grid.WINDOW_ROWS", 9_000)
    again = gather(bundled)
    for name, feed in data.feeds.feeds.items():
        other = again.feeds.feeds[name]
        assert other.quality == feed.quality
        assert np.array_equal(other.mid.y, feed.mid.y, equal_nan=True)
        assert feed.latency is not None
        assert other.latency is not None
        assert np.array_equal(other.latency.p99.y, feed.latency.p99.y, equal_nan=True)
        if feed.age is not None:
            assert other.age is not None
            assert np.array_equal(other.age.y, feed.age.y, equal_nan=True)
    assert again.feeds.basis is not None
    assert data.feeds.basis is not None
    # Polars may divide by a column of one value in another way than by one of several.
    np.testing.assert_allclose(again.feeds.basis.y, data.feeds.basis.y, rtol=1e-9)
    assert again.feeds.shared_instants == data.feeds.shared_instants


def decisions_of(n: int) -> pl.DataFrame:
    """Quotes every 50 ms, one in a thousand a withdrawal, one of them with a wild bid."""
    ts = START + np.arange(n) * 50_000_000
    quote = np.arange(n) % 1_000 != 999
    bid = np.where(quote, 206_000 + np.arange(n) % 40, 0) * MB
    bid[n // 2] = 1_000 * MB
    columns: dict[str, Any] = {
        name: pl.Series([None] * n, dtype=t) for name, t in DECISIONS_SCHEMA.items()
    }
    columns |= {
        "seq": np.arange(1, n + 1, dtype=np.uint64), "ts": ts,
        "action": ["quote" if one else "withdraw" for one in quote],
        "reason": ["" if one else "signal dead" for one in quote],
        "signal_ts": ts - 2 * SECOND, "bid_px": bid, "ask_px": bid + 1_000 * MB, "unmoved": [0] * n,
        "bid_levels": [1] * n, "ask_levels": [1] * n, "level_step": [0] * n,
    }  # fmt: skip
    whole = pl.DataFrame(columns).cast(dict(DECISIONS_SCHEMA))  # type: ignore[arg-type]
    gone = pl.col("action") == "withdraw"
    return whole.with_columns(
        pl.when(gone).then(None).otherwise(pl.col(c)).alias(c) for c in ("bid_px", "ask_px")
    )


def test_of_very_many_quotes_the_telling_ones_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    whole = decisions_of(60_000)
    whole.write_parquet(tmp_path / "decisions.parquet")
    last = whole["ts"][-1]

    decided = read_decisions(tmp_path / "decisions.parquet", Grid(START, last), last)

    assert decided.changes == 60_000
    assert decided.shown.height <= MAX_ROWS
    assert decided.shown["bid_px"].min() == 1_000 * MB
    assert decided.shown["bid_px"].max() == whole["bid_px"].max()
    assert (decided.shown["action"] == "withdraw").sum() == 60
    assert decided.shown["seq"].is_sorted()
    assert decided.old == {0.1: 59_940, 1.0: 59_940, 5.0: 0}
    assert decided.quotes == 59_940


def test_the_page_says_how_many_quotes_and_fills_are_shown_of_how_many(data: ReportData) -> None:
    assert data.decided is not None
    assert data.traded is not None
    assert "are shown" not in head(data)
    few = replace(
        data,
        decided=replace(data.decided, shown=data.decided.shown.head(100), changes=123_456),
        traded=replace(data.traded, fills=data.traded.fills.head(7)),
    )
    assert "Of 123,456 changes of our quotes 100 are shown" in head(few)
    assert "Of 39 fills 7 are shown" in head(few)


# ---------------------------------------------------------------- the four panels


def test_mids_of_a_short_run_are_all_there(tmp_path: Path) -> None:
    data = gather(tiny(tmp_path))
    for name, role in (("NVDA.EQUS mid", "signal"), ("NVDA-PERP.LIGHTER mid", "target")):
        drawn, rows = line(data, "prices", name).series, mids(data.run, role)
        assert drawn.ts.tolist() == rows["ts"].to_list()
        assert drawn.y.tolist() == rows["mid"].to_list()


def test_a_long_silence_is_a_gap_and_no_line(tmp_path: Path) -> None:
    rows = walk(20) + walk(20, start=START + 900 * SECOND)
    data = gather(tiny(tmp_path, feeds={"signal": rows, "target": rows}))
    drawn = line(data, "prices", "NVDA.EQUS mid").series
    assert np.isnan(held_at(drawn, START + 500 * SECOND))
    assert held_at(drawn, START + 901 * SECOND) == 207.3


def test_quotes_are_steps_with_gaps_where_they_were_withdrawn(
    bundled: Path, data: ReportData
) -> None:
    rows = pl.read_parquet(bundled / "decisions.parquet")
    bid, ask = line(data, "prices", "our bid").series, line(data, "prices", "our ask").series
    centre = line(data, "prices", "our centre").series
    gaps = 0
    following = [*rows["ts"].to_list()[1:], data.until]
    for row, until in zip(rows.iter_rows(named=True), following, strict=True):
        # Both at the decision and at the last instant before the next one.
        for ts in {row["ts"], max(row["ts"], until - 1)}:
            if ts == until:
                continue
            for series, value in ((bid, row["bid_px"]), (ask, row["ask_px"])):
                shown = held_at(series, ts)
                if value is None:
                    gaps += 1
                    assert np.isnan(shown)
                else:
                    assert shown == value / 1e9
            if row["action"] == "quote":
                assert held_at(centre, ts) == pytest.approx(row["anchor"] + row["shift"], abs=1e-9)
    assert gaps > 100


def test_steps_hold_a_value_until_the_gap_and_until_the_end() -> None:
    rows = pl.DataFrame({"ts": [10, 20, 30]})
    drawn = steps(rows, pl.Series([1.0, None, 3.0]), 40)
    assert drawn.ts.tolist() == [10, 20, 20, 30, 40]
    np.testing.assert_array_equal(drawn.y, [1.0, 1.0, np.nan, 3.0, 3.0])


def test_basis_is_of_each_target_quote_and_the_last_signal(bundled: Path, data: ReportData) -> None:
    signal, target = mids(bundled, "signal"), mids(bundled, "target")
    every = target.join_asof(signal.rename({"mid": "signal"}), on="ts").drop_nulls()
    every = every.select("ts", basis=(pl.col("mid") / pl.col("signal") - 1.0) * 1e4)
    drawn = line(data, "shift", "basis").series
    kept = pl.DataFrame({"ts": drawn.ts, "basis": drawn.y}).filter(pl.col("basis").is_not_nan())
    assert extremes(kept, "basis", data.grid) == extremes(every, "basis", data.grid)


def test_residual_and_shift_are_those_of_the_decisions_in_bps(
    bundled: Path, data: ReportData
) -> None:
    rows = pl.read_parquet(bundled / "decisions.parquet").filter(pl.col("action") == "quote")
    shift = line(data, "shift", "centre shift").series
    for row in rows.sample(50, seed=1).iter_rows(named=True):
        assert held_at(shift, row["ts"]) == row["shift"] / row["anchor"] * 1e4
        if not data.residuals:
            series = line(data, "shift", "residual at our decisions").series
            assert held_at(series, row["ts"]) == row["residual"] * 1e4


def test_residuals_come_from_the_trace_where_there_is_one(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    (run / "trace").mkdir(exist_ok=True)
    ts = [START, START + SECOND, START + 2 * SECOND]
    pl.DataFrame({"ts": ts, "residual": [0.0, None, -0.00125]}).write_parquet(
        run / "trace" / "signal.parquet"
    )
    drawn = line(gather(run), "shift", "residual").series
    assert drawn.ts.tolist() == [ts[0], ts[2]]
    assert drawn.y.tolist() == [0.0, -12.5]


def test_position_and_money_are_those_of_the_run(bundled: Path, data: ReportData) -> None:
    fills = pl.read_parquet(bundled / "fills.parquet")
    signed = fills["qty"] * fills["side"].replace_strict({"BUY": 1, "SELL": -1})
    drawn = line(data, "inventory", "net position").series
    assert drawn.y.tolist()[1:-1] == [held / 1e9 for held in signed.cum_sum()]
    assert drawn.ts.tolist() == [data.grid.first, *fills["ts"].to_list(), data.grid.last]
    assert data.traded is not None
    summary = json.loads((bundled / "summary.json").read_text())
    assert data.traded.money == {name: summary[name] for name in data.traded.money}
    assert data.traded.markouts == summary["markouts"]


def test_an_adopted_position_is_held_from_then_on_and_is_no_profit(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    account = pl.read_parquet(run / "account.parquet").clear()
    row = {"seq": 1, "ts": START, "kind": "position", "qty": SECOND // 2, "px": 207 * SECOND,
           "reason": "adopted"}  # fmt: skip
    taken = pl.concat([account, pl.DataFrame([row], schema=account.schema)])
    taken.write_parquet(run / "account.parquet")
    pl.read_parquet(run / "fills.parquet").clear().write_parquet(run / "fills.parquet")
    data = gather(run)
    assert data.traded is not None
    assert data.traded.money["position"] == "0.5"
    assert data.traded.money["realised"] == "0"
    assert held_at(line(data, "inventory", "net position").series, START + SECOND) == 0.5


def test_the_shifts_add_up_as_drawn(data: ReportData) -> None:
    signal, inventory, total = (
        line(data, "inventory", f"{name} shift").series for name in ("signal", "inventory", "total")
    )
    np.testing.assert_allclose(signal.y + inventory.y, total.y, atol=1e-12)
    assert np.nanmax(np.abs(inventory.y)) > 0


def test_the_age_of_the_signal_is_the_oldest_in_each_part_of_the_run(
    bundled: Path, data: ReportData
) -> None:
    ts = pl.read_parquet(bundled / "signal.parquet")["ts"].to_numpy()
    age = data.feeds.feeds["signal"].age
    assert age is not None
    ends = data.grid.ends()
    assert age.ts.tolist() == ends.tolist()
    for bucket in (*range(0, data.grid.buckets, 97), data.grid.buckets - 1):
        low = data.grid.first + bucket * data.grid.width
        inside = np.flatnonzero((ts >= low) & (ts <= ends[bucket]))
        oldest = [float(ts[i] - ts[i - 1]) for i in inside if i]
        before = ts[ts <= ends[bucket]]
        oldest += [float(ends[bucket] - before[-1])] if len(before) else []
        if oldest:
            assert age.y[bucket] == max(oldest) / 1e9
        else:
            assert np.isnan(age.y[bucket]) or age.y[bucket] == 0.0


def test_the_session_is_marked_with_the_exchanges_own_time(data: ReportData) -> None:
    clock = panel(data, "clock")
    inside = [band for band in clock.bands if band.colour == "inside"]
    assert [(iso(one.start)[11:19], iso(one.end)[11:19]) for one in inside] == [
        ("13:30:00", "20:00:00")
    ]
    closed = [band for band in clock.bands if band.colour == "outside"]
    assert [closed[0].start, closed[-1].end] == [data.grid.first, data.grid.last]
    assert [limit.y for limit in clock.limits] == [30.0]
    assert "open 09:30 EDT" in page(data)
    assert "close 16:00 EDT" in page(data)


# ---------------------------------------------------------------- the others


def test_spans_tell_what_stood_when_without_a_hole(bundled: Path, data: ReportData) -> None:
    spans = spans_of(pl.scan_parquet(bundled / "decisions.parquet"), data.until)
    assert spans["start"].to_list()[1:] == spans["end"].to_list()[:-1]
    assert spans["end"][-1] == data.until
    rows = pl.read_parquet(bundled / "decisions.parquet")
    for row, until in zip(
        rows.iter_rows(named=True), [*rows["ts"].to_list()[1:], data.until], strict=True
    ):
        if row["ts"] >= until:
            continue
        (lane,) = spans.filter(
            (pl.col("start") <= row["ts"]) & (pl.col("end") > row["ts"])
        )["lane"].to_list()  # fmt: skip
        wanted = "bid and ask" if row["action"] == "quote" else f"withdrawn: {row['reason']}"
        assert lane == wanted
    assert data.decided is not None
    standing = data.decided.lanes["seconds"].sum()
    assert standing == pytest.approx((data.until - rows["ts"][0]) / 1e9)


def test_one_sided_quotes_holds_and_refusals_have_lanes_of_their_own() -> None:
    def row(ts: int, action: str, **fields: Any) -> dict[str, Any]:
        return {"ts": ts, "action": action, "reason": "", **fields}

    rows = [
        row(0, "withdraw", reason="signal missing"),
        row(10, "quote", bid_px=1, ask_px=2),
        row(20, "hold", reason="budget", bid_px=3, ask_px=4),
        row(25, "refuse", reason="target no ask"),
        row(30, "retract", ask_px=2),
        row(40, "quote", bid_px=1, ask_note="position limit"),
        row(50, "quote", bid_px=2, ask_note="position limit"),
    ]
    schema = {
        name: DECISIONS_SCHEMA[name]
        for name in ("ts", "action", "reason", "bid_px", "ask_px", "bid_note", "ask_note")
    }
    assert spans_of(pl.LazyFrame(rows, schema=schema), 60).rows() == [
        ("withdrawn: signal missing", 0, 10),
        ("bid and ask", 10, 30),
        ("held back: budget", 20, 30),
        ("input refused: target no ask", 25, 25),
        ("ask only, bid: retracted", 30, 40),
        ("bid only, ask: position limit", 40, 60),
    ]


def test_quotes_on_old_signals_are_counted_one_by_one(bundled: Path, data: ReportData) -> None:
    rows = pl.read_parquet(bundled / "decisions.parquet").filter(pl.col("action") == "quote")
    ages = (rows["ts"] - rows["signal_ts"]).to_list()
    assert data.decided is not None
    assert data.decided.quotes == len(ages)
    for secs in OLD_SECS:
        assert data.decided.old[secs] == sum(age > secs * 1e9 for age in ages)
    assert f"{data.decided.old[1.0] / len(ages):.2%}" in tables(data)


def test_latency_is_exact_over_all_quotes_and_its_worst_is_drawn(
    bundled: Path, data: ReportData
) -> None:
    rows = pl.read_parquet(bundled / "target.parquet").drop_nulls("ts_event")
    late = (rows["ts"] - rows["ts_event"]).to_numpy()
    latency = data.feeds.feeds["target"].latency
    assert latency is not None
    assert latency.table["n"] == len(late)
    assert latency.table["max"] == late.max()
    assert latency.table["p50"] == pytest.approx(np.quantile(late, 0.5), rel=1e-3)
    assert latency.table["p99"] == pytest.approx(np.quantile(late, 0.99), rel=1e-3)
    assert np.nanmax(latency.most.y) == late.max()
    stretch = (rows["ts"].to_numpy() - data.grid.first) // (data.grid.width * STRETCH)
    third = late[stretch == 3]
    assert (
        latency.most.y[np.flatnonzero(latency.most.ts == rows["ts"].to_numpy()[stretch == 3][-1])]
        == third.max()
    )


@pytest.mark.parametrize("window_rows", [1, 400_000])
def test_faults_of_a_feed_are_counted_as_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_rows: int
) -> None:
    monkeypatch.setattr("marblemaker.report.grid.WINDOW_ROWS", window_rows)

    def book(at: int, event: int | None, bid: int | None, ask: int | None) -> tuple[Any, ...]:
        size = None if bid is None else SECOND
        return START + at * SECOND, event, bid, ask, size, SECOND

    px = 207 * SECOND
    rows = [
        book(0, START, px, px + MB),
        book(1, START, px, px + MB),  # repeats the one before
        book(2, START - 5, px, px + 2 * MB),  # goes back by 5 ns
        book(9, START + 9 * SECOND + 1, px, px + MB),  # after 7 s; 1 ns ahead of us
        book(10, START + 9 * SECOND + 1, px + 3 * MB, px),  # crossed
        book(11, None, px, px),  # locked, of an unknown time
        book(12, None, None, px),
        book(12, None, px, None),
        book(13, None, 0, px),
    ]
    columns = ("ts", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz")
    feed = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.Int64()), orient="row")
    other = frame(
        [(START + 1 * SECOND, px, px + MB, 1, 1), (START + 12 * SECOND, px, px + MB, 1, 1)]
    )
    data = gather(write_recording(tmp_path / "r", {"signal": feed, "target": other}))

    quality = data.feeds.feeds["signal"].quality
    assert quality["rows"] == 9
    assert quality["duplicates"] == 1
    assert quality["event time back"] == 1
    assert quality["event time back at most, ns"] == 5
    assert quality["event time ahead"] == 1
    assert quality["crossed"] == 1
    assert quality["locked"] == 1
    assert quality["no bid"] == 1
    assert quality["no ask"] == 1
    assert quality["zero price or size"] == 1
    assert [quality[f"silent over {secs} s"] for secs in (1, 5, 30)] == [1, 1, 0]
    assert quality["longest silence, ns"] == 7 * SECOND
    assert quality["longest silence from"] == START + 2 * SECOND
    assert data.feeds.shared_instants == 2
    assert len(data.feeds.feeds["signal"].mid) == 5


def updates() -> list[OrderUpdate]:
    """Batches of two orders each, and an ack, at some seconds of the run."""
    rows = []
    for i, at in enumerate((0, 1, 1, 30, 59, 60, 61, 200)):
        ts, n = START + at * SECOND, 2 * i
        rows += [
            OrderUpdate(ts=ts, n=n, side=1, state="pending_new", leaves=1, batch=i + 1),
            OrderUpdate(ts=ts, n=n + 1, side=-1, state="pending_new", leaves=1, batch=i + 1),
            OrderUpdate(ts=ts, n=n, side=1, state="open", leaves=1),
        ]
    return rows


def test_requests_are_counted_as_the_budget_counts_them(tmp_path: Path) -> None:
    rows = updates()
    columns = OrderUpdate.__struct_fields__
    pl.DataFrame([astuple(row) for row in rows], schema=list(columns), orient="row",
                 infer_schema_length=None).write_parquet(tmp_path / "orders.parquet")  # fmt: skip
    limits = BudgetLimits(transactions_per_minute=40, volume_quota=100)

    drawn = read_requests(tmp_path / "orders.parquet", limits, Grid(START, START + 300 * SECOND))

    budget = Budget(limits, START)
    listen = budget.listener()
    for row in rows:
        listen(row)
        after = [one for one in rows if one.ts == row.ts][-1]
        if row is after:
            assert held_at(drawn.last_minute, row.ts) == budget.in_last_minute(row.ts)
    assert (drawn.total, drawn.busiest) == (budget.sent, budget.busiest)
    assert held_at(drawn.last_minute, START + 200 * SECOND + MINUTE_NS) == 0.0
    assert held_at(drawn.last_minute, START + 150 * SECOND) == 0.0
    assert drawn.quota is not None
    assert drawn.quota.y[-1] == budget.quota_left == 84


def test_answers_are_timed_from_our_order(tmp_path: Path) -> None:
    run = tiny(tmp_path, venue={"latency": "25ms"})
    # A venue may say the same twice; the first time counts.
    account = pl.read_parquet(run / "account.parquet")
    again = account.with_columns(pl.col("ts") + 7 * SECOND, pl.col("seq") + account.height)
    pl.concat([account, again.cast(account.schema)]).write_parquet(run / "account.parquet")
    data = gather(run)
    assert data.answers is not None
    assert data.answers.table["n"] == pl.read_parquet(run / "orders.parquet").height
    assert data.answers.table["p50"] == 25_000_000
    assert "Of the simulated venue" in panel(data, "answers").caption


# ---------------------------------------------------------------- the page


class _Loads(HTMLParser):
    """What a page would load, and what its scripts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.append(tag)
        self.loads += [
            f"{tag} {name}" for name in ("src", "href", "data", "action") if name in told
        ]
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"] or ""


def parsed(html: str) -> _Loads:
    reader = _Loads()
    reader.feed(html)
    return reader


def document(html: str) -> Any:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])


def column(document: Any, at: int) -> list[float]:
    stored = document["columns"][at]
    raw = base64.b64decode(stored["b"])
    return list(np.frombuffer(raw, dtype=f"<{stored['t']}").tolist())


def test_the_page_loads_nothing_from_anywhere(html: str) -> None:
    found = parsed(html)
    assert found.loads == []
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    assert found.policy.startswith("default-src 'none';")
    assert "connect-src" not in found.policy
    # The library's own script names addresses, but the policy forbids it to go there.
    start = html.index("<script>\n/**")
    ours = html[:start] + html[html.index("</script>", start) :]
    assert "http://" not in ours
    assert "https://" not in ours
    assert "@import" not in ours
    assert "url(" not in ours
    assert "Plotly" in html[start : start + 5_000_000]


def test_every_place_of_the_template_was_filled(html: str) -> None:
    assert not _SLOT.search(html[: html.index("<script>\n/**")])
    for key in ("prices", "shift", "inventory", "clock", "lanes", "latency", "answers"):
        assert f'id="chart-{key}"' in html


def test_the_page_stays_small(html: str) -> None:
    assert len(html.encode()) < 6_500_000


def test_nanoseconds_reach_the_page_unrounded(bundled: Path, html: str) -> None:
    told = document(html)
    rows = pl.read_parquet(bundled / "decisions.parquet")
    at = column(told, told["decisions"]["x"])
    assert [int(told["base"]) + int(ns) for ns in at] == rows["ts"].to_list()
    assert any(ts % 1_000 for ts in rows["ts"].to_list())


def test_the_numbers_of_the_panels_are_those_of_the_page(data: ReportData, html: str) -> None:
    told = document(html)
    drawn = {one.key: one for one in panels(data)}
    for one in told["panels"]:
        assert len(one["lines"]) == len(drawn[one["key"]].lines)
        for sent, wanted in zip(one["lines"], drawn[one["key"]].lines, strict=True):
            ts = [int(told["base"]) + int(ns) for ns in column(told, sent["x"])]
            assert ts == wanted.series.ts.tolist()
            y = np.array(column(told, sent["y"]))
            exact = one["key"] == "prices"
            np.testing.assert_allclose(y, wanted.series.y, rtol=0 if exact else 1e-6, atol=1e-9)


def cards_of(html: str) -> list[list[str]]:
    packed = base64.b64decode(document(html)["decisions"]["cards"])
    told: list[list[str]] = json.loads(gzip.decompress(packed))
    return told


def test_pointing_at_a_quote_tells_its_formulas(data: ReportData, bundled: Path, html: str) -> None:
    rows = pl.read_parquet(bundled / "decisions.parquet").to_dicts()
    told = cards_of(html)
    assert len(told) == len(rows)
    assert data.settings is not None
    for row, lines in zip(rows, told, strict=True):
        assert lines[0] == f"{row['action']} · seq {row['seq']} · {iso(row['ts'])}"
        for one in formulas(row, data.settings):
            assert f"{one.name}: {one.text}" in lines
    quote = next(lines for row, lines in zip(rows, told, strict=True) if row["action"] == "quote")
    assert any(text.startswith("shift: 55.0 × ") for text in quote)


def test_pointing_at_a_gap_tells_the_guard_and_what_it_judged(tmp_path: Path) -> None:
    rows = walk(30) + walk(30, start=START + 90 * SECOND)
    target = walk(160, start=START + 1)
    run = tiny(tmp_path, feeds={"signal": rows, "target": target})
    told = cards_of(page(gather(run)))
    dead, *_ = [lines for lines in told if "because: signal dead" in lines[1]]
    assert dead[1] == "because: signal dead (30, limit 30)"
    crossed = {name: None for name in DECISIONS_SCHEMA} | {
        "action": "withdraw", "seq": 7, "ts": START, "reason": "target crossed", "unmoved": 0,
        "refused_bid_px": 3 * SECOND, "refused_bid_sz": SECOND // 2, "refused_ask_px": 2 * SECOND,
    }  # fmt: skip
    assert "refused book: bid 3 × 0.5, ask 2" in card(crossed, None)


@pytest.mark.parametrize("mode", ["live", "paper", "dry", "replay"])
def test_banner_and_title_say_what_kind_of_run_it_was(data: ReportData, mode: str) -> None:
    manifest = msgspec.structs.replace(data.manifest, mode=mode)
    html = page(replace(data, manifest=manifest))
    assert f"<title>{mode.upper()} NVDA.EQUS → NVDA-PERP.LIGHTER" in html
    assert f'<div class="banner {mode}"><strong>{mode.upper()}</strong>' in html
    others = {"LIVE", "PAPER", "DRY", "REPLAY"} - {mode.upper()}
    assert not any(f"<strong>{other}</strong>" in html for other in others)
    assert ("fill model" in html[: html.index('id="charts"')]) == (mode != "live")


def test_texts_from_outside_are_escaped(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    kill = {"ts": START + 20 * SECOND, "source": "operator", "kind": "kill", "text": nasty}
    name = "<b>N&V'\"</b>"
    run = tiny(
        tmp_path,
        events={"status": [kill]},
        signal={"instrument": f"{name}.EQUS"},
    )
    summary = json.loads((run / "summary.json").read_text())
    summary["anomalies"] = {nasty: 1}
    (run / "summary.json").write_text(json.dumps(summary))

    html = page(gather(run))

    found = parsed(html)
    assert found.loads == []
    assert "img" not in found.tags
    assert found.tags.count("script") == 3
    assert nasty not in html
    assert name not in html
    assert f"<h1>{escape(name)}.EQUS → NVDA-PERP.LIGHTER</h1>" in html
    raw = re.search(r'type="application/json">(.*?)</script>', html, re.DOTALL)
    assert raw is not None
    assert not set("<>&") & set(raw[1])
    assert f"withdrawn: kill switch {nasty}" in [
        lane for one in document(html)["panels"] for lane in one["lanes"]
    ]


def test_three_claims_are_kept_apart_and_the_digest_is_told(data: ReportData, html: str) -> None:
    assert "can be proved" in html
    assert "which is bounded and no promise" in html
    assert "Profit: none is claimed" in html
    assert data.summary["digest"] in html
    assert "P&amp;L of fill model “touch”" in html


def test_settings_other_than_the_default_are_listed_and_no_others(tmp_path: Path) -> None:
    run = tiny(tmp_path, strategy={"half_spread_bps": 12.5, "preset": "fair_value"})
    data = gather(run)
    assert data.changed == [
        ("strategy.half_spread_bps", 12.5, 25.0),
        ("session.calendar", "24/7", "auto"),
    ]
    assert "strategy.half_spread_bps" in tables(data)


# ---------------------------------------------------------------- all kinds of runs


def test_a_recording_without_decisions_shows_its_feeds_and_says_what_is_not_there() -> None:
    data = gather(BUNDLED)
    html = page(data)
    assert "<strong>SYNTHETIC</strong>" in html
    assert "nothing was decided" in html
    for key in ("prices", "clock", "latency"):
        assert f'id="chart-{key}"' in html
    assert "decisions" not in document(html)
    assert panel(data, "lanes").missing.startswith("No decisions")
    assert panel(data, "inventory").missing


def test_a_record_only_folder_with_empty_tables_is_reported(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    manifest = read_manifest(run)
    for name in ("decisions", "orders", "fills", "account"):
        pl.read_parquet(run / f"{name}.parquet").clear().write_parquet(run / f"{name}.parquet")
        manifest.files[name].rows = 0
        manifest.files[name].first_ts = manifest.files[name].last_ts = None
    manifest.mode = "record"
    write_manifest(run, manifest)
    (run / "summary.json").unlink()
    html = page(gather(run))
    assert "<strong>RECORD</strong>" in html
    assert "No decisions" in html


def test_a_run_without_a_fill_says_so(tmp_path: Path) -> None:
    run = tiny(tmp_path, strategy={"half_spread_bps": 900.0})
    data = gather(run)
    assert data.traded is not None
    assert data.traded.total == 0
    html = page(data)
    assert "No fills in this run." in html
    assert "No maker fills in this run." in html


def test_a_run_of_an_earlier_version_is_reported_as_it_is(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    later = ["target_bid_px", "target_ask_px", "bid_levels", "ask_levels", "level_step",
             "refused_value", "refused_limit", "threshold_bps"]  # fmt: skip
    rows = pl.read_parquet(run / "decisions.parquet").drop(later)
    rows.write_parquet(run / "decisions.parquet")
    account = pl.read_parquet(run / "account.parquet").drop("quota_left")
    account.write_parquet(run / "account.parquet")
    for file in (run / "trace").glob("*"):
        file.unlink()
    data = gather(run)
    assert data.residuals == {}
    assert data.requests is None
    told = cards_of(page(data))
    assert any(text.startswith("shift: 55.0 × ") for lines in told for text in lines)


@pytest.mark.parametrize("preset", ["tutorial", "ladder"])
def test_every_preset_is_reported(tmp_path: Path, preset: str) -> None:
    strategy: dict[str, Any] = {"preset": preset}
    if preset == "ladder":
        strategy |= {"order_size": "0.05", "max_inventory": "0.2"}
    data = gather(tiny(tmp_path, strategy=strategy))
    told = cards_of(page(data))
    assert any("quote" in lines[0] and len(lines) > 5 for lines in told)
    if preset == "ladder":
        assert any("(3 levels)" in text for lines in told for text in lines)


def test_several_signals_have_a_line_each(tmp_path: Path) -> None:
    feeds = {
        "signal": walk(60), "signal_2": walk(60, start=START + 5, px=300_000),
        "target": walk(60, start=START + 9),
    }  # fmt: skip
    signal = {"instrument": "NVDA.EQUS", "others": ["QQQ.EQUS"]}
    data = gather(tiny(tmp_path, feeds=feeds, signal=signal))
    assert line(data, "prices", "QQQ.EQUS mid").series.y[0] == 300.0
    assert line(data, "clock", "age of QQQ.EQUS").series.y[-1] > 0
    assert "QQQ.EQUS" in page(data)


def test_several_days_have_several_sessions(tmp_path: Path) -> None:
    day = 86_400 * SECOND
    rows = [row for n in (0, 1, 2) for row in walk(30, start=START + n * day)]
    data = gather(tiny(tmp_path, feeds={"signal": rows, "target": rows}, session={}))
    inside = [band for band in panel(data, "clock").bands if band.colour == "inside"]
    # The third day is a holiday, Juneteenth.
    assert [iso(band.start)[:10] for band in inside] == ["2026-06-17", "2026-06-18"]
    assert np.isnan(held_at(line(data, "prices", "NVDA.EQUS mid").series, START + day // 2))


# ---------------------------------------------------------------- the command


def report(*words: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()

    def command(
        commands: Any, name: str, run: Callable[..., int], text: str
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text)
        made.add_argument("--json", action="store_true")
        made.set_defaults(command=run)
        return made

    add_report_commands(commands, command)
    arguments = parser.parse_args(["report", *words])
    code: int = arguments.command(arguments, Console(as_json=arguments.json))
    return code


def test_the_command_writes_one_file_and_tells_it_in_json(
    bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "r.html"
    assert report(str(bundled), "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(out)
    assert told["mode"] == "replay"
    assert told["bytes"] == out.stat().st_size
    assert told["changes"] == {"shown": 574, "of": 574}
    assert [path.name for path in out.parent.iterdir()] == ["r.html"]


def test_a_report_that_is_there_is_replaced_only_if_asked_to(bundled: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    out.write_text("mine")
    with pytest.raises(RecordingError, match="exists already; replace it with --overwrite"):
        write_report(bundled, out)
    assert out.read_text() == "mine"
    write_report(bundled, out, overwrite=True)
    assert out.stat().st_size > 10**6


def test_a_failure_leaves_nothing_half_written(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("marblemaker.report.write.os.replace", full)
    with pytest.raises(RecordingError, match="No space left on device; make room"):
        write_report(bundled, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="is not a folder"):
        gather(tmp_path / "nowhere")
    with pytest.raises(RecordingError, match=r"has no manifest\.json"):
        gather(tmp_path)
    (tmp_path / "session.json").write_text("{}")
    with pytest.raises(RecordingError, match=r"still going on, or was killed.*marble doctor"):
        gather(tmp_path)


def test_a_run_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    (run / "decisions.parquet").unlink()
    with pytest.raises(
        RecordingError, match=r"decisions\.parquet is missing although the manifest"
    ):
        gather(run)


def test_of_several_markets_one_must_be_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(mode="replay", markets=["A-PERP.LIGHTER", "B-PERP.LIGHTER"]))
    with pytest.raises(SettingsError, match=r"several markets; report on one of them: .*A-PERP"):
        gather(tmp_path)


def test_an_unsound_end_is_told_at_the_top(data: ReportData) -> None:
    manifest = msgspec.structs.replace(data.manifest, ended="failed: the disk was full")
    told = head(replace(data, manifest=manifest, summary={"left_working": [3, 4]}))
    assert "The run did not end as it should: failed: the disk was full" in told
    assert "Orders not confirmed as gone at the end: 3, 4" in told


# ---------------------------------------------------------------- pictures


def test_four_pictures_are_drawn(bundled: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    told = write_report(bundled, tmp_path / "r.html", png=tmp_path / "png")
    names = ["1-prices.png", "2-shift.png", "3-inventory.png", "4-clock.png"]
    assert [Path(path).name for path in told["pictures"]] == names
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == names
    for name in names:
        raw = (tmp_path / "png" / name).read_bytes()
        assert raw.startswith(b"\x89PNG\r\n")
        assert struct.unpack(">II", raw[16:24]) == (1800, 750)
        assert len(raw) > 20_000
    with pytest.raises(RecordingError, match=r"1-prices\.png exists already"):
        write_report(bundled, tmp_path / "r2.html", png=tmp_path / "png")
    assert not (tmp_path / "r2.html").exists()


def test_without_matplotlib_the_extra_is_named(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(PicturesError, match=r"pip install 'marblemaker\[png\]'"):
        write_report(bundled, tmp_path / "r.html", png=tmp_path / "png")
    out = tmp_path / "other.html"
    assert report(str(bundled), "--out", str(out), "--png", str(tmp_path / "png")) == 2
    assert "marblemaker[png]" in capsys.readouterr().err
    assert not out.exists()
