"""The live pipeline end to end over real sockets: recorded, stopped, replayed to the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from msgspec.structs import replace

from marblemaker.bisect import bisect
from marblemaker.live import LiveRun, Mode
from marblemaker.prove import prove
from marblemaker.replay import replay
from marblemaker.sandboxed import Sandbox, sandboxed
from marblemaker.settings import Settings, load_settings
from sandbox.faults import Faults
from streams.recording import read_manifest

# At sixtyfold speed an hour's rejects come within a minute: that is no storm.
QUICK = (
    "session.calendar=24/7", "strategy.half_spread_bps=3", "strategy.requote_threshold_bps=2",
    "orders.in_flight_timeout_secs=1.5", "orders.stop_timeout_secs=6",
    "risk.max_rejects_per_minute=10000",
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def chosen(*overrides: str) -> Settings:
    return load_settings(overrides=[*QUICK, *overrides])


Enough = Callable[[LiveRun], bool]


def run_live(
    sandbox: Sandbox,
    out: Path,
    mode: Mode,
    settings: Settings,
    secs: float,
    *,
    until: Enough = lambda _: True,
    within: float = 30.0,
    resume: Path | None = None,
) -> tuple[LiveRun, dict[str, Any]]:
    """Run for ``secs`` of the wall, and on until it has come as far as a test needs it to.

    What a run reaches in some seconds depends on the machine and on what else runs there; that it
    gets there ``within`` half a minute more does not.
    """

    async def main() -> tuple[LiveRun, dict[str, Any]]:
        run = LiveRun(settings, out, mode=mode, endpoints=sandbox.endpoints, resume=resume)

        async def stop_when_done() -> None:
            await asyncio.sleep(secs)
            while not until(run):
                await asyncio.sleep(0.1)
            run.stop("time is over")

        stopping = asyncio.create_task(stop_when_done())
        try:
            return run, await run.run(for_secs=secs + within)
        finally:
            stopping.cancel()

    return asyncio.run(main())


def inputs_of(run: LiveRun) -> int:
    """How many inputs have come; none before the run has connected."""
    return run._boundary.inputs if hasattr(run, "_boundary") else 0


def has_quoted(run: LiveRun) -> bool:
    """Whether both feeds have come and several decisions were made from them."""
    return run.decisions > 8 and inputs_of(run) > 400


def has_filled(run: LiveRun) -> bool:
    """Whether something of ours was filled."""
    return has_quoted(run) and run._journal is not None and run._journal.ledger.fills.total() > 0


def assert_replays_to_the_same(out: Path, digest: str, again: Path) -> None:
    manifest = read_manifest(out)
    settings = load_settings(manifest=manifest)
    repeated = replay(out, settings, again)
    assert repeated["venue"] == "recorded"
    assert repeated["digest"] == digest
    for name in ("decisions", "orders", "fills"):
        live, replayed = (pl.read_parquet(f / f"{name}.parquet") for f in (out, again))
        assert live.equals(replayed), name
    assert bisect(out, again) is None


def assert_agrees_with_the_venue(sandbox: Sandbox, run: LiveRun, summary: dict[str, Any]) -> None:
    assert run.failed is None, run.failed
    assert summary["left_working"] == []
    assert sandbox.venue.open_orders(sandbox.account) == []
    position = sandbox.venue.position(sandbox.account)
    assert round(float(summary["position"]) * 1e9) == position
    told = {row["trade_id"] for row in sandbox.venue.fills(sandbox.account)}
    assert summary["fills"] == len(told)


@pytest.mark.parametrize("mode", ["dry", "paper"])
def test_a_run_without_orders_is_recorded_and_replays_to_the_same(
    mode: Mode, tmp_path: Path
) -> None:
    with sandboxed(speed=60.0) as sandbox:
        enough = has_filled if mode == "paper" else has_quoted
        run, summary = run_live(sandbox, tmp_path / "run", mode, chosen(), 2.0, until=enough)
    assert run.failed is None
    assert summary["decisions"]["quote"] > 1
    assert summary["inputs"]["signal"] > 100
    assert summary["inputs"]["target"] > 100
    assert (summary["fills"] > 0) == (mode == "paper")
    assert sandbox.venue.orders(sandbox.account) == []
    assert_replays_to_the_same(tmp_path / "run", summary["digest"], tmp_path / "again")


def test_a_run_with_orders_fills_agrees_with_the_venue_and_replays_to_the_same(
    tmp_path: Path,
) -> None:
    with sandboxed(speed=60.0, tier="premium") as sandbox:
        run, summary = run_live(sandbox, tmp_path / "run", "live", chosen(), 4.0, until=has_filled)
        assert_agrees_with_the_venue(sandbox, run, summary)
        assert summary["fills"] > 0
        assert sandbox.venue.cancel_all_time(sandbox.account) == 0
    assert_replays_to_the_same(tmp_path / "run", summary["digest"], tmp_path / "again")
    assert prove(tmp_path / "run").verdict == "identical"
    assert read_manifest(tmp_path / "run").mode == "live"
    secrets = (sandbox.endpoints.private_key or "", sandbox.endpoints.databento_key)
    for path in (tmp_path / "run").rglob("*"):
        for secret in secrets:
            assert not path.is_file() or secret.removeprefix("0x").encode() not in path.read_bytes()


FAULTS = (
    "drop", "rst", "stall", "delay", "duplicate", "reorder", "malformed", "gap", "http_429",
    "http_5xx", "lost_ack", "late_fill", "nonce_rejected", "shutdown", "session_restart",
    "refuse", "http_405", "quota_spent", "token_expiry", "slow_reader",
)  # fmt: skip


# Met by REST calls, which a run of a few seconds makes at its start and when it stops.
AT_THE_STOP = {"http_405", "http_429", "http_5xx", "quota_spent", "token_expiry"}


def has_happened(kind: Any, servers: tuple[Any, ...], _: LiveRun) -> bool:
    return kind in AT_THE_STOP or any(server.faults.happened.get(kind, 0) for server in servers)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_run_survives_each_fault_agrees_with_the_venue_and_replays(
    kind: Any, tmp_path: Path
) -> None:
    # Two of each, in the two seconds after the run has found its feet. Whether anything of ours is
    # filled or acknowledged just then is up to the market: if not, another run is tried.
    drawn = Faults.random(FAULTS.index(kind), [kind], 2.0, 2).faults
    for attempt in range(3):
        faults = Faults([replace(fault, at=(fault.at or 0.0) + 1.5) for fault in drawn])
        with sandboxed(speed=60.0, tier="premium", faults=faults) as sandbox:
            servers = (sandbox.gateway, sandbox.venue)
            out = tmp_path / f"run{attempt}"
            run, summary = run_live(
                sandbox, out, "live", chosen(), 4.0, within=12.0,
                until=partial(has_happened, kind, servers),
            )  # fmt: skip
            assert_agrees_with_the_venue(sandbox, run, summary)
        assert_replays_to_the_same(out, summary["digest"], tmp_path / f"again{attempt}")
        if any(server.faults.happened.get(kind, 0) for server in servers):
            return
    raise AssertionError("the fault never came")


def test_the_log_has_the_graphs_time_and_the_walls(tmp_path: Path) -> None:
    with sandboxed(speed=60.0) as sandbox:
        run_live(
            sandbox, tmp_path / "run", "record", chosen(), 0.5,
            until=lambda run: inputs_of(run) > 50,
        )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"at", "wall", "level", "from", "text"} <= set(lines[0])
    assert any("connect" in line["text"] for line in lines)
    manifest = read_manifest(tmp_path / "run")
    assert manifest.mode == "record"
    assert manifest.files["signal"].rows > 0


def test_a_size_that_was_not_set_is_raised_to_what_the_market_asks_for() -> None:
    from marblemaker.live import _with_market
    from marblemaker.settings import SettingsError
    from sinks.lighter_rest import MarketDetails

    # 10 of quote at a price of 100 is 0.1, and a twentieth more is 0.105.
    market = MarketDetails(
        market_id=110, symbol="NVDA", market_type="perp", status="active", price_decimals=3,
        size_decimals=3, min_base_amount=50_000_000, min_quote_amount=10 * 10**9,
        last_trade_px=100 * 10**9,
    )  # fmt: skip
    assert _with_market(chosen(), market).trade_size == 105_000_000
    assert _with_market(chosen("strategy.trade_size=0.2"), market).trade_size == 200_000_000
    with pytest.raises(SettingsError, match=r"of at least 0\.105"):
        _with_market(chosen("strategy.trade_size=0.05"), market)
    with pytest.raises(SettingsError, match=r"target\.price_decimals is 2"):
        _with_market(chosen("target.price_decimals=2", "target.size_decimals=3"), market)
