"""Sessions of the exchanges, from a maintained calendar of them."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any, Final

from streams.clock import NEVER
from streams.recording import did_you_mean

__all__ = ["ALWAYS_OPEN", "default_calendar", "opens_ns", "sessions_ns"]

ALWAYS_OPEN: Final = "24/7"
"""The calendar of a market that never closes."""

_DAY_NS: Final = 86_400 * 10**9
_US_CASH: Final = "XNYS"
_PADDING_DAYS: Final = 31
"""Looked at on both sides: longer than any closure, so that there is always a session to find."""
_FIRST_DAY: Final = 0
_LAST_DAY: Final = 84_370
"""2200-12-31, counted from 1970: holiday rules end there."""

# Venues of Databento's publishers that trade or report US equities in the regular session; not
# those of options, and not the overnight session (OCEA), which is another.
_US_EQUITY_VENUES: Final = frozenset(
    {
        "EQUS", "DBEQ", "XNAS", "XNYS", "ARCX", "XASE", "XBOS", "XPSX", "XCHI", "XCIS", "BATS",
        "BATY", "EDGA", "EDGX", "IEXG", "IEX", "EPRL", "MEMX", "LTSE", "TXSE", "FINN", "FINY",
        "FINC", "XADF", "ASPN", "ASMT", "ASPI", "ARCO", "CTA", "UTP",
    }
)  # fmt: skip


def default_calendar(venue: str) -> str:
    """Name the calendar of a venue: New York's for US equities, else the one that never closes.

    >>> default_calendar("EQUS"), default_calendar("LIGHTER")
    ('XNYS', '24/7')
    """
    return _US_CASH if venue.upper() in _US_EQUITY_VENUES else ALWAYS_OPEN


def sessions_ns(calendar: str, first_ts: int, last_ts: int) -> list[tuple[int, int]]:
    """The regular sessions that overlap the span from ``first_ts`` to ``last_ts``.

    Half-days, holidays and changes of the clock are the calendar's; a break, such as lunch in
    Tokyo, ends a session and begins another.

    Units: opens and closes in ns since 1970, UTC. The instant of an open is in the session, that of
        a close is not.
    Shape: (open, close) ascending, the session in progress at ``first_ts`` included; empty where
        the calendar knows nothing, and before 1970. The calendar ``24/7`` has one session, from 0
        to ``NEVER``.
    Errors: ValueError for a calendar that does not exist or that its library cannot make.
    """
    if calendar == ALWAYS_OPEN:
        return [(0, NEVER)]
    found = _calendar(calendar, first_ts, last_ts)
    parts = [] if found is None else _parts(found)
    return [(open_, close) for open_, close in parts if open_ <= last_ts and first_ts < close]


def opens_ns(first_ts: int, last_ts: int, calendar: str = _US_CASH) -> list[int]:
    """The opens of all regular sessions from ``first_ts`` to ``last_ts``, ns, ascending.

    One for each day of trading: the end of a break is no open.

    Errors: ValueError for a calendar that does not exist or that its library cannot make.
    """
    if calendar == ALWAYS_OPEN:
        return [0] if first_ts <= 0 <= last_ts else []
    found = _calendar(calendar, first_ts, last_ts)
    opens = [] if found is None else found.opens_nanos.tolist()
    return [open_ for open_ in opens if first_ts <= open_ <= last_ts]


def _calendar(name: str, first_ts: int, last_ts: int) -> Any:
    """The calendar of the span and some days around it, as far as it goes; ``None`` if nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exchange_calendars and pandas warn about each other
        # Not at the top: it takes longer to load than all the rest together.
        from exchange_calendars import get_calendar, get_calendar_names
        from exchange_calendars.errors import CalendarError

        names = get_calendar_names(include_aliases=True)
        if name not in names:
            raise ValueError(
                f"calendar {name!r} is not known{did_you_mean(name.upper(), names)}; name one that "
                f"exchange_calendars has, such as {_US_CASH}, or {ALWAYS_OPEN}"
            )
        unfit = (ValueError, NotImplementedError, CalendarError)
        start, end = _day(first_ts, -_PADDING_DAYS), _day(last_ts, _PADDING_DAYS)
        with suppress(*unfit):
            return get_calendar(name, start=start, end=end)
        try:
            whole = get_calendar(name)
        except unfit as error:
            raise ValueError(
                f"calendar {name!r} does not work in this version of exchange_calendars "
                f"({str(error)[:100]}); "
                f"name another, or install another version"
            ) from error
        low, high = whole.bound_min(), whole.bound_max()
        # Days in this form sort as they follow one another.
        start = start if low is None else max(start, str(low.date()))
        end = end if high is None else min(end, str(high.date()))
        with suppress(*unfit):
            return get_calendar(name, start=start, end=end)
        return None


def _day(ts: int, shift: int) -> str:
    import numpy as np

    day = min(max(ts // _DAY_NS + shift, _FIRST_DAY), _LAST_DAY)
    return str(np.datetime64(day, "D"))


def _parts(calendar: Any) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    for open_, pause, again, close in zip(
        calendar.opens_nanos.tolist(), calendar.break_starts_nanos.tolist(),
        calendar.break_ends_nanos.tolist(), calendar.closes_nanos.tolist(), strict=True,
    ):  # fmt: skip
        # Where there is no break, it "starts" at the smallest of all integers.
        parts += [(open_, pause), (again, close)] if pause > open_ else [(open_, close)]
    return parts
