"""Speed, measured side by side in one run: `pytest tests/benchmarks --benchmark-only`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observer, Subject

from marblemaker.bundled import BUNDLED
from marblemaker.replay import replay
from marblemaker.settings import load_settings
from marblemaker.wiring import parameters_of
from operators.quoting import quoting
from streams.clock import Clock
from streams.events import BUY, Decision, OrderUpdate, Quote
from streams.pump import SIGNAL, Inputs, Pump
from streams.recording import Recording

SETTINGS = load_settings()


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.open(BUNDLED)


@pytest.fixture(scope="module")
def batches(recording: Recording) -> list[Inputs]:
    return [
        batch for batch, _ in recording.inputs(SETTINGS.target_instrument, recorded=False)
    ]  # fmt: skip


@pytest.mark.benchmark(group="bundled session, in memory")
def test_bare_reactivex_subjects(batches: list[Inputs], benchmark: Any) -> None:
    def run() -> None:
        signal: Subject[Quote] = Subject()
        target: Subject[Quote] = Subject()
        rx.combine_latest(signal, target).subscribe(lambda pair: None)
        for batch in batches:
            for kind, ts, bid, ask in zip(
                batch.kind, batch.ts, batch.bid_px, batch.ask_px, strict=True
            ):
                quote = Quote(0, ts, None, bid, ask, None, None, 0)
                (signal if kind == SIGNAL else target).on_next(quote)

    benchmark(run)


@pytest.mark.benchmark(group="bundled session, in memory")
def test_the_whole_graph(recording: Recording, batches: list[Inputs], benchmark: Any) -> None:
    def run() -> None:
        pump = Pump(Clock())
        market = pump.markets[0]
        graph = quoting(
            parameters_of(SETTINGS, recording.manifest),
            target=market.target, orders=market.orders, status=market.status, trades=market.trades,
        )  # fmt: skip
        ignore: Callable[[Decision], None] = lambda decision: None  # noqa: E731
        pump.signal.pipe(graph).subscribe(Observer(ignore), scheduler=pump.clock)
        # An order that rests, so that states below the threshold are held as in a real run.
        pump.orders.push(OrderUpdate(ts=0, n=1, side=BUY, state="open", leaves=1))
        for batch in batches:
            pump.run(batch)

    benchmark(run)


@pytest.mark.benchmark(group="bundled session, Parquet in to run folder out")
def test_the_whole_replay(tmp_path: Path, benchmark: Any) -> None:
    benchmark(lambda: replay(BUNDLED, SETTINGS, tmp_path / "run", overwrite=True))
