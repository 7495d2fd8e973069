"""The target's market out of a recording: its quotes and public trades in their one order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streams.events import BUY, SELL, Quote, Trade
from streams.instrument import Instrument
from streams.recording import checked_quotes, checked_rows, read_manifest

__all__ = ["market_events"]

_SIDES: Final = {"BUY": BUY, "SELL": SELL, None: 0}


def market_events(folder: Path, instrument: Instrument) -> Iterator[Quote | Trade]:
    """Yield what happened in the target's market, with the recorded ``ts``; ``seq`` is 0.

    Ties of ``ts`` go trades first, as in a replay.

    Errors: RecordingError if there is no target, or a price is off the instrument's tick.
    """
    manifest = read_manifest(folder)
    feeds = [_quotes(folder / "target.parquet", instrument)]
    if "trades" in manifest.files:
        feeds.insert(0, _trades(folder / "trades.parquet", instrument))
    for _, _, event in heapq.merge(*(_keyed(feed, n) for n, feed in enumerate(feeds))):
        yield event


def _keyed(feed: Iterator[Quote | Trade], n: int) -> Iterator[tuple[int, int, Quote | Trade]]:
    for event in feed:
        yield event.ts, n, event


def _quotes(path: Path, instrument: Instrument) -> Iterator[Quote | Trade]:
    for batch in checked_quotes(path, instrument):
        columns = batch.select("ts", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz", "flags")
        for row in columns.iter_rows():
            yield Quote(0, *row)


def _trades(path: Path, instrument: Instrument) -> Iterator[Quote | Trade]:
    for batch in checked_rows("trades", path, instrument):
        for ts, ts_event, px, qty, side in batch.select(
            "ts", "ts_event", "px", "qty", "side"
        ).iter_rows():
            yield Trade(0, ts, ts_event, px, qty, _SIDES[side])
