"""The quotes of the bench: a generated session, and parts of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from msgspec.structs import replace as with_fields

from marblemaker.bundled import BUNDLED_PARAMETERS
from marblemaker.console import Console
from marblemaker.generator import generate
from marblemaker.session_parameters import read_session
from streams.recording import QUOTE_SCHEMA, FrameWriter, read_manifest, write_manifest

__all__ = ["generated", "part_of"]

_FEEDS = ("signal", "target")


def generated(quotes: int, folder: Path, console: Console, *, odd: bool = True) -> Path:
    """Make a session of about so many quotes, with the shape of the bundled one.

    ``odd``: with its books that lack a side, cross or are empty, which no peer knows.
    """
    console.note(f"generating a session of {quotes:,} quotes")
    session = read_session(BUNDLED_PARAMETERS)
    share = session.signal_quotes / (session.signal_quotes + session.target_quotes)
    session = with_fields(
        session, signal_quotes=round(quotes * share), target_quotes=round(quotes * (1 - share))
    )
    generate(session if odd else with_fields(session, oddities=()), folder)
    return folder


def part_of(recording: Path, rows: int, folder: Path) -> Path:
    """Make a recording of ``rows`` neighbouring quotes of another, from a quarter of it on.

    The first ones would not do: the target is quoted before the signal is. Quotes of one instant
    stay together, so there may be a few more.
    """
    folder.mkdir(parents=True)
    ts = np.sort(np.concatenate([pl.read_parquet(_file(recording, f))["ts"] for f in _FEEDS]))
    first = max(min(len(ts) // 4, len(ts) - rows), 0)
    last = min(first + rows, len(ts)) - 1
    manifest = with_fields(read_manifest(recording), files={}, sources={})
    for feed in _FEEDS:
        frame = pl.read_parquet(_file(recording, feed))
        frame = frame.filter(pl.col("ts").is_between(int(ts[first]), int(ts[last])))
        schema = pl.Schema({name: QUOTE_SCHEMA[name] for name in frame.columns})
        writer = FrameWriter(folder, feed, schema)
        writer.append(frame)
        manifest.files[feed] = writer.close()
    write_manifest(folder, manifest)
    return folder


def _file(recording: Path, feed: str) -> Path:
    return recording / f"{feed}.parquet"
