"""parse_when(): every form of an instant, and none that has two meanings."""

from __future__ import annotations

import pytest

from marblemaker.when import When, WhenError, parse_when
from streams.recording import FileEntry, Manifest

HOUR = 3_600 * 10**9
OPEN = 1_781_703_000 * 10**9
"""2026-06-17T13:30:00Z, 9:30 in New York."""


def manifest(first: int = OPEN, last: int = OPEN + 6 * HOUR) -> Manifest:
    entry = FileEntry(rows=2, sha256="", first_ts=first, last_ts=last)
    return Manifest(files={"signal": entry})


@pytest.mark.parametrize(
    "text",
    [
        "2026-06-17T14:31:07.123456789Z",
        "2026-06-17 14:31:07.123456789 UTC",
        "2026-06-17T16:31:07.123456789+02:00",
        "14:31:07.123456789Z",
        "10:31:07.123456789",
        "2026-06-17 10:31:07.123456789",
        "2026-06-17T10:31:07.123456789",
        "ts 1781706667123456789",
    ],
)
def test_one_instant_in_all_forms(text: str) -> None:
    assert parse_when(text, manifest(), "XNYS") == When(ts=1_781_706_667_123_456_789)


def test_fractions_and_seconds_may_be_left_out() -> None:
    assert parse_when("9:31", manifest(), "XNYS").ts == OPEN + 60 * 10**9
    assert parse_when("09:30:00.5", manifest(), "XNYS").ts == OPEN + 5 * 10**8


@pytest.mark.parametrize("text", ["seq 81234", "81234", "SEQ:81234", " seq=81234 "])
def test_a_sequence_number(text: str) -> None:
    assert parse_when(text, manifest(), "XNYS") == When(seq=81234)


def test_a_market_that_never_closes_has_no_local_time() -> None:
    assert parse_when("14:00", manifest(), "24/7") == parse_when("14:00Z", manifest(), "24/7")


def test_another_markets_clock() -> None:
    assert parse_when("14:30", manifest(), "XLON").ts == OPEN


def test_a_run_over_midnight_has_the_hours_of_its_second_day() -> None:
    run = manifest(OPEN + 8 * HOUR, OPEN + 20 * HOUR)
    assert parse_when("22:00Z", run, "24/7").ts == OPEN + 8 * HOUR + HOUR // 2
    assert parse_when("03:00Z", run, "24/7").ts == OPEN + 13 * HOUR + HOUR // 2
    # Neither day has it within the run: the first is meant, and whoever asks is told.
    assert parse_when("12:00Z", run, "24/7").ts == OPEN - HOUR - HOUR // 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "neither a time nor a sequence number"),
        ("noon", "neither a time nor a sequence number"),
        ("2026-06-17", "neither a time nor a sequence number"),
        ("25:00", "hour must be"),
        ("2026-02-30 10:00", "day"),
        ("10:31:07.1234567890", "more than nine decimals"),
        ("1781706667123456789", 'written "ts 1781706667123456789"'),
        ("2026-11-01 01:30", "comes twice on 2026-11-01"),
        ("2026-03-08 02:30", "does not exist on 2026-03-08"),
    ],
)
def test_what_names_no_instant_is_refused_and_says_why(text: str, told: str) -> None:
    with pytest.raises(WhenError, match=told):
        parse_when(text, manifest(), "XNYS")


def test_a_run_without_inputs_has_no_day() -> None:
    with pytest.raises(WhenError, match="write the date"):
        parse_when("10:00Z", Manifest(), "XNYS")
    assert parse_when("2026-06-17T13:30Z", Manifest(), "XNYS").ts == OPEN
