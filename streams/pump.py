"""Order: the pump that delivers inputs to graphs, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from streams.clock import NEVER, Clock
from streams.events import AccountEvent, OrderUpdate, OutOfOrderError, Quote, Status, Trade

__all__ = [
    "ACCOUNT",
    "MAX_SIGNALS",
    "PAIR",
    "SIGNAL",
    "STATUS",
    "TARGET",
    "TRADE",
    "Event",
    "Hot",
    "Inputs",
    "Market",
    "Pump",
    "SimulatedTime",
]

_Item = TypeVar("_Item")

Event: TypeAlias = AccountEvent | Status | Trade
"""An input that is no quote."""

ACCOUNT: Final = 0
STATUS: Final = 1
SIGNAL: Final = 2
"""The first signal; the second is ``SIGNAL + 1`` and so on."""
MAX_SIGNALS: Final = 7
TRADE: Final = 9
TARGET: Final = 10
PAIR: Final = 16
"""Kinds of the second market are these plus ``PAIR``, of the third plus twice that."""


class _Direct:
    """An operator's functions as an observer, called as they are until it completes or leaves."""

    def __init__(
        self,
        on_next: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        on_completed: Callable[[], None],
    ) -> None:
        self.on_next, self.on_error = on_next, on_error
        self.subscription: abc.DisposableBase = Disposable()
        self._on_completed = on_completed

    def on_completed(self) -> None:
        self.subscription.dispose()
        self._on_completed()

    def stop(self) -> None:
        """Take nothing more, not even of an item that is just being handed to all."""
        self.on_next = _ignore


def _ignore(_: object) -> None:
    """Do nothing."""


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

    def chain(
        self,
        on_next: abc.OnNext[_Item],
        on_error: abc.OnError,
        on_completed: abc.OnCompleted,
        scheduler: abc.SchedulerBase | None,
    ) -> abc.DisposableBase:
        """Subscribe an operator; see ``operators.operator``, ``Link``."""
        direct = _Direct(on_next, on_error, on_completed)
        direct.subscription = CompositeDisposable(
            Disposable(direct.stop),
            self._subscribe_core(cast("abc.ObserverBase[_Item]", direct), scheduler),
        )
        return direct.subscription

    def on_completed(self) -> None:
        """Tell all subscribers that nothing more will come."""
        for observer in tuple(self._observers):
            observer.on_completed()


class SimulatedTime(Protocol):
    """What the pump needs of a venue whose answers come in simulated time."""

    @property
    def next_due_ns(self) -> int:
        """When the earliest command takes effect; ``NEVER`` when none is on its way."""

    def advance(self, until_ns: int) -> None:
        """Let the commands take effect that arrive at or before ``until_ns``."""

    def on_quote(
        self,
        ts: int,
        bid_px: int | None,
        ask_px: int | None,
        bid_sz: int | None,
        ask_sz: int | None,
    ) -> None:
        """Match and expire resting orders against a new book, before the graph sees it."""

    def on_trade(self, trade: Trade) -> None:
        """Match resting orders against a public trade, before the graph sees it."""


class Inputs(Struct):
    """A batch of inputs in order, column by column; see ``streams.recording``."""

    kind: Sequence[int]
    """ACCOUNT, STATUS, SIGNAL, TRADE or TARGET; the numbers are also the order of ties."""
    ts: Sequence[int]
    ts_event: Sequence[int | None]
    bid_px: Sequence[int | None]
    ask_px: Sequence[int | None]
    bid_sz: Sequence[int | None]
    ask_sz: Sequence[int | None]
    flags: Sequence[int]
    seq: Sequence[int] | None = None
    """Recorded sequence numbers; ``None`` when the pump numbers the inputs."""
    events: Sequence[Event] = ()
    """What stands behind the rows that are no quotes, in order."""


class Market:
    """The inputs of one target and its signals, and what becomes of our orders there."""

    def __init__(self, signals: int = 1) -> None:
        """Open the sources; nothing flows before the pump runs."""
        self.signals: list[Hot[Quote]] = [Hot() for _ in range(signals)]
        self.target: Hot[Quote] = Hot()
        self.trades: Hot[Trade] = Hot()
        self.status: Hot[Status] = Hot()
        self.account: Hot[AccountEvent] = Hot()
        """What the venue says about our account: inputs."""
        self.orders: Hot[OrderUpdate] = Hot()
        """Changes of our own orders: they follow from inputs and have no sequence number."""


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

    def __init__(
        self,
        clock: Clock,
        *venues: SimulatedTime,
        markets: Sequence[Market] | None = None,
    ) -> None:
        """Take the clock that operators are scheduled on, and the venues that are simulated.

        With venues there is one for each market, in the same order.
        """
        self.clock = clock
        self.markets = [Market()] if markets is None else list(markets)
        self.venues = venues
        self.seq = 0
        """Sequence number of the input delivered last."""
        first = self.markets[0]
        self.signal, self.target = first.signals[0], first.target
        self.account, self.orders = first.account, first.orders
        self._venue = venues[0] if len(venues) == 1 else _Together(venues) if venues else None
        self.record: Callable[[int, Quote | Event], None] | None = None
        """Told each input with its kind, numbered and stamped, before it is delivered."""
        self._answers: deque[tuple[int, AccountEvent]] = deque()
        self._notices: deque[tuple[Market, OrderUpdate]] = deque()
        # By kind: a list is quicker to look into than a dictionary.
        kinds = len(self.markets) * PAIR
        self._feeds: list[Hot[Quote] | None] = [None] * kinds
        self._others: dict[int, Hot[AccountEvent] | Hot[Status] | Hot[Trade]] = {}
        self._matchers: list[SimulatedTime | None] = [None] * kinds
        for i, market in enumerate(self.markets):
            base = i * PAIR
            for k, signal in enumerate(market.signals):
                self._feeds[base + SIGNAL + k] = signal
            self._feeds[base + TARGET] = market.target
            self._others[base + TRADE] = market.trades
            self._others[base + STATUS] = market.status
            self._others[base + ACCOUNT] = market.account
            if venues:
                self._matchers[base + TARGET] = self._matchers[base + TRADE] = venues[i]

    def answer(self, event: AccountEvent, market: int = 0) -> None:
        """Queue what the venue says; it becomes an input, and is numbered and stamped in turn."""
        self._answers.append((market, event))

    def notify(self, update: OrderUpdate, market: int = 0) -> None:
        """Queue a change of our own orders; it is delivered once the present ``on_next`` is over.

        It is no input: it follows from inputs, and has no sequence number.
        """
        self._notices.append((self.markets[market], update))

    def run(self, inputs: Inputs) -> list[int]:
        """Deliver a batch; return the sequence number that each of its rows got.

        Errors: OutOfOrderError when a row is older than the one before it.
        """
        clock = self.clock
        # Without a venue the clock stands in: it is asked twice, which is quicker than a question.
        venue = clock if self._venue is None else self._venue
        answers, notices, record = self._answers, self._notices, self.record
        feeds, matchers = self._feeds, self._matchers
        events = iter(inputs.events)
        seqs: list[int] = []
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
            if ts >= clock.next_due_ns or ts >= venue.next_due_ns:
                self.advance(ts)
                seq = self.seq
            clock.now_ns = ts
            feed = feeds[kind]
            if feed is None:
                seqs.append(self._deliver(kind, next(events), given))
            else:
                matcher = matchers[kind]
                if matcher is not None:
                    matcher.on_quote(ts, bid_px, ask_px, bid_sz, ask_sz)
                    if answers:
                        self._settle_before_input()
                        seq = self.seq
                seq = seq + 1 if given is None else given
                self.seq = seq
                seqs.append(seq)
                quote = Quote(seq, ts, ts_event, bid_px, ask_px, bid_sz, ask_sz, flags)
                if record is not None:
                    record(kind, quote)
                push = feed.push  # an attribute: looking up a method first would cost more
                push(quote)
            if notices or answers or feed is None:
                self._settle()
                seq = self.seq
        return seqs

    def _deliver(self, kind: int, event: Event, given: int | None) -> int:
        """Deliver an input that is no quote at the present instant; return its number."""
        ts = self.clock.now_ns
        matcher = self._matchers[kind]
        if matcher is not None:
            assert type(event) is Trade
            matcher.on_trade(event)
            if self._answers:
                self._settle_before_input()
        seq = self.seq = self.seq + 1 if given is None else given
        event = replace(event, seq=seq, ts=ts)
        if self.record is not None:
            self.record(kind, event)
        self._others[kind].push(event)  # type: ignore[arg-type]
        return seq

    def _settle_before_input(self) -> None:
        """Deliver what the venue made of an input that the graph has not seen yet."""
        self._settle()
        self.advance(self.clock.now_ns)  # what the answers scheduled for this very instant

    def advance(self, until_ns: int) -> None:
        """Let time pass without an input: fire timers and let the venue answer, in due order."""
        clock, venue = self.clock, self._venue
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

    @property
    def next_due_ns(self) -> int:
        """When the next timer or answer of a simulated venue is due; ``NEVER`` when none is."""
        venue_due = NEVER if self._venue is None else self._venue.next_due_ns
        return min(self.clock.next_due_ns, venue_due)

    def settle(self) -> None:
        """Deliver whatever is queued, at the present instant."""
        self._settle()

    def finish(self, done: Callable[[], bool]) -> None:
        """Let time pass, from one timer or answer to the next, until ``done`` or nothing is due."""
        self._settle()
        while not done():
            due = self.next_due_ns
            if due == NEVER:
                return
            self.advance(due)

    def _fire(self, until_ns: int) -> None:
        while self.clock.next_due_ns <= until_ns:
            self.clock.fire_next()
            self._tell()

    def _tell(self) -> None:
        notices = self._notices
        while notices:
            market, update = notices.popleft()
            market.orders.push(update)

    def _settle(self) -> None:
        self._tell()
        answers, clock = self._answers, self.clock
        while answers:
            if clock.next_due_ns <= clock.now_ns:
                self._fire(clock.now_ns)
            self.seq += 1
            market, answer = answers.popleft()
            event = replace(answer, seq=self.seq, ts=clock.now_ns)
            if self.record is not None:
                self.record(market * PAIR + ACCOUNT, event)
            self.markets[market].account.push(event)
            self._tell()


class _Together:
    """Several venues as one: the earliest comes first, ties in the order of the markets."""

    def __init__(self, venues: Sequence[SimulatedTime]) -> None:
        self._venues = venues

    @property
    def next_due_ns(self) -> int:
        return min(venue.next_due_ns for venue in self._venues)

    def advance(self, until_ns: int) -> None:
        for venue in self._venues:
            venue.advance(until_ns)
