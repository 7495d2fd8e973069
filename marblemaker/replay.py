"""Replay: a recording through the graph, into a run folder."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import polars as pl
from reactivex import Observer
from reactivex.abc import DisposableBase

from marblemaker.ahead import ahead
from marblemaker.kill import KillFile
from marblemaker.markouts import markouts
from marblemaker.settings import Settings, SettingsError, as_used, instruments_of
from marblemaker.versions import versions
from marblemaker.wiring import (
    budget_of,
    order_sink_of,
    parameters_of,
    simulated_venue_of,
    venue_account_of,
)
from operators.budget import Budget, Forecast, forecast
from operators.quoting import quoting
from operators.tap import NO_TAPS
from sinks.fills import FillModel
from sinks.journal import Journal, Ledger
from sinks.limits import VenueAccount
from sinks.order_sink import OrderSink
from sinks.quote_view import QuoteView, quote_view
from sinks.simulated import SilentVenue, SimulatedVenue
from streams.clock import Clock, no_thread_timers
from streams.events import AccountEvent, Decision, Status
from streams.instant import iso
from streams.instrument import UNIT, format_units
from streams.pump import PAIR, STATUS, Inputs, Market, Pump
from streams.recording import (
    BATCH_ROWS,
    FILES,
    FileEntry,
    Manifest,
    Recording,
    RecordingError,
    merged_inputs,
    read_manifest,
    rows_of,
    schema_of,
    write_manifest,
)
from streams.row_groups import RowGroupWriter

if TYPE_CHECKING:
    from marblemaker.trace import Trace

__all__ = [
    "Progress",
    "ReplayError",
    "bounds_of",
    "budget_summary",
    "manifest_of",
    "new_folder",
    "new_run",
    "quiet_collector",
    "refuse_live_venue",
    "refuse_part_of_budget",
    "replay",
    "replay_together",
    "summary_of",
    "takes_recorded",
]  # fmt: skip


_TURN_SECONDS = 0.001
"""See ``_short_turns``."""


class ReplayError(RuntimeError):
    """The graph failed during a run."""


class Progress(Protocol):
    """Told now and then how far a run has come."""

    def __call__(self, done: int, total: int, ts: int) -> None:
        """``done`` of ``total`` inputs; ``ts`` is the graph's present, ns."""


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
    bounds: bool = False,
    overwrite: bool = False,
    batch_rows: int = BATCH_ROWS,
    trace: bool = True,
    strict: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a recording through the graph and write a run folder; return its summary.

    ``venue``: ``recorded`` takes the answers in the recording as inputs, ``simulated`` asks the
    simulated venue; by default recorded if there are answers. ``bounds``: tell also what the very
    same orders would have filled under each fill model. ``overwrite`` replaces an earlier replay at
    ``out``, and nothing else. Without ``trace`` the run cannot be proven or explained as closely.
    ``strict``: nothing on the path of a decision may read what a replay cannot repeat.

    Errors: StrictError if something does; RecordingError for an unsound recording or an output
        that cannot be written; ReplayError if the graph failed. Nothing half-written is left.
    """
    recording = Recording.open(source)
    recorded = takes_recorded([recording], venue)
    refuse_part_of_budget(recording, settings, recorded=recorded)
    with new_run(out, [source], overwrite=overwrite) as folder, _strictly(strict, progress):
        run = _Run([recording], [settings], [folder], recorded=recorded, bounds=bounds, trace=trace)
        (summary,) = run.complete(batch_rows, progress)
    return summary


def refuse_part_of_budget(recording: Recording, settings: Settings, *, recorded: bool) -> None:
    """Let pass a market whose recorded answers tell of all that its account's budget was spent on.

    Errors: RecordingError if other markets shared it.
    """
    shared = recording.manifest.sources.get("account", {}).get("shared_with")
    if recorded and shared and budget_of(settings) is not None:
        raise RecordingError(
            f"{recording.folder} shared its account's budget with {', '.join(shared)}: its "
            f"decisions depend on theirs. Replay the folder that holds them all, or use "
            f"--venue simulated"
        )


def replay_together(
    sources: Sequence[Path],
    settings: Sequence[Settings],
    out: Path,
    *,
    venue: Literal["recorded", "simulated"] | None = None,
    bounds: bool = False,
    overwrite: bool = False,
    batch_rows: int = BATCH_ROWS,
    trace: bool = True,
    strict: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run several recordings as one session: a graph and limits each, one account for all.

    Inputs are merged by ``ts`` (ties in the order given), or by ``seq`` where the recordings are
    the parts of one run. Each market gets a run folder of its own inside ``out``, named by its
    target. The account (transactions a minute, volume quota, live orders) is that of the first
    settings.

    Errors: as of ``replay``; RecordingError if two recordings have the same target.
    """
    recordings = [Recording.open(source) for source in sources]
    names = [one.target_instrument.id for one in settings]
    if len(set(names)) < len(names):
        raise RecordingError(
            f"the recordings quote {', '.join(names)}: each market may occur once; leave one out"
        )
    recorded = takes_recorded(recordings, venue)
    with new_run(out, sources, overwrite=overwrite) as folder, _strictly(strict, progress):
        folders = [folder / name for name in names]
        for one in folders:
            one.mkdir()
        run = _Run(recordings, settings, folders, recorded=recorded, bounds=bounds, trace=trace)
        parts = run.complete(batch_rows, progress)
        whole = {
            "mode": "replay",
            "markets": dict(zip(names, parts, strict=True)),
            "pnl": format_units(sum(m.journal.ledger.pnl(m.mark) for m in run.markets)),
            "budget": parts[0]["budget"],
            "seconds": parts[0]["seconds"],
            "events_per_second": parts[0]["events_per_second"],
            "ended": "complete",
            "digest": _digest_of([part["digest"] for part in parts]),
        }
        write_manifest(folder, Manifest(mode="replay", markets=names, versions=versions()))
        (folder / "summary.json").write_text(json.dumps(whole, indent=2) + "\n")
    return whole


def refuse_live_venue(settings: Sequence[Settings], *, recorded: bool) -> None:
    """Let no replay name a venue that sends orders, unless its answers are in the recording.

    Errors: SettingsError if one does.
    """
    if not recorded and any(one.venue.kind == "lighter" for one in settings):
        raise SettingsError(
            'venue.kind "lighter" sends orders and is for live runs; a replay takes "simulated"'
        )


def _digest_of(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def takes_recorded(recordings: Sequence[Recording], venue: str | None) -> bool:
    """Tell whether the venue's recorded answers are taken as inputs.

    Errors: RecordingError if they are asked for and there are none.
    """
    recorded = all(r.has_answers for r in recordings) if venue is None else venue == "recorded"
    for recording in recordings:
        if recorded and not recording.has_answers:
            raise RecordingError(
                f"{recording.folder} holds no answers of a venue (account.parquet), so there is "
                f"nothing to take as recorded; replay it with --venue simulated"
            )
    return recorded


@contextmanager
def new_run(out: Path, sources: Sequence[Path], *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to fill with a replay of ``sources``; see ``new_folder``."""
    for source in sources:
        if out.exists() and out.resolve() == source.resolve():
            raise RecordingError(f"{out} is the recording itself; give the run a folder of its own")

    def may_go(folder: Path) -> bool:
        return overwrite and _is_replay(folder)

    with new_folder(out, overwrite=may_go) as folder, no_thread_timers():
        yield folder


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Let the cycle collector look less often: events hold no cycles, so it has little to find."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let the threads that read and write have their turn at the interpreter.

    Between two of their calls into compiled code they need it for some µs, for which they would
    wait 5 ms each time: longer than the graph takes for all that they have to read and write.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _strictly(strict: bool, progress: Progress | None) -> AbstractContextManager[None]:
    if not strict:
        return nullcontext()
    # Imported when asked for: it looks at every function there is.
    from marblemaker.strict import strict as strictly

    return strictly(exempt=() if progress is None else (progress,))


class _MarketRun:
    """What one market of a run has of its own."""

    def __init__(
        self, recording: Recording, settings: Settings, folder: Path, *, trace: bool
    ) -> None:
        self.recording = recording
        self.settings = settings
        self.folder = folder
        self.target = settings.target_instrument
        self.mark: int | None = None
        # A replay that ends early leaves nothing, so its files need not outlive it.
        self.journal = Journal(folder, writer=RowGroupWriter)
        names = [name for name in FILES if name in recording.manifest.files and name != "account"]
        if settings.risk.kill_file is not None and "status" not in names:
            names.append("status")
        self.writers = {name: RowGroupWriter(folder, name, schema_of(name)) for name in names}
        if recording.signals != len(settings.signal_instruments):
            raise RecordingError(
                f"{recording.folder} holds {recording.signals} signals, the settings name "
                f"{len(settings.signal_instruments)} (signal.instrument and signal.others); import "
                f"the missing ones, or change the settings"
            )
        self.trace: Trace | None = None
        if trace:
            # Not at the top: compiled loops come with it, and take a quarter of a second to load.
            from marblemaker.trace import Trace

            fair_value = settings.strategy.preset == "fair_value"
            self.trace = Trace(
                folder, signals=recording.signals, fair_value=fair_value, writer=RowGroupWriter
            )
        self.sink: OrderSink
        self.venue: SimulatedVenue | SilentVenue

    def write_inputs(self, frame: pl.DataFrame, seqs: pl.Series, base: int) -> None:
        for name, writer in self.writers.items():
            rows = rows_of(frame, name, seqs, base)
            if not rows.height:
                continue
            writer.append(rows)
            if self.trace is not None:
                self.trace.inputs(name, rows)
            if name == "target":
                both = rows.filter(pl.col("bid_px").is_not_null() & pl.col("ask_px").is_not_null())
                if both.height:
                    bid, ask = both["bid_px"][-1], both["ask_px"][-1]
                    self.mark = cast(int, (bid + ask) // 2)

    def view(self) -> QuoteView:
        """Working quotes at this instant."""
        return quote_view(
            self.sink,
            self.journal.ledger,
            tick_size=self.settings.ladder_tick,
            tick_value=self.settings.tick_value,
        )


class _Run:
    """One run: the parts, wired."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        settings: Sequence[Settings],
        folders: Sequence[Path],
        *,
        recorded: bool,
        bounds: bool,
        trace: bool,
    ) -> None:
        refuse_live_venue(settings, recorded=recorded)
        self.recorded = recorded
        self.inputs = 0
        self.markets = [
            _MarketRun(*parts, trace=trace)
            for parts in zip(recordings, settings, folders, strict=True)
        ]
        self._bounds = bounds and not recorded
        # Reading and the copying to disk are off the thread of the graph, a batch at a time.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="marble-disk")
        self._writing: Future[None] | None = None
        # What is scheduled on subscription counts from the first input, not from 1970.
        first_ts = min(r.manifest.first_ts or 0 for r in recordings)
        clock = Clock(first_ts)
        sources = [Market(recording.signals) for recording in recordings]
        account = venue_account_of(settings[0])
        for i, market in enumerate(self.markets):
            market.venue = SilentVenue() if recorded else self._venue(market, i, account)
        venues = [m.venue for m in self.markets if isinstance(m.venue, SimulatedVenue)]
        self.pump = Pump(clock, *venues, markets=sources)
        self._graphs = [self._graph(i, clock) for i in range(len(self.markets))]
        limits = budget_of(settings[0])
        self.budget = None if limits is None else Budget(limits, first_ts)
        self.forecast: Forecast | None = None
        if self.budget is not None and limits is not None:
            for source in sources:
                source.orders.subscribe(Observer(self.budget.listener()))
            forecast(limits, [source.orders for source in sources]).subscribe(
                Observer(self._on_forecast), scheduler=clock
            )
        kill_file = settings[0].risk.kill_file
        self._kill = KillFile(Path(kill_file)) if kill_file and not recorded else None

    def _venue(self, market: _MarketRun, i: int, account: VenueAccount) -> SimulatedVenue:
        s = market.settings
        models: tuple[FillModel, ...] = ("cross", "queue", "touch")
        others = [model for model in models if model != s.venue.fill_model]
        return simulated_venue_of(
            s,
            lambda event: self.pump.answer(event, i),
            account=account,
            compare=others if self._bounds else (),
        )

    def _graph(self, i: int, clock: Clock) -> DisposableBase:
        market, source, pump = self.markets[i], self.pump.markets[i], self.pump
        settings, journal, trace = market.settings, market.journal, market.trace

        def on_decision(decision: Decision) -> None:
            journal.decision(decision)
            if trace is not None:
                trace.decision(decision)

        if trace is not None:
            source.orders.subscribe(Observer(trace.order))
        market.sink = order_sink_of(
            settings,
            market.venue,
            journal,
            clock=clock,
            notify=lambda update: pump.notify(update, i),
            on_decision=on_decision,
        )
        graph = quoting(
            parameters_of(settings, market.recording.manifest),
            target=source.target,
            orders=source.orders,
            status=source.status,
            trades=source.trades,
            more_signals=source.signals[1:],
            account_orders=[other.orders for other in pump.markets],
            taps=NO_TAPS if trace is None else trace.taps,
        )

        def on_account(event: AccountEvent) -> None:
            journal.account(event)
            if event.kind == "stop":
                self._graphs[i].dispose()
            market.sink.on_account(event)

        source.account.subscribe(Observer(on_account))
        return source.signals[0].pipe(graph).subscribe(market.sink, scheduler=clock)

    def _on_forecast(self, value: Forecast) -> None:
        self.forecast = value

    def complete(self, batch_rows: int, progress: Progress | None) -> list[dict[str, Any]]:
        """Run to the end, write every market's folder, and return their summaries."""
        started = time.perf_counter()
        try:
            with quiet_collector(), _short_turns():
                self._feed(batch_rows, progress)
            loop_seconds = time.perf_counter() - started
            entries = self._close()
        finally:
            self._disk.shutdown(wait=True)
        summaries = []
        for market, files in zip(self.markets, entries, strict=True):
            others = [other.target.id for other in self.markets if other is not market]
            manifest = manifest_of(market.recording, market.settings, files, others)
            sink = market.sink
            summary = summary_of(
                manifest,
                market.settings,
                market.journal,
                recorded=self.recorded,
                mark=market.mark,
                ties=market.recording.ties,
                anomalies=sink.orders.anomalies,
                left_working=[order.n for order in sink.orders.working.values()],
                pnl_tick_value=market.view().pnl_tick_value,
                bounds=self._bounds_of(market),
                budget=self._budget_summary(),
            )
            summary["markouts"] = markouts(market.folder)
            seconds = time.perf_counter() - started
            summary["seconds"] = round(seconds, 3)
            summary["seconds_in_graph"] = round(loop_seconds, 3)
            summary["events_per_second"] = round(self.inputs / seconds) if seconds else 0
            write_manifest(market.folder, manifest)
            if market.trace is not None:
                from marblemaker.trace import finish_trace

                finish_trace(market.trace, market.folder, manifest, summary["digest"])
            (market.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
            summaries.append(summary)
        return summaries

    def _feed(self, batch_rows: int, progress: Progress | None) -> None:
        """Deliver all inputs, then stop."""
        total = sum(market.recording.rows for market in self.markets)
        inputs = merged_inputs(
            [market.recording for market in self.markets],
            [market.target for market in self.markets],
            recorded=self.recorded,
            batch_rows=batch_rows,
        )
        with closing(ahead(inputs)) as batches:
            for batch, frame in batches:
                if self._kill is not None:
                    self._poll_kill_file()
                self._deliver(batch, frame)
                if progress is not None:
                    progress(self.inputs, total, batch.ts[-1])
        if not self.recorded:
            # The end of the recording is the operator's stop: an input like any other.
            for i in range(len(self.markets)):
                stop = AccountEvent(seq=0, ts=0, kind="stop", reason="end of the recording")
                self.pump.answer(stop, i)
            self.pump.settle()
        if all(market.sink.stopping for market in self.markets):
            self.pump.finish(lambda: all(market.sink.finished for market in self.markets))

    def _deliver(self, batch: Inputs, frame: pl.DataFrame) -> None:
        seqs = self.pump.run(batch)
        for market in self.markets:
            error = market.sink.error
            if error is not None:
                raise ReplayError(f"the graph failed: {error!r}") from error
        self.inputs += len(seqs)
        if self._writing is not None:
            self._writing.result()
        traced = [market.trace.take() for market in self.markets if market.trace is not None]
        self._writing = self._disk.submit(self._write, frame, seqs, traced)

    def _write(
        self, frame: pl.DataFrame, seqs: list[int], traced: Sequence[Callable[[], None]]
    ) -> None:
        for write in traced:
            write()
        numbers = pl.Series("seq", seqs, dtype=pl.UInt64)
        for i, market in enumerate(self.markets):
            market.write_inputs(frame, numbers, i * PAIR)

    def _poll_kill_file(self) -> None:
        """Turn a change of the kill file into an input of every market."""
        assert self._kill is not None
        change = self._kill.changed()
        if change is None:
            return
        kind, text = change
        for i in range(len(self.markets)):
            base, ts = i * PAIR, self.pump.clock.now_ns
            status = Status(0, ts, "operator", kind, text)
            frame = pl.DataFrame(
                {
                    "kind": [base + STATUS], "ts": [ts], "source": ["operator"],
                    "event_kind": [kind], "text": [text],
                }
            )  # fmt: skip
            empty = [None]
            batch = Inputs(
                [base + STATUS], [ts], empty, empty, empty, empty, empty, [0], events=[status]
            )
            self._deliver(batch, frame)

    def _close(self) -> list[dict[str, FileEntry]]:
        """Finish all files."""
        if self._writing is not None:
            self._writing.result()
        return [
            {name: writer.close() for name, writer in market.writers.items()}
            | market.journal.close()
            for market in self.markets
        ]

    def _bounds_of(self, market: _MarketRun) -> dict[str, Any] | None:
        if not self._bounds or not isinstance(market.venue, SimulatedVenue):
            return None
        return bounds_of(market.venue.ledgers, market.mark)

    def _budget_summary(self) -> dict[str, Any] | None:
        return None if self.budget is None else budget_summary(self.budget, self.forecast)


def budget_summary(budget: Budget, told: Forecast | None) -> dict[str, Any]:
    """What ``summary.json`` says of the account's budget; ``told``: the latest forecast."""
    limits = budget.limits
    return {
        "transactions": budget.sent,
        "per_minute": limits.transactions_per_minute,
        "busiest_minute": budget.busiest,
        "volume_quota": limits.volume_quota,
        "quota_spent": budget.spent,
        "quota_earned": budget.earned,
        "quota_left": budget.quota_left,
        "quota_lowest": budget.lowest_quota,
        "quota_exhausted_at": None if budget.exhausted_ns is None else iso(budget.exhausted_ns),
        "quota_gone_at_present_rate": (
            None if told is None or told.gone_ns is None else iso(told.gone_ns)
        ),
    }


def manifest_of(
    recording: Recording,
    settings: Settings,
    files: dict[str, FileEntry],
    others: Sequence[str] = (),
) -> Manifest:
    """The manifest of a replay's run folder; ``others``: markets that shared its account."""
    of = recording.manifest
    sources: dict[str, dict[str, Any]] = {
        "recording": {"name": recording.folder.resolve().name, "mode": of.mode}
    }
    for feed, told in of.sources.items():
        if "schema" in told:
            sources[feed] = {"schema": told["schema"]}
    if others:
        sources["account"] = {"shared_with": list(others)}
    return Manifest(
        mode="replay",
        instruments=instruments_of(settings),
        settings=as_used(settings),
        sources=sources,
        versions=versions(),
        files=files,
    )


def summary_of(
    manifest: Manifest,
    settings: Settings,
    journal: Journal,
    *,
    recorded: bool,
    mark: int | None,
    ties: int,
    anomalies: Mapping[str, int],
    left_working: Sequence[int],
    pnl_tick_value: float | None = None,
    bounds: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``summary.json`` says of one market, but for markouts and speed; the journal is closed.

    ``mark``: the target's last mid, 1e-9.
    """
    ledger, counts = journal.ledger, journal.counts
    orders = {name.removeprefix("orders "): n for name, n in sorted(counts.items()) if " " in name}
    return {
        "mode": "replay",
        "venue": "recorded" if recorded else "simulated",
        "preset": settings.strategy.preset,
        "signal": settings.signal.instrument,
        "target": settings.target.instrument,
        "fill_model": None if recorded else settings.venue.fill_model,
        "inputs": {name: manifest.files[name].rows for name in FILES if name in manifest.files},
        "first_ts": manifest.first_ts,
        "last_ts": manifest.last_ts,
        "ties": ties,
        "decisions": {name: n for name, n in sorted(counts.items()) if " " not in name},
        "reasons": dict(sorted(journal.reasons.items())),
        "orders": {"total": sum(orders.values()), **orders},
        "fills": {"total": sum(ledger.fills.values()), **dict(sorted(ledger.fills.items()))},
        **_money(ledger, mark),
        "pnl_tick_value": pnl_tick_value if settings.strategy.preset == "ladder" else None,
        "bounds": bounds,
        "budget": budget,
        "anomalies": {what: n for what, n in sorted(anomalies.items()) if n},
        "left_working": list(left_working),
        "ended": "complete",
        "digest": journal.digest(),
    }


def bounds_of(ledgers: Mapping[FillModel, Ledger], mark: int | None) -> dict[str, Any]:
    """What ``summary.json`` says of the same orders under each fill model."""
    names: dict[FillModel, str]
    names = {"cross": "pessimistic", "queue": "queue", "touch": "optimistic"}
    return {
        name: {
            "fill_model": model,
            "fills": ledgers[model].fills.total(),
            **_money(ledgers[model], mark),
        }
        for model, name in names.items()
    }


def _money(ledger: Ledger, mark: int | None) -> dict[str, Any]:
    return {
        "bought": format_units(ledger.bought),
        "sold": format_units(ledger.sold),
        "position": format_units(ledger.position),
        "max_long": format_units(ledger.max_long),
        "max_short": format_units(ledger.max_short),
        "mark": None if mark is None else format_units(mark),
        "fees": format_units(ledger.fees),
        "realised": format_units(ledger.realised // UNIT),
        "unrealised": format_units(ledger.unrealised(mark) // UNIT),
        "pnl": format_units(ledger.pnl(mark)),
    }
