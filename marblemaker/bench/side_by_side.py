"""The bench: every peer in a process of its own, by turns, on the same quotes."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from marblemaker.bench.job import NotHereError, Ran
from marblemaker.bench.listing import EXTRA, Peer, chosen
from marblemaker.bench.runs import IN_ALL, LOOP, PEAK, PROCESS, child_run, replayed
from marblemaker.bench.sessions import generated, part_of
from marblemaker.bench.table import table
from marblemaker.console import Console
from marblemaker.settings import SettingsError, load_settings
from marblemaker.versions import versions
from streams.recording import read_manifest

__all__ = ["bench", "shared_settings"]

_SHARED: Final = (
    "half_spread_bps", "inventory_skew_factor", "signal_skew_factor", "requote_threshold_bps",
    "trade_size", "max_position",
)  # fmt: skip
"""Settings of the strategy that every peer knows."""
_WARM_UP_QUOTES: Final = 2_000
_MAY_DIFFER: Final = 0.01
"""Share by which requotes may differ from ours: the order of quotes of one instant is a choice."""


class _Row(Struct, kw_only=True):
    """What is measured of one peer."""

    peer: Peer
    recording: Path
    quotes: int
    folder: Path
    """What the peer keeps: files of its own kind."""
    why_not: str = ""
    """Why nothing is measured, and the way out."""
    runs: list[Ran] = field(default_factory=list)

    def rates(self, step: str) -> list[float]:
        """Quotes per second of a step, by run; empty where the peer has no such figure."""
        if step == LOOP and not self.peer.loop:
            return []
        return [self.quotes / run.seconds[step] for run in self.runs]


def bench(
    quotes: int,
    runs: int,
    console: Console,
    *,
    peers: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    whole: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Measure the peers on a generated session of about ``quotes`` quotes; give figures and table.

    The session has no odd books and the preset is ``tutorial``, so that all have the same job.
    ``overrides`` are settings, see ``shared_settings``. Unless ``whole``, slow peers are given a
    part of the session. Under ``problems`` is told what makes a row not comparable.

    Errors: SettingsError for a peer or a setting that is not known.
    """
    taking_part, settings = chosen(peers), shared_settings(overrides)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="marble-bench-") as name:
        folder = Path(name)
        session = generated(quotes, folder / "session", console, odd=False)
        few = part_of(session, _WARM_UP_QUOTES, folder / "few")
        rows, ours = [], {}
        # The compiled engine is the quicker one, unless it must be compiled for this alone.
        compiles = any(peer.name.startswith("compiled") for peer in taking_part)
        reference = ("--engine", "compiled" if compiles else "rx", "--no-trace")
        for peer in taking_part:
            recording = _recording_for(peer, session, folder, whole=whole)
            kept = folder / "kept" / peer.name
            row = _Row(peer=peer, recording=recording, quotes=_count(recording), folder=kept)
            rows.append(row)
            console.note(f"warming up: {peer.title}")
            _warm_up(row, few, settings)
            if peer.quotes and recording.name not in ours and not row.why_not:
                ours[recording.name] = replayed(recording, folder / "run", settings, reference)
        for number in range(runs):
            for row in rows:
                _measure(row, folder, settings)
            console.note(f"run {number + 1} of {runs}: {_progress(rows)}")
        compared = "strategy.preset=tutorial" in settings
        document = {
            "quotes": _count(session),
            "runs": runs,
            "settings": settings,
            "peers": {
                row.peer.name: _document(row, ours.get(row.recording.name), compared=compared)
                for row in rows
            },
            "ratios": _ratios(rows),
            "problems": [
                f"{row.peer.name}: {problem}"
                for row in rows
                for problem in _problems(row, ours.get(row.recording.name), compared=compared)
            ],
            "machine": _machine(),
            "load_at_start": round(load, 2),
            "versions": versions("numba"),
        }
    return document, table(document)


def shared_settings(overrides: Sequence[str]) -> list[str]:
    """Settings of the bench: the preset ``tutorial``, with what is set over it.

    Errors: SettingsError for a setting that a peer does not know (the preset is ours alone), or a
        value that makes no sense.
    """
    settings = {"strategy.preset": "tutorial"}
    for text in overrides:
        key, _, value = text.partition("=")
        section, _, name = key.strip().partition(".")
        if section != "strategy" or name not in (*_SHARED, "preset"):
            raise SettingsError(
                f"--set {text}: the bench sets what every peer knows: "
                f"{', '.join(f'strategy.{known}' for known in _SHARED)}, and strategy.preset of "
                f"our own rows"
            )
        settings[key.strip()] = value
    texts = [f"{key}={value}" for key, value in settings.items()]
    load_settings(overrides=texts)
    return texts


def _recording_for(peer: Peer, session: Path, folder: Path, *, whole: bool) -> Path:
    if whole or peer.slice is None or _count(session) <= peer.slice:
        return session
    part = folder / f"part-{peer.slice}"
    return part if part.exists() else part_of(session, peer.slice, part)


def _count(recording: Path) -> int:
    return sum(entry.rows for entry in read_manifest(recording).files.values())


# ---------------------------------------------------------------- one run


def _warm_up(row: _Row, few: Path, settings: Sequence[str]) -> None:
    """Run a peer on a few quotes, so that what it compiles and reads is at hand; then prepare it.

    What cannot run here is found out here.
    """
    if not row.peer.is_here:
        row.why_not = f"not installed: {EXTRA}"
        return
    try:
        kept = row.folder.with_name(f"{row.peer.name}-few")
        first = _Row(peer=row.peer, recording=few, quotes=_count(few), folder=kept)
        if row.peer.prepares:
            for one in (first, row):
                child_run(row.peer.module, "prepare", one.recording, one.folder, settings)
        _once(first, kept / "run", settings)
    except NotHereError as error:
        row.why_not = str(error)
    except OSError as error:
        row.why_not = f"failed: {error}"


def _measure(row: _Row, folder: Path, settings: Sequence[str]) -> None:
    if row.why_not:
        return
    try:
        row.runs.append(_once(row, folder / "run", settings))
    except OSError as error:
        row.why_not = f"failed: {error}"
        row.runs.clear()


def _once(row: _Row, out: Path, settings: Sequence[str]) -> Ran:
    if row.peer.replay is not None:
        return replayed(row.recording, out, settings, row.peer.replay)
    return child_run(row.peer.module, "run", row.recording, row.folder, settings)


# ---------------------------------------------------------------- what comes of it


def _problems(row: _Row, ours: Ran | None, *, compared: bool) -> list[str]:
    """What makes a row worth nothing, or not comparable."""
    if row.why_not.startswith("failed"):
        return [row.why_not]
    if not row.runs:
        return []
    found, first = [], row.runs[0]
    if first.quotes != row.quotes:
        found.append(f"went through {first.quotes:,} of {row.quotes:,} quotes")
    if row.peer.quotes and not first.orders:
        found.append("made no orders: it did not do the job")
    counts = {(run.quotes, run.requotes, run.orders, run.fills) for run in row.runs}
    if len(counts) > 1:
        found.append(f"its runs do not agree: {sorted(map(str, counts))}")
    if compared and ours is not None and row.peer.quotes:
        theirs, other = first.requotes, ours.requotes
        what = "requotes"
        if theirs is None:
            theirs, other, what = first.orders, ours.orders, "orders"
        assert theirs is not None
        assert other is not None
        if abs(theirs - other) > _MAY_DIFFER * other:
            found.append(f"{theirs:,} {what} where our engine has {other:,} on the same quotes")
    return found


def _document(row: _Row, ours: Ran | None, *, compared: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "title": row.peer.title,
        "less": row.peer.less,
        "quotes": row.quotes,
        "part": row.recording.name != "session",
        "not_measured": row.why_not or None,
    }
    if not row.runs:
        return document
    first = row.runs[0]
    steps = {"loop": LOOP, "files_to_results": IN_ALL, "whole_process": PROCESS}
    return document | {
        "version": first.version,
        "events_per_second": {
            name: _spread(row.rates(step)) if row.rates(step) else None
            for name, step in steps.items()
        },
        "loop_is": row.peer.loop or None,
        "seconds": {
            step: round(statistics.median(run.seconds[step] for run in row.runs), 4)
            for step in first.seconds
        },
        "peak_memory_mb": _spread([run.told[PEAK] for run in row.runs]),
        "requotes": first.requotes,
        "orders": first.orders,
        "fills": first.fills,
        "ours_on_the_same_quotes": (
            {"requotes": ours.requotes, "orders": ours.orders, "fills": ours.fills}
            if compared and ours is not None
            else None
        ),
        "told": {name: value for name, value in first.told.items() if name != PEAK},
    }


def _ratios(rows: Sequence[_Row]) -> dict[str, float]:
    """How many times a row of ours is as fast as a peer's, by medians."""
    by_name = {row.peer.name: row for row in rows if row.runs}
    found = {}
    for one, other, step, words in (
        ("compiled", "nautilus-native", IN_ALL, "files to results"),
        ("compiled-untraced", "nautilus-native", IN_ALL, "files to results"),
        ("compiled-loop", "nautilus-native", IN_ALL, "files to results"),
        ("compiled", "nautilus-native", PROCESS, "whole process"),
        ("compiled-loop", "hftbacktest", LOOP, "loop"),
        ("rx", "bare-rx", LOOP, "loop"),
    ):
        if one in by_name and other in by_name:
            mine, theirs = (statistics.median(by_name[name].rates(step)) for name in (one, other))
            found[f"{one} to {other}, {words}"] = round(mine / theirs, 3)
    return found


def _spread(values: Sequence[float]) -> dict[str, int]:
    return {
        "minimum": round(min(values)),
        "median": round(statistics.median(values)),
        "maximum": round(max(values)),
    }


def _progress(rows: Sequence[_Row]) -> str:
    return ", ".join(f"{row.peer.name} {row.rates(IN_ALL)[-1]:,.0f}/s" for row in rows if row.runs)


def _machine() -> str:
    found = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return found
    names = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    return f"{found}, {names[0]}" if names else found
