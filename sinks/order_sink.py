"""The order sink: an observer of decisions that works towards the latest one."""

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

from msgspec.structs import replace
from reactivex import abc
from reactivex.disposable import Disposable

from sinks.orders import (
    ADOPTED,
    IN_FLIGHT,
    OPEN,
    PENDING_CANCEL,
    PENDING_MODIFY,
    PENDING_NEW,
    QUERIED,
    Order,
    Orders,
)
from sinks.venue import Cancel, Command, Create, Modify, Query, Venue
from streams.clock import NEVER, Clock
from streams.events import BUY, SELL, AccountEvent, Decision, OrderUpdate
from streams.instrument import may_buy, may_sell

__all__ = ["LONGEST_WAIT_NS", "OrderSink", "ReplacePolicy"]

ReplacePolicy = Literal["cancel_create", "modify", "keep", "cancel_all"]

Level: TypeAlias = tuple[int, int, int]
"""A wanted order: side, price, size."""

_SIDES: Final = (BUY, SELL)
_TRIES: Final = 3
"""How often a refused cancel or closing order is sent again at once."""
LONGEST_WAIT_NS: Final = 60 * 10**9
"""How long the sink waits at most before it asks (again) what became of an order."""


class OrderSink(abc.ObserverBase[Decision]):
    """Compares wanted with working orders and sends the fewest transactions, post-only always.

    A level whose price and size stay is never touched. Cancels go first in every batch, then
    modifies, then creates. A new order waits while the worst case (position, plus all that is open
    or in flight on its side, what is being cancelled included) would pass ``max_position``; it is
    sent when the venue's answers make room, unless a newer decision came.
    """

    def __init__(
        self,
        venue: Venue,
        *,
        max_position: int,
        expire_ns: int | None = None,
        replace: ReplacePolicy = "cancel_create",
        flatten: bool = False,
        position: int = 0,
        clock: Clock | None = None,
        in_flight_ns: int = 5 * 10**9,
        stop_ns: int = 10 * 10**9,
        max_batch: int = 15,
        notify: Callable[[OrderUpdate], None],
        on_order: Callable[[Order], None],
        on_fill: Callable[[Order, AccountEvent], None],
        on_decision: Callable[[Decision], None],
        on_adopted: Callable[[OrderUpdate], None] = lambda update: None,
    ) -> None:
        """Wire the sink.

        ``replace`` says what becomes of an order whose level moved: ``cancel_create`` replaces it,
        ``modify`` moves it (one transaction; it loses its place in the queue, and is lost if it
        would cross), ``keep`` leaves it as long as its side is quoted at all, ``cancel_all``
        replaces everything with each target, as the tutorial does. ``flatten``: close the position
        with a market order on stop. ``clock``: with it, an order whose answer is overdue by
        ``in_flight_ns`` is asked for (``Query``), refused cancels are repeated without end, and a
        stop ends after ``stop_ns`` at the latest. ``max_batch``: how many commands the venue takes
        at once. ``notify`` gets each change of our orders, for the graph; the ``on_`` callbacks
        feed the journal (``on_order`` once at creation; the order then changes in place).
        Units: 1e-9 base units, ns.
        """
        self.orders = Orders(position)
        self.error: Exception | None = None
        """What ended the graph, if it failed."""
        self.stopping = False
        self.finished = False
        """True once a stop is complete, or its time was over."""
        self.left: list[Order] = []
        """Orders that the venue had not confirmed as gone when the time to stop was over."""
        self.fair_value: float | None = None
        """What the latest priced decision was centred on, quote currency."""
        self._venue = venue
        self._max_position = max_position
        self._expire_ns = expire_ns
        self._replace = replace
        self._flatten = flatten
        self._clock = clock
        self._in_flight_ns = in_flight_ns
        self._stop_ns = stop_ns
        self._max_batch = max_batch
        self._flattenings = 0
        self._gave_up = False
        self._batches = 0
        self._connected = True
        self._doubtful: set[int] = set()
        self._look_ts = NEVER
        self._timer: abc.DisposableBase = Disposable()
        self._assigned: dict[int, Level] = {}
        self._waiting: list[Level] = []
        self._notify = notify
        self._on_order = on_order
        self._on_fill = on_fill
        self._on_decision = on_decision
        self._on_adopted = on_adopted

    # ------------------------------------------------------------ what is wanted

    def on_next(self, value: Decision) -> None:
        """Work towards a decision; ``hold`` and ``refuse`` change nothing of what is wanted."""
        self._on_decision(value)
        if value.anchor is not None:
            self.fair_value = value.anchor
        if self.stopping or value.action in ("hold", "refuse"):
            return
        self._aim([] if value.action == "withdraw" else _levels(value))
        if value.action == "retract":
            self._waiting = []  # It only takes away: what is missing comes with the next target.
        self._pursue(value.ts)

    def on_error(self, error: Exception) -> None:
        """Remember what ended the graph; the caller stops the sink and reports."""
        self.error = error

    def on_completed(self) -> None:
        """Nothing: the end of the quotes is not the order to stop."""

    def stop(self, ts: int) -> None:
        """Cancel everything; with ``flatten`` close the position once nothing works any more.

        ``finished`` tells when the venue has confirmed it all, or when ``stop_ns`` is over; then
        ``left`` are the orders whose end it did not confirm.
        """
        if self.stopping:
            return
        self.stopping = True
        self._aim([])
        if self._clock is not None:
            self._clock.schedule_ns(ts + self._stop_ns, self._give_up)
        self._pursue(ts)
        self._close_when_alone(ts)

    # ------------------------------------------------------------ what the venue says

    def on_account(self, event: AccountEvent) -> None:
        """Take an answer of the venue, and send what it makes room for."""
        if event.kind == "stop":
            self.stop(event.ts)
            return
        if event.kind == "position" and event.reason == ADOPTED:
            update = self.orders.adopt(event.ts, event.qty or 0, event.px)
            if update is not None:
                self._notify(update)
                self._on_adopted(update)
            return
        if event.kind == "position":
            if event.qty != self.orders.position:
                self.orders.anomalies["position by fills is not the venue's"] += 1
            return
        if event.kind == "disconnect":
            self._connected = False
            self.orders.anomalies["disconnected from the venue"] += 1
            return
        if event.kind == "connect":
            self._reconnect(event.ts)
            return
        update = self.orders.apply(event)
        if event.n is not None and (_tells_state(event) or event.n not in self.orders.working):
            self._doubtful.discard(event.n)
        if update is not None:
            self._notify(update)
            if update.filled:
                self._on_fill(self.orders.find(update.n), event)
            self._reassign(event, update)
        self._pursue(event.ts, event)
        if self.stopping:
            self._close_when_alone(event.ts)

    def _reassign(self, event: AccountEvent, update: OrderUpdate) -> None:
        """Keep what orders are for in step with what became of them."""
        if not update.leaves:
            self._assigned.pop(update.n, None)
        elif event.kind == "modify_reject" or (event.kind == "ack" and event.reason == QUERIED):
            # It may stand where it stood: then its level is wanted anew.
            order, level = self.orders.working[update.n], self._assigned.get(update.n)
            if (
                level is not None
                and self._replace == "modify"
                and level[1:] != (order.wanted_px, order.wanted_size)
            ):
                del self._assigned[update.n]
                self._waiting.append(level)
                self._waiting.sort(key=_inside_out)

    def _reconnect(self, ts: int) -> None:
        """After a gap nothing is known for sure: ask for every order before anything is sent."""
        self._connected = True
        self._doubtful = set(self.orders.working)
        for order in self.orders.working.values():
            order.unanswered = order.stale_answers = 0  # What was asked before the gap is lost.
        self._submit(ts, [self._query(ts, order) for order in self.orders.working.values()])
        self._pursue(ts)
        if self.stopping:
            self._close_when_alone(ts)

    # ------------------------------------------------------------ from wanted to working

    def _aim(self, levels: list[Level]) -> None:
        """Say what is wanted from now on; orders that stand there already are left alone."""
        self._waiting = levels
        self._assigned = {}
        if self._replace == "cancel_all":
            return
        self._keep(lambda order: (order.side, order.wanted_px, order.wanted_size))
        if self._replace == "keep":
            self._keep(lambda order: (order.side, None, order.wanted_size))

    def _keep(self, serves: Callable[[Order], tuple[int, int | None, int]]) -> None:
        """Assign each order the first level that it serves; without a price it serves any."""
        for order in self.orders.working.values():
            if order.state == PENDING_CANCEL or order.px is None or order.n in self._assigned:
                continue
            its_side, its_px, its_size = serves(order)
            for i, (side, px, size) in enumerate(self._waiting):
                if side == its_side and its_px in (None, px) and size == its_size:
                    self._assigned[order.n] = self._waiting.pop(i)
                    break

    def _pursue(self, ts: int, event: AccountEvent | None = None) -> None:
        """Send what brings the working orders to the wanted ones."""
        if not self._connected:
            return
        commands: list[tuple[Command, OrderUpdate | None]] = []
        moves: list[tuple[Command, OrderUpdate | None]] = []
        refused = event.n if event is not None and event.kind == "cancel_reject" else None
        # Over its limits the venue would refuse the same again, and count it.
        limited = event is not None and (event.reason or "").startswith("23")
        # All that works may be assigned and nothing wait: the usual case, and the fast one.
        if len(self._assigned) < len(self.orders.working):
            for order in list(self.orders.working.values()):
                if order.n in self._assigned or order.state == PENDING_CANCEL or order.px is None:
                    continue
                if order.n == refused and (limited or order.cancels >= _TRIES):
                    order.cancels = max(order.cancels, _TRIES)
                    if order.cancels == _TRIES:
                        self.orders.anomalies["a cancel was refused again and again"] += 1
                    order.asked_ts = ts
                    self._watch(ts)
                    continue
                if order.cancels >= _TRIES and ts < order.asked_ts + self._patience(order):
                    self._watch(ts)
                    continue
                if self._replace == "modify" and self._moves(ts, order, moves):
                    continue
                commands.append(self._cancel(ts, order))
        commands += self._cancels_for_room(ts) + moves
        if self._waiting and not self._doubtful:
            commands += self._creates(ts)
        self._submit(ts, commands)

    def _moves(
        self, ts: int, order: Order, moves: list[tuple[Command, OrderUpdate | None]]
    ) -> bool:
        """Give a stray order a level that waits, if there is one; say if it shall live."""
        level = next((level for level in self._waiting if level[0] == order.side), None)
        if level is None or order.modifies_refused:
            return False
        if order.state in (PENDING_NEW, PENDING_MODIFY):
            return True  # It cannot be moved before the venue has answered.
        side, px, size = level
        more = max(0, order.filled + size - order.qty)
        room = may_buy if side == BUY else may_sell
        if not room(self.orders.worst_case(side), more, self._max_position):
            return False
        self._waiting.remove(level)
        self._assigned[order.n] = level
        total, update = self.orders.ask_modify(ts, order, px, size)
        moves.append((Modify(order.n, px, total), update))
        return True

    def _cancels_for_room(self, ts: int) -> list[tuple[Command, OrderUpdate | None]]:
        """Cancel what a late fill left without room."""
        commands: list[tuple[Command, OrderUpdate | None]] = []
        for side in _SIDES:
            if side * self.orders.worst_case(side) <= self._max_position:
                continue
            # Newest first, and not more than it takes: what is being cancelled will be gone.
            keeps = [order for order in self.orders.on_side(side) if order.state != PENDING_CANCEL]
            room = self._max_position - side * self.orders.position
            while keeps and sum(order.leaves for order in keeps) > room:
                order = keeps.pop()
                if order.px is None:
                    continue
                self._assigned.pop(order.n, None)
                if order.cancels < _TRIES:
                    commands.append(self._cancel(ts, order))
                else:
                    self._watch(ts)
        return commands

    def _creates(self, ts: int) -> list[tuple[Command, OrderUpdate | None]]:
        commands: list[tuple[Command, OrderUpdate | None]] = []
        waiting, self._waiting = self._waiting, []
        # A level may be about to be served by an order that waits for its own answer first.
        strays = [o for o in self.orders.working.values() if o.n not in self._assigned]
        movable = {
            side: sum(
                1
                for o in strays
                if self._replace == "modify"
                and o.side == side
                and o.state in (PENDING_NEW, PENDING_MODIFY)
            )
            for side in _SIDES
        }
        for level in waiting:
            side, px, qty = level
            room = may_buy if side == BUY else may_sell
            if movable[side]:
                movable[side] -= 1
                self._waiting.append(level)
            elif room(self.orders.worst_case(side), qty, self._max_position):
                command, update = self._create(ts, side, px, qty)
                self._assigned[command.n] = level
                commands.append((command, update))
            else:
                self._waiting.append(level)
        return commands

    def _cancel(self, ts: int, order: Order) -> tuple[Command, OrderUpdate]:
        return Cancel(order.n), self.orders.ask_cancel(ts, order)

    def _query(self, ts: int, order: Order) -> tuple[Query, None]:
        self.orders.ask_query(ts, order)
        return Query(order.n), None

    def _create(self, ts: int, side: int, px: int | None, qty: int) -> tuple[Create, OrderUpdate]:
        order, update = self.orders.create(ts, side, px, qty)
        self._on_order(order)
        expire_ts = None if px is None or self._expire_ns is None else ts + self._expire_ns
        return Create(order.n, side, px, qty, expire_ts), update

    def _submit(self, ts: int, commands: list[tuple[Command, OrderUpdate | None]]) -> None:
        for start in range(0, len(commands), self._max_batch):
            batch = commands[start : start + self._max_batch]
            self._batches += 1
            for _, update in batch:
                if update is not None:
                    self._notify(replace(update, batch=self._batches))
            self._venue.submit(ts, [command for command, _ in batch])
        if commands:
            self._watch(ts)

    # ------------------------------------------------------------ overdue answers

    def _patience(self, order: Order) -> int:
        """How long to wait before an order is asked for (again): doubling, up to a minute."""
        doublings = min(max(order.queries, order.cancels - _TRIES), 40)
        return min(self._in_flight_ns << max(doublings, 0), LONGEST_WAIT_NS)

    def _watch(self, ts: int) -> None:
        """Have one timer out while the venue owes an answer, for the first that is due."""
        if self._clock is None:
            return
        due = max(
            min((o.asked_ts + self._patience(o) for o in self._owed()), default=NEVER), ts + 1
        )
        if due < self._look_ts:
            self._timer.dispose()
            self._look_ts = due
            self._timer = self._clock.schedule_ns(due, self._look)

    def _owed(self) -> Iterable[Order]:
        return (
            order
            for order in self.orders.working.values()
            if order.state in IN_FLIGHT
            or order.suspect
            or order.n in self._doubtful
            or self._is_refused(order)
        )

    def _is_refused(self, order: Order) -> bool:
        """Tell whether an order works on although it was to be cancelled again and again."""
        return order.cancels >= _TRIES and order.n not in self._assigned and order.px is not None

    def _look(self, _: object, __: object = None) -> None:
        """Ask the venue about every order whose answer is overdue."""
        assert self._clock is not None
        self._look_ts = NEVER
        ts = self._clock.now_ns
        if self.finished:
            return
        if self._connected:
            overdue = [o for o in self._owed() if o.asked_ts + self._patience(o) <= ts]
            self.orders.anomalies["no answer in time: asked the venue"] += len(overdue)
            again = [o for o in overdue if o.state == OPEN and self._is_refused(o)]
            commands: list[tuple[Command, OrderUpdate | None]]
            commands = [self._cancel(ts, o) for o in again]
            commands += [self._query(ts, o) for o in overdue]
            self._submit(ts, commands)
        else:
            for order in self._owed():
                order.asked_ts = ts
        self._watch(ts)

    # ------------------------------------------------------------ the end

    def _close_when_alone(self, ts: int) -> None:
        """Close what a late fill may have opened since the last look, too."""
        position = self.orders.position
        if self._gave_up or self.orders.working:
            return
        if not self._flatten or not position:
            self.finished = True
            return
        if self._flattenings >= _TRIES:
            if not self.finished:
                self.orders.anomalies["position left open: the closing order was refused"] += 1
            self.finished = True
            return
        self.finished = False
        if not self._connected:
            return
        self._flattenings += 1
        side = SELL if position > 0 else BUY
        self._submit(ts, [self._create(ts, side, None, abs(position))])

    def _give_up(self, _: object, __: object = None) -> None:
        self._gave_up = True
        if self.finished:
            return
        self.finished = True
        self.left = list(self.orders.working.values())
        if self.left:
            self.orders.anomalies["left working: not confirmed in time"] += len(self.left)


def _tells_state(event: AccountEvent) -> bool:
    """Tell whether this ends the answer to a question; repeated fills only begin it."""
    return event.reason == QUERIED and event.kind != "fill"


def _inside_out(level: Level) -> tuple[int, int]:
    """Sort key: bids, then asks, each from the inside out."""
    side, px, _ = level
    return -side, -side * px


def _levels(decision: Decision) -> list[Level]:
    """Spell out the levels of a target: bids, then asks, each from the inside out."""
    assert decision.qty is not None
    levels: list[Level] = []
    for side, px, count in (
        (BUY, decision.bid_px, decision.bid_levels),
        (SELL, decision.ask_px, decision.ask_levels),
    ):
        if px is not None:
            step = side * decision.level_step
            levels += [(side, px - i * step, decision.qty) for i in range(max(count, 1))]
    return levels
