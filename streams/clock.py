"""Time: the integer-nanosecond scheduler that a graph runs on.

reactivex's own virtual clocks count microseconds in datetimes, jump ahead or deadlock when many
actions fall due at one instant, and cannot be driven by a recording. This one counts integer
nanoseconds, runs on one thread, runs each action to completion, and moves only when the pump says.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from reactivex import abc, typing
from reactivex.disposable import SingleAssignmentDisposable
from reactivex.scheduler import TimeoutScheduler
from reactivex.scheduler.periodicscheduler import PeriodicScheduler

from streams.events import OutOfOrderError
from streams.instant import Instant, Span, datetime_ns, seconds_ns, timedelta_ns

__all__ = ["NEVER", "Clock", "no_thread_timers"]

NEVER: Final = 2**63 - 1
"""Later than every timestamp."""

_NS_PER_SECOND: Final = 1_000_000_000
_ACTIONS_PER_INSTANT: Final = 1_000_000
"""More actions than this at one instant can only be an action that keeps scheduling itself."""

_State = TypeVar("_State")


class Clock(PeriodicScheduler):
    """A reactivex scheduler in integer ns that stands still until it is advanced.

    Actions fire in (due, creation) order, each with the clock at its due time; an action scheduled
    for the past is due now. Standard reactivex operators run on it when it is their ``scheduler``
    or the one they are subscribed with.

    >>> import reactivex
    >>> clock, seen = Clock(), []
    >>> ticks = reactivex.interval(333e-9).subscribe(
    ...     lambda n: seen.append((clock.now_ns, n)), scheduler=clock
    ... )
    >>> clock.advance(1_000)
    >>> seen
    [(333, 0), (666, 1), (999, 2)]
    """

    def __init__(self, now_ns: int = 0) -> None:
        """Start at ``now_ns``."""
        self.now_ns = now_ns
        """The present, ns since the Unix epoch."""
        self.next_due_ns = NEVER
        """When the earliest scheduled action is due; ``NEVER`` when there is none."""
        self._actions: list[tuple[int, int, SingleAssignmentDisposable, Any, Any]] = []
        self._created = 0
        self._instant = -1
        self._at_instant = 0

    @property
    def now(self) -> Instant:
        """The present as a datetime that keeps its nanoseconds."""
        return Instant.at(self.now_ns)

    @classmethod
    def to_timedelta(cls, value: typing.AbsoluteOrRelativeTime) -> timedelta:
        """Convert seconds or a timedelta to a span that keeps its nanoseconds."""
        if isinstance(value, datetime):
            return Span.of(datetime_ns(value))
        return Span.of(timedelta_ns(value) if isinstance(value, timedelta) else seconds_ns(value))

    @classmethod
    def to_datetime(cls, value: typing.AbsoluteOrRelativeTime) -> datetime:
        """Convert seconds since the epoch or a datetime to an instant."""
        if isinstance(value, datetime):
            return Instant.at(datetime_ns(value))
        return Instant.at(
            timedelta_ns(value) if isinstance(value, timedelta) else seconds_ns(value)
        )

    @classmethod
    def to_seconds(cls, value: typing.AbsoluteOrRelativeTime) -> float:
        """Convert to seconds, as near as a double comes."""
        if isinstance(value, datetime):
            return datetime_ns(value) / _NS_PER_SECOND
        return value.total_seconds() if isinstance(value, timedelta) else value

    def schedule(
        self, action: abc.ScheduledAction[_State], state: _State | None = None
    ) -> abc.DisposableBase:
        """Run ``action`` at the present instant, after what runs now has finished."""
        return self.schedule_ns(self.now_ns, action, state)

    def schedule_relative(
        self,
        duetime: typing.RelativeTime,
        action: abc.ScheduledAction[_State],
        state: _State | None = None,
    ) -> abc.DisposableBase:
        """Run ``action`` after ``duetime``, seconds or a timedelta."""
        wait = timedelta_ns(duetime) if isinstance(duetime, timedelta) else seconds_ns(duetime)
        return self.schedule_ns(self.now_ns + wait, action, state)

    def schedule_absolute(
        self,
        duetime: typing.AbsoluteTime,
        action: abc.ScheduledAction[_State],
        state: _State | None = None,
    ) -> abc.DisposableBase:
        """Run ``action`` at ``duetime``, a datetime or seconds since the epoch."""
        due = datetime_ns(duetime) if isinstance(duetime, datetime) else seconds_ns(duetime)
        return self.schedule_ns(due, action, state)

    def schedule_periodic(
        self,
        period: typing.RelativeTime,
        action: typing.ScheduledPeriodicAction[_State],
        state: _State | None = None,
    ) -> abc.DisposableBase:
        """Run ``action`` every ``period``; the due times are exact multiples, without drift."""
        period_ns = timedelta_ns(period) if isinstance(period, timedelta) else seconds_ns(period)
        if period_ns <= 0:
            raise ValueError(f"a period must be at least 1 ns, was {period!r}")
        running = SingleAssignmentDisposable()
        latest = state

        def tick(_: abc.SchedulerBase, due_ns: Any) -> None:
            nonlocal latest
            if running.is_disposed:
                return
            latest = action(latest)
            if not running.is_disposed:
                self.schedule_ns(due_ns + period_ns, tick, due_ns + period_ns)

        self.schedule_ns(self.now_ns + period_ns, tick, self.now_ns + period_ns)
        return running

    def schedule_ns(
        self, due_ns: int, action: Callable[[abc.SchedulerBase, Any], Any], state: Any = None
    ) -> abc.DisposableBase:
        """Run ``action(clock, state)`` at ``due_ns``; dispose what comes back to cancel it."""
        due_ns = max(due_ns, self.now_ns)
        handle = SingleAssignmentDisposable()
        self._created += 1
        heapq.heappush(self._actions, (due_ns, self._created, handle, action, state))
        self.next_due_ns = self._actions[0][0]
        return handle

    def fire_next(self) -> None:
        """Fire the earliest action, with the clock at its due time.

        Errors: RuntimeError if actions keep scheduling more of themselves at one instant.
        """
        due, _, handle, action, state = heapq.heappop(self._actions)
        self.next_due_ns = self._actions[0][0] if self._actions else NEVER
        if handle.is_disposed:
            return
        self._at_instant = self._at_instant + 1 if due == self._instant else 1
        self._instant = due
        if self._at_instant > _ACTIONS_PER_INSTANT:
            raise RuntimeError(
                f"more than {_ACTIONS_PER_INSTANT} actions at {due} ns: an action keeps "
                f"scheduling itself without letting time pass (the last was {action!r})"
            )
        self.now_ns = due
        handle.disposable = self.invoke_action(action, state)

    def advance(self, until_ns: int) -> None:
        """Fire everything due at or before ``until_ns``, then stand at ``until_ns``.

        Errors: OutOfOrderError if that is in the past.
        """
        if until_ns < self.now_ns:
            raise OutOfOrderError(
                f"the clock stands at {self.now_ns} ns and was asked to go back to {until_ns} ns "
                f"({self.now_ns - until_ns} ns); a clock only goes forward"
            )
        while self.next_due_ns <= until_ns:
            self.fire_next()
        self.now_ns = until_ns


@contextmanager
def no_thread_timers() -> Iterator[None]:
    """Make timed operators that got no scheduler fail instead of starting a thread.

    reactivex falls back to ``TimeoutScheduler.singleton()``, whose timers run on threads of their
    own: a decision would depend on the wall clock. Inside this context that is a RuntimeError.
    """

    def refuse(cls: type[TimeoutScheduler]) -> TimeoutScheduler:
        raise RuntimeError(
            "a timed operator was subscribed without a scheduler and would have started a thread; "
            "give it scheduler=clock, or pass the scheduler on when you subscribe to its source"
        )

    original = TimeoutScheduler.__dict__["singleton"]
    TimeoutScheduler.singleton = classmethod(refuse)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        TimeoutScheduler.singleton = original  # type: ignore[method-assign]
