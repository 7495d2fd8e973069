"""A session in Python: its frames, its replay, and how it says what it has not."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marblemaker.replay import replay_together
from marblemaker.session import Session
from marblemaker.settings import SettingsError, load_settings
from streams.recording import RecordingError
from tests.sessions import random_feeds, write_recording


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("session") / "tiny", random_feeds(4, 60))


@pytest.fixture(scope="module")
def run(recording: Path) -> Session:
    return Session.open(recording).replay(recording.parent / "run")


def test_frames_are_lazy_and_those_of_the_files(run: Session) -> None:
    for name in ("signal", "target", "account", "decisions", "orders", "fills"):
        frames = getattr(run, name)
        assert isinstance(frames, pl.LazyFrame)
        assert_frame_equal(frames.collect(), pl.read_parquet(run.path / f"{name}.parquet"))
        assert_frame_equal(run.frames[name].collect(), frames.collect())
    assert {*run.frames} == {"signal", "target", "account", "decisions", "orders", "fills"}
    assert len(run.signals) == 1
    wanted = run.trace["wanted"].collect()
    assert wanted.height >= run.decisions.collect().height
    assert run.summary["digest"]
    assert run.settings.strategy.preset == "composite"


def test_a_frame_that_is_not_there_is_named_with_those_that_are(
    recording: Path, run: Session
) -> None:
    session = Session.open(recording)
    with pytest.raises(
        RecordingError, match=r"no decisions.parquet; it has signal, target\. .*run"
    ):
        _ = session.decisions
    with pytest.raises(RecordingError, match=r"has no trades.parquet"):
        _ = run.trades
    with pytest.raises(KeyError):
        session.frames["orders"]
    assert session.frames.get("orders") is None
    with pytest.raises(RecordingError, match=r"has no summary.json: it is a recording"):
        _ = session.summary
    assert len(session.trace) == 0
    assert not session.is_run


def test_only_a_recording_or_a_run_can_be_opened(tmp_path: Path, recording: Path) -> None:
    with pytest.raises(RecordingError, match=r"is not a folder.*`marble import`"):
        Session.open(tmp_path / "nothing")
    with pytest.raises(RecordingError, match=r"has no manifest.json"):
        Session.open(tmp_path)
    assert Session.open(str(recording)).path == recording


def test_it_says_what_it_is(recording: Path, run: Session) -> None:
    decisions = run.decisions.collect().height
    assert f"<Session {run.path}: replay run, 2026-06-17T13:30:00.0" in repr(run)
    assert f"60 signal, 60 target, {decisions} decisions" in repr(run)
    assert "recording" in repr(Session.open(recording))


def test_a_replay_without_a_place_lives_as_long_as_its_session(recording: Path) -> None:
    session = Session.open(recording).replay()
    path = session.path
    assert session.decisions.collect().height
    with session:
        assert path.exists()
    assert not path.exists()
    assert not path.parent.exists()
    dropped = Session.open(recording).replay()
    path = dropped.path
    del dropped
    gc.collect()
    assert not path.parent.exists()


def test_a_replay_that_fails_leaves_no_temporary_folder(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SettingsError, match="half_spread_bps"):
        Session.open(recording).replay(overrides=["strategy.half_spread_bps=-1"])
    with pytest.raises(SettingsError, match=r'venue.kind "lighter"') as refused:
        Session.open(recording).replay(overrides=["venue.kind=lighter"])
    assert not list(tmp_path.iterdir()), refused  # which holds the session, and so must not count


def test_a_replay_takes_settings_over_a_file_over_the_runs_own(
    run: Session, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[strategy]\nhalf_spread_bps = 10\nrequote_threshold_bps = 7\n")
    again = run.replay(config=file, overrides=["strategy.half_spread_bps=12"], venue="simulated")
    assert again.settings.strategy.half_spread_bps == 12
    assert again.settings.requote_threshold_bps == 7
    assert again.settings.max_position == run.settings.max_position
    document = run.replay(config={"strategy": {"half_spread_bps": 11}}, venue="simulated")
    assert document.settings.strategy.half_spread_bps == 11
    with pytest.raises(TypeError, match="must be a list of texts"):
        run.replay(overrides="strategy.half_spread_bps=12")


def test_a_run_replayed_repeats_itself(run: Session, tmp_path: Path) -> None:
    again = run.replay(tmp_path / "again")
    assert again.path == tmp_path / "again"
    assert again.summary["venue"] == "recorded"
    assert again.summary["digest"] == run.summary["digest"]
    with pytest.raises(RecordingError, match="exists already"):
        run.replay(tmp_path / "again")
    run.replay(tmp_path / "again", overwrite=True)


def test_a_run_of_several_markets_has_sessions_of_its_own(tmp_path: Path) -> None:
    sources = [write_recording(tmp_path / str(n), random_feeds(n, 20)) for n in (1, 2)]
    target = {"price_decimals": 3, "size_decimals": 3}
    settings = [
        load_settings(config={"target": {"instrument": name, **target}})
        for name in ("A-PERP.LIGHTER", "B-PERP.LIGHTER")
    ]
    replay_together(sources, settings, tmp_path / "both")
    both = Session.open(tmp_path / "both")
    assert [*both.markets] == ["A-PERP.LIGHTER", "B-PERP.LIGHTER"]
    assert both.markets["B-PERP.LIGHTER"].settings.target.instrument == "B-PERP.LIGHTER"
    assert "A-PERP.LIGHTER, B-PERP.LIGHTER" in repr(both)
    for ask in (lambda: both.decisions, lambda: both.settings, both.replay):
        with pytest.raises(RecordingError, match=r"holds several markets .*A-PERP"):
            ask()
    assert json.loads((tmp_path / "both" / "summary.json").read_text()) == both.summary


def test_a_damaged_file_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "damaged", random_feeds(4, 10))
    (folder / "target.parquet").write_bytes(b"PAR1")
    session = Session.open(folder)
    assert session.signal.collect().height
    with pytest.raises(RecordingError, match=r"target.parquet cannot be read as Parquet"):
        _ = session.target


def test_a_run_is_proven_from_its_session(run: Session) -> None:
    certificate = run.prove()
    assert certificate.verdict == "identical"
    assert certificate.decisions == run.decisions.collect().height


def test_a_quote_is_explained_from_its_session(run: Session) -> None:
    quotes = run.decisions.filter(pl.col("action") == "quote").collect().to_dicts()
    assert run.why(last=True).ts == run.decisions.collect()["ts"][-1]
    assert run.why(f"seq {quotes[0]['seq']}").decision == quotes[0]
    assert run.why(where="action = 'quote'", nth=2).decision == quotes[1]
    assert run.why(quotes[1]["ts"]).lines()
