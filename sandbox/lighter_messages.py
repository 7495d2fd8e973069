"""What the Lighter stand-in says: the JSON of books, orders, trades, positions and accounts.

The keys are those of messages captured from the venue in 2026; what a recording cannot know
(funding, open interest, margins) is there with a neutral value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sandbox.lighter_account import STATUS_CODES, LighterAccount, LighterOrder, Position
from sandbox.lighter_market import BLOCK_NS, Json, Market, PublicTrade, fixed

__all__ = [
    "account_json",
    "account_shares",
    "asset_json",
    "before_json",
    "by_market",
    "encode",
    "level_json",
    "market_stats_json",
    "order_book_detail_json",
    "order_book_json",
    "order_event",
    "order_json",
    "position_json",
    "side_json",
    "simple_order_json",
    "trade_json",
    "user_stats_json",
]

_NS_PER_MS: Final = 1_000_000
_NS_PER_US: Final = 1_000
_MARGIN_FRACTION: Final = 500
"""Initial margin of NVDA at the venue, 1e-4: 20 times leverage."""
_TYPES: Final = ("limit", "market")
_TIFS: Final = ("immediate-or-cancel", "good-till-time", "post-only")
_NOBODY: Final = "0x0000000000000000000000000000000000000000"


def encode(document: object) -> str:
    """Write a document as JSON text."""
    return msgspec.json.encode(document).decode()


def level_json(market: Market, price: int, size: int) -> Json:
    """Write a level of a book; size 0 takes it away."""
    return {"price": market.price(price), "size": market.size(size)}


def side_json(market: Market, side: tuple[int, int] | None) -> Json:
    """Write one side of a ticker; an absent side has empty strings."""
    return {"price": "", "size": ""} if side is None else level_json(market, *side)


def order_json(market: Market, order: LighterOrder) -> Json:
    """Write an order."""
    created, updated = order.created_ns // _NS_PER_MS, order.updated_ns // _NS_PER_MS
    return {
        "order_index": order.index,
        "client_order_index": order.client_index,
        "order_id": str(order.index),
        "client_order_id": str(order.client_index),
        "market_index": market.id,
        "owner_account_index": order.account,
        "initial_base_amount": market.size(order.base),
        "price": market.price(order.price),
        "nonce": order.nonce,
        "remaining_base_amount": market.size(order.remaining),
        "is_ask": order.is_ask,
        "base_size": order.base,
        "base_price": order.price,
        "filled_base_amount": market.size(order.filled),
        "filled_quote_amount": market.value(order.filled_value),
        "side": "sell" if order.is_ask else "buy",
        "type": _TYPES[order.kind],
        "time_in_force": _TIFS[order.tif],
        "reduce_only": order.reduce_only,
        "trigger_price": market.price(0),
        "order_expiry": order.expiry_ms,
        "status": order.status,
        "trigger_status": "na",
        "trigger_time": 0,
        "parent_order_index": 0,
        "parent_order_id": "0",
        "to_trigger_order_id_0": "0",
        "to_trigger_order_id_1": "0",
        "to_cancel_order_id_0": "0",
        "integrator_fee_collector_index": "0",
        "integrator_taker_fee": "0",
        "integrator_maker_fee": "0",
        "block_height": order.updated_ns // BLOCK_NS,
        "timestamp": created,
        "created_at": created,
        "updated_at": updated,
        "transaction_time": order.updated_ns // _NS_PER_US,
        "order_version": order.version,
    }


def simple_order_json(market: Market, order: LighterOrder) -> Json:
    """Write an order as ``orderBookOrders`` lists it."""
    return {
        "order_index": order.index,
        "order_id": str(order.index),
        "owner_account_index": order.account,
        "initial_base_amount": market.size(order.base),
        "remaining_base_amount": market.size(order.remaining),
        "price": market.price(order.price),
        "order_expiry": order.expiry_ms,
        "transaction_time": order.updated_ns // _NS_PER_US,
    }


def order_event(order: LighterOrder) -> Json:
    """Write an order with the short keys of ``event_info``."""
    return {
        "i": order.index,
        "u": order.client_index,
        "a": order.account,
        "is": order.base,
        "p": order.price,
        "rs": order.remaining,
        "ia": int(order.is_ask),
        "ot": order.kind,
        "f": order.tif,
        "ro": int(order.reduce_only),
        "tp": 0,
        "e": order.expiry_ms,
        "st": STATUS_CODES[order.status],
        "ts": 0,
        "t0": 0,
        "t1": 0,
        "c0": 0,
    }


def trade_json(market: Market, trade: PublicTrade) -> Json:
    """Write a trade; a fee of zero has no key."""
    document: Json = {
        "trade_id": trade.trade_id,
        "trade_id_str": str(trade.trade_id),
        "tx_hash": trade.tx_hash,
        "type": "trade",
        "market_id": market.id,
        "size": market.size(trade.size),
        "price": market.price(trade.price),
        "usd_amount": market.value(trade.size * trade.price),
        "ask_id": trade.ask_id,
        "ask_id_str": str(trade.ask_id),
        "bid_id": trade.bid_id,
        "bid_id_str": str(trade.bid_id),
        "ask_client_id": trade.ask_client_id,
        "ask_client_id_str": str(trade.ask_client_id),
        "bid_client_id": trade.bid_client_id,
        "bid_client_id_str": str(trade.bid_client_id),
        "ask_account_id": trade.ask_account,
        "bid_account_id": trade.bid_account,
        "is_maker_ask": trade.is_maker_ask,
        "block_height": trade.ts // BLOCK_NS,
        "timestamp": trade.ts // _NS_PER_MS,
        **trade.before,
        "transaction_time": trade.ts // _NS_PER_US,
    }
    if trade.taker_fee:
        document["taker_fee"] = trade.taker_fee
    if trade.maker_fee:
        document["maker_fee"] = trade.maker_fee
    return document


def before_json(market: Market, role: str, position: Position) -> Json:
    """Write what an account held before a trade, as the trade tells it."""
    return {
        f"{role}_position_size_before": market.size(position.size),
        f"{role}_entry_quote_before": market.value(abs(position.cost)),
        f"{role}_initial_margin_fraction_before": _MARGIN_FRACTION,
    }


def position_json(market: Market, account: LighterAccount) -> Json:
    """Write a position: the size without its sign, the sign apart."""
    held = account.position
    value = abs(held.size) * market.mark()
    return {
        "market_id": market.id,
        "symbol": market.symbol,
        "initial_margin_fraction": fixed(_MARGIN_FRACTION, 2),
        "open_order_count": len(account.live()),
        "pending_order_count": 0,
        "position_tied_order_count": sum(order.reduce_only for order in account.live()),
        "sign": -1 if held.size < 0 else 1,
        "position": market.size(abs(held.size)),
        "avg_entry_price": market.price(held.entry),
        "position_value": market.value(value),
        "unrealized_pnl": market.value(_unrealized(market, account)),
        "realized_pnl": market.value(held.realized),
        "liquidation_price": "0",
        "total_funding_paid_out": market.value(0),
        "margin_mode": 0,
        "allocated_margin": market.value(0),
        "total_discount": market.value(0),
    }


def _unrealized(market: Market, account: LighterAccount) -> int:
    held = account.position
    return held.size * market.mark() - held.cost


def _portfolio(market: Market, account: LighterAccount) -> tuple[int, int, int, int]:
    """Collateral, what is free of it, the whole worth, and the value of the position."""
    collateral = account.collateral + account.position.realized
    worth = collateral + _unrealized(market, account)
    value = abs(account.position.size) * market.mark()
    return collateral, worth - value * _MARGIN_FRACTION // 10_000, worth, value


def user_stats_json(market: Market, account: LighterAccount) -> Json:
    """Write the margin roll-up."""
    collateral, free, worth, value = _portfolio(market, account)
    stats = {
        "available_balance": market.value(free),
        "buying_power": "0",
        "collateral": market.value(collateral),
        "leverage": fixed(value * 100 // worth if worth > 0 else 0, 2),
        "margin_usage": fixed((worth - free) * 10_000 // worth if worth > 0 else 0, 2),
        "portfolio_value": market.value(worth),
    }
    return {"account_trading_mode": 0, **stats, "cross_stats": stats, "total_stats": stats}


def asset_json(market: Market, account: LighterAccount) -> Json:
    """Write the one asset: USDC as collateral."""
    return {
        "symbol": "USDC",
        "asset_id": 3,
        "balance": market.value(0),
        "locked_balance": market.value(0),
        "margin_mode": "enabled",
        "margin_balance": market.value(account.collateral + account.position.realized),
    }


def account_shares() -> Json:
    """What position frames say of pool shares: there are none."""
    return {"shares": [], "last_funding_round": None, "last_funding_discount": None}


def account_json(market: Market, account: LighterAccount) -> Json:
    """Write an account as the REST API details it."""
    collateral, free, worth, value = _portfolio(market, account)
    margin = market.value(value * _MARGIN_FRACTION // 10_000)
    return {
        "code": 0,
        "account_type": 0,
        "index": account.index,
        "l1_address": _NOBODY,
        "cancel_all_time": account.cancel_all_ms,
        "total_order_count": len(account.live()),
        "total_isolated_order_count": 0,
        "pending_order_count": 0,
        "available_balance": market.value(free),
        "status": 1,
        "collateral": market.value(collateral),
        "transaction_time": 0,
        "account_trading_mode": 0,
        "account_index": account.index,
        "name": "",
        "description": "",
        "can_invite": False,
        "referral_points_percentage": "",
        "can_rfq": False,
        "can_rfq_market_ids": None,
        "created_at": 0,
        "metadata": {"color": ""},
        "positions": [position_json(market, account)],
        "assets": [asset_json(market, account)],
        "total_asset_value": market.value(worth),
        "cross_asset_value": market.value(worth),
        "cross_initial_margin_requirement": margin,
        "cross_maintenance_margin_requirement": margin,
        "shares": [],
        "pending_unlocks": [],
        "approved_integrators": [],
    }


def order_book_json(market: Market) -> Json:
    """Write the market as ``orderBooks`` lists it."""
    of = market.instrument
    return {
        "symbol": market.symbol,
        "market_id": market.id,
        "market_type": "perp",
        "base_asset_id": 0,
        "quote_asset_id": 0,
        "status": "active" if market.active else "inactive",
        "taker_fee": "0.0000",
        "is_taker_fee_enabled": True,
        "maker_fee": "0.0000",
        "is_maker_fee_enabled": True,
        "liquidation_fee": "1.0000",
        "min_base_amount": market.size(market.min_lots),
        "min_quote_amount": market.value(market.min_value),
        "order_quote_limit": "281474976.710655",
        "supported_size_decimals": of.size_decimals,
        "supported_price_decimals": of.price_decimals,
        "supported_quote_decimals": market.quote_decimals,
    }


def order_book_detail_json(market: Market) -> Json:
    """Write the market as ``orderBookDetails`` lists it."""
    last = market.recent[0].price if market.recent else market.mark()
    scale = 10**market.instrument.price_decimals
    return {
        **order_book_json(market),
        "size_decimals": market.instrument.size_decimals,
        "price_decimals": market.instrument.price_decimals,
        "quote_multiplier": 1,
        "default_initial_margin_fraction": _MARGIN_FRACTION,
        "min_initial_margin_fraction": _MARGIN_FRACTION,
        "maintenance_margin_fraction": 300,
        "closeout_margin_fraction": 200,
        "last_trade_price": last / scale,
        "daily_trades_count": len(market.recent),
        "daily_base_token_volume": 0.0,
        "daily_quote_token_volume": 0.0,
        "daily_price_low": last / scale,
        "daily_price_high": last / scale,
        "daily_price_change": 0.0,
        "open_interest": 0.0,
        "daily_chart": {},
        "market_config": {
            "market_margin_mode": 0,
            "insurance_fund_account_index": 281474976710655,
            "liquidation_mode": 0,
            "force_reduce_only": False,
            "trading_hours": "",
            "funding_fee_discounts_enabled": False,
            "hidden": False,
            "rfq_enabled": False,
        },
        "strategy_index": 5,
    }


def market_stats_json(market: Market) -> Json:
    """Write the market's statistics; mark and index are the middle of the book."""
    mark = market.price(market.mark())
    last = market.recent[0].price if market.recent else market.mark()
    scale = 10**market.instrument.price_decimals
    return {
        "symbol": market.symbol,
        "market_id": market.id,
        "index_price": mark,
        "mark_price": mark,
        "mid_price": mark,
        "open_interest": market.value(0),
        "open_interest_limit": "72057594037927936.000000",
        "funding_clamp_small": "0.0500",
        "funding_clamp_big": "4.0000",
        "last_trade_price": market.price(last),
        "current_funding_rate": "0.0000",
        "funding_rate": "0.0000",
        "funding_timestamp": market.changed_ns // 3_600_000_000_000 * 3_600_000,
        "base_interest_rate": "0.0100",
        "daily_base_token_volume": 0.0,
        "daily_quote_token_volume": 0.0,
        "daily_price_low": last / scale,
        "daily_price_high": last / scale,
        "daily_price_change": 0.0,
        "best_bid_price": side_json(market, market.bid)["price"],
        "best_ask_price": side_json(market, market.ask)["price"],
    }


def by_market(market: Market, rows: Sequence[Json]) -> dict[str, Sequence[Json]]:
    """Group rows by the market, as account channels do; without rows there is no group."""
    return {str(market.id): rows} if rows else {}
