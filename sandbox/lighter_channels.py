"""The stand-in's WebSocket channels: what each shows first, and what it tells of every change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sandbox.faults import Fault, FaultKind
from sandbox.lighter_account import LighterAccount, LighterOrder
from sandbox.lighter_engine import Changes
from sandbox.lighter_market import BLOCK_NS, Json, Market, PublicTrade
from sandbox.lighter_messages import (
    account_shares,
    asset_json,
    by_market,
    level_json,
    market_stats_json,
    order_json,
    position_json,
    side_json,
    trade_json,
    user_stats_json,
)

__all__ = ["ACCOUNT_CHANNELS", "BOOK_EVERY_SECS", "Channels", "Publisher"]

BOOK_EVERY_SECS: Final = 0.05
_STATS_EVERY_NS: Final = 1_000_000_000
_FIRST_OFFSET: Final = 1
_SHOWN_TRADES: Final = 50

ACCOUNT_CHANNELS: Final = {
    "account_all": False, "user_stats": False, "account_all_orders": True, "account_orders": True,
    "account_all_trades": True, "account_all_positions": True, "account_all_assets": True,
    "account_tx": True,
}  # fmt: skip
"""Channels of an account, and whether they need an auth token."""


class Publisher(Protocol):
    """Brings frames to those who subscribed."""

    def publish(self, channel: str, frame: Json) -> None:
        """Send an update to all subscribers of ``channel``."""


class Channels:
    """Builds snapshots and updates; the order book's are batched, all others go at once."""

    def __init__(
        self,
        market: Market,
        accounts: Mapping[int, LighterAccount],
        publisher: Publisher,
        now: Callable[[], int],
        take: Callable[[FaultKind], Fault | None],
    ) -> None:
        """``now`` is the venue's clock, ns; ``take`` uses up a fault that is due."""
        self._market = market
        self._accounts = accounts
        self._publisher = publisher
        self._now = now
        self._take = take
        self._told_nonce = market.nonce
        self._told_sides: dict[str, tuple[int, int] | None] = {"asks": None, "bids": None}
        self._offset = _FIRST_OFFSET
        self._flush: asyncio.TimerHandle | None = None
        self._stats_ns = 0
        self._late: set[asyncio.TimerHandle] = set()

    # ------------------------------------------------------------ snapshots

    def snapshot(self, kind: str, market_id: int | None, account: LighterAccount | None) -> Json:
        """What a new subscriber sees first, without ``type`` and ``channel``.

        Errors: KeyError for a channel that there is none of.
        """
        if account is not None:
            return self._account_snapshot(kind, market_id, account)
        if kind == "order_book":
            self.flush_book()
            return self._book_frame(self._levels(None), 0)
        if kind == "ticker":
            return self._ticker()
        if kind == "trade":
            trades = [trade_json(self._market, t) for t in self._market.recent[:_SHOWN_TRADES]]
            return {"nonce": self._market.nonce, "trades": trades, "liquidation_trades": []}
        if kind == "market_stats":
            return self._stats(everything=market_id is None)
        if kind == "height":
            return {"height": self._now() // BLOCK_NS, "timestamp": self._ms()}
        raise KeyError(kind)

    def _account_snapshot(self, kind: str, market_id: int | None, account: LighterAccount) -> Json:
        market = self._market
        orders = [order_json(market, order) for order in account.live()]
        recent = [trade_json(market, t) for t in account.trades[-_SHOWN_TRADES:]]
        if kind == "account_all_orders":
            return {"orders": by_market(market, orders)}
        if kind == "account_orders":
            rows = orders if market_id == market.id else []
            return self._account_orders(account, rows)
        if kind == "account_all_trades":
            return {"trades": by_market(market, recent), **_volumes(market, account)}
        if kind == "account_all_positions":
            return self._positions(account)
        if kind == "account_all":
            return self._account_all(account, recent)
        if kind == "account_all_assets":
            return {"assets": {"3": asset_json(market, account)}, "timestamp": self._ms()}
        if kind == "user_stats":
            return {"stats": user_stats_json(market, account), "timestamp": self._ms()}
        if kind == "account_tx":
            return {"txs": account.txs[-_SHOWN_TRADES:]}
        raise KeyError(kind)

    # ------------------------------------------------------------ updates

    def tell(self, changes: Changes) -> None:
        """Tell subscribers what a step of the engine changed."""
        market_id = self._market.id
        if changes.book:
            self._publisher.publish(f"ticker:{market_id}", self._ticker())
            self._book_changed()
        if changes.trades:
            trades = [trade_json(self._market, trade) for _, trade in changes.trades]
            frame = {"nonce": self._market.nonce, "trades": trades, "liquidation_trades": []}
            self._publisher.publish(f"trade:{market_id}", frame)
        for account in self._accounts.values():
            own = [order for order in changes.orders if order.account == account.index]
            filled = [trade for of, trade in changes.trades if of is account]
            done = [tx for of, tx in changes.txs if of is account]
            if own or filled or done:
                self._tell_account(account, own, filled, done)
        if changes.ts - self._stats_ns >= _STATS_EVERY_NS:
            self._stats_ns = changes.ts
            for name, everything in ((str(market_id), False), ("all", True)):
                stats = self._stats(everything=everything)
                self._publisher.publish(f"market_stats:{name}", stats)

    def _tell_account(
        self,
        account: LighterAccount,
        orders: list[LighterOrder],
        trades: list[PublicTrade],
        txs: list[Json],
    ) -> None:
        market, index = self._market, account.index
        frames: list[tuple[str, Json]] = []
        if orders:
            rows = [order_json(market, order) for order in orders]
            frames.append((f"account_all_orders:{index}", {"orders": by_market(market, rows)}))
            frames.append(
                (f"account_orders:{market.id}:{index}", self._account_orders(account, rows))
            )
        if trades:
            rows = [trade_json(market, trade) for trade in trades]
            frames.append((f"account_all_trades:{index}", {"trades": by_market(market, rows)}))
            frames.append((f"account_all_positions:{index}", self._positions(account)))
            frames.append((f"account_all:{index}", self._account_all(account, rows)))
            stats = {"stats": user_stats_json(market, account), "timestamp": self._ms()}
            frames.append((f"user_stats:{index}", stats))
            assets = {"assets": {"3": asset_json(market, account)}, "timestamp": self._ms()}
            frames.append((f"account_all_assets:{index}", assets))
        fault = self._take("late_fill") if trades else None
        if fault is None:
            self._send(frames)
        else:
            loop = asyncio.get_running_loop()
            self._late = {handle for handle in self._late if handle.when() > loop.time()}
            self._late.add(loop.call_later(fault.amount, self._send, frames))
        if txs:
            self._publisher.publish(f"account_tx:{index}", {"txs": txs})

    def _send(self, frames: list[tuple[str, Json]]) -> None:
        for channel, frame in frames:
            self._publisher.publish(channel, frame)

    # ------------------------------------------------------------ the book

    def _book_changed(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(BOOK_EVERY_SECS, self.flush_book)

    def flush_book(self) -> None:
        """Tell the order book's changes since it was told last."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        market = self._market
        if market.nonce == self._told_nonce:
            return
        begin, self._told_nonce = self._told_nonce, market.nonce
        self._offset += 1
        levels = self._levels(self._told_sides)
        self._told_sides = {"asks": market.ask, "bids": market.bid}
        self._publisher.publish(f"order_book:{market.id}", self._book_frame(levels, begin))

    def _levels(self, told: Mapping[str, tuple[int, int] | None] | None) -> Json:
        """Both sides, whole or as what changed since ``told``."""
        levels: Json = {}
        for name, side in (("asks", self._market.ask), ("bids", self._market.bid)):
            before = None if told is None else told[name]
            rows = []
            if before is not None and (side is None or side[0] != before[0]):
                rows.append(level_json(self._market, before[0], 0))
            if side is not None and side != before:
                rows.append(level_json(self._market, *side))
            levels[name] = rows
        return levels

    def _book_frame(self, levels: Json, begin: int) -> Json:
        changed = self._market.changed_ns // 1_000
        return {
            "last_updated_at": changed,
            "offset": self._offset,
            "timestamp": self._ms(),
            "order_book": {
                "code": 0, **levels, "offset": self._offset, "nonce": self._told_nonce,
                "last_updated_at": changed, "begin_nonce": begin,
            },
        }  # fmt: skip

    def renumber(self) -> None:
        """Count offsets anew, as a server of another session does."""
        self._offset = _FIRST_OFFSET

    def close(self) -> None:
        """Send nothing more by itself."""
        if self._flush is not None:
            self._flush.cancel()
        for handle in self._late:
            handle.cancel()

    # ------------------------------------------------------------ frames

    def _ticker(self) -> Json:
        market = self._market
        changed = market.changed_ns // 1_000
        return {
            "last_updated_at": changed,
            "nonce": market.nonce,
            "timestamp": self._ms(),
            "ticker": {
                "s": market.symbol,
                "a": side_json(market, market.ask),
                "b": side_json(market, market.bid),
                "last_updated_at": changed,
            },
        }

    def _stats(self, *, everything: bool) -> Json:
        stats = market_stats_json(self._market)
        told: Json = {str(self._market.id): stats} if everything else stats
        return {"market_stats": told, "timestamp": self._ms()}

    def _account_orders(self, account: LighterAccount, rows: list[Json]) -> Json:
        orders = by_market(self._market, rows)
        return {"account": account.index, "nonce": self._market.nonce, "orders": orders}

    def _positions(self, account: LighterAccount) -> Json:
        position = position_json(self._market, account)
        held = {str(self._market.id): position} if account.trades else {}
        return {"positions": held, **account_shares()}

    def _account_all(self, account: LighterAccount, trades: list[Json]) -> Json:
        count = len(account.trades)
        return {
            "account": account.index,
            "assets": {"3": asset_json(self._market, account)},
            "positions": self._positions(account)["positions"],
            "trades": by_market(self._market, trades),
            "funding_histories": {},
            "shares": [],
            **{f"{span}_trades_count": count for span in ("daily", "weekly", "monthly", "total")},
            **_volumes(self._market, account),
        }

    def _ms(self) -> int:
        return self._now() // 1_000_000


def _volumes(market: Market, account: LighterAccount) -> dict[str, Any]:
    volume = account.volume / 10**market.quote_decimals
    return {f"{span}_volume": volume for span in ("total", "monthly", "weekly", "daily")}
