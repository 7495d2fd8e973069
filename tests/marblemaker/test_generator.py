"""The generator: the same session from the same parameters, and all that it says is in it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marblemaker.generator import generate, main
from marblemaker.session_parameters import Jump, Oddity, Session, read_session
from streams.recording import (
    Manifest,
    Recording,
    RecordingError,
    checked_quotes,
    read_manifest,
    sha256_of,
    write_manifest,
)

ROOT = Path(__file__).parents[2]
PARAMETERS = ROOT / "recordings" / "nvda-cash-session.toml"
SHIPPED = ROOT / "recordings" / "nvda-cash-session"
README = ROOT / "recordings" / "README.md"

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
FEEDS = ("signal", "target")
NOON = 1_781_697_600 * SECOND  # 2026-06-17T12:00:00Z


def small(**changes: Any) -> Session:
    """Half an hour with little in it."""
    session = Session(
        seed=7,
        target_start=NOON,
        signal_start=NOON,
        open=NOON + 60 * SECOND,
        close=NOON + 1740 * SECOND,
        target_end=NOON + 1800 * SECOND,
        signal_quotes=2000,
        target_quotes=1500,
    )
    return msgspec.structs.replace(session, **changes)


def quotes(folder: Path, feed: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{feed}.parquet")


def contents(folder: Path) -> dict[str, str]:
    # By their digests: a comparison of so many bytes would take for ever to print.
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def shipped() -> dict[str, pl.DataFrame]:
    return {feed: quotes(SHIPPED, feed) for feed in FEEDS}


# ---------------------------------------------------------------- the same again


def test_the_same_parameters_give_the_same_bytes_twice(tmp_path: Path) -> None:
    session = small(sweeps=3, jumps=(Jump(at=NOON + 600 * SECOND, bps=40.0),))

    generate(session, tmp_path / "one")
    generate(session, tmp_path / "two")

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert set(contents(tmp_path / "one")) == {"manifest.json", "signal.parquet", "target.parquet"}


def test_neither_the_hash_seed_nor_the_number_of_threads_changes_a_byte(tmp_path: Path) -> None:
    for hash_seed, threads in (("0", "1"), ("1", "2"), ("4242", "5")):
        subprocess.run(
            [sys.executable, "-m", "marblemaker.generator", PARAMETERS, "--out", hash_seed],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONHASHSEED": hash_seed,
                "POLARS_MAX_THREADS": threads,
            },
            check=True,
            capture_output=True,
        )

    first = contents(tmp_path / "0")
    assert first == contents(tmp_path / "1")
    assert first == contents(tmp_path / "4242")


def test_another_seed_gives_other_quotes(tmp_path: Path) -> None:
    generate(small(seed=7), tmp_path / "seven")
    generate(small(seed=8), tmp_path / "eight")

    for feed in FEEDS:
        assert not quotes(tmp_path / "seven", feed).equals(quotes(tmp_path / "eight", feed))


def test_the_shipped_recording_is_what_its_parameters_give(
    tmp_path: Path, shipped: dict[str, pl.DataFrame]
) -> None:
    generate(read_session(PARAMETERS), tmp_path)

    for feed in FEEDS:
        assert_frame_equal(quotes(tmp_path, feed), shipped[feed])
    fresh, old = read_manifest(tmp_path), read_manifest(SHIPPED)
    assert fresh.sources == old.sources
    assert fresh.instruments == old.instruments
    if fresh.versions == old.versions:  # Another PyArrow may write other bytes for the same quotes.
        assert contents(tmp_path) == contents(SHIPPED)


def test_the_shipped_recording_stays_below_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3_000_000


def test_the_size_of_batches_changes_no_quote(tmp_path: Path) -> None:
    session = small(
        sweeps=3, oddities=(Oddity(kind="no_bid", feed="both", at=NOON + 9 * SECOND, quotes=3),)
    )
    generate(session, tmp_path / "whole")
    generate(session, tmp_path / "sliced", batch_rows=100)

    for feed in FEEDS:
        assert_frame_equal(quotes(tmp_path / "whole", feed), quotes(tmp_path / "sliced", feed))


def test_what_is_planted_on_one_feed_leaves_all_other_quotes_as_they_were(tmp_path: Path) -> None:
    at = NOON + 700 * SECOND
    oddity = Oddity(kind="no_ask", feed="target", at=at, lasts_ms=2000, quotes=4)
    generate(small(), tmp_path / "without")
    generate(small(oddities=(oddity,)), tmp_path / "with")

    assert_frame_equal(quotes(tmp_path / "without", "signal"), quotes(tmp_path / "with", "signal"))
    outside = ~pl.col("ts").is_between(at, at + 2001 * MILLISECOND)
    assert_frame_equal(
        quotes(tmp_path / "without", "target").filter(outside),
        quotes(tmp_path / "with", "target").filter(outside),
    )


def test_more_quotes_of_one_feed_leave_the_other_as_it_was(tmp_path: Path) -> None:
    generate(small(), tmp_path / "few")
    generate(small(target_quotes=9000), tmp_path / "many")

    assert_frame_equal(quotes(tmp_path / "few", "signal"), quotes(tmp_path / "many", "signal"))
    assert quotes(tmp_path / "many", "target").height == 9000


# ---------------------------------------------------------------- sound quotes


@pytest.mark.parametrize("feed", FEEDS)
def test_the_quotes_pass_the_checks_of_a_recording(feed: str) -> None:
    manifest = read_manifest(SHIPPED)
    path = SHIPPED / f"{feed}.parquet"

    rows = sum(frame.height for frame in checked_quotes(path, manifest.instruments[feed]))

    assert rows == manifest.files[feed].rows
    assert "seq" not in pl.read_parquet_schema(path)


@pytest.mark.parametrize("feed", FEEDS)
def test_time_never_goes_back_and_the_venue_stamps_before_the_collector(
    feed: str, shipped: dict[str, pl.DataFrame]
) -> None:
    frame = shipped[feed]
    way = (frame["ts"] - frame["ts_event"]).drop_nulls()

    assert frame["ts"].is_sorted()
    assert way.min() >= 40_000  # type: ignore[operator]
    assert way.max() < 10 * MILLISECOND  # type: ignore[operator]
    assert 0 < frame["ts_event"].null_count() < frame.height // 1000


@pytest.mark.parametrize("feed", FEEDS)
def test_prices_are_whole_ticks_and_sizes_whole_lots(
    feed: str, shipped: dict[str, pl.DataFrame]
) -> None:
    instrument = read_manifest(SHIPPED).instruments[feed]
    lot = 100 * SECOND if feed == "signal" else instrument.lot_size  # The equity: round lots.
    smallest = max(lot, instrument.min_base_amount)

    for side in ("bid", "ask"):
        prices, sizes = (shipped[feed][f"{side}_{what}"].drop_nulls() for what in ("px", "sz"))
        assert (prices % instrument.tick_size == 0).all()
        assert (sizes % lot == 0).all()
        assert sizes.filter(sizes > 0).min() >= smallest  # type: ignore[operator]
    assert set(shipped[feed]["flags"]) == {128 if feed == "signal" else 0}


def test_spreads_are_cents_on_the_equity_and_a_few_bps_on_the_perpetual(
    shipped: dict[str, pl.DataFrame],
) -> None:
    cents = (shipped["signal"]["ask_px"] - shipped["signal"]["bid_px"]) / 1e7
    target = shipped["target"]
    bps = (target["ask_px"] - target["bid_px"]) / target["bid_px"] * 10_000

    assert set(cents.filter(cents > 0)) == {1.0, 2.0, 3.0, 4.0}
    assert 1.95 < bps.filter(bps > 0).min() < 2.1  # type: ignore[operator]
    assert 5.9 < bps.filter(bps > 0).max() < 6.05  # type: ignore[operator]


def test_the_feeds_cover_their_sessions_and_nothing_else(shipped: dict[str, pl.DataFrame]) -> None:
    session = read_session(PARAMETERS)

    for feed, start, end in (
        ("signal", session.signal_start, session.close),
        ("target", session.target_start, session.target_end),
    ):
        ts = shipped[feed]["ts"]
        assert start <= ts[0] < start + 30 * SECOND
        assert end - 30 * SECOND < ts[-1] < end
    before_open = shipped["signal"].filter(pl.col("ts") < session.open)
    assert 10 < before_open.height < 200


@pytest.mark.parametrize("feed", FEEDS)
def test_the_open_is_hectic_noon_is_quiet_and_the_close_is_busy(
    feed: str, shipped: dict[str, pl.DataFrame]
) -> None:
    session = read_session(PARAMETERS)
    ts = shipped[feed]["ts"]

    def per_minute(start: int, minutes: int) -> float:
        return int(ts.is_between(start, start + minutes * 60 * SECOND).sum()) / minutes

    morning = per_minute(session.open + 3600 * SECOND, 60)
    noon = per_minute(session.open + 10_800 * SECOND, 60)
    assert per_minute(session.open, 5) > 5 * morning
    assert per_minute(session.close - 120 * SECOND, 2) > 2 * morning
    assert noon < morning / 3
    quiet = ts.filter(ts.is_between(session.open + 9000 * SECOND, session.open + 12_600 * SECOND))
    assert quiet.diff().max() > 15 * SECOND  # type: ignore[operator]


def test_the_perpetual_stays_near_the_equity_and_comes_after_it(
    shipped: dict[str, pl.DataFrame],
) -> None:
    signal, target = (
        shipped[feed]
        .filter(pl.col("ask_px") > pl.col("bid_px"))
        .select("ts", ((pl.col("bid_px") + pl.col("ask_px")) / 2e9).alias(feed))
        for feed in FEEDS
    )

    both = target.join_asof(signal, on="ts").drop_nulls()
    premium_bps = (both["target"] / both["signal"] - 1) * 10_000
    assert premium_bps.abs().quantile(0.5) < 6.0  # type: ignore[operator]

    start = read_session(PARAMETERS).open
    lively = target.filter(pl.col("ts").is_between(start, start + 900 * SECOND))

    def likeness(lag_ms: int) -> float:
        """Correlate moves over about a second; only where the equity's quote was fresh then."""
        lag = lag_ms * MILLISECOND
        late = signal.select("signal", pl.col("ts") + lag, seen="ts")
        pairs = (
            lively.join_asof(late, on="ts")
            .filter(pl.col("ts") - pl.col("seen") < lag + 30 * MILLISECOND)
            .select(pl.col("ts", "target", "signal").diff())
            .filter(pl.col("ts").is_between(SECOND // 4, 3 * SECOND))
        )
        assert pairs.height > 200
        return float(pairs.select(pl.corr("target", "signal")).item())

    assert likeness(225) > 0.85
    assert likeness(225) > likeness(0) + 0.1
    assert likeness(225) > likeness(600) + 0.1


# ---------------------------------------------------------------- planted features


def features(feed: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = read_manifest(SHIPPED).sources[feed]["features"]
    return told


TIMED = [(feed, told) for feed in FEEDS for told in features(feed) if "first_ts" in told]
IRREGULAR = {
    "no_bid": pl.col("bid_px").is_null()
    & pl.col("bid_sz").is_null()
    & pl.col("ask_px").is_not_null()
    & pl.col("ask_sz").is_not_null(),
    "no_ask": pl.col("ask_px").is_null()
    & pl.col("ask_sz").is_null()
    & pl.col("bid_px").is_not_null()
    & pl.col("bid_sz").is_not_null(),
    "empty": pl.all_horizontal(pl.col("bid_px", "ask_px", "bid_sz", "ask_sz").is_null()),
    "zero_bid_size": (pl.col("bid_sz") == 0) & (pl.col("ask_sz") > 0),
    "zero_ask_size": (pl.col("ask_sz") == 0) & (pl.col("bid_sz") > 0),
    "crossed": pl.col("bid_px") > pl.col("ask_px"),
    "locked": pl.col("bid_px") == pl.col("ask_px"),
}
SOUND = (
    (pl.col("bid_px") < pl.col("ask_px")) & (pl.col("bid_sz") > 0) & (pl.col("ask_sz") > 0)
).fill_null(False)


def mids(frame: pl.DataFrame) -> pl.Series:
    return ((frame["bid_px"] + frame["ask_px"]) / 2e9).rename("mid")


def move_bps(before: pl.DataFrame, after: pl.DataFrame) -> float:
    """From the last quote before to the first after, in bps of the start price."""
    return float((mids(after)[0] - mids(before)[-1]) / 207.0 * 10_000)


@pytest.mark.parametrize(
    ("feed", "told"), TIMED, ids=[f"{feed} {told['name']} {told['utc']}" for feed, told in TIMED]
)
def test_each_feature_is_in_the_data_at_its_time(
    feed: str, told: dict[str, Any], shipped: dict[str, pl.DataFrame]
) -> None:
    frame, name = shipped[feed], told["name"]
    first, last = told["first_ts"], told["last_ts"]
    rows = frame.filter(pl.col("ts").is_between(first, last))
    before, after = frame.filter(pl.col("ts") < first), frame.filter(pl.col("ts") > last)

    assert rows.height == told["rows"]
    if name == "cash_session":
        assert rows.height > 0.9 * frame.height
    elif name == "gap":
        assert rows.height == 0
        assert last - first == 240 * SECOND
        assert after["ts"][0] - before["ts"][-1] < 300 * SECOND
        assert shipped["target"]["ts"].is_between(first, last).sum() > 50
    elif name in IRREGULAR:
        assert rows.filter(IRREGULAR[name]).height == rows.height >= 2
        assert (rows["ts"][0], rows["ts"][-1]) == (first, last)
        assert before[-1:].filter(SOUND).height == after[:1].filter(SOUND).height == 1
        assert after["ts"][0] <= last + MILLISECOND
    elif name in ("tie", "same_instant"):
        other = shipped["target" if feed == "signal" else "signal"]
        assert first == last
        assert rows.height >= (1 if name == "tie" else 2)
        assert (other["ts"] == first).any() == (name == "tie")
    elif name == "one_ns_apart":
        assert rows["ts"].to_list() == list(range(first, last + 1))
    elif name == "jump":
        step = told["bps"] * (0.8 if feed == "target" else 0.25)
        assert rows["ts"][0] == first
        assert move_bps(before, rows) == pytest.approx(step, abs=6.0)
        assert move_bps(before, rows[-1:]) == pytest.approx(told["bps"], abs=8.0)
    elif name == "sweep":
        assert rows["ts"][0] == first
        assert move_bps(before, rows) == pytest.approx(told["bps"], abs=4.0)
        assert move_bps(before, rows[-1:]) == pytest.approx(0.0, abs=6.0)
        steps = mids(pl.concat([before[-1:], rows])).diff().abs() > 207.0 * 4e-4 * 1.2
        assert told["back_in_steps"] == 5 or steps.sum() <= 2
    else:
        raise AssertionError(f"no test for the feature {name}")


@pytest.mark.parametrize("feed", FEEDS)
def test_no_quote_is_irregular_without_being_told_of(
    feed: str, shipped: dict[str, pl.DataFrame]
) -> None:
    told = [feature for feature in features(feed) if feature["name"] in IRREGULAR]
    told_of = pl.any_horizontal(
        pl.col("ts").is_between(feature["first_ts"], feature["last_ts"]) for feature in told
    )

    assert shipped[feed].filter(~SOUND).height == sum(feature["rows"] for feature in told)
    assert shipped[feed].filter(~SOUND & ~told_of).height == 0
    no_event = next(feature for feature in features(feed) if feature["name"] == "no_ts_event")
    assert shipped[feed]["ts_event"].null_count() == no_event["rows"]


def test_in_a_jump_the_signal_moves_first_and_the_target_not_before_its_time(
    shipped: dict[str, pl.DataFrame],
) -> None:
    of_signal, of_target = (
        [told for told in features(feed) if told["name"] == "jump"] for feed in FEEDS
    )
    assert len(of_signal) == len(of_target) == 6
    for leads, follows in zip(of_signal, of_target, strict=True):
        assert 0 < follows["first_ts"] - leads["last_ts"] < 2 * SECOND
        between = pl.col("ts").is_between(leads["first_ts"], follows["first_ts"] - 1)
        waiting = shipped["target"].filter(between)
        before = shipped["target"].filter(pl.col("ts") < leads["first_ts"])
        if waiting.height:
            assert abs(move_bps(before, waiting[-1:])) < 8.0


def test_the_only_ties_between_the_feeds_are_the_planted_ones(
    shipped: dict[str, pl.DataFrame],
) -> None:
    planted = {
        ts
        for told in features("target")
        if told["name"] in ("tie", "one_ns_apart")
        for ts in range(told["first_ts"], told["last_ts"] + 1)
    }

    assert set(shipped["signal"]["ts"]) & set(shipped["target"]["ts"]) == planted
    recording = Recording.open(SHIPPED)
    target = recording.manifest.instruments["target"]
    merged = sum(frame.height for _, frame in recording.inputs(target, recorded=False))
    assert merged == recording.rows
    assert recording.ties == len(planted) == 6


def test_the_readme_lists_what_the_manifest_tells_and_nothing_else() -> None:
    def time_of_day(told: dict[str, Any]) -> str:
        return str(told["utc"])[11:-1].rstrip("0").rstrip(".")

    told = {(time_of_day(f), f["name"]) for _, f in TIMED if f["name"] != "sweep"}
    listed = set()
    text = README.read_text(encoding="utf-8")
    for start, name, rest in re.findall(r"^\| (\d[\d:.]+) \| \w+ \| `(\w+)` \|(.*)$", text, re.M):
        listed.add((start, name))
        listed |= {(later, name) for later in re.findall(r"target at (\d\d:\d\d:[\d.]*\d)", rest)}
    for feed in FEEDS:
        assert f"{read_manifest(SHIPPED).files[feed].rows:,} quotes" in text
    sweeps = re.findall(r"(\d\d:\d\d:[\d.]*\d)\s\(([+-][\d.]+)", text)

    assert listed == told
    assert [(start, float(bps)) for start, bps in sweeps] == [
        (time_of_day(f), f["bps"]) for _, f in TIMED if f["name"] == "sweep"
    ]


def test_quotes_25_bps_from_the_mid_are_filled_on_both_sides(
    shipped: dict[str, pl.DataFrame],
) -> None:
    session = read_session(PARAMETERS)
    sound = shipped["target"].filter(SOUND & pl.col("ts").is_between(session.open, session.close))
    center = bought = sold = 0.0
    for bid, ask in sound.select("bid_px", "ask_px").iter_rows():
        bought += ask <= center * (1 - 25e-4)
        sold += 0.0 < center * (1 + 25e-4) <= bid
        if abs((bid + ask) / 2 - center) >= center * 5e-4:
            center = (bid + ask) / 2

    assert bought >= 8
    assert sold >= 8
    assert bought + sold <= 60


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed = 5", "sead = 5", "unknown field `sead`"),
        ("open = 2026-06-17T13:30:00Z", "open = 2026-06-17T13:30:00", "write 2026-06-17T13:30:00Z"),
        ("open = 2026-06-17T13:30:00Z", "open = 2026-06-17T20:30:00Z", "must not be before open"),
        ("lag_ms_min = 50", "lag_ms_min = 500", "lag_ms_max must be at least lag_ms_min"),
        ("signal_quotes = 90_000", "signal_quotes = -1", "signal_quotes must be from 0"),
        ("start_price = 207.0", "start_price = 0", "start_price must be a positive number"),
        ("volatility_bps = 100.0", "volatility_bps = nan", "volatility_bps must be"),
        ("bps = 75.0", "bps = 7500.0", "within ±2000"),
        ("lasts_ms = 240_000", "lasts_ms = -1", "lasts_ms must not be negative"),
        ("at = 2026-06-17T13:40:00Z", "at = 2026-06-17T13:21:00Z", "outside of its session"),
        ("seed = 5", "seed =", "is not TOML"),
    ],
)
def test_wrong_parameters_are_refused_with_the_reason_and_nothing_is_written(
    old: str, new: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PARAMETERS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "session.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")

    assert main([str(path), "--out", str(tmp_path / "out")]) == 2

    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_file_of_parameters_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.toml"), "--out", str(tmp_path / "out")]) == 2

    assert "none.toml cannot be read" in capsys.readouterr().err


def test_only_a_synthetic_recording_is_replaced(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(mode="live"))
    with pytest.raises(ValueError, match="mode 'live'; only a synthetic one is replaced"):
        generate(small(), tmp_path)
    assert read_manifest(tmp_path).mode == "live"

    write_manifest(tmp_path, Manifest(mode="synthetic"))
    generate(small(), tmp_path)
    assert read_manifest(tmp_path).files["signal"].rows == 2000


def test_a_failed_generation_leaves_no_recording_behind(tmp_path: Path) -> None:
    generate(small(), tmp_path)
    sinking = tuple(Jump(at=NOON + n * 60 * SECOND, bps=-2000.0) for n in range(2, 9))
    with pytest.raises(ValueError, match="below a tenth of start_price"):
        generate(small(jumps=sinking), tmp_path)

    with pytest.raises(RecordingError):
        read_manifest(tmp_path)


def test_a_session_without_quotes_is_an_empty_recording(tmp_path: Path) -> None:
    manifest = generate(small(signal_quotes=0, target_quotes=0), tmp_path)

    assert [manifest.files[feed].rows for feed in FEEDS] == [0, 0]
    assert quotes(tmp_path, "signal").columns == quotes(SHIPPED, "signal").columns
