"""csp: the same formulas as a graph of Python nodes on its C++ engine, in historical mode.

Orders are the last node's own matter: they rest from one target quote to the next and fill whole on
touch. csp has no venue, and no order is ever in flight.
"""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import csp
import numpy as np

from marblemaker.bench.job import Job, Ran
from marblemaker.bench.quotes import Quotes, read_quotes
from marblemaker.settings import Settings
from operators.anchor import anchor_price_1e16
from operators.ladder import ask_price, bid_price, half_spread
from operators.mid import mid_price_1e16
from operators.requote import moved
from operators.residual import residual_of
from operators.skew import inventory_shift, signal_shift, total_shift
from streams.instrument import ceil_ticks, floor_ticks, may_buy, may_sell

__all__ = ["run"]


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Feed the quotes as numpy curves, csp's quickest way in, and run to their end."""
    ran = Ran(version=version("csp"))
    with ran.timed("in_all"):
        with ran.timed("read"):
            quotes = read_quotes(recording)
        with ran.timed("convert"):
            feeds = [_curves(quotes, is_target=False), _curves(quotes, is_target=True)]
        # Microseconds, rounded outwards: datetime holds no more.
        first = datetime.fromtimestamp(int(quotes.ts[0]) // 10**9, UTC).replace(tzinfo=None)
        span = timedelta(seconds=int(quotes.ts[-1] - quotes.ts[0]) // 10**9 + 2)
        with ran.timed("loop"), csp.memoize(False):
            csp.run(_graph, *feeds, job, ran, starttime=first, endtime=first + span)
    return ran


def _curves(quotes: Quotes, *, is_target: bool) -> Any:
    own = quotes.is_target == is_target
    ts = quotes.ts[own].astype("datetime64[ns]")
    return [(ts, np.ascontiguousarray(px[own])) for px in (quotes.bid_px, quotes.ask_px)]


@csp.node
def _mid(bid: csp.ts[int], ask: csp.ts[int]) -> csp.ts[float]:
    if csp.ticked(bid) and csp.ticked(ask):
        return mid_price_1e16(bid, ask)


@csp.node
def _residual(mid: csp.ts[float]) -> csp.ts[float]:
    with csp.state():
        s_baseline = 0.0
    if csp.ticked(mid):
        if s_baseline == 0.0:
            s_baseline = mid
        return residual_of(mid, s_baseline)


@csp.node
def _anchor(mid: csp.ts[float], scale: float) -> csp.ts[float]:
    if csp.ticked(mid):
        return anchor_price_1e16(mid, scale)


@csp.node
def _quote(  # type: ignore[no-untyped-def]
    residual: csp.ts[float],
    signal: csp.ts[int],
    anchor: csp.ts[float],
    best_bid: csp.ts[int],
    best_ask: csp.ts[int],
    job: Job,
    ran: Ran,
):
    with csp.state():
        s_quoted = False
        s_anchor = 0.0
        s_residual = 0.0
        s_position = 0
        s_bid = 0
        s_ask = 0
        s_signals = 0
        s_targets = 0
        s_requotes = 0
        s_orders = 0
        s_fills = 0
    with csp.stop():
        if s_position:
            s_orders += 1
            s_fills += 1
        ran.quotes = s_signals + s_targets
        ran.requotes, ran.orders, ran.fills = s_requotes, s_orders, s_fills

    if csp.ticked(signal):
        s_signals += 1
    if csp.ticked(anchor):
        s_targets += 1
        if s_bid and best_ask <= s_bid:
            s_position += job.trade_size
            s_fills += 1
            s_bid = 0
        if s_ask and best_bid >= s_ask:
            s_position -= job.trade_size
            s_fills += 1
            s_ask = 0
        now = residual if csp.valid(residual) else 0.0
        factor = job.signal_skew_factor
        if (
            not s_quoted
            or not (s_bid or s_ask)
            or moved(anchor, s_anchor, now, s_residual, factor, job.threshold)
        ):
            scale, tick = job.target.price_scale, job.target.tick_size
            half = half_spread(anchor, job.half_spread_bps)
            shift = total_shift(
                signal_shift(factor, now), inventory_shift(job.inventory_skew_factor, s_position)
            )
            low = floor_ticks(bid_price(anchor, half, shift), scale) * tick
            high = ceil_ticks(ask_price(anchor, half, shift), scale) * tick
            # What is being cancelled still counts.
            long = s_position + (job.trade_size if s_bid else 0)
            short = s_position - (job.trade_size if s_ask else 0)
            buys = low < high and may_buy(long, job.trade_size, job.max_position)
            sells = low < high and may_sell(short, job.trade_size, job.max_position)
            s_bid, s_ask = 0, 0
            if buys or sells:
                s_requotes += 1
                s_quoted, s_anchor, s_residual = True, anchor, now
            if buys:
                s_orders += 1
                s_bid = low
            if sells:
                s_orders += 1
                s_ask = high
            # Post-only: what would cross is rejected, and the next quote tries again.
            if s_bid >= best_ask:
                s_quoted, s_bid = False, 0
            if s_ask and s_ask <= best_bid:
                s_quoted, s_ask = False, 0


@csp.graph
def _graph(signal: list, target: list, job: Job, ran: Ran):  # type: ignore[no-untyped-def, type-arg]
    signal_bid, signal_ask = (csp.curve(int, columns) for columns in signal)
    target_bid, target_ask = (csp.curve(int, columns) for columns in target)
    residual = _residual(_mid(signal_bid, signal_ask))
    anchor = _anchor(_mid(target_bid, target_ask), job.target.price_scale)
    _quote(residual, signal_bid, anchor, target_bid, target_ask, job, ran)
