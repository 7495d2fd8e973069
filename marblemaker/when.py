"""When: what people write for an instant of a run, as nanoseconds or as a sequence number."""

from __future__ import annotations

import re
import warnings
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from marblemaker.calendar import ALWAYS_OPEN, sessions_ns
from streams.instant import datetime_ns, iso
from streams.recording import Manifest

__all__ = ["When", "WhenError", "parse_when", "zone_of"]

_DAY_NS: Final = 86_400 * 10**9
_NEW_YORK: Final = ("XNYS", "America/New_York")
_FORMS: Final = (
    'write a time such as "2026-06-17T14:31:07.123456789Z" or "14:31:07.123Z" (UTC), '
    '"10:31:07.123" (local to the signal\'s market), or a sequence number such as "seq 81234"'
)
_SEQ: Final = re.compile(r"(?:seq\s*[:=]?\s*)?([0-9]+)", re.IGNORECASE)
_TS: Final = re.compile(r"(?:ts|ns)\s*[:=]?\s*([0-9]+)", re.IGNORECASE)
_TIME: Final = re.compile(
    r"(?:([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]\s*|\s+))?"
    r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"\s*(Z|UTC|[+-][0-9]{2}:?[0-9]{2})?",
    re.IGNORECASE,
)
_LARGEST_SEQ: Final = 10**18
"""A number above it is rather an instant in ns: no run has so many inputs."""


class WhenError(ValueError):
    """A text names no instant of a run."""


class When(Struct, frozen=True):
    """An instant, or an input: one of the two is set."""

    ts: int | None = None
    """ns since the Unix epoch, UTC."""
    seq: int | None = None
    """Sequence number of an input."""


def parse_when(text: str, manifest: Manifest, calendar: str) -> When:
    """Read an instant of a run, or the number of one of its inputs.

        2026-06-17T14:31:07.123456789Z    an instant, to the nanosecond; +02:00 is read as well
        14:31:07.123Z                     UTC, on the run's day
        10:31:07.123                      local to the signal's market, on the run's day
        2026-06-17 10:31:07.123           the same on a day that is named
        seq 81234, 81234                  a sequence number
        ts 1781703000265336495            ns since the Unix epoch

    The run's day is its first; a time that has not come yet on that day is of the next one, if the
    run goes on so long. ``calendar`` names the signal's market (``wiring.calendar_of``); one that
    never closes has no local time, and UTC is taken. The instant need not be within the run.

    Errors: WhenError for a text of another form, a time that does not exist, or one that local
        clocks show twice.
    """
    text = text.strip()
    if found := _SEQ.fullmatch(text):
        seq = int(found[1])
        if seq > _LARGEST_SEQ:
            raise WhenError(
                f"{text} is no sequence number of an input; an instant in ns is written "
                f'"ts {found[1]}"'
            )
        return When(seq=seq)
    if found := _TS.fullmatch(text):
        return When(ts=int(found[1]))
    found = _TIME.fullmatch(text)
    if found is None:
        raise WhenError(f"{text!r} is neither a time nor a sequence number; {_FORMS}")
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    if len(fraction or "") > 9:
        raise WhenError(f"{text!r} has more than nine decimals; an instant has whole nanoseconds")
    ns = int((fraction or "").ljust(9, "0"))
    zone = zone_of(calendar) if offset is None else _zone(offset)
    try:
        days = [date(int(year), int(month), int(day))] if year else _days(manifest, zone)
        instants = [
            _instant(text, one, int(hour), int(minute), int(second or 0), ns, zone) for one in days
        ]
    except (ValueError, OverflowError) as error:
        if isinstance(error, WhenError):
            raise
        raise WhenError(f"{text!r} is no time of a clock ({error}); {_FORMS}") from None
    first, last = manifest.first_ts or 0, manifest.last_ts or 0
    return When(ts=next((ts for ts in instants if first <= ts <= last), instants[0]))


def zone_of(calendar: str) -> tzinfo:
    """The time zone of a calendar's market; UTC where it never closes.

    Errors: ValueError for a calendar that does not exist.
    """
    if calendar == ALWAYS_OPEN:
        return UTC
    name, zone = _NEW_YORK
    if calendar == name:
        return ZoneInfo(zone)
    sessions_ns(calendar, 0, 0)  # Refuses a name that does not exist, and suggests another.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from exchange_calendars import get_calendar

        # Of a short span: making a calendar of many years takes long.
        found: tzinfo = get_calendar(calendar, start="2020-01-01", end="2020-12-31").tz
    return found


def _zone(offset: str) -> tzinfo:
    if offset.upper() in ("Z", "UTC"):
        return UTC
    parsed = datetime.fromisoformat(f"2000-01-01T00:00:00{offset[:3]}:{offset[-2:]}").tzinfo
    assert parsed is not None
    return parsed


def _days(manifest: Manifest, zone: tzinfo) -> list[date]:
    """The run's days, by the clocks of the zone."""
    first = manifest.first_ts
    if first is None:
        raise WhenError(
            "the run has no inputs, so a time of day has no day; write the date before it"
        )
    last = max(manifest.last_ts or first, first)
    start = datetime.fromtimestamp(first // 10**9, zone).date()
    return [start + timedelta(days=n) for n in range((last - first) // _DAY_NS + 2)]


def _instant(
    text: str, day: date, hour: int, minute: int, second: int, ns: int, zone: tzinfo
) -> int:
    local = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=zone)
    again = local.replace(fold=1)
    if local.utcoffset() != again.utcoffset():
        if local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local.replace(
            tzinfo=None
        ):
            raise WhenError(f"{text!r} does not exist on {day}: clocks there go forward over it")
        one, other = iso(_ns(local)), iso(_ns(again))
        raise WhenError(
            f"{text!r} comes twice on {day}, when clocks there go back: at {one} and at {other}; "
            f"write one of the two"
        )
    return _ns(local) + ns


def _ns(local: datetime) -> int:
    return datetime_ns(local.astimezone(UTC))
