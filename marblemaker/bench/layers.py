"""Where the time of a replay goes: what each layer of it adds to an event.

The graph is built up operator by operator, and every build is run on the same inputs, by turns;
what an operator costs is the difference of two builds. No profiler is on: one that is told of every
call makes small functions look several times as expensive as they are.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import polars as pl
import reactivex as rx
from msgspec import Struct
from reactivex import Observable, Subject, abc
from reactivex.disposable import CompositeDisposable

from marblemaker.bench.sessions import generated
from marblemaker.console import Console
from marblemaker.replay import replay
from marblemaker.settings import Settings, load_settings
from marblemaker.trace import Trace
from marblemaker.versions import versions
from marblemaker.wiring import order_sink_of, parameters_of, simulated_venue_of
from operators.anchor import anchor
from operators.combine import combine_latest
from operators.guards.age import age
from operators.guards.basis import basis
from operators.guards.collar import collar
from operators.guards.event_time import event_time
from operators.guards.frozen import frozen
from operators.guards.kill_switch import kill_switch
from operators.guards.risk import risk
from operators.guards.session import session
from operators.guards.split import split
from operators.inventory import inventory
from operators.mid import mid
from operators.operator import Link, Operator, link
from operators.quoting import Parameters, price_of, quoting
from operators.requote import requote
from operators.residual import residual
from operators.starting import starting_with
from operators.tap import NO_TAPS, Taps
from sinks.journal import Journal
from streams.clock import Clock
from streams.events import BUY, Feed, OrderUpdate, Quote, Refusal
from streams.pump import SIGNAL, Inputs, Market, Pump
from streams.recording import FrameWriter, Recording, rows_of, schema_of

__all__ = ["bench_layers", "builds_of"]

_IN_MEMORY: Final = 400_000
"""Inputs that the builds run on: as Python objects they take some 200 bytes each."""

Build: TypeAlias = Callable[[Market], Observable[Any]]
"""Makes a graph of a market's sources."""
_Feeds: TypeAlias = Callable[[Market], tuple[Operator[Any, Any] | None, Operator[Any, Any] | None]]
"""Makes the next operator of the signal and of the target; ``None``: it has none."""


class _Loaded(Struct):
    """A recording, and what of it is in memory."""

    recording: Recording
    settings: Settings
    parameters: Parameters
    batches: list[Inputs]
    frames: list[pl.DataFrame]
    rows: int


def bench_layers(quotes: int, runs: int, console: Console) -> tuple[dict[str, Any], list[str]]:
    """Measure what each layer costs an event, on a generated session of about ``quotes`` quotes.

    Times of the layers are CPU time, which other programs disturb less than the clock on the wall:
    of the graph's thread, and for reading and writing of all threads. Two rows at the end are whole
    replays by the clock on the wall. Medians of ``runs`` runs, all layers by turns. Every build
    ends in an empty observer, which is counted with the pump; requote hands hardly anything on.
    """
    with tempfile.TemporaryDirectory(prefix="marble-bench-") as name:
        folder = Path(name)
        loaded = _load(generated(quotes, folder / "session", console))
        measures = _measures(loaded, folder)
        ns: dict[str, list[float]] = {layer: [] for layer in measures}
        with _quiet_collector():
            for number in range(runs):
                for layer, measure in measures.items():
                    ns[layer].append(measure())
                console.note(f"run {number + 1} of {runs}")
    median = {layer: statistics.median(values) for layer, values in ns.items()}
    rows = _rows(median, list(builds_of(loaded.parameters)))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    result = {
        "quotes": loaded.recording.rows,
        "in_memory": loaded.rows,
        "runs": runs,
        "ns_per_event": {layer: round(own) for layer, own, _ in rows},
        "medians": {layer: round(value) for layer, value in median.items()},
        "events_per_second": {
            layer: round(1e9 / median[layer]) for layer in (_FLOOR, _WHOLE, _WHOLE_TRACED)
        },
        "machine": machine,
        "versions": versions(),
    }
    lines = [
        f"{loaded.recording.rows:,} quotes, median of {runs} runs, {machine}, "
        + ", ".join(f"{library} {version}" for library, version in versions().items()),
        f"{'':46}{'ns an event':>12}{'in all':>10}{'events/s':>14}",
    ]
    for layer, own, total in rows:
        sums = "" if total is None else f"{total:>10,.0f}{1e9 / total:>14,.0f}"
        lines.append(f"{layer:46}{own:>12,.0f}{sums}")
    return result, lines


_QUOTES: Final = "quotes, made of columns"
_FLOOR: Final = "bare RxPY: 2 Subjects, combine_latest"
_PUMP: Final = "pump, with an empty observer"
_VENUE: Final = "simulated venue"
_TAPS: Final = "taps of the trace"
_SINK: Final = "order sink, journal"
_READING: Final = "reading, checking, merging"
_INPUTS: Final = "inputs to disk"
_DIGESTS: Final = "values and digests of the trace"
_WHOLE: Final = "replay, without a trace"
_WHOLE_TRACED: Final = "replay"


def _measures(loaded: _Loaded, folder: Path) -> dict[str, Callable[[], float]]:
    """Every figure by name: a function that measures it once, in ns an event."""
    builds = builds_of(loaded.parameters)
    return {
        _QUOTES: lambda: _bare(loaded, subscribed=False),
        _FLOOR: lambda: _bare(loaded, subscribed=True),
        _PUMP: lambda: _graph(loaded, _both),
        **{
            layer: lambda build=build: _graph(loaded, build)  # type: ignore[misc]
            for layer, build in builds.items()
        },
        _VENUE: lambda: _graph(loaded, _whole(loaded.parameters, NO_TAPS), venue=True),
        _SINK: lambda: _sink(loaded, folder),
        _TAPS: lambda: _tapped(loaded, folder),
        _READING: lambda: _reading(loaded),
        _INPUTS: lambda: _inputs_to_disk(loaded, folder),
        _DIGESTS: lambda: _digests(loaded, folder),
        _WHOLE: lambda: _replayed(loaded, folder, trace=False),
        _WHOLE_TRACED: lambda: _replayed(loaded, folder, trace=True),
    }


def _rows(
    median: dict[str, float], operators: Sequence[str]
) -> list[tuple[str, float, float | None]]:
    """Each layer with its own cost, and with the sum so far where it builds on the one before."""
    rows: list[tuple[str, float, float | None]] = [
        (_QUOTES, median[_QUOTES], median[_QUOTES]),
        (_FLOOR, median[_FLOOR] - median[_QUOTES], median[_FLOOR]),
        (_PUMP, median[_PUMP], median[_PUMP]),
    ]
    before = median[_PUMP]
    for layer in operators:
        rows.append((layer, median[layer] - before, median[layer]))
        before = median[layer]
    for layer in (_VENUE, _SINK):
        rows.append((layer, median[layer] - before, median[layer]))
        before = median[layer]
    rows.append((_TAPS, median[_TAPS] - median[operators[-1]], None))
    rows += [(layer, median[layer], None) for layer in (_READING, _INPUTS, _DIGESTS)]
    rows += [(layer, median[layer], median[layer]) for layer in (_WHOLE, _WHOLE_TRACED)]
    return rows


# ---------------------------------------------------------------- the graph, built up


def builds_of(p: Parameters) -> dict[str, Build]:
    """The graph of the composite preset with all default guards: each build is an operator longer.

    The order is that of ``operators.quoting``; the two feeds grow at the same time.
    """
    g = p.guards

    def feeds(make: Callable[[Feed], Operator[Any, Any]]) -> _Feeds:
        return lambda market: (make("signal"), make("target"))

    behind = {"signal": g.max_signal_behind_ns, "target": g.max_target_behind_ns}
    apart: dict[str, _Feeds] = {
        "event_time": feeds(
            lambda feed: event_time(feed, max_ahead_ns=g.max_ahead_ns, max_behind_ns=behind[feed])
        ),
        "frozen": feeds(lambda feed: frozen(feed, cast(int, g.frozen_ns))),
        "mid": feeds(lambda feed: mid(feed, locked=g.locked)),
        "collar": feeds(
            lambda feed: collar(
                feed, collar_bps=cast(float, g.collar_bps), confirm_ns=g.collar_confirm_ns
            )
        ),
        "split, of the signal": lambda market: (
            split("signal", break_ns=cast(int, g.split_break_ns), baseline=p.set_baseline),
            None,
        ),
        "residual, of the signal": lambda market: (residual(p.baselines[0]), None),
        "anchor, of the target": lambda market: (None, anchor(p.instrument.price_scale)),
        "age": lambda market: (
            age(
                "signal",
                limit_ns=cast(int, g.max_signal_age_ns),
                quiet_limit_ns=g.max_quiet_signal_age_ns,
                dead_ns=g.dead_ns,
                schedule=g.schedule,
                outside_limit_ns=g.max_signal_age_outside_ns,
                status=market.status,
            ),
            age(
                "target",
                limit_ns=cast(int, g.max_target_age_ns),
                dead_ns=g.dead_ns,
                status=market.status,
                signs=market.trades,
            ),
        ),
    }
    together: dict[str, Callable[[Market], Operator[Any, Any]]] = {
        "session": lambda market: session(
            cast(Any, g.schedule), outside=g.outside, widening=g.widening
        ),
        "basis": lambda market: basis(cast(float, g.max_basis_bps)),
        "risk": lambda market: risk(cast(Any, g.risk), _ours(p, market), schedule=g.schedule),
        "kill_switch": lambda market: kill_switch(market.status),
        "requote, with skew and ladder": lambda market: _requote(p, _ours(p, market)),
    }

    def chains(market: Market, depth: int) -> tuple[Observable[Any], Observable[Any]]:
        signal: Observable[Any] = market.signals[0]
        target: Observable[Any] = market.target
        for make in list(apart.values())[:depth]:
            of_signal, of_target = make(market)
            signal = signal if of_signal is None else of_signal(signal)
            target = target if of_target is None else of_target(target)
        return signal, target

    def two(depth: int) -> Build:
        return lambda market: _merged(*chains(market, depth))

    def one(depth: int) -> Build:
        def build(market: Market) -> Observable[Any]:
            signal, target = chains(market, len(apart))
            no_signal: Operator[Any, Any] = starting_with(Refusal(0, 0, "signal", "missing"))
            no_target: Operator[Any, Any] = starting_with(Refusal(0, 0, "target", "missing"))
            states: Observable[Any] = combine_latest(no_signal(signal), no_target(target))
            for make in list(together.values())[:depth]:
                states = make(market)(states)
            return states

        return build

    return {
        **{layer: two(depth) for depth, layer in enumerate(apart, 1)},
        "combine_latest": one(0),
        **{layer: one(depth) for depth, layer in enumerate(together, 1)},
    }


def _ours(p: Parameters, market: Market) -> Observable[Any]:
    fold = inventory(
        position=p.position, on_reject_resubmit=False, on_cancel_resubmit=p.on_cancel_resubmit
    )
    return fold(market.orders)


def _requote(p: Parameters, ours: Observable[Any]) -> Operator[Any, Any]:
    return requote(
        threshold_bps=p.requote_threshold_bps,
        signal_skew_factor=p.signal_skew_factor,
        inventory=ours,
        price=price_of(p, ours),
    )


def _both(market: Market) -> Observable[Any]:
    return _merged(market.signals[0], market.target)


def _merged(signal: Observable[Any], target: Observable[Any]) -> Observable[Any]:
    """Both feeds to one observer, with nothing between."""

    def subscribe(
        observer: abc.ObserverBase[Any], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        return CompositeDisposable(
            *(
                link(feed, observer.on_next, observer.on_error, observer.on_completed, scheduler)
                for feed in (signal, target)
            )
        )

    return Link(subscribe)


def _whole(p: Parameters, taps: Taps) -> Build:
    def build(market: Market) -> Observable[Any]:
        graph = quoting(
            p, target=market.target, orders=market.orders, status=market.status,
            trades=market.trades, taps=taps,
        )  # fmt: skip
        return graph(market.signals[0])

    return build


# ---------------------------------------------------------------- measuring


def _timed(loaded: _Loaded, work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return (clock() - started) / loaded.rows * 1e9


def _graph(loaded: _Loaded, build: Build, *, venue: bool = False) -> float:
    """A build with an empty observer, and an order of ours that rests."""
    venues = [simulated_venue_of(loaded.settings, lambda event: None)] if venue else []
    pump = Pump(Clock(loaded.recording.manifest.first_ts or 0), *venues)
    link(build(pump.markets[0]), _ignore, _fail, _silent, pump.clock)
    _rest_an_order(pump)
    return _timed(loaded, lambda: [pump.run(batch) for batch in loaded.batches], time.thread_time)


def _rest_an_order(pump: Pump) -> None:
    """States below the threshold are held only while something works, as nearly always."""
    pump.orders.push(OrderUpdate(ts=0, n=1, side=BUY, state="open", leaves=1))


def _ignore(_: object) -> None:
    """Take a value and do nothing."""


def _fail(error: Exception) -> None:
    raise error


def _silent() -> None:
    """Completion is of no interest."""


def _sink(loaded: _Loaded, folder: Path) -> float:
    """The whole graph with the order sink, a venue that answers and a journal."""
    pump: Pump
    venue = simulated_venue_of(loaded.settings, lambda event: pump.answer(event))
    pump = Pump(Clock(loaded.recording.manifest.first_ts or 0), venue)
    journal = Journal(folder)
    sink = order_sink_of(
        loaded.settings, venue, journal, clock=pump.clock, notify=pump.notify,
        on_decision=journal.decision,
    )  # fmt: skip
    graph = _whole(loaded.parameters, NO_TAPS)(pump.markets[0])
    graph.subscribe(sink, scheduler=pump.clock)

    def on_account(event: Any) -> None:
        journal.account(event)
        sink.on_account(event)

    pump.account.subscribe(on_account)
    ns = _timed(loaded, lambda: [pump.run(batch) for batch in loaded.batches], time.thread_time)
    journal.close()
    return ns


def _tapped(loaded: _Loaded, folder: Path) -> float:
    """The whole graph with its taps; what they write down is cut off after each batch."""
    trace = Trace(folder)
    pump = Pump(Clock(loaded.recording.manifest.first_ts or 0))
    link(
        _whole(loaded.parameters, trace.taps)(pump.markets[0]), _ignore, _fail, _silent, pump.clock
    )
    _rest_an_order(pump)

    def work() -> None:
        for batch in loaded.batches:
            pump.run(batch)
            trace.take()

    return _timed(loaded, work, time.thread_time)


def _bare(loaded: _Loaded, *, subscribed: bool) -> float:
    """Quotes made of columns, and handed to two Subjects with ``combine_latest`` behind."""
    signal: Subject[Quote] = Subject()
    target: Subject[Quote] = Subject()
    rx.combine_latest(signal, target).subscribe(_ignore)

    def work() -> None:
        for b in loaded.batches:
            for kind, ts, ts_event, bid_px, ask_px, bid_sz, ask_sz, flags in zip(
                b.kind, b.ts, b.ts_event, b.bid_px, b.ask_px, b.bid_sz, b.ask_sz, b.flags,
                strict=True,
            ):  # fmt: skip
                quote = Quote(0, ts, ts_event, bid_px, ask_px, bid_sz, ask_sz, flags)
                if subscribed:
                    (signal if kind == SIGNAL else target).on_next(quote)

    return _timed(loaded, work, time.thread_time)


def _reading(loaded: _Loaded) -> float:
    started, rows = time.process_time(), 0
    target = loaded.settings.target_instrument
    for _, frame in loaded.recording.inputs(target, recorded=False):
        rows += frame.height
    return (time.process_time() - started) / rows * 1e9


def _inputs_to_disk(loaded: _Loaded, folder: Path) -> float:
    def work() -> None:
        writers = {
            name: FrameWriter(folder, name, schema_of(name)) for name in ("signal", "target")
        }
        for numbers, frame in _numbered(loaded):
            for name, writer in writers.items():
                writer.append(rows_of(frame, name, numbers))
        for writer in writers.values():
            writer.close()

    return _timed(loaded, work, time.process_time)


def _digests(loaded: _Loaded, folder: Path) -> float:
    """What a trace does with what it was told and with the inputs, the taps not included."""
    trace = Trace(folder)
    pump = Pump(Clock(loaded.recording.manifest.first_ts or 0))
    link(
        _whole(loaded.parameters, trace.taps)(pump.markets[0]), _ignore, _fail, _silent, pump.clock
    )
    _rest_an_order(pump)
    seconds = 0.0
    for batch, (numbers, frame) in zip(loaded.batches, _numbered(loaded), strict=True):
        pump.run(batch)
        write = trace.take()
        inputs = {name: rows_of(frame, name, numbers) for name in ("signal", "target")}
        started = time.process_time()
        write()
        for name, rows in inputs.items():
            trace.inputs(name, rows)
        seconds += time.process_time() - started
    return seconds / loaded.rows * 1e9


def _numbered(loaded: _Loaded) -> Iterator[tuple[pl.Series, pl.DataFrame]]:
    first = 1
    for frame in loaded.frames:
        numbers = pl.int_range(first, first + frame.height, dtype=pl.UInt64, eager=True)
        yield numbers.alias("seq"), frame
        first += frame.height


def _replayed(loaded: _Loaded, folder: Path, *, trace: bool) -> float:
    source, out = loaded.recording.folder, folder / "run"
    summary = replay(source, loaded.settings, out, trace=trace, overwrite=True)
    return float(summary["seconds_in_graph"]) / loaded.recording.rows * 1e9


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Collect as seldom as a replay does."""
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _load(source: Path) -> _Loaded:
    recording = Recording.open(source)
    settings = load_settings(manifest=recording.manifest)
    parameters = parameters_of(settings, recording.manifest)
    loaded = _Loaded(recording, settings, parameters, [], [], 0)
    for batch, frame in recording.inputs(settings.target_instrument, recorded=False):
        loaded.batches.append(batch)
        loaded.frames.append(frame)
        loaded.rows += frame.height
        if loaded.rows >= _IN_MEMORY:
            break
    return loaded
