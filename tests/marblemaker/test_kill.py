"""The kill switch: a command, a file, and an input of the run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from marblemaker.cli import main
from marblemaker.kill import KillFile, kill, release
from marblemaker.replay import replay
from tests.sessions import random_feeds, settings, write_recording


def test_the_command_writes_and_removes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "kill"
    assert main(["kill", str(file), "--reason", "news at two"]) == 0
    assert file.read_text() == "news at two\n"
    assert main(["kill", str(file), "--release"]) == 0
    assert not file.exists()
    assert main(["kill", str(file), "--release"]) == 0
    assert "nothing to release" in capsys.readouterr().out
    assert main(["kill"]) == 2
    assert "risk.kill_file" in capsys.readouterr().err
    assert main(["kill", "--set", f"risk.kill_file={file}"]) == 0
    assert file.exists()


def test_the_file_tells_each_change_once(tmp_path: Path) -> None:
    file = tmp_path / "kill"
    watched = KillFile(file)
    assert watched.changed() is None
    kill(file, "one")
    assert watched.changed() == ("kill", "one")
    assert watched.changed() is None
    kill(file, "two")
    assert watched.changed() == ("kill", "two")
    assert release(file)
    assert watched.changed() == ("release", "")
    file.write_bytes(b"\xff\xfe")
    assert watched.changed() == ("kill", "kill file that cannot be read")
    file.write_text("")
    assert watched.changed() == ("kill", "kill file")


def test_a_run_under_a_kill_file_quotes_nothing_and_replays_without_the_file(
    tmp_path: Path,
) -> None:
    recording = write_recording(tmp_path / "recording", random_feeds(3, 200, faults=False))
    file = tmp_path / "kill"
    chosen = settings(risk={"kill_file": str(file)})
    quoted = replay(recording, chosen, tmp_path / "free")
    assert quoted["decisions"]["quote"] > 0

    kill(file, "news")
    killed = replay(recording, chosen, tmp_path / "killed", batch_rows=50)
    assert set(killed["decisions"]) == {"withdraw"}
    assert killed["orders"]["total"] == 0
    status = pl.read_parquet(tmp_path / "killed" / "status.parquet").to_dicts()
    assert [(row["kind"], row["text"]) for row in status] == [("kill", "news")]

    release(file)
    again = replay(tmp_path / "killed", chosen, tmp_path / "again")
    assert again["digest"] == killed["digest"]


def test_a_kill_in_the_middle_cancels_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = write_recording(tmp_path / "recording", random_feeds(3, 200, faults=False))
    file = tmp_path / "kill"
    told = iter([None, None, ("kill", "news"), None])
    monkeypatch.setattr(KillFile, "changed", lambda self: next(told, None))
    chosen = settings(risk={"kill_file": str(file)})
    summary = replay(recording, chosen, tmp_path / "run", batch_rows=50)
    decisions = pl.read_parquet(tmp_path / "run" / "decisions.parquet")
    last = decisions.to_dicts()[-1]
    assert (last["action"], last["reason"]) == ("withdraw", "kill switch news")
    assert decisions.filter(action="quote").height > 0
    orders = pl.read_parquet(tmp_path / "run" / "orders.parquet")
    assert orders["ts_last"].max() == last["ts"]
    assert summary["left_working"] == []
    monkeypatch.undo()
    assert replay(tmp_path / "run", chosen, tmp_path / "again")["digest"] == summary["digest"]
