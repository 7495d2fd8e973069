"""How live runs end: by signal, by a crash, by a full disk, by kill -9."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from reactivex import Observable, abc

from marblemaker.cli import main
from marblemaker.live import LiveRun, Mode
from marblemaker.prove import prove
from marblemaker.replay import replay
from marblemaker.sandboxed import Sandbox, sandboxed
from marblemaker.settings import load_settings
from sinks.recorder import read_segments
from streams.recording import read_manifest
from tests.marblemaker.test_live import (
    assert_agrees_with_the_venue,
    assert_replays_to_the_same,
    chosen,
    has_filled,
    has_quoted,
    run_live,
)

ROOT = Path(__file__).parents[2]

# Runs that are dropped where they stand, as kill -9 would, leave their sockets open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def nothing_is_left_for_later_tests() -> Iterator[None]:
    """What a dropped run left open is let go of here, not in whatever test comes next."""
    yield
    gc.collect()


def live(out: Path, *more: str, program: str = "") -> subprocess.Popen[str]:
    arguments = [
        "live", "--sandbox", "--mode", "paper", "--speed", "60", "--out", str(out), "--json",
        "--set", "strategy.half_spread_bps=3", *more,
    ]  # fmt: skip
    code = f"import sys\nfrom marblemaker.cli import main\n{program}\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip


def on_disk(out: Path, feed: str) -> int:
    """How many rows of a feed can be read at this moment."""
    return sum(frame.height for frame in read_segments(out, feed, []))


def wait_for_inputs(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run has connected and a second of both feeds is on disk."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline and process.poll() is None:
        if all(on_disk(out, feed) > 100 for feed in ("signal", "target")):
            return
        time.sleep(0.2)
    raise AssertionError(f"it never connected: {process.communicate()}")


@pytest.mark.parametrize("names", [["SIGINT"], ["SIGTERM"], ["SIGINT", "SIGINT"]])
def test_a_signal_cancels_writes_the_manifest_and_exits_with_130(
    names: Sequence[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = live(out)
    wait_for_inputs(out, process)
    for name in names:
        process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    summary = json.loads(stdout)
    assert summary["why_ended"] == names[0]
    assert summary["left_working"] == []
    manifest = read_manifest(out)
    assert (manifest.mode, manifest.ended) == ("paper", "complete")
    orders = pl.read_parquet(out / "orders.parquet")
    assert not orders.filter(status="OPEN").height
    assert (
        replay(out, load_settings(manifest=manifest), tmp_path / "again")["digest"]
        == (summary["digest"])
    )


def test_a_crash_in_the_graph_cancels_everything_and_exits_with_1(tmp_path: Path) -> None:
    import marblemaker.live as module

    calls = 0

    def failing(parameters: object, **sources: object) -> object:
        from operators.quoting import quoting

        graph = quoting(parameters, **sources)  # type: ignore[arg-type]

        def crash(decision: object) -> object:
            nonlocal calls
            calls += 1
            if calls > 4:
                raise ZeroDivisionError("planted")
            return decision

        from reactivex import operators as ops

        return lambda source: graph(source).pipe(ops.map(crash))

    with pytest.MonkeyPatch.context() as patch, sandboxed(speed=60.0, tier="premium") as sandbox:
        patch.setattr(module, "quoting", failing)
        run, summary = run_live(sandbox, tmp_path / "run", "live", chosen(), 20.0)
        assert run.failed is not None
        assert "planted" in run.failed
        assert sandbox.venue.open_orders(sandbox.account) == []
        assert summary["left_working"] == []
    assert summary["ended"].startswith("failed: the graph failed")


def test_a_crash_in_a_timer_of_the_graph_cancels_everything_too(tmp_path: Path) -> None:
    import marblemaker.live as module
    from operators.quoting import quoting

    def failing(parameters: object, **sources: object) -> object:
        graph = quoting(parameters, **sources)  # type: ignore[arg-type]

        def boom(_: object, __: object = None) -> None:
            raise ZeroDivisionError("planted in a timer")

        def operator(source: Observable[Any]) -> Observable[Any]:
            def subscribe(observer: Any, scheduler: Any = None) -> abc.DisposableBase:
                scheduler.schedule_ns(scheduler.now_ns + 2 * 10**9, boom)
                return graph(source).subscribe(observer, scheduler=scheduler)

            return Observable(subscribe)

        return operator

    with pytest.MonkeyPatch.context() as patch, sandboxed(speed=60.0, tier="premium") as sandbox:
        patch.setattr(module, "quoting", failing)
        run, summary = run_live(sandbox, tmp_path / "run", "live", chosen(), 20.0)
        assert run.failed is not None
        assert "planted in a timer" in run.failed
        assert summary["orders"], "no order was out when it crashed"
        assert sandbox.venue.open_orders(sandbox.account) == []
        assert summary["left_working"] == []


def test_a_trace_that_cannot_be_written_does_not_cost_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import marblemaker.live as module

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "finish_trace", full)
    with sandboxed(speed=60.0) as sandbox:
        run_live(sandbox, tmp_path / "run", "dry", chosen(), 0.5, until=has_quoted)
    assert read_manifest(tmp_path / "run").ended == "complete"
    assert "the trace is not whole" in (tmp_path / "run" / "log.jsonl").read_text()
    certificate = prove(tmp_path / "run")
    assert certificate.verdict == "identical"
    assert "kept no digests" in certificate.notes[0]


def test_a_disk_that_runs_full_stops_the_quoting_and_says_so(tmp_path: Path) -> None:
    # The limit is on the size of each file: the log and the segments stay below it, for a while.
    program = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    )
    with sandboxed(speed=60.0, tier="premium") as sandbox:
        process = connected_to(sandbox, tmp_path / "run", program)
        wait_for_orders(sandbox, process)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "cannot be written" in stderr or "recorder" in stderr
        assert sandbox.venue.open_orders(sandbox.account) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["live", "--sandbox", "--out", str(tmp_path / "file" / "run"), "--for", "1"]
    assert main(arguments) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_that_was_killed_is_salvaged_and_replays(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = live(out)
    wait_for_inputs(out, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert "marble doctor" in prove(out).obstacles[0]
    assert main(["doctor", str(out)]) == 0
    assert "was killed" in prove(out).obstacles[0]
    manifest = read_manifest(out)
    assert manifest.ended.startswith("salvaged")
    assert manifest.files["signal"].rows > 0
    repeated = replay(out, load_settings(manifest=manifest), tmp_path / "again")
    assert repeated["decisions"]["quote"] > 0


def connected_to(sandbox: Sandbox, out: Path, program: str = "") -> subprocess.Popen[str]:
    """`marble live` as a user runs it: keys in the environment, the venue's address in settings."""
    code = f"import sys\nfrom marblemaker.cli import main\n{program}\nsys.exit(main(sys.argv[1:]))"
    e = sandbox.endpoints
    told = [
        f"databento.gateway={e.gateway}", f"lighter.rest_url={e.rest_url}",
        f"lighter.ws_url={e.ws_url}", "session.calendar=24/7", "strategy.half_spread_bps=3",
    ]  # fmt: skip
    arguments = ["live", "--mode", "live", "--live-orders", "--out", str(out), "--json"]
    for setting in told:
        arguments += ["--set", setting]
    secrets = {
        "DATABENTO_API_KEY": e.databento_key,
        "LIGHTER_TESTNET_ACCOUNT_INDEX": str(e.account_index),
        "LIGHTER_TESTNET_API_KEY_INDEX": str(e.api_key_index),
        "LIGHTER_TESTNET_API_SECRET": e.private_key or "",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | secrets,
    )  # fmt: skip


def wait_for_orders(sandbox: Sandbox, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline and process.poll() is None:
        if sandbox.venue.open_orders(sandbox.account):
            return
        time.sleep(0.05)
    raise AssertionError(f"no order came: {process.communicate()}")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_no_order_is_left_at_the_venue_after_a_signal(name: str, tmp_path: Path) -> None:
    with sandboxed(speed=60.0, tier="premium") as sandbox:
        process = connected_to(sandbox, tmp_path / "run")
        wait_for_orders(sandbox, process)
        process.send_signal(getattr(signal, name))
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 130, stderr
        assert sandbox.venue.open_orders(sandbox.account) == []
        assert sandbox.venue.cancel_all_time(sandbox.account) == 0
        summary = json.loads(stdout)
        position = sandbox.venue.position(sandbox.account)
        assert round(float(summary["position"]) * 1e9) == position
    secret = (sandbox.endpoints.private_key or "").removeprefix("0x")
    assert secret not in stdout + stderr


def test_no_order_is_left_at_the_venue_after_kill_9_once_its_switch_is_due(tmp_path: Path) -> None:
    ahead_ns = 0

    def clock() -> int:
        return time.time_ns() + ahead_ns

    with sandboxed(speed=60.0, tier="premium", clock=clock) as sandbox:
        process = connected_to(sandbox, tmp_path / "run")
        wait_for_orders(sandbox, process)
        time.sleep(0.5)
        process.kill()
        process.communicate(timeout=10)
        assert sandbox.venue.cancel_all_time(sandbox.account) > 0
        ahead_ns = 321 * 10**9
        deadline = time.monotonic() + 10.0
        while sandbox.venue.open_orders(sandbox.account) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert sandbox.venue.open_orders(sandbox.account) == []
    assert main(["doctor", str(tmp_path / "run")]) == 0
    manifest = read_manifest(tmp_path / "run")
    assert manifest.ended.startswith("salvaged")


def test_the_consents_for_real_orders_are_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--mode", "live"]) == 2
    assert "--live-orders" in capsys.readouterr().err
    mainnet = ["--set", "lighter.environment=mainnet"]
    assert main(["live", "--mode", "live", "--live-orders", *mainnet]) == 2
    assert "--market NVDA-PERP.LIGHTER" in capsys.readouterr().err
    wrong = ["--market", "BTC-PERP.LIGHTER"]
    assert main(["live", "--mode", "live", "--live-orders", *mainnet, *wrong]) == 2
    assert "the settings say" in capsys.readouterr().err


def test_a_missing_key_is_named_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("DATABENTO_", "LIGHTER_")):
            monkeypatch.delenv(name)
    assert main(["live"]) == 2
    assert "DATABENTO_API_KEY is not set" in capsys.readouterr().err
    monkeypatch.setenv("DATABENTO_API_KEY", "db-canary")
    assert main(["live", "--mode", "live", "--live-orders"]) == 2
    told = capsys.readouterr().err
    assert "LIGHTER_TESTNET_ACCOUNT_INDEX is not set" in told
    assert "canary" not in told


def test_a_second_run_takes_over_the_position_and_replays_to_the_same(tmp_path: Path) -> None:
    with sandboxed(speed=60.0, tier="premium") as sandbox:
        first, summary = run_live(
            sandbox, tmp_path / "one", "live", chosen(), 3.0, until=has_filled
        )
        assert_agrees_with_the_venue(sandbox, first, summary)
        second, summary = run_live(
            sandbox, tmp_path / "two", "live", chosen(), 2.0, until=has_quoted
        )
        assert second.failed is None
        assert summary["left_working"] == []
        assert sandbox.venue.open_orders(sandbox.account) == []
        position = sandbox.venue.position(sandbox.account)
        assert round(float(summary["position"]) * 1e9) == position
    assert_replays_to_the_same(tmp_path / "two", summary["digest"], tmp_path / "again")


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_a_resumed_run_goes_on_where_the_killed_one_stood(mode: Mode, tmp_path: Path) -> None:
    with sandboxed(speed=60.0, tier="premium") as sandbox:

        async def drop() -> int:
            run = LiveRun(chosen(), tmp_path / "one", mode=mode, endpoints=sandbox.endpoints)
            task = asyncio.ensure_future(run.run(for_secs=60.0))
            while run.decisions < 8 and not task.done():
                await asyncio.sleep(0.05)
            for pending in asyncio.all_tasks() - {asyncio.current_task()}:
                pending.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert run._recorder is not None
            run._recorder.abandon()
            return run.decisions

        decided = asyncio.run(drop())
        assert main(["doctor", str(tmp_path / "one")]) == 0
        run, summary = run_live(
            sandbox, tmp_path / "two", mode, chosen(), 3.0,
            until=lambda run: run.decisions > decided + 4, resume=tmp_path / "one",
        )  # fmt: skip
        assert run.failed is None, run.failed
        assert summary["left_working"] == []
        if mode == "live":
            assert sandbox.venue.open_orders(sandbox.account) == []
            position = sandbox.venue.position(sandbox.account)
            assert round(float(str(summary["position"])) * 1e9) == position
    killed = replay(
        tmp_path / "one", load_settings(manifest=read_manifest(tmp_path / "one")), tmp_path / "r"
    )
    before = pl.read_parquet(tmp_path / "r" / "decisions.parquet")
    after = pl.read_parquet(tmp_path / "two" / "decisions.parquet")
    assert killed["decisions"]["quote"] > 1
    assert after.height > before.height
    assert after.head(before.height).equals(before)
    # The baseline is the one of the first run's first signal.
    assert after["baseline"].drop_nulls().n_unique() == 1
    assert_replays_to_the_same(tmp_path / "two", str(summary["digest"]), tmp_path / "again")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["live", "--sandbox", "--speed", "0"], "--speed must be a number above 0"),
        (["live", "--sandbox", "--for", "-1"], "--for must be a number of seconds above 0"),
        (["sandbox", "--for", "0"], "--for must be a number of seconds above 0"),
    ],
)
def test_impossible_speeds_and_times_are_wrong_use(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert what in capsys.readouterr().err


def test_a_feed_that_cannot_be_asked_for_is_told_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    wrong = ["--set", "signal.instrument=ALL_SYMBOLS.EQUS", "--set", "guards.max_basis_bps=off"]
    assert main(["live", "--sandbox", "--out", str(out), "--for", "1", *wrong]) == 1
    assert "ALL_SYMBOLS" in capsys.readouterr().err
    assert not out.exists()
