"""Salvage: of a run killed at any moment, what was flushed is kept and the rest is counted."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from marblemaker.cli import main
from marblemaker.salvage import Report, salvage
from sinks.journal import Journal
from sinks.recorder import Input, Recorder, lock_session, read_session
from streams.events import AccountEvent, Decision, Quote, Trade
from streams.instrument import Instrument
from streams.recording import (
    FrameWriter,
    Manifest,
    Recording,
    RecordingError,
    read_manifest,
    schema_of,
)

ROOT = Path(__file__).parents[2]
NAMES = ("signal", "target", "trades", "account")
START = 1_750_000_000_000_000_000
STEP = 250_000
TRUTH = struct.Struct("<qq")
INSTRUMENTS = {
    "signal": Instrument(symbol="NVDA", venue="EQUS", price_decimals=2, size_decimals=0),
    "target": Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3, size_decimals=3),
}
KILLS = int(os.environ.get("MARBLE_KILLS", "10"))


def event(seq: int) -> tuple[Input, str]:
    ts, px = START + seq * STEP, 207_000_000_000 + seq % 89 * 1_000_000
    if seq % 10 == 4:
        return Trade(seq, ts, ts - 3, px, 10**7, 1), "trades"
    if seq % 25 == 1:
        return AccountEvent(seq=seq, ts=ts, kind="ack", n=seq, venue_id=f"o{seq}"), "account"
    return Quote(seq, ts, ts, px, px + 10**7, 10**9, 10**9, 0), NAMES[seq % 2]


def rows(name: str, seqs: range) -> pl.DataFrame:
    found = []
    for seq in seqs:
        one, where = event(seq)
        if where == name:
            row = {column: getattr(one, column, None) for column in schema_of(name)}
            found.append(row | ({"side": "BUY"} if name == "trades" else {}))
    return pl.DataFrame(found, schema=schema_of(name), orient="row")


def manifest() -> Manifest:
    return Manifest(mode="live", instruments=INSTRUMENTS, versions={"marblemaker": "0"})


def record_until_killed(folder: Path) -> None:
    """Record for ever; ``truth`` says what was taken, and what was certainly flushed."""
    recorder = Recorder(
        folder, NAMES, on_failure=sys.exit, flush_ms=20, flush_rows=200, segment_rows=3_000
    )
    recorder.start(manifest(), started=START)
    journal = Journal(folder)
    truth = os.open(folder.with_suffix(".truth"), os.O_WRONLY | os.O_CREAT)
    pause = threading.Event()
    os.write(1, b"ready\n")
    for seq in range(1, 10**9):
        recorder.record(*event(seq))
        os.pwrite(truth, TRUTH.pack(seq, recorder._written), 0)
        if seq % 7 == 0:
            ts = event(seq)[0].ts
            journal.decision(Decision(seq=seq, ts=ts, action="quote", bid=seq / 3))
        if seq % 300 == 0:
            journal.flush()
            recorder.record_raw("feed", ts, b"raw" * 50)
        if seq % 40 == 0:
            pause.wait(0.002)


if __name__ == "__main__":
    record_until_killed(Path(sys.argv[1]))


# ---------------------------------------------------------------- killed at any moment


def test_all_that_was_flushed_before_a_kill_is_kept_and_what_was_lost_is_counted(
    tmp_path: Path,
) -> None:
    moments = random.Random()
    lost = 0
    for start in range(0, KILLS, 5):
        runs = [tmp_path / f"run-{n}" for n in range(start, min(start + 5, KILLS))]
        children = [
            subprocess.Popen(
                [sys.executable, __file__, str(run)],
                cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            )
            for run in runs
        ]  # fmt: skip
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        for child in children:
            threading.Event().wait(moments.uniform(0, 0.25))
            assert child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        for run in runs:
            lost += _holds_to_its_promise(run)
            shutil.rmtree(run)
    if KILLS >= 10:
        assert lost, "no kill met an input on its way: this test shows nothing"


def _holds_to_its_promise(run: Path) -> int:
    truth = run.with_suffix(".truth").read_bytes()
    taken, flushed = TRUTH.unpack(truth) if truth else (0, 0)
    before = salvage(run, dry_run=True)
    report = salvage(run)
    assert report.state == "salvaged"
    assert report.exact
    assert (before.inputs, before.lost_events, before.beyond) == (
        report.inputs, report.lost_events, report.beyond
    )  # fmt: skip
    assert report.inputs >= flushed
    # The kill may come between an input and the note that it was taken.
    assert report.inputs + report.lost_events - taken in (0, 1)
    if report.inputs:
        assert report.lost_ms == pytest.approx(report.lost_events * STEP / 1e6)
    assert not (run / "segments").exists()
    assert not list(run.glob("session.*"))
    told = read_manifest(run)
    assert told.ended.startswith("salvaged: killed after")
    assert told.instruments == INSTRUMENTS
    kept = range(1, report.inputs + 1)
    once = run.with_suffix(".once")
    once.mkdir()
    for name in NAMES:
        writer = FrameWriter(once, name, schema_of(name))
        writer.append(rows(name, kept))
        assert told.files[name] == writer.close()
    if "decisions" in told.files:
        decided = pl.read_parquet(run / "decisions.parquet")["seq"].to_list()
        assert decided == list(range(7, report.inputs + 1, 7))[: len(decided)]
    opened = Recording.open(run)
    seqs: list[int] = []
    for inputs, _ in opened.inputs(INSTRUMENTS["target"], recorded=True):
        assert inputs.seq is not None
        seqs += inputs.seq
    assert seqs == list(kept)
    assert salvage(run).state == "sound"
    return report.lost_events


# ---------------------------------------------------------------- remains made by hand


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run that ended without order after 1,000 inputs, all of them flushed."""
    return _killed(tmp_path / "run")


def _killed(folder: Path, count: int = 1_000, *, flush_rows: int = 100) -> Path:
    recorder = Recorder(folder, NAMES, on_failure=_never, flush_ms=5)
    recorder.start(manifest(), started=START)
    pause = threading.Event()
    for seq in range(1, count + 1):
        recorder.record(*event(seq))
        while seq % flush_rows == 0 and recorder.backlog[0]:
            pause.wait(0.001)
    recorder.abandon()
    return folder


def _never(reason: str) -> None:
    raise AssertionError(reason)


def _segment(folder: Path, name: str) -> Path:
    return folder / f"segments/{name}.00001.arrows"


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_remains_without_loss_become_a_recording(killed: Path) -> None:
    report = salvage(killed)
    assert (report.inputs, report.lost_events, report.lost_ms) == (1_000, 0, 0.0)
    assert report.last_ts == START + 1_000 * STEP
    assert not (killed / "unsalvaged").exists()
    assert report.lines[2] == "  1,000 inputs flushed and kept; 0 inputs and 0.0 ms lost"


def test_every_file_is_cut_where_one_ends_early_and_the_rest_is_put_aside(killed: Path) -> None:
    path = _segment(killed, "target")
    path.write_bytes(path.read_bytes()[:-5_000])
    report = salvage(killed)
    last_target = pl.read_parquet(killed / "target.parquet")["seq"][-1]
    first_missing = next(s for s in range(last_target + 1, 1_001) if event(s)[1] == "target")
    assert report.last_seq == first_missing - 1
    assert report.lost_events == 1_000 - report.last_seq
    assert report.lost_ms == report.lost_events * STEP / 1e6
    for name in ("signal", "trades", "account"):
        assert pl.read_parquet(killed / f"{name}.parquet")["seq"].max() <= report.last_seq  # type: ignore[operator]
        rest = pl.read_parquet(killed / f"unsalvaged/{name}.parquet")
        assert rest.equals(rows(name, range(first_missing, 1_001)))
        assert report.beyond[name] == rest.height
    assert any("of an unfinished batch" in note for note in report.notes)
    assert f"{report.lost_events} inputs and" in read_manifest(killed).ended


def test_a_run_with_a_file_cut_anywhere_is_salvaged_each_time(tmp_path: Path) -> None:
    small = _killed(tmp_path / "small", 40, flush_rows=20)
    whole = _segment(small, "trades").read_bytes()
    found = set()
    for size in range(0, len(whole) + 1, 17):
        run = tmp_path / "run"
        shutil.copytree(small, run)
        _segment(run, "trades").write_bytes(whole[:size])
        report = salvage(run, dry_run=size % 10 > 0)
        assert report.inputs + report.lost_events == 40
        found.add(report.inputs)
        shutil.rmtree(run)
    # Before the first trade, before the first of the second batch, all.
    assert found == {3, 23, 40}


def test_a_segment_that_is_no_arrow_is_reported_and_kept(killed: Path) -> None:
    _segment(killed, "account").write_bytes(b"something else entirely")
    report = salvage(killed)
    assert report.inputs == 0
    assert report.lost_events == 1_000
    assert (killed / "unsalvaged/account.00001.arrows").read_bytes() == b"something else entirely"
    assert any("account.00001.arrows is no Arrow stream" in note for note in report.notes)
    assert sum(report.beyond.values()) == 1_000 - 40


def test_a_dry_run_changes_nothing(killed: Path) -> None:
    path = _segment(killed, "signal")
    path.write_bytes(path.read_bytes()[:-100])
    before = _contents(killed)
    report = salvage(killed, dry_run=True)
    assert report.state == "killed"
    assert report.lost_events > 0
    assert _contents(killed) == before


def test_salvage_that_was_interrupted_gives_the_same_when_done_again(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _segment(killed, "target")
    path.write_bytes(path.read_bytes()[:-5_000])
    shutil.copytree(killed, tmp_path / "once")
    salvage(tmp_path / "once")

    real, calls = os.replace, 0

    def dies(source: Path, to: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == deadline:
            raise KeyboardInterrupt
        real(source, to)

    for deadline in range(1, 20):
        calls = 0
        run = tmp_path / f"run-{deadline}"
        shutil.copytree(killed, run)
        monkeypatch.setattr(os, "replace", dies)
        try:
            salvage(run)
        except KeyboardInterrupt:
            monkeypatch.undo()
            assert (run / "segments/target.00001.arrows").exists()
            assert salvage(run).state == "salvaged"
        else:
            break
        finally:
            monkeypatch.undo()
        assert _contents(run) == _contents(tmp_path / "once")
    assert deadline > 5


@pytest.mark.parametrize("deadline", range(1, 8))
def test_a_crash_while_the_recorder_closes_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline: int
) -> None:
    recorder = Recorder(tmp_path / "run", NAMES, on_failure=_never)
    recorder.start(manifest(), started=START)
    for seq in range(1, 501):
        recorder.record(*event(seq))
    real, calls = os.replace, 0

    def dies(source: Path, to: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == deadline:
            raise KeyboardInterrupt
        real(source, to)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dies)
        try:
            entries = recorder.close()
            recorder.finish(manifest())
        except KeyboardInterrupt:
            pass
    if deadline == 7:  # 4 files, the session, the manifest
        assert salvage(tmp_path / "run").state == "sound"
        assert sum(entry.rows for entry in entries.values()) == 500
        return
    report = salvage(tmp_path / "run")
    assert (report.state, report.inputs, report.lost_events) == ("salvaged", 500, 0)
    for name in NAMES:
        assert pl.read_parquet(tmp_path / f"run/{name}.parquet").equals(rows(name, range(1, 501)))


def test_without_the_mark_what_else_is_readable_tells_the_least_that_was_lost(
    killed: Path,
) -> None:
    (killed / "session.mark").unlink()
    journal = Journal(killed)
    for seq in (900, 1_000, 1_007):
        journal.decision(Decision(seq=seq, ts=event(seq)[0].ts, action="quote"))
    journal.flush()
    report = salvage(killed)
    assert not report.exact
    assert (report.inputs, report.lost_events) == (1_000, 7)
    assert "at least 7 inputs" in read_manifest(killed).ended
    assert any("what came in the last 5 ms may be lost too" in note for note in report.notes)
    assert pl.read_parquet(killed / "decisions.parquet")["seq"].to_list() == [900, 1_000]


def test_a_table_whose_last_part_was_not_finished_is_kept_up_to_it(killed: Path) -> None:
    journal = Journal(killed)
    for seq in range(1, 31):
        journal.decision(Decision(seq=seq, ts=event(seq)[0].ts, action="quote"))
        if seq % 10 == 0:
            journal.flush()
    last = killed / ".segments/decisions-000002.arrow"
    last.write_bytes(last.read_bytes()[:-50])
    report = salvage(killed)
    assert report.files["decisions"] == 20
    assert any("decisions-000002.arrow was not finished" in note for note in report.notes)
    assert not (killed / ".segments").exists()


def test_a_session_that_cannot_be_read_leaves_all_as_it_is(killed: Path) -> None:
    (killed / "session.json").write_text("{")
    before = _contents(killed)
    with pytest.raises(RecordingError, match=r"session\.json is not a session's"):
        salvage(killed)
    assert _contents(killed) == before


# ---------------------------------------------------------------- marble doctor


def _doctor(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Report | str]:
    code = main(["doctor", *map(str, arguments), "--json"])
    document = json.loads(capsys.readouterr().out)
    return code, document.get("error") or Report(**document)


def test_doctor_says_that_a_sound_run_is_sound(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    salvage(killed)
    before = _contents(killed)
    code, report = _doctor(capsys, killed)
    assert code == 0
    assert isinstance(report, Report)
    assert (report.state, report.inputs) == ("sound", 1_000)
    assert main(["doctor", str(killed)]) == 0
    assert "sha256 of 4 files verified" in capsys.readouterr().out
    assert _contents(killed) == before


def test_doctor_says_what_is_not_as_the_manifest_has_it(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    salvage(killed)
    (killed / "trades.parquet").unlink()
    with (killed / "signal.parquet").open("ab") as stream:
        stream.write(b"more")
    code, report = _doctor(capsys, killed)
    assert code == 1
    assert isinstance(report, Report)
    assert report.state == "damaged"
    assert [note.split()[0] for note in report.notes] == ["signal.parquet", "trades.parquet"]


def test_doctor_does_not_touch_a_run_in_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(tmp_path / "run", NAMES, on_failure=_never, flush_ms=1)
    recorder.start(manifest(), started=START)
    for seq in range(1, 101):
        recorder.record(*event(seq))
    while recorder.backlog[0]:
        threading.Event().wait(0.001)
    before = _contents(tmp_path / "run")
    for more in ([], ["--dry-run"]):
        code, report = _doctor(capsys, tmp_path / "run", *more)
        assert code == 0
        assert isinstance(report, Report)
        assert (report.state, report.pid) == ("running", os.getpid())
    assert main(["doctor", str(tmp_path / "run")]) == 0
    assert "a run is in progress" in capsys.readouterr().out
    assert _contents(tmp_path / "run") == before
    recorder.finish(Manifest(files=recorder.close()))


def test_doctor_salvages_a_killed_run(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = _doctor(capsys, killed, "--dry-run")
    assert code == 1
    assert isinstance(report, Report)
    assert report.state == "killed"
    code, report = _doctor(capsys, killed)
    assert code == 0
    assert isinstance(report, Report)
    assert (report.state, report.inputs) == ("salvaged", 1_000)
    assert _doctor(capsys, killed)[0] == 0


def test_doctor_leaves_a_foreign_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, error = _doctor(capsys, tmp_path)
    assert code == 1
    assert "so it is no run of ours; nothing was touched" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    code, error = _doctor(capsys, tmp_path / "nowhere")
    assert code == 1
    assert "is not a folder" in str(error)


def test_doctor_refuses_options_without_meaning(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--dry-run"]) == 2
    assert main(["doctor", str(killed), "--config", "x.toml"]) == 2
    assert read_session(killed) is not None
    handle = lock_session(killed)
    assert handle is not None
    os.close(handle)


def test_doctor_knows_a_bundled_recording(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = _doctor(capsys, ROOT / "recordings/nvda-cash-session")
    assert code == 0
    assert isinstance(report, Report)
    assert report.state == "sound"
