"""Bench: how fast a replay is, beside bare RxPY on the same quotes, in one run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import reactivex as rx
from msgspec.structs import replace as with_fields
from reactivex import Subject

from marblemaker.bundled import BUNDLED_PARAMETERS
from marblemaker.console import Console
from marblemaker.generator import generate
from marblemaker.replay import replay
from marblemaker.session_parameters import read_session
from marblemaker.settings import load_settings
from marblemaker.versions import versions
from streams.events import Quote
from streams.pump import SIGNAL
from streams.recording import Recording, read_manifest

__all__ = ["bench", "bench_guards"]


def bench(quotes: int, runs: int, console: Console) -> tuple[dict[str, Any], list[str]]:
    """Measure on a generated session of about ``quotes`` quotes; give the figures and a table.

    ``replay``: the whole command in a process of its own, Parquet in to run folder out.
    ``untraced``: the same without a trace, so without outputs and digests of operators. ``bare``:
    two RxPY Subjects, ``combine_latest`` and an empty observer, in this process, reading excluded.
    """
    with tempfile.TemporaryDirectory(prefix="marble-bench-") as folder:
        recording = _generated(quotes, Path(folder), console)
        rows = Recording.open(recording).rows
        figures: dict[str, list[float]] = {"replay": [], "untraced": [], "bare": []}
        peaks: list[float] = []
        for number in range(runs):
            seconds, peak = _replay_command(recording, Path(folder) / f"run-{number}")
            figures["replay"].append(rows / seconds)
            peaks.append(peak)
            seconds, _ = _replay_command(recording, Path(folder) / "untraced", "--no-trace")
            figures["untraced"].append(rows / seconds)
            shutil.rmtree(Path(folder) / "untraced")
            figures["bare"].append(rows / _bare_rx(recording))
            console.note(
                f"run {number + 1} of {runs}: replay {figures['replay'][-1]:,.0f} events/s, "
                f"bare RxPY {figures['bare'][-1]:,.0f}"
            )
    median = {name: statistics.median(values) for name, values in figures.items()}
    ratio = median["replay"] / median["bare"]
    trace = 1.0 - median["replay"] / median["untraced"]
    result = {
        "quotes": rows,
        "runs": runs,
        "events_per_second": {name: _spread(values) for name, values in figures.items()},
        "replay_to_bare": round(ratio, 3),
        "cost_of_the_trace": round(trace, 3),
        "peak_memory_mb": _spread(peaks),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": versions(),
    }
    lines = [
        f"{rows:,} quotes, {runs} runs, {result['machine']}, "
        + ", ".join(f"{name} {version}" for name, version in versions().items()),
        f"{'':34}{'minimum':>12}{'median':>12}{'maximum':>12}",
        _line("replay, Parquet in, run folder out", figures["replay"]),
        _line("the same without a trace", figures["untraced"]),
        _line("bare RxPY, no work, no reading", figures["bare"]),
        _line("peak memory of the replay, MB", peaks),
        f"replay to bare RxPY: {ratio:.2f}; the trace takes {trace:.1%} of the speed",
    ]
    return result, lines


def _generated(quotes: int, folder: Path, console: Console) -> Path:
    """A session of about so many quotes, with the shape of the bundled one."""
    recording = folder / "session"
    console.note(f"generating a session of {quotes:,} quotes")
    session = read_session(BUNDLED_PARAMETERS)
    share = session.signal_quotes / (session.signal_quotes + session.target_quotes)
    session = with_fields(
        session, signal_quotes=round(quotes * share), target_quotes=round(quotes * (1 - share))
    )
    generate(session, recording)
    return recording


_OFF: dict[str, tuple[str, ...]] = {
    "signal and target age": ("guards.max_signal_age_secs", "guards.max_target_age_secs"),
    "event time": ("guards.max_ahead_secs", "guards.max_behind_secs"),
    "frozen": ("guards.frozen_after_secs",),
    "collar": ("guards.collar_bps",),
    "split": ("guards.split_break_secs",),
    "basis": ("guards.max_basis_bps",),
    "session": ("session.calendar",),
    "risk": ("risk.max_orders", "risk.max_rejects_per_minute"),
    "risk with money": (),
    "budget": (),
}
"""What switches each guard off; the last two are off by default."""
_ON: dict[str, tuple[str, ...]] = {
    "risk with money": ("risk.max_notional=1000", "risk.max_loss=1000"),
    "budget": ("venue.limits=tier", "venue.tier=premium"),
}


def bench_guards(quotes: int, runs: int, console: Console) -> tuple[dict[str, Any], list[str]]:
    """Measure what each guard costs an event: the graph with it alone, and without any.

    Runs alternate, in this process; the least time of each counts. Position limit, kill switch and
    the books' own soundness cannot be switched off and are in every figure.
    """
    without = [
        f"{key}={'24/7' if key == 'session.calendar' else 'off'}"
        for keys in _OFF.values()
        for key in keys
    ]
    chosen = {"none of them": without}
    for guard, keys in _OFF.items():
        own = [text for text in without if text.split("=")[0] not in keys]
        chosen[guard] = [*own, *_ON.get(guard, ())]
    chosen["all of them"] = [text for texts in _ON.values() for text in texts]
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="marble-bench-") as folder:
        recording = _generated(quotes, Path(folder), console)
        manifest = read_manifest(recording)
        rows = Recording.open(recording).rows
        for number in range(runs):
            for name, overrides in chosen.items():
                settings = load_settings(overrides=overrides, manifest=manifest)
                summary = replay(recording, settings, Path(folder) / "run", overwrite=True)
                seconds[name].append(summary["seconds_in_graph"])
            console.note(f"run {number + 1} of {runs}")
    least = {name: min(values) for name, values in seconds.items()}
    ns = {name: (value - least["none of them"]) / rows * 1e9 for name, value in least.items()}
    result = {
        "quotes": rows,
        "runs": runs,
        "events_per_second": {name: round(rows / value) for name, value in least.items()},
        "ns_per_event": {name: round(value) for name, value in ns.items()},
        "versions": versions(),
    }
    lines = [f"{rows:,} quotes, best of {runs} runs; {'':10}ns an event{'events/s':>14}"]
    lines += [
        f"  {name:44}{ns[name]:>12,.0f}{rows / value:>14,.0f}" for name, value in least.items()
    ]
    return result, lines


def _spread(values: list[float]) -> dict[str, int]:
    return {
        "minimum": round(min(values)),
        "median": round(statistics.median(values)),
        "maximum": round(max(values)),
    }


def _line(title: str, values: list[float]) -> str:
    spread = _spread(values)
    return f"{title:34}" + "".join(f"{spread[name]:>12,}" for name in spread)


def _replay_command(recording: Path, out: Path, *more: str) -> tuple[float, float]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "marblemaker.cli", "replay", str(recording), "--out", str(out),
         "--json", *more],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise OSError(f"the replay ended with code {process.returncode}")
    json.loads(output)
    # ru_maxrss is KiB on Linux, bytes on macOS.
    return seconds, usage.ru_maxrss / (1_000 if sys.platform != "darwin" else 1_000_000)


def _bare_rx(recording: Path) -> float:
    signal: Subject[Quote] = Subject()
    target: Subject[Quote] = Subject()
    rx.combine_latest(signal, target).subscribe(lambda pair: None)
    seconds = 0.0
    instrument = load_settings().target_instrument
    for batch, _ in Recording.open(recording).inputs(instrument, recorded=False):
        quotes = [
            (kind, Quote(0, ts, None, bid_px, ask_px, None, None, 0))
            for kind, ts, bid_px, ask_px in zip(
                batch.kind, batch.ts, batch.bid_px, batch.ask_px, strict=True
            )
        ]
        started = time.perf_counter()
        for kind, quote in quotes:
            (signal if kind == SIGNAL else target).on_next(quote)
        seconds += time.perf_counter() - started
    return seconds
