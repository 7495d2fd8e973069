"""Prove and bisect: untouched runs agree, and whatever is touched is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import operators.skew
from marblemaker.bisect import bisect, difference_lines
from marblemaker.bundled import BUNDLED
from marblemaker.cli import main
from marblemaker.prove import Certificate, prove
from marblemaker.replay import replay, replay_together
from marblemaker.settings import load_settings
from streams.clock import Clock
from streams.recording import RecordingError, file_entry, read_manifest, write_manifest

# The first twelve minutes of the bundled session, with ties and a burst of one instant.
UNTIL = 1_781_703_720_000_000_500
AGE = "guards.max_signal_age_secs=0.8"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short") / "recording"
    shutil.copytree(BUNDLED, folder)
    for feed in ("signal", "target"):
        rewrite(folder / f"{feed}.parquet", lambda f: f.filter(pl.col("ts") < UNTIL))
    describe(folder)
    return folder


def describe(folder: Path) -> None:
    """Make the manifest say what the files are."""
    manifest = read_manifest(folder)
    for feed in ("signal", "target"):
        ts = pl.read_parquet(folder / f"{feed}.parquet")["ts"]
        span = (ts[0], ts[-1])
        manifest.files[feed] = file_entry(folder / f"{feed}.parquet", ts.len(), span)
    write_manifest(folder, manifest)


def run_of(source: Path, out: Path, *overrides: str, **options: Any) -> Path:
    settings = load_settings(manifest=read_manifest(source), overrides=[AGE, *overrides])
    replay(source, settings, out, **options)
    return out


@pytest.fixture(scope="module")
def untouched(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(recording, tmp_path_factory.mktemp("prove") / "run")


@pytest.fixture
def run(untouched: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(untouched, tmp_path / "run")
    return tmp_path / "run"


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    frame = pl.read_parquet(path)
    changed = change(frame)
    assert not changed.equals(frame), "the test changed nothing"
    changed.write_parquet(path)


def with_column(column: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(column)


# ---------------------------------------------------------------- untouched


def test_an_untouched_run_is_proven_operator_by_operator(untouched: Path) -> None:
    certificate = prove(untouched)
    assert certificate.verdict == "identical"
    assert certificate.obstacles == certificate.notes == []
    named = {operator.operator: operator.n for operator in certificate.operators}
    rows = read_manifest(untouched).files
    for feed in ("signal", "target"):
        assert named[f"input {feed}"] == named[f"{feed}.mid"] == rows[feed].rows > 9_000
    assert named["throttle"] == certificate.decisions
    assert {
        "signal.residual", "signal.age", "target.anchor", "session", "requote", "skew", "ladder",
        "order_sink", "input account", "combine_latest",
    } <= set(named)  # fmt: skip
    assert all(operator.same for operator in certificate.operators)


def test_digests_do_not_depend_on_the_size_of_batches(
    recording: Path, untouched: Path, tmp_path: Path
) -> None:
    other = run_of(recording, tmp_path / "other", batch_rows=1_777)
    assert bisect(untouched, other) is None
    for name in ("digests", "signal", "target", "state", "wanted", "orders"):
        ours, theirs = (
            pl.read_parquet(r / "trace" / f"{name}.parquet") for r in (untouched, other)
        )
        assert ours.equals(theirs), name


@pytest.mark.parametrize(
    "overrides",
    [
        ("strategy.preset=tutorial",),
        ("strategy.preset=fair_value", "guards.max_basis_bps=500"),
        (
            "strategy.preset=ladder",
            "strategy.max_inventory=1",
            "strategy.trade_size=0.05",
            "strategy.refresh_interval_ns=700000000",
        ),
        ("session.outside=widen", "session.widening=3"),
    ],
    ids=["tutorial", "fair_value", "ladder", "widen"],
)
def test_runs_of_other_strategies_are_proven_too(
    overrides: tuple[str, ...], recording: Path, tmp_path: Path
) -> None:
    certificate = prove(run_of(recording, tmp_path / "run", *overrides))
    assert certificate.verdict == "identical", certificate.obstacles
    named = {operator.operator for operator in certificate.operators}
    assert ("fair_value" in named) == ("strategy.preset=fair_value" in overrides)


def test_a_run_without_a_trace_is_proven_by_its_decisions_and_orders(run: Path) -> None:
    shutil.rmtree(run / "trace")
    certificate = prove(run)
    assert certificate.verdict == "identical"
    assert "kept no digests" in certificate.notes[0]
    with pytest.raises(RecordingError, match="has no digests"):
        bisect(run, run)


def test_markets_that_share_an_account_are_proven_together(recording: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(recording, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["instruments"]["target"]["symbol"] = "TSLA-PERP"
    manifest["settings"] = {"target": {"instrument": "TSLA-PERP.LIGHTER"}}
    (other / "manifest.json").write_text(json.dumps(manifest))
    settings = [
        load_settings(manifest=read_manifest(one), overrides=["venue.limits=tier"])
        for one in (recording, other)
    ]
    both = tmp_path / "both"
    replay_together([recording, other], settings, both)
    certificate = prove(both)
    assert certificate.verdict == "identical", certificate.obstacles
    assert list(certificate.markets) == ["NVDA-PERP.LIGHTER", "TSLA-PERP.LIGHTER"]
    assert certificate.decisions == sum(c.decisions for c in certificate.markets.values()) > 10
    told = obstacle_of(prove(both / "NVDA-PERP.LIGHTER"))
    assert "shared its account's budget with TSLA-PERP.LIGHTER" in told


# ---------------------------------------------------------------- what was touched is named


def test_an_operator_changed_by_one_unit_in_the_last_place_is_named(
    untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import math

    exact = operators.skew.total_shift
    monkeypatch.setattr(
        operators.skew, "total_shift", lambda a, b: math.nextafter(exact(a, b), math.inf)
    )
    certificate = prove(untouched)
    assert certificate.verdict == "diverged"
    difference = certificate.difference
    assert difference is not None
    assert difference.operator == "skew"
    assert difference.fields == ("shift",)
    first = (
        pl.read_parquet(untouched / "decisions.parquet").filter(action="quote").row(0, named=True)
    )
    assert (difference.seq, difference.ts) == (first["seq"], first["ts"])
    assert difference.a is not None
    assert difference.b is not None
    assert difference.a["shift"] == first["shift"]
    assert difference.b["shift"] == math.nextafter(first["shift"], math.inf)
    told = "\n".join(difference_lines(difference, ("the run", "its replay")))
    assert "+1 units in the last place" in told


@pytest.mark.parametrize(
    ("module", "name", "operator"),
    [
        ("operators.mid", "mid_price", "signal.mid"),
        ("operators.residual", "residual_of", "signal.residual"),
        ("operators.anchor", "anchor_price", "target.anchor"),
        ("operators.ladder", "half_spread", "ladder"),
    ],
)
def test_whichever_operator_is_changed_late_is_the_one_that_is_named(
    module: str, name: str, operator: str, untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    import math

    place = importlib.import_module(module)
    exact, calls = getattr(place, name), 0
    late = 20 if operator == "ladder" else 8_000

    def changed(*arguments: Any) -> float:
        nonlocal calls
        calls += 1
        value: float = exact(*arguments)
        return math.nextafter(value, math.inf) if calls > late else value

    monkeypatch.setattr(place, name, changed)
    if name == "mid_price":  # it is bound when the graph is built, before the calls
        operator = "mid"
    difference = prove(untouched).difference
    assert difference is not None
    assert operator in difference.operator
    assert difference.a is not None
    assert difference.b is not None
    assert len(difference.fields) == 1
    field = difference.fields[0]
    assert difference.b[field] == math.nextafter(difference.a[field], math.inf)
    assert difference.n > 1


def test_a_timer_that_is_dropped_is_missed_at_its_instant(
    untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_old = pl.read_parquet(untouched / "trace" / "signal.parquet").filter(by="signal")
    third = too_old["ts"][2]
    schedule = Clock.schedule_ns

    def dropping(self: Clock, due_ns: int, action: Any, state: Any = None) -> Any:
        timer = schedule(self, due_ns, action, state)
        if due_ns == third:
            timer.dispose()
        return timer

    monkeypatch.setattr(Clock, "schedule_ns", dropping)
    difference = prove(untouched).difference
    assert difference is not None
    assert (difference.operator, difference.ts) == ("signal.age", third)
    assert difference.a is not None
    assert difference.a["reason"] == too_old["reason"][2]
    assert difference.b is None


def test_two_inputs_of_one_instant_that_change_places_are_named(run: Path) -> None:
    frame = pl.read_parquet(run / "signal.parquet")
    i = int((frame["ts"] == frame["ts"].shift(-1)).arg_max() or 0)
    order = list(range(frame.height))
    order[i], order[i + 1] = i + 1, i
    values = [name for name in frame.columns if name != "seq"]
    rewrite(run / "signal.parquet", lambda f: f.with_columns([f[name][order] for name in values]))
    certificate = prove(run)
    assert certificate.verdict == "diverged"
    difference = certificate.difference
    assert difference is not None
    assert (difference.operator, difference.seq) == ("input signal", frame["seq"][i])
    assert difference.a == frame.row(i, named=True)
    assert difference.b == frame.row(i + 1, named=True) | {"seq": frame["seq"][i]}
    assert main(["prove", str(run)]) == 1


def test_two_feeds_that_change_places_at_one_instant_are_named(run: Path) -> None:
    signal, target = (pl.read_parquet(run / f"{f}.parquet") for f in ("signal", "target"))
    tie = signal.join(target, on="ts").row(0, named=True)
    ours, theirs = tie["seq"], tie["seq_right"]
    for feed, was, now in (("signal", ours, theirs), ("target", theirs, ours)):
        seq = pl.when(pl.col("seq") == was).then(pl.lit(now)).otherwise(pl.col("seq"))
        column = seq.cast(pl.UInt64).alias("seq")
        rewrite(run / f"{feed}.parquet", with_column(column))
    certificate = prove(run)
    assert certificate.verdict == "diverged"
    difference = certificate.difference
    assert difference is not None
    assert (difference.ts, difference.fields) == (tie["ts"], ("seq",))
    assert difference.operator in ("input signal", "input target")
    assert {difference.a["seq"], difference.b["seq"]} == {ours, theirs}  # type: ignore[index]


def test_an_input_that_was_altered_is_narrowed_down(run: Path) -> None:
    seq = pl.read_parquet(run / "target.parquet")["seq"][7_000]
    more = pl.when(pl.col("seq") == seq).then(pl.col("bid_sz") + 10**7).otherwise(pl.col("bid_sz"))
    rewrite(run / "target.parquet", lambda f: f.with_columns(more.alias("bid_sz")))
    certificate = prove(run)
    assert certificate.verdict == "diverged"
    assert certificate.difference is not None
    assert certificate.difference.operator == "input target"
    within = certificate.difference.within
    assert within is not None
    assert within[0] <= seq <= within[1] <= within[0] + 2_000


def test_tables_that_were_altered_are_told(run: Path) -> None:
    one_more = pl.col("bid_px") + 1
    rewrite(run / "decisions.parquet", lambda f: f.with_columns(one_more))
    certificate = prove(run)
    assert certificate.verdict == "diverged"
    assert "decisions.parquet is not the file that the run ended with" in certificate.notes[0]


# ---------------------------------------------------------------- not provable


def obstacle_of(certificate: Certificate) -> str:
    assert certificate.verdict == "not provable"
    return "\n".join(certificate.obstacles)


def test_a_gap_in_the_recording_is_not_provable(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seq = pl.read_parquet(run / "signal.parquet")["seq"][777]
    rewrite(run / "signal.parquet", lambda f: f.filter(pl.col("seq") != seq))
    told = obstacle_of(prove(run))
    rows = read_manifest(run).files["signal"].rows
    assert f"{rows - 1:,} rows, the run was delivered {rows:,}" in told
    assert f"the first that is missing is seq {seq}" in told
    assert main(["prove", str(run), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["verdict"] == "not provable"


def test_changed_settings_are_not_provable(run: Path, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("[strategy]\nhalf_spread_bps = 26\n")
    assert main(["prove", str(run), "--config", str(config)]) == 2
    told = obstacle_of(prove(run, overrides=["strategy.half_spread_bps=26"]))
    assert "strategy.half_spread_bps is 26.0 now, the run was made with 25.0" in told
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["settings"]["strategy"]["half_spread_bps"] = 26.0
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "they were changed since" in obstacle_of(prove(run))


def test_what_is_no_run_or_not_a_whole_one_is_not_provable(run: Path) -> None:
    assert "nothing was decided" in obstacle_of(prove(BUNDLED))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"ended": "running"}))
    assert "marble doctor" in obstacle_of(prove(run))
    (run / "manifest.json").write_text(json.dumps(manifest | {"ended": "salvaged: killed"}))
    assert "was killed" in obstacle_of(prove(run))
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "decisions.parquet").unlink()
    assert "decisions.parquet is missing" in obstacle_of(prove(run))


# ---------------------------------------------------------------- bisect


def test_bisect_names_the_first_decision_that_other_settings_change(
    recording: Path, untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run_of(recording, tmp_path / "other", "strategy.signal_skew_factor=55.5")
    assert main(["bisect", str(untouched), str(other)]) == 1
    told = capsys.readouterr().out
    assert "settings: strategy.signal_skew_factor is 55.0 and 55.5" in told
    assert "first difference: skew" in told
    assert main(["bisect", str(untouched), str(untouched)]) == 0


def test_bisect_of_two_recordings_names_the_first_input(
    recording: Path, untouched: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(recording, source)
    moved = pl.when(pl.int_range(pl.len()) == 7_000).then(pl.col("ask_px") + 10**7)
    rewrite(
        source / "signal.parquet",
        lambda f: f.with_columns(moved.otherwise(pl.col("ask_px")).alias("ask_px")),
    )
    describe(source)
    difference = bisect(untouched, run_of(source, tmp_path / "other"))
    assert difference is not None
    assert difference.operator == "input signal"
    assert difference.fields == ("ask_px",)
    assert difference.n == 7_001
