"""Runs of every earlier format keep loading, replaying to the same, and explaining themselves.

Each folder in ``tests/data/formats`` was written by the version that introduced its format, and is
never written again: ``format-1`` has no trace, ``format-1-traced`` has one (format 1 of its own).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from marblemaker.cli import main
from marblemaker.prove import prove
from marblemaker.session import Session
from marblemaker.trace import read_proof
from streams.instant import iso
from streams.recording import RecordingError

RUNS = sorted((Path(__file__).parents[1] / "data" / "formats").iterdir())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_of_an_earlier_format_loads_and_is_proven(run: Path) -> None:
    session = Session.open(run)
    assert session.decisions.collect().height == 8
    assert session.orders.collect().height == 14
    assert session.fills.collect().height == 3
    certificate = prove(run)
    assert certificate.verdict == "identical", certificate.obstacles
    traced = run.name.endswith("traced")
    assert bool(certificate.operators) == traced
    assert any("kept no digests" in note for note in certificate.notes) == (not traced)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_of_an_earlier_format_is_explained_and_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A first question may leave an index beside the run: not in the golden.
    run = Path(shutil.copytree(run, tmp_path / "run"))
    fill = pl.read_parquet(run / "fills.parquet").row(0, named=True)
    assert main(["why", str(run), f"#{fill['n']}"]) == 0
    assert "shift" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10**6
    first = session_start(run)
    assert main(["marble", str(run), first, "+2s"]) == 0


def session_start(run: Path) -> str:
    return iso(json.loads((run / "manifest.json").read_text())["first_ts"])


def test_a_trace_of_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(next(run for run in RUNS if run.name.endswith("traced")), run)
    proof = json.loads((run / "trace" / "proof.json").read_text())
    (run / "trace" / "proof.json").write_text(json.dumps(proof | {"format": 99}))
    with pytest.raises(RecordingError, match="of format 99, this version reads up to 1"):
        read_proof(run)
    assert main(["prove", str(run)]) == 1
