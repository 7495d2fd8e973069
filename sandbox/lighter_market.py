"""The stand-in's market: its book, the one sequence of its states, and the ids it gives out."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from msgspec import Struct

from streams.instrument import UNIT, Instrument

__all__ = ["BLOCK_NS", "MARKET_ACCOUNT", "Json", "Market", "PublicTrade", "fixed"]

Json: TypeAlias = dict[str, Any]

BLOCK_NS: Final = 50_000_000
"""Blocks are counted one per so many ns (uncertain)."""
_FIRST_NONCE: Final = 1
_FIRST_TRADE: Final = 1
_RECENT: Final = 100
MARKET_ACCOUNT: Final = 281_474_976_641_952
"""The account that all others' orders and trades belong to: the recording names none."""


def fixed(value: int, decimals: int) -> str:
    """Write an integer of 10 ** -decimals with exactly so many decimals.

    >>> fixed(-1500, 3), fixed(5, 0)
    ('-1.500', '5')
    """
    whole, fraction = divmod(abs(value), 10**decimals)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{fraction:0{decimals}d}" if decimals else f"{sign}{whole}"


class PublicTrade(Struct, kw_only=True):
    """A trade between the market and somebody; prices in ticks, sizes in lots."""

    trade_id: int
    price: int
    size: int
    is_maker_ask: bool
    ask_id: int
    bid_id: int
    ask_client_id: int
    bid_client_id: int
    ask_account: int
    bid_account: int
    maker_fee: int
    """Fee of the maker in ppm of the value; 0 is left out on the wire."""
    taker_fee: int
    ts: int
    tx_hash: str
    before: Json
    """Positions before the trade, as the wire has them."""


class Market:
    """One perpetual market: best bid and offer, and everything that is counted.

    ``nonce`` rises with every change of the book's state; the order book channel tells the changes
    between the nonces it was told at. Only the best level of each side is known. Our own orders
    are not in the book, as in a replay of the same recording.

    Units: prices in ticks, sizes in lots, times in ns.
    """

    def __init__(
        self, market_id: int, symbol: str, instrument: Instrument, *, seed: int = 0
    ) -> None:
        """Open an empty market; ``seed`` shifts where its ids and nonces start."""
        shift = seed * 1_000_003 % (1 << 32)
        self.id = market_id
        self.symbol = symbol
        self.instrument = instrument
        self.bid: tuple[int, int] | None = None
        """Price and size."""
        self.ask: tuple[int, int] | None = None
        self.nonce = _FIRST_NONCE + shift
        self.changed_ns = 0
        """When the nonce last rose."""
        self.recent: list[PublicTrade] = []
        """Latest trades, the newest first."""
        self.active = True
        self._asks = shift
        self._bids = (1 << 48) - shift
        self._trades = _FIRST_TRADE + shift

    @property
    def quote_decimals(self) -> int:
        """Decimals of a value: a tick times a lot is one unit."""
        return self.instrument.price_decimals + self.instrument.size_decimals

    def on_quote(self, ts: int, bid: tuple[int, int] | None, ask: tuple[int, int] | None) -> None:
        """Take a new best bid and offer."""
        self.bid, self.ask = bid, ask
        self.step(ts)

    def step(self, ts: int) -> int:
        """Count a change of the book's state; return its nonce."""
        self.nonce += 1
        self.changed_ns = ts
        return self.nonce

    def next_order_index(self, *, is_ask: bool) -> int:
        """Give the next order its place: asks count up from 1, bids down from 2 ** 48 − 1."""
        if is_ask:
            self._asks += 1
            n = self._asks
        else:
            self._bids -= 1
            n = self._bids
        return (self.id + 1) << 48 | n

    def next_trade_id(self) -> int:
        """Give the next trade its number."""
        self._trades += 1
        return self._trades

    def remember(self, trade: PublicTrade) -> None:
        """Keep a trade among the recent ones."""
        self.recent.insert(0, trade)
        del self.recent[_RECENT:]

    def ticks(self, units: int) -> int:
        """Read a price of 1e-9 as ticks."""
        return units // self.instrument.tick_size

    def lots(self, units: int) -> int:
        """Read a size of 1e-9 as lots, at least one: a shown level has a size."""
        return max(1, units // self.instrument.lot_size)

    def price(self, ticks: int) -> str:
        """Write a price as the wire has it."""
        return fixed(ticks, self.instrument.price_decimals)

    def size(self, lots: int) -> str:
        """Write a size as the wire has it."""
        return fixed(lots, self.instrument.size_decimals)

    def value(self, units: int) -> str:
        """Write a value as the wire has it."""
        return fixed(units, self.quote_decimals)

    def mark(self) -> int:
        """The price that positions are valued at: the middle of the book, else its one side.

        A modelling choice: the venue marks by oracles and averages, which no recording has.
        """
        sides = [side[0] for side in (self.bid, self.ask) if side is not None]
        if not sides:
            return self.recent[0].price if self.recent else 0
        return sum(sides) // len(sides)

    @property
    def min_lots(self) -> int:
        """Smallest order, in lots."""
        return -(-self.instrument.min_base_amount // self.instrument.lot_size)

    @property
    def min_value(self) -> int:
        """Smallest value of an order, in ticks times lots."""
        return int(-(-self.instrument.min_quote_amount * 10**self.quote_decimals // UNIT))
