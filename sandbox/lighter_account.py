"""Accounts of the stand-in: keys with their nonces, orders, position, and what was done."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from sandbox.lighter_limits import LighterLimits
from sandbox.lighter_market import Json, PublicTrade
from sinks.limits import VenueAccount
from sinks.simulated import SimulatedVenue

__all__ = ["STATUS_CODES", "LighterAccount", "LighterOrder", "Position"]

_REMEMBERED: Final = 10_000

# Lighter docs, order status; the numbers are those of ``event_info``.
STATUS_CODES: Final = {
    name: code
    for code, name in enumerate(
        (
            "in-progress", "pending", "open", "filled", "canceled", "canceled-post-only",
            "canceled-reduce-only", "canceled-position-not-allowed", "canceled-margin-not-allowed",
            "canceled-too-much-slippage", "canceled-not-enough-liquidity", "canceled-self-trade",
            "canceled-expired",
        )
    )
}  # fmt: skip


class LighterOrder(Struct, kw_only=True):
    """An order as the venue holds it; prices in ticks, sizes in lots, times in ns."""

    account: int
    client_index: int
    is_ask: bool
    price: int
    base: int
    """Total size, what has filled included."""
    kind: int
    """0 limit, 1 market."""
    tif: int
    """0 immediate or cancel, 1 good till time, 2 post-only."""
    reduce_only: bool
    expiry_ms: int
    created_ns: int
    n: int = 0
    """Its number at the matching core; changes when a modify makes it take."""
    index: int = 0
    """Its place in the book, given when it reaches the engine; 0 before."""
    status: str = "in-progress"
    filled: int = 0
    filled_value: int = 0
    version: int = 0
    nonce: int = 0
    """Of the book when it last changed."""
    updated_ns: int = 0

    @property
    def is_live(self) -> bool:
        """True until it is filled or cancelled."""
        return self.status in ("in-progress", "pending", "open")

    @property
    def remaining(self) -> int:
        """What may still fill."""
        return max(0, self.base - self.filled) if self.is_live else 0


class Position(Struct):
    """Net position and what it cost; sizes in lots, values in ticks times lots."""

    size: int = 0
    """Signed, long positive."""
    cost: int = 0
    """Signed: what the position was entered for."""
    realized: int = 0

    def trade(self, size: int, price: int) -> None:
        """Take a trade of signed ``size``."""
        if self.size * size >= 0:
            self.size += size
            self.cost += size * price
            return
        closed = min(abs(size), abs(self.size))
        part = self.cost * closed // abs(self.size)
        sign = 1 if self.size > 0 else -1
        self.realized += sign * closed * price - part
        self.cost -= part
        self.size -= sign * closed
        rest = size + sign * closed
        self.size += rest
        self.cost += rest * price

    @property
    def entry(self) -> int:
        """Average entry price, rounded down."""
        return self.cost // self.size if self.size else 0


class LighterAccount:
    """One account: nonces by key, orders, position, trades and transactions."""

    def __init__(
        self,
        index: int,
        keys: dict[int, str],
        core: SimulatedVenue,
        limits: LighterLimits,
        collateral: int,
    ) -> None:
        """Open an account with its registered public keys; ``collateral`` in ticks times lots."""
        given = limits.account
        self.index = index
        self.keys = {key: public.removeprefix("0x").lower() for key, public in keys.items()}
        self.nonces = dict.fromkeys(keys, 1)
        """Next nonce by key; the first is 1 (uncertain)."""
        self.core = core
        self.allowance = VenueAccount(
            transactions_per_minute=given.transactions_per_minute,
            volume_quota=given.volume_quota,
            orders_per_account=given.orders_per_account,
            orders_per_market=given.orders_per_market,
        )
        self.orders: list[LighterOrder] = []
        """All of them, in the order of their creation; very old ones are forgotten."""
        self.by_n: dict[int, LighterOrder] = {}
        self.by_client: dict[int, LighterOrder] = {}
        """The latest order of each client index."""
        self.by_index: dict[int, LighterOrder] = {}
        self.position = Position()
        self.collateral = collateral
        self.volume = 0
        self.trades: list[PublicTrade] = []
        self.txs: list[Json] = []
        self.cancel_all_ms = 0
        """When the dead-man's switch fires; 0 when it is not armed."""
        self.cancel_all_queued = 0
        """Cancel-alls that are on their way to the engine."""

    def live(self) -> list[LighterOrder]:
        """Orders that the engine has and that are not over, in the order of their creation."""
        return [order for order in self.by_n.values() if order.is_live and order.index]

    def find(self, index: int) -> LighterOrder | None:
        """Look an order up by either of its ids, gone or not."""
        return self.by_client.get(index) or self.by_index.get(index)

    def add(self, order: LighterOrder) -> None:
        """Take an order in that was accepted."""
        self.orders.append(order)
        if order.client_index:
            self.by_client[order.client_index] = order
        if len(self.orders) > _REMEMBERED:
            gone = next((o for o in self.orders if not o.is_live), None)
            if gone is not None:
                self.orders.remove(gone)
                self.by_index.pop(gone.index, None)
                if self.by_client.get(gone.client_index) is gone:
                    del self.by_client[gone.client_index]
