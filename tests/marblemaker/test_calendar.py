"""Sessions from the exchange calendars."""

import subprocess
import sys
from datetime import UTC, datetime

import polars as pl
import pytest

from marblemaker.calendar import default_calendar, opens_ns, sessions_ns
from streams.clock import NEVER
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

    from marblemaker.replay import replay

    folder = Path(str(tmp_path))
    before = _ns("2026-06-17T13:29:00")
    at_open = _ns("2026-06-17T13:30:00")

    def row(ts: int, mid: int) -> Row:
        return ts, mid * SECOND - SECOND // 100, mid * SECOND + SECOND // 100, SECOND, SECOND

    signal = frame([row(before, 200), row(at_open, 210), row(at_open + SECOND, 231)])
    target = frame([row(before + SECOND, 200), row(at_open + 2 * SECOND, 231)])
    write_recording(folder / "recording", {"signal": signal, "target": target})
    # Three quotes in a minute, 10 % apart: of the guards none may be on.
    chosen = settings(
        strategy={"signal_baseline": "session"},
        guards={key: "off" for key in ("max_signal_age_secs", "max_target_age_secs", "collar_bps")},
        session={"calendar": "24/7"},
    )
    replay(folder / "recording", chosen, folder / "run")

    quoted = pl.read_parquet(folder / "run" / "decisions.parquet").filter(action="quote")
    by_ts = dict(zip(quoted["ts"], quoted["baseline"], strict=True))
    assert by_ts[before + SECOND] == 200.0
    assert by_ts[at_open + 2 * SECOND] == 210.0
    last = quoted.row(-1, named=True)
    assert last["residual"] == 231.0 / 210.0 - 1.0


# ---------------------------------------------------------------- sessions

NEW_YORK = "XNYS"


def _sessions(calendar: str, first: str, last: str) -> list[str]:
    """Sessions as text, "day open-close" in UTC; spans over midnight name both days."""
    shown = []
    for open_, close in sessions_ns(calendar, _ns(first), _ns(last)):
        a, b = (datetime.fromtimestamp(ns // SECOND, UTC) for ns in (open_, close))
        until = f"{b:%H:%M}" if a.date() == b.date() else f"{b:%m-%d %H:%M}"
        shown.append(f"{a:%m-%d %H:%M}-{until}")
    return shown


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        # Thanksgiving is a holiday, the day after it half a day.
        ("2025-11-26", "2025-11-30", ["11-26 14:30-21:00", "11-28 14:30-18:00"]),
        # Christmas Eve is half a day, Christmas none, the day after it whole again.
        ("2025-12-24", "2025-12-27", ["12-24 14:30-18:00", "12-26 14:30-21:00"]),
        ("2026-12-23", "2026-12-26", ["12-23 14:30-21:00", "12-24 14:30-18:00"]),
        ("2026-06-18", "2026-06-23", ["06-18 13:30-20:00", "06-22 13:30-20:00"]),  # Juneteenth
        # Independence Day is a Saturday and observed on the Friday.
        ("2026-07-02", "2026-07-07", ["07-02 13:30-20:00", "07-06 13:30-20:00"]),
        ("2025-07-03", "2025-07-05", ["07-03 13:30-17:00"]),  # the day before it, half a day
        ("2026-03-06", "2026-03-10", ["03-06 14:30-21:00", "03-09 13:30-20:00"]),  # summer time
        ("2026-10-30", "2026-11-03", ["10-30 13:30-20:00", "11-02 14:30-21:00"]),  # winter time
        ("2026-06-20", "2026-06-22", []),  # a weekend
        ("2001-09-10", "2001-09-18", ["09-10 13:30-20:00", "09-17 13:30-20:00"]),
        ("1990-01-01", "1990-01-03", ["01-02 14:30-21:00"]),
        ("2039-12-30", "2040-01-04", ["12-30 14:30-21:00", "01-03 14:30-21:00"]),
    ],
)
def test_sessions_know_half_days_holidays_weekends_and_changes_of_the_clock(
    first: str, last: str, expected: list[str]
) -> None:
    assert _sessions(NEW_YORK, f"{first}T00:00:00", f"{last}T00:00:00") == expected


@pytest.mark.parametrize(
    ("instant", "is_in"),
    [
        ("2025-11-28T14:29:59", False),
        ("2025-11-28T14:30:00", True),
        ("2025-11-28T16:00:00", True),
        ("2025-11-28T17:59:59", True),
        ("2025-11-28T18:00:00", False),
        ("2025-11-28T20:00:00", False),
        ("2025-11-29T16:00:00", False),
    ],
)
def test_an_instant_is_in_a_session_from_its_open_until_just_before_its_close(
    instant: str, is_in: bool
) -> None:
    expected = ["11-28 14:30-18:00"] if is_in else []
    assert _sessions(NEW_YORK, instant, instant) == expected


def test_a_span_has_the_session_in_progress_at_both_its_ends() -> None:
    sessions = _sessions(NEW_YORK, "2026-03-05T20:59:59", "2026-03-09T13:30:00")
    assert sessions == ["03-05 14:30-21:00", "03-06 14:30-21:00", "03-09 13:30-20:00"]


def test_a_break_ends_a_session_and_begins_another_but_is_no_open() -> None:
    span = "2026-01-05T00:00:00", "2026-01-05T23:00:00"

    assert _sessions("XTKS", *span) == ["01-05 00:00-02:30", "01-05 03:30-06:30"]
    assert _sessions("XTKS", "2026-01-05T03:00:00", "2026-01-05T03:00:00") == []
    assert opens_ns(_ns(span[0]), _ns(span[1]), "XTKS") == [_ns("2026-01-05T00:00:00")]


def test_a_session_over_midnight_is_found_from_either_day() -> None:
    expected = ["03-05 23:00-03-06 05:00"]
    assert _sessions("XASX", "2026-03-05T23:30:00", "2026-03-05T23:30:00") == expected
    assert _sessions("XASX", "2026-03-06T04:59:59", "2026-03-06T04:59:59") == expected


def test_a_market_that_never_closes_has_one_session() -> None:
    assert sessions_ns("24/7", 5, 6) == [(0, NEVER)]
    assert opens_ns(5, 6, "24/7") == []
    assert opens_ns(0, 6, "24/7") == [0]


@pytest.mark.parametrize(
    ("calendar", "first_ts", "last_ts", "count"),
    [
        (NEW_YORK, NEVER - 1, NEVER, 0),
        (NEW_YORK, -NEVER, -1, 0),
        (NEW_YORK, -NEVER, _ns("1970-01-02T15:00:00"), 1),
        ("XSHG", _ns("2060-01-04T00:00:00"), _ns("2060-02-04T00:00:00"), 0),
        ("XTKS", _ns("1990-01-04T00:00:00"), _ns("1996-12-02T00:00:00"), 0),
        ("XTKS", _ns("1990-01-04T00:00:00"), _ns("1997-01-06T05:00:00"), 2),
    ],
)
def test_where_a_calendar_ends_there_are_no_sessions(
    calendar: str, first_ts: int, last_ts: int, count: int
) -> None:
    assert len(sessions_ns(calendar, first_ts, last_ts)) == count
    assert len(opens_ns(first_ts, last_ts, calendar)) == (count + 1) // 2


@pytest.mark.parametrize("calendar", [NEW_YORK, "XSHG"])
def test_a_span_past_the_end_of_a_calendar_has_what_it_knows(calendar: str) -> None:
    known = sessions_ns(calendar, _ns("2024-01-01T00:00:00"), _ns("2025-01-01T00:00:00"))
    for last_ts in (_ns("2060-01-01T00:00:00"), NEVER):
        sessions = sessions_ns(calendar, _ns("2024-01-01T00:00:00"), last_ts)
        assert len(sessions) > len(known) > 200
        assert sessions[: len(known)] == known


def test_every_day_of_half_a_century_is_known() -> None:
    sessions = sessions_ns(NEW_YORK, _ns("1990-01-01T00:00:00"), _ns("2040-01-01T00:00:00"))
    assert len(sessions) == len(set(sessions)) == len(opens_ns(sessions[0][0], sessions[-1][0]))
    assert 50 * 251 < len(sessions) < 50 * 253
    assert all(a < b for a, b in sessions)
    assert sessions == sorted(sessions)


@pytest.mark.parametrize(
    ("name", "hint"), [("xnys", "did you mean XNYS"), ("NYSEE", "did you mean NYSE"), ("", "24/7")]
)
def test_an_unknown_calendar_is_refused_with_the_nearest_name(name: str, hint: str) -> None:
    for ask in (lambda: sessions_ns(name, 0, 1), lambda: opens_ns(0, 1, name)):
        with pytest.raises(ValueError, match=f"calendar '{name}' is not known.*{hint}"):
            ask()


@pytest.mark.parametrize("venue", ["EQUS", "XNAS", "XNYS", "ARCX", "IEXG", "MEMX", "DBEQ", "equs"])
def test_venues_of_us_equities_keep_new_york_hours(venue: str) -> None:
    assert default_calendar(venue) == NEW_YORK


@pytest.mark.parametrize("venue", ["LIGHTER", "GLBX", "OPRA", "OCEA", ""])
def test_other_venues_never_close(venue: str) -> None:
    assert default_calendar(venue) == "24/7"


def test_the_calendars_are_loaded_only_when_they_are_asked() -> None:
    program = (
        "import sys; from marblemaker.calendar import sessions_ns as s; s('24/7', 0, 1);"
        "sys.exit('exchange_calendars' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
