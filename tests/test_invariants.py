"""What must always hold, on random sessions and settings."""

import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from marblemaker.replay import replay
from marblemaker.settings import Settings
from streams.instrument import to_units
from tests.sessions import (
    random_feeds,
    random_sections,
    random_strategy,
    random_trades,
    settings,
    write_recording,
)

SEEDS = st.integers(0, 2**32 - 1)
ROOT = Path(__file__).parents[1]
FEW = hypothesis_settings(max_examples=18, deadline=None, derandomize=True)


def _settings(seed: int) -> Settings:
    return settings(**random_sections(seed), strategy=random_strategy(seed))


def _run(
    feeds: dict[str, pl.DataFrame], chosen: Settings, folder: Path, name: str, **options: Any
) -> tuple[Path, dict[str, Any]]:
    events = {"trades": trades} if (trades := options.pop("trades", None)) else None
    recording = write_recording(folder / f"recording-{name}", feeds, events)
    return folder / name, replay(recording, chosen, folder / name, **options)


def _tables(run: Path) -> dict[str, bytes]:
    names = ("decisions", "orders", "fills", "account", "signal", "target")
    return {name: (run / f"{name}.parquet").read_bytes() for name in names}


@FEW
@given(SEEDS)
def test_the_same_recording_and_settings_give_the_same_bytes_for_any_batch_size(seed: int) -> None:
    feeds, chosen = random_feeds(seed), _settings(seed)
    with TemporaryDirectory() as folder:
        first, summary = _run(feeds, chosen, Path(folder), "first")
        again, _ = _run(feeds, chosen, Path(folder), "again")
        batched, by_seven = _run(feeds, chosen, Path(folder), "batched", batch_rows=7)

        assert _tables(first) == _tables(again)
        assert summary["digest"] == by_seven["digest"]
        for name in ("decisions", "orders", "fills", "account", "signal", "target"):
            assert pl.read_parquet(first / f"{name}.parquet").equals(
                pl.read_parquet(batched / f"{name}.parquet")
            )


def test_the_hash_seed_changes_no_byte(tmp_path: Path) -> None:
    runs = []
    for hash_seed in ("0", "1", "4242"):
        out = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-m", "marblemaker.cli", "demo", "--json", "--out", str(out)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        runs.append(_tables(out))
    assert runs[0] == runs[1] == runs[2]


def _numbered(feeds: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Give the feeds the sequence numbers that a merge by ts would have given them."""
    ranked = pl.concat(
        [quotes.with_columns(feed=pl.lit(i), row=pl.int_range(pl.len()))
         for i, quotes in enumerate(feeds.values())]
    ).sort(["ts", "feed", "row"]).with_columns(seq=pl.int_range(1, pl.len() + 1))  # fmt: skip
    return {
        name: ranked.filter(feed=i).sort("row").drop("feed", "row").cast({"seq": pl.UInt64()})
        for i, name in enumerate(feeds)
    }


@FEW
@given(SEEDS, st.floats(0.02, 0.98))
def test_decisions_on_the_first_inputs_are_the_prefix_of_the_decisions_on_all(
    seed: int, share: float
) -> None:
    feeds, chosen = _numbered(random_feeds(seed)), _settings(seed)
    cut = int(sum(quotes.height for quotes in feeds.values()) * share)
    first = {name: quotes.filter(pl.col("seq") <= cut) for name, quotes in feeds.items()}
    if not all(quotes.height for quotes in first.values()):
        return
    with TemporaryDirectory() as folder:
        whole, _ = _run(feeds, chosen, Path(folder), "whole")
        part, _ = _run(first, chosen, Path(folder), "part")
        every = pl.read_parquet(whole / "decisions.parquet")
        some = pl.read_parquet(part / "decisions.parquet")
        assert some.equals(every.head(some.height))
        ours = ["n", "ts", "side", "px", "qty"]
        if chosen.orders.replace == "modify":
            ours = ["n", "ts", "side"]  # price and size are the last ones, of a later input
        sent = pl.read_parquet(part / "orders.parquet").filter(pl.col("type") == "LIMIT")
        all_sent = pl.read_parquet(whole / "orders.parquet").select(ours)
        last = max(quotes["ts"].max() for quotes in first.values())  # type: ignore[type-var]
        sent = sent.filter(pl.col("ts") < last).select(ours)
        assert sent.equals(all_sent.head(sent.height))


@FEW
@given(SEEDS)
def test_worst_case_exposure_never_passes_the_limit(seed: int) -> None:
    sections = random_sections(seed)
    # With modifies an order has several sizes; the model tests of the order sink have these.
    sections["orders"]["replace"] = "cancel_create"
    chosen = settings(**sections, strategy=random_strategy(seed))
    limit = chosen.max_position
    with TemporaryDirectory() as folder:
        run, summary = _run(random_feeds(seed), chosen, Path(folder), "run")
        orders = pl.read_parquet(run / "orders.parquet").to_dicts()
        account = pl.read_parquet(run / "account.parquet").sort("seq").to_dicts()

        # Rebuilt from the files alone: what was sent, and what the venue answered.
        events: list[tuple[int, int, dict[str, Any]]] = []
        for order in orders:
            events.append((order["ts"], 0, order))
        by_number = {order["n"]: order for order in orders}
        position, open_leaves = 0, {"BUY": 0, "SELL": 0}
        waiting = sorted(orders, key=lambda order: order["n"])
        for event in account:
            while waiting and (waiting[0]["n"] == event["n"] or waiting[0]["ts"] < event["ts"]):
                sent = waiting.pop(0)
                open_leaves[sent["side"]] += sent["qty"]
                if sent["type"] == "LIMIT":
                    assert position + open_leaves["BUY"] <= limit or sent["side"] == "SELL"
                    assert position - open_leaves["SELL"] >= -limit or sent["side"] == "BUY"
            if event["n"] is None:
                continue
            order = by_number[event["n"]]
            if event["kind"] == "fill":
                position += event["qty"] * (1 if order["side"] == "BUY" else -1)
                open_leaves[order["side"]] -= event["qty"]
            if event["kind"] in ("reject", "cancel", "expire"):
                open_leaves[order["side"]] -= order["qty"] - order["filled"]
            assert abs(position) <= limit
        assert to_units(summary["position"], "position") == position
        assert not any(open_leaves.values()), "an order was left behind on stop"
        assert not {order["status"] for order in orders} & {"OPEN"}


@FEW
@given(SEEDS)
def test_composite_quotes_only_on_two_sound_books(seed: int) -> None:
    feeds = random_feeds(seed)
    sections = random_sections(seed)
    sections["venue"] |= {"volume_quota": "off", "transactions_per_minute": "off"}
    sections["guards"]["collar_bps"] = "off"
    preset = "composite" if seed % 2 else "fair_value"
    strategy = random_strategy(seed, preset) | {"min_interval_ms": 0.0}
    with TemporaryDirectory() as folder:
        run, _ = _run(feeds, settings(**sections, strategy=strategy), Path(folder), "run")
        inputs = {
            row["seq"]: (name, row)
            for name in ("signal", "target")
            for row in pl.read_parquet(run / f"{name}.parquet").to_dicts()
        }
        latest: dict[str, dict[str, Any]] = {}
        quoted = {
            row["seq"]: row
            for row in pl.read_parquet(run / "decisions.parquet").to_dicts()
            if row["action"] == "quote"
        }
        for seq in sorted(inputs):
            name, row = inputs[seq]
            latest[name] = row
            if seq not in quoted:
                continue
            assert set(latest) == {"signal", "target"}, "quoted before the first signal"
            for feed in ("signal", "target"):
                book = latest[feed]
                assert book["bid_px"] is not None
                assert book["ask_px"] is not None
                assert 0 < book["bid_px"] <= book["ask_px"]
                assert book["bid_sz"] > 0
                assert book["ask_sz"] > 0
                assert quoted[seq][f"{feed}_seq"] == book["seq"]


@FEW
@given(SEEDS)
def test_a_run_replayed_with_its_recorded_answers_repeats_its_decisions_and_orders(
    seed: int,
) -> None:
    chosen = _settings(seed)
    with TemporaryDirectory() as folder:
        run, summary = _run(random_feeds(seed), chosen, Path(folder), "run")
        repeated = replay(run, chosen, Path(folder) / "repeated")
        assert repeated["venue"] == "recorded"
        assert repeated["digest"] == summary["digest"]
        assert _tables(run) == _tables(Path(folder) / "repeated")


@FEW
@given(SEEDS)
def test_each_fill_is_counted_once_and_money_is_conserved(seed: int) -> None:
    with TemporaryDirectory() as folder:
        run, summary = _run(random_feeds(seed), _settings(seed), Path(folder), "run")
        fills = pl.read_parquet(run / "fills.parquet").to_dicts()
        told = pl.read_parquet(run / "account.parquet").filter(pl.col("kind") == "fill")
        orders = pl.read_parquet(run / "orders.parquet")
        # An answer to a question repeats fills under their ids.
        assert len(fills) == told["venue_id"].n_unique()
        assert sum(fill["qty"] for fill in fills) == orders["filled"].sum()
        sign = {"BUY": 1, "SELL": -1}
        position = sum(sign[fill["side"]] * fill["qty"] for fill in fills)
        cash = -sum(sign[fill["side"]] * fill["px"] * fill["qty"] for fill in fills)
        fees = sum(fill["fee"] for fill in fills)
        mark = to_units(summary["mark"], "mark")
        assert to_units(summary["position"], "position") == position
        assert to_units(summary["pnl"], "pnl") == (cash + position * mark) // 10**9 - fees
        parts = (to_units(summary[part], part) for part in ("realised", "unrealised"))
        # Each part is rounded down on its own.
        assert 0 <= (cash + position * mark) // 10**9 - sum(parts) <= 1


@FEW
@given(SEEDS)
def test_the_same_orders_fill_least_when_crossed_and_most_when_touched(seed: int) -> None:
    feeds = random_feeds(seed)
    trades = random_trades(seed, feeds["target"]) if seed % 3 else None
    with TemporaryDirectory() as folder:
        _, summary = _run(feeds, _settings(seed), Path(folder), "run", bounds=True, trades=trades)
        model = {"cross": "pessimistic", "queue": "queue", "touch": "optimistic"}
        bounds = summary["bounds"]
        for side in ("bought", "sold"):
            least, estimate, most = (to_units(bounds[name][side], side) for name in model.values())
            assert least <= estimate <= most
        own = bounds[model[summary["fill_model"]]]
        for name in ("bought", "sold", "position", "fees", "pnl", "realised", "unrealised"):
            assert own[name] == summary[name], name
        # Δcash + Δposition × price + fees = 0, in every model: what P&L is made of.
        for one in bounds.values():
            bought, sold, position = (
                to_units(one[name], name) for name in ("bought", "sold", "position")
            )
            assert bought - sold == position
            parts = to_units(one["realised"], "") + to_units(one["unrealised"], "")
            assert 0 <= to_units(one["pnl"], "") + to_units(one["fees"], "") - parts <= 1


@FEW
@given(SEEDS)
def test_with_budgets_neither_quota_nor_rate_is_ever_spent(seed: int) -> None:
    preset = ("composite", "fair_value", "ladder")[seed % 3]
    budgeted = settings(
        **random_sections(seed)
        | {
            "venue": random_sections(seed)["venue"]
            | {"volume_quota": 30, "transactions_per_minute": 20, "quota_horizon_secs": 60.0}
        },
        strategy=random_strategy(seed, preset),
    )
    with TemporaryDirectory() as folder:
        run, summary = _run(random_feeds(seed), budgeted, Path(folder), "run")
        budget = summary["budget"]
        assert budget["quota_lowest"] > 0
        assert budget["quota_exhausted_at"] is None
        assert budget["busiest_minute"] <= 20
        reasons = pl.read_parquet(run / "account.parquet")["reason"].drop_nulls().to_list()
        assert not [reason for reason in reasons if reason.startswith("23000")]


@FEW
@given(SEEDS)
def test_a_ladders_unchanged_levels_keep_their_orders(seed: int) -> None:
    """From target to target: a level that both want, and that nothing filled, is not touched."""
    strategy = random_strategy(seed, "ladder") | {
        "inventory_skew_factor": 0.5, "base_spread_ticks": 2,
        "order_size": "0.050", "max_inventory": "0.4", "max_position": "0.4", "num_levels": 3,
        "tick_size": 7, "refresh_interval_ns": 100_000_000, "expire_time_secs": "off",
    }  # fmt: skip
    sections = random_sections(seed)
    sections["orders"]["replace"] = "cancel_create" if seed % 2 else "modify"
    sections["venue"] = {"latency": 0.0}
    with TemporaryDirectory() as folder:
        run, _ = _run(
            random_feeds(seed), settings(**sections, strategy=strategy), Path(folder), "run"
        )
        orders = pl.read_parquet(run / "orders.parquet").filter(type="LIMIT")
        wanted: set[tuple[str, int]] = set()
        touched = 0
        decisions = pl.read_parquet(run / "decisions.parquet")
        acting = decisions.filter(pl.col("action").is_in(["quote", "withdraw", "retract"]))
        # Of several at one instant the orders' times do not tell which one it was.
        alone = acting["ts"].is_unique().to_list()
        for row, is_alone in zip(acting.to_dicts(), alone, strict=True):
            before, wanted = wanted, set()
            if row["action"] != "withdraw":
                for side, sign in (("BUY", 1), ("SELL", -1)):
                    px = row["bid_px" if side == "BUY" else "ask_px"]
                    levels = row["bid_levels" if side == "BUY" else "ask_levels"]
                    wanted |= {(side, px - sign * i * row["level_step"]) for i in range(levels)}
            for side, px in before & wanted if is_alone else ():
                gone = orders.filter(
                    pl.col("side") == side, pl.col("px") == px,
                    pl.col("ts") < row["ts"], pl.col("ts_last") == row["ts"],
                    pl.col("status") == "CANCELED", pl.col("filled") == 0,
                )  # fmt: skip
                touched += gone.height
        assert touched == 0


def test_the_sessions_of_these_tests_do_trade() -> None:
    """Guards the guards: properties of sessions without fills would hold for nothing."""
    source = random.Random(7)
    fills = withdrawn = rejected = 0
    for _ in range(25):
        seed = source.randrange(2**32)
        with TemporaryDirectory() as folder:
            _, summary = _run(random_feeds(seed), _settings(seed), Path(folder), "run")
        fills += summary["fills"]["total"]
        withdrawn += summary["decisions"].get("withdraw", 0)
        rejected += summary["orders"].get("REJECTED", 0)
    assert fills > 20
    assert withdrawn > 20
    assert rejected > 5
