"""The stand-in's engine: transactions in one sequence, on to the matching core, and what changed.

Matching is the simulated venue's, one core for each account: every account meets the recorded
market alone, accounts never meet each other, and nobody meets his own orders. Here is what is
Lighter's own around it: the sequencer and its delay, orders that take, ids, positions, the
dead-man's switch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct, field

from sandbox.lighter_account import LighterAccount, LighterOrder, Position
from sandbox.lighter_market import BLOCK_NS, MARKET_ACCOUNT, Json, Market, PublicTrade
from sandbox.lighter_messages import before_json, encode, order_event
from sandbox.lighter_transactions import CANCEL, CANCEL_ALL, CREATE, MODIFY, Transaction
from sinks.simulated import TIER_FEES_PPM, Latency
from sinks.venue import Cancel, Command, Create, Modify
from streams.clock import NEVER
from streams.events import BUY, SELL, AccountEvent, Trade

__all__ = ["Changes", "Engine"]

_NS_PER_MS: Final = 1_000_000
_FAILED, _EXECUTED = 0, 2
_INTERNAL_CANCEL_ALL: Final = 25
_REMEMBERED: Final = 1_000


class Changes(Struct):
    """What one step of the engine changed."""

    ts: int
    book: bool = False
    orders: list[LighterOrder] = field(default_factory=list)
    trades: list[tuple[LighterAccount | None, PublicTrade]] = field(default_factory=list)
    """Trades, each with the account that it is of."""
    txs: list[tuple[LighterAccount, Json]] = field(default_factory=list)


class Engine:
    """Takes transactions one after the other and matches them in the recorded market."""

    def __init__(
        self,
        market: Market,
        accounts: dict[int, LighterAccount],
        *,
        latency: Latency,
        tier: str,
        cancel_all_lag_ns: int,
        tell: Callable[[Changes], None],
    ) -> None:
        """Start with no order; ``tell`` is called after every step that changed something.

        ``cancel_all_lag_ns``: from the instant of a dead-man's switch until it has cancelled;
        meanwhile creates and modifies are refused.
        """
        self.now_ns = 0
        self._market = market
        self._accounts = accounts
        self._latency = latency
        self._maker_ppm, self._taker_ppm = TIER_FEES_PPM[tier]
        self._lag_ns = cancel_all_lag_ns
        self._tell = tell
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._arrived = 0
        self._orders = 0
        self._sequence = 0
        self._changes = Changes(0)
        self._failure = ""
        self._hash = ""
        self._quote: tuple[int | None, int | None, int | None, int | None] = (None,) * 4
        self.txs: dict[str, Json] = {}
        """Transactions by hash, the latest ones."""

    # ------------------------------------------------------------ the sequencer

    @property
    def next_due_ns(self) -> int:
        """When something happens by itself."""
        due = self._queue[0][0] if self._queue else NEVER
        for account in self._accounts.values():
            if account.cancel_all_ms:
                due = min(due, account.cancel_all_ms * _NS_PER_MS + self._lag_ns)
            for order in account.by_n.values():
                if order.expiry_ms and order.is_live and order.index:
                    due = min(due, order.expiry_ms * _NS_PER_MS)
        return due

    def accept(self, ts: int, account: LighterAccount, tx: Transaction, refusal: str = "") -> int:
        """Take a transaction that the API let through; return when it reaches the engine.

        With ``refusal`` it gets there to fail: one of a batch that the API would have refused.
        """
        order: LighterOrder | None = None
        delay_ns = self._latency.cancel_ns
        if tx.kind == CREATE:
            order = _order_of(tx, ts)
            delay_ns = self._latency.maker_ns if order.tif == 2 else self._latency.taker_ns
            if not refusal:
                self._number(account, order)
                account.add(order)
                if order.tif:
                    account.allowance.hold(self._market.symbol)
        elif tx.kind == MODIFY:
            # Uncertain: a modify that may take presumably waits as long as a taker.
            held = account.find(tx.fields["Index"])
            taker = held is not None and held.tif != 2
            delay_ns = self._latency.taker_ns if taker else self._latency.maker_ns
        elif tx.kind == CANCEL_ALL and not refusal:
            account.cancel_all_queued += 1
        self._put(ts + delay_ns, partial(self._execute, account, tx, order, refusal, ts))
        return ts + delay_ns

    def _number(self, account: LighterAccount, order: LighterOrder) -> None:
        self._orders += 1
        order.n = self._orders
        account.by_n[order.n] = order

    def _put(self, due: int, action: Callable[[], None]) -> None:
        self._arrived += 1
        heapq.heappush(self._queue, (due, self._arrived, action))

    def advance(self, until_ns: int) -> None:
        """Do what is due at or before ``until_ns``, in the order of its instants."""
        while (due := self.next_due_ns) <= until_ns:
            self.now_ns = max(self.now_ns, due)
            if self._queue and self._queue[0][0] == due:
                heapq.heappop(self._queue)[2]()
            else:
                self._fire()
            self._flush()
        self.now_ns = max(self.now_ns, until_ns)

    def _fire(self) -> None:
        """Let dead-man's switches fire and orders expire."""
        now = self.now_ns
        for account in self._accounts.values():
            if account.cancel_all_ms and account.cancel_all_ms * _NS_PER_MS + self._lag_ns <= now:
                account.cancel_all_ms = 0
                self._cancel_all(account)
                internal = _internal(account, now)
                self._record(account, internal, {}, now)
        # The core looks for expired orders when the market moves; nothing moves between the rows.
        self._each_core()

    def _each_core(self) -> None:
        for account in self._accounts.values():
            account.core.on_quote(self.now_ns, *self._quote)
            self._tidy(account)

    # ------------------------------------------------------------ the market

    def on_quote(
        self,
        ts: int,
        bid_px: int | None,
        ask_px: int | None,
        bid_sz: int | None,
        ask_sz: int | None,
    ) -> None:
        """Take the market's new best bid and offer, 1e-9; what was due before goes first."""
        self.advance(ts)
        market = self._market
        bid = None if bid_px is None else (market.ticks(bid_px), market.lots(bid_sz or 0))
        ask = None if ask_px is None else (market.ticks(ask_px), market.lots(ask_sz or 0))
        self._quote = bid_px, ask_px, bid_sz, ask_sz
        market.on_quote(self.now_ns, bid, ask)
        self._changes.book = True
        self._each_core()
        self._flush()

    def on_trade(self, ts: int, trade: Trade) -> None:
        """Take a public trade of others, 1e-9; what was due before goes first."""
        self.advance(ts)
        market = self._market
        self._step()
        bought = trade.side != SELL
        told = PublicTrade(
            trade_id=market.next_trade_id(), price=market.ticks(trade.px),
            size=market.lots(trade.qty), is_maker_ask=bought,
            ask_id=market.next_order_index(is_ask=True),
            bid_id=market.next_order_index(is_ask=False),
            ask_client_id=0, bid_client_id=0, ask_account=MARKET_ACCOUNT,
            bid_account=MARKET_ACCOUNT + 1, maker_fee=0, taker_fee=0, ts=self.now_ns,
            tx_hash=f"{market.nonce:080x}", before={},
        )  # fmt: skip
        self._changes.trades.append((None, told))
        for account in self._accounts.values():
            account.core.on_trade(trade)
            self._tidy(account)
        self._flush()

    # ------------------------------------------------------------ transactions

    def _execute(
        self,
        account: LighterAccount,
        tx: Transaction,
        order: LighterOrder | None,
        refusal: str,
        queued_ns: int,
    ) -> None:
        self._failure, self._hash = refusal, tx.hash
        event: Json = {}
        if tx.kind == CREATE:
            assert order is not None
            if not refusal:
                self._create(account, order)
            event = {"m": self._market.id, "t": {"p": 0, "s": 0, "tf": 0, "mf": 0}, "mo": None,
                     "to": order_event(order)}  # fmt: skip
        elif tx.kind == CANCEL_ALL:
            if not refusal:
                self._take_cancel_all(account, tx)
        elif not refusal:
            event = self._on_one(account, tx)
        self._tidy(account)
        self._record(account, tx, event, queued_ns)

    def _on_one(self, account: LighterAccount, tx: Transaction) -> Json:
        """Cancel or modify one order."""
        order = account.find(tx.fields["Index"])
        assert order is not None
        if tx.kind == CANCEL:
            if order.is_live and order.index:
                self._submit(account, Cancel(order.n))
            else:
                self._failure = "21709 order is inactive"
            return {"a": account.index, "i": order.index, "u": order.client_index}
        old = order_event(order)
        self._modify(account, order, tx)
        return {"m": self._market.id, "oo": old, "no": order_event(order)}

    def _create(self, account: LighterAccount, order: LighterOrder) -> None:
        order.index = self._market.next_order_index(is_ask=order.is_ask)
        account.by_index[order.index] = order
        self._step()
        qty = order.base
        if order.reduce_only:
            held = account.position.size
            if not held or (held > 0) != order.is_ask:
                self._close(account, order, "canceled-reduce-only")
                return
            qty = min(qty or abs(held), abs(held))
            order.base = order.base or abs(held)
        if order.tif == 2 or (order.tif == 1 and not self._crosses(order)):
            expire_ts = order.expiry_ms * _NS_PER_MS
            side, px = _side(order), self._px(order.price)
            self._submit(account, Create(order.n, side, px, self._qty(qty), expire_ts))
        elif self._crosses(order):
            self._submit(account, Create(order.n, _side(order), None, self._qty(qty), None))
            if order.is_live:
                self._close(account, order, "canceled-reduce-only")
        elif order.kind == 1 and self._opposite(order) is not None:
            self._close(account, order, "canceled-too-much-slippage")
        else:
            # Which of the names an order gets that finds nothing to take is uncertain.
            self._close(account, order, "canceled-not-enough-liquidity")

    def _modify(self, account: LighterAccount, order: LighterOrder, tx: Transaction) -> None:
        price, base = tx.fields["Price"], tx.fields["BaseAmount"]
        if not (order.is_live and order.index):
            self._failure = "21715 order is not active"
            return
        if tx.order_version and tx.order_version <= order.version:
            self._failure = "21715 order version is not newer"
            return
        before = order.price
        order.price = price
        takes = order.tif == 1 and base > order.filled and self._crosses(order)
        order.price = before
        if takes:
            # The core's resting orders never take, so the order goes on under another number.
            resting = order.n
            self._number(account, order)
            del account.by_n[resting]
            account.core.submit(self.now_ns, [Cancel(resting)])
            order.price, order.base = price, base
            qty = self._qty(base - order.filled)
            self._submit(account, Create(order.n, _side(order), None, qty, None))
        else:
            self._submit(account, Modify(order.n, self._px(price), self._qty(base)))
        if not self._failure:
            order.version = tx.order_version or order.version + 1
            self._changed(order)

    def _take_cancel_all(self, account: LighterAccount, tx: Transaction) -> None:
        account.cancel_all_queued -= 1
        tif = tx.fields["TimeInForce"]
        account.cancel_all_ms = tx.fields["Time"] if tif == 1 else 0
        if tif == 0:
            self._cancel_all(account)

    def _cancel_all(self, account: LighterAccount) -> None:
        for order in account.live():
            self._submit(account, Cancel(order.n))

    def _submit(self, account: LighterAccount, command: Command) -> None:
        account.core.submit(self.now_ns, [command])

    # ------------------------------------------------------------ the core's answers

    def answer(self, index: int, event: AccountEvent) -> None:
        """Take what the core of account ``index`` says."""
        account = self._accounts[index]
        order = account.by_n.get(event.n or 0)
        reason = event.reason or ""
        if order is None:
            return  # of an order that goes on under another number
        if event.kind == "fill":
            self._fill(account, order, event)
        elif event.kind == "ack":
            order.status = "open"
            self._changed(order)
        elif event.kind == "modify":
            assert event.px is not None
            assert event.qty is not None
            order.price = self._market.ticks(event.px)
            order.base = event.qty // self._market.instrument.lot_size
            self._changed(order)
        elif event.kind == "expire":
            self._close(account, order, "canceled-expired")
        elif event.kind in ("cancel", "reject"):
            status = reason.split(":")[0]
            if status.startswith("modified"):
                status = "filled"
            elif not status.startswith("canceled"):
                self._failure = reason if event.kind == "reject" else ""
                status = "canceled"
            self._close(account, order, status)
        else:
            self._failure = reason

    def _fill(self, account: LighterAccount, order: LighterOrder, event: AccountEvent) -> None:
        assert event.px is not None
        assert event.qty is not None
        market = self._market
        price = market.ticks(event.px)
        size = event.qty // market.instrument.lot_size
        is_maker = event.liquidity == "MAKER"
        ppm = self._maker_ppm if is_maker else self._taker_ppm
        role, other = ("maker", "taker") if is_maker else ("taker", "maker")
        theirs = market.next_order_index(is_ask=not order.is_ask)
        ours = (order.index, order.client_index, order.account)
        ask, bid = (ours, (theirs, 0, MARKET_ACCOUNT))[:: 1 if order.is_ask else -1]
        trade = PublicTrade(
            trade_id=market.next_trade_id(), price=price, size=size,
            is_maker_ask=order.is_ask == is_maker, ask_id=ask[0], ask_client_id=ask[1],
            ask_account=ask[2], bid_id=bid[0], bid_client_id=bid[1], bid_account=bid[2],
            maker_fee=ppm if is_maker else 0, taker_fee=0 if is_maker else ppm, ts=self.now_ns,
            tx_hash=self._hash if not is_maker else f"{market.nonce:080x}",
            before={
                **before_json(market, role, account.position),
                **before_json(market, other, Position()),
            },
        )  # fmt: skip
        order.filled += size
        order.filled_value += size * price
        account.position.trade(-size if order.is_ask else size, price)
        # Rounded up: the venue keeps more digits than a tick times a lot has.
        account.collateral -= -(-size * price * ppm // 1_000_000)
        account.volume += size * price
        account.allowance.earn(event.px, event.qty)
        account.trades.append(trade)
        self._changes.trades.append((account, trade))
        if order.filled >= order.base:
            self._close(account, order, "filled")
        else:
            self._changed(order)

    def _close(self, account: LighterAccount, order: LighterOrder, status: str) -> None:
        if order.tif and order.is_live:
            account.allowance.release(self._market.symbol)
        order.status = status
        account.by_n.pop(order.n, None)
        self._changed(order)

    def _tidy(self, account: LighterAccount) -> None:
        """Cancel reduce-only orders that reduce nothing any more.

        Apart from the fill that caused it, because the core is not to be called while it answers.
        """
        held = account.position.size
        for order in account.live():
            if order.reduce_only and (not held or (held > 0) != order.is_ask):
                n = order.n
                self._close(account, order, "canceled-reduce-only")
                account.core.submit(self.now_ns, [Cancel(n)])

    # ------------------------------------------------------------ small things

    def _step(self) -> int:
        self._changes.book = True
        return self._market.step(self.now_ns)

    def _changed(self, order: LighterOrder) -> None:
        order.nonce, order.updated_ns = self._step(), self.now_ns
        if order not in self._changes.orders:
            self._changes.orders.append(order)

    def _flush(self) -> None:
        changes, self._changes = self._changes, Changes(self.now_ns)
        changes.ts = self.now_ns
        for _, trade in changes.trades:
            self._market.remember(trade)
        if changes.book or changes.orders or changes.trades or changes.txs:
            self._tell(changes)

    def _record(
        self, account: LighterAccount, tx: Transaction, event: Json, queued_ns: int
    ) -> None:
        self._sequence += 1
        row: Json = {
            "hash": tx.hash,
            "type": tx.kind,
            "info": tx.info,
            "event_info": encode({**event, "ae": self._failure}),
            "status": _FAILED if self._failure else _EXECUTED,
            "transaction_index": 0,
            "l1_address": "",
            "account_index": account.index,
            "nonce": tx.nonce,
            "expire_at": tx.expired_at_ms,
            "block_height": self.now_ns // BLOCK_NS,
            "queued_at": queued_ns // _NS_PER_MS,
            "executed_at": self.now_ns // _NS_PER_MS,
            "sequence_index": self._sequence,
            "parent_hash": "",
            "api_key_index": tx.key,
            "transaction_time": self.now_ns // 1_000,
        }
        self._failure = ""
        account.txs.append(row)
        del account.txs[:-_REMEMBERED]
        self.txs[tx.hash] = row
        if len(self.txs) > _REMEMBERED:
            del self.txs[next(iter(self.txs))]
        self._changes.txs.append((account, row))

    def _opposite(self, order: LighterOrder) -> tuple[int, int] | None:
        return self._market.bid if order.is_ask else self._market.ask

    def _crosses(self, order: LighterOrder) -> bool:
        best = self._opposite(order)
        return best is not None and _side(order) * (order.price - best[0]) >= 0

    def _px(self, ticks: int) -> int:
        return ticks * self._market.instrument.tick_size

    def _qty(self, lots: int) -> int:
        return lots * self._market.instrument.lot_size


def _side(order: LighterOrder) -> int:
    return SELL if order.is_ask else BUY


def _order_of(tx: Transaction, ts: int) -> LighterOrder:
    given = tx.fields
    return LighterOrder(
        account=tx.account, client_index=given["ClientOrderIndex"], is_ask=given["IsAsk"] == 1,
        price=given["Price"], base=given["BaseAmount"], kind=given["Type"],
        tif=given["TimeInForce"], reduce_only=given["ReduceOnly"] == 1,
        expiry_ms=given["OrderExpiry"], created_ns=ts, updated_ns=ts,
    )  # fmt: skip


def _internal(account: LighterAccount, now_ns: int) -> Transaction:
    """The cancel-all that the sequencer runs when a dead-man's switch fires."""
    return Transaction(
        kind=_INTERNAL_CANCEL_ALL, account=account.index, key=0, nonce=0, expired_at_ms=0,
        fields={}, attributes={}, info="{}", hash=f"{now_ns:080x}",
    )  # fmt: skip
