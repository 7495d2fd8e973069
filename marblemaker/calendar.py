"""Sessions of the US cash market, from a maintained exchange calendar."""

from __future__ import annotations

import warnings
from typing import Final

__all__ = ["opens_ns"]

_DAY_NS: Final = 86_400 * 10**9
_CALENDAR: Final = "XNYS"


def opens_ns(first_ts: int, last_ts: int) -> list[int]:
    """The opens of all regular sessions from ``first_ts`` to ``last_ts``, ns, ascending."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exchange_calendars and pandas warn about each other
        import exchange_calendars

        first, last = (np.datetime64(ts // _DAY_NS, "D") for ts in (first_ts, last_ts))
        calendar = exchange_calendars.get_calendar(
            _CALENDAR, start=str(first - np.timedelta64(7, "D")), end=str(last)
        )
        opens = calendar.opens.to_numpy().astype("datetime64[ns]").astype(np.int64)
    return [int(open_) for open_ in opens if first_ts <= open_ <= last_ts]
