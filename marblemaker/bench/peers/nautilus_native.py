"""NautilusTrader's own CompositeMarketMaker, native Rust, in its native backtest node.

The wheel holds both, bound to Python; no line of Python runs between the first quote and the last.
"""

from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from nautilus_trader.core import nautilus_pyo3 as nt

from marblemaker.bench.job import Job, NotHereError, Ran
from marblemaker.bench.quotes import Quotes, read_quotes
from marblemaker.settings import Settings
from streams.instrument import Instrument, format_units

__all__ = ["engine_with", "native_quotes", "prepare", "run", "strategy_of"]

_BATCH = 500_000
"""Quotes that are Python objects at a time, while the catalogue is written."""


def prepare(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Write the quotes as NautilusTrader's own Parquet catalogue."""
    _require_native()
    ran = Ran(version=version("nautilus_trader"))
    path = folder / "catalogue"
    path.mkdir()
    with ran.timed("convert"):
        catalog = nt.ParquetDataCatalog(str(path))
        catalog.write_instruments(instruments_of(job))
        quotes = read_quotes(recording)
        for is_target in (False, True):
            for batch in native_quotes(quotes, job, is_target=is_target):
                # Files that meet in one instant are in order all the same.
                catalog.write_quote_ticks(batch, skip_disjoint_check=True)
    ran.quotes = len(quotes.ts)
    return ran


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Run the node over the catalogue: it reads, merges, decides and matches."""
    _require_native()
    ran = Ran(version=version("nautilus_trader"))
    with ran.timed("load"):
        catalogue = str(folder / "catalogue")
        config = nt.BacktestRunConfig(
            venues=[
                nt.BacktestVenueConfig(
                    venue, nt.OmsType.NETTING, account, nt.BookType.L1_MBP, ["1000000 USD"],
                    base_currency=_usd(),
                )
                for venue, account in _venues(job)
            ],
            data=[
                nt.BacktestDataConfig("QuoteTick", catalogue, instrument_id=_id(instrument))
                for instrument in (job.signal, job.target)
            ],
            engine=_quiet(),
            raise_exception=True,
        )  # fmt: skip
        # The catalogue's instruments need their currency known.
        instruments_of(job)
        node = nt.BacktestNode([config])
        node.build()
        _add(node, strategy_of(job), config.id)
    with ran.timed("in_all"):
        (result,) = node.run()
    ran.quotes, ran.orders = result.iterations, result.total_orders
    ran.told["events of orders"] = result.total_events
    return ran


def engine_with(job: Job) -> Any:
    """The native engine alone, with its venues, instruments and strategy, and no quotes yet."""
    _require_native()
    engine = nt.BacktestEngine(_quiet())
    for venue, account in _venues(job):
        engine.add_venue(
            nt.Venue(venue), nt.OmsType.NETTING, account, [nt.Money(1_000_000, _usd())],
            base_currency=_usd(), book_type=nt.BookType.L1_MBP,
        )  # fmt: skip
    for instrument in instruments_of(job):
        engine.add_instrument(instrument)
    _add(engine, strategy_of(job))
    return engine


def native_quotes(quotes: Quotes, job: Job, *, is_target: bool) -> Iterator[list[Any]]:
    """One feed as its quote ticks, a batch at a time."""
    instrument = job.target if is_target else job.signal
    of, digits, lots = _id(instrument), *_decimals(job, instrument)
    # Its prices and sizes are integers of 1e-16 in this build, ours of 1e-9.
    finer = 10 ** (nt.FIXED_PRECISION - 9)
    rows = np.flatnonzero(quotes.is_target == is_target)
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        columns = (quotes.bid_px, quotes.ask_px, quotes.bid_sz, quotes.ask_sz, quotes.ts)
        yield [
            nt.QuoteTick.from_raw(
                of, bid * finer, ask * finer, digits, digits,
                bid_sz * finer, ask_sz * finer, lots, lots, ts, ts,
            )
            for bid, ask, bid_sz, ask_sz, ts in zip(
                *(column[part].tolist() for column in columns), strict=True
            )
        ]  # fmt: skip


def strategy_of(job: Job) -> Any:
    """Its configuration of the strategy; its spread and threshold are whole basis points."""
    for name in ("half_spread_bps", "requote_threshold_bps"):
        if getattr(job, name) != int(getattr(job, name)):
            raise NotHereError(f"{name} is a whole number there, was {getattr(job, name)}")
    decimals = job.target.size_decimals
    return nt.CompositeMarketMakerConfig(
        _id(job.target),
        _id(job.signal),
        nt.Quantity.from_str(format_units(job.max_position, decimals)),
        trade_size=nt.Quantity.from_str(format_units(job.trade_size, decimals)),
        half_spread_bps=int(job.half_spread_bps),
        inventory_skew_factor=job.inventory_skew_factor,
        signal_skew_factor=job.signal_skew_factor,
        requote_threshold_bps=int(job.requote_threshold_bps),
    )


def instruments_of(job: Job) -> list[Any]:
    """Both instruments as it knows them: an equity and a perpetual."""
    base = job.target.symbol.split("-")[0]
    currency = nt.Currency(base, job.target.size_decimals, 0, base, nt.CurrencyType.CRYPTO)
    nt.Currency.register(currency)
    digits, lots = _decimals(job, job.target)
    target = nt.CryptoPerpetual(
        _id(job.target), nt.Symbol(job.target.symbol), currency, _usd(), _usd(), False,
        digits, lots,
        nt.Price.from_str(format_units(job.target.tick_size, digits)),
        nt.Quantity.from_str(format_units(job.target.lot_size, lots)),
        0, 0,
        margin_init=Decimal("0.1"), margin_maint=Decimal("0.05"),
        maker_fee=Decimal(0), taker_fee=Decimal(0),
    )  # fmt: skip
    digits, _ = _decimals(job, job.signal)
    signal = nt.Equity(
        _id(job.signal), nt.Symbol(job.signal.symbol), _usd(), digits,
        nt.Price.from_str(format_units(10 ** (9 - digits), digits)), 0, 0,
    )  # fmt: skip
    return [signal, target]


def _require_native() -> None:
    if not hasattr(nt, "CompositeMarketMakerConfig"):
        raise NotHereError(
            f"nautilus_trader {version('nautilus_trader')} has no native CompositeMarketMaker; "
            f"1.228 does, which needs Python 3.12"
        )


def _add(engine: Any, strategy: Any, *of: Any) -> None:
    # Later versions have another name for it.
    add = getattr(engine, "add_native_strategy", None) or engine.add_builtin_strategy
    add(*of, "CompositeMarketMaker", strategy)


def _quiet() -> Any:
    logging = nt.LoggerConfig(stdout_level=nt.LogLevel.OFF, bypass_logging=True, print_config=False)
    return nt.BacktestEngineConfig(bypass_logging=True, run_analysis=False, logging=logging)


def _venues(job: Job) -> list[tuple[str, Any]]:
    return [(job.signal.venue, nt.AccountType.CASH), (job.target.venue, nt.AccountType.MARGIN)]


def _usd() -> Any:
    return nt.Currency.from_str("USD")


def _id(instrument: Instrument) -> Any:
    return nt.InstrumentId.from_str(instrument.id)


def _decimals(job: Job, instrument: Instrument) -> tuple[int, int]:
    """Decimals of prices and sizes; an equity's are cents and whole shares."""
    if instrument is job.target:
        return instrument.price_decimals, instrument.size_decimals
    return 2, 0
