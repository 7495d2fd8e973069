"""Several signals: one residual, weighted."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from marblemaker.replay import replay
from streams.recording import RecordingError
from tests.sessions import SECOND, START, frame, random_feeds, settings, write_recording


def test_the_residual_is_the_weighted_sum_of_each_signals_own(tmp_path: Path) -> None:
    def book(at: int, mid: int) -> tuple[int, int, int, int, int]:
        return START + at * SECOND, mid - 10**7, mid + 10**7, SECOND, SECOND

    # 200 -> 200.8 is 40 bps, 50 -> 50.05 is 10 bps: 0.75 × 40 + 0.25 × 10 = 32.5 bps.
    feeds = {
        "signal": frame([book(1, 200 * SECOND), book(3, 200 * SECOND + 8 * 10**8)]),
        "signal_2": frame([book(1, 50 * SECOND), book(4, 50 * SECOND + 5 * 10**7)]),
        "target": frame([book(2, 200 * SECOND), book(5, 200 * SECOND + 10**6)]),
    }
    recording = write_recording(tmp_path / "recording", feeds)
    chosen = settings(
        signal={"others": ["SMH.EQUS"], "weights": [0.75, 0.25]},
        strategy={"requote_threshold_bps": 0.0},
    )
    summary = replay(recording, chosen, tmp_path / "run")
    assert summary["inputs"]["signal_2"] == 2
    decisions = pl.read_parquet(tmp_path / "run" / "decisions.parquet").filter(action="quote")
    assert decisions["residual"].to_list()[-1] == 0.75 * (200.8 / 200.0 - 1.0) + 0.25 * (
        50.05 / 50.0 - 1.0
    )
    again = replay(tmp_path / "run", chosen, tmp_path / "again")
    assert again["digest"] == summary["digest"]


def test_what_they_make_together_has_one_digest_whatever_the_size_of_batches(
    tmp_path: Path,
) -> None:
    # With books that are refused among those that are not.
    feeds = random_feeds(3) | {"signal_2": random_feeds(9)["signal"]}
    recording = write_recording(tmp_path / "recording", feeds)
    chosen = settings(signal={"others": ["SMH.EQUS"]})

    for rows in (100, 10_000):
        replay(recording, chosen, tmp_path / str(rows), batch_rows=rows)

    proofs = [(tmp_path / f"{rows}/trace/proof.json").read_text() for rows in (100, 10_000)]
    assert proofs[0] == proofs[1]


def test_a_recording_without_the_named_signals_is_refused(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "recording", random_feeds(1, 50))
    chosen = settings(signal={"others": ["SMH.EQUS"]})
    with pytest.raises(RecordingError, match=r"holds 1 signals, the settings name 2"):
        replay(recording, chosen, tmp_path / "run")
