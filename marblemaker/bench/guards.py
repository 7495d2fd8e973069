"""What each guard costs an event."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from marblemaker.bench.sessions import generated
from marblemaker.console import Console
from marblemaker.replay import replay
from marblemaker.settings import load_settings
from marblemaker.versions import versions
from streams.recording import Recording, read_manifest

__all__ = ["bench_guards"]

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
        recording = generated(quotes, Path(folder) / "session", console)
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
