"""hftbacktest: the same formulas in a numba loop on its own venue, with its own fills.

The steps are those of our compiled engine, so no formula is written twice. hftbacktest knows depth,
not quotes: each quote becomes the rows that change its best levels.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import hftbacktest as hft
import numpy as np
from numba import njit
from numpy.typing import NDArray

from marblemaker.bench.job import Job, Ran
from marblemaker.bench.quotes import Quotes, read_quotes
from marblemaker.compiled import steps
from marblemaker.settings import Settings
from streams.instrument import UNIT

__all__ = ["run"]

_SIGNAL, _TARGET = 0, 1
_END = 1
"""What waiting for a quote answers at the end of the data."""


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Make its depth rows, compile, and go through them; ``loop`` has neither."""
    ran = Ran(version=version("hftbacktest"))
    with ran.timed("load"):
        few = np.arange(8)
        start = Quotes(few + 1, few % 2 == 1, few + UNIT, few + 2 * UNIT, few + UNIT, few + UNIT)
        _loop(_venue(_rows(start, job), job), start.ts[start.is_target], *_numbers(job))
    with ran.timed("in_all"):
        with ran.timed("read"):
            quotes = read_quotes(recording)
        with ran.timed("convert"):
            rows = _rows(quotes, job)
            venue, target_ts = _venue(rows, job), quotes.ts[quotes.is_target]
        with ran.timed("loop"):
            counted = _loop(venue, target_ts, *_numbers(job))
    ran.requotes, ran.orders, ran.fills = (int(n) for n in counted)
    ran.quotes = len(quotes.ts)
    ran.told["rows of depth"] = sum(len(asset) for asset in rows)
    return ran


def _numbers(job: Job) -> tuple[Any, ...]:
    return (
        job.half_spread_bps, job.inventory_skew_factor, job.signal_skew_factor, job.threshold,
        job.trade_size, job.max_position, job.target.price_scale,
        _tick(job, is_target=False), _tick(job, is_target=True),
    )  # fmt: skip


def _tick(job: Job, *, is_target: bool) -> int:
    """Ticks in 1e-9: the target's own, and the cent of an equity."""
    return job.target.tick_size if is_target else UNIT // 100


def _rows(quotes: Quotes, job: Job) -> list[NDArray[Any]]:
    return [_depth(quotes, quotes.is_target == is_target) for is_target in (False, True)]


def _depth(quotes: Quotes, own: NDArray[np.bool_]) -> NDArray[Any]:
    """A feed as rows of depth: the levels that are left, then the best bid and ask."""
    ts, sides = quotes.ts[own], []
    for px, qty, flag in (
        (quotes.bid_px[own], quotes.bid_sz[own], hft.BUY_EVENT),
        (quotes.ask_px[own], quotes.ask_sz[own], hft.SELL_EVENT),
    ):
        rows = np.zeros((len(ts), 2), hft.event_dtype)
        rows["ev"] = hft.DEPTH_EVENT | hft.EXCH_EVENT | hft.LOCAL_EVENT | flag
        rows["local_ts"] = ts[:, None]
        # The venue has it before we do, so that our answer meets the same book.
        rows["exch_ts"] = ts[:, None] - 1
        rows["px"][1:, 0], rows["px"][:, 1] = px[:-1] / UNIT, px / UNIT
        rows["qty"][:, 1] = qty / UNIT
        left = np.concatenate([np.zeros(1, np.bool_), px[1:] != px[:-1]])
        sides.append((rows, left))
    (bids, bid_left), (asks, ask_left) = sides
    every = np.ones(len(ts), np.bool_)
    rows = np.stack([bids[:, 0], asks[:, 0], bids[:, 1], asks[:, 1]], axis=1)
    chosen: NDArray[Any] = rows[np.stack([bid_left, ask_left, every, every], axis=1)]
    return chosen


def _venue(rows: list[NDArray[Any]], job: Job) -> Any:
    # Depth in arrays around the prices that occur: its quicker kind.
    assets = [
        hft.BacktestAsset()
        .data([events])
        .linear_asset(1.0)
        .constant_order_latency(0, 0)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0, 0.0)
        .tick_size(_tick(job, is_target=is_target) / UNIT)
        .lot_size(job.target.lot_size / UNIT if is_target else 1.0)
        .last_trades_capacity(0)
        .roi_lb(float(events["px"].min()) * 0.98)
        .roi_ub(float(events["px"].max()) * 1.02)
        for is_target, events in zip((False, True), rows, strict=True)
    ]
    return hft.ROIVectorMarketDepthBacktest(assets)


@njit
def _loop(
    venue: Any, target_ts: NDArray[np.int64], half_spread_bps: float,
    inventory_skew_factor: float, signal_skew_factor: float, threshold: float, trade_size: int,
    max_position: int, scale: float, signal_tick: int, target_tick: int,
) -> tuple[int, int, int]:  # fmt: skip
    # A venue tells that a feed came, not which: that is looked up among the target's instants.
    next_target = requotes = orders = fills = 0
    baseline = last_anchor = last_residual = residual = 0.0
    quoted = False
    bid_n = ask_n = 0
    signal, target = venue.depth(_SIGNAL), venue.depth(_TARGET)
    ours = venue.orders(_TARGET)
    while True:
        came = venue.wait_next_feed(False, 10**18)
        if came == _END:
            break
        now = venue.current_timestamp
        while next_target < len(target_ts) and target_ts[next_target] < now:
            next_target += 1
        is_target = next_target < len(target_ts) and target_ts[next_target] == now
        if (is_target or baseline == 0.0) and signal.best_bid_qty > 0.0:
            signal_mid = steps.mid_price_1e16(
                signal.best_bid_tick * signal_tick, signal.best_ask_tick * signal_tick
            )
            if baseline == 0.0:
                baseline = signal_mid
            residual = steps.residual_of(signal_mid, baseline)
        if not is_target:
            continue
        for n in (bid_n, ask_n):
            if n and n in ours:
                order = ours.get(n)
                if order.status != hft.NEW:
                    if order.status == hft.FILLED:
                        fills += 1
                    else:
                        # Post-only, and it would have crossed.
                        quoted = False
                    if n == bid_n:
                        bid_n = 0
                    else:
                        ask_n = 0
        price = steps.mid_price_1e16(
            target.best_bid_tick * target_tick, target.best_ask_tick * target_tick
        )
        anchor = steps.anchor_price_1e16(price, scale)
        if (
            quoted
            and (bid_n or ask_n)
            and not steps.moved(
                anchor, last_anchor, residual, last_residual, signal_skew_factor, threshold
            )
        ):
            continue
        position = round(venue.position(_TARGET) * 1e9)
        long = position + (trade_size if bid_n else 0)
        short = position - (trade_size if ask_n else 0)
        for n in (bid_n, ask_n):
            if n:
                venue.cancel(_TARGET, n, False)
        bid_n = ask_n = 0
        venue.clear_inactive_orders(_TARGET)
        half = steps.half_spread(anchor, half_spread_bps)
        shift = steps.total_shift(
            steps.signal_shift(signal_skew_factor, residual),
            steps.inventory_shift(inventory_skew_factor, position),
        )
        low = steps.floor_ticks(steps.bid_price(anchor, half, shift), scale)
        high = steps.ceil_ticks(steps.ask_price(anchor, half, shift), scale)
        if low >= high:
            continue
        buys = steps.may_buy(long, trade_size, max_position)
        sells = steps.may_sell(short, trade_size, max_position)
        if not (buys or sells):
            continue
        requotes += 1
        quoted, last_anchor, last_residual = True, anchor, residual
        if buys:
            orders += 1
            bid_n = orders
            venue.submit_buy_order(
                _TARGET, bid_n, low / scale, trade_size / 1e9, hft.GTX, hft.LIMIT, False
            )
        if sells:
            orders += 1
            ask_n = orders
            venue.submit_sell_order(
                _TARGET, ask_n, high / scale, trade_size / 1e9, hft.GTX, hft.LIMIT, False
            )
    venue.close()
    return requotes, orders, fills
