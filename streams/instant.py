"""Instants and spans that keep their nanoseconds, for the datetime arithmetic inside reactivex."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

__all__ = ["Instant", "Span", "datetime_ns", "iso", "seconds_ns", "timedelta_ns"]

_NS_PER_US: Final = 1_000
_NS_PER_SECOND: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timedelta_ns(value: timedelta) -> int:
    """Length in ns; a plain timedelta has whole microseconds."""
    if isinstance(value, Span):
        return value.ns
    return ((value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds) * _NS_PER_US


def datetime_ns(value: datetime) -> int:
    """Instant in ns since the Unix epoch.

    Errors: ValueError if it has no time zone.
    """
    if isinstance(value, Instant):
        return value.ns
    if value.tzinfo is None:
        raise ValueError(
            f"an absolute due time must carry a time zone, was {value!r}; "
            f"use Clock.now or datetime(..., tzinfo=UTC)"
        )
    return timedelta_ns(value - _EPOCH)


def seconds_ns(value: float) -> int:
    """Seconds, as reactivex counts time, in ns."""
    return round(value * _NS_PER_SECOND)


class Span(timedelta):
    """A timedelta that keeps its nanoseconds, so that reactivex can do arithmetic in them."""

    ns: int

    @classmethod
    def of(cls, ns: int) -> Span:
        """Make a span of exactly ``ns`` nanoseconds."""
        span = cls(microseconds=ns // _NS_PER_US)
        span.ns = ns
        return span

    def __add__(self, other: timedelta) -> Span:
        return (
            Span.of(self.ns + timedelta_ns(other))
            if isinstance(other, timedelta)
            else NotImplemented
        )

    __radd__ = __add__

    def __sub__(self, other: timedelta) -> Span:
        return (
            Span.of(self.ns - timedelta_ns(other))
            if isinstance(other, timedelta)
            else NotImplemented
        )

    def __rsub__(self, other: timedelta) -> Span:
        return (
            Span.of(timedelta_ns(other) - self.ns)
            if isinstance(other, timedelta)
            else NotImplemented
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, timedelta) and self.ns == timedelta_ns(other)

    def __lt__(self, other: timedelta) -> bool:
        return self.ns < timedelta_ns(other)

    def __le__(self, other: timedelta) -> bool:
        return self.ns <= timedelta_ns(other)

    def __gt__(self, other: timedelta) -> bool:
        return self.ns > timedelta_ns(other)

    def __ge__(self, other: timedelta) -> bool:
        return self.ns >= timedelta_ns(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    # Equal to a plain one means equal in whole microseconds, which is what the base hashes.
    __hash__ = timedelta.__hash__

    def __neg__(self) -> Span:
        return Span.of(-self.ns)

    def __abs__(self) -> Span:
        return Span.of(abs(self.ns))

    def __mul__(self, times: float) -> Span:
        return Span.of(round(self.ns * times))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, timedelta):
            return self.ns / timedelta_ns(other)
        return Span.of(round(self.ns / other))

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, timedelta):
            return self.ns // timedelta_ns(other)
        return Span.of(self.ns // other)

    def __mod__(self, other: timedelta) -> Span:
        return Span.of(self.ns % timedelta_ns(other))

    def __bool__(self) -> bool:
        return self.ns != 0

    def total_seconds(self) -> float:
        """Length in seconds, as near as a double comes."""
        return self.ns / _NS_PER_SECOND


class Instant(datetime):
    """A UTC datetime that keeps its nanoseconds; what ``Clock.now`` gives to reactivex."""

    ns: int

    @classmethod
    def at(cls, ns: int) -> Instant:
        """Make the instant ``ns`` nanoseconds after the Unix epoch."""
        whole = _EPOCH + timedelta(microseconds=ns // _NS_PER_US)
        instant = cls(
            whole.year, whole.month, whole.day, whole.hour, whole.minute, whole.second,
            whole.microsecond, tzinfo=UTC,
        )  # fmt: skip
        instant.ns = ns
        return instant

    def __add__(self, other: timedelta) -> Instant:
        return (
            Instant.at(self.ns + timedelta_ns(other))
            if isinstance(other, timedelta)
            else NotImplemented
        )

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, datetime):
            return Span.of(self.ns - datetime_ns(other))
        return (
            Instant.at(self.ns - timedelta_ns(other))
            if isinstance(other, timedelta)
            else NotImplemented
        )

    def __rsub__(self, other: Any) -> Any:
        return Span.of(datetime_ns(other) - self.ns)

    def __eq__(self, other: object) -> bool:
        # As with plain ones, what has no time zone is unequal and no error.
        if not isinstance(other, datetime) or other.tzinfo is None:
            return False
        return self.ns == datetime_ns(other)

    def __lt__(self, other: Any) -> bool:
        return self.ns < datetime_ns(other)

    def __le__(self, other: Any) -> bool:
        return self.ns <= datetime_ns(other)

    def __gt__(self, other: Any) -> bool:
        return self.ns > datetime_ns(other)

    def __ge__(self, other: Any) -> bool:
        return self.ns >= datetime_ns(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    # Equal to a plain one means equal in whole microseconds, which is what the base hashes.
    __hash__ = datetime.__hash__


def iso(ts: int) -> str:
    """Write an instant as ISO 8601, UTC, with all nine decimals.

    >>> iso(1_781_703_000_265_336_495)
    '2026-06-17T13:30:00.265336495Z'
    """
    return f"{Instant.at(ts):%Y-%m-%dT%H:%M:%S}.{ts % _NS_PER_SECOND:09d}Z"
