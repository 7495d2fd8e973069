"""Session opens from the exchange calendar."""

from datetime import UTC, datetime

import polars as pl

from marblemaker.calendar import opens_ns
from marblemaker.replay import replay
from tests.sessions import SECOND, Row, frame, settings, write_recording


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def test_opens_follow_daylight_saving_and_skip_holidays_and_weekends() -> None:
    opens = opens_ns(_ns("2026-03-05T00:00:00"), _ns("2026-03-11T00:00:00"))
    assert opens == [
        _ns("2026-03-05T14:30:00"),
        _ns("2026-03-06T14:30:00"),
        _ns("2026-03-09T13:30:00"),  # summer time began on Sunday
        _ns("2026-03-10T13:30:00"),
    ]
    # Juneteenth, and the weekend after it.
    assert opens_ns(_ns("2026-06-19T00:00:00"), _ns("2026-06-21T23:00:00")) == []


def test_the_session_baseline_is_the_first_mid_at_or_after_the_open(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    before = _ns("2026-06-17T13:29:00")
    at_open = _ns("2026-06-17T13:30:00")

    def row(ts: int, mid: int) -> Row:
        return ts, mid * SECOND - SECOND // 100, mid * SECOND + SECOND // 100, SECOND, SECOND

    signal = frame([row(before, 200), row(at_open, 210), row(at_open + SECOND, 231)])
    target = frame([row(before + SECOND, 200), row(at_open + 2 * SECOND, 231)])
    write_recording(folder / "recording", {"signal": signal, "target": target})
    replay(folder / "recording", settings(strategy={"signal_baseline": "session"}), folder / "run")

    quoted = pl.read_parquet(folder / "run" / "decisions.parquet").filter(action="quote")
    by_ts = dict(zip(quoted["ts"], quoted["baseline"], strict=True))
    assert by_ts[before + SECOND] == 200.0
    assert by_ts[at_open + 2 * SECOND] == 210.0
    last = quoted.row(-1, named=True)
    assert last["residual"] == 231.0 / 210.0 - 1.0
