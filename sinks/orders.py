"""Orders: the life of each order of ours, kept right whatever the venue says and when.

    pending_new ──ack──► open ──cancel asked──► pending_cancel
         │                │ ▲                        │
         │     modify asked │ modify (done, refused) │
         │                ▼ │                        │
         │           pending_modify                  │
         └── reject ──► rejected     fill ──► filled, cancel ──► cancelled, expire ──► expired

Fills may come before the ack, twice, or after the cancel; each is counted exactly once.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from streams.events import BUY, SELL, AccountEvent, OrderUpdate

__all__ = [
    "ADOPTED",
    "FINAL_STATES",
    "IN_FLIGHT",
    "OPEN",
    "PENDING_CANCEL",
    "PENDING_MODIFY",
    "PENDING_NEW",
    "QUERIED",
    "REMEMBERED",
    "STATUS",
    "Order",
    "Orders",
]

PENDING_NEW: Final = "pending_new"
OPEN: Final = "open"
PENDING_CANCEL: Final = "pending_cancel"
PENDING_MODIFY: Final = "pending_modify"
FILLED: Final = "filled"
CANCELLED: Final = "cancelled"
REJECTED: Final = "rejected"
EXPIRED: Final = "expired"

IN_FLIGHT: Final = frozenset({PENDING_NEW, PENDING_CANCEL, PENDING_MODIFY})
"""States in which the venue owes an answer."""

FINAL_STATES: Final = frozenset({FILLED, CANCELLED, REJECTED, EXPIRED})

STATUS: Final = {
    PENDING_NEW: "OPEN",
    OPEN: "OPEN",
    PENDING_CANCEL: "OPEN",
    PENDING_MODIFY: "OPEN",
    FILLED: "FILLED",
    CANCELLED: "CANCELED",
    REJECTED: "REJECTED",
    EXPIRED: "EXPIRED",
}
"""What ``orders.parquet`` calls each state."""

QUERIED: Final = "queried"
"""Reason of what the venue says because it was asked (``sinks.venue.Query``)."""

ADOPTED: Final = "adopted"
"""Reason of a position that is taken over as it is: at a start, and after a restart."""

REMEMBERED: Final = 100_000
"""Finished orders kept for late answers; older ones are forgotten, so that memory is bounded."""


class Order(Struct):
    """One order of ours."""

    n: int
    ts: int
    side: int
    px: int | None
    qty: int
    """Total size: what has filled and what is still open."""
    size: int = 0
    """Size of the level that it serves: a modify after a partial fill asks for more in total."""
    state: str = PENDING_NEW
    filled: int = 0
    ts_last: int = 0
    cancel_asked: bool = False
    cancels: int = 0
    """Cancels that were sent for it."""
    modifies_refused: int = 0
    queries: int = 0
    """How often the venue was asked about it since it last answered."""
    asked_ts: int = 0
    """When the venue was last sent something about it, ns."""
    asked_px: int | None = None
    """Price of the modify that is on its way."""
    asked_qty: int = 0
    """Total size of the modify that is on its way; 0 when there is none."""
    asked_size: int = 0
    """Size of the level that it shall serve once that modify is done."""
    suspect: bool = False
    """A command about it was refused, and it has not been seen to rest since: it may be gone."""
    unanswered: int = 0
    """Questions about it whose answer has not come."""
    stale_answers: int = 0
    """How many of those were asked before the last command, whose fate they cannot tell."""
    acked: bool = False
    trades: tuple[str, ...] = ()
    """Ids of the trades that filled it: each is counted once."""

    @property
    def leaves(self) -> int:
        """What may still fill, at worst: 0 once finished."""
        if self.state in FINAL_STATES:
            return 0
        return max(self.qty, self.asked_qty, self.filled) - self.filled

    @property
    def wanted_px(self) -> int | None:
        """Its price, or the one that it was asked to move to."""
        return self.px if self.asked_px is None else self.asked_px

    @property
    def wanted_size(self) -> int:
        """Size of its level, or of the one that it was asked to move to."""
        return self.asked_size if self.asked_qty else self.size


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

    def adopt(self, ts: int, position: int, px: int | None) -> OrderUpdate | None:
        """Take over a position that did not come from our orders; ``px`` is what it is worth."""
        change = position - self.position
        if not change:
            return None
        self.position = position
        side = BUY if change > 0 else SELL
        return OrderUpdate(
            ts=ts, n=0, side=side, state=FILLED, leaves=0, filled=abs(change), fill_px=px or 0
        )

    def create(self, ts: int, side: int, px: int | None, qty: int) -> tuple[Order, OrderUpdate]:
        """Enter a new order, in flight from this moment."""
        self.created += 1
        order = Order(
            n=self.created, ts=ts, side=side, px=px, qty=qty, size=qty, ts_last=ts, asked_ts=ts
        )
        self.working[order.n] = order
        self._open_leaves[side] += qty
        return order, _update(order, ts)

    def ask_cancel(self, ts: int, order: Order) -> OrderUpdate:
        """Note that a cancel is on its way; what works stays in the exposure until it is gone."""
        order.state = PENDING_CANCEL
        order.cancel_asked = True
        order.cancels += 1
        order.asked_ts = ts
        order.stale_answers = order.unanswered
        return _update(order, ts)

    def ask_modify(self, ts: int, order: Order, px: int, size: int) -> tuple[int, OrderUpdate]:
        """Note that a modify is on its way; return the total size to ask for.

        Until the venue answers the larger of the old and the new total counts as exposure.
        """
        before = order.leaves
        order.state = PENDING_MODIFY
        order.asked_px, order.asked_qty, order.asked_size = px, order.filled + size, size
        order.asked_ts = ts
        order.stale_answers = order.unanswered
        self._open_leaves[order.side] += order.leaves - before
        return order.asked_qty, _update(order, ts)

    def ask_query(self, ts: int, order: Order) -> None:
        """Note that the venue is asked what became of an order."""
        order.queries += 1
        order.unanswered += 1
        order.asked_ts = ts

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
                if event.reason != QUERIED:
                    self.anomalies[f"{event.kind} for a finished order"] += 1
                return None
        before = order.leaves
        filled = 0
        if event.kind == "fill":
            filled = self._fill(order, event)
            if not filled:
                return None
        elif event.kind == "ack":
            self._ack(order, event)
        elif event.kind == "modify":
            self._modified(order, event)
        elif event.kind == "reject":
            order.state = REJECTED
        elif event.kind == "cancel":
            order.state = CANCELLED
        elif event.kind == "expire":
            order.state = EXPIRED
        elif event.kind == "cancel_reject":
            order.cancel_asked = False
            order.suspect = True
            order.state = _resting(order)
        elif event.kind == "modify_reject":
            _settle(order)
            order.suspect = True
            if order.state == PENDING_MODIFY:
                order.state = _resting(order)
        if order.state not in FINAL_STATES and order.filled >= max(order.qty, order.asked_qty):
            order.state = FILLED
        order.ts_last = event.ts
        order.queries = 0
        self._open_leaves[order.side] += order.leaves - before
        if order.state in FINAL_STATES:
            self.working.pop(order.n, None)
            self._finished[order.n] = order
            if len(self._finished) > REMEMBERED:
                del self._finished[next(iter(self._finished))]
        return _update(order, event.ts, event if filled else None, event.quota_left)

    def _ack(self, order: Order, event: AccountEvent) -> None:
        order.acked = True
        if event.reason == QUERIED:
            order.unanswered = max(order.unanswered - 1, 0)
            if not order.stale_answers:
                # Whatever was on its way before the question has had its effect, or is lost.
                if event.px is not None and event.qty is not None:
                    order.px, order.qty = event.px, event.qty
                _settle(order)
                order.cancel_asked = order.suspect = False
                order.state = OPEN
                return
            order.stale_answers -= 1
        if order.state == PENDING_NEW:
            order.state = OPEN

    def _modified(self, order: Order, event: AccountEvent) -> None:
        if event.px is not None:
            order.px = event.px
        if event.qty is not None:
            order.qty = event.qty
        order.acked = True
        if order.asked_qty and (order.px, order.qty) != (order.asked_px, order.asked_qty):
            return  # Late news of a modify before this one, which is still on its way.
        _settle(order)
        if order.state in (PENDING_MODIFY, PENDING_NEW):
            order.state = OPEN

    def _fill(self, order: Order, event: AccountEvent) -> int:
        if event.qty is None or event.qty <= 0:
            self.anomalies["fill without a size"] += 1
            return 0
        if event.venue_id is not None:
            # By order: a trade between two orders of ours is a fill of each.
            if event.venue_id in order.trades:
                if event.reason != QUERIED:
                    self.anomalies["fill told twice"] += 1
                return 0
            order.trades = (*order.trades, event.venue_id)
        if order.state in FINAL_STATES:
            self.anomalies["fill after the end of its order"] += 1
        order.filled += event.qty
        self.position += order.side * event.qty
        total = max(order.qty, order.asked_qty)
        if order.filled > total:
            self.anomalies["filled beyond the order's size"] += 1
        # With a modify on its way the order may live on in its new size: the answer will tell.
        if order.filled >= total or (order.filled >= order.qty and not order.asked_qty):
            order.state = FILLED
        return event.qty


def _settle(order: Order) -> None:
    """No modify is on its way any more: it is done if the order is what was asked for."""
    if order.asked_qty:
        if (order.px, order.qty) == (order.asked_px, order.asked_qty):
            order.size = order.asked_size
        else:
            order.modifies_refused += 1
    order.asked_px, order.asked_qty, order.asked_size = None, 0, 0


def _resting(order: Order) -> str:
    if order.asked_qty:
        return PENDING_MODIFY
    return OPEN if order.acked else PENDING_NEW


def _update(
    order: Order, ts: int, fill: AccountEvent | None = None, quota_left: int | None = None
) -> OrderUpdate:
    return OrderUpdate(
        ts=ts,
        n=order.n,
        side=order.side,
        state=order.state,
        leaves=order.leaves,
        requested=order.cancel_asked,
        px=order.px,
        filled=0 if fill is None else fill.qty or 0,
        fill_px=None if fill is None else fill.px,
        fee=0 if fill is None else fill.fee or 0,
        quota_left=quota_left,
    )
