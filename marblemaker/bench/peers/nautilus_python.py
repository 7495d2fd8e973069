"""NautilusTrader as most use it: a strategy in Python on its backtest engine."""

from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.enums import AccountType, CurrencyType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import CryptoPerpetual, Equity
from nautilus_trader.model.objects import Currency, Money, Price, Quantity
from nautilus_trader.persistence.wranglers import QuoteTickDataWrangler
from nautilus_trader.trading.strategy import Strategy

from marblemaker.bench.job import Job, Ran
from marblemaker.bench.quotes import Quotes, read_quotes
from marblemaker.settings import Settings
from operators.anchor import anchor_price_1e16
from operators.ladder import ask_price, bid_price, half_spread
from operators.requote import moved
from operators.residual import residual_of
from operators.skew import inventory_shift, signal_shift, total_shift
from streams.instrument import UNIT, ceil_ticks, floor_ticks, format_units, may_buy, may_sell

__all__ = ["run"]


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Make its quote ticks as its own wrangler does, hand them over, run, and count the orders."""
    ran = Ran(version=version("nautilus_trader"))
    with ran.timed("load"):
        logging = LoggingConfig(bypass_logging=True)
        engine = BacktestEngine(BacktestEngineConfig(logging=logging, run_analysis=False))
        for venue, account in (
            (job.signal.venue, AccountType.CASH),
            (job.target.venue, AccountType.MARGIN),
        ):
            money = [Money(1_000_000, USD)]
            engine.add_venue(Venue(venue), OmsType.NETTING, account, money, base_currency=USD)
        signal, target = _signal(job), _target(job)
        engine.add_instrument(signal)
        engine.add_instrument(target)
        strategy = _CompositeQuoter(job, signal, target)
        engine.add_strategy(strategy)
    with ran.timed("in_all"):
        with ran.timed("read"):
            quotes = read_quotes(recording)
        with ran.timed("convert"):
            engine.add_data(_ticks(quotes, signal, is_target=False), sort=False)
            engine.add_data(_ticks(quotes, target, is_target=True))
        with ran.timed("loop"):
            engine.run()
        orders = engine.cache.orders()
        ran.quotes, ran.requotes = strategy.seen, strategy.requotes
        ran.orders, ran.fills = len(orders), sum(order.filled_qty > 0 for order in orders)
    return ran


class _CompositeQuoter(Strategy):
    """The rules of the preset ``tutorial``, on what its cache says of orders and position."""

    def __init__(self, job: Job, signal: Any, target: Any) -> None:
        super().__init__()
        self.job, self.signal, self.target = job, signal, target
        self.size = Quantity.from_str(format_units(job.trade_size, job.target.size_decimals))
        self.seen = self.requotes = 0
        self.baseline: float | None = None
        self.residual = 0.0
        self.quoted: tuple[float, float] | None = None

    def on_start(self) -> None:
        self.subscribe_quote_ticks(self.signal.id)
        self.subscribe_quote_ticks(self.target.id)

    def on_stop(self) -> None:
        self.cancel_all_orders(self.target.id)
        self.close_all_positions(self.target.id)

    def on_order_rejected(self, event: Any) -> None:
        self.quoted = None

    def on_quote_tick(self, tick: Any) -> None:
        self.seen += 1
        mid = (tick.bid_price.as_double() + tick.ask_price.as_double()) / 2.0
        if tick.instrument_id == self.signal.id:
            if self.baseline is None:
                self.baseline = mid
            self.residual = residual_of(mid, self.baseline)
            return
        job = self.job
        anchor = anchor_price_1e16(mid, job.target.price_scale)
        cache, of = self.cache, self.target.id
        if self.quoted is not None and (
            cache.orders_open_count(instrument_id=of) or cache.orders_inflight_count(None, of)
        ):
            last_anchor, last_residual = self.quoted
            factor = job.signal_skew_factor
            if not moved(anchor, last_anchor, self.residual, last_residual, factor, job.threshold):
                return
        self._requote(anchor)

    def _requote(self, anchor: float) -> None:
        job, of, scale = self.job, self.target.id, self.job.target.price_scale
        self.cancel_all_orders(of)
        position = sum(
            round(held.signed_qty * UNIT) for held in self.cache.positions_open(instrument_id=of)
        )
        long = short = position
        working = self.cache.orders_open(instrument_id=of)
        working += self.cache.orders_inflight(instrument_id=of)
        for order in {order.client_order_id: order for order in working}.values():
            leaves = round(order.leaves_qty.as_double() * UNIT)
            if order.side == OrderSide.BUY:
                long += leaves
            else:
                short -= leaves
        half = half_spread(anchor, job.half_spread_bps)
        shift = total_shift(
            signal_shift(job.signal_skew_factor, self.residual),
            inventory_shift(job.inventory_skew_factor, position),
        )
        low = floor_ticks(bid_price(anchor, half, shift), scale)
        high = ceil_ticks(ask_price(anchor, half, shift), scale)
        if low >= high:
            return
        sides = []
        if may_buy(long, job.trade_size, job.max_position):
            sides.append((OrderSide.BUY, low))
        if may_sell(short, job.trade_size, job.max_position):
            sides.append((OrderSide.SELL, high))
        if not sides:
            return
        self.requotes += 1
        for side, ticks in sides:
            price = self.target.make_price(ticks / scale)
            self.submit_order(self.order_factory.limit(of, side, self.size, price, post_only=True))
        self.quoted = anchor, self.residual


def _ticks(quotes: Quotes, instrument: Any, *, is_target: bool) -> Any:
    own = quotes.is_target == is_target
    frame = pd.DataFrame(
        {
            "bid_price": quotes.bid_px[own] / UNIT,
            "ask_price": quotes.ask_px[own] / UNIT,
            "bid_size": quotes.bid_sz[own] / UNIT,
            "ask_size": quotes.ask_sz[own] / UNIT,
        },
        index=pd.DatetimeIndex(quotes.ts[own], tz="UTC"),
    )
    return QuoteTickDataWrangler(instrument).process(frame)


def _signal(job: Job) -> Any:
    return Equity(
        InstrumentId.from_str(job.signal.id), Symbol(job.signal.symbol), USD, 2,
        Price.from_str("0.01"), Quantity.from_int(1), 0, 0,
    )  # fmt: skip


def _target(job: Job) -> Any:
    digits, lots = job.target.price_decimals, job.target.size_decimals
    base = job.target.symbol.split("-")[0]
    return CryptoPerpetual(
        InstrumentId.from_str(job.target.id), Symbol(job.target.symbol),
        Currency(base, lots, 0, base, CurrencyType.CRYPTO), USD, USD, False, digits, lots,
        Price.from_str(format_units(job.target.tick_size, digits)),
        Quantity.from_str(format_units(job.target.lot_size, lots)),
        0, 0,
        margin_init=Decimal("0.1"), margin_maint=Decimal("0.05"),
        maker_fee=Decimal(0), taker_fee=Decimal(0),
    )  # fmt: skip
