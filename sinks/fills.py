"""Fill models: which resting orders a quote or a public trade fills, and how much of each.

A recording does not know our orders, so a fill is a claim about a model. Three of them bracket it:

    ``touch``   whole when the market reaches its price    optimistic: nobody stands before us
    ``queue``   what exceeds the queue in front of it      an estimate, in parts
    ``cross``   whole when the market goes through it      pessimistic: everybody stands before us

For each order, at every instant of one and the same life:
filled(cross) <= filled(queue) <= filled(touch). It holds by construction: what fills in ``cross``
fills whole in ``queue``, and what fills anything in ``queue`` fills whole in ``touch``.

A public trade reaches an order only if its taker could have hit it: a buy is hit by sellers, a
sell by buyers, both by takers of unknown side. All models agree on that.
"""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from streams.clock import NEVER
from streams.events import BUY, SELL

__all__ = ["Cross", "Fill", "FillModel", "Fills", "Queue", "Touch", "fill_model"]

FillModel: TypeAlias = Literal["touch", "cross", "queue"]
"""Names of the fill models, as settings spell them."""

Fill: TypeAlias = tuple[int, int]
"""Order number, and how much of it filled in 1e-9 base units."""

_LOWEST: Final = -1
_HIGHEST: Final = NEVER
_UNKNOWN: Final = 1 << 100
"""Queue in front that nothing is known of: more than all trades of a lifetime take away."""


class _Order(Struct):
    n: int
    side: int
    px: int
    leaves: int
    ahead: int = 0
    """Size of others that trades before us at our price; 0 in the models without a queue."""


class Fills:
    """Orders that rest under one fill model; its thresholds say which quotes cannot matter.

    Shape: what fills is returned in order of arrival, and leaves the model once nothing is left.
    Units: prices 1e-9 quote currency, sizes 1e-9 base units, ``None`` for absent or unknown.
    """

    bid_low: int
    """A quote with ``bid_low < bid_px < bid_high`` and ``ask_low < ask_px < ask_high`` changes
    nothing and fills nothing; a side that is absent does neither."""
    bid_high: int
    ask_low: int
    """A trade with ``ask_low < px < bid_high`` fills nothing."""
    ask_high: int

    def __init__(self) -> None:
        """Start without orders."""
        self._orders: dict[int, _Order] = {}
        self._refresh()

    def add(
        self,
        n: int,
        side: int,
        px: int,
        leaves: int,
        bid_px: int | None,
        ask_px: int | None,
        bid_sz: int | None,
        ask_sz: int | None,
    ) -> None:
        """Let an order rest, behind all others, in the book of this instant."""
        best, size = (bid_px, bid_sz) if side == BUY else (ask_px, ask_sz)
        self._orders[n] = _Order(n, side, px, leaves, self._ahead(side, px, best, size))
        self._refresh()

    def remove(self, n: int) -> None:
        """Forget an order; one that does not rest here is no error."""
        if self._orders.pop(n, None) is not None:
            self._refresh()

    def on_quote(
        self, bid_px: int | None, ask_px: int | None, bid_sz: int | None, ask_sz: int | None
    ) -> list[Fill]:
        """Tell what a new book fills."""
        raise NotImplementedError

    def on_trade(self, px: int, qty: int, side: int) -> list[Fill]:
        """Tell what a public trade fills; ``side`` is the taker's, 0 when it is not known."""
        raise NotImplementedError

    def _ahead(self, side: int, px: int, best: int | None, size: int | None) -> int:
        return 0

    def _refresh(self) -> None:
        """Recompute which quotes cannot matter."""
        raise NotImplementedError


class Touch(Fills):
    """Fills an order whole as soon as the market reaches its price: optimistic."""

    _through: int = 0
    """How far beyond its price the market must go, 1e-9."""

    def on_quote(
        self, bid_px: int | None, ask_px: int | None, bid_sz: int | None, ask_sz: int | None
    ) -> list[Fill]:
        """Tell what a new book fills."""
        if (bid_px is None or bid_px < self.bid_high) and (ask_px is None or ask_px > self.ask_low):
            return []
        return self._fill_whole(
            order
            for order in self._orders.values()
            if _beyond(order, ask_px if order.side == BUY else bid_px) >= self._through
        )

    def on_trade(self, px: int, qty: int, side: int) -> list[Fill]:
        """Tell what a public trade fills; ``side`` is the taker's, 0 when it is not known."""
        if self.ask_low < px < self.bid_high:
            return []
        return self._fill_whole(
            order
            for order in self._orders.values()
            if order.side != side and _beyond(order, px) >= self._through
        )

    def _fill_whole(self, reached: Iterable[_Order]) -> list[Fill]:
        fills = [(order.n, order.leaves) for order in reached]
        for n, _ in fills:
            del self._orders[n]
        if fills:
            self._refresh()
        return fills

    def _refresh(self) -> None:
        self.bid_low, self.bid_high = _LOWEST, _HIGHEST
        self.ask_low, self.ask_high = _LOWEST, _HIGHEST
        for order in self._orders.values():
            # A buy is reached when ask <= px; strictly through its price is ask <= px − 1.
            if order.side == BUY:
                self.ask_low = max(self.ask_low, order.px - self._through)
            else:
                self.bid_high = min(self.bid_high, order.px + self._through)


class Cross(Touch):
    """Fills an order whole once the market trades through its price: pessimistic."""

    _through = 1


class Queue(Fills):
    """Fills what exceeds the queue in front of an order: an estimate, in parts.

    In front stands, on arrival, the size that the book shows at our price when that is the best
    price; nobody when ours is better. Deeper in the book, where the side is absent or where its
    size is not known, the queue is unknown: no trade *at* our price reaches us before the book
    has shown our price as its best. From then on it is at most the size shown, and nobody once
    the best price is worse than ours. Who comes later stands behind us.

    A trade at our price takes what stands in front, then us. A trade or an opposite best through
    our price fills all; an opposite best that reaches it has no queue left before us and fills at
    most the size shown, each unit of it once.

    The recorded sizes are taken as others' alone. A trade that is told after the quote that shows
    the book without it counts twice against the queue, which errs towards a fill.
    """

    def __init__(self) -> None:
        """Start without orders."""
        self._bid_ahead = self._ask_ahead = 0
        """The longest queue at the price where a quote of our side may shorten one."""
        # By side of ours: the opposite best that touches us, and what we took of the size shown.
        self._touched: dict[int, tuple[int | None, int]] = {BUY: (None, 0), SELL: (None, 0)}
        super().__init__()

    def on_quote(
        self, bid_px: int | None, ask_px: int | None, bid_sz: int | None, ask_sz: int | None
    ) -> list[Fill]:
        """Tell what a new book fills."""
        if (
            bid_px is None
            or self.bid_low < bid_px < self.bid_high
            or (bid_px == self.bid_low and (bid_sz is None or bid_sz >= self._bid_ahead)
                and bid_px < self.bid_high)
        ) and (
            ask_px is None
            or self.ask_low < ask_px < self.ask_high
            or (ask_px == self.ask_high and (ask_sz is None or ask_sz >= self._ask_ahead)
                and ask_px > self.ask_low)
        ):  # fmt: skip
            return []
        self._touched[BUY] = _touched(self._touched[BUY], ask_px, ask_sz)
        self._touched[SELL] = _touched(self._touched[SELL], bid_px, bid_sz)
        parts: list[Fill] = []
        for order in self._orders.values():
            if order.side == BUY:
                best, size, opposite, offered = bid_px, bid_sz, ask_px, ask_sz
            else:
                best, size, opposite, offered = ask_px, ask_sz, bid_px, bid_sz
            order.ahead = min(order.ahead, _shown(order.side, order.px, best, size))
            beyond = _beyond(order, opposite)
            if beyond > 0:
                parts.append((order.n, order.leaves))
            elif beyond == 0:
                parts.append((order.n, self._touch(order, offered)))
        return self._fill(parts)

    def on_trade(self, px: int, qty: int, side: int) -> list[Fill]:
        """Tell what a public trade fills; ``side`` is the taker's, 0 when it is not known."""
        if self.ask_low < px < self.bid_high:
            return []
        parts: list[Fill] = []
        left = {BUY: qty, SELL: qty}
        for order in self._orders.values():
            beyond = _beyond(order, px)
            if order.side == side or beyond < 0:
                continue
            if beyond > 0:
                parts.append((order.n, order.leaves))
                continue
            # What an order of ours took before this one did not take anybody else's place.
            part = min(order.leaves, max(left[order.side] - order.ahead, 0))
            order.ahead = max(order.ahead - left[order.side], 0)
            left[order.side] -= part
            parts.append((order.n, part))
        return self._fill(parts)

    def _touch(self, order: _Order, offered: int | None) -> int:
        order.ahead = 0
        if offered is None:
            return order.leaves
        px, taken = self._touched[order.side]
        part = min(order.leaves, offered - taken)
        self._touched[order.side] = px, taken + part
        return part

    def _fill(self, parts: list[Fill]) -> list[Fill]:
        fills = [(n, part) for n, part in parts if part > 0]
        for n, part in fills:
            self._orders[n].leaves -= part
            if not self._orders[n].leaves:
                del self._orders[n]
        self._refresh()
        return fills

    def _ahead(self, side: int, px: int, best: int | None, size: int | None) -> int:
        return _shown(side, px, best, size)

    def _refresh(self) -> None:
        self.bid_low, self.bid_high = _LOWEST, _HIGHEST
        self.ask_low, self.ask_high = _LOWEST, _HIGHEST
        self._bid_ahead = self._ask_ahead = 0
        for order in self._orders.values():
            px, ahead = order.px, order.ahead
            if order.side == BUY:
                self.ask_low = max(self.ask_low, px)
                if ahead and px >= self.bid_low:
                    self._bid_ahead = max(ahead, self._bid_ahead if px == self.bid_low else 0)
                    self.bid_low = px
            else:
                self.bid_high = min(self.bid_high, px)
                if ahead and px <= self.ask_high:
                    self._ask_ahead = max(ahead, self._ask_ahead if px == self.ask_high else 0)
                    self.ask_high = px
        # Once we took from a level that touches us, the quote that ends it must be seen.
        if self._touched[BUY][1]:
            self.ask_low = _HIGHEST
        if self._touched[SELL][1]:
            self.bid_high = _LOWEST


def fill_model(name: FillModel) -> Fills:
    """Open a fill model by its name.

    Errors: KeyError for a name that is none.
    """
    return {"touch": Touch, "cross": Cross, "queue": Queue}[name]()


def _beyond(order: _Order, level: int | None) -> int:
    """How far a price on the other side is through the order's; negative when it is not there."""
    return -1 if level is None else order.side * (order.px - level)


def _shown(side: int, px: int, best: int | None, size: int | None) -> int:
    """Size that a book shows before an order at ``px`` on its own side, as far as it shows it."""
    if best is None or side * (best - px) > 0:
        return _UNKNOWN
    if best != px:
        return 0
    return _UNKNOWN if size is None else size


def _touched(
    before: tuple[int | None, int], px: int | None, size: int | None
) -> tuple[int | None, int]:
    """What we have taken of the level that the book shows now."""
    level, taken = before
    if px is None:
        return before
    if px != level:
        return px, 0
    return px, taken if size is None else min(taken, size)
