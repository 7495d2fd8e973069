"""The order sink: an observer of decisions that works towards the latest one."""

from collections.abc import Callable, Sequence
from typing import Literal

from reactivex import abc

from sinks.orders import PENDING_CANCEL, Order, Orders
from sinks.venue import Cancel, Command, Create, Venue
from streams.events import BUY, SELL, AccountEvent, Decision, OrderUpdate
from streams.instrument import may_buy, may_sell

__all__ = ["OrderSink"]

_SIDES = (BUY, SELL)
_TRIES = 3
"""How often a cancel or a closing order that the venue refuses is sent; then it is reported."""


class OrderSink(abc.ObserverBase[Decision]):
    """Compares wanted with working orders and sends the fewest transactions, post-only always.

    Cancels go first in every batch. A new order waits while the worst case (position, plus all
    that is open or in flight on its side, what is being cancelled included) would pass
    ``max_position``; it is sent when the venue's answers make room, unless a newer decision came.
    """

    def __init__(
        self,
        venue: Venue,
        *,
        max_position: int,
        expire_ns: int | None = None,
        replace: Literal["keep", "cancel_all"] = "keep",
        flatten: bool = False,
        position: int = 0,
        notify: Callable[[OrderUpdate], None],
        on_order: Callable[[Order], None],
        on_fill: Callable[[Order, AccountEvent], None],
        on_decision: Callable[[Decision], None],
    ) -> None:
        """Wire the sink.

        ``replace``: ``keep`` leaves an order whose price stays; ``cancel_all`` replaces everything
        with each target, as the tutorial does. ``flatten``: close the position with a market order
        on stop. ``notify`` gets each change of our orders, for the graph; the ``on_`` callbacks
        feed the journal (``on_order`` once at creation; the order then changes in place).
        Units: 1e-9 base units, ns.
        """
        self.orders = Orders(position)
        self.error: Exception | None = None
        """What ended the graph, if it failed."""
        self.stopping = False
        self._venue = venue
        self._max_position = max_position
        self._expire_ns = expire_ns
        self._replace = replace
        self._flatten = flatten
        self._flattenings = 0
        self._waiting: dict[int, tuple[int, int]] = {}
        self._notify = notify
        self._on_order = on_order
        self._on_fill = on_fill
        self._on_decision = on_decision

    def on_next(self, value: Decision) -> None:
        """Work towards a decision; only ``quote`` and ``withdraw`` change what is wanted."""
        self._on_decision(value)
        if self.stopping or value.action in ("hold", "refuse"):
            return
        wanted: dict[int, tuple[int, int]] = {}
        if value.action == "quote":
            assert value.qty is not None
            if value.bid_px is not None:
                wanted[BUY] = (value.bid_px, value.qty)
            if value.ask_px is not None:
                wanted[SELL] = (value.ask_px, value.qty)
        self._waiting = {}
        commands: list[Command] = []
        for order in self.orders.working.values():
            if self._keeps(order, wanted):
                del wanted[order.side]
            elif order.state != PENDING_CANCEL:
                commands.append(self._cancel(order))
        commands += self._creates(value.ts, wanted)
        self._submit(value.ts, commands)

    def on_error(self, error: Exception) -> None:
        """Remember what ended the graph; the caller stops the sink and reports."""
        self.error = error

    def on_completed(self) -> None:
        """Nothing: the end of the quotes is not the order to stop."""

    def on_account(self, event: AccountEvent) -> None:
        """Take an answer of the venue, and send what it makes room for."""
        if event.kind == "stop":
            self.stop(event.ts)
            return
        if event.kind == "position":
            if event.qty != self.orders.position:
                self.orders.anomalies["position by fills is not the venue's"] += 1
            return
        if event.kind in ("connect", "disconnect"):
            return
        update = self.orders.apply(event)
        if update is None:
            return
        self._notify(update)
        if update.filled:
            order = self.orders.find(update.n)
            self._on_fill(order, event)
        commands = self._cancels_that_are_due(event)
        if not self.stopping and self._waiting:
            waiting, self._waiting = self._waiting, {}
            commands += self._creates(event.ts, waiting)
        self._submit(event.ts, commands)
        if self.stopping:
            self._flatten_when_alone(event.ts)

    def stop(self, ts: int) -> None:
        """Cancel everything; with ``flatten`` close the position once nothing works any more."""
        if self.stopping:
            return
        self.stopping = True
        self._waiting = {}
        working = self.orders.working.values()
        self._submit(ts, [self._cancel(o) for o in working if o.state != PENDING_CANCEL])
        self._flatten_when_alone(ts)

    def _cancels_that_are_due(self, event: AccountEvent) -> list[Command]:
        """Repeat a cancel that was refused; cancel what a late fill left without room."""
        orders, commands = self.orders, list[Command]()
        if event.kind == "cancel_reject" and event.n in orders.working:
            order = orders.working[event.n]
            if order.cancels < _TRIES:
                commands.append(self._cancel(order))
            else:
                orders.anomalies["left working: its cancel was refused"] += 1
        for side in _SIDES:
            # Newest first, and not more than it takes: what is being cancelled will be gone.
            keeps = [order for order in orders.on_side(side) if order.state != PENDING_CANCEL]
            room = self._max_position - side * orders.position
            while keeps and sum(order.leaves for order in keeps) > room:
                order = keeps.pop()
                if order.px is None:
                    continue
                commands.append(self._cancel(order))
        return commands

    def _keeps(self, order: Order, wanted: dict[int, tuple[int, int]]) -> bool:
        if self._replace == "cancel_all" or order.state == PENDING_CANCEL:
            return False
        want = wanted.get(order.side)
        return want is not None and want[0] == order.px

    def _creates(self, ts: int, wanted: dict[int, tuple[int, int]]) -> list[Command]:
        commands: list[Command] = []
        for side in _SIDES:
            if side not in wanted:
                continue
            px, qty = wanted[side]
            room = may_buy if side == BUY else may_sell
            if room(self.orders.worst_case(side), qty, self._max_position):
                commands.append(self._create(ts, side, px, qty))
            else:
                self._waiting[side] = (px, qty)
        return commands

    def _cancel(self, order: Order) -> Cancel:
        self.orders.ask_cancel(order)
        return Cancel(order.n)

    def _create(self, ts: int, side: int, px: int | None, qty: int) -> Create:
        order, update = self.orders.create(ts, side, px, qty)
        self._on_order(order)
        self._notify(update)
        expire_ts = None if px is None or self._expire_ns is None else ts + self._expire_ns
        return Create(order.n, side, px, qty, expire_ts)

    def _flatten_when_alone(self, ts: int) -> None:
        position = self.orders.position
        if not self._flatten or self.orders.working or not position:
            return
        if self._flattenings >= _TRIES:
            self.orders.anomalies["position left open: the closing order was refused"] += 1
            return
        self._flattenings += 1
        side = SELL if position > 0 else BUY
        self._submit(ts, [self._create(ts, side, None, abs(position))])

    def _submit(self, ts: int, commands: Sequence[Command]) -> None:
        if commands:
            self._venue.submit(ts, commands)
