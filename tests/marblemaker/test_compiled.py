"""The compiled engine: the Rx engine's run folder, bit for bit, or a refusal by name.

``MARBLE_EXAMPLES`` sets how many random sessions are tried; a few by default.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from msgspec.structs import replace as change

from marblemaker.bundled import BUNDLED
from marblemaker.cli import main
from marblemaker.compiled import coverage, engine
from marblemaker.compiled.coverage import NOT_DONE, Asked
from marblemaker.compiled.engine import replay_compiled
from marblemaker.compiled.read import MAX_PX, Feed
from marblemaker.compiled.texts import NULL_WORD
from marblemaker.replay import replay
from marblemaker.settings import Settings, SettingsError
from marblemaker.wiring import simulated_venue_of
from sinks.simulated import SimulatedVenue
from streams.events import AccountEvent
from streams.recording import FILES, Recording, RecordingError
from tests.engines import both, differences
from tests.sessions import (
    SECOND,
    START,
    Row,
    frame,
    random_feeds,
    random_sections,
    random_strategy,
    random_trades,
    settings,
    told_wrongly,
    write_recording,
)

EXAMPLES = int(os.environ.get("MARBLE_EXAMPLES", "12"))
ROOT = Path(__file__).parents[2]


# ---------------------------------------------------------------- the bundled session


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty minutes of the bundled session: a jump, a sweep and books that are no books."""
    feeds = {}
    for name in ("signal", "target"):
        rows = pl.read_parquet(BUNDLED / f"{name}.parquet")
        begin = START + 3_000 * SECOND
        feeds[name] = rows.filter(pl.col("ts").is_between(begin, begin + 1_200 * SECOND))
    return write_recording(tmp_path_factory.mktemp("window") / "recording", feeds)


@pytest.mark.parametrize(
    "overrides",
    [
        {"strategy": {"signal_baseline": "session"}, "venue": {"fill_model": "cross"}},
        {"strategy": {"preset": "tutorial"}, "venue": {"latency": "50ms"}},
        {"strategy": {"preset": "fair_value", "half_spread_bps": 2.0, "min_interval_ms": 200.0}},
        {"strategy": {"preset": "ladder", "signal_skew_factor": 15.0, "max_inventory": "0.5",
                      "order_size": "0.05"}, "venue": {"fill_model": "queue"}},
        {"strategy": {"signal_baseline": "ewma", "expire_time_secs": 20.0, "half_spread_bps": 3.0},
         "orders": {"replace": "keep"}, "venue": {"tier": "premium"},
         "risk": {"max_loss": "0.05", "max_notional": "30"}},
    ],
    ids=["cross", "tutorial", "fair_value", "ladder", "ewma"],
)  # fmt: skip
def test_every_preset_gives_the_same_run_of_a_stretch_of_the_bundled_session(
    window: Path, tmp_path: Path, overrides: Mapping[str, Any]
) -> None:
    chosen = settings(**overrides)

    rx, compiled = both(window, chosen, tmp_path)

    assert differences(rx, compiled) == []
    assert pl.read_parquet(rx / "fills.parquet").height or "tutorial" in str(overrides)


def test_the_whole_bundled_session_by_the_command_line_gives_the_same_run(tmp_path: Path) -> None:
    for name in ("rx", "compiled"):
        assert main(["replay", str(BUNDLED), "--engine", name, "--out", str(tmp_path / name)]) == 0

    assert differences(tmp_path / "rx", tmp_path / "compiled") == []
    assert json.loads((tmp_path / "compiled/summary.json").read_text())["fills"]["total"] > 10


def close_feeds(seed: int) -> dict[str, pl.DataFrame]:
    """A target's book a few ticks wide around our quotes, with sizes that others may not know."""
    source = random.Random(seed)
    ts, mid, rows = START, 207_000, []
    for _ in range(400):
        ts += source.choice((0, 50_000_000, 300_000_000))
        mid += source.choice((-1, 0, 0, 1))
        bid, ask = mid - source.randint(1, 3), mid + source.randint(1, 3)
        bid_sz, ask_sz = (source.choice((None, 50, 100, 450)) for _ in range(2))
        sizes = [size and size * 1_000_000 for size in (bid_sz, ask_sz)]
        rows.append((ts, bid * 1_000_000, ask * 1_000_000, sizes[0], sizes[1]))
    signal = frame([(START, 207 * SECOND, 208 * SECOND, SECOND, SECOND)])
    return {"signal": signal, "target": frame(rows)}


CLOSE: Mapping[str, dict[str, Any]] = {
    "strategy": {"half_spread_bps": 0.1, "max_position": "1", "requote_threshold_bps": 0.02,
                 "inventory_skew_factor": 0.0},
    "guards": {"max_signal_age_secs": "off", "max_basis_bps": "off"},
}  # fmt: skip
"""Settings that quote ``close_feeds`` often, and fill."""


@pytest.mark.parametrize("model", ["touch", "cross", "queue"])
def test_the_same_orders_come_to_the_same_under_every_fill_model(
    tmp_path: Path, model: str
) -> None:
    feeds = close_feeds(1)
    recording = write_recording(
        tmp_path / "recording", feeds, {"trades": random_trades(1, feeds["target"])}
    )
    venue = {"fill_model": model, "latency": 20.0, "tier": "premium"}
    chosen = settings(**CLOSE, venue=venue, orders={"replace": "modify"})

    rx, compiled = both(recording, chosen, tmp_path, batch_rows=50, trace=False, bounds=True)

    assert differences(rx, compiled) == []
    bounds = json.loads((compiled / "summary.json").read_text())["bounds"]
    assert len({told["pnl"] for told in bounds.values()}) == 3


def test_another_fill_model_takes_from_a_level_anew_once_it_was_gone(tmp_path: Path) -> None:
    wide, touched = (206_990, 207_014), (206_980, 206_999)
    rows: list[Row] = [
        (START + k * SECOND, bid * 10**6, ask * 10**6, SECOND, 20_000_000)
        for k, (bid, ask) in enumerate((wide, wide, touched, wide, touched, wide))
    ]
    feeds = {"signal": close_feeds(1)["signal"], "target": frame(rows)}
    recording = write_recording(tmp_path / "recording", feeds)
    chosen = settings(
        strategy={**CLOSE["strategy"], "requote_threshold_bps": 50.0}, guards=CLOSE["guards"],
        venue={"fill_model": "cross"},
    )  # fmt: skip

    rx, compiled = both(recording, chosen, tmp_path, bounds=True)

    assert differences(rx, compiled) == []
    bounds = json.loads((compiled / "summary.json").read_text())["bounds"]
    assert [told["bought"] for told in bounds.values()] == ["0", "0.04", "0.05"]


def test_the_run_does_not_depend_on_the_size_of_batches(window: Path, tmp_path: Path) -> None:
    chosen = settings(strategy={"half_spread_bps": 2.0, "min_interval_ms": 100.0})
    runs = []
    for rows in (97, 4_096, 262_144):
        runs.append(tmp_path / str(rows))
        engine.replay_compiled(window, chosen, runs[-1], batch_rows=rows)

    assert differences(runs[0], runs[1]) == []
    assert differences(runs[1], runs[2]) == []


# ---------------------------------------------------------------- random sessions


@st.composite
def feeds(draw: st.DrawFn) -> dict[str, pl.DataFrame]:
    """Small feeds; every row is drawn, so that a failure shrinks to the rows that matter."""
    found = {}
    others = draw(st.sampled_from(((), (), ("signal_2",), ("signal_2", "signal_3"))))
    for name in ("signal", *others, "target"):
        tick = 1_000_000 if name == "target" else 10_000_000
        ts, mid, rows = START + draw(st.sampled_from((0, -2, 23_397))) * SECOND, 0, []
        steps = st.tuples(
            st.sampled_from((100, 0, 1, 700, 3_000, 70_000)),
            st.sampled_from((0, 1, -1, 4, -7, 60, -300)),
            st.sampled_from((2, 1, 9, 0)),
            st.sampled_from((None, None, None, "bid", "ask", "both", "crossed", "zero")),
        )
        for wait_ms, move, half, fault in draw(st.lists(steps, min_size=1, max_size=40)):
            ts += wait_ms * 1_000_000 if wait_ms != 1 else 1
            mid += move * (5 if name == "target" else 1)
            middle = 207 * SECOND // tick + mid
            bid: int | None = (middle - half) * tick
            ask: int | None = (middle + half) * tick
            size: int | None = 0 if fault == "zero" else 3 * SECOND
            bid = None if fault in ("bid", "both") else bid
            ask = None if fault in ("ask", "both") else ask
            if fault == "crossed":
                bid, ask = ask, bid
            rows.append((ts, bid, ask, size, None if fault == "bid" else size))
        found[name] = frame(rows)
    return found


@st.composite
def sections(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Settings that ``check`` accepts and the compiled engine does."""
    of = st.sampled_from
    expire = draw(of(("off", 1.0)))
    strategy = {
        "preset": draw(of(("composite", "tutorial", "fair_value", "ladder"))),
        "half_spread_bps": draw(of((10.0, 1.0, 0.0))),
        "requote_threshold_bps": draw(of((5.0, 0.0, 50.0))),
        "signal_skew_factor": draw(of((55.0, 0.0, -400.0))),
        "signal_baseline": draw(of(("first", "session", "ewma", 207.0))),
        "min_interval_ms": draw(of((0.0, 150.0, 1_500.0))),
        "max_position": draw(of(("0.2", "0.05", "2"))),
        "on_cancel_resubmit": draw(st.booleans()),
        "flatten_on_stop": draw(st.booleans()),
        "expire_time_secs": expire,
        "anchor_without_own": draw(st.booleans()),
    }
    if strategy["preset"] == "ladder":
        strategy |= {
            "inventory_skew_factor": 0.5, "order_size": "0.05", "max_inventory": "0.3",
            "tick_size": draw(of((25, 1))), "signal_skew_factor": draw(of((0.0, 15.0))),
        }  # fmt: skip
    return {
        "strategy": strategy,
        "guards": {
            "max_signal_age_secs": draw(of((30.0, 2.0, "off"))),
            "max_quiet_signal_age_secs": draw(of(("off", 45.0))),
            "max_target_age_secs": draw(of((60.0, 2.0, "off"))),
            "dead_after_secs": draw(of((30.0, 1.0))),
            "collar_bps": draw(of((100.0, 10.0, "off"))),
            "max_basis_bps": draw(of((500.0, 5.0, "off"))),
            "locked": draw(of(("withdraw", "quote"))),
        },
        "session": {
            "outside": draw(of(("withdraw", "widen"))), "calendar": draw(of(("XNYS", "24/7"))),
        },
        "risk": {
            "max_rejects_per_minute": draw(of((30, 1))), "cooldown_secs": draw(of((60.0, 0.5))),
            "max_loss": draw(of(("off", "0.001"))), "max_notional": draw(of(("off", "15"))),
        },
        "orders": {
            "replace": draw(of(("cancel_create", "keep", "modify"))),
            "stop_timeout_secs": draw(of((10.0, 0.05))),
            "in_flight_timeout_secs": draw(of((5.0, 0.1))),
        },
        "venue": {
            "fill_model": draw(of(("touch", "cross", "queue"))),
            "latency": draw(of((0.0, "1ns", 100.0, "tier", "900ms", "7s"))),
            "tier": draw(of(("standard", "premium"))),
            "max_orders_per_market": draw(of(("off", 1))),
            "max_orders_per_account": draw(of(("off", 2))),
            # A tier's limits do not go with orders as short-lived as these.
            "limits": draw(of(("none", "tier" if expire == "off" else "none"))),
            "transactions_per_minute": draw(of(("off", 4, 12))),
            "volume_quota": draw(of(("off", 3, 40))),
            "quota_horizon_secs": draw(of((23_400.0, 60.0))),
        },
    }  # fmt: skip


def of_several(sections: dict[str, dict[str, Any]], signals: int) -> dict[str, dict[str, Any]]:
    """The same settings with this many signals, where they may have them."""
    others = [f"S{k}.EQUS" for k in range(2, signals + 1)]
    strategy = dict(sections["strategy"])
    if others and strategy["preset"] == "tutorial":
        strategy["preset"] = "composite"
    if others and not isinstance(strategy["signal_baseline"], str):
        strategy["signal_baseline"] = "first"
    weights = [1.25, -0.25] if signals == 2 else None
    return sections | {"strategy": strategy, "signal": {"others": others, "weights": weights}}


@st.composite
def statuses(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of status: signs of life, disconnects, and the operator's kill switch."""
    of_feed = ("heartbeat", "sibling", "disconnect", "notice")
    row = st.one_of(
        st.tuples(st.sampled_from(("signal", "target")), st.sampled_from(of_feed)),
        st.tuples(st.just("operator"), st.sampled_from(("kill", "release"))),
    )
    rows, ts = [], START
    for wait_ms, (source, kind) in draw(
        st.lists(st.tuples(st.sampled_from((0, 300, 2_500)), row), max_size=8)
    ):
        ts += wait_ms * 1_000_000
        rows.append({"ts": ts, "source": source, "kind": kind, "text": draw(st.none() | st.text())})
    return rows


@trying(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="MARBLE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(
    feeds=feeds(),
    chosen=sections(),
    status=statuses(),
    seed=st.integers(0, 9),
    bounds=st.booleans(),
    wrong=st.sampled_from((None, None, 0.0, 0.3)),
    killed=st.sampled_from((False, False, False, True)),
)
def test_both_engines_agree_on_random_sessions_settings_and_faults(
    feeds: dict[str, pl.DataFrame],
    chosen: dict[str, dict[str, Any]],
    status: list[dict[str, Any]],
    seed: int,
    bounds: bool,
    wrong: float | None,
    killed: bool,
) -> None:
    """``wrong``: the share of the venue's answers that were recorded wrongly, if any were."""
    chosen = of_several(chosen, len(feeds) - 1)
    trades = random_trades(seed, feeds["target"])
    events = {"status": status, "trades": trades}
    with tempfile.TemporaryDirectory() as folder:
        recording = write_recording(
            Path(folder) / "recording", feeds, {name: rows for name, rows in events.items() if rows}
        )

        if wrong is not None:
            run = Path(folder) / "run"
            engine.replay_compiled(recording, settings(**chosen), run, trace=False)
            recording = told_wrongly(run, Path(folder) / "told", rate=wrong, seed=seed)
        if killed:
            (Path(folder) / "kill").write_text("killed before it began")
            chosen["risk"]["kill_file"] = str(Path(folder) / "kill")

        rx, compiled = both(
            recording, settings(**chosen), Path(folder), batch_rows=16, bounds=bounds
        )

        assert differences(rx, compiled) == []


@pytest.mark.parametrize(
    ("replaces", "latency", "asks_after"),
    [("cancel_create", "300ms", 0.1), ("modify", "150ms", 0.15), ("keep", "tier", 0.2),
     ("modify", "3s", 0.1)],
)  # fmt: skip
def test_a_venue_that_is_slower_than_the_sink_waits_is_asked(
    tmp_path: Path, replaces: str, latency: str, asks_after: float
) -> None:
    feeds = close_feeds(2)
    recording = write_recording(
        tmp_path / "recording", feeds, {"trades": random_trades(2, feeds["target"])}
    )
    chosen = settings(
        **CLOSE,
        venue={"fill_model": "queue", "latency": latency},
        orders={"replace": replaces, "in_flight_timeout_secs": asks_after},
    )

    rx, compiled = both(recording, chosen, tmp_path, batch_rows=200)

    assert differences(rx, compiled) == []
    asked = pl.read_parquet(compiled / "account.parquet").filter(pl.col("reason") == "queried")
    assert {"ack", "cancel", "fill"} <= set(asked["kind"])
    anomalies = json.loads((compiled / "summary.json").read_text())["anomalies"]
    assert anomalies["no answer in time: asked the venue"] > 10


def test_a_question_that_overtakes_its_order_is_not_answered(tmp_path: Path) -> None:
    feeds = close_feeds(1)
    recording = write_recording(
        tmp_path / "recording", feeds, {"trades": random_trades(1, feeds["target"])}
    )
    chosen = settings(
        strategy={**CLOSE["strategy"], "flatten_on_stop": True}, guards=CLOSE["guards"],
        # Queries arrive at once, market orders after 200 ms.
        venue={"latency": "tier", "tier": "premium"}, orders={"in_flight_timeout_secs": 0.1},
    )  # fmt: skip

    rx, compiled = both(recording, chosen, tmp_path)

    assert differences(rx, compiled) == []
    anomalies = json.loads((compiled / "summary.json").read_text())["anomalies"]
    assert anomalies == {"no answer in time: asked the venue": 1}
    assert pl.read_parquet(compiled / "orders.parquet")["type"].to_list()[-1] == "MARKET"


def test_what_the_venue_says_at_the_instant_at_which_a_stop_gives_up_is_taken(
    tmp_path: Path,
) -> None:
    recording = write_recording(tmp_path / "recording", close_feeds(1))
    chosen = settings(**CLOSE, venue={"latency": "50ms"}, orders={"stop_timeout_secs": 0.05})

    rx, compiled = both(recording, chosen, tmp_path)

    assert differences(rx, compiled) == []
    answers = pl.read_parquet(compiled / "account.parquet")
    stopped = answers.filter(pl.col("kind") == "stop")["ts"][0]
    assert answers.filter(pl.col("ts") == stopped + 50_000_000).height


@pytest.mark.parametrize("seed", range(EXAMPLES // 2))
def test_both_engines_agree_on_longer_random_sessions(seed: int, tmp_path: Path) -> None:
    chosen = random_sections(seed)
    chosen["strategy"] = random_strategy(seed)
    chosen["orders"]["in_flight_timeout_secs"] = (5.0, 0.1)[seed % 2]
    walked = random_feeds(seed)
    trades = random_trades(seed, walked["target"])
    recording = write_recording(tmp_path / "recording", walked, {"trades": trades})

    rx, compiled = both(recording, settings(**chosen), tmp_path, batch_rows=100, bounds=True)

    assert differences(rx, compiled) == []


@pytest.mark.parametrize("preset", ["composite", "tutorial", "fair_value"])
def test_our_own_quotes_are_taken_out_of_the_book_alike(preset: str, tmp_path: Path) -> None:
    # On ticks as coarse as the spread our quotes are often the best ones, and alone there.
    tick, walked = 100_000_000, random_feeds(7)
    walked["target"] = walked["target"].with_columns(
        pl.col("bid_px") // tick * tick,
        -(-pl.col("ask_px") // tick) * tick,
        *(pl.col(name) // 40 for name in ("bid_sz", "ask_sz")),
    )
    recording = write_recording(tmp_path / "recording", walked)
    strategy = {"preset": preset, "half_spread_bps": 5.0, "signal_skew_factor": 0.0}

    def chosen(without_own: bool) -> Settings:
        return settings(
            strategy=strategy | {"anchor_without_own": without_own},
            guards={"max_signal_age_secs": "off", "max_basis_bps": "off", "collar_bps": "off"},
            session={"calendar": "24/7"},
            target={"price_decimals": 1},
        )

    rx, compiled = both(recording, chosen(True), tmp_path, batch_rows=100)
    engine.replay_compiled(recording, chosen(False), tmp_path / "with")

    assert differences(rx, compiled) == []
    decisions = [pl.read_parquet(run / "decisions.parquet") for run in (rx, tmp_path / "with")]
    assert not decisions[0].equals(decisions[1])


BUSY: dict[str, dict[str, Any]] = {
    "strategy": {"requote_threshold_bps": 1.0, "half_spread_bps": 3.0},
    "guards": {"max_signal_age_secs": "off", "max_target_age_secs": "off", "collar_bps": "off",
               "max_basis_bps": "off"},
    "risk": {"max_rejects_per_minute": "off"},
    "session": {"calendar": "24/7"},
}  # fmt: skip
"""Settings that quote whatever happens."""


@pytest.mark.parametrize(
    ("preset", "venue", "seen"),
    [
        ("composite", {"transactions_per_minute": 30, "latency": 50.0}, "held back"),
        ("composite", {"volume_quota": 60, "quota_horizon_secs": 600.0}, "widened"),
        ("fair_value", {"volume_quota": 3, "quota_horizon_secs": 60.0}, "held back"),
        ("ladder", {"limits": "tier", "transactions_per_minute": 10}, "held back"),
        ("tutorial", {"transactions_per_minute": 12}, "refused"),
        ("tutorial", {"limits": "tier", "tier": "premium", "volume_quota": 20}, "exhausted"),
    ],
)
def test_the_budgets_of_the_account_are_kept_alike(
    preset: str, venue: dict[str, Any], seen: str, tmp_path: Path
) -> None:
    sections = BUSY | {"venue": venue, "strategy": BUSY["strategy"] | {"preset": preset}}
    if preset == "ladder":
        sections["strategy"] = {"preset": preset, "base_spread_ticks": 2, "order_size": "0.05"}
    walked = random_feeds(6)
    trades = random_trades(6, walked["target"])
    recording = write_recording(tmp_path / "recording", walked, {"trades": trades})

    rx, compiled = both(recording, settings(**sections), tmp_path, batch_rows=20)
    again = both(rx, settings(**sections), tmp_path / "recorded", batch_rows=20)

    assert differences(rx, compiled) == []
    assert differences(*again) == []
    summary = json.loads((rx / "summary.json").read_text())
    decisions = pl.read_parquet(rx / "decisions.parquet")
    saw = {
        "held back": (decisions["reason"] == "budget").any(),
        "widened": (decisions["threshold_bps"] > 1.0).any(),
        "exhausted": summary["budget"]["quota_exhausted_at"] is not None,
        "refused": "a cancel was refused again and again" in summary["anomalies"],
    }
    assert saw[seen]


@pytest.mark.parametrize(
    ("others", "guards"),
    [
        (1, {"max_signal_age_secs": 1.5, "dead_after_secs": 0.5, "max_quiet_signal_age_secs": 4.0}),
        (3, {"max_signal_age_secs": 2.0, "dead_after_secs": 0.3, "collar_bps": 40.0}),
    ],
)
def test_several_signals_make_one_residual_alike(
    others: int, guards: dict[str, Any], tmp_path: Path
) -> None:
    walked = random_feeds(8)
    for k in range(others):
        # Of other lengths and densities, so that some are silent while others speak.
        rows = random_feeds(80 + k)["signal"]
        walked[f"signal_{k + 2}"] = rows.gather_every(1 + 3 * k) if k else rows.head(300)
    names = [f"S{k}.EQUS" for k in range(others)]
    status = [
        {"ts": START + 9 * SECOND, "source": "signal", "kind": "disconnect", "text": None},
        {"ts": START + 20 * SECOND, "source": "signal", "kind": "heartbeat", "text": None},
    ]
    events = {"trades": random_trades(8, walked["target"]), "status": status}
    recording = write_recording(tmp_path / "recording", walked, events)
    chosen = settings(**(BUSY | {"signal": {"others": names}, "guards": guards}))

    runs = [both(recording, chosen, tmp_path, batch_rows=100)]
    # A run is numbered, so the same again is merged by numbers; then with the recorded answers.
    for venue in ("simulated", "recorded"):
        again: dict[str, Any] = {"venue": venue, "batch_rows": 7}
        runs.append(both(runs[0][0], chosen, tmp_path / venue, **again))

    assert [differences(*run) for run in runs] == [[], [], []]
    reasons = set(pl.read_parquet(runs[0][0] / "trace/weighted.parquet")["reason"])
    assert {None, "quiet", "disconnected"} <= reasons or {None, "dead", "disconnected"} <= reasons


def test_recordings_with_numbers_are_merged_by_them(tmp_path: Path) -> None:
    walked = random_feeds(5, 200)
    both_ts = np.concatenate([walked[name]["ts"].to_numpy() for name in ("signal", "target")])
    # The target first where instants are equal: the other way round than without numbers.
    names = np.repeat([1, 0], [walked["signal"].height, walked["target"].height])
    order = np.lexsort((np.arange(len(both_ts)), names, both_ts))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(1, len(order) + 1) * 3
    cut = walked["signal"].height
    numbered = {
        name: walked[name].with_columns(seq=pl.Series(part, dtype=pl.UInt64))
        for name, part in (("signal", numbers[:cut]), ("target", numbers[cut:]))
    }
    recording = write_recording(tmp_path / "recording", numbered)

    rx, compiled = both(recording, settings(), tmp_path, batch_rows=50)

    assert differences(rx, compiled) == []


# ---------------------------------------------------------------- recorded answers


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_a_run_replays_from_its_own_answers(tmp_path: Path, preset: str) -> None:
    feeds = close_feeds(5)
    source = write_recording(
        tmp_path / "source", feeds, {"trades": random_trades(5, feeds["target"])}
    )
    chosen = settings(
        strategy={**CLOSE["strategy"], "preset": preset, "flatten_on_stop": True},
        guards=CLOSE["guards"], venue={"latency": 30.0, "tier": "premium"},
    )  # fmt: skip
    engine.replay_compiled(source, chosen, tmp_path / "run")

    rx, compiled = both(tmp_path / "run", chosen, tmp_path, batch_rows=70, bounds=True)

    assert differences(rx, compiled) == []
    # Only what the summary says of the venue is different.
    digests = [
        json.loads((folder / "summary.json").read_text())["digest"]
        for folder in (tmp_path / "run", compiled)
    ]
    assert digests[0] == digests[1]


def test_what_was_recorded_after_a_stop_is_written_and_not_acted_upon(tmp_path: Path) -> None:
    feeds = close_feeds(6)
    status = [{"ts": START + k * SECOND, "source": "signal", "kind": "notice"} for k in range(40)]
    events = {
        "trades": random_trades(6, feeds["target"]), "status": status,
        "account": [{"ts": START + 20 * SECOND, "kind": "stop"},
                    {"ts": START + 21 * SECOND, "kind": "cancel", "n": 1}],
    }  # fmt: skip
    recording = _numbered(tmp_path / "recording", feeds, events)

    rx, compiled = both(recording, settings(**CLOSE), tmp_path, batch_rows=30)

    assert differences(rx, compiled) == []
    decided = pl.read_parquet(compiled / "decisions.parquet")["ts"]
    assert decided[-1] < START + 20 * SECOND < feeds["target"]["ts"][-1]


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_both_engines_agree_on_answers_that_come_late_twice_wrong_or_not_at_all(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, feeds = random.Random(seed), close_feeds(seed)
    of = source.choice
    plain = write_recording(
        tmp_path / "source", feeds, {"trades": random_trades(seed, feeds["target"])}
    )
    sections = {
        "strategy": {
            **CLOSE["strategy"], "max_position": of(("0.1", "0.3", "1")),
            "preset": ("composite", "tutorial", "fair_value", "ladder")[seed % 4],
            "flatten_on_stop": of((True, False)), "on_cancel_resubmit": of((True, False)),
            "expire_time_secs": of(("off", 0.5)), "anchor_without_own": of((True, False)),
        },
        "guards": CLOSE["guards"],
        "orders": {
            "replace": ("modify", "cancel_create", "modify", "modify", "keep")[seed % 5],
            "in_flight_timeout_secs": of((0.1, 0.3, 5.0)),
            "stop_timeout_secs": of((0.05, 1.0, 10.0)),
        },
        "venue": {
            "latency": of((0.0, "80ms")), "fill_model": "touch",
            "volume_quota": of(("off", 40)), "transactions_per_minute": of(("off", 30)),
        },
    }  # fmt: skip
    if sections["strategy"]["preset"] == "ladder":
        sections["strategy"] |= {
            "inventory_skew_factor": 0.5, "order_size": "0.05", "max_inventory": "0.3",
            "tick_size": 1, "num_levels": 3, "base_spread_ticks": 4, "signal_skew_factor": 0.0,
        }  # fmt: skip
    chosen = settings(**sections)
    rate = (0.01, 0.05, 0.3)[seed % 3]

    def venue_of(settings: Settings, answer: Answer, **options: Any) -> SimulatedVenue:
        return simulated_venue_of(settings, _wrongly(answer, source, rate), **options)

    monkeypatch.setattr("marblemaker.replay.simulated_venue_of", venue_of)
    # The sink heard all that is wrong, so the recording fits its orders to the end.
    replay(plain, chosen, tmp_path / "run", trace=False)

    rx, compiled = both(tmp_path / "run", chosen, tmp_path, batch_rows=150)

    assert differences(rx, compiled) == []
    digests = [
        json.loads((folder / "summary.json").read_text())["digest"]
        for folder in (tmp_path / "run", compiled)
    ]
    assert digests[0] == digests[1]


Answer = Callable[[AccountEvent], None]


def _wrongly(answer: Answer, source: random.Random, rate: float) -> Answer:
    """Tell some of a venue's answers late, twice, wrongly or not at all, and some of its own."""
    late: list[tuple[int, AccountEvent]] = []
    told = 0

    def tell(event: AccountEvent) -> None:
        nonlocal told, late
        told += 1
        for event_told in _wrong(event) if source.random() < rate else [event]:
            answer(event_told)
        due = [held for when, held in late if when <= told]
        late = [(when, held) for when, held in late if when > told]
        for held in due:
            answer(held)

    def later(event: AccountEvent, **changes: Any) -> None:
        late.append((told + source.choice((1, 2, 7)), change(event, **changes)))

    def _wrong(event: AccountEvent) -> list[AccountEvent]:
        kind, of = source.randrange(9), source.choice
        some, px = of((None, 0, 50_000_000, 100_000_000)), of((None, 206_999 * 10**6))
        about_all = change(event, n=None, venue_id=None, px=None, qty=None, reason=None)
        reason = of((None, "23000 too many requests", "odd ☕", "queried"))
        if kind == 0:
            return []
        if kind == 1:
            later(event)
            return [event, event]
        if kind == 2:
            later(event)
            return []
        if kind == 3:
            later(about_all, kind="connect")
            return [event, change(about_all, kind="disconnect")]
        if kind == 4:
            return [event, change(about_all, kind="disconnect"), change(about_all, kind="connect")]
        if kind == 5:
            adopted = of((None, "adopted"))
            return [event, change(about_all, kind="position", qty=some, px=px, reason=adopted)]
        if kind == 6 and event.kind == "fill":
            odd = change(event, liquidity="ODD ☕", fee=None, quota_left=some)
            return [change(odd, qty=of((1, 2)) * (event.qty or 0), venue_id=of((None, "1")))]
        if kind == 7:
            later(event, kind="fill", px=207 * SECOND, qty=25_000_000, venue_id="late")
            return [change(event, quota_left=some)]
        if event.kind == "cancel":
            # It rests on, whatever is tried, and then it is gone.
            for _ in range(of((0, 4))):
                later(event, kind="cancel_reject", reason=reason)
            return [change(event, kind="cancel_reject", reason=reason)]
        if event.kind in ("ack", "modify"):
            refused = change(event, kind="modify_reject", px=None, qty=None, reason=reason)
            odd = change(event, px=px, qty=some, reason=reason)
            return of(([refused], [event, refused], [odd]))
        return [change(event, reason=reason)]

    return tell


# ---------------------------------------------------------------- the kill file


@pytest.mark.parametrize(
    ("numbered", "text", "statuses"),
    [(False, None, 0), (False, "", 0), (False, "lunch ☕", 3), (True, "lunch ☕", 3)],
)
def test_a_kill_file_that_does_not_change_gives_the_same_run(
    tmp_path: Path, numbered: bool, text: str | None, statuses: int
) -> None:
    feeds = close_feeds(3)
    rows = [
        {"ts": START + (k + 5) * SECOND, "source": "operator", "kind": kind, "text": None}
        for k, kind in enumerate(("release", "kill", "release"))
    ]
    recording = _numbered if numbered else write_recording
    source = recording(tmp_path / "recording", feeds, {"status": rows} if statuses else {})
    if text is not None:
        (tmp_path / "kill").write_text(text)
    chosen = settings(**CLOSE, risk={"kill_file": str(tmp_path / "kill")})

    rx, compiled = both(source, chosen, tmp_path, batch_rows=30)

    assert differences(rx, compiled) == []
    told = pl.read_parquet(compiled / "status.parquet")
    assert told.height == statuses + (text is not None)
    reasons = pl.read_parquet(compiled / "decisions.parquet")["reason"]
    assert (f"kill switch {text or 'kill file'}" in reasons) == (text is not None)


def _numbered(
    folder: Path,
    feeds: Mapping[str, pl.DataFrame],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Path:
    """A recording of which all rows have numbers, in the order of time and ties."""
    frames = {**{name: pl.DataFrame(rows) for name, rows in events.items()}, **feeds}
    order = sorted(
        (ts, list(FILES).index(name), name, k)
        for name, rows in frames.items()
        for k, ts in enumerate(rows["ts"])
    )
    numbers: dict[str, list[int]] = {name: [0] * frames[name].height for name in frames}
    for seq, (_, _, name, k) in enumerate(order, start=1):
        numbers[name][k] = 3 * seq
    return write_recording(
        folder,
        {name: rows.with_columns(seq=pl.Series(numbers[name], dtype=pl.UInt64))
         for name, rows in feeds.items()},
        {name: [{**row, "seq": seq} for row, seq in zip(rows, numbers[name], strict=True)]
         for name, rows in events.items()},
    )  # fmt: skip


def test_a_kill_file_that_comes_and_goes_becomes_inputs_that_replay(tmp_path: Path) -> None:
    kill_file = tmp_path / "kill"
    status = [{"ts": START + k * SECOND, "source": "signal", "kind": "notice"} for k in range(60)]
    feeds = close_feeds(4)
    source = write_recording(tmp_path / "recording", feeds, {"status": status})
    looks = 0

    def progress(done: int, total: int, ts: int) -> None:
        nonlocal looks
        looks += 1
        if looks % 4 == 1:
            kill_file.write_text(f"change {looks}")
        elif looks % 4 == 3:
            kill_file.unlink()

    run = tmp_path / "run"
    engine.replay_compiled(
        source, settings(**CLOSE, risk={"kill_file": str(kill_file)}), run,
        batch_rows=25, progress=progress,
    )  # fmt: skip

    kinds = pl.read_parquet(run / "status.parquet")["kind"].value_counts()
    told = dict(kinds.iter_rows())
    assert told["notice"] == 60
    assert told["kill"] >= told["release"] >= 3
    # What it was told is in the run folder: without the file it comes to the same.
    again = tmp_path / "again"
    replay(run, settings(**CLOSE), again, venue="simulated")
    for name in ("decisions", "orders", "status", "account", "target"):
        one, other = (pl.read_parquet(folder / f"{name}.parquet") for folder in (run, again))
        assert one.equals(other), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, again)]
    assert summaries[0]["digest"] == summaries[1]["digest"]


# ---------------------------------------------------------------- refusals


def _asked(**changes: Any) -> Asked:
    chosen = changes.pop("settings", settings())
    recordings = [Recording.open(BUNDLED)] * changes.pop("recordings", 1)
    options = {"strict": False} | changes
    return Asked(recordings, chosen, **options)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (_asked(recordings=2), "several recordings as one session"),
        (_asked(strict=True), "--strict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_it_does_not_do_it_refuses_by_name(asked: Asked, name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        coverage.refuse_what_is_not_done(asked)

    assert f"--engine compiled does not do {name};" in str(caught.value)
    assert "--engine rx" in str(caught.value)


def test_a_venue_that_sends_orders_is_refused_unless_its_answers_are_recorded(
    window: Path, tmp_path: Path
) -> None:
    sends = settings(venue={"kind": "lighter"})

    with pytest.raises(SettingsError, match="sends orders and is for live runs"):
        engine.replay_compiled(window, sends, tmp_path / "run")

    engine.replay_compiled(window, settings(), tmp_path / "run", trace=False)
    rx, compiled = both(tmp_path / "run", sends, tmp_path, trace=False)
    assert differences(rx, compiled) == []


def test_every_refusal_is_tried_here_and_told_in_the_documentation() -> None:
    text = (ROOT / "docs/compiled.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for one in NOT_DONE:
        assert f"- {one.what}\n" in text
        assert one.what in here
    told = text.partition("## What it does not do")[2]
    assert told.count("\n- ") == len(NOT_DONE)


def test_only_with_fallback_the_other_engine_does_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_recording(tmp_path / "recording", random_feeds(1, 50))
    line = ["replay", str(recording), "--engine", "compiled", "--strict"]

    assert main([*line, "--out", str(tmp_path / "no")]) == 2
    assert "does not do --strict" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()

    assert main([*line, "--out", str(tmp_path / "run"), "--fallback"]) == 0
    assert "this is --engine rx" in capsys.readouterr().err
    replay(recording, settings(), tmp_path / "rx")
    assert differences(tmp_path / "rx", tmp_path / "run") == []


def test_prices_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    quotes = frame([(START, 2 * 10**17, 3 * 10**17, 1, 1)])
    recording = write_recording(tmp_path / "recording", {"signal": quotes, "target": quotes})

    with pytest.raises(RecordingError, match="counts up to 100000000000000000 there"):
        engine.replay_compiled(recording, settings(), tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_numbers_that_two_files_share_are_refused(tmp_path: Path) -> None:
    rows = frame([(START, 1_000_000_000, 2_000_000_000, 1, 1)])
    quotes = rows.with_columns(seq=pl.lit(7, pl.UInt64))
    recording = write_recording(tmp_path / "recording", {"signal": quotes, "target": quotes})

    with pytest.raises(RecordingError, match="a seq occurs in two files"):
        engine.replay_compiled(recording, settings(), tmp_path / "run")


def test_time_that_goes_back_along_the_numbers_is_refused(tmp_path: Path) -> None:
    book = (1_000_000_000, 2_000_000_000, 1, 1)
    recording = write_recording(
        tmp_path / "recording",
        {
            "signal": frame([(START + 5, *book)]).with_columns(seq=pl.lit(1, pl.UInt64)),
            "target": frame([(START, *book)]).with_columns(seq=pl.lit(2, pl.UInt64)),
        },
    )

    with pytest.raises(RecordingError, match="along seq, ts must not go back"):
        engine.replay_compiled(recording, settings(), tmp_path / "run")


@pytest.mark.parametrize(
    ("seq", "ts", "error"),
    [(4, START + 3, "seq 4 occurs in two files|a seq occurs in two files"),
     (5, START + 1, "along seq, ts must not go back")],
)  # fmt: skip
def test_what_follows_a_recorded_stop_must_be_in_order_too(
    tmp_path: Path, seq: int, ts: int, error: str
) -> None:
    book = (1_000_000_000, 2_000_000_000, 1, 1)
    signal = frame([(START, *book), (ts, *book)])
    target = frame([(START, *book), (START + 3, *book)])
    recording = write_recording(
        tmp_path / "recording",
        {"signal": signal.with_columns(seq=pl.Series([1, seq], dtype=pl.UInt64)),
         "target": target.with_columns(seq=pl.Series([2, 4], dtype=pl.UInt64))},
        {"account": [{"seq": 3, "ts": START + 2, "kind": "stop"}]},
    )  # fmt: skip

    for engine_of in (replay, engine.replay_compiled):
        with pytest.raises(RecordingError, match=error):
            engine_of(recording, settings(), tmp_path / "run")


# ---------------------------------------------------------------- the cache


def test_the_compiled_code_is_kept_for_the_next_process(tmp_path: Path) -> None:
    engine.compiled_run()
    recording = write_recording(tmp_path / "recording", random_feeds(1, 20))
    engine.replay_compiled(recording, settings(), tmp_path / "here")
    program = (
        "import sys; from marblemaker.cli import main; "
        f"sys.exit(main(['replay', {str(recording)!r}, '--engine', 'compiled', "
        f"'--out', {str(tmp_path / 'there')!r}]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert "compiling" not in done.stderr
    assert differences(tmp_path / "here", tmp_path / "there") == []


def test_code_of_other_sources_is_not_taken_for_this(monkeypatch: pytest.MonkeyPatch) -> None:
    now = engine._version()
    monkeypatch.setattr(engine, "_SOURCES", ("operators",))

    assert engine._version() != now


# ---------------------------------------------------------------- reading


NUMBERS = st.sampled_from(
    (None, -1, 0, 10**6 - 1, 207_010_000_001, MAX_PX + 10**6, 2**61 + 1, NULL_WORD, NULL_WORD + 1)
)
NAMES = ("ts", "seq", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz")


@trying(max_examples=300, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 6),
    numbered=st.booleans(),
    wrong=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(NAMES), NUMBERS | st.sampled_from((START, 2))),
        max_size=2,
    ),
    decimals=st.sampled_from((None, 3, 5)),
)
def test_the_quick_look_at_quotes_lets_pass_what_the_close_one_does(
    height: int, numbered: bool, wrong: list[tuple[int, str, int | None]], decimals: int | None
) -> None:
    """``wrong``: row, column and value of what is put in the place of something sound."""
    quote = (None, 207_010_000_000, 207_020_000_000, 10**9, 5 * 10**9)
    rows = [
        dict(zip(NAMES, (START + (k + 1) // 2, k + 1, *quote), strict=True)) for k in range(height)
    ]
    for row, name, value in wrong:
        if row < height and not (value is None and name in ("ts", "seq")):
            rows[row][name] = abs(value) if name == "seq" and value is not None else value
    kinds = {name: pl.UInt64() if name == "seq" else pl.Int64() for name in NAMES}
    whole = pl.DataFrame(rows, kinds, orient="row").with_columns(flags=pl.lit(128, pl.UInt8))
    if not numbered:
        whole = whole.drop("seq")
    instrument = None
    if decimals is not None:
        instrument = change(settings().target_instrument, price_decimals=decimals)
    verdicts = []
    for close in (False, True):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as ahead:
            path = Path(folder) / "target.parquet"
            whole.write_parquet(path)
            feed = Feed("target", path, instrument, {}, by_seq=numbered, batch_rows=2, ahead=ahead)
            if close:
                feed._surely_sound = lambda frame, columns: False  # type: ignore[method-assign]
            try:
                while feed.read():
                    pass
                verdicts.append("sound")
            except RecordingError as error:
                verdicts.append(str(error).replace(folder, ""))
    assert verdicts[0] == verdicts[1]


def test_quotes_as_they_should_be_are_not_looked_at_closely(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("looked at closely")

    monkeypatch.setattr(Feed, "_check", refuse)
    replay_compiled(BUNDLED, settings(), tmp_path / "run")
