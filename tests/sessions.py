"""Small recordings for tests: written as an outsider would write them, and seeded."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from marblemaker.settings import Settings, load_settings
from streams.recording import (
    FILES,
    QUOTE_SCHEMA,
    FrameWriter,
    Manifest,
    as_quotes,
    schema_of,
    write_manifest,
)

SECOND = 1_000_000_000
START = 1_781_703_000 * SECOND
REFERENCE = Path(__file__).parent / "data" / "composite-reference"

Row = tuple[int, int | None, int | None, int | None, int | None]
"""ts, bid_px, ask_px, bid_sz, ask_sz."""


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    columns = ["ts", "bid_px", "ask_px", "bid_sz", "ask_sz"]
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.Int64()), orient="row")


def write_recording(
    folder: Path,
    feeds: Mapping[str, pl.DataFrame],
    events: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write a recording whose frames are taken as they are: no check, so tests can break them.

    ``events``: rows of ``status``, ``trades`` and ``account``; columns left out are null.
    """
    folder.mkdir(parents=True)
    manifest = Manifest()
    for name, rows in (events or {}).items():
        schema = schema_of(name)
        if "seq" not in rows[0]:
            schema = pl.Schema({c: t for c, t in schema.items() if c != "seq"})
        writer = FrameWriter(folder, name, schema)
        writer.append(pl.DataFrame(rows, schema=schema))
        manifest.files[name] = writer.close()
    for name, quotes in feeds.items():
        full = as_quotes(quotes.lazy(), Path(f"{name}.parquet")).collect()
        writer = FrameWriter(folder, name, pl.Schema({c: QUOTE_SCHEMA[c] for c in full.columns}))
        writer.append(full)
        manifest.files[name] = writer.close()
    write_manifest(folder, manifest)
    return folder


def random_feeds(seed: int, quotes: int = 400, *, faults: bool = True) -> dict[str, pl.DataFrame]:
    """Two feeds that walk, jump, tie, cross and lose sides; prices on ticks of 0.01 and 0.001."""
    source = random.Random(seed)
    feeds: dict[str, pl.DataFrame] = {}
    for name, tick in (("signal", 10_000_000), ("target", 1_000_000)):
        ts, mid, rows = START, 207 * SECOND // tick, []
        for _ in range(quotes):
            # Whole multiples of 50 ms, so that the feeds tie; now and then a single ns.
            ts += source.choice((0, 1, 50_000_000, 100_000_000, 300_000_000))
            step = 400 * SECOND // 1_000 // tick if source.random() < 0.03 else 3
            mid += source.randint(-step, step)
            half = source.randint(1, 20)
            bid: int | None = (mid - half) * tick
            ask: int | None = (mid + half) * tick
            bid_sz: int | None = source.randint(1, 9) * SECOND
            ask_sz: int | None = source.randint(1, 9) * SECOND
            if faults and source.random() < 0.05:
                fault = source.randrange(5)
                if fault in (0, 4):
                    bid = bid_sz = None
                if fault in (1, 4):
                    ask = ask_sz = None
                if fault == 2:
                    bid, ask = ask, bid
                if fault == 3:
                    ask_sz = 0
            rows.append((ts, bid, ask, bid_sz, ask_sz))
        feeds[name] = frame(rows)
    return feeds


def random_strategy(seed: int, preset: str | None = None) -> dict[str, Any]:
    """A random strategy section that ``check`` accepts, of a random preset if none is given."""
    source = random.Random(seed)
    drawn = source.choice(("composite", "tutorial", "fair_value", "ladder"))
    preset = drawn if preset is None else preset
    strategy: dict[str, Any] = {
        "preset": preset,
        "trade_size": source.choice(("0.050", "0.075", "0.1")),
        "max_position": source.choice(("0.1", "0.2", "0.325")),
        "half_spread_bps": source.choice((1.0, 3.0, 10.0, 25.0)),
        "inventory_skew_factor": source.choice((0.0, 0.5, 2.0, 7.5)),
        "signal_skew_factor": source.choice((-30.0, 0.0, 15.0, 55.0, 400.0)),
        "requote_threshold_bps": source.choice((0.0, 1.0, 5.0, 20.0)),
        "min_interval_ms": source.choice((0.0, 0.0, 70.0, 1000.0)),
        "on_cancel_resubmit": source.random() < 0.5,
        "signal_baseline": source.choice(("first", "ewma", 207.0)),
    }
    if source.random() < 0.3:
        strategy["expire_time_secs"] = source.choice((0.5, 1.0, 60.0))
    if preset == "ladder":
        strategy |= {
            "inventory_skew_factor": source.choice((0.0, 0.5, 1.0)),
            "base_spread_ticks": source.choice((2, 3, 8)),
            "order_size": source.choice(("0.050", "0.075")),
            "max_inventory": source.choice(("0.1", "0.2", "0.325")),
            "num_levels": source.choice((1, 3, 5)),
            "tick_size": source.choice((1, 7, 25)),
            "refresh_interval_ns": source.choice((0, 100_000_000, 1_000_000_000)),
        }
        if source.random() < 0.5:
            strategy["signal_skew_factor"] = 0.0
    return strategy


def random_sections(seed: int) -> dict[str, dict[str, Any]]:
    """Random sections for guards, risk, orders and venue that ``check`` accepts."""
    source = random.Random(seed)
    return {
        "guards": {
            "max_signal_age_secs": source.choice((2.0, 30.0, "off")),
            "max_target_age_secs": source.choice((2.0, 60.0, "off")),
            "collar_bps": source.choice((40.0, 100.0, "off")),
            "frozen_after_secs": source.choice((60.0, "off")),
            "max_basis_bps": source.choice((60.0, 500.0, "off")),
            "locked": source.choice(("withdraw", "quote")),
        },
        "session": {"outside": source.choice(("withdraw", "widen"))},
        "risk": {
            "max_rejects_per_minute": source.choice((3, 30, "off")),
            "max_orders": source.choice((12, 100)),
            "max_notional": source.choice(("30", "off")),
            "max_loss": source.choice(("0.05", "off")),
            "cooldown_secs": source.choice((1.0, 5.0)),
        },
        "orders": {"replace": source.choice(("cancel_create", "cancel_create", "modify", "keep"))},
        "venue": random_venue(seed),
    }


def random_venue(seed: int) -> dict[str, Any]:
    """A random venue section: fill models, with and without latency, fees and limits."""
    source = random.Random(seed)
    return {
        "fill_model": source.choice(("touch", "cross", "queue")),
        "latency": source.choice((0.0, 0.0, 50.0, "1ns", "400ms", "tier")),
        "tier": source.choice(("standard", "plus", "premium")),
        "volume_quota": source.choice(("off", "off", 40, 1000)),
        "transactions_per_minute": source.choice(("off", "off", 30)),
    }


def random_trades(seed: int, target: pl.DataFrame) -> list[dict[str, Any]]:
    """Public trades at, inside and through the target's book, by either side or nobody's."""
    source = random.Random(seed)
    trades = []
    for i, row in enumerate(target.to_dicts()):
        px = source.choice((row["bid_px"], row["ask_px"]))
        if px is None or source.random() < 0.6:
            continue
        trades.append(
            {
                "ts": row["ts"] + source.choice((0, 0, 1_000_000)),
                "px": px + source.choice((-3, 0, 0, 0, 3)) * 1_000_000,
                "qty": source.randint(1, 3_000) * 1_000_000,
                "side": source.choice(("BUY", "SELL", None)),
                "trade_id": str(i),
            }
        )
    trades.sort(key=lambda trade: trade["ts"])
    return trades


def told_wrongly(run: Path, folder: Path, rate: float, seed: int) -> Path:
    """A run as a recording whose venue told some answers late, twice, wrongly or not at all."""
    source = random.Random(seed)
    frames = {name: pl.read_parquet(run / f"{name}.parquet") for name in FILES
              if (run / f"{name}.parquet").exists()}  # fmt: skip
    instants = sorted(row for rows in frames.values() for row in rows.select("seq", "ts").rows())
    place = {seq: k for k, (seq, _) in enumerate(instants)}
    answers: list[dict[str, Any]] = []

    def tell(row: Mapping[str, Any], later: int = 0, **changes: Any) -> None:
        seq, ts = instants[min(place[row["seq"]] + later, len(instants) - 1)]
        answers.append({**row, **changes, "seq": seq, "ts": ts})

    for row in frames.pop("account").to_dicts():
        wrong = source.randrange(11) if source.random() < rate else -1
        some = source.choice((None, 0, 50_000_000, 100_000_000))
        px = source.choice((None, 206_998_000_000, 207_001_000_000))
        wait = source.choice((1, 3, 20, 100))
        if wrong == 0:
            continue
        if wrong == 1:
            tell(row, wait)
        if wrong == 2:
            tell(row, wait)
            continue
        if wrong == 3 and row["kind"] != "fill":
            kinds = ("cancel_reject", "modify_reject", "ack", "modify")
            row["kind"] = "modify_reject" if row["kind"] == "modify" else source.choice(kinds)
        if wrong == 4:
            tell(row, kind="disconnect", n=None)
            tell(row, wait, kind="connect", n=None)
        if wrong == 5:
            row["reason"] = source.choice(("queried", "23000 too many requests", "odd ☕", None))
        if wrong == 6:
            tell(row, kind="position", n=None, qty=some, px=px,
                 reason=source.choice((None, "adopted")))  # fmt: skip
        if wrong == 7 and row["kind"] != "fill":
            row |= {"kind": source.choice(("ack", "modify")), "px": px, "qty": some}
            row |= {"reason": source.choice((None, "queried")), "quota_left": some}
        if wrong == 8 and row["kind"] == "fill":
            row |= {"qty": 2 * row["qty"], "liquidity": "ODD ☕", "venue_id": None, "fee": None}
        if wrong == 9 and row["kind"] == "cancel":
            reason = source.choice((None, "21709 not open", "23000 too many requests"))
            tell(row, kind="cancel_reject", reason=reason)
            tell(row, wait, kind="cancel_reject", reason=reason)
            tell(row, wait + 1, kind="cancel_reject", reason=reason)
            tell(row, wait + 2, kind="cancel_reject", reason=reason)
            if source.random() < 0.7:
                continue
        if wrong == 10 and row["n"] is not None:
            tell(row, wait, kind="fill", px=207_000_000_000, qty=25_000_000, fee=3,
                 venue_id=source.choice(("late", "1")))  # fmt: skip
        tell(row)
    answers.sort(key=lambda row: row["seq"])
    for k, row in enumerate(answers):
        row["seq"] = (len(answers) + 1) * row["seq"] + k
    numbered = {name: rows.with_columns(seq=pl.col("seq") * (len(answers) + 1) - 1)
                for name, rows in frames.items()}  # fmt: skip
    events: dict[str, list[dict[str, Any]]] = {"account": answers}
    for name in ("status", "trades"):
        if name in numbered:
            events[name] = numbered.pop(name).to_dicts()
    return write_recording(folder, numbered, {name: rows for name, rows in events.items() if rows})


def settings(**sections: Mapping[str, Any]) -> Settings:
    return load_settings(config={name: dict(body) for name, body in sections.items()})
