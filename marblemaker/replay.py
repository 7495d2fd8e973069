"""Replay: a recording through the graph, into a run folder."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import msgspec
import polars as pl
from reactivex import Observer

from marblemaker.calendar import opens_ns
from marblemaker.markouts import markouts
from marblemaker.settings import Settings, instruments_of
from marblemaker.versions import versions
from operators.quoting import Parameters, quoting
from operators.residual import (
    Baseline,
    ewma_baseline,
    first_baseline,
    session_baseline,
    set_baseline,
)
from sinks.journal import Journal
from sinks.order_sink import OrderSink
from sinks.simulated import SilentVenue, SimulatedVenue
from streams.clock import SIGNAL, TARGET, Clock, Pump, no_thread_timers
from streams.events import AccountEvent
from streams.instrument import UNIT, format_units
from streams.recording import (
    BATCH_ROWS,
    QUOTE_SCHEMA,
    FileEntry,
    FrameWriter,
    Manifest,
    Recording,
    RecordingError,
    read_manifest,
    write_manifest,
)

__all__ = ["Progress", "ReplayError", "new_folder", "parameters_of", "replay"]


class ReplayError(RuntimeError):
    """The graph failed during a run."""


class Progress(Protocol):
    """Told now and then how far a run has come."""

    def __call__(self, done: int, total: int, ts: int) -> None:
        """``done`` of ``total`` inputs; ``ts`` is the graph's present, ns."""


def parameters_of(settings: Settings, baseline: Baseline) -> Parameters:
    """Turn settings into what the graph is built from."""
    s = settings.strategy
    return Parameters(
        instrument=settings.target_instrument,
        preset=s.preset,
        trade_size=settings.trade_size,
        max_position=settings.max_position,
        half_spread_bps=s.half_spread_bps,
        inventory_skew_factor=s.inventory_skew_factor,
        signal_skew_factor=s.signal_skew_factor,
        requote_threshold_bps=s.requote_threshold_bps,
        baseline=baseline,
        min_interval_ns=round(s.min_interval_ms * 10**6),
        on_cancel_resubmit=s.on_cancel_resubmit,
    )


def _baseline(settings: Settings, manifest: Manifest) -> Baseline:
    kind = settings.strategy.signal_baseline
    if not isinstance(kind, str):
        return set_baseline(kind)
    if kind == "ewma":
        return ewma_baseline(round(settings.strategy.baseline_half_life_secs * 10**9))
    if kind == "session":
        assert manifest.first_ts is not None
        assert manifest.last_ts is not None
        return session_baseline(opens_ns(manifest.first_ts, manifest.last_ts))
    return first_baseline()


@contextmanager
def new_folder(out: Path, *, overwrite: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a folder to fill that becomes ``out`` if all goes well, and is gone if not.

    Errors: RecordingError if ``out`` exists and ``overwrite(out)`` is false, or cannot be written.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or overwrite(out))):
        raise RecordingError(
            f"{out} exists already; choose another folder, or replace a replay that is there with "
            f"--overwrite (recordings of other kinds are never replaced)"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise RecordingError(
            f"{out} cannot be written: {error.strerror or error}; choose another folder with --out"
        ) from None
    before = partial.with_suffix(".before")
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            os.replace(out, before)
        try:
            os.replace(partial, out)
        except OSError:
            if before.exists():
                os.replace(before, out)
            raise
    except OSError as error:
        raise RecordingError(
            f"{out} cannot be written: {error.strerror or error}; make room, or choose another "
            f"folder with --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _is_replay(folder: Path) -> bool:
    try:
        return read_manifest(folder).mode == "replay"
    except RecordingError:
        return False


def replay(
    source: Path,
    settings: Settings,
    out: Path,
    *,
    venue: Literal["recorded", "simulated"] | None = None,
    overwrite: bool = False,
    batch_rows: int = BATCH_ROWS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a recording through the graph and write a run folder; return its summary.

    ``venue``: ``recorded`` takes the answers in the recording as inputs, ``simulated`` asks the
    simulated venue; by default recorded if there are answers. ``overwrite`` replaces an earlier
    replay at ``out``, and nothing else.

    Errors: RecordingError for an unsound recording or an output that cannot be written;
        ReplayError if the graph failed. Nothing half-written is left behind.
    """
    recording = Recording.open(source)
    recorded = recording.has_answers if venue is None else venue == "recorded"
    if recorded and not recording.has_answers:
        raise RecordingError(
            f"{source} holds no answers of a venue (account.parquet), so there is nothing to take "
            f"as recorded; replay it with --venue simulated"
        )
    if out.exists() and out.resolve() == source.resolve():
        raise RecordingError(f"{out} is the recording itself; give the run a folder of its own")

    def may_go(folder: Path) -> bool:
        return overwrite and _is_replay(folder)

    with new_folder(out, overwrite=may_go) as folder, no_thread_timers():
        started = time.perf_counter()
        run = _Run(recording, settings, folder, recorded=recorded)
        try:
            with _quiet_collector():
                run.feed(batch_rows, progress)
            loop_seconds = time.perf_counter() - started
            files = run.close()
        finally:
            run.abandon()
        manifest = Manifest(
            mode="replay",
            instruments=instruments_of(settings),
            settings=msgspec.to_builtins(settings),
            sources={"recording": {"name": source.resolve().name, "mode": recording.manifest.mode}},
            versions=versions(),
            files=files,
        )
        summary = run.summary(manifest)
        summary["markouts"] = markouts(folder)
        seconds = time.perf_counter() - started
        summary["seconds"] = round(seconds, 3)
        summary["seconds_in_graph"] = round(loop_seconds, 3)
        summary["events_per_second"] = round(run.inputs / seconds) if seconds else 0
        write_manifest(folder, manifest)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Events hold no cycles, so the cycle collector has little to find; let it look less often."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class _Run:
    """One run: the parts, wired."""

    def __init__(
        self, recording: Recording, settings: Settings, folder: Path, *, recorded: bool
    ) -> None:
        self.recording = recording
        self.settings = settings
        self.recorded = recorded
        self.inputs = 0
        self.mark: int | None = None
        self.journal = Journal(folder)
        self._writers = {name: FrameWriter(folder, name, QUOTE_SCHEMA) for name in _FEEDS}
        # Only the copying of inputs to disk is off the thread of the graph, a batch at a time.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="marble-disk")
        self._writing: Future[None] | None = None
        # What is scheduled on subscription counts from the first input, not from 1970.
        clock = Clock(recording.manifest.first_ts or 0)
        if recorded:
            self.pump = Pump(clock)
            self.venue: SimulatedVenue | SilentVenue = SilentVenue()
        else:
            self.venue = SimulatedVenue(
                settings.target_instrument,
                lambda event: self.pump.answer(event),
                fill_model=settings.venue.fill_model,
                latency_ns=settings.latency_ns,
                tier=settings.venue.tier,
            )
            self.pump = Pump(clock, self.venue)
        expire = settings.strategy.expire_time_secs
        self.sink = OrderSink(
            self.venue,
            max_position=settings.max_position,
            expire_ns=None if expire is None else round(expire * 10**9),
            replace="cancel_all" if settings.strategy.preset == "tutorial" else "keep",
            flatten=settings.flatten_on_stop,
            notify=self.pump.notify,
            on_order=self.journal.order,
            on_fill=self.journal.fill,
            on_decision=self.journal.decision,
        )
        graph = quoting(
            parameters_of(settings, _baseline(settings, recording.manifest)),
            target=self.pump.target,
            orders=self.pump.orders,
        )
        self.pump.account.subscribe(Observer(self._on_account))
        self._graph = self.pump.signal.pipe(graph).subscribe(self.sink, scheduler=clock)

    def _on_account(self, event: AccountEvent) -> None:
        self.journal.account(event)
        if event.kind == "stop":
            self._graph.dispose()
        self.sink.on_account(event)

    def feed(self, batch_rows: int, progress: Progress | None) -> None:
        """Deliver all inputs, then stop."""
        target = self.settings.target_instrument
        total = self.recording.rows
        inputs = self.recording.inputs(target, recorded=self.recorded, batch_rows=batch_rows)
        for batch, frame in inputs:
            seqs = self.pump.run(batch)
            if self.sink.error is not None:
                raise ReplayError(f"the graph failed: {self.sink.error!r}") from self.sink.error
            self.inputs += len(seqs)
            if self._writing is not None:
                self._writing.result()
            self._writing = self._disk.submit(self._write_inputs, frame, seqs)
            if progress is not None:
                progress(self.inputs, total, batch.ts[-1])
        if not self.recorded:
            # The end of the recording is the operator's stop: an input like any other.
            stop = AccountEvent(seq=0, ts=0, kind="stop", reason="end of the recording")
            self.pump.answer(stop)
            self.pump.settle()

    def _write_inputs(self, frame: pl.DataFrame, seqs: list[int]) -> None:
        numbered = frame.with_columns(pl.Series("seq", seqs, dtype=pl.UInt64))
        for name, kind in _FEEDS.items():
            rows = numbered.filter(pl.col("kind") == kind)
            if not rows.height:
                continue
            rows = rows.select(list(QUOTE_SCHEMA))
            self._writers[name].append(rows)
            if kind == TARGET:
                both = rows.filter(pl.col("bid_px").is_not_null() & pl.col("ask_px").is_not_null())
                if both.height:
                    bid, ask = both["bid_px"][-1], both["ask_px"][-1]
                    self.mark = cast(int, (bid + ask) // 2)

    def close(self) -> dict[str, FileEntry]:
        """Finish all files."""
        if self._writing is not None:
            self._writing.result()
        files = {name: writer.close() for name, writer in self._writers.items()}
        return files | self.journal.close()

    def abandon(self) -> None:
        """Let go of what runs beside the graph."""
        self._disk.shutdown(wait=True)

    def summary(self, manifest: Manifest) -> dict[str, Any]:
        journal, ledger, settings = self.journal, self.journal.ledger, self.settings
        counts = journal.counts
        orders = {
            name.removeprefix("orders "): n for name, n in sorted(counts.items()) if " " in name
        }
        return {
            "mode": "replay",
            "venue": "recorded" if self.recorded else "simulated",
            "preset": settings.strategy.preset,
            "signal": settings.signal.instrument,
            "target": settings.target.instrument,
            "fill_model": None if self.recorded else settings.venue.fill_model,
            "inputs": {
                "signal": manifest.files["signal"].rows,
                "target": manifest.files["target"].rows,
                "account": manifest.files["account"].rows,
            },
            "first_ts": manifest.first_ts,
            "last_ts": manifest.last_ts,
            "ties": self.recording.ties,
            "decisions": {name: n for name, n in sorted(counts.items()) if " " not in name},
            "reasons": dict(sorted(journal.reasons.items())),
            "orders": {"total": sum(orders.values()), **orders},
            "fills": {"total": sum(ledger.fills.values()), **dict(sorted(ledger.fills.items()))},
            "bought": format_units(ledger.bought),
            "sold": format_units(ledger.sold),
            "position": format_units(self.sink.orders.position),
            "max_long": format_units(ledger.max_long),
            "max_short": format_units(ledger.max_short),
            "mark": None if self.mark is None else format_units(self.mark),
            "fees": format_units(ledger.fees),
            "realised": format_units(ledger.realised // UNIT),
            "unrealised": format_units(ledger.unrealised(self.mark) // UNIT),
            "pnl": format_units(ledger.pnl(self.mark)),
            "anomalies": dict(sorted(self.sink.orders.anomalies.items())),
            "ended": "complete",
            "digest": journal.digest(),
        }


_FEEDS = {"signal": SIGNAL, "target": TARGET}
