"""Both engines on one recording, and everything that must be equal of their run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from marblemaker.compiled.engine import replay_compiled
from marblemaker.replay import replay
from marblemaker.settings import Settings

SPEED = ("seconds", "seconds_in_graph", "events_per_second")
"""What ``summary.json`` says of the speed alone."""


def both(
    recording: Path, settings: Settings, folder: Path, *, batch_rows: int = 262_144, **options: Any
) -> tuple[Path, Path]:
    """Replay with both engines; return the run folders, the Rx engine's first."""
    rx, compiled = folder / "rx", folder / "compiled"
    replay(recording, settings, rx, overwrite=True, **options)
    replay_compiled(recording, settings, compiled, overwrite=True, batch_rows=batch_rows, **options)
    return rx, compiled


def differences(rx: Path, compiled: Path) -> list[str]:
    """What is not equal of two runs: files, columns, digests, summaries; empty when all is."""
    files = [sorted(str(p.relative_to(run)) for p in run.rglob("*.*")) for run in (rx, compiled)]
    found = [] if files[0] == files[1] else [f"files: {files[0]} and {files[1]}"]
    for name in files[0]:
        if name.endswith(".parquet") and name in files[1]:
            rows = _rows(name, pl.read_parquet(rx / name), pl.read_parquet(compiled / name))
            if not rows and (rx / name).read_bytes() != (compiled / name).read_bytes():
                rows = [f"{name}: the same rows in other bytes"]
            found += rows
    found += _documents("summary.json", rx, compiled, leave_out=SPEED)
    found += _documents("manifest.json", rx, compiled)
    if (rx / "trace/proof.json").exists():
        found += _documents("trace/proof.json", rx, compiled)
    return found


def _rows(name: str, rx: pl.DataFrame, compiled: pl.DataFrame) -> list[str]:
    if rx.schema != compiled.schema:
        return [f"{name}: {rx.schema} and {compiled.schema}"]
    found = [] if rx.height == compiled.height else [f"{name}: {rx.height}, {compiled.height} rows"]
    height = min(rx.height, compiled.height)
    for column in rx.columns:
        one, other = rx[column].head(height), compiled[column].head(height)
        if one.dtype == pl.Float64:
            # By their bits: 0.0 is not -0.0.
            one, other = one.reinterpret(signed=True), other.reinterpret(signed=True)
        unequal = one.ne_missing(other)
        if unequal.any():
            row = unequal.arg_max()
            assert row is not None
            found.append(
                f"{name}: {column}, row {row}: {rx[column][row]!r} and {compiled[column][row]!r} "
                f"({unequal.sum()} rows differ)"
            )
    return found


def _documents(name: str, rx: Path, compiled: Path, leave_out: tuple[str, ...] = ()) -> list[str]:
    one, other = (json.loads((run / name).read_text()) for run in (rx, compiled))
    assert isinstance(one, Mapping)
    keys = [key for key in {**one, **other} if key not in leave_out]
    return [
        f"{name}: {key}: {one.get(key)!r} and {other.get(key)!r}"
        for key in keys
        if one.get(key) != other.get(key)
    ]
