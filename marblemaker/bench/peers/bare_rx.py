"""Bare RxPY: two Subjects, its ``combine_latest`` and an empty observer. No work at all."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import reactivex as rx
from reactivex import Subject

from marblemaker.bench.job import Job, Ran
from marblemaker.settings import Settings
from streams.events import Quote
from streams.pump import SIGNAL
from streams.recording import Recording

__all__ = ["run"]


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Push every quote through; reading, and making the events, is not in ``loop``."""
    signal: Subject[Quote] = Subject()
    target: Subject[Quote] = Subject()
    rx.combine_latest(signal, target).subscribe(lambda pair: None)
    ran = Ran(version=version("reactivex"))
    with ran.timed("in_all"):
        for batch, _ in Recording.open(recording).inputs(job.target, recorded=False):
            quotes = [
                (kind, Quote(0, ts, None, bid_px, ask_px, None, None, 0))
                for kind, ts, bid_px, ask_px in zip(
                    batch.kind, batch.ts, batch.bid_px, batch.ask_px, strict=True
                )
            ]
            ran.quotes += len(quotes)
            with ran.timed("loop"):
                for kind, quote in quotes:
                    (signal if kind == SIGNAL else target).on_next(quote)
    return ran
