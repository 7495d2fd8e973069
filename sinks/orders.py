"""Orders: the life of each order of ours, kept right whatever the venue says and when.

    pending_new ──ack──► open ──cancel asked──► pending_cancel
         │                │                          │
         └── reject ──► rejected     fill ──► filled, cancel ──► cancelled, expire ──► expired

Fills may come before the ack, twice, or after the cancel; each is counted exactly once.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from streams.events import BUY, SELL, AccountEvent, OrderUpdate

__all__ = ["FINAL_STATES", "REMEMBERED", "STATUS", "Order", "Orders"]

PENDING_NEW: Final = "pending_new"
OPEN: Final = "open"
PENDING_CANCEL: Final = "pending_cancel"
FILLED: Final = "filled"
CANCELLED: Final = "cancelled"
REJECTED: Final = "rejected"
EXPIRED: Final = "expired"

FINAL_STATES: Final = frozenset({FILLED, CANCELLED, REJECTED, EXPIRED})

STATUS: Final = {
    PENDING_NEW: "OPEN",
    OPEN: "OPEN",
    PENDING_CANCEL: "OPEN",
    FILLED: "FILLED",
    CANCELLED: "CANCELED",
    REJECTED: "REJECTED",
    EXPIRED: "EXPIRED",
}
"""What ``orders.parquet`` calls each state."""

REMEMBERED: Final = 100_000
"""Finished orders kept for late answers; older ones are forgotten, so that memory is bounded."""


class Order(Struct):
    """One order of ours."""

    n: int
    ts: int
    side: int
    px: int | None
    qty: int
    state: str = PENDING_NEW
    filled: int = 0
    ts_last: int = 0
    cancel_asked: bool = False
    cancels: int = 0
    """Cancels that were sent for it."""
    acked: bool = False

    @property
    def leaves(self) -> int:
        """What may still fill: 0 once finished."""
        return 0 if self.state in FINAL_STATES else max(self.qty - self.filled, 0)


class Orders:
    """All orders of one strategy on one market."""

    def __init__(self, position: int = 0) -> None:
        """Start from a position, 1e-9 base units."""
        self.position = position
        """Position by fills, 1e-9 base units, long positive."""
        self.anomalies: Counter[str] = Counter()
        """What the venue said that does not fit, counted by kind."""
        self.created = 0
        self.working: dict[int, Order] = {}
        """Orders that are open or in flight, by number, oldest first."""
        self._finished: dict[int, Order] = {}
        self._counted_fills: set[str] = set()
        self._open_leaves = {BUY: 0, SELL: 0}

    def worst_case(self, side: int) -> int:
        """Position if everything open or in flight on a side filled, 1e-9 base units."""
        return self.position + side * self._open_leaves[side]

    def on_side(self, side: int) -> Iterator[Order]:
        """Orders of one side that work or are in flight."""
        return (order for order in self.working.values() if order.side == side)

    def find(self, n: int) -> Order:
        """An order by its number, working or finished."""
        return self.working[n] if n in self.working else self._finished[n]

    def create(self, ts: int, side: int, px: int | None, qty: int) -> tuple[Order, OrderUpdate]:
        """Enter a new order, in flight from this moment."""
        self.created += 1
        order = Order(n=self.created, ts=ts, side=side, px=px, qty=qty, ts_last=ts)
        self.working[order.n] = order
        self._open_leaves[side] += qty
        return order, _update(order, ts)

    def ask_cancel(self, order: Order) -> None:
        """Note that a cancel is on its way; what works stays in the exposure until it is gone."""
        order.state = PENDING_CANCEL
        order.cancel_asked = True
        order.cancels += 1

    def apply(self, event: AccountEvent) -> OrderUpdate | None:
        """Take what the venue said about an order; return the change, if it is one.

        What does not fit (a fill told twice, an answer about a finished or unknown order) changes
        nothing but ``anomalies``; a fill that is late is still a fill.
        """
        n = event.n
        order = self.working.get(n) if n is not None else None
        if order is None:
            order = self._finished.get(n) if n is not None else None
            if order is None:
                self.anomalies[f"{event.kind} for an unknown order"] += 1
                return None
            if event.kind != "fill":
                self.anomalies[f"{event.kind} for a finished order"] += 1
                return None
        before = order.leaves
        filled = 0
        if event.kind == "fill":
            filled = self._fill(order, event)
            if not filled:
                return None
        elif event.kind == "ack":
            order.acked = True
            if order.state == PENDING_NEW:
                order.state = OPEN
        elif event.kind == "reject":
            order.state = REJECTED
        elif event.kind == "cancel":
            order.state = CANCELLED
        elif event.kind == "expire":
            order.state = EXPIRED
        elif event.kind == "cancel_reject":
            order.cancel_asked = False
            order.state = OPEN if order.acked else PENDING_NEW
        order.ts_last = event.ts
        self._open_leaves[order.side] += order.leaves - before
        if order.state in FINAL_STATES:
            self.working.pop(order.n, None)
            self._finished[order.n] = order
            if len(self._finished) > REMEMBERED:
                del self._finished[next(iter(self._finished))]
        return _update(order, event.ts, filled)

    def _fill(self, order: Order, event: AccountEvent) -> int:
        if event.qty is None or event.qty <= 0:
            self.anomalies["fill without a size"] += 1
            return 0
        if event.venue_id is not None:
            if event.venue_id in self._counted_fills:
                self.anomalies["fill told twice"] += 1
                return 0
            self._counted_fills.add(event.venue_id)
        if order.state in FINAL_STATES:
            self.anomalies["fill after the end of its order"] += 1
        order.filled += event.qty
        self.position += order.side * event.qty
        if order.filled > order.qty:
            self.anomalies["filled beyond the order's size"] += 1
        if order.filled >= order.qty:
            order.state = FILLED
        return event.qty


def _update(order: Order, ts: int, filled: int = 0) -> OrderUpdate:
    return OrderUpdate(
        ts=ts,
        n=order.n,
        side=order.side,
        state=order.state,
        leaves=order.leaves,
        filled=filled,
        requested=order.cancel_asked,
    )
