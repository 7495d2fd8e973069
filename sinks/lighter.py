"""Orders on Lighter: commands out as signed transactions, the account's channels back as answers.

An answer of the API (``jsonapi``) only says that a transaction was taken. What became of an order
is told by the account's channels, and by REST when they cannot be relied on: those two are the
truth here, an answer of the API only when it refuses.

    submit ─► outbox ─► sign, send (one at a time) ─► in flight ──accepted──► channels tell the rest
                 ▲                                       │ ├──refused──► reject, or a cancel again
                 └───── cancels not accepted ◄── nonce ◄─┘ no answer: what the venue's nonce says

A create whose answer was lost is never sent again. The venue's next nonce tells whether it was
accepted; the order is then looked for by its client order index.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from sinks.lighter_rest import AccountLimits, Json, LighterRest, MarketDetails, RestError
from sinks.lighter_rest import position_of as _position_of
from sinks.lighter_signer import (
    ABORT,
    CANCEL_ALL,
    IMMEDIATE,
    SCHEDULED,
    Request,
    SignCancel,
    SignCancelAll,
    SignCreate,
    Signed,
    Signer,
    SignModify,
    refusal,
)
from sinks.orders import QUERIED, REMEMBERED
from sinks.venue import Cancel, Command, Create, Modify, Query
from streams.events import BUY, SELL, AccountEvent, AccountKind
from streams.instrument import UNIT, to_units

__all__ = ["LighterError", "LighterVenue", "Start", "UnknownOrder", "UnknownOrders"]

UnknownOrders = Literal["cancel", "refuse", "ignore"]
"""What becomes of resting orders that carry our tag but are not of this run."""

_BATCH: Final = 15
"""Transactions in one message: Lighter docs of 2026; its error text says 50 (uncertain)."""
_PAUSE_SECS: Final = 60.0
"""How long creates wait after the venue said that there were too many: its firewall's cooldown."""
_LONGEST_RETRY_SECS: Final = 15.0
_MOST_NONCE_TRIES: Final = 10
_LOOKS: Final = 5
"""How often an order is looked for before it counts as not there."""
_EXPIRY_MS: Final = 28 * 24 * 3600 * 1000 - 600_000
"""Expiry of an order that shall have none: the SDK's 28 days (30 are the limit), less a margin."""
_DEAD_MAN_MARGIN_MS: Final = 5_000
"""Time to sign and send in, so that the venue's least of 5 minutes still holds on arrival."""
_DEAD_MAN_LEAST_SECS: Final = 300
_HOLD_SECS: Final = 60.0
"""How long the end of an order waits for fills that the venue counted but has not told."""
_FILL_GRACE_SECS = 0.5
"""How long a fill that an order reports may take to come as a trade before it is fetched."""
_RETRY_SECS = 0.5
"""First wait after the venue did not answer a call that is needed to go on."""
_POSITION_GRACE_SECS = 1.0
"""Positions and trades are separate streams: a position may be told before its fill."""
_LOW: Final = 2**32 - 1
_PER_SECOND: Final = 16
_REMEMBERED_TX: Final = 10_000

# Lighter's error codes. "Not live": the order of a cancel or modify is gone, or not there yet.
_BAD_NONCE: Final = 21104
_DEAD_MAN_DUE: Final = 21122
_NOT_LIVE: Final = frozenset({21600, 21700, 21707, 21708, 21709, 21715})
_RESTING: Final = frozenset({"open", "in-progress", "pending"})

Now: TypeAlias = Callable[[], int]

_log: Final = logging.getLogger("marblemaker.lighter")


class LighterError(RuntimeError):
    """The venue is not as it must be for orders to be sent."""


class UnknownOrder(Struct, frozen=True):
    """A resting order with our tag that this run did not send."""

    order_index: int
    client_index: int
    side: int
    px: int
    """1e-9 quote currency."""
    leaves: int
    """1e-9 base units."""


class Start(Struct, frozen=True, kw_only=True):
    """What was found at the venue before the first order."""

    market: MarketDetails
    limits: AccountLimits
    position: int
    """Signed, 1e-9 base units."""
    unknown: tuple[UnknownOrder, ...]
    """Resting orders of ours from before; with the policy ``cancel`` they are gone by now."""
    others: int
    """Resting orders in the market that are not ours; they are left alone."""
    nonce: int
    quota_left: int | None
    """Volume quota; not known before the first transaction was taken, or when there is none."""
    dead_man_ms: int | None
    """When the account's dead-man's switch is due, ms since 1970; ``None`` when it is off."""
    obstacle: str
    """Why nothing may be quoted now; empty when it may."""


class _Order(Struct, eq=False):
    """One order of ours as the venue told it so far."""

    n: int
    index: int
    side: int
    px: int | None
    """Price and total that the sink was told, or asked for."""
    total: int
    order_index: int | None = None
    key: tuple[int, int, int, int] = (-1, -1, -1, -1)
    """What the newest report is newest by."""
    told: int = 0
    """Filled, by the order's own reports."""
    filled: int = 0
    """Filled, by trades."""
    fills: dict[str, AccountEvent] = field(default_factory=dict)
    acked: bool = False
    accepted: bool = False
    asked: Modify | None = None
    """The modify that is on its way."""
    cancel_asked: bool = False
    status: str = ""
    """How it ended, by its report; ``end`` comes once all its fills are here."""
    hold_until: float = 0.0
    end: AccountEvent | None = None
    final: bool = False
    pending: int = 0
    """Transactions about it that the venue has not answered."""
    settled_at: float = 0.0
    """When what the API accepted last has had its effect, in time of the loop."""
    verdict: str = ""
    """What a create is rejected with when the order is not found."""
    zombie: bool = False


class _Tx(Struct, eq=False):
    """A transaction on its way."""

    kind: Literal["create", "cancel", "modify", "dead_man", "disarm", "cancel_all"]
    request: Request
    n: int | None = None
    tries: int = 0
    nonce: int = -1
    due: float = 0.0
    refused: tuple[int, str] | None = None


class _InFlight(Struct, eq=False):
    """A message that was sent and not answered."""

    id: str
    txs: list[_Tx]
    hashes: list[str]
    timer: asyncio.TimerHandle


class _Ask(Struct):
    """An order to be looked up, and how many queries that answers."""

    due: float
    queries: int = 0
    tries: int = 0


class LighterVenue:
    """Takes commands for one market of one account; answers come later, through ``answer``.

    Client order index = ``tag`` << 32 | (``run_id`` + n) mod 2**32. Several strategies share an
    account under different tags, and each touches the orders of its own only. ``run_id`` is
    sixteenths of a second since 1970 when it is not given: a run that sends fewer than sixteen
    orders a second on average never reaches the indices of a later one. ``start`` moves it past
    whatever own index it finds among resting and recent orders, for those that send more.

    Everything runs on the event loop's thread. ``ts`` and ``seq`` of answers are 0: the boundary
    stamps them. Wire it so: ``start``, then ``run`` as a task, ``on_connection`` and ``on_frame``
    from the socket that has subscribed to the account's channels, at the end ``stop``.

    Volume quota: creates, modifies and each arming of the dead-man's switch cost one.
    """

    def __init__(
        self,
        *,
        signer: Signer,
        rest: LighterRest,
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
        market: MarketDetails,
        answer: Callable[[AccountEvent], None],
        tag: int,
        now_ns: Now,
        run_id: int | None = None,
        ack_timeout_secs: float = 3.0,
        reconcile_secs: float = 60.0,
        market_secs: float = 60.0,
        settle_secs: float = 1.0,
        unknown_orders: UnknownOrders = "cancel",
        dead_man_secs: float | None = None,
        mark: Callable[[], int | None] = lambda: None,
        market_slippage_bps: int = 100,
        on_market: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Wire the venue.

        ``send``: hands one message to the socket; ConnectionError when it could not (it may have
        arrived all the same). ``tag``: 1 to 65535. ``now_ns``: the wall clock. ``settle_secs``:
        how long after acceptance a transaction has had its effect for sure, at least the tier's
        latency. ``dead_man_secs``: the venue cancels everything of the *account* when we are
        silent that long, 300 at least; it is renewed at a third of it. One venue of an account is
        enough to keep it. ``mark``: a price to bound
        market orders by, 1e-9, with ``market_slippage_bps`` to spare; without one the market's
        last trade. ``on_market``: told when the market changed in a way that matters.
        """
        if not 1 <= tag <= 0xFFFF:
            raise ValueError(f"tag must be between 1 and 65535, was {tag!r}")
        if dead_man_secs is not None and dead_man_secs < _DEAD_MAN_LEAST_SECS:
            raise ValueError(
                f"dead_man_secs must be at least {_DEAD_MAN_LEAST_SECS}, which is the venue's "
                f"least, was {dead_man_secs!r}"
            )
        self.counts: Counter[str] = Counter()
        """Commands, transactions, and everything that did not go the usual way, by kind."""
        self.quota_left: int | None = None
        """Volume quota, as the venue told last; ``None`` before, and for accounts without one."""
        self.stats: Json = {}
        """The account's margin figures, as the venue pushed them last."""
        self.details = market
        self.dead_man_ms: int | None = None
        """When the dead-man's switch is due, ms since 1970; ``None`` while it is off."""
        self._signer = signer
        self._lane = signer.lane
        self._rest = rest
        self._send = send
        self._answer = answer
        self._tag = tag
        self._now_ns = now_ns
        self._base = now_ns() * _PER_SECOND // UNIT if run_id is None else run_id
        self._ack_timeout_secs = ack_timeout_secs
        self._reconcile_secs = reconcile_secs
        self._market_secs = market_secs
        self._settle_secs = settle_secs
        self._unknown_orders: UnknownOrders = unknown_orders
        self._dead_man_secs = dead_man_secs
        self._mark = mark
        self._market_slippage_bps = market_slippage_bps
        self._on_market = on_market
        self._account = rest.account_index
        self._obstacle = market.obstacle
        self._stale_details = ""
        self._stopping = False
        self._connected = False
        self._submitting = False
        self._messages = 0
        self._nonce_misses = 0
        self._creates_after = 0.0
        self._began_ms = now_ns() // 1_000_000
        self._orders: dict[int, _Order] = {}
        self._live: dict[int, _Order] = {}
        self._short: set[int] = set()
        self._by_index: dict[int, int] = {}
        self._strays: set[int] = set()
        self._outbox: list[_Tx] = []
        self._in_flight: dict[str, _InFlight] = {}
        self._accepted: dict[int, _Tx] = {}
        self._doubtful: list[_Tx] = []
        self._asks: dict[int, _Ask] = {}
        self._position_start = 0
        self._position_told: int | None = None
        self._position_seen = 0
        self._position_frames = 0
        self._position_timer: asyncio.TimerHandle | None = None
        self._by_fills = 0
        self._online = asyncio.Event()
        self._wake = asyncio.Event()
        self._doubted = asyncio.Event()
        self._asking = asyncio.Event()
        self._missing = asyncio.Event()
        self._reconciling = asyncio.Event()
        self._rearm = asyncio.Event()

    # ------------------------------------------------------------ commands

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Queue a batch for sending; what is refused here is answered a moment later."""
        self._submitting = True
        try:
            for command in commands:
                if isinstance(command, Create):
                    self._create(command)
                elif isinstance(command, Cancel):
                    self._cancel(command)
                elif isinstance(command, Modify):
                    self._modify(command)
                else:
                    self._query(command)
        finally:
            self._submitting = False

    def _create(self, create: Create) -> None:
        self.counts["create"] += 1
        n = create.n
        order = _Order(n, self._index(n), create.side, create.px, create.qty)
        if n in self._orders:
            self._say("reject", n, "21728 client order index already exists (not sent)")
            return
        self._orders[n] = self._live[n] = order
        now_ms = self._now_ns() // 1_000_000
        refused = self._hindrance(closes=create.is_market) or self._off_grid(create)
        px = create.px
        if not refused and px is None:
            px = self._worst_px(create.side)
            refused = "" if px else "21702 no price to bound a market order by (not sent)"
        if refused or px is None:
            self._end(order, "reject", refused)
            return
        expiry_ms = None
        if not create.is_market:
            expiry_ms = now_ms + _EXPIRY_MS
            if create.expire_ts is not None:
                expiry_ms = -(-create.expire_ts // 1_000_000)
        details = self.details
        request = SignCreate(
            details.market_id, order.index, create.qty // details.lot_size,
            px // details.tick_size, create.side == SELL, expiry_ms,
            create.is_market and details.force_reduce_only,
        )  # fmt: skip
        refused = refusal(request, now_ms)
        if refused:
            self._end(order, "reject", refused)
            return
        self._enqueue(_Tx("create", request, n))

    def _modify(self, modify: Modify) -> None:
        self.counts["modify"] += 1
        n, details = modify.n, self.details
        order = self._orders.get(n)
        refused = self._hindrance() or self._off_grid(modify)
        if order is None or order.final:
            refused = "21715 not active (not sent)"
        request = SignModify(
            details.market_id, self._index(n), modify.qty // details.lot_size,
            modify.px // details.tick_size,
        )  # fmt: skip
        refused = refused or refusal(request, self._now_ns() // 1_000_000)
        if refused or order is None:
            self._say("modify_reject", n, refused)
            return
        order.asked = modify
        self._enqueue(_Tx("modify", request, n))

    def _cancel(self, cancel: Cancel) -> None:
        self.counts["cancel"] += 1
        n = cancel.n
        order = self._orders.get(n)
        if order is None or order.final:
            self._say("cancel_reject", n, "21709 not open (not sent)")
            return
        order.cancel_asked = True
        unsent = [tx for tx in self._outbox if tx.n == n]
        for tx in unsent:
            if tx.kind == "create":
                self._outbox.remove(tx)
                order.pending -= 1
                self._end(order, "cancel", "requested")
                return
            if tx.kind == "modify":
                self._outbox.remove(tx)
                self._fail_modify(order, tx, "withdrawn for a cancel (not sent)")
            elif tx.kind == "cancel":
                return  # One is waiting to be sent again already.
        self._enqueue(_Tx("cancel", SignCancel(self.details.market_id, order.index), n))

    def _query(self, query: Query) -> None:
        self.counts["query"] += 1
        order = self._orders.get(query.n)
        if order is None:
            self._say("reject", query.n, "21700 unknown order")
        elif order.final:
            self._repeat(order)
        else:
            self._look(order.n, queries=1)

    def _hindrance(self, *, closes: bool = False) -> str:
        """Why no create or modify goes out now, whatever it asks for."""
        if self._stopping:
            return "stopping (not sent)"
        if not self._connected:
            return "not connected (not sent)"
        # A market order closes the position, which is what a reduce-only market is for.
        obstacle = "" if closes and self.details.status == "active" else self._obstacle
        if self._stale_details or obstacle:
            return f"{self._stale_details or obstacle} (not sent)"
        left = self._creates_after - self._time()
        if left > 0:
            return f"23000 too many requests: {left:.0f} s of the pause left (not sent)"
        return ""

    def _off_grid(self, command: Create | Modify) -> str:
        details, px, qty = self.details, command.px, command.qty
        if px is not None and px % details.tick_size:
            return "21702 price off the tick (not sent)"
        if qty % details.lot_size:
            return "21701 size off the lot (not sent)"
        if px is None:
            return ""
        if qty < details.min_base_amount:
            return "21706 below the minimum base amount (not sent)"
        if px * qty < details.min_quote_amount * UNIT:
            return "21706 below the minimum quote amount (not sent)"
        return ""

    def _worst_px(self, side: int) -> int | None:
        mark = self._mark() or self.details.last_trade_px
        if mark is None:
            return None
        tick = self.details.tick_size
        worst = mark * (10_000 + side * self._market_slippage_bps)
        return worst // (10_000 * tick) * tick

    # ------------------------------------------------------------ names of orders

    def _index(self, n: int) -> int:
        return self._tag << 32 | (self._base + n) & _LOW

    def _order_of(self, client_index: int, order_index: int | None = None) -> _Order | None:
        """Find an order of this run by what the venue calls it."""
        if client_index >> 32 == self._tag:
            return self._orders.get((client_index - self._base) & _LOW)
        if order_index is not None and not client_index:
            return self._orders.get(self._by_index.get(order_index, 0))
        return None

    # ------------------------------------------------------------ answers

    def _say(
        self,
        kind: AccountKind,
        n: int | None,
        reason: str | None = None,
        *,
        venue_id: str | None = None,
        px: int | None = None,
        qty: int | None = None,
    ) -> AccountEvent:
        tells = kind in ("ack", "modify") or (reason or "").startswith("23")
        event = AccountEvent(
            seq=0, ts=0, kind=kind, n=n, venue_id=venue_id, px=px, qty=qty, reason=reason,
            quota_left=self.quota_left if tells else None,
        )  # fmt: skip
        self._tell(event)
        return event

    def _tell(self, event: AccountEvent) -> None:
        self.counts[f"told {event.kind}"] += 1
        if self._submitting:
            asyncio.get_running_loop().call_soon(self._answer, event)
        else:
            self._answer(event)

    def _end(self, order: _Order, kind: AccountKind, reason: str) -> None:
        venue_id = None if order.order_index is None else str(order.order_index)
        order.end = self._say(kind, order.n, reason, venue_id=venue_id)
        self._finalise(order)

    def _finalise(self, order: _Order) -> None:
        order.final = True
        order.asked = None
        self._live.pop(order.n, None)
        ask = self._asks.pop(order.n, None)
        if ask is not None and ask.queries and order.end is None:
            self._repeat(order)  # Any other end was told just now, and is the answer.
        # Oldest first; a live one among the oldest only delays this.
        while len(self._orders) > REMEMBERED:
            oldest = next(iter(self._orders.values()))
            if not oldest.final:
                break
            del self._orders[oldest.n]
            self._by_index.pop(oldest.order_index or 0, None)

    def _repeat(self, order: _Order) -> None:
        """Answer a question with what is known: its fills, then how it stands."""
        for fill in order.fills.values():
            self._tell(replace(fill, reason=QUERIED))
        if not order.final:
            self._say("ack", order.n, QUERIED, px=order.px, qty=order.total)
        elif order.end is None or order.end.kind != "reject":
            kind: AccountKind = "cancel" if order.end is None else order.end.kind
            self._say(kind, order.n, QUERIED)
        else:
            self._tell(replace(order.end, reason=QUERIED))

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    # ------------------------------------------------------------ sending

    def _enqueue(self, tx: _Tx) -> None:
        if tx.n is not None and tx.n in self._orders:
            self._orders[tx.n].pending += 1
        self._outbox.append(tx)
        self._wake.set()

    def _again(self, tx: _Tx, delay_secs: float) -> None:
        """Send a cancel (or the like) again after a while, unless its order is gone by then."""
        order = self._orders.get(tx.n) if tx.n is not None else None
        if order is not None and order.final:
            return
        tx.tries += 1
        tx.refused = None
        tx.due = self._time() + delay_secs
        self._outbox.append(tx)
        self.counts[f"{tx.kind} sent again"] += 1
        if delay_secs > 0:
            asyncio.get_running_loop().call_later(delay_secs, self._wake.set)
        else:
            self._wake.set()

    def _pick(self) -> list[_Tx]:
        """Take what goes out next: cancels before all else, then in order."""
        now = self._time()
        ready = [tx for tx in self._outbox if tx.due <= now]
        for tx in [tx for tx in ready if tx.kind == "cancel"]:
            order = self._orders.get(tx.n) if tx.n is not None else None
            if order is not None and order.final:
                ready.remove(tx)
                self._outbox.remove(tx)
                self._done(tx)
        ready.sort(key=lambda tx: tx.kind != "cancel")
        # Without quota one transaction is free now and then, but no batch.
        spent = self.quota_left is not None and self.quota_left <= 0
        batch = ready[:_BATCH]
        if spent and ready:
            free = [tx for tx in batch if tx.kind == "cancel"]
            batch = free or ready[:1]
        for tx in batch:
            self._outbox.remove(tx)
            if tx.kind == "dead_man" and self._dead_man_secs is not None:
                due_ms = self._now_ns() // 1_000_000 + int(self._dead_man_secs * 1000)
                tx.request = SignCancelAll(SCHEDULED, due_ms + _DEAD_MAN_MARGIN_MS)
        return batch

    async def _sender(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while any(tx.due <= self._time() for tx in self._outbox):
                await self._online.wait()
                if not await self._flush():
                    await asyncio.sleep(self._nonce_wait())

    async def _flush(self) -> bool:
        """Sign and send one message; false when the venue does not tell its nonce."""
        async with self._lane.lock:
            if not await self._synced():
                return False
            batch = self._pick()
            base = self._lane.next
            if not batch or base is None:
                return True
            signed = await self._signer.sign([tx.request for tx in batch], base)
            if self._lane.next != base or not self._connected:
                # Meanwhile an answer was lost, or the socket: nothing of this has been sent.
                self._outbox[:0] = batch
                if not self._connected:
                    self._drop_unsent()
                return True
            going: list[tuple[_Tx, Signed]] = []
            for tx, one in zip(batch, signed, strict=True):
                if isinstance(one, Signed):
                    tx.nonce = one.nonce
                    going.append((tx, one))
                else:
                    code, _, text = one.partition(" ")
                    self._refused(tx, int(code), text)
            if going:
                await self._transmit(going)
            return True

    async def _transmit(self, going: Sequence[tuple[_Tx, Signed]]) -> None:
        self._messages += 1
        # Distinct from what other venues of the process send over the same socket.
        name = f"{self._tag}-{self.details.market_id}-{self._messages}"
        nonces = [one.nonce for _, one in going]
        if len(going) == 1:
            _, one = going[0]
            message: dict[str, Any] = {
                "type": "jsonapi/sendtx",
                "data": {"id": name, "tx_type": one.tx_type, "tx_info": json.loads(one.tx_info)},
            }
        else:
            # The venue wants strings of JSON here, and strings of JSON within.
            types = json.dumps([one.tx_type for _, one in going])
            infos = json.dumps([one.tx_info for _, one in going])
            message = {
                "type": "jsonapi/sendtxbatch",
                "data": {"id": name, "tx_types": types, "tx_infos": infos},
            }
        timer = asyncio.get_running_loop().call_later(
            self._ack_timeout_secs, self._lost, name, "no answer in time"
        )
        self._in_flight[name] = _InFlight(
            name, [tx for tx, _ in going], [one.tx_hash for _, one in going], timer
        )
        self._lane.sent(nonces)
        self.counts["messages"] += 1
        self.counts["transactions"] += len(going)
        try:
            async with asyncio.timeout(self._ack_timeout_secs):
                await self._send(message)
        except (ConnectionError, TimeoutError) as error:
            self._lost(name, f"not sent for sure: {error!r}")

    def _settle(self, flight: _InFlight) -> None:
        flight.timer.cancel()
        self._in_flight.pop(flight.id, None)
        self._lane.settle([tx.nonce for tx in flight.txs])

    def _lost(self, name: str, why: str) -> None:
        """What was sent may have been taken or not: the venue's nonce will tell."""
        flight = self._in_flight.get(name)
        if flight is None:
            return
        self.counts["answers lost"] += 1
        _log.warning("%s: %d transactions in doubt", why, len(flight.txs))
        self._doubt(flight)

    def _doubt(self, flight: _InFlight) -> None:
        self._doubtful += flight.txs
        self._lane.doubt()
        self._settle(flight)
        self._doubted.set()

    # ------------------------------------------------------------ what the API answers

    def _on_ack(self, frame: Json) -> None:
        inner = frame.get("data")
        body = {**frame, **inner} if isinstance(inner, Mapping) else dict(frame)
        error = body.get("error")
        if isinstance(error, Mapping):
            body = {**body, **error}
        elif isinstance(error, str):
            body.setdefault("message", error)
        hashes = body.get("tx_hash") or ()
        hashes = [hashes] if isinstance(hashes, str) else list(hashes)
        flight = self._flight_of(body.get("id"), hashes)
        if flight is None:
            self.counts["answers to nothing in flight"] += 1
            return
        quota = body.get("volume_quota_remaining")
        if quota is not None:
            self.quota_left = int(quota)
        code = body.get("code")
        if code is None and not error and hashes:
            code = 200
        if code is None:
            # Neither taken nor refused in words that we know.
            self._lost(flight.id, f"answer not understood: {str(frame)[:200]}")
        elif int(code) in (0, 200):
            self._settle(flight)
            for tx in flight.txs:
                self._taken(tx)
        else:
            self._deny(flight, int(code), str(body.get("message") or ""))

    def _flight_of(self, name: object, hashes: Sequence[str]) -> _InFlight | None:
        if name is not None:
            return self._in_flight.get(str(name))
        for flight in self._in_flight.values():
            if any(one in flight.hashes for one in hashes):
                return flight
        if hashes:
            return None
        # The venue answers in order (uncertain).
        return next(iter(self._in_flight.values()), None)

    def _deny(self, flight: _InFlight, code: int, text: str) -> None:
        if 29500 <= code < 30000 or 500 <= code < 600:
            self._lost(flight.id, f"{code} {text}")
            return
        if _is_limit(code):
            self._pause(code, text)
        if code == _BAD_NONCE or len(flight.txs) > 1:
            # How many of a refused batch were taken after all, the nonce tells.
            for tx in flight.txs:
                tx.refused = code, text
            self._doubt(flight)
            return
        tx = flight.txs[0]
        self._settle(flight)
        self._lane.unused(tx.nonce)
        if self._lane.next is None:
            self._doubted.set()
        self._refused(tx, code, text)

    def _pause(self, code: int, text: str) -> None:
        self._creates_after = max(self._creates_after, self._time() + _PAUSE_SECS)
        self.counts["pauses"] += 1
        _log.warning("%d %s: creates pause for %.0f s", code, text, _PAUSE_SECS)

    def _failed(self, what: str, error: RestError) -> None:
        """Note that a call failed; calls and transactions share the account's limits."""
        _log.warning("%s: %s", what, error)
        if error.limited:
            self._pause(error.code, error.text)

    def _done(self, tx: _Tx) -> _Order | None:
        """Count a transaction as answered; return its order."""
        order = self._orders.get(tx.n) if tx.n is not None else None
        if order is not None and not (tx.kind == "cancel" and tx.tries):
            order.pending = max(order.pending - 1, 0)
        return order

    def _taken(self, tx: _Tx) -> None:
        """The API took a transaction; what it does is told by the channels."""
        self._accepted[tx.nonce] = tx
        if len(self._accepted) > _REMEMBERED_TX:
            del self._accepted[next(iter(self._accepted))]
        order = self._done(tx)
        if order is not None:
            order.settled_at = self._time() + self._settle_secs
            order.accepted = True
        if isinstance(tx.request, SignCancelAll):
            if tx.kind == "dead_man":
                self.dead_man_ms = tx.request.time_ms
                self.counts["dead-man's switch armed"] += 1
            else:
                self.dead_man_ms = None  # An immediate cancel-all disarms it as well.
            self.counts["quota spent on cancel-alls"] += 1
            self._rearm.set()

    def _refused(self, tx: _Tx, code: int, text: str) -> None:
        """The venue (or the signer) refused a transaction: it has no effect and never will."""
        reason = f"{code} {text}".strip()
        self.counts[f"{tx.kind} refused {code}"] += 1
        order = self._done(tx)
        if code == _DEAD_MAN_DUE:
            self.dead_man_ms = None
            self._rearm.set()
        if tx.kind == "cancel":
            if _is_limit(code):
                self._again(tx, min(2.0**tx.tries, _LONGEST_RETRY_SECS))
                return
            if code == _BAD_NONCE and tx.tries < _MOST_NONCE_TRIES:
                self._again(tx, 0.0)
                return
        if order is None or order.final:
            if tx.kind not in ("create", "cancel", "modify"):
                _log.warning("%s refused: %s", tx.kind, reason)
                self._rearm.set()
            return
        if tx.kind == "create":
            self._end(order, "reject", reason)
        elif tx.kind == "modify":
            self._fail_modify(order, tx, reason, done=True)
        else:
            order.cancel_asked = False
            self._say("cancel_reject", order.n, reason)
        if code in _NOT_LIVE and not order.final:
            self._look(order.n)

    def _fail_modify(self, order: _Order, tx: _Tx, reason: str, *, done: bool = False) -> None:
        if not done:
            self._done(tx)
        if order.final:
            return
        if order.asked is not None and self._is_for(tx, order.asked):
            order.asked = None
        self._say("modify_reject", order.n, reason)

    def _is_for(self, tx: _Tx, modify: Modify) -> bool:
        request, details = tx.request, self.details
        return isinstance(request, SignModify) and (request.base, request.price) == (
            modify.qty // details.lot_size,
            modify.px // details.tick_size,
        )

    # ------------------------------------------------------------ nonces

    async def _synced(self) -> bool:
        """Have the next nonce known, with the lane's lock held; settle what was in doubt."""
        lane = self._lane
        if lane.next is None:
            await lane.idle()
            try:
                nonce = await self._rest.next_nonce()
            except RestError as error:
                self.counts["nonce not told"] += 1
                self._nonce_misses += 1
                self._failed("next nonce", error)
                return False
            self._nonce_misses = 0
            lane.sync(nonce)
            self.counts["nonce asked for"] += 1
        if self._doubtful and lane.synced is not None:
            self._judge(lane.synced)
        return True

    def _judge(self, nonce: int) -> None:
        """Say of each transaction in doubt whether the venue took it, by the nonce it expects."""
        doubtful, self._doubtful = self._doubtful, []
        for tx in doubtful:
            if tx.refused and (tx.nonce >= nonce or tx.refused[0] == _BAD_NONCE):
                self._refused(tx, *tx.refused)
            elif tx.nonce < nonce:
                self._taken(tx)
                self._suspect(tx, "21700 no such order: the venue took it without an answer")
            elif tx.kind == "cancel":
                self._done(tx)
                self._again(tx, 0.0)
            elif tx.kind == "modify":
                order = self._orders.get(tx.n or 0)
                if order is not None:
                    self._fail_modify(order, tx, "not accepted: no answer, nonce unused")
            elif tx.kind == "create":
                # Not taken so far. A cancel uses its nonce up, and with it its last chance;
                # should it still slip in before, it is cancelled when it shows.
                self._done(tx)
                self._suspect(tx, "not accepted: no answer, nonce unused")
            else:
                self._rearm.set()

    def _suspect(self, tx: _Tx, verdict: str) -> None:
        order = self._orders.get(tx.n or 0)
        if order is None or order.final:
            return
        if tx.kind == "create":
            order.verdict = verdict
        self._look(order.n)

    async def _resolver(self) -> None:
        while True:
            await self._doubted.wait()
            self._doubted.clear()
            async with self._lane.lock:
                known = await self._synced()
            if not known:
                self._doubted.set()
                await asyncio.sleep(self._nonce_wait())

    def _nonce_wait(self) -> float:
        """Seconds until the nonce is asked for again: doubling, as long as it is not told."""
        return min(_RETRY_SECS * 2.0 ** min(self._nonce_misses, 10), _LONGEST_RETRY_SECS)

    # ------------------------------------------------------------ what the socket brings

    def on_connection(self, kind: Literal["connect", "disconnect"], text: str = "") -> None:
        """Take note that the socket is up, its channels subscribed, or down."""
        if (kind == "connect") == self._connected:
            return
        self._connected = kind == "connect"
        if kind == "connect":
            self._online.set()
            self._lane.doubt()
            self._doubted.set()
            self._wake.set()
            self._reconciling.set()
            self._rearm.set()
            self._say("connect", None, text or None)
            return
        self._online.clear()
        self.counts["disconnects"] += 1
        for name in list(self._in_flight):
            self._lost(name, "disconnected")
        self._say("disconnect", None, text or None)
        self._drop_unsent()

    def _drop_unsent(self) -> None:
        """Refuse what adds to our orders and was not sent; cancels wait for the connection."""
        for tx in [tx for tx in self._outbox if tx.kind in ("create", "modify")]:
            self._outbox.remove(tx)
            order = self._orders.get(tx.n or 0)
            if order is None:
                continue
            if tx.kind == "modify":
                self._fail_modify(order, tx, "not connected (not sent)")
                continue
            self._done(tx)
            if not order.final:
                self._end(order, "reject", "not connected (not sent)")

    def on_frame(self, frame: Mapping[str, Any]) -> None:
        """Take a message of the socket; those that are not about our account are passed over."""
        kind = str(frame.get("type") or "")
        if kind.startswith("jsonapi") or (not kind.count("/") and self._is_answer(frame)):
            self._guard(self._on_ack, frame)
            return
        channel = kind.rpartition("/")[2]
        if channel in ("account_all_orders", "account_orders"):
            for row in _rows(frame.get("orders")):
                self._guard(self._on_order, row)
        elif channel == "account_all_trades":
            self._on_trades(_rows(frame.get("trades")))
        elif channel == "account_all_positions":
            self._guard(self._on_positions, frame)
        elif channel == "user_stats":
            self.stats = frame.get("stats") or {}
        elif channel == "account_tx":
            for row in _rows(frame.get("txs")):
                self._guard(self._on_tx, row)

    def _is_answer(self, frame: Json) -> bool:
        """Tell an answer to a transaction that lacks its type from other messages that do."""
        if frame.get("id") is not None and str(frame["id"]) in self._in_flight:
            return True
        if frame.get("tx_hash"):
            return True
        error = frame.get("error")
        code = (error.get("code") if isinstance(error, Mapping) else None) or frame.get("code")
        # 20xxx and 30xxx are about subscriptions, 23001 to 23003 about connections.
        return isinstance(code, int) and (
            21000 <= code < 22000 or code in (405, 429, 23000, 29500, 29501, 62007)
        )

    def _guard(self, take: Callable[[Json], None], row: Json) -> None:
        """Take a row; one that makes no sense is counted, and the venue is asked instead."""
        try:
            take(row)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self.counts["messages not understood"] += 1
            _log.error("not understood (%r): %s", error, str(row)[:400])
            self._reconciling.set()

    # ------------------------------------------------------------ orders

    def _on_order(self, row: Json) -> None:
        if int(row.get("market_index", -1)) != self.details.market_id:
            return
        if int(row.get("owner_account_index", self._account)) != self._account:
            return
        client, order_index = int(row.get("client_order_index") or 0), int(row["order_index"])
        status = str(row["status"])
        order = self._order_of(client, order_index)
        if order is None:
            if client >> 32 == self._tag and status in _RESTING:
                self._stray(order_index, status)
            return
        order.order_index = order_index
        self._by_index[order_index] = order.n
        filled = _units(row, "filled_base_amount")
        resting = status in _RESTING
        if order.final:
            if resting and not order.status:
                self._revenant(order)
            elif filled > order.told:
                order.told = filled
                self._check_fills(order)
            return
        version = int(row.get("order_version") or 0)
        updated = int(row.get("updated_at") or row.get("timestamp") or 0)
        key = (updated, int(row.get("transaction_time") or 0), version, filled)
        if order.status or (resting and key <= order.key):
            return  # Ended is ended; and old news is no news.
        order.key = max(key, order.key)
        order.told = max(order.told, filled)
        if not resting:
            order.status = status
            order.hold_until = self._time() + _HOLD_SECS
            self._finish(order)
        elif status == "open":
            total = filled + _units(row, "remaining_base_amount")
            self._on_open(order, _units(row, "price"), total)
        self._check_fills(order)

    def _on_open(self, order: _Order, px: int, total: int) -> None:
        if not order.acked:
            order.acked = order.accepted = True
            self._say("ack", order.n, venue_id=str(order.order_index))
        asked = order.asked
        fits = asked is not None and (asked.px, asked.qty) == (px, total)
        if fits or (px, total) != (order.px, order.total):
            order.px, order.total = px, total
            if fits:
                order.asked = None
            self._say("modify", order.n, px=px, qty=total, venue_id=str(order.order_index))

    def _finish(self, order: _Order, *, force: bool = False) -> None:
        """Tell how an order ended, once its fills are complete: they come on their own stream."""
        if order.final or (order.filled < order.told and not force):
            return
        status, n = order.status, order.n
        if status == "filled":
            asked = order.asked
            if order.filled < order.total:
                # A modify to what had filled: the sink still waits for the rest.
                self._end(order, "cancel", "modified to what has filled" if asked else "filled")
                return
            if asked is not None and order.filled < asked.qty:
                self._say("modify_reject", n, "21715 not active: it has filled")
            self._finalise(order)
        elif status == "canceled-expired":
            self._end(order, "expire", status)
        elif status == "canceled-post-only" and not (order.acked or order.filled):
            self._end(order, "reject", f"{status}: post-only would cross")
        elif order.px is None and not order.filled:
            self._end(order, "reject", f"{status}: nothing filled")
        elif status == "canceled" and order.cancel_asked:
            self._end(order, "cancel", "requested")
        else:
            self._end(order, "cancel", status)

    def _check_fills(self, order: _Order) -> None:
        if order.filled < order.told:
            self._short.add(order.n)
            self._missing.set()
        else:
            self._short.discard(order.n)

    def _stray(self, order_index: int, status: str) -> None:
        """Deal with a resting order that has our tag and is not of this run."""
        if order_index in self._strays:
            return
        self._strays.add(order_index)
        self.counts["unknown orders"] += 1
        _log.error(
            "order %d has our tag %d but is not of this run (%s): %s",
            order_index, self._tag, status, self._unknown_orders,
        )  # fmt: skip
        if self._unknown_orders == "cancel":
            self._enqueue(_Tx("cancel", SignCancel(self.details.market_id, order_index)))
        elif self._unknown_orders == "refuse" and not self._stale_details:
            self._stale_details = f"unknown order {order_index} with our tag"
            self._on_market(self._stale_details)

    def _revenant(self, order: _Order) -> None:
        """An order that was given up as not accepted rests after all: cancel it."""
        if order.zombie or order.order_index is None:
            return
        order.zombie = True
        self.counts["given up and yet there"] += 1
        _log.error("order %d was given up and rests after all: cancelling it", order.n)
        self._make_sure(order)

    # ------------------------------------------------------------ trades

    def _on_trades(self, rows: Iterable[Json]) -> None:
        for row in rows:
            self._guard(self._on_trade, row)

    def _on_trade(self, row: Json) -> None:
        if int(row.get("market_id", -1)) != self.details.market_id:
            return
        # Both sides may be ours: then it is a fill of each.
        for side, name in ((SELL, "ask"), (BUY, "bid")):
            if int(row[f"{name}_account_id"]) != self._account:
                continue
            client = int(row.get(f"{name}_client_id") or row.get(f"{name}_client_id_str") or 0)
            order = self._order_of(client, int(row.get(f"{name}_id") or 0))
            if order is None:
                if client >> 32 == self._tag:
                    self.counts["trades of orders of another run"] += 1
            elif order.side != side:
                raise ValueError(f"order {order.n} on the other side of its trade")
            else:
                self._fill(order, row)

    def _fill(self, order: _Order, row: Json) -> None:
        trade_id = str(row.get("trade_id_str") or row["trade_id"])
        if trade_id in order.fills:
            self.counts["trades repeated"] += 1
            return
        is_maker = (order.side == SELL) == bool(row["is_maker_ask"])
        ppm = int(row.get("maker_fee" if is_maker else "taker_fee") or 0)
        event = AccountEvent(
            seq=0, ts=0, kind="fill", n=order.n, venue_id=trade_id, px=_units(row, "price"),
            qty=_units(row, "size"),
            # A rate in millionths (uncertain); rounded up, so that we never count too little.
            fee=-(-_units(row, "usd_amount") * ppm // 1_000_000),
            liquidity="MAKER" if is_maker else "TAKER",
        )  # fmt: skip
        assert event.qty is not None
        order.fills[trade_id] = event
        order.filled += event.qty
        order.accepted = True
        self._by_fills += order.side * event.qty
        self._tell(event)
        if order.filled >= order.told:
            self._short.discard(order.n)
        if order.status:
            self._finish(order)
        if self._position_timer is not None:
            self._on_position(self._position_seen)

    async def _fetch_trades(self) -> None:
        """Fetch what our orders say they filled and no trade has told."""
        wanted = {n: self._orders[n] for n in self._short if n in self._orders}

        def enough(rows: Sequence[Json]) -> bool:
            if int(rows[-1].get("timestamp") or 0) < self._began_ms:
                return True
            found: Counter[int] = Counter()
            for row in rows:
                for name in ("ask", "bid"):
                    order = self._order_of(int(row.get(f"{name}_client_id") or 0))
                    if order is not None:
                        found[order.n] += _units(row, "size")
            return all(found[n] >= order.told for n, order in wanted.items())

        self.counts["trades fetched"] += 1
        self._on_trades(await self._rest.trades(self.details.market_id, enough))

    async def _fetcher(self) -> None:
        while True:
            await self._missing.wait()
            self._missing.clear()
            wait = _FILL_GRACE_SECS
            while self._short:
                await asyncio.sleep(wait)
                wait = min(wait * 2, 30.0)
                if not self._short:
                    break
                try:
                    await self._fetch_trades()
                except RestError as error:
                    self._failed("trades", error)
                    wait = max(wait, _PAUSE_SECS) if error.limited else wait
                self._let_go()

    def _let_go(self) -> None:
        """Tell ends that waited for their fills long enough; the fills are looked for still."""
        for n in list(self._short):
            order = self._orders.get(n)
            if order is None:
                self._short.discard(n)
            elif order.status and not order.final and self._time() >= order.hold_until:
                self.counts["ended with fills missing"] += 1
                _log.error("order %d ended with fills missing", n)
                self._finish(order, force=True)

    # ------------------------------------------------------------ position

    def _on_positions(self, frame: Json) -> None:
        for row in _rows(frame.get("positions")):
            if int(row["market_id"]) == self.details.market_id:
                self._position_frames += 1
                self._on_position(_position_of(row))
                return
        # A market that is merely missing may be flat or unchanged (uncertain): REST knows.
        if self._position_told or self._position_seen or self._by_fills:
            self._reconciling.set()

    def _on_position(self, qty: int) -> None:
        self._position_seen = qty
        by_fills = self._position_start + self._by_fills
        if qty in (by_fills, self._position_told):
            if self._position_timer is not None:
                self._position_timer.cancel()
                self._position_timer = None
            self._tell_position()
        elif self._position_timer is None:
            self._position_timer = asyncio.get_running_loop().call_later(
                _POSITION_GRACE_SECS, self._grace_over
            )

    def _grace_over(self) -> None:
        self._position_timer = None
        self._tell_position()

    def _tell_position(self) -> None:
        if self._position_seen != self._position_told:
            self._position_told = self._position_seen
            self._say("position", None, qty=self._position_seen)

    # ------------------------------------------------------------ what the sequencer refused

    def _on_tx(self, row: Json) -> None:
        if int(row.get("account_index", self._account)) != self._account:
            return
        ours = int(row.get("api_key_index", -1)) == self._signer.api_key_index
        tx = self._accepted.get(int(row.get("nonce", -1))) if ours else None
        event_info = _parsed(row.get("event_info"))
        text = event_info.get("ae") or ""
        failed = int(row.get("status", 2)) == 0 or bool(text)
        kind = int(row.get("tx_type") or row.get("type") or 0)
        if tx is None:
            info = _parsed(row.get("info"))
            when = int(info.get("TimeInForce", -1)) if kind == CANCEL_ALL else -1
            if not failed and when in (IMMEDIATE, ABORT) and self.dead_man_ms is not None:
                # Somebody else on this account disarmed the switch, maybe without knowing.
                self.dead_man_ms = None
                self._rearm.set()
            return
        if not failed:
            return
        del self._accepted[tx.nonce]
        inner = _parsed(text)
        reason = f"{inner.get('code', '')} {inner.get('message', '')}".strip() or str(text)
        reason = reason or "failed at the sequencer"
        self.counts[f"{tx.kind} failed at the sequencer"] += 1
        order = self._orders.get(tx.n or 0)
        if order is None or order.final:
            if tx.kind == "dead_man":
                self.dead_man_ms = None
                self._rearm.set()
            return
        if tx.kind == "create":
            if not (order.acked or order.status or order.filled):
                self._end(order, "reject", reason)
        elif tx.kind == "modify":
            self._fail_modify(order, tx, reason, done=True)
        elif tx.kind == "cancel" and not order.status:
            order.cancel_asked = False
            self._say("cancel_reject", order.n, reason)
            self._look(order.n)

    # ------------------------------------------------------------ asking

    def _look(self, n: int, *, queries: int = 0) -> None:
        """Have an order looked up; a burst of them shares its calls."""
        due = self._time() + 0.02
        ask = self._asks.setdefault(n, _Ask(due))
        ask.queries += queries
        ask.due = min(ask.due, due)
        self._asking.set()

    async def _asker(self) -> None:
        while True:
            now = self._time()
            due = min((ask.due for ask in self._asks.values()), default=None)
            if due is None or due > now:
                try:
                    async with asyncio.timeout(None if due is None else due - now):
                        await self._asking.wait()
                    self._asking.clear()
                    await asyncio.sleep(0.02)
                except TimeoutError:
                    pass
                continue
            ready: list[int] = []
            for n, ask in self._asks.items():
                if ask.due > now:
                    continue
                order = self._orders[n]
                # Its answer must not be older than what was sent before the question.
                if order.pending or order.settled_at > now:
                    ask.due = max(now + 0.05, order.settled_at)
                else:
                    ready.append(n)
            if not ready:
                continue
            try:
                await self._look_up(ready)
            except RestError as error:
                self._failed("orders", error)
                self.counts["looks failed"] += 1
                for n in ready:
                    if n in self._asks:
                        ask = self._asks[n]
                        ask.tries += 1
                        wait = min(_RETRY_SECS * 2.0**ask.tries, _LONGEST_RETRY_SECS)
                        ask.due = self._time() + (_PAUSE_SECS if error.limited else wait)
                        # Only what the venue answers counts as a look.
                        ask.tries = min(ask.tries, _LOOKS - 2)

    async def _look_up(self, wanted: Sequence[int]) -> None:
        """Find out how orders stand: among the resting, then among the ended."""
        market_id = self.details.market_id
        self.counts["looks"] += 1
        resting = self._take_orders(await self._rest.active_orders(market_id))
        missing = {n for n in wanted if n not in resting and not self._orders[n].status}
        missing = {n for n in missing if not self._orders[n].final}
        if missing:
            indices = {self._index(n) for n in missing}

            def enough(rows: Sequence[Json]) -> bool:
                if int(rows[-1].get("created_at") or self._began_ms) < self._began_ms - 60_000:
                    return True
                return indices <= {int(row.get("client_order_index") or 0) for row in rows}

            self._take_orders(await self._rest.inactive_orders(market_id, enough))
        if self._short & set(wanted):
            await self._fetch_trades()
        for n in wanted:
            self._conclude(n, found=n in resting)

    def _take_orders(self, rows: Iterable[Json]) -> set[int]:
        seen = set()

        def take(row: Json) -> None:
            self._on_order(row)
            order = self._order_of(int(row.get("client_order_index") or 0))
            if order is not None:
                seen.add(order.n)

        for row in rows:
            self._guard(take, row)
        return seen

    def _conclude(self, n: int, *, found: bool) -> None:
        ask, order = self._asks.get(n), self._orders[n]
        if ask is None:
            return  # It ended meanwhile, and that answered.
        if order.pending:
            # Something was sent about it meanwhile, and may come before the question there.
            ask.due = self._time() + 0.05
            return
        ask.tries += 1
        if found and not order.status and order.filled >= order.told:
            del self._asks[n]
            order.asked = None  # Whatever was on its way has had its effect, or is lost.
            for _ in range(ask.queries):
                self._repeat(order)
        elif found or order.status:
            ask.due = self._time() + min(0.25 * 2.0**ask.tries, 5.0)  # its fills are not here yet
        elif ask.tries < (1 if order.verdict and not order.accepted else _LOOKS):
            ask.due = self._time() + self._settle_secs
        elif order.acked or order.filled:
            # It rested, and the venue has no trace of it. Should it show, it is not ours to keep.
            self.counts["gone without a trace"] += 1
            self._end(order, "cancel", "not among the venue's orders any more")
            self._make_sure(order)
        else:
            self._end(order, "reject", order.verdict or "21700 no such order at the venue")
            self._make_sure(order)

    def _make_sure(self, order: _Order) -> None:
        """Cancel what was given up, in case it rests after all.

        After a create that was not taken this also uses up its nonce, if the venue takes it: then
        the create can never arrive late.
        """
        index = order.order_index or order.index
        self._enqueue(_Tx("cancel", SignCancel(self.details.market_id, index)))

    # ------------------------------------------------------------ reconciling

    async def reconcile(self) -> None:
        """Compare orders, position and nonce with the venue's.

        Errors: RestError when the venue does not answer.
        """
        began, frames = self._time(), self._position_frames
        quiet = [
            order.n
            for order in self._live.values()
            if order.accepted and not order.pending and order.settled_at <= began
        ]
        self.counts["reconciled"] += 1
        resting = self._take_orders(await self._rest.active_orders(self.details.market_id))
        for n in quiet:
            if n not in resting and n in self._live and not self._live[n].status:
                self._look(n)
        position = await self._rest.position(self.details.market_id)
        if frames == self._position_frames:
            self._on_position(position)
        lane = self._lane
        if lane.next is not None and not lane.lock.locked() and not self._in_flight:
            async with lane.lock:
                expected = lane.next
                if expected is None:
                    return
                await lane.idle()
                nonce = await self._rest.next_nonce()
                if lane.next == expected and nonce != expected:
                    self.counts["nonce was not the venue's"] += 1
                    _log.error(
                        "next nonce is %d, not %d: another user of the key?", nonce, expected
                    )
                    lane.sync(nonce)

    async def _reconciler(self) -> None:
        wait = 1.0
        while True:
            try:
                async with asyncio.timeout(self._reconcile_secs):
                    await self._reconciling.wait()
            except TimeoutError:
                pass
            self._reconciling.clear()
            try:
                await self.reconcile()
                wait = 1.0
            except RestError as error:
                self._failed("not reconciled", error)
                self.counts["not reconciled"] += 1
                await asyncio.sleep(_PAUSE_SECS if error.limited else wait)
                wait = min(wait * 2, 30.0)
                self._reconciling.set()

    async def _market_watch(self) -> None:
        while True:
            await asyncio.sleep(self._market_secs)
            try:
                self._on_details(await self._rest.market(self.details.market_id))
            except RestError as error:
                self._failed("market details", error)

    def _on_details(self, new: MarketDetails) -> None:
        old = self.details
        scales = (old.price_decimals, old.size_decimals)
        if (new.price_decimals, new.size_decimals) != scales:
            # Everything in flight is counted in the old ones: nothing is sent till a restart.
            self._stale_details = (
                f"21605 decimals changed from {scales} to "
                f"{(new.price_decimals, new.size_decimals)}: restart"
            )
            if self._stale_details not in self.counts:
                self.counts[self._stale_details] += 1
                self._on_market(self._stale_details)
            return
        self.details = new
        changes = [
            f"{name} is {getattr(new, name)!r}, was {getattr(old, name)!r}"
            for name in (
                "status", "force_reduce_only", "min_base_amount", "min_quote_amount",
                "trading_hours", "multiplier",
            )
            if getattr(new, name) != getattr(old, name)
        ]  # fmt: skip
        self._obstacle = new.obstacle
        if changes:
            self.counts["market changes"] += 1
            text = f"{new.symbol}: {', '.join(changes)}"
            _log.warning("%s", text)
            self._on_market(text)

    # ------------------------------------------------------------ the dead-man's switch

    async def _dead_man(self) -> None:
        """Keep the switch armed while the socket lives."""
        secs = self._dead_man_secs
        if secs is None:
            return
        while not self._stopping:
            await self._online.wait()
            left = 0.0
            if self.dead_man_ms is not None:
                left = self.dead_man_ms / 1000 - self._now_ns() / UNIT - secs * 2 / 3
            if left <= 0:
                if not any(tx.kind == "dead_man" for tx in self._pending()):
                    self._enqueue(_Tx("dead_man", SignCancelAll(SCHEDULED)))
                # Until it is answered; one that was refused is not repeated at once.
                left = self._ack_timeout_secs + 15.0
                await self._until_rearm(left)
                if self.dead_man_ms is None:
                    await asyncio.sleep(min(15.0, secs / 3))
            else:
                await self._until_rearm(left)

    async def _until_rearm(self, secs: float) -> None:
        self._rearm.clear()
        try:
            async with asyncio.timeout(secs):
                await self._rearm.wait()
        except TimeoutError:
            pass

    def cancel_all(self) -> None:
        """Have the venue cancel all orders of the *account*, of every strategy and market, at once.

        It also disarms the dead-man's switch, which is then armed again. Costs one of the quota.
        """
        for order in self._live.values():
            order.cancel_asked = True
        self._enqueue(_Tx("cancel_all", SignCancelAll(IMMEDIATE)))

    # ------------------------------------------------------------ start, run, stop

    async def start(self) -> Start:
        """Look around: market, limits, position, nonce, and orders that were left behind.

        Orders with our tag are of an earlier run: they are cancelled (and gone when this returns),
        left alone, or an error, as ``unknown_orders`` says. Orders of others are left alone.

        Errors: LighterError when the market is not what was set, orders must not be there or do
        not go; RestError and SigningError when the venue or the signer does not answer.
        """
        await self._signer.open()
        rest, market_id = self._rest, self.details.market_id
        details = await rest.market(market_id)
        for name in ("symbol", "price_decimals", "size_decimals"):
            set_to, found = getattr(self.details, name), getattr(details, name)
            if set_to != found:
                raise LighterError(
                    f"{name} of market {market_id} is {found!r} at the venue, was set to {set_to!r}"
                )
        self.details = details
        self._obstacle = details.obstacle
        limits = await rest.limits()
        account = await rest.account()
        self._position_start = 0
        for row in account.get("positions") or []:
            if int(row["market_id"]) == market_id:
                self._position_start = _position_of(row)
        self._position_told = self._position_seen = self._position_start
        self._by_fills = 0
        async with self._lane.lock:
            if not await self._synced():
                raise LighterError("the venue does not tell the next nonce of our key")
            nonce = self._lane.next
            assert nonce is not None
        active = await rest.active_orders(market_id)
        ended = await rest.inactive_orders(market_id, lambda _: True, 1)
        self._pass_by(active + ended)
        unknown = [row for row in active if self._is_ours(row)]
        if unknown and self._unknown_orders == "refuse":
            named = ", ".join(str(row["order_index"]) for row in unknown)
            raise LighterError(
                f"{len(unknown)} resting orders have our tag {self._tag} and are not of this run: "
                f"{named}. Is another process running with this tag? Cancel them, use another tag, "
                f"or start with unknown_orders = cancel"
            )
        if unknown:
            self.counts["unknown orders"] += len(unknown)
        if unknown and self._unknown_orders == "cancel":
            await self._clear([int(row["order_index"]) for row in unknown])
        dead_man_ms = int(account.get("cancel_all_time") or 0) or None
        _log.info("market %s, tier %s, position %d", details.symbol, limits.tier,
                  self._position_start)  # fmt: skip
        return Start(
            market=details, limits=limits, position=self._position_start,
            unknown=tuple(_unknown(row) for row in unknown), others=len(active) - len(unknown),
            nonce=nonce, quota_left=self.quota_left, dead_man_ms=dead_man_ms,
            obstacle=self._obstacle,
        )  # fmt: skip

    def _is_ours(self, row: Json) -> bool:
        return int(row.get("client_order_index") or 0) >> 32 == self._tag

    def _pass_by(self, rows: Iterable[Json]) -> None:
        """Number our orders past all that carry our tag."""
        ahead = [
            (int(row["client_order_index"]) - self._base) & _LOW
            for row in rows
            if self._is_ours(row)
        ]
        passed = [delta for delta in ahead if delta <= _LOW // 2]
        if passed:
            self._base += max(passed)
            self.counts["run id moved past earlier orders"] += 1

    async def _clear(self, order_indices: Sequence[int]) -> None:
        """Cancel orders by REST and see them gone."""
        left = set(order_indices)
        for attempt in range(_LOOKS):
            await self._cancel_by_rest(sorted(left))
            await asyncio.sleep(self._settle_secs * (attempt + 1) / 2)
            rows = await self._rest.active_orders(self.details.market_id)
            left &= {int(row["order_index"]) for row in rows}
            if not left:
                return
        raise LighterError(f"orders of an earlier run do not go: {sorted(left)}")

    async def _cancel_by_rest(self, order_indices: Sequence[int]) -> None:
        """Cancel without the socket; what is refused is seen by looking again."""
        for first in range(0, len(order_indices), _BATCH):
            requests = [
                SignCancel(self.details.market_id, index)
                for index in order_indices[first : first + _BATCH]
            ]
            await self._send_by_rest(requests)

    async def _send_by_rest(self, requests: Sequence[Request]) -> bool:
        async with self._lane.lock:
            if not await self._synced() or self._lane.next is None:
                return False
            signed = [
                one
                for one in await self._signer.sign(requests, self._lane.next)
                if isinstance(one, Signed)
            ]
            if not signed:
                return False
            nonces = [one.nonce for one in signed]
            self._lane.sent(nonces)
            try:
                answer = await self._rest.send([(one.tx_type, one.tx_info) for one in signed])
            except RestError as error:
                _log.warning("sent by REST: %s", error)
                self._lane.doubt()
                return False
            finally:
                self._lane.settle(nonces)
            if answer.quota_left is not None:
                self.quota_left = answer.quota_left
            self.counts["sent by REST"] += len(signed)
            return True

    async def run(self) -> None:
        """Send, watch and reconcile until cancelled. Orders that rest stay: see ``stop``."""
        async with asyncio.TaskGroup() as tasks:
            for job in (
                self._sender, self._resolver, self._asker, self._fetcher, self._reconciler,
                self._market_watch, self._dead_man,
            ):  # fmt: skip
                tasks.create_task(job())

    async def stop(self, within_secs: float) -> None:
        """Take no more creates, have every order of ours gone, disarm the dead-man's switch.

        For after the sink is done, closing orders included: those would be refused from here on.
        Only our own orders are cancelled, one by one: a cancel-all would take those of other
        strategies too. The last look is by REST; if orders are left even then, that is logged and
        counted ("left working") and the dead-man's switch stays armed. Call it while ``run`` runs;
        without it, or without a socket, cancels go by REST.
        """
        self._stopping = True
        deadline = self._time() + within_secs
        by_rest_after = self._time() + within_secs / 2
        for order in list(self._live.values()):
            order.cancel_asked = True
            if not any(tx.n == order.n and tx.kind == "cancel" for tx in self._pending()):
                self._enqueue(
                    _Tx("cancel", SignCancel(self.details.market_id, order.index), order.n)
                )
        while self._live or self._outbox or self._in_flight or self._doubtful:
            if self._time() >= by_rest_after or not self._connected:
                break
            await asyncio.sleep(0.01)
        for tx in self._outbox:
            self._done(tx)
        self._outbox.clear()  # What could not be sent so far is cancelled by REST now.
        clean = await self._last_look(deadline)
        if not clean:
            self.counts["left working"] += 1
            _log.error("stopped with orders of ours left working, or the venue did not tell")
        elif self.dead_man_ms is not None:
            if await self._send_by_rest([SignCancelAll(ABORT)]):
                self.dead_man_ms = None
                self.counts["quota spent on cancel-alls"] += 1
            else:
                self.counts["dead-man's switch left armed"] += 1

    def _pending(self) -> Iterator[_Tx]:
        yield from self._outbox
        for flight in self._in_flight.values():
            yield from flight.txs

    async def _last_look(self, deadline: float) -> bool:
        """See by REST that nothing of ours rests, and cancel what does; true when all is gone."""
        wait = 0.05
        while True:
            try:
                rows = await self._rest.active_orders(self.details.market_id)
                left = [int(row["order_index"]) for row in rows if self._is_ours(row)]
                for n in self._live:
                    self._look(n)
                if self._live:
                    await self._look_up(list(self._live))
                if left:
                    await self._cancel_by_rest(left)
                elif not self._live:
                    return True
            except RestError as error:
                _log.warning("last look: %s", error)
            if self._time() + wait >= deadline:
                return False
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)


def _is_limit(code: int) -> bool:
    return 23000 <= code < 24000 or code in (405, 429)


def _rows(value: Any) -> list[Json]:
    """Flatten what comes as a list, as a map of lists or as a map of objects."""
    if not value:
        return []
    if isinstance(value, Mapping):
        rows: list[Json] = []
        for entry in value.values():
            rows += entry if isinstance(entry, list) else [entry] if entry else []
        return rows
    return list(value)


def _units(row: Json, name: str) -> int:
    return to_units(str(row.get(name) or "0"), name)


def _parsed(value: Any) -> dict[str, Any]:
    """Read JSON in a string, which may be missing, empty or plain text."""
    if isinstance(value, Mapping):
        return dict(value)
    try:
        parsed = json.loads(value or "{}")
    except (TypeError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _unknown(row: Json) -> UnknownOrder:
    return UnknownOrder(
        int(row["order_index"]), int(row["client_order_index"]), SELL if row["is_ask"] else BUY,
        _units(row, "price"), _units(row, "remaining_base_amount"),
    )  # fmt: skip
