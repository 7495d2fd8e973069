"""NautilusTrader's native engine and strategy on quotes that are in memory already."""

from importlib.metadata import version
from pathlib import Path

from marblemaker.bench.job import Job, Ran
from marblemaker.bench.peers.nautilus_native import engine_with, native_quotes
from marblemaker.bench.quotes import read_quotes
from marblemaker.settings import Settings

__all__ = ["run"]


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Make its quote ticks, hand them over, run; ``loop`` is the run alone."""
    ran = Ran(version=version("nautilus_trader"))
    with ran.timed("load"):
        engine = engine_with(job)
    with ran.timed("in_all"):
        with ran.timed("read"):
            quotes = read_quotes(recording)
        with ran.timed("convert"):
            for is_target in (False, True):
                for batch in native_quotes(quotes, job, is_target=is_target):
                    engine.add_data(batch, sort=False)
            engine.sort_data()
        with ran.timed("loop"):
            engine.run()
        result = engine.get_result()
        orders = engine.cache.orders()
        ran.fills = sum(str(order.status).endswith("FILLED") for order in orders)
    ran.quotes, ran.orders = result.iterations, result.total_orders
    return ran
