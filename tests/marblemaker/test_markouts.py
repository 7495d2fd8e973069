"""Markouts, with the arithmetic beside them."""

import random
from pathlib import Path

import numpy as np
import polars as pl

from marblemaker.markouts import _mids_at, markouts
from sinks.journal import FILLS_SCHEMA
from streams.recording import QUOTE_SCHEMA
from tests.sessions import SECOND, START


def _run(folder: Path, fills: list[tuple[int, str, int, int, str]]) -> Path:
    mids = {0: 100, 1: 101, 4: 103, 20: 98, 40: 99}
    rows = [
        (None, START + at * SECOND, None, mid * SECOND - 1, mid * SECOND + 1, 1, 1, 0)
        for at, mid in mids.items()
    ]
    pl.DataFrame(rows, schema=QUOTE_SCHEMA, orient="row").write_parquet(folder / "target.parquet")
    pl.DataFrame(
        [
            (n, START + at * SECOND, side, px * SECOND, qty, liquidity, 0)
            for n, (at, side, px, qty, liquidity) in enumerate(fills, start=1)
        ],
        schema=FILLS_SCHEMA,
        orient="row",
    ).write_parquet(folder / "fills.parquet")
    return folder


def test_a_buy_gains_when_the_mid_rises_and_a_sell_when_it_falls(tmp_path: Path) -> None:
    found = markouts(_run(tmp_path, [(0, "BUY", 100, 5, "MAKER")]))
    # After 1 s the mid is 101: +1 of 100 is 100 bps. After 5 s 103, after 30 s 98.
    assert found["1s"] == {"fills": 1, "bps": 100.0}
    assert found["5s"] == {"fills": 1, "bps": 300.0}
    assert found["30s"] == {"fills": 1, "bps": -200.0}
    assert found["60s"] == {"fills": 0, "bps": None}, "the quotes end before"

    sold = markouts(_run(tmp_path, [(0, "SELL", 100, 5, "MAKER")]))
    assert sold["1s"]["bps"] == -100.0


def test_larger_fills_weigh_more_and_takers_do_not_count(tmp_path: Path) -> None:
    found = markouts(
        _run(
            tmp_path,
            [(0, "BUY", 100, 3, "MAKER"), (0, "SELL", 100, 1, "MAKER"), (0, "BUY", 1, 9, "TAKER")],
        )
    )
    assert found["1s"] == {"fills": 2, "bps": (3 * 100.0 - 1 * 100.0) / 4}


def test_a_run_without_fills_has_no_markouts(tmp_path: Path) -> None:
    assert markouts(_run(tmp_path, [])) == {}


def test_batches_of_quotes_do_not_change_the_answer(tmp_path: Path) -> None:
    """Against a join over the whole frame, on random fills and quotes with ties."""
    source = random.Random(11)
    ts = START
    rows = []
    for _ in range(5_000):
        ts += source.choice((0, 1, SECOND // 3))
        mid = 100 * SECOND + source.randint(-SECOND, SECOND)
        rows.append((None, ts, None, mid - 2, mid + 2, 1, 1, 0))
    quotes = pl.DataFrame(rows, schema=QUOTE_SCHEMA, orient="row")
    quotes.write_parquet(tmp_path / "target.parquet", row_group_size=97)
    asked = [source.randint(START, ts + SECOND) for _ in range(300)] + quotes["ts"][::50].to_list()

    whole = (
        pl.DataFrame({"then": asked, "at": range(len(asked))})
        .sort("then")
        .join_asof(
            quotes.select("ts", mid=(pl.col("bid_px") + pl.col("ask_px")) / 2.0),
            left_on="then",
            right_on="ts",
        )
        .with_columns(pl.when(pl.col("then") <= ts).then("mid").alias("mid"))
        .sort("at")["mid"]
    )
    found = _mids_at(tmp_path / "target.parquet", np.array(asked), batch_rows=83)

    assert [None if np.isnan(mid) else mid for mid in found] == whole.to_list()
