"""Time and order: the integer-nanosecond scheduler and the pump that feeds a graph.

reactivex's own virtual clocks count microseconds in datetimes, jump ahead or deadlock when many
actions fall due at one instant, and cannot be driven by a recording. This one counts integer
nanoseconds, runs on one thread, runs each action to completion, and moves only when the pump says.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from reactivex import Observable, abc, typing
from reactivex.disposable import Disposable, SingleAssignmentDisposable
from reactivex.scheduler import TimeoutScheduler
from reactivex.scheduler.periodicscheduler import PeriodicScheduler

from streams.events import AccountEvent, OrderUpdate, OutOfOrderError, Quote
from streams.instant import Instant, Span, datetime_ns, seconds_ns, timedelta_ns

__all__ = [
    "ACCOUNT",
    "NEVER",
    "SIGNAL",
    "TARGET",
    "Clock",
    "Hot",
    "Inputs",
    "Pump",
    "SimulatedTime",
    "no_thread_timers",
]

NEVER: Final = 2**63 - 1
"""Later than every timestamp."""

_NS_PER_SECOND: Final = 1_000_000_000
_ACTIONS_PER_INSTANT: Final = 1_000_000
"""More actions than this at one instant can only be an action that keeps scheduling itself."""

_State = TypeVar("_State")
_Item = TypeVar("_Item")


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


class Hot(Observable[_Item], Generic[_Item]):
    """A hot source without locks: what the pump pushes into.

    reactivex's Subject takes a lock and copies its observers for every item. Everything here runs
    on one thread, so with one subscriber ``push`` *is* that subscriber's ``on_next``.
    """

    push: Callable[[_Item], None]
    """Hand one item to all subscribers, in the order they subscribed."""

    def __init__(self) -> None:
        """Start without subscribers."""
        super().__init__()
        self._observers: list[abc.ObserverBase[_Item]] = []
        self._refresh()

    def _refresh(self) -> None:
        observers = tuple(self._observers)
        if len(observers) == 1:
            self.push = observers[0].on_next
            return

        def push(item: _Item) -> None:
            for observer in observers:
                observer.on_next(item)

        self.push = push

    def _subscribe_core(
        self, observer: abc.ObserverBase[_Item], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        self._observers.append(observer)
        self._refresh()

        def leave() -> None:
            if observer in self._observers:
                self._observers.remove(observer)
                self._refresh()

        return Disposable(leave)

    def on_completed(self) -> None:
        """Tell all subscribers that nothing more will come."""
        for observer in tuple(self._observers):
            observer.on_completed()


class SimulatedTime(Protocol):
    """What the pump needs of a venue whose answers come in simulated time."""

    next_due_ns: int
    """When the earliest command takes effect; ``NEVER`` when none is on its way."""

    def advance(self, until_ns: int) -> None:
        """Let the commands take effect that arrive at or before ``until_ns``."""

    def on_quote(self, ts: int, bid_px: int | None, ask_px: int | None) -> None:
        """Match and expire resting orders against a new book, before the graph sees it."""


SIGNAL: Final = 1
TARGET: Final = 2
ACCOUNT: Final = 0


class Inputs(Struct):
    """A batch of inputs in order, column by column; see ``streams.recording``."""

    kind: Sequence[int]
    """ACCOUNT, SIGNAL or TARGET; the numbers are also the order of ties."""
    ts: Sequence[int]
    ts_event: Sequence[int | None]
    bid_px: Sequence[int | None]
    ask_px: Sequence[int | None]
    bid_sz: Sequence[int | None]
    ask_sz: Sequence[int | None]
    flags: Sequence[int]
    seq: Sequence[int] | None = None
    """Recorded sequence numbers; ``None`` when the pump numbers the inputs."""
    account: Sequence[AccountEvent] = ()
    """The events behind the ACCOUNT rows, in order."""


class Pump:
    """Delivers inputs one at a time, in order, with the clock where it belongs.

    For each input: timers due at or before its ``ts`` fire, each at its own due time; the clock is
    set; the input is delivered; then what sinks and the venue produced meanwhile is delivered, as
    inputs of their own. Nothing is delivered inside the ``on_next`` that caused it.

    >>> pump, seen = Pump(Clock()), []
    >>> mids = pump.signal.subscribe(lambda quote: seen.append((quote.seq, quote.ts)))
    >>> pump.run(Inputs([SIGNAL] * 2, [7, 8], [None] * 2, [1, 1], [3, 3], [1, 1], [1, 1], [0, 0]))
    [1, 2]
    >>> seen
    [(1, 7), (2, 8)]
    """

    def __init__(self, clock: Clock, venue: SimulatedTime | None = None) -> None:
        """Take the clock that operators are scheduled on, and the venue when it is simulated."""
        self.clock = clock
        self.venue = venue
        self.seq = 0
        """Sequence number of the input delivered last."""
        self.signal: Hot[Quote] = Hot()
        self.target: Hot[Quote] = Hot()
        self.account: Hot[AccountEvent] = Hot()
        self.orders: Hot[OrderUpdate] = Hot()
        self._answers: deque[AccountEvent] = deque()
        self._notices: deque[OrderUpdate] = deque()

    def answer(self, event: AccountEvent) -> None:
        """Queue what the venue says; it becomes an input, and is numbered and stamped in turn."""
        self._answers.append(event)

    def notify(self, update: OrderUpdate) -> None:
        """Queue a change of our own orders; it is delivered once the present ``on_next`` is over.

        It is no input: it follows from inputs, and has no sequence number.
        """
        self._notices.append(update)

    def run(self, inputs: Inputs) -> list[int]:
        """Deliver a batch; return the sequence number that each of its rows got.

        Errors: OutOfOrderError when a row is older than the one before it.
        """
        clock, venue = self.clock, self.venue
        answers, notices = self._answers, self._notices
        signal, target = self.signal, self.target
        on_quote = venue.on_quote if venue is not None else None
        account = iter(inputs.account)
        seqs: list[int] = []
        number = seqs.append
        recorded = repeat(None) if inputs.seq is None else inputs.seq
        seq, now = self.seq, clock.now_ns
        for kind, ts, ts_event, bid_px, ask_px, bid_sz, ask_sz, flags, given in zip(
            inputs.kind, inputs.ts, inputs.ts_event, inputs.bid_px, inputs.ask_px,
            inputs.bid_sz, inputs.ask_sz, inputs.flags, recorded, strict=False,
        ):  # fmt: skip
            if ts < now:
                raise OutOfOrderError(
                    f"input after seq {seq} has ts {ts} ns, {now - ts} ns before the one before it "
                    f"({now} ns); inputs must not go back in time"
                )
            now = ts
            if ts >= clock.next_due_ns or (venue is not None and ts >= venue.next_due_ns):
                self.advance(ts)
                seq = self.seq
            clock.now_ns = ts
            if kind == TARGET and on_quote is not None:
                on_quote(ts, bid_px, ask_px)
                if answers:
                    self._settle()
                    self.advance(ts)  # what the answers scheduled for this very instant
                    seq = self.seq
            seq = seq + 1 if given is None else given
            self.seq = seq
            number(seq)
            if kind == ACCOUNT:
                self.account.push(replace(next(account), seq=seq, ts=ts))
            else:
                feed = target if kind == TARGET else signal
                feed.push(Quote(seq, ts, ts_event, bid_px, ask_px, bid_sz, ask_sz, flags))
            if notices or answers:
                self._settle()
                seq = self.seq
        return seqs

    def advance(self, until_ns: int) -> None:
        """Let time pass without an input: fire timers and let the venue answer, in due order."""
        clock, venue = self.clock, self.venue
        while True:
            venue_due = NEVER if venue is None else venue.next_due_ns
            if clock.next_due_ns <= min(until_ns, venue_due):
                self._fire(clock.next_due_ns)
            elif venue is not None and venue_due <= until_ns:
                clock.now_ns = venue_due
                venue.advance(venue_due)
            else:
                break
            self._settle()
        clock.now_ns = max(clock.now_ns, until_ns)

    def settle(self) -> None:
        """Deliver whatever is queued, and wait for every command on its way to the venue."""
        self._settle()
        while self.venue is not None and self.venue.next_due_ns != NEVER:
            self.advance(self.venue.next_due_ns)

    def _fire(self, until_ns: int) -> None:
        while self.clock.next_due_ns <= until_ns:
            self.clock.fire_next()
            self._tell()

    def _tell(self) -> None:
        notices = self._notices
        while notices:
            self.orders.push(notices.popleft())

    def _settle(self) -> None:
        self._tell()
        answers, clock = self._answers, self.clock
        while answers:
            if clock.next_due_ns <= clock.now_ns:
                self._fire(clock.now_ns)
            self.seq += 1
            self.account.push(replace(answers.popleft(), seq=self.seq, ts=clock.now_ns))
            self._tell()
