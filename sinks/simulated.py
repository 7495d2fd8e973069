"""The simulated venue: our orders against recorded books and trades, answers as inputs.

It models Lighter: what the API refuses it refuses at once; what it accepts travels to the engine,
which is where orders rest, fill and end. It sees what was recorded, not what our orders would have
changed. A fill in it is a claim about the model, not about the market; see ``sinks.fills``.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from sinks.fills import FillModel, Fills
from sinks.fills import fill_model as open_fills
from sinks.journal import Ledger
from sinks.limits import VenueAccount
from sinks.orders import QUERIED
from sinks.venue import Cancel, Command, Create, Modify, Query
from streams.clock import NEVER
from streams.events import BUY, AccountEvent, AccountKind, Trade
from streams.instrument import UNIT, Instrument, fee_in_parts

__all__ = [
    "REMEMBERED_ORDERS",
    "TIER_FEES_PPM",
    "TIER_LATENCY",
    "FillModel",
    "Latency",
    "SilentVenue",
    "SimulatedVenue",
    "fee_of",
]

# Lighter fee schedule by account tier (maker, taker) in millionths; copies of August/September
# 2026. Standard trades free; Premium's first step without staked LIT.
TIER_FEES_PPM: Final = {"standard": (0, 0), "plus": (50, 50), "premium": (40, 280)}

REMEMBERED_ORDERS: Final = 100_000
"""Ended orders that a query can still be answered for; older ones are forgotten."""


class Latency(Struct, frozen=True, kw_only=True):
    """How long commands take from the API to the engine."""

    maker_ns: int = 0
    """Post-only creates, and modifies (uncertain)."""
    cancel_ns: int = 0
    """Cancels, and queries."""
    taker_ns: int = 0
    """Market orders."""


_AT_ONCE: Final = Latency()

# Lighter docs, "Account types", copies of Aug/Sep 2026; Premium's first step without staked LIT.
TIER_LATENCY: Final = {
    "standard": Latency(maker_ns=200_000_000, cancel_ns=200_000_000, taker_ns=300_000_000),
    "plus": Latency(maker_ns=200_000_000, cancel_ns=200_000_000, taker_ns=300_000_000),
    "premium": Latency(taker_ns=200_000_000),
}

_KIND: Final[dict[type[Command], str]] = {
    Create: "create", Cancel: "cancel", Modify: "modify", Query: "query",
}  # fmt: skip
_REFUSED: Final[dict[type[Command], AccountKind]] = {
    Create: "reject", Cancel: "cancel_reject", Modify: "modify_reject",
}  # fmt: skip
_TELLS_QUOTA: Final = ("ack", "modify")


class _Order(Struct):
    """An order that reached the engine."""

    n: int
    side: int
    px: int | None
    total: int
    expire_ts: int | None
    filled: int = 0
    fills: list[AccountEvent] = field(default_factory=list)
    end: AccountEvent | None = None
    """How it ended; ``None`` while it rests, and when its last fill was its end."""


class _Compared(Struct):
    """Another fill model on the same orders."""

    fills: Fills
    ledger: Ledger
    filled: dict[int, int] = field(default_factory=dict)
    """What of each order that rests has filled under this model."""


def fee_of(px: int, qty: int, fee_ppm: int) -> int:
    """Fee of a fill in 1e-9 quote currency, rounded up: the venue never rounds in our favour."""
    return fee_in_parts(px, qty, fee_ppm)


class SimulatedVenue:
    """Takes post-only limit orders, market orders, modifies, cancels and queries in one market.

    The API checks a batch at once, command by command, and answers at once what it refuses: the
    request rate, price, size, minimums, the client order index, the number of orders, the volume
    quota. What it accepts takes effect ``latency`` later, in order of arrival, then of submission,
    and is answered at that instant. An order can fill as long as its cancel is on its way.

    On each target quote and each public trade it matches at the orders' own prices, then expires,
    in order of arrival. A market order takes the opposite best whole.

    Source: Lighter docs, copies of Aug/Sep 2026, with the codes of their error list; which
    checks the API makes and which the engine is uncertain in places.
    """

    def __init__(
        self,
        instrument: Instrument,
        answer: Callable[[AccountEvent], None],
        *,
        fill_model: FillModel = "touch",
        latency: Latency = _AT_ONCE,
        tier: str = "standard",
        account: VenueAccount | None = None,
        compare: Sequence[FillModel] = (),
    ) -> None:
        """Open the venue; ``answer`` queues an account event as an input.

        ``tier`` sets the fees only. ``account`` holds the limits, and may be shared by the venues
        of several markets; without one nothing is limited. ``compare`` names fill models that are
        evaluated on the very same orders, each from its arrival until ``fill_model`` ends it;
        what they fill goes to ``ledgers`` only, in which ``fill_model`` has an entry as well.

        Errors: KeyError for an unknown tier or fill model.
        """
        self.next_due_ns = NEVER
        self.counts: Counter[str] = Counter()
        """Commands taken and refused, by kind."""
        self.ledgers: dict[FillModel, Ledger] = {name: Ledger() for name in (fill_model, *compare)}
        """Cash, position and fees by fill model."""
        self._instrument = instrument
        self._market = instrument.id
        self._answer = answer
        self._latency = latency
        self._maker_ppm, self._taker_ppm = TIER_FEES_PPM[tier]
        self._account = VenueAccount() if account is None else account
        self._fills = open_fills(fill_model)
        self._ledger = self.ledgers[fill_model]
        self._compared = [
            _Compared(open_fills(name), ledger)
            for name, ledger in self.ledgers.items()
            if name != fill_model
        ]
        self._bid: int | None = None
        self._ask: int | None = None
        self._bid_sz: int | None = None
        self._ask_sz: int | None = None
        self._resting: dict[int, _Order] = {}
        self._ended: dict[int, _Order] = {}
        self._on_the_way: list[tuple[int, int, Command]] = []
        self._arriving: set[int] = set()
        self._sent = 0
        self._trades = 0
        self._next_expiry = NEVER
        self._watch()

    # ------------------------------------------------------------ the API

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Take a batch of commands at ``ts``.

        Its transactions are one request; each query is a request of its own, and one that is
        over the request rate is not answered.
        """
        transactions = sum(not isinstance(command, Query) for command in commands)
        admitted = not transactions or self._account.request(ts)
        for command in commands:
            self.counts[_KIND[type(command)]] += 1
            if isinstance(command, Query):
                if self._account.request(ts):
                    self._send(ts, command)
                continue
            refusal = "23000 too many requests"
            if admitted:
                refusal = self._api_refusal(ts, command, single=transactions == 1)
            if refusal:
                self._say(ts, _REFUSED[type(command)], command.n, refusal)
            else:
                self._send(ts, command)

    def _api_refusal(self, ts: int, command: Create | Cancel | Modify, *, single: bool) -> str:
        if isinstance(command, Cancel):
            return ""
        refusal = _static_refusal(self._instrument, command)
        if not refusal and isinstance(command, Create):
            if command.n in self._resting or command.n in self._arriving:
                refusal = "21728 client order index already exists"
            elif not command.is_market:
                refusal = self._account.refusal(self._market) or ""
        if not refusal and not self._account.spend(ts, single=single):
            refusal = "23000 volume quota exhausted"
        return refusal

    def _send(self, ts: int, command: Command) -> None:
        latency = self._latency
        if isinstance(command, Create):
            self._arriving.add(command.n)
            if not command.is_market:
                self._account.hold(self._market)
            delay_ns = latency.taker_ns if command.is_market else latency.maker_ns
        else:
            delay_ns = latency.maker_ns if isinstance(command, Modify) else latency.cancel_ns
        if not delay_ns and ts < self.next_due_ns:
            self._take(ts, command)
            return
        # Also without a delay, when what was sent before arrives at this very instant.
        self._sent += 1
        heapq.heappush(self._on_the_way, (ts + delay_ns, self._sent, command))
        self.next_due_ns = self._on_the_way[0][0]

    # ------------------------------------------------------------ time

    def advance(self, until_ns: int) -> None:
        """Let the commands take effect that arrive at or before ``until_ns``."""
        while self._on_the_way and self._on_the_way[0][0] <= until_ns:
            due, _, command = heapq.heappop(self._on_the_way)
            self._take(due, command)
        self.next_due_ns = self._on_the_way[0][0] if self._on_the_way else NEVER

    def on_quote(
        self,
        ts: int,
        bid_px: int | None,
        ask_px: int | None,
        bid_sz: int | None,
        ask_sz: int | None,
    ) -> None:
        """Match resting orders against a new BBO, then expire what is due."""
        self._bid = bid_px
        self._ask = ask_px
        self._bid_sz = bid_sz
        self._ask_sz = ask_sz
        # Millions of quotes end here: what only queues need is asked only when there are any.
        if (
            (ask_px is not None and ask_px <= self._ask_low)
            or (bid_px is not None and bid_px >= self._bid_high)
            or ts >= self._next_expiry
            or (
                self._queued
                and (
                    (bid_px is not None and bid_px <= self._bid_low)
                    or (ask_px is not None and ask_px >= self._ask_high)
                )
            )
        ):
            # The compared models see an order for the last time when the primary ends it.
            for other in self._compared:
                self._book(other, other.fills.on_quote(bid_px, ask_px, bid_sz, ask_sz))
            self._fill_makers(ts, self._fills.on_quote(bid_px, ask_px, bid_sz, ask_sz))

    def on_trade(self, trade: Trade) -> None:
        """Match resting orders against a public trade, then expire what is due."""
        px, qty, side = trade.px, trade.qty, trade.side
        if self._ask_low < px < self._bid_high and trade.ts < self._next_expiry:
            return
        for other in self._compared:
            self._book(other, other.fills.on_trade(px, qty, side))
        self._fill_makers(trade.ts, self._fills.on_trade(px, qty, side))

    def _fill_makers(self, ts: int, fills: Sequence[tuple[int, int]]) -> None:
        for n, qty in fills:
            order = self._resting[n]
            assert order.px is not None
            self._fill(ts, order, order.px, qty, "MAKER", self._maker_ppm)
            if order.filled >= order.total:
                self._leave(order)
        if ts >= self._next_expiry:
            for order in list(self._resting.values()):
                if order.expire_ts is not None and order.expire_ts <= ts:
                    self._end(ts, order, "expire")
        self._watch()

    def _book(self, other: _Compared, fills: Sequence[tuple[int, int]]) -> None:
        for n, qty in fills:
            order = self._resting[n]
            assert order.px is not None
            other.filled[n] = other.filled.get(n, 0) + qty
            fee = fee_of(order.px, qty, self._maker_ppm)
            other.ledger.take(order.side, order.px, qty, fee, "MAKER")

    # ------------------------------------------------------------ the engine

    def _take(self, ts: int, command: Command) -> None:
        if isinstance(command, Create):
            self._create(ts, command)
        elif isinstance(command, Cancel):
            order = self._resting.get(command.n)
            if order is None:
                self._say(ts, "cancel_reject", command.n, "21709 not open")
            else:
                self._end(ts, order, "cancel", "requested")
        elif isinstance(command, Modify):
            self._modify(ts, command)
        else:
            self._tell(ts, command.n)
        self._watch()

    def _create(self, ts: int, create: Create) -> None:
        n, side, px = create.n, create.side, create.px
        self._arriving.discard(n)
        order = _Order(n, side, px, create.qty, create.expire_ts)
        opposite = self._ask if side == BUY else self._bid
        if px is None:
            if opposite is None:
                self._end(ts, order, "reject", "canceled-not-enough-liquidity: no liquidity")
                return
            self._say(ts, "ack", n)
            self._fill(ts, order, opposite, order.total, "TAKER", self._taker_ppm)
            self._leave(order)
        elif self._crosses(side, px):
            self._end(ts, order, "reject", "canceled-post-only: post-only would cross")
        else:
            self._say(ts, "ack", n)
            self._resting[n] = order
            for fills in (self._fills, *(other.fills for other in self._compared)):
                self._rest(fills, order, px, order.total)
            if order.expire_ts is not None:
                self._next_expiry = min(self._next_expiry, order.expire_ts)

    def _modify(self, ts: int, modify: Modify) -> None:
        n, px, total = modify.n, modify.px, modify.qty
        order = self._resting.get(n)
        if order is None:
            self._say(ts, "modify_reject", n, "21715 not active")
        elif total <= order.filled:
            self._end(ts, order, "cancel", "modified to what has filled")
        elif self._crosses(order.side, px):
            self._end(ts, order, "cancel", "canceled-post-only")
        else:
            order.px, order.total = px, total
            self._rest(self._fills, order, px, total - order.filled)
            for other in self._compared:
                self._rest(other.fills, order, px, total - other.filled.get(n, 0))
            self._say(ts, "modify", n, px=px, qty=total)

    def _rest(self, fills: Fills, order: _Order, px: int, leaves: int) -> None:
        fills.remove(order.n)
        if leaves > 0:
            book = self._bid, self._ask, self._bid_sz, self._ask_sz
            fills.add(order.n, order.side, px, leaves, *book)

    def _tell(self, ts: int, n: int) -> None:
        if n in self._arriving:
            return  # its own answer is still to come, and says more
        order = self._resting.get(n) or self._ended.get(n)
        if order is None:
            self._say(ts, "reject", n, "21700 unknown order")
            return
        for fill in order.fills:
            self._answer(replace(fill, ts=ts, reason=QUERIED))
        if n in self._resting:
            self._say(ts, "ack", n, QUERIED, px=order.px, qty=order.total)
        elif order.end is not None:
            self._answer(replace(order.end, ts=ts, reason=QUERIED))
        else:
            self._say(ts, "cancel", n, QUERIED)  # it filled: nothing of it is left

    def _crosses(self, side: int, px: int) -> bool:
        opposite = self._ask if side == BUY else self._bid
        return opposite is not None and side * (px - opposite) >= 0

    def _fill(
        self, ts: int, order: _Order, px: int, qty: int, liquidity: str, fee_ppm: int
    ) -> None:
        self._trades += 1
        fee = fee_of(px, qty, fee_ppm)
        event = AccountEvent(
            seq=0, ts=ts, kind="fill", n=order.n, venue_id=str(self._trades), px=px, qty=qty,
            fee=fee, liquidity=liquidity,
        )  # fmt: skip
        order.filled += qty
        order.fills.append(event)
        self._account.earn(px, qty)
        self._ledger.take(order.side, px, qty, fee, liquidity)
        if liquidity == "TAKER":
            for other in self._compared:
                other.ledger.take(order.side, px, qty, fee, liquidity)
        self._answer(event)

    def _end(self, ts: int, order: _Order, kind: AccountKind, reason: str | None = None) -> None:
        order.end = self._say(ts, kind, order.n, reason)
        self._leave(order)

    def _leave(self, order: _Order) -> None:
        """Take an order that ended out of everything but the memory for queries."""
        n = order.n
        if order.px is not None:
            self._account.release(self._market)
        if self._resting.pop(n, None) is not None:
            self._fills.remove(n)
            for other in self._compared:
                other.fills.remove(n)
                other.filled.pop(n, None)
            if order.expire_ts is not None:
                due = (o.expire_ts for o in self._resting.values() if o.expire_ts is not None)
                self._next_expiry = min(due, default=NEVER)
        self._ended.pop(n, None)
        self._ended[n] = order
        if len(self._ended) > REMEMBERED_ORDERS:
            del self._ended[next(iter(self._ended))]

    def _say(
        self,
        ts: int,
        kind: AccountKind,
        n: int,
        reason: str | None = None,
        *,
        px: int | None = None,
        qty: int | None = None,
    ) -> AccountEvent:
        tells = kind in _TELLS_QUOTA or (reason is not None and reason.startswith("23000"))
        quota_left = self._account.quota_left if tells else None
        event = AccountEvent(
            seq=0, ts=ts, kind=kind, n=n, px=px, qty=qty, reason=reason, quota_left=quota_left
        )
        self._answer(event)
        return event

    def _watch(self) -> None:
        """Note which quotes cannot matter to any of the fill models."""
        fills = self._fills
        self._bid_low, self._bid_high = fills.bid_low, fills.bid_high
        self._ask_low, self._ask_high = fills.ask_low, fills.ask_high
        for other in self._compared:
            self._bid_low = max(self._bid_low, other.fills.bid_low)
            self._bid_high = min(self._bid_high, other.fills.bid_high)
            self._ask_low = max(self._ask_low, other.fills.ask_low)
            self._ask_high = min(self._ask_high, other.fills.ask_high)
        self._queued = self._bid_low >= 0 or self._ask_high < NEVER


def _static_refusal(instrument: Instrument, command: Create | Modify) -> str:
    """Why the API refuses a create or modify whatever the market does; empty when it does not."""
    px, qty = command.px, command.qty
    if px is not None and (px <= 0 or px % instrument.tick_size):
        return "21702 price off the tick"
    if qty <= 0 or qty % instrument.lot_size:
        return "21701 size off the lot"
    # Lighter exempts what takes at once from the minimums, and checks a modify's new total.
    if px is None:
        return ""
    if qty < instrument.min_base_amount:
        return "21706 below the minimum base amount"
    if px * qty < instrument.min_quote_amount * UNIT:
        return "21706 below the minimum quote amount"
    return ""


class SilentVenue:
    """Takes commands and answers nothing: the answers are in the recording."""

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Ignore the batch."""
